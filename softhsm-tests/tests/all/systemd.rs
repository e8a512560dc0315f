//! The systemd units, as `make install` writes them: valid, and hardened.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The exposure that `systemd-analyze security` may find at most, of 10.0.
const MOST_EXPOSURE: f64 = 2.0;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Installs the units with `prefix` below `destination`.
fn install(destination: &str, prefix: &str) {
    let output = Command::new("make")
        .args(["-s", "install-units", &format!("DESTDIR={destination}"), &format!("PREFIX={prefix}")])
        .current_dir(repository())
        // Not a part of a `make test` that may have started us.
        .env_remove("MAKEFLAGS")
        .env_remove("MAKELEVEL")
        .output()
        .expect("make is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Runs systemd-analyze on the units below `units`; its answer, which must be a success.
fn analyze(units: &Path, arguments: &[&str]) -> String {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .current_dir(units)
        .env("SYSTEMD_COLORS", "0")
        .output()
        .expect("systemd-analyze is installed: softhsm-tests/scripts/setup.sh test");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "systemd-analyze {arguments:?}: {said}");
    said
}

#[test]
fn the_service_is_exposed_very_little() {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path().to_str().unwrap(), "/usr");
    let units = folder.path().join("usr/lib/systemd/system");
    let said = analyze(&units, &["security", "--offline=yes", "--no-pager", "./keywardd.service"]);
    let exposure: f64 = said
        .lines()
        .find_map(|line| line.split_once("Overall exposure level for keywardd.service: "))
        .and_then(|(_, rest)| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or_else(|| panic!("no exposure level in: {said}"));
    assert!(exposure <= MOST_EXPOSURE, "{said}");
}

#[test]
fn the_units_are_valid() {
    // `verify` wants the programs to exist, so the prefix itself lies in the folder.
    let folder = tempfile::tempdir().unwrap();
    let prefix = folder.path().join("usr");
    install("", prefix.to_str().unwrap());
    std::fs::create_dir(prefix.join("bin")).unwrap();
    for program in ["keywardd", "keyward"] {
        std::os::unix::fs::symlink("/bin/true", prefix.join("bin").join(program)).unwrap();
    }
    let units = prefix.join("lib/systemd/system");
    let said = analyze(&units, &["verify", "./keywardd.service", "./keywardd.socket"]);
    assert!(!said.contains("keyward"), "systemd-analyze verify: {said}");
}

/// None of these is in a group of systemd 252: without them no library is loaded.
#[test]
fn the_service_may_confine_its_library() {
    let unit = std::fs::read_to_string(repository().join("systemd/keywardd.service")).unwrap();
    let filters = unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter="));
    let allowed: Vec<_> =
        filters.filter(|list| !list.starts_with('~')).flat_map(str::split_whitespace).collect();
    for call in ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"] {
        assert!(allowed.contains(&call), "{call}");
    }
    assert!(unit.contains("\nOOMPolicy=continue\n"));
}

#[test]
fn nothing_is_left_to_fill_in() {
    let folder = tempfile::tempdir().unwrap();
    install(folder.path().to_str().unwrap(), "/opt/keyward");
    let units = folder.path().join("opt/keyward/lib/systemd/system");
    for unit in ["keywardd.service", "keywardd.socket"] {
        let text = std::fs::read_to_string(units.join(unit)).unwrap();
        assert!(!text.contains("@BINDIR@") && !text.contains("@DOCDIR@"), "{unit}");
        assert!(unit.ends_with("socket") || text.contains("ExecStart=/opt/keyward/bin/keywardd "), "{unit}");
    }
}

/// A stop needs the grace once. systemd waits longer than that even where nothing asks it to.
#[test]
fn systemd_waits_longer_than_a_stop_takes() {
    let unit = std::fs::read_to_string(repository().join("systemd/keywardd.service")).unwrap();
    let waits: u64 =
        unit.lines().find_map(|line| line.strip_prefix("TimeoutStopSec=")).unwrap().parse().unwrap();
    let grace = keyward::config::Server::default().shutdown_grace.0.as_secs();
    assert!(waits >= 3 * grace + 10, "{waits} s for a grace of {grace} s");
    assert!(
        unit.lines().any(|line| line == "NotifyAccess=main"),
        "a longer grace is told by the daemon itself"
    );
}
