//! What scenarios need: the service, its configuration, its log, and work beside it.

use std::time::{Duration, Instant};

use keyward_softhsm_tests::rig::{Rig, SERVICE};
use keyward_softhsm_tests::softhsm_module;

/// What a scenario answers.
pub(super) type Outcome = Result<(), String>;

/// The user of an application, who is in the socket's group.
pub(super) const APPLICATION: &str = "app";
/// A user in that group whom the configuration does not know.
pub(super) const UNKNOWN: &str = "unknown";
pub(super) const KEY: &str = "acme/customer-pii";
/// Where the first ciphertext is kept for later scenarios.
pub(super) const CIPHERTEXT: &str = "/root/ciphertext";
pub(super) const CONFIG: &str = "/etc/keyward/keywardd.toml";
pub(super) const SOCKET_FILE: &str = "/run/keyward/keyward.sock";
/// Where programs of the tests lie: all above it is the system's own, whoever boots it.
pub(super) const PROGRAMS: &str = "/opt/keyward";
/// The folder of the token, which the library has to be allowed.
pub(super) const TOKENS: &str = "/var/lib/keyward/softhsm";
const DROP_IN: &str = "/etc/systemd/system/keywardd.service.d/test.conf";
/// Where the keys are kept that checkpoints are verified by.
const KEYS: &str = "/run/audit-keys";
/// How long anything may take before a scenario gives up; RestartSec is 5 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work` with lines added to the service, and starts the service as shipped after, however that ended.
pub(super) fn with_drop_in(rig: &Rig, lines: &str, work: impl FnOnce() -> Outcome) -> Outcome {
    rig.write(DROP_IN, "0644", &format!("[Service]\n{lines}\n"))?;
    rig.root(&["systemctl", "daemon-reload"])?;
    let outcome = work();
    rig.root(&["rm", DROP_IN])?;
    rig.root(&["systemctl", "daemon-reload"])?;
    rig.root(&["systemctl", "restart", SERVICE])?;
    outcome.and_then(|()| ready(rig))
}

/// Runs `work` with lines of the configuration changed, and puts it back after, however that ended. The
/// service is restarted by whoever wants it to know: inside of [`with_drop_in`], once more at the end.
pub(super) fn with_configuration(
    rig: &Rig,
    changes: &[(&str, &str)],
    work: impl FnOnce() -> Outcome,
) -> Outcome {
    let before = rig.root(&["cat", CONFIG])?;
    configure(rig, &changed(&before, changes)?)?;
    let outcome = work();
    configure(rig, &before)?;
    outcome
}

pub(super) fn configure(rig: &Rig, text: &str) -> Outcome {
    rig.write(CONFIG, "0640", text)?;
    rig.root(&["chgrp", "keyward", CONFIG]).map(drop)
}

/// The text with each of the first in the place of the second.
pub(super) fn changed(text: &str, changes: &[(&str, &str)]) -> Result<String, String> {
    changes.iter().try_fold(text.to_owned(), |text, (from, to)| {
        if text.contains(from) {
            Ok(text.replace(from, to))
        } else {
            Err(format!("{from} is not in {CONFIG}"))
        }
    })
}

pub(super) fn module_line(module: &str) -> String {
    format!("module = \"{module}\"")
}

/// SoftHSM, where it may be trusted.
pub(super) fn module(rig: &Rig) -> Result<String, String> {
    let module = softhsm_module();
    // In a user's namespace `/usr` belongs to nobody who is known there, and is refused.
    if rig.root(&["stat", "--format=%u", "/usr"])? == "0" {
        Ok(module)
    } else {
        rig.place(module.as_ref(), PROGRAMS)
    }
}

/// Starts a service beside ours for a user. With `--service-type=notify` it has begun after this.
pub(super) fn in_background(rig: &Rig, unit: &str, user: &str, options: &[&str], words: &[&str]) -> Outcome {
    let (unit, uid) = (format!("--unit={unit}"), format!("--uid={user}"));
    let run = ["systemd-run", "--quiet", "--collect", unit.as_str(), uid.as_str(), "--working-directory=/"];
    rig.root(&[&run[..], options, words].concat()).map(drop)
}

/// A number of the status, by the line that it has in JSON.
pub(super) fn status_number(rig: &Rig, field: &str) -> Result<u64, String> {
    let status = rig.root(&["keyward", "status", "--json"])?;
    let line = status.lines().find_map(|line| line.trim().strip_prefix(&format!("\"{field}\": ")));
    let number = line.and_then(|rest| rest.trim_end_matches(',').parse().ok());
    number.ok_or_else(|| format!("no {field} in {status}"))
}

/// How many records of an operation stand in the audit log.
pub(super) fn records(rig: &Rig, operation: &str) -> Result<usize, String> {
    let shown = rig.as_keyward(&["audit", "show", "--config", CONFIG, "--json"])?;
    Ok(shown.matches(&format!("\"operation\": \"{operation}\"")).count())
}

/// Verifies the log as the service's user, who would miss a change without a record too.
pub(super) fn log_is_whole(rig: &Rig) -> Outcome {
    let keys = rig.root(&["keyward", "audit", "keys"])?;
    rig.write(KEYS, "0644", &format!("{keys}\n"))?;
    rig.as_keyward(&["audit", "verify", "--config", CONFIG, "--key", KEYS]).map(drop)
}

pub(super) fn inode(rig: &Rig) -> Result<String, String> {
    rig.root(&["stat", "--format=%i", SOCKET_FILE])
}

pub(super) fn equal(what: &str, found: &str, wanted: &str) -> Outcome {
    if found == wanted { Ok(()) } else { Err(format!("{what}: {found:?} instead of {wanted:?}")) }
}

/// The application decrypts the ciphertext that is kept.
pub(super) fn decrypts(rig: &Rig) -> Outcome {
    let ciphertext = rig.root(&["cat", CIPHERTEXT])?;
    let plaintext = rig.user(APPLICATION, &["keyward", "decrypt", KEY, &ciphertext], "")?;
    equal("the plaintext", &plaintext, "hello")
}

pub(super) fn ready(rig: &Rig) -> Outcome {
    let shown = || rig.root(&["keyward", "status", "--json"]).ok();
    until("the service is ready", || shown().filter(|status| status.contains("\"serving\": \"ready\"")))
        .map(drop)
}

pub(super) fn main_process(rig: &Rig) -> Result<String, String> {
    rig.property(SERVICE, "MainPID")
}

/// The one HSM process of a daemon, once those of tasks that are done once have ended.
pub(super) fn hsm_process(rig: &Rig, daemon: &str) -> Result<String, String> {
    let each = r#"for child in $(cat /proc/"$1"/task/*/children); do
        ! grep -q '^keyward-hsm: ' /proc/"$child"/cmdline || echo "$child"
    done"#;
    until("one HSM process", || {
        let found = rig.root(&["sh", "-c", each, "sh", daemon]).ok()?;
        (!found.is_empty() && !found.contains('\n')).then_some(found)
    })
}

pub(super) fn kill(rig: &Rig, process: &str) -> Outcome {
    rig.root(&["sh", "-c", "kill -KILL \"$1\"", "sh", process]).map(drop)
}

pub(super) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            return Err(format!("it never happened: {what}"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
