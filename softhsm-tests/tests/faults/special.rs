//! Faults that have an answer of their own.

use std::time::{Duration, Instant};

use keyward::client::Code;
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{FreezeRequest, GetCheckpointRequest, Status};
use keyward_softhsm_tests::faults::Faults;
use keyward_softhsm_tests::{PATIENCE, World, create_key, create_tenant, text};

use crate::bench::Bench;
use crate::codes::PIN_CODES;

/// CKF_USER_PIN_FINAL_TRY and CKF_USER_PIN_LOCKED.
const FINAL_TRY: u64 = 0x2_0000;
const LOCKED: u64 = 0x4_0000;

fn serving(wanted: Serving) -> impl Fn(&Status) -> bool {
    move |status| status.serving() == wanted
}

fn says(words: &'static str) -> impl Fn(&Status) -> bool {
    move |status| status.reason.contains(words)
}

#[tokio::test]
async fn handles_that_reach_other_keys_lose_nothing() {
    // Both tenants' KEKs stay in the token, so that their handles can change places.
    let mut bench = Bench::new("kek_cache = 64\nprobe_interval = \"1h\"").await;
    for function in ["C_EncryptInit", "C_DecryptInit", "C_WrapKey", "C_UnwrapKey", "C_GetAttributeValue"] {
        for _ in 0..3 {
            bench.survive(function, "swap-keys").await;
        }
    }
    bench.nothing_is_lost().await;
}

#[tokio::test]
async fn output_that_is_damaged_on_its_way_is_not_kept() {
    let mut bench = Bench::new("kek_cache = 1\nprobe_interval = \"1h\"").await;
    for function in ["C_WrapKey", "C_Encrypt", "C_Decrypt", "C_GenerateRandom"] {
        for action in ["flip", "shorten"] {
            bench.survive(function, action).await;
        }
    }
    bench.nothing_is_lost().await;
}

#[tokio::test]
async fn a_library_that_takes_too_much_memory_is_replaced() {
    let mut bench = Bench::new("memory = \"200MiB\"\nprobe_interval = \"100ms\"").await;
    let before = bench.daemon.hsm_processes();
    bench.survive("C_Decrypt", "grow 300").await;
    let replaced = |status: &Status| {
        status.serving() == Serving::Ready && status.hsm.as_ref().is_some_and(|hsm| hsm.epoch > 1)
    };
    bench.daemon.wait_for(replaced).await.expect("a new process");
    assert_ne!(bench.daemon.hsm_processes(), before);
    bench.nothing_is_lost().await;
}

#[tokio::test]
async fn a_token_without_room_for_another_kek_gives_up_the_others() {
    let mut bench = Bench::new("kek_cache = 64\nprobe_interval = \"1h\"").await;
    let fault = bench.faults.arm("C_UnwrapKey", "answer 0x31");
    bench.must_work_at_once("C_UnwrapKey answers CKR_DEVICE_MEMORY").await;
    assert!(bench.faults.fired(&fault));
    let status = bench.daemon.status().await.expect("a status");
    assert_eq!(status.hsm.expect("an HSM").epoch, 1, "the connection was lost");
    bench.nothing_is_lost().await;
}

#[tokio::test]
async fn freezing_a_tenant_destroys_its_keks_in_the_token() {
    let mut world = World::new();
    let mut faults = Faults::under(&mut world);
    world.reconfigure("[hsm]\n", "[hsm]\nprobe_interval = \"1h\"\n");
    // Whoever signs a checkpoint destroys the key's handle afterwards: only the first one is made, before it counts.
    world.config.push_str("\n[audit]\ncheckpoint_interval = \"1h\"\n");
    world.init();
    let (_daemon, client) = world.start_with_key().await;
    create_tenant(&client, "other").await.expect("a tenant");
    client.audit().get_checkpoint(GetCheckpointRequest { fresh: true }).await.expect("a checkpoint");
    // Not to make it fail, but to see that it is called, and how often.
    let destroyed: Vec<_> = (0..2).map(|_| faults.arm("C_DestroyObject", "delay 0")).collect();
    let name = "tenants/acme".to_owned();
    client.access().freeze(FreezeRequest { name, reason: "test".into() }).await.expect("frozen");
    let deadline = Instant::now() + PATIENCE;
    while !faults.fired(&destroyed[0]) {
        assert!(Instant::now() < deadline, "the KEK stays in the token");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Work that was handed over later has been done; the other tenant's KEK was not touched.
    create_key(&client, "other", "k").await;
    assert!(!faults.fired(&destroyed[1]));
}

#[tokio::test]
async fn a_token_that_is_removed_is_missed_and_comes_back() {
    let mut bench = Bench::new("kek_cache = 1\nprobe_interval = \"50ms\"").await;
    for code in ["0xe0", "0x32"] {
        let fault = bench.faults.keep("*", &format!("answer {code}"));
        bench.daemon.wait_for(serving(Serving::Degraded)).await.expect("degraded");
        assert!(!bench.round("the token is removed").await.is_empty());
        bench.faults.disarm(&fault);
        bench.daemon.wait_for(serving(Serving::Ready)).await.expect("ready");
        bench.must_work_at_once("the token is back").await;
    }
    bench.nothing_is_lost().await;
}

#[tokio::test]
async fn too_few_sessions_are_named() {
    let mut world = World::new();
    let mut faults = Faults::under(&mut world);
    world.init();
    let fault = faults.keep("C_OpenSession", "answer 0xb1");
    let mut daemon = world.spawn();
    daemon.wait_for(says("SessionCount in C_OpenSession")).await.expect("the reason");
    faults.disarm(&fault);
    daemon.wait_for(serving(Serving::Ready)).await.expect("ready");
}

#[tokio::test]
async fn whatever_a_token_says_of_the_pin_it_is_asked_once() {
    let mut world = World::new();
    let mut faults = Faults::under(&mut world);
    world.init();
    for (code, name) in PIN_CODES {
        let first = faults.arm("C_Login", &format!("answer {code:#x}"));
        let mut daemon = world.spawn();
        let status = daemon.wait_for(says("clear-refused-pin")).await.expect("refused");
        assert!(status.reason.contains(name), "{status:?}");
        assert!(faults.fired(&first));
        daemon.kill();

        // The next start does not try the PIN again: a second fault would strike.
        let second = faults.arm("C_Login", "crash");
        let mut daemon = world.spawn();
        daemon.wait_for(says("has refused this PIN before")).await.expect("refused");
        assert!(!faults.fired(&second));
        faults.disarm(&second);
        let cleared = world.cli(["hsm", "clear-refused-pin", "--config", &world.config_file()]);
        assert!(cleared.status.success(), "{}", text(&cleared));
        daemon.wait_for(serving(Serving::Ready)).await.expect("ready");
        // In order, so that nothing of it logs in while the next fault is armed.
        assert!(daemon.stop().await.success());
    }
}

#[tokio::test]
async fn a_locked_pin_and_the_last_try_are_left_to_people() {
    let mut world = World::new();
    let mut faults = Faults::under(&mut world);
    world.init();
    for (flags, words) in [(LOCKED, "PIN is locked"), (FINAL_TRY, "one PIN try left")] {
        let login = faults.keep("C_Login", "crash");
        faults.token_flags(flags);
        let mut daemon = world.spawn();
        daemon.wait_for(says(words)).await.expect("refused");
        let config = world.config_file();
        let check = world.cli(["hsm", "check", "--config", &config]);
        assert!(!check.status.success() && text(&check).contains(words), "{}", text(&check));
        assert!(!faults.fired(&login));
        // The last try comes back on the token, which neither the PIN's file nor the record shows; a PIN that was locked is
        // another one then, so the daemon presents none until its file was written.
        faults.token_flags(0);
        if flags == LOCKED {
            // Three attempts would have been made meanwhile.
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            assert!(!faults.fired(&login));
        }
        faults.disarm(&login);
        if flags == LOCKED {
            let pin = std::fs::read_to_string(world.path("pin")).unwrap();
            world.write_secret("pin", &pin);
        }
        daemon.wait_for(serving(Serving::Ready)).await.expect("ready");
        assert!(daemon.stop().await.success());
    }
}

#[test]
fn a_token_without_room_for_a_root_gets_none() {
    let mut world = World::new();
    let mut faults = Faults::under(&mut world);
    let full = faults.keep("C_UnwrapKey", "answer 0x31");
    let init = |backup: &str| {
        let backup = world.path(backup).display().to_string();
        world.cli(["init", "--config", &world.config_file(), "--backup-key", &backup])
    };
    let failed = init("backup-1");
    assert!(!failed.status.success() && text(&failed).contains("DeviceMemory"), "{}", text(&failed));
    faults.disarm(&full);
    let made = init("backup-2");
    assert!(made.status.success(), "{}", text(&made));
}

#[tokio::test]
async fn another_token_of_the_same_name_is_not_used() {
    let world = World::ready();
    let (mut daemon, _) = world.start_with_key().await;
    let (tokens, away) = (world.path("tokens"), world.path("away"));
    std::fs::rename(&tokens, &away).expect("the token's folder");
    world.make_token("token");
    let process = daemon.hsm_processes();
    process[0].signal(rustix::process::Signal::KILL);
    daemon.wait_for(says("is not the one")).await.expect("refused");
    let refused = create_tenant(&daemon.client().await, "other").await.expect_err("it was used");
    assert_eq!(refused.0, Code::Unavailable, "{refused:?}");
    std::fs::remove_dir_all(&tokens).expect("the other token");
    std::fs::rename(&away, &tokens).expect("the token's folder");
    daemon.wait_for(serving(Serving::Ready)).await.expect("ready");
}

#[tokio::test]
async fn a_module_for_another_machine_is_named() {
    let mut world = World::ready();
    let module = keyward_softhsm_tests::softhsm_module();
    let mut bytes = std::fs::read(&module).expect("the module");
    // The machine of an ELF file: bytes 18 and 19 (System V ABI, "ELF Header"); 0xffff is none.
    bytes[18..20].fill(0xff);
    std::fs::write(world.path("other.so"), bytes).expect("a module");
    let other = world.path("other.so").display().to_string();
    world.reconfigure(&module, &other);
    let mut daemon = world.spawn();
    daemon.wait_for(says("cannot load the PKCS#11 module")).await.expect("the reason");
    let status = daemon.wait_for(says("other.so")).await.expect("the reason");
    assert_eq!(status.serving(), Serving::NotServing);
}
