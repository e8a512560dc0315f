//! The vendor's library reaches nothing of the daemon, and does not outlive it; what the daemon rests on is
//! in nobody else's hand.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use keyward::rpc::proto::Status;
use keyward_softhsm_tests::faults::{Faults, outcomes};
use keyward_softhsm_tests::{World, create_tenant, eventually, eventually_now, set_mode, text};

/// What the kernel answers to what is not allowed: EPERM and EACCES.
const DENIED: [&str; 2] = ["1", "13"];

/// A file among the daemon's.
fn victim(world: &World) -> PathBuf {
    let victim = world.path("state/victim");
    std::fs::write(&victim, "whole").expect("a file");
    victim
}

fn confinement(status: &Status) -> Vec<String> {
    let slots = status.hsm.iter().flat_map(|hsm| &hsm.slots);
    slots.map(|slot| slot.confinement.clone()).collect()
}

/// Attacks from within the module, and answers what was not denied.
async fn not_denied(world: &World, faults: &mut Faults) -> Vec<(String, String)> {
    let victim = victim(world);
    let said = faults.attack(&victim, &world.path("keywardd.toml"));
    assert!(said.len() > 20, "{said:?}");
    assert_eq!(std::fs::read_to_string(&victim).expect("the victim"), "whole");
    said.into_iter().filter(|(_, outcome)| !DENIED.contains(&outcome.as_str())).collect()
}

#[tokio::test]
async fn a_library_reaches_nothing_of_the_daemon() {
    let mut world = World::new();
    let mut faults = Faults::under(&mut world);
    world.init();
    let daemon = world.start().await;
    assert_eq!(not_denied(&world, &mut faults).await, []);
    create_tenant(&daemon.client().await, "acme").await.expect("a tenant");
    let confined = confinement(&daemon.status().await.expect("a status"));
    let [confined] = confined.as_slice() else { panic!("{confined:?}") };
    assert!(confined.starts_with("Landlock ") && confined.ends_with(", seccomp, no sockets"), "{confined}");
    assert!(world.log().contains("the HSM process is confined"), "{}", world.log());
    let status = text(&world.cli(["status"]));
    assert!(status.contains(confined.as_str()), "{status}");
    let check = world.cli(["hsm", "check", "--config", &world.config_file()]);
    assert!(text(&check).contains(confined.as_str()), "{}", text(&check));
}

/// Without this, the test above would pass for a module that tries nothing.
#[test]
fn a_plain_process_does_all_of_it() {
    let world = World::ready();
    let configuration = world.config_file();
    let said = Command::new(env!("CARGO_BIN_EXE_attacker")).arg(victim(&world)).arg(configuration).output();
    let said = said.expect("the attacker");
    let done = outcomes(&String::from_utf8_lossy(&said.stdout));
    assert!(done.len() > 20, "{}", text(&said));
    for (attempt, outcome) in done {
        assert!(!DENIED.contains(&outcome.as_str()), "{attempt}: {outcome}");
    }
}

#[tokio::test]
async fn sockets_are_for_those_who_are_allowed_them() {
    let mut world = World::new();
    world.reconfigure("allow_paths = [", "allow_network = true\nallow_paths = [");
    let mut faults = Faults::under(&mut world);
    world.init();
    let daemon = world.start().await;
    let allowed = not_denied(&world, &mut faults).await;
    let names: Vec<&str> = allowed.iter().map(|(attempt, _)| attempt.as_str()).collect();
    assert_eq!(names, ["local-socket", "inet-socket"]);
    let confined = confinement(&daemon.status().await.expect("a status"));
    assert!(confined[0].ends_with(", sockets allowed"), "{confined:?}");
}

#[test]
fn a_module_that_lacks_its_folder_is_told_what_to_do() {
    let mut world = World::new();
    let tokens = world.path("tokens").display().to_string();
    world.reconfigure(&format!("\"{tokens}\", "), "");
    let check = world.cli(["hsm", "check", "--config", &world.config_file()]);
    assert!(!check.status.success() && text(&check).contains("hsm.allow_paths"), "{}", text(&check));
}

#[tokio::test]
async fn without_landlock_a_module_is_loaded_only_by_best_effort() {
    let mut world = World::ready();
    world.launcher = vec![env!("CARGO_BIN_EXE_without-landlock").to_owned()];
    let mut daemon = world.spawn();
    let refused = |status: &Status| {
        status
            .hsm
            .as_ref()
            .is_some_and(|hsm| hsm.state.starts_with("refused") && hsm.state.contains("best-effort"))
    };
    daemon.wait_for(refused).await.expect("a refusal");
    assert!(daemon.stop().await.success(), "{}", world.log());

    world.reconfigure("[hsm]\n", "[hsm]\nconfinement = \"best-effort\"\n");
    let daemon = world.start().await;
    assert_eq!(confinement(&daemon.status().await.expect("a status")), ["no Landlock, seccomp, no sockets"]);
    assert!(world.log().contains("the HSM process is not confined"), "{}", world.log());
}

/// A library may hang wherever it is called; the daemon's end is its end.
#[tokio::test]
async fn a_process_that_hangs_does_not_outlive_its_daemon() {
    for function in ["C_Initialize", "C_OpenSession"] {
        let mut world = World::new();
        let mut faults = Faults::under(&mut world);
        world.init();
        let hang = faults.keep(function, "hang");
        let daemon = world.spawn();
        eventually(function, async || faults.fired(&hang).then_some(())).await;
        let processes = daemon.serving_processes(1).await;
        let killed = Instant::now();
        daemon.kill();
        processes[0].ended().await;
        assert!(killed.elapsed() < Duration::from_secs(3), "{function}: {:?}", killed.elapsed());
    }
}

/// The processes of tasks that are done once are watched as well.
#[tokio::test]
async fn a_task_that_hangs_does_not_outlive_who_asked_for_it() {
    let mut world = World::new();
    let mut faults = Faults::under(&mut world);
    let hang = faults.keep("C_Initialize", "hang");
    let mut check = world
        .command("keyward")
        .args(["hsm", "check", "--config", &world.config_file()])
        .spawn()
        .expect("keyward");
    eventually(&hang, async || faults.fired(&hang).then_some(())).await;
    // It is a child of whichever thread has started it.
    let threads = PathBuf::from(format!("/proc/{}/task", check.id()));
    let all = std::fs::read_dir(threads).expect("its threads").flatten();
    let lists = all.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    let processes: Vec<String> =
        lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    assert_eq!(processes.len(), 1, "{processes:?}");
    check.kill().expect("kill");
    check.wait().expect("wait");
    let gone = PathBuf::from(format!("/proc/{}/cmdline", processes[0]));
    // A zombie has no command line any more.
    eventually_now("its end", || std::fs::read(&gone).map_or(true, |line| line.is_empty()).then_some(()));
}

#[test]
fn what_others_may_write_is_refused_with_the_cure() {
    let world = World::ready();
    let config = world.config_file();
    for (name, open, closed) in [
        ("keywardd.toml", 0o666, 0o644),
        ("state", 0o777, 0o700),
        ("state/store.db", 0o666, 0o600),
        ("state/journal.kwj", 0o622, 0o600),
        ("state/audit", 0o777, 0o700),
        ("", 0o777, 0o700),
    ] {
        let path = world.path(name);
        let cure = format!("chmod go-w {}", path.display().to_string().trim_end_matches('/'));
        set_mode(&path, open);
        let checked = world.command("keywardd").args(["--check-config", "--config", &config]).output();
        let checked = checked.expect("keywardd");
        assert!(!checked.status.success() && text(&checked).contains(&cure), "{name}: {}", text(&checked));
        let said = world.fails_to_start();
        assert!(said.contains(&cure), "{name}: {said}");
        set_mode(&path, closed);
    }
    let checked = world.command("keywardd").args(["--check-config", "--config", &config]).output();
    assert!(checked.expect("keywardd").status.success());
}

#[test]
fn a_module_that_others_may_write_is_refused() {
    let mut world = World::ready();
    let module = world.own_copy(keyward_softhsm_tests::softhsm_module().as_ref());
    world.reconfigure(&keyward_softhsm_tests::softhsm_module(), &module);
    set_mode(module.as_ref(), 0o757);
    let said = world.fails_to_start();
    assert!(said.contains("the PKCS#11 module is not safe") && said.contains("chmod go-w"), "{said}");
    // Whether an option names it, or the URI of a standby.
    world.reconfigure(&module, &keyward_softhsm_tests::softhsm_module());
    world.config += &format!("\n[[hsm.standby]]\ntoken = \"pkcs11:token=token?module-path={module}\"\n");
    let said = world.fails_to_start();
    assert!(said.contains("the PKCS#11 module is not safe") && said.contains(&module), "{said}");
}
