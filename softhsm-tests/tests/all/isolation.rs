//! The PKCS#11 library lives in a process of its own; the daemon survives it.

use std::time::{Duration, Instant};

use keyward::client::Code;
use keyward::rpc::proto::status::Serving;
use keyward_softhsm_tests::faults::Faults;
use keyward_softhsm_tests::{Daemon, HsmProcess, KEY, PATIENCE, World, create_key, create_tenant, rounds};
use rustix::process::Signal;

async fn only(daemon: &Daemon) -> HsmProcess {
    daemon.serving_processes(1).await.remove(0)
}

/// Waits for another connection than `epoch`.
async fn reconnected(daemon: &mut Daemon, epoch: u64) -> u64 {
    let again = |status: &keyward::rpc::proto::Status| {
        status.serving() == Serving::Ready && status.hsm.as_ref().is_some_and(|hsm| hsm.epoch > epoch)
    };
    daemon.wait_for(again).await.expect("a new connection").hsm.expect("an HSM").epoch
}

#[tokio::test]
async fn the_library_is_loaded_by_the_hsm_process_only() {
    let world = World::ready();
    let daemon = world.start().await;
    let process = only(&daemon).await;
    let library = "libsofthsm2.so";
    assert!(process.proc("maps").contains(library), "{process:?}");
    let daemon_maps = std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).expect("maps");
    assert!(!daemon_maps.contains(library));
    for file in ["cmdline", "environ"] {
        let shown = process.proc(file);
        assert!(!shown.is_empty() && !shown.contains("8521-test"), "the PIN stands in {file}");
    }
}

#[tokio::test]
async fn a_killed_process_costs_no_key_and_no_answer_is_wrong() {
    let world = World::ready();
    let (mut daemon, client) = world.start_with_key().await;
    let about = keyward::client::Context::new();
    let sealed = client.encrypt(KEY, "before", &about).await.expect("a ciphertext");
    let mut made = Vec::new();
    let mut epoch = 1;
    for round in 0..rounds(2, 5) {
        let process = only(&daemon).await;
        process.signal(Signal::KILL);
        // The first call may find the process dying, dead, or already replaced.
        let tenant = format!("t{round}");
        for _ in 0..3 {
            match create_tenant(&client, &tenant).await {
                Ok(_) => made.push(tenant.clone()),
                Err((Code::Unavailable, _)) => {}
                Err((Code::AlreadyExists, _)) => break,
                Err(error) => panic!("{error:?}"),
            }
        }
        epoch = reconnected(&mut daemon, epoch).await;
        process.ended().await;
        let opened = client.decrypt(KEY, sealed.ciphertext.clone(), &about).await.expect("the plaintext");
        assert_eq!(opened.plaintext.expose(), b"before");
    }
    for tenant in &made {
        create_key(&client, tenant, "k").await;
    }
    assert!(daemon.stop().await.success(), "{}", world.log());
    assert!(world.log().contains("was ended by signal 9"), "{}", world.log());
}

#[tokio::test]
async fn a_process_that_hangs_is_replaced() {
    let mut world = World::new();
    world.reconfigure("[hsm]\n", "[hsm]\ndeadline = \"2s\"\n");
    world.init();
    let (mut daemon, client) = world.start_with_key().await;
    let process = only(&daemon).await;
    process.signal(Signal::STOP);
    // Whether this call is answered by the next process or given up depends on the machine.
    match create_tenant(&client, "slow").await {
        Ok(_) => {}
        Err(error) => assert_eq!(error.0, Code::Unavailable, "{error:?}"),
    }
    reconnected(&mut daemon, 1).await;
    process.ended().await;
    assert_ne!(only(&daemon).await.pid, process.pid);
    create_tenant(&client, "quick").await.expect("a tenant");
    let log = world.log();
    assert!(log.contains("did not return in time") || log.contains("no sign of life"), "{log}");
}

#[tokio::test]
async fn no_process_outlives_its_daemon() {
    let world = World::ready();
    let daemon = world.start().await;
    let process = only(&daemon).await;
    daemon.signal(Signal::KILL);
    process.ended().await;
    drop(daemon);

    let daemon = world.start().await;
    let process = only(&daemon).await;
    assert!(daemon.stop().await.success(), "{}", world.log());
    process.ended().await;
}

/// It is busy with its login when the daemon goes: nobody hears that it is ready.
#[tokio::test]
async fn no_process_outlives_a_daemon_that_dies_while_it_connects() {
    let mut world = World::new();
    let mut faults = Faults::under(&mut world);
    world.init();
    let late = faults.arm("C_FindObjects", "delay 300");
    let daemon = world.spawn();
    let deadline = Instant::now() + PATIENCE;
    while !faults.fired(&late) {
        assert!(Instant::now() < deadline, "{}", world.log());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let process = only(&daemon).await;
    daemon.kill();
    process.ended().await;
}

#[test]
fn a_person_who_starts_it_is_told_what_it_is_for() {
    let world = World::new();
    for program in ["keyward", "keywardd"] {
        let said = world.command(program).arg("hsm-process").output().expect("a program");
        let error = String::from_utf8_lossy(&said.stderr);
        assert!(!said.status.success() && error.contains("for keyward itself"), "{program}: {error}");
    }
}

#[test]
fn a_module_that_crashes_is_reported_by_the_check() {
    let world = World::new();
    let (source, module) = (world.path("crash.c"), world.path("crash.so"));
    let crash = "unsigned long C_GetFunctionList(void *list) { __builtin_trap(); }\n";
    std::fs::write(&source, crash).expect("the source");
    let compiled = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-w", "-o"])
        .args([&module, &source])
        .status()
        .expect("cc: run softhsm-tests/scripts/setup.sh");
    assert!(compiled.success());
    let check = world.cli([
        "hsm",
        "check",
        "--module",
        module.to_str().expect("a path"),
        "--token",
        "token",
        "--pin-file",
        world.path("pin").to_str().expect("a path"),
    ]);
    let error = String::from_utf8_lossy(&check.stderr);
    assert!(!check.status.success() && error.contains("was ended by signal 4"), "{error}");
}
