//! The same suite against every PKCS#11 module: what serves must serve in full, and what is unsafe must be
//! refused with its reason. Writes docs/hsm-modules.md when `KEYWARD_BLESS` is set.

use std::fmt::Write;

use keyward::client::{Code, Context};
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{GetRotationRequest, RotateTenantRequest, rotation};
use keyward_softhsm_tests::modules::Module;
use keyward_softhsm_tests::{KEY, PATIENCE, World, create_key, create_tenant, text};
use rustix::process::Signal;
use serde_json::Value;

/// What the daemon needs of an HSM, from `keyward init` to a lost process.
async fn conforms(module: Module) {
    let world = World::on(module);
    world.init();
    let (mut daemon, client) = world.start_with_key().await;
    let about = Context::new();
    let old = client.encrypt(KEY, "old", &about).await.expect("a ciphertext").ciphertext;

    let mut keys = client.keys();
    let begun = keys.rotate_tenant(RotateTenantRequest { name: "tenants/acme".into() }).await;
    let name = begun.expect("a rotation").into_inner().name;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let now = keys.get_rotation(GetRotationRequest { name: name.clone() }).await.expect("an answer");
        if now.into_inner().state() == rotation::State::Done {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{}", world.log());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let new = client.encrypt(KEY, "new", &about).await.expect("a ciphertext").ciphertext;

    daemon.serving_processes(1).await[0].signal(Signal::KILL);
    let again = |status: &keyward::rpc::proto::Status| {
        status.serving() == Serving::Ready && status.hsm.as_ref().is_some_and(|hsm| hsm.epoch > 1)
    };
    daemon.wait_for(again).await.expect("a new connection");
    create_key(&client, "other", "k").await;

    assert!(daemon.stop().await.success(), "{}", world.log());
    let daemon = world.start().await;
    let client = daemon.client().await;
    for (ciphertext, plaintext) in [(&old, "old"), (&new, "new")] {
        let opened = client.decrypt(KEY, ciphertext.clone(), &about).await.expect("the plaintext");
        assert_eq!(opened.plaintext.expose(), plaintext.as_bytes());
    }
    let mut damaged = old.to_vec();
    damaged[60] ^= 1;
    let refused = client.decrypt(KEY, damaged, &about).await.expect_err("a damaged ciphertext was opened");
    assert_eq!(refused.code, Code::InvalidArgument, "{refused}");
}

#[tokio::test]
async fn softhsm_conforms() {
    conforms(Module::SoftHsm).await;
}

#[tokio::test]
async fn kryoptic_conforms() {
    conforms(Module::Kryoptic).await;
}

/// Kryoptic locks after ten wrong PINs: more starts than that cost one of them.
#[tokio::test]
async fn a_token_that_locks_is_not_locked_by_restarts() {
    let world = World::on(Module::Kryoptic);
    world.init();
    world.write_secret("pin", "12345678");
    for _ in 0..12 {
        let mut daemon = world.spawn();
        let refused = |status: &keyward::rpc::proto::Status| status.reason.contains("clear-refused-pin");
        daemon.wait_for(refused).await.expect("refused");
        daemon.kill();
    }
    world.write_secret("pin", "8521-test");
    let daemon = world.start().await;
    create_tenant(&daemon.client().await, "acme").await.expect("a tenant");
}

/// What must not be used is refused by every command that would use it, with the reason.
fn is_refused(module: Module, reason: &str) {
    let world = World::on(module);
    let config = world.config_file();
    let check = world.cli(["hsm", "check", "--config", &config]);
    assert_eq!(check.status.code(), Some(1), "{}", text(&check));
    assert!(text(&check).contains(&format!("must not be used: self-test \"{reason}\"")), "{}", text(&check));
    assert!(!text(&check).contains("put this into keywardd.toml"));
    let backup = world.path("backup-key").display().to_string();
    let init = world.cli(["init", "--config", &config, "--backup-key", &backup]);
    assert!(!init.status.success() && text(&init).contains(reason), "{}", text(&init));
}

#[test]
fn a_module_that_gives_keys_away_is_refused() {
    is_refused(Module::Nss, "a non-extractable key cannot be wrapped");
}

#[test]
fn a_module_that_lacks_mechanisms_is_refused() {
    for module in [Module::OpenCryptoki, Module::Tpm2] {
        is_refused(module, "the mechanisms that Keyward needs are offered");
    }
}

/// The report on a module, with a fresh token.
fn report(module: Module) -> Value {
    let world = World::on(module);
    let said = world.cli(["hsm", "check", "--json", "--config", &world.config_file()]);
    serde_json::from_slice(&said.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&said)))
}

/// What the report prints for use in a configuration is one.
#[tokio::test]
async fn the_configuration_of_the_report_works() {
    let mut world = World::on(Module::Kryoptic);
    world.init();
    let pin = world.path("pin").display().to_string();
    let module = world.own_copy(&Module::Kryoptic.library());
    // Its only token need not be named.
    let tokens = world.path("kryoptic").display().to_string();
    let said = world.cli([
        "hsm",
        "check",
        "--json",
        "--module",
        &module,
        "--pin-file",
        &pin,
        "--allow-path",
        &tokens,
    ]);
    let said: Value = serde_json::from_slice(&said.stdout).unwrap_or_else(|_| panic!("{}", text(&said)));
    let table = said["configuration"].as_str().expect("a configuration");
    let own = world.config.find("[hsm]").expect("a table");
    world.config.truncate(own);
    world.config += &table.replace("pin_credential = \"hsm-pin\"", &format!("pin_file = \"{pin}\"\n"));
    world.start().await;
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ")
}

/// docs/hsm-modules.md, from the reports.
fn document() -> String {
    let reports = Module::ALL.map(|module| (module.name(), report(module)));
    let said = |report: &Value, name: &str| report[name].as_str().unwrap_or("-").to_owned();
    let mut page = String::from(INTRODUCTION);
    page += "\n## Verdicts\n\n| module | PKCS#11 | verdict |\n|---|---|---|\n";
    for (name, report) in &reports {
        let (interface, verdict) = (said(report, "cryptoki"), cell(&said(report, "verdict")));
        writeln!(page, "| {name} | {interface} | {verdict} |").expect("text");
    }
    page += "\n## Self-test\n\n| check |";
    for (name, _) in &reports {
        write!(page, " {name} |").expect("text");
    }
    writeln!(page, "\n|{}", "---|".repeat(reports.len() + 1)).expect("text");
    let checks = reports[0].1["check"].as_object().expect("checks");
    for check in checks.keys() {
        write!(page, "| {check} |").expect("text");
        for (_, report) in &reports {
            write!(page, " {} |", cell(report["check"][check].as_str().unwrap_or("-"))).expect("text");
        }
        page += "\n";
    }
    page += "\n## What is lost\n\n| module | it | lost |\n|---|---|---|\n";
    for quirk in keyward::hsm::pkcs11::quirks::TABLE {
        let whose = format!("{} {}", quirk.manufacturer, quirk.model);
        let row = [whose.trim(), quirk.behaviour, quirk.lost].map(cell);
        writeln!(page, "| {} |", row.join(" | ")).expect("text");
    }
    page += "\n## Mechanisms\n\nWhat Keyward needs: `CKM_AES_KEY_GEN`, `CKM_AES_KEY_WRAP`, `CKM_AES_GCM`. What the modules offer:\n";
    for (module, report) in &reports {
        let mechanisms = said(report, "mechanisms");
        let names: Vec<_> = mechanisms.split(' ').filter(|name| name.starts_with("CKM_AES_")).collect();
        writeln!(page, "\n- {module}: {}", names.join(", ")).expect("text");
    }
    page
}

const INTRODUCTION: &str = "# PKCS#11 modules

This page is written by the test `modules` from what `keyward hsm check` finds; `KEYWARD_BLESS=1 cargo test -p keyward-softhsm-tests
--test all modules::` writes it anew. For any other module run `keyward hsm check --module FILE`: the report says whether Keyward will use it,
what is lost where it lacks something, how fast it is, and what to put into the configuration.

A module is refused when one of the checks fails, because keys would not be safe in it. *not offered* is no failure: Keyward does without.
";

#[test]
fn the_page_on_modules_is_true() {
    let page = document();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/hsm-modules.md");
    if std::env::var_os("KEYWARD_BLESS").is_some() {
        std::fs::write(&file, &page).expect("docs/hsm-modules.md");
    }
    let committed = std::fs::read_to_string(&file).expect("docs/hsm-modules.md");
    assert_eq!(committed, page, "run the test again with KEYWARD_BLESS=1 and look at the difference");
}
