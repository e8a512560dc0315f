//! Keys and PINs lie in memory of their own: daemon and HSM process are searched
//! for every DEK and for the PIN, by what `/proc` shows of their memory.

use std::fs::{File, read_to_string};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use keyward::client::{Client, Context};
use keyward::rpc::proto::{CreateTenantRequest, ListTenantsRequest};
use keyward_softhsm_tests::{KEY, PATIENCE, World, create_key};
use memchr::memmem::Finder;

/// The PIN of every test token.
const PIN: &[u8] = b"8521-test";
/// Something that is no secret and lies in the daemon's memory: shows that the search sees it.
const PLANTED: &str = "a display name that is easily found";
/// Operations before the search: encrypts, and as many decrypts.
const BATCHES: usize = 50;
const BATCH: usize = 1_000;

/// Runs a test as root of a user namespace of its own unless we are root already:
/// the memory of a process that is not dumpable is shown to nobody else.
fn as_root(test: &str, body: impl AsyncFnOnce()) {
    if rustix::process::getuid().is_root() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        return runtime.expect("a runtime").block_on(body());
    }
    let own = std::env::current_exe().expect("the path of this program");
    let again = Command::new("unshare")
        .args(["--user", "--map-root-user", "--"])
        .arg(own)
        .args(["--exact", test, "--nocapture"])
        .status()
        .expect("unshare");
    assert!(again.success(), "as an ordinary user: sudo sysctl kernel.unprivileged_userns_clone=1");
}

/// A part of a process's memory.
struct Region {
    from: u64,
    length: usize,
    name: String,
}

impl Region {
    /// Where secrets may lie.
    fn is_arena(&self) -> bool {
        self.name.contains("secretmem") || self.name.contains("keyward-secrets")
    }

    fn read(&self, memory: &File) -> Option<Vec<u8>> {
        let mut content = vec![0; self.length];
        // Pages that are not shown at all hide nothing from this process's own point of view:
        // they are the arena's, or the kernel's.
        memory.read_exact_at(&mut content, self.from).ok().map(|()| content)
    }
}

fn regions(pid: u32) -> Vec<Region> {
    let maps = read_to_string(format!("/proc/{pid}/maps")).expect("maps");
    let parse = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (from, to) = words.next()?.split_once('-')?;
        let readable = words.next()?.starts_with('r');
        let name = words.skip(3).collect::<Vec<_>>().join(" ");
        let (from, to) = (u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?);
        let length = usize::try_from(to - from).ok()?;
        (readable && !name.starts_with("[v")).then_some(Region { from, length, name })
    };
    maps.lines().filter_map(parse).collect()
}

/// What is looked for, and what it is.
struct Needle {
    what: String,
    finder: Finder<'static>,
}

fn needle(what: impl Into<String>, bytes: &[u8]) -> Needle {
    Needle { what: what.into(), finder: Finder::new(bytes).into_owned() }
}

/// The memory of a process at one moment.
struct Snapshot {
    process: &'static str,
    /// What is not shown at all is missing.
    parts: Vec<(Region, Option<Vec<u8>>)>,
}

impl Snapshot {
    fn of(process: &'static str, pid: u32) -> Self {
        let memory = File::open(format!("/proc/{pid}/mem")).expect("the memory of another process");
        let read = |region: Region| {
            let content = region.read(&memory);
            (region, content)
        };
        Self { process, parts: regions(pid).into_iter().map(read).collect() }
    }

    /// Where the needles lie, and how often.
    fn find(&self, needles: &[Needle], within: impl Fn(&Region) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        for (region, content) in self.parts.iter().filter(|(region, _)| within(region)) {
            for Needle { what, finder } in needles {
                let places = content.iter().flat_map(|content| finder.find_iter(content)).count();
                if places > 0 {
                    found
                        .push(format!("{what}, {places} times in {:?} of the {}", region.name, self.process));
                }
            }
        }
        found
    }

    /// The arena: how many bytes it has, and what of it is shown.
    fn arena(&self) -> (usize, usize) {
        let arena = self.parts.iter().filter(|(region, _)| region.is_arena());
        arena.fold((0, 0), |(all, shown), (region, content)| {
            (all + region.length, shown + content.as_ref().map_or(0, Vec::len))
        })
    }
}

fn outside(region: &Region) -> bool {
    !region.is_arena()
}

/// Each DEK by either half: a copy that was overwritten in part is one all the same.
fn needles(world: &World) -> Vec<Needle> {
    let config = world.config_file();
    let said = world.command("reveal").arg(config).output().expect("reveal");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let digits = String::from_utf8(said.stdout).expect("hexadecimal digits");
    let mut found = vec![needle("the PIN", PIN)];
    for (number, line) in digits.lines().enumerate() {
        let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).expect("digits");
        let key: Vec<u8> = (0..line.len()).step_by(2).map(byte).collect();
        assert_eq!(key.len(), 32);
        for half in key.chunks(16) {
            found.push(needle(format!("half of DEK {number}"), half));
        }
    }
    found
}

/// Keys of two tenants are made, used and rotated.
async fn work(client: &Client) {
    let about = Context::new();
    for tenant in ["one", "two"] {
        let display_name = PLANTED.to_owned();
        let asked = CreateTenantRequest { tenant_id: tenant.into(), display_name };
        client.keys().create_tenant(asked).await.expect("a tenant");
        for key in ["a", "b"] {
            create_key(client, tenant, key).await;
        }
    }
    let names: Vec<_> = ["one", "two"]
        .iter()
        .flat_map(|tenant| ["a", "b"].map(|key| format!("tenants/{tenant}/keys/{key}")))
        .collect();
    for round in 0..BATCHES {
        let name = &names[round % names.len()];
        if round % 10 == 9 {
            rotate(client, name.split("/keys/").next().expect("a tenant")).await;
        }
        let calls = (0..BATCH / 100).map(|_| async {
            let one = |number: usize| client.encrypt(name, format!("field {number}"), &about);
            let sealed = try_join_all((0..100).map(one)).await?;
            try_join_all(sealed.into_iter().map(|one| client.decrypt(name, one.ciphertext, &about))).await
        });
        let opened = try_join_all(calls).await.expect("ciphertexts and plaintexts");
        assert_eq!(opened.iter().map(Vec::len).sum::<usize>(), BATCH);
    }
}

async fn rotate(client: &Client, tenant: &str) {
    use keyward::rpc::proto::{GetRotationRequest, RotateTenantRequest, rotation::State};
    let mut keys = client.keys();
    let begun =
        keys.rotate_tenant(RotateTenantRequest { name: tenant.to_owned() }).await.expect("a rotation");
    let name = begun.into_inner().name;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now = keys.get_rotation(GetRotationRequest { name: name.clone() }).await.expect("an answer");
        if now.into_inner().state() == State::Done {
            return;
        }
        assert!(Instant::now() < deadline, "{name} does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The memory of the daemon and of its HSM process a second after much work, and what must not be there.
async fn snapshots(memory: &str) -> ([Snapshot; 2], Vec<Needle>) {
    let mut world = World::new();
    world.config = format!("secret_memory = \"{memory}\"\n{}", world.config);
    world.init();
    let daemon = world.start().await;
    let client = daemon.client().await;
    work(&client).await;
    client.keys().list_tenants(ListTenantsRequest::default()).await.expect("the tenants");
    // What DESIGN promises is for one second after a burst.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let child = daemon.serving_processes(1).await[0].pid;
    let taken = [Snapshot::of("daemon", daemon.pid()), Snapshot::of("HSM process", child)];
    assert!(daemon.stop().await.success(), "{}", world.log());
    let needles = needles(&world);
    assert!(needles.len() > 20, "too few keys were made");
    (taken, needles)
}

/// No secret lies outside the arena of the daemon; of the HSM process, see the quirks of SoftHSM.
fn assert_clean([daemon, child]: &[Snapshot; 2], needles: &[Needle]) {
    // The search sees what is there: words in both processes, and each needle in this one.
    for (process, words) in [(daemon, PLANTED), (child, "keyward root ")] {
        let found = process.find(&[needle(words, words.as_bytes())], outside);
        assert!(!found.is_empty(), "{words:?} is not found in the {}", process.process);
    }
    let own = Snapshot::of("test", std::process::id());
    for needle in needles {
        assert!(!own.find(std::slice::from_ref(needle), outside).is_empty(), "{} is not found", needle.what);
    }
    assert_eq!(daemon.find(needles, outside), Vec::<String>::new());
    assert_eq!(child.find(needles, outside), Vec::<String>::new());
}

#[tokio::test]
async fn a_low_limit_of_locked_memory_is_told_and_survived() {
    for memory in ["auto", "locked"] {
        let mut world = World::new();
        world.config = format!("secret_memory = \"{memory}\"\n{}", world.config);
        world.init();
        // Root without CAP_IPC_LOCK is held to the limit like everybody else.
        let limit = ["prlimit", "--memlock=0:0"];
        let drop = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"];
        world.launcher = limit.map(str::to_owned).to_vec();
        if rustix::process::getuid().is_root() {
            world.launcher.extend(drop.map(str::to_owned));
        }
        let (daemon, client) = world.start_with_key().await;
        let about = Context::new();
        let sealed = client.encrypt(KEY, "x", &about).await.expect("a ciphertext");
        let opened = client.decrypt(KEY, sealed.ciphertext, &about).await.expect("the plaintext");
        assert_eq!(opened.plaintext.expose(), b"x");
        assert_eq!(daemon.status().await.expect("a status").secret_memory, "unlocked");
        assert!(world.log().contains("raise RLIMIT_MEMLOCK"), "{}", world.log());
    }
}

#[test]
fn no_secret_lies_outside_the_arena() {
    as_root("no_secret_lies_outside_the_arena", async || {
        let (taken, needles) = snapshots("auto").await;
        assert_clean(&taken, &needles);
    });
}

#[test]
fn no_secret_lies_outside_locked_memory() {
    as_root("no_secret_lies_outside_locked_memory", async || {
        let (taken, needles) = snapshots("locked").await;
        assert_clean(&taken, &needles);
        for snapshot in &taken {
            let (all, shown) = snapshot.arena();
            assert!(all > 0 && shown == all, "root reads locked memory: {all} bytes, {shown} shown");
        }
    });
}
