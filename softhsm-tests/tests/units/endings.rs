//! The ends of the service: stops while somebody holds something, kills amid changes.

use std::path::Path;
use std::time::{Duration, Instant};

use keyward_softhsm_tests::rig::{Rig, SERVICE};

use crate::service::{
    APPLICATION, CONFIG, KEY, Outcome, PROGRAMS, SOCKET_FILE, decrypts, equal, in_background, log_is_whole,
    main_process, ready, records, status_number, until, with_configuration, with_drop_in,
};

/// The exit code of `keyward` for a daemon that does not serve.
const UNAVAILABLE: &str = "5";

/// The shipped unit and configuration; nothing was begun on these connections, so nothing is waited for.
pub(super) fn held_connections(rig: &Rig) -> Outcome {
    let program = rig.place(Path::new(env!("CARGO_BIN_EXE_connections")), PROGRAMS)?;
    let words = [program.as_str(), SOCKET_FILE, "hold", "40"];
    in_background(rig, "holding", APPLICATION, &["--service-type=notify"], &words)?;
    let begun = Instant::now();
    rig.root(&["systemctl", "stop", SERVICE])?;
    let took = begun.elapsed();
    equal("the result of the stop", &rig.property(SERVICE, "Result")?, "success")?;
    // Whoever holds them sees them closed.
    until("the end of the connections", || {
        rig.property("holding.service", "ActiveState").ok().filter(|state| state == "inactive")
    })?;
    decrypts(rig)?;
    ready(rig)?;
    log_is_whole(rig)?;
    if took < Duration::from_secs(15) { Ok(()) } else { Err(format!("the stop took {took:?}")) }
}

/// A file that is never sent to its end takes three quarters of the grace: three times what systemd would wait
/// for a daemon that does not ask for more.
pub(super) fn held_file(rig: &Rig) -> Outcome {
    let grace = [("# shutdown_grace = \"20s\"", "shutdown_grace = \"8s\"")];
    with_drop_in(rig, "TimeoutStopSec=2", || {
        with_configuration(rig, &grace, || {
            rig.root(&["systemctl", "restart", SERVICE])?;
            ready(rig)?;
            let (begun, ended) = (records(rig, "encrypt-stream")?, records(rig, "encrypt-stream-end")?);
            let sends = format!(
                "(head -c 3000000 /dev/zero; sleep 60) | \
                 {{ keyward encrypt {KEY} --in - --out - >/dev/null; echo $? >/tmp/held-file; }}"
            );
            in_background(rig, "held-file", APPLICATION, &[], &["sh", "-c", &sends])?;
            until("a file that was begun", || {
                records(rig, "encrypt-stream").ok().filter(|count| *count > begun)
            })?;
            let outcome = stop_in_time(rig);
            let code = until("the end of the caller", || {
                rig.root(&["cat", "/tmp/held-file"]).ok().filter(|code| !code.is_empty())
            });
            rig.root(&["systemctl", "stop", "held-file"])?;
            outcome?;
            // Its caller was told, and so was the log, before that was closed.
            equal("the exit code of the caller", &code?, UNAVAILABLE)?;
            equal(
                "records of an end",
                &records(rig, "encrypt-stream-end")?.to_string(),
                &(ended + 1).to_string(),
            )?;
            rig.as_keyward(&["audit", "verify", "--config", CONFIG]).map(drop)
        })
    })?;
    decrypts(rig)?;
    log_is_whole(rig)
}

/// Longer than TimeoutStopSec, and shorter than the grace and what comes after it.
fn stop_in_time(rig: &Rig) -> Outcome {
    let begun = Instant::now();
    rig.root(&["systemctl", "stop", SERVICE])?;
    let took = begun.elapsed();
    equal("the result of the stop", &rig.property(SERVICE, "Result")?, "success")?;
    equal("the service", &rig.property(SERVICE, "ActiveState")?, "inactive")?;
    let expected = Duration::from_secs(3)..Duration::from_secs(14);
    if expected.contains(&took) { Ok(()) } else { Err(format!("the stop took {took:?}")) }
}

/// All processes at once, as a power cut has it; no connection to the token is being made then, which
/// SoftHSM might not survive.
pub(super) fn killed_amid_freezes(rig: &Rig) -> Outcome {
    with_drop_in(rig, "RestartSec=100ms", || {
        rig.root(&["systemctl", "restart", SERVICE])?;
        ready(rig)?;
        let freezes = "while :; do
            keyward tenant freeze acme --reason chaos
            keyward tenant unfreeze acme --reason chaos
        done >/dev/null 2>&1";
        in_background(rig, "freezes", "root", &[], &["sh", "-c", freezes])?;
        let outcome = (0..3).try_for_each(|_| kill_amid_changes(rig));
        rig.root(&["systemctl", "stop", "freezes"])?;
        outcome
    })?;
    rig.root(&["keyward", "tenant", "unfreeze", "acme", "--reason", "over"])?;
    decrypts(rig)?;
    log_is_whole(rig)?;
    rig.as_keyward(&["store", "check", "--config", CONFIG]).map(drop)
}

fn kill_amid_changes(rig: &Rig) -> Outcome {
    let (daemon, before) = (main_process(rig)?, status_number(rig, "revision")?);
    until("changes", || status_number(rig, "revision").ok().filter(|now| *now >= before + 20))?;
    rig.root(&["systemctl", "kill", "--signal=KILL", SERVICE])?;
    until("another process", || main_process(rig).ok().filter(|now| *now != daemon && now != "0"))?;
    ready(rig)
}
