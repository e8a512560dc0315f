//! The PKCS#11 backend against a real SoftHSM. The module is loaded by a helper
//! process, never by the test process; each test has a token of its own.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

/// Plays a scenario on a fresh token.
fn play(scenario: &str) -> Value {
    let folder = fresh_token();
    let played = Command::new(env!("CARGO_BIN_EXE_hsm-probe"))
        .arg(scenario)
        .arg(folder.path())
        .env("SOFTHSM2_CONF", folder.path().join("softhsm2.conf"))
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&played.stderr);
    assert!(played.status.success(), "{scenario}: {}: {error}", played.status);
    serde_json::from_slice(&played.stdout).unwrap()
}

fn fresh_token() -> TempDir {
    // Memory, where there is some: SoftHSM writes a file for each key.
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    let folder = TempDir::with_prefix_in("keyward-hsm-", parent).unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::create_dir(at("tokens")).unwrap();
    std::fs::create_dir(at("state")).unwrap();
    let conf = format!("directories.tokendir = {}\nobjectstore.backend = file\n", at("tokens").display());
    std::fs::write(at("softhsm2.conf"), conf).unwrap();
    std::fs::write(at("pin"), "8521\n").unwrap();
    let private = Command::new("chmod").arg("600").arg(at("pin")).status().unwrap();
    assert!(private.success());
    let made = Command::new("softhsm2-util")
        .args(["--init-token", "--free", "--label", "keyward-test", "--so-pin", "12345678", "--pin", "8521"])
        .env("SOFTHSM2_CONF", at("softhsm2.conf"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    folder
}

#[test]
fn keys_are_made_opened_and_moved() {
    let said = play("round-trip");
    assert_eq!(
        said,
        json!({
            "persisted_first": true, "roots_differ": true, "backup_keys_differ": true, "listed": true,
            "guards": true, "quirks": said["quirks"], "label": "keyward-test",
            "opened": true, "reopened": true,
            // Random, unwrap, random, encrypt.
            "cold_operations": 4,
            "random": [0, 4096, "unavailable", 16],
            "shutdown": true, "after_shutdown": "unavailable",
        })
    );
    assert!(said["quirks"].as_u64().unwrap() >= 5, "{said}");
}

/// As `softhsm-tests/hsm-memory/tests/memory/controls.rs` shows for the HSM in memory.
#[test]
fn it_keeps_the_contract_of_the_hsm_in_memory() {
    let said = play("conformance");
    assert_eq!(said["shown"].as_array().map(Vec::len), Some(15), "{said}");
    assert_eq!(said["shutdown"], true);
}

#[test]
fn damage_is_told_from_failure() {
    assert_eq!(
        play("damage"),
        json!({
            "tampered_kek": "integrity", "short_kek": "integrity", "empty_kek": "integrity",
            "tampered_key": "integrity", "wrong_aad": "integrity", "other_kek": "integrity",
            "unknown_root": "unknown root", "unknown_root_generate": "unknown root",
            "still_opens": "ok", "same_connection": true,
        })
    );
}

#[test]
fn a_wrong_label_names_the_tokens_present() {
    let said = play("wrong-label")["status"].as_str().unwrap().to_owned();
    assert!(said.contains(r#"no token has label \"nobody\"; present: \"keyward-test\" (serial "#), "{said}");
}

#[test]
fn a_refused_pin_is_presented_once() {
    let said = play("wrong-pin");
    let first = said["first"].as_str().unwrap();
    assert!(first.contains("CKR_PIN_INCORRECT") && first.contains("keyward hsm clear-refused-pin"), "{said}");
    assert!(!said.to_string().contains("99999999"), "{said}");
    assert_eq!(said["turned_away"], "unavailable");
    assert_eq!(said["recorded"], true);
    for again in said["again"].as_array().unwrap() {
        assert!(again.as_str().unwrap().contains("has refused this PIN before"), "{said}");
    }
    assert!(said["check"].as_str().unwrap().contains("has refused this PIN before"), "{said}");
    assert_eq!(said["cleared"], true);
    assert!(said["after_clearing"].as_str().unwrap().contains("Ready"), "{said}");
    assert_eq!(said["forgotten_after_success"], true);
}

#[test]
fn a_token_that_goes_and_comes_back_serves_the_same_keys() {
    let said = play("removal");
    assert_eq!((&said["meanwhile"], &said["opened"]), (&json!("unavailable"), &json!(true)), "{said}");
    assert!(said["epoch"].as_u64().unwrap() >= 2, "{said}");
}

#[test]
fn an_interrupted_call_is_repeated_on_the_next_connection() {
    assert_eq!(play("interrupted"), json!({ "answer": "ok", "epoch": 2 }));
}

#[test]
fn a_full_queue_answers_busy() {
    let said = play("busy");
    let count = |name: &str| said[name].as_u64().unwrap();
    assert!(count("busy") >= 1 && count("ok") >= 1, "{said}");
    assert_eq!(count("busy") + count("ok"), count("of"), "{said}");
}

#[test]
fn a_tiny_cache_under_load_is_always_right() {
    assert_eq!(play("storm"), json!({ "right": 2400, "same_connection": true }));
}

#[test]
fn a_token_with_another_root_is_refused() {
    let said = play("strange-canary");
    for status in said["said"].as_array().unwrap() {
        let status = status.as_str().unwrap();
        assert!(status.starts_with("Refused") && status.contains("is not the one"), "{said}");
    }
}

#[test]
fn no_root_is_made_without_its_backup() {
    let said = play("no-backup");
    assert!(said["error"].as_str().unwrap().contains("its backup could not be kept"), "{said}");
    assert_eq!((&said["objects"], &said["roots"]), (&json!(0), &json!(0)), "{said}");
}

#[test]
fn a_root_is_retired_while_the_connection_stays() {
    assert_eq!(
        play("retire"),
        json!({ "opened": true, "under_the_first": "unknown root", "roots": true, "status": true })
    );
}

#[test]
fn a_root_is_put_together_again_by_its_quorum() {
    let said = play("restore");
    assert!(said["alone"].as_str().unwrap().contains("do not fit together"), "{said}");
    assert!(said["twice"].as_str().unwrap().contains("do not fit together"), "{said}");
    assert_eq!(
        (&said["between"], &said["same_canary"], &said["serves"]),
        (&json!(0), &json!(true), &json!(true))
    );
}

#[test]
fn the_check_finds_softhsm_fit_for_use() {
    let said = play("check");
    assert_eq!((&said["usable"], &said["verdict"]), (&json!(true), &json!("fit for use")), "{said}");
    for check in said["selftest"]["checks"].as_array().unwrap() {
        // RFC 5649 has two numbers in use; SoftHSM knows the older one.
        let name = check["name"].as_str().unwrap();
        let expected = match name == "signing keys are wrapped by CKM_AES_KEY_WRAP_KWP (RFC 5649)" {
            true => "unsupported",
            false => "pass",
        };
        assert_eq!(check["verdict"], expected, "{check}");
    }
    let mechanisms = said["mechanisms"].as_array().unwrap();
    assert!(mechanisms.contains(&json!("CKM_AES_GCM")) && mechanisms.contains(&json!("CKM_AES_KEY_WRAP")));
    assert_eq!(said["timings"].as_array().unwrap().len(), 6);
    assert_eq!(said["manufacturer"], "SoftHSM project");
}
