//! The soak: somebody who is nobody, an application that wants everything, and somebody who rewrites the store, all at
//! once against a daemon at work. Nobody else loses a call, nothing is decided wrongly, and everything is whole
//! afterwards.
//!
//! In turns the same attackers attack an echo and a copy of the store instead, while the same work is done: what they
//! cost the machine, they cost there too. Times are compared in `make test-all` only.
// A panic is how a test fails, in helper functions too; and they say what they measured.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyward::audit::{Outcome, Record};
use keyward_softhsm_tests::tampering::{check_answers, keyward};
use keyward_softhsm_tests::{Daemon, PATIENCE, World, create_key, eventually, rounds, set_mode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::Value;

mod children;
mod judges;
mod victims;

use children::{Attackers, Echo, Target, Told};
use judges::{Bait, Verdict, haunt, lay_bait, watch_bait};
use victims::{Served, application, as_user, operator};

/// Users: the greedy application, the one at work, nobody, and the frozen principal.
const GREEDY: u32 = 7001;
const SHOP: u32 = 7002;
const STRANGER: u32 = 7004;
const GHOST: u32 = 7005;

/// Turns, and how long each attacks the daemon and the control: in `make test`, and in `make test-all`.
const REDUCED: (u32, Duration, Duration) = (1, Duration::from_secs(12), Duration::from_secs(3));
const FULL: (u32, Duration, Duration) = (10, Duration::from_secs(60), Duration::from_secs(30));
/// How many times longer 99 of 100 calls may take than in the control: the median of the turns.
const RATIO: f64 = 2.0;

/// Records a second that a principal may cause by what is not done: `limits.refusals_per_second`, its counts, and ends of
/// the three sessions that do not read.
const IDLE_PER_SECOND: u64 = 25;
/// The daemon's limit of descriptors, and how many of them it may have open: connections of one user, and its reserve.
const FILES: u64 = 1024;
const DESCRIPTORS: usize = 512;
const LOOK_EVERY: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn attackers_take_nothing_from_others() {
    let own = std::env::current_exe().unwrap();
    assert!(
        rustix::process::getuid().is_root(),
        "only root can be several users; as root: sudo --preserve-env {}",
        own.display()
    );
    let (turns, attacked, control) = rounds(REDUCED, FULL);
    let world = world();
    let mut soak = Soak::begin(world).await;
    let mut ratios = Vec::new();
    for number in 0..turns {
        let under_attack = soak.turn(2 * number, Target::Daemon, attacked).await;
        let beside = soak.turn(2 * number + 1, Target::Control, control).await;
        let (p99, of_control) = (under_attack.p99(), beside.p99());
        let ratio = p99.as_secs_f64() / of_control.as_secs_f64();
        println!("turn {}: p99 {p99:.1?}, control {of_control:.1?}, ratio {ratio:.2}", number + 1);
        ratios.push(ratio);
    }
    soak.end().await;
    ratios.sort_unstable_by(f64::total_cmp);
    let median = ratios[ratios.len() / 2];
    let (least, most) = (ratios[0], ratios[ratios.len() - 1]);
    println!("p99 to its control: {median:.2} ({least:.2} to {most:.2}) in {turns} turns");
    // The machine of `make test` is not quiet, and its turn is short.
    assert!(rounds(f64::INFINITY, RATIO) >= median, "{median:.2} times the control: {ratios:.2?}");
}

/// A world whose socket other users can open, with principals that are neither operator nor the daemon's user.
fn world() -> World {
    let most = getrlimit(Resource::Nofile).maximum;
    // The echo holds whatever comes.
    setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most }).unwrap();
    let mut world = World::ready();
    world.launcher = vec!["prlimit".into(), format!("--nofile={FILES}:{FILES}")];
    world.reconfigure("socket_mode = \"0600\"", "socket_mode = \"0660\"");
    for (name, uid, keys, operations) in [
        ("greedy", GREEDY, "tenants/greedy/keys/*", "\"encrypt\", \"blind-index\""),
        ("shop", SHOP, "tenants/acme/keys/*", "\"encrypt\", \"decrypt\""),
        ("ghost", GHOST, "tenants/*/keys/*", "\"encrypt\", \"decrypt\""),
    ] {
        world.config += &format!(
            "\n[[principal]]\nname = \"{name}\"\nrole = \"application\"\nusers = [{uid}]\n\
             allow = [{{ keys = [\"{keys}\"], operations = [{operations}] }}]\n"
        );
    }
    set_mode(&world.path(""), 0o755);
    world
}

/// The daemon, what attacks it, and what was seen so far.
struct Soak {
    world: World,
    daemon: Daemon,
    echo: Echo,
    bait: Bait,
    began: Instant,
    /// Descriptors of the daemon before the first turn, and the most that there were.
    descriptors: (usize, usize),
    tampered: u64,
}

impl Soak {
    async fn begin(world: World) -> Self {
        let (daemon, client) = world.start_with_key().await;
        create_key(&client, "greedy", "own").await;
        let bait = lay_bait(&world, &client).await.unwrap();
        drop(client);
        let echo = Echo::start(&world);
        let before = descriptors(&daemon);
        let began = Instant::now();
        Self { world, daemon, echo, bait, began, descriptors: (before, before), tampered: 0 }
    }

    /// One turn; answers what the application at work got.
    async fn turn(&mut self, number: u32, target: Target, length: Duration) -> Served {
        let over = Arc::new(AtomicBool::new(false));
        let (socket, flag) = (self.world.socket(), || over.clone());
        let attackers = Attackers::start(&self.world, &self.echo, target);
        let (to, end) = (socket.clone(), flag());
        let shop = as_user(SHOP, move || application(to, end));
        let (to, end) = (socket.clone(), flag());
        let ghost = as_user(GHOST, move || haunt(to, end));
        let operator = tokio::spawn(operator(socket.clone(), number, flag()));
        let met = Arc::new(AtomicBool::new(target == Target::Control));
        let judge = tokio::spawn(watch_bait(socket, self.bait.clone(), met.clone(), flag()));

        let began = Instant::now();
        // Until the rewriter was met, however short the turn: in the end the log must tell of it.
        while began.elapsed() < length || (!met.load(Ordering::Relaxed) && began.elapsed() < PATIENCE) {
            self.descriptors.1 = self.descriptors.1.max(descriptors(&self.daemon));
            tokio::time::sleep(LOOK_EVERY).await;
        }
        // Victims first: they work under attack to their end.
        over.store(true, Ordering::Relaxed);
        let joined = tokio::task::spawn_blocking(move || (shop.join().unwrap(), ghost.join().unwrap()));
        let (shop, ghost) = joined.await.unwrap();
        let (operator, judge) = (operator.await.unwrap(), judge.await.unwrap());
        let told = tokio::task::spawn_blocking(move || attackers.end()).await.unwrap();
        judged(&shop, &operator, length);
        self.found([judge, ghost], target);
        attacked(&told, target);
        shop
    }

    /// Nothing was decided wrongly; nobody is told of tampering where there was none.
    fn found(&mut self, verdicts: [Verdict; 2], target: Target) {
        for verdict in verdicts {
            assert!(verdict.wrong.is_empty() && verdict.right > 0, "{verdict:?}");
            assert!(target == Target::Daemon || verdict.tampered == 0, "{verdict:?}");
            self.tampered += verdict.tampered;
        }
    }

    /// All is as it was, and the log has it all.
    async fn end(self) {
        let Self { world, daemon, echo, began, descriptors: (before, most), tampered, .. } = self;
        drop(echo);
        println!("descriptors: {before} before, {most} at most; {tampered} answers of tampering");
        assert!(most < DESCRIPTORS, "{most} descriptors");
        let given_back = async || (descriptors(&daemon) <= before + 8).then_some(());
        eventually("the descriptors are given back", given_back).await;
        let memory = memory(&daemon);
        println!("memory: {} MiB at most", memory >> 20);
        assert!(memory < memory_max(), "{memory} bytes");

        assert!(tampered > 0, "nobody met the rewriter");
        assert!(world.log().contains("tampered with"), "{}", world.log());
        assert!(!world.log().contains("panicked"), "{}", world.log());
        assert!(!world.log().contains("Too many open files"), "{}", world.log());
        check_answers(&world, 0);
        assert!(daemon.stop().await.success(), "{}", world.log());
        let (whole, said) = keyward(&world, &["audit", "verify"]);
        assert!(whole, "{said}");
        check_answers(&world, 0);
        recorded(&world.audit(), began.elapsed());
    }
}

/// Every call of those who only work was answered, and there were calls.
fn judged(shop: &Served, operator: &Served, length: Duration) {
    for (served, least) in [(shop, 10 * length.as_secs()), (operator, length.as_secs() / 3)] {
        assert!(served.lost.is_empty(), "{} lost: {:?}", served.lost.len(), served.lost.first());
        let calls = served.took.len() as u64;
        assert!(calls >= least, "{calls} calls in {length:?}");
    }
}

/// A load that does nothing proves nothing; and whoever may nothing got nothing.
fn attacked(told: &Told, target: Target) {
    let Told { stranger, greedy, rewriter } = told;
    println!("  stranger {stranger}\n  greedy {greedy}\n  rewriter {rewriter}");
    let number = |told: &Value, name: &str| told[name].as_u64().unwrap_or_else(|| panic!("{name}: {told}"));
    for caller in [stranger, greedy] {
        assert!(number(caller, "connections") > 100 && number(caller, "messages") > 20, "{caller}");
        if target == Target::Daemon {
            assert!(number(caller, "refused") > 20, "{caller}");
            assert_eq!(number(caller, "served"), 0, "{caller}");
        }
    }
    assert!(number(rewriter, "rows") >= 10 && number(rewriter, "taken") > 0, "{rewriter}");
    let changed = rewriter["changed"].as_array().unwrap();
    assert!(changed.is_empty(), "the daemon wrote what it could not trust: {rewriter}");
}

/// What the log says of those who may nothing, and how much.
fn recorded(records: &[Record], took: Duration) {
    let of = |uid: u32| {
        let by = move |record: &&Record| record.caller.as_ref().is_some_and(|caller| caller.uid == uid);
        records.iter().filter(by)
    };
    for uid in [STRANGER, GHOST] {
        assert!(of(uid).next().is_some(), "no record of uid {uid}");
        let served = of(uid).find(|record| !matches!(record.outcome, Outcome::Failed(_)));
        assert!(served.is_none(), "{served:?}");
    }
    let foreign = of(GREEDY).find(|record| {
        record.resource.starts_with("tenants/")
            && !record.resource.starts_with("tenants/greedy/")
            && !matches!(record.outcome, Outcome::Failed(_) | Outcome::Cancelled)
    });
    assert!(foreign.is_none(), "{foreign:?}");
    // What is refused or given up: the budget and its burst, and counts.
    let idle = of(GREEDY).filter(|record| record.outcome != Outcome::Ok).count() as u64;
    assert!(idle <= 200 + IDLE_PER_SECOND * took.as_secs().max(1), "{idle} records in {took:?}");
    let tampered = Outcome::Failed("STORE_TAMPERED".into());
    assert!(records.iter().any(|record| record.outcome == tampered), "no record of the tampering");
}

fn descriptors(daemon: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count()
}

/// The most memory that the daemon and its HSM processes have had together, at different times even, in bytes.
fn memory(daemon: &Daemon) -> u64 {
    let pids = daemon.hsm_processes().into_iter().map(|process| process.pid).chain([daemon.pid()]);
    let most = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    pids.map(most).sum()
}

/// What the shipped unit gives all of them, in bytes.
fn memory_max() -> u64 {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd/keywardd.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let most = unit.lines().find_map(|line| line.strip_prefix("MemoryMax=")).unwrap();
    most.strip_suffix('G').unwrap().parse::<u64>().unwrap() << 30
}
