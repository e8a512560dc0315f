//! The ends of the service: stops while somebody holds something, kills amid changes.

use std::path::Path;
use std::time::{Duration, Instant};

use keyward_softhsm_tests::rig::{Rig, SERVICE};

use crate::service::{
    APPLICATION, CONFIG, KEY, Outcome, PROGRAMS, SOCKET_FILE, changed, configure, decrypts, equal,
    in_background, log_is_whole, main_process, ready, records, status_number, until, with_configuration,
    with_drop_in,
};

/// The exit code of `keyward` for a daemon that does not serve.
const UNAVAILABLE: &str = "5";

/// Where a steady application says how it goes.
const STEADY: &str = "/tmp/steady/told";

/// An application with a deadline of ten seconds for each call sees nothing of what an operator does to the service.
pub(super) fn no_call_is_lost(rig: &Rig) -> Outcome {
    with_steady(rig, "client", |rig| {
        rig.root(&["systemctl", "restart", SERVICE])?;
        goes_on(rig)?;
        rig.root(&["systemctl", "stop", SERVICE])?;
        // The application's next call starts it.
        goes_on(rig)?;
        equal("the service", &rig.property(SERVICE, "ActiveState")?, "active")?;
        upgraded(rig)?;
        goes_on(rig)?;
        for level in ["debug", "info", "debug", "info"] {
            let before = rig.root(&["cat", CONFIG])?;
            let (from, to) = match level {
                "debug" => ("# level = \"info\"", "level = \"debug\""),
                _ => ("level = \"debug\"", "# level = \"info\""),
            };
            configure(rig, &changed(&before, &[(from, to)])?)?;
            rig.root(&["systemctl", "reload", SERVICE])?;
            goes_on(rig)?;
        }
        Ok(())
    })?;
    let told = rig.root(&["cat", STEADY])?;
    if told.ends_with("\nfailed ") || told.ends_with("\nfailed") { ready(rig) } else { Err(told) }
}

/// The binary is replaced as a package does it: another file under the same name.
fn upgraded(rig: &Rig) -> Outcome {
    let program = rig.root(&["sh", "-c", "command -v keywardd"])?;
    rig.root(&["cp", "-p", &program, &format!("{program}.new")])?;
    rig.root(&["mv", &format!("{program}.new"), &program])?;
    rig.root(&["systemctl", "restart", SERVICE])?;
    let running = rig.root(&["stat", "-L", "--format=%i", &format!("/proc/{}/exe", main_process(rig)?)])?;
    equal("the program that runs", &running, &rig.root(&["stat", "--format=%i", &program])?)
}

/// Whoever does not repeat its calls sees one error: that the daemon is away.
pub(super) fn killed_amid_calls(rig: &Rig) -> Outcome {
    with_drop_in(rig, "RestartSec=100ms", || {
        rig.root(&["systemctl", "restart", SERVICE])?;
        ready(rig)?;
        with_steady(rig, "plain", |rig| {
            for _ in 0..3 {
                let daemon = main_process(rig)?;
                rig.root(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", SERVICE])?;
                until("another process", || {
                    main_process(rig).ok().filter(|now| *now != daemon && now != "0")
                })?;
                ready(rig)?;
                goes_on(rig)?;
            }
            Ok(())
        })
    })?;
    let told = rig.root(&["cat", STEADY])?;
    let failed = told.lines().find_map(|line| line.strip_prefix("failed ")).unwrap_or_default();
    let kinds: Vec<_> = failed.split("; ").filter_map(|kind| kind.split_once(" x ")).collect();
    match &kinds[..] {
        // Some were in flight each time.
        [(_, "Unavailable")] => Ok(()),
        _ => Err(told),
    }
}

/// A file with faults: `systemctl reload` fails, the journal names all of them, and the service goes on as it was.
pub(super) fn faulty_reload(rig: &Rig) -> Outcome {
    let faults = [
        ("# level = \"info\"", "level = \"info\""),
        ("users = [\"app\"]", "users = [\"nobody-here\"]\ngroups = [\"nor-there\"]"),
    ];
    let daemon = main_process(rig)?;
    with_configuration(rig, &faults, || {
        let refused = rig.run(&["systemctl", "reload", SERVICE], b"");
        if refused.status.success() {
            return Err("a file with faults was taken up".to_owned());
        }
        let journal = rig.journal();
        for wanted in ["nobody-here", "nor-there", "the one before stays in force"] {
            if !journal.contains(wanted) {
                return Err(format!("no {wanted:?} in the journal: {journal}"));
            }
        }
        decrypts(rig)?;
        let status = rig.root(&["keyward", "status"])?;
        if status.contains("nobody-here") { Ok(()) } else { Err(status) }
    })?;
    rig.root(&["systemctl", "reload", SERVICE])?;
    equal("the daemon's process", &main_process(rig)?, &daemon)?;
    let status = rig.root(&["keyward", "status"])?;
    if status.contains("nobody-here") { Err(status) } else { Ok(()) }
}

/// Runs `work` while an application calls on and on; it has ended after, and has told what failed.
fn with_steady(rig: &Rig, mode: &str, work: impl FnOnce(&Rig) -> Outcome) -> Outcome {
    let program = rig.place(Path::new(env!("CARGO_BIN_EXE_steady")), PROGRAMS)?;
    rig.root(&["install", "-d", "-o", APPLICATION, "/tmp/steady"])?;
    rig.root(&["rm", "-f", STEADY])?;
    let key = format!("tenants/{}", KEY.replace('/', "/keys/"));
    in_background(rig, "steady", APPLICATION, &[], &[&program, SOCKET_FILE, &key, STEADY, mode])?;
    let outcome = goes_on(rig).and_then(|()| work(rig));
    rig.root(&["systemctl", "stop", "steady"])?;
    outcome
}

/// Waits for calls that begin and end after this.
fn goes_on(rig: &Rig) -> Outcome {
    let written = || rig.root(&["stat", "--format=%i %y", STEADY]).ok();
    let calls = || {
        let told = rig.root(&["cat", STEADY]).ok()?;
        told.lines().next()?.strip_prefix("calls ")?.parse::<u64>().ok()
    };
    // What it says now may be of before: it says it again and again.
    let last = written();
    until("word of a steady application", || written().filter(|now| Some(now) != last.as_ref()))?;
    let before = until("its calls", calls)?;
    // More than were under way.
    until("calls of a steady application", || calls().filter(|now| *now > before + 50)).map(drop)
}

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
