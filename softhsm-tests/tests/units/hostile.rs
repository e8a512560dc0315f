//! Who is out for harm: the vendor's library under the shipped unit, and a user whom nobody knows.

use std::path::Path;
use std::time::{Duration, Instant};

use keyward_softhsm_tests::faults::outcomes;
use keyward_softhsm_tests::rig::{Rig, SERVICE};
use keyward_softhsm_tests::{binary, text};

use crate::service::{
    CONFIG, Outcome, PROGRAMS, SOCKET_FILE, TOKENS, UNKNOWN, decrypts, equal, in_background, main_process,
    module, module_line, ready, records, until, with_configuration, with_drop_in,
};

/// The folder of the library that does harm when it is told to.
const FAULTS: &str = "/var/lib/keyward/faults";
/// What it is told to attack.
const VICTIMS: [&str; 4] = [
    "/var/lib/keyward/store.db",
    "/var/lib/keyward/journal.kwj",
    "/var/lib/keyward/audit/00000001.kwa",
    "/run/credentials/keywardd.service/hsm-pin",
];
/// What the kernel answers to what is not allowed: EPERM, EACCES, and EROFS where the unit lets nobody write.
const DENIED: [&str; 3] = ["1", "13", "30"];
/// How many things the library tries, at least.
const ATTEMPTS: usize = 20;

/// Loads the library into the service, by a drop-in and a changed configuration, and has it attack.
pub(super) fn attacked(rig: &Rig) -> Outcome {
    let (hostile, good) = (rig.place(&binary("libkeyward_fault.so"), PROGRAMS)?, module(rig)?);
    for folder in [FAULTS.to_owned(), format!("{FAULTS}/armed"), format!("{FAULTS}/fired")] {
        rig.root(&["install", "-d", "-o", "keyward", "-g", "keyward", "-m", "0700", &folder])?;
    }
    let environment = format!("Environment=KEYWARD_FAULT_MODULE={good} KEYWARD_FAULTS={FAULTS}");
    let (before, after) = (module_line(&good), module_line(&hostile));
    let allowed = format!("allow_paths = [\"{TOKENS}\"");
    let more = format!("{allowed}, \"{FAULTS}\"");
    let changes = [(before.as_str(), after.as_str()), (allowed.as_str(), more.as_str())];
    with_drop_in(rig, &environment, || {
        with_configuration(rig, &changes, || {
            rig.root(&["systemctl", "restart", SERVICE])?;
            ready(rig)?;
            let daemon = main_process(rig)?;
            is_confined(rig)?;
            VICTIMS.iter().try_for_each(|victim| attack(rig, victim))?;
            equal("the daemon's process", &main_process(rig)?, &daemon)?;
            decrypts(rig)
        })
    })?;
    rig.root(&["rm", "-r", FAULTS]).map(drop)
}

/// One attack, at the library's next call; the call itself succeeds.
fn attack(rig: &Rig, victim: &str) -> Outcome {
    let outcome = format!("{FAULTS}/outcome");
    rig.root(&["rm", "-f", &outcome])?;
    rig.write(&format!("{FAULTS}/plan"), "0644", &format!("{victim}\n{CONFIG}\n"))?;
    let seen = rig.root(&["stat", "--format=%a %U", victim])?;
    rig.write(&format!("{FAULTS}/armed/once"), "0644", "* attack\n")?;
    rig.root(&["keyward", "tenant", "rotate", "acme", "--wait"])?;
    let said = until("the attack", || rig.root(&["cat", &outcome]).ok())?;
    let tried = outcomes(&said);
    if tried.len() < ATTEMPTS || tried.iter().any(|(_, outcome)| !DENIED.contains(&outcome.as_str())) {
        return Err(format!("{victim}: {said}"));
    }
    equal(victim, &rig.root(&["stat", "--format=%a %U", victim])?, &seen)
}

/// Unit, status and journal say what is enforced.
fn is_confined(rig: &Rig) -> Outcome {
    let calls = rig.property(SERVICE, "SystemCallFilter")?;
    for call in ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"] {
        if !calls.split_whitespace().any(|allowed| allowed == call) {
            return Err(format!("the unit does not allow {call}: {calls}"));
        }
    }
    let status = rig.root(&["keyward", "status"])?;
    let line = status.lines().find(|line| line.starts_with("hsm confinement")).unwrap_or_default();
    if !line.contains(" Landlock ") || !line.ends_with(", seccomp, no sockets") {
        return Err(format!("the status says {line:?}"));
    }
    let daemon = format!("_PID={}", main_process(rig)?);
    let words = ["journalctl", "--quiet", "--no-pager", "--output=cat", daemon.as_str()];
    until("the journal says so", || {
        rig.run(&["journalctl", "--sync"], b"");
        rig.root(&words).ok().filter(|lines| lines.contains("the HSM process is confined"))
    })
    .map(drop)
}

/// Without this, the scenario before would pass for a library that tries nothing.
pub(super) fn unconfined(rig: &Rig) -> Outcome {
    let program = rig.place(Path::new(env!("CARGO_BIN_EXE_attacker")), PROGRAMS)?;
    // What it signals is the shell: of its own user, as the daemon is for the library.
    let script = r#"echo whole >"$2" && "$1" "$2" "$3"; rm -f "$2" "$2".*"#;
    let said =
        rig.user("keyward", &["sh", "-c", script, "sh", &program, "/var/lib/keyward/victim", CONFIG], "")?;
    let tried = outcomes(&said);
    if tried.len() < ATTEMPTS || tried.iter().any(|(_, outcome)| DENIED.contains(&outcome.as_str())) {
        return Err(said);
    }
    Ok(())
}

/// A unit that keeps the calls back: the shipped configuration requires confinement, so the library is not
/// loaded, and the status says why.
pub(super) fn not_confinable(rig: &Rig) -> Outcome {
    with_drop_in(rig, "SystemCallFilter=~landlock_create_ruleset", || {
        rig.root(&["systemctl", "restart", SERVICE])?;
        until("a refusal with its reason", || {
            let said = text(&rig.run(&["keyward", "status"], b""));
            (said.contains("the HSM process cannot be confined") && said.contains("not-serving"))
                .then_some(())
        })?;
        equal("the service", &rig.property(SERVICE, "ActiveState")?, "active")
    })
}

/// A user in the socket's group whom the configuration does not know opens connections as fast as it can.
pub(super) fn flooded(rig: &Rig) -> Outcome {
    let program = rig.place(Path::new(env!("CARGO_BIN_EXE_connections")), PROGRAMS)?;
    let told = records(rig, "unknown-callers")?;
    let words = [program.as_str(), SOCKET_FILE, "flood", "60"];
    in_background(rig, "flood", UNKNOWN, &["--service-type=notify"], &words)?;
    let begun = Instant::now();
    for _ in 0..20 {
        let one = Instant::now();
        decrypts(rig)?;
        if one.elapsed() > Duration::from_secs(3) {
            return Err(format!("a call took {:?}", one.elapsed()));
        }
    }
    equal("the flood goes on", &rig.property("flood.service", "ActiveState")?, "active")?;
    rig.root(&["systemctl", "stop", "flood.service"])?;
    // Who asks when the flood is over is told why it gets nothing.
    let (uid, gid) = (format!("--reuid={UNKNOWN}"), format!("--regid={UNKNOWN}"));
    let status = ["setpriv", uid.as_str(), gid.as_str(), "--init-groups", "keyward", "status"];
    until("an answer to the unknown", || (rig.run(&status, b"").status.code() == Some(3)).then_some(()))?;
    let told = until("a record of the flood", || {
        records(rig, "unknown-callers").ok().map(|now| now - told).filter(|new| *new > 0)
    })?;
    // At most one a second.
    let most = usize::try_from(begun.elapsed().as_secs()).unwrap_or(usize::MAX).saturating_add(2);
    if told <= most { Ok(()) } else { Err(format!("{told} records, {most} at most")) }
}
