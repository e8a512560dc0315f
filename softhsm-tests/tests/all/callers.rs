//! What a caller costs before it is known, and how much it may hold when it is.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyward::audit::{Outcome, Record};
use keyward::client::{Client, Code, Context as About, Error, context};
use keyward::rpc::proto::crypt_session_request::Request as Asked;
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::encrypt_stream_request::Message;
use keyward::rpc::proto::{
    BatchEncryptRequest, CreateTenantRequest, CryptSessionRequest, DecryptRequest, EncryptRequest,
    EncryptStreamRequest, GetCheckpointRequest, GetStatusRequest, ListActsRequest, ListKeyVersionsRequest,
    RecordDrillRequest, StreamHeader, batch_encrypt_request,
};
use keyward_softhsm_tests::{Daemon, KEY, World, eventually, set_mode, text};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{Gid, Uid, set_thread_groups, set_thread_res_uid};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response, Uri};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_types::StatusExt;

/// The application of [`world_of_others`], and somebody who is nobody there.
const APPLICATION: u32 = 7001;
const STRANGER: u32 = 7004;

/// Does work in a thread that is another user's: the kernel tells of a socket who connected it.
fn as_user<T: Send + 'static>(uid: u32, work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    as_user_of(uid, &[], work)
}

/// The same with supplementary groups, instead of those of the test.
fn as_user_of<T: Send + 'static>(
    uid: u32,
    groups: &[u32],
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let groups: Vec<_> = groups.iter().map(|group| Gid::from_raw(*group)).collect();
    std::thread::spawn(move || {
        set_thread_groups(&groups).expect("root has any groups");
        let uid = Uid::from_raw(uid);
        set_thread_res_uid(uid, uid, uid).expect("root becomes anybody");
        work()
    })
}

/// A world whose socket other users can open, with an application of its own. Only root can be
/// somebody else: for others there is nothing here, and the rest of the tests is for everybody.
fn world_of_others() -> Option<World> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let mut world = World::ready();
    world.reconfigure("socket_mode = \"0600\"", "socket_mode = \"0660\"");
    let application = format!(
        "\n[[principal]]\nname = \"crm\"\nrole = \"application\"\nusers = [{APPLICATION}]\n\
         allow = [{{ keys = [\"tenants/acme/keys/*\"], operations = [\"encrypt\"] }}]\n"
    );
    world.config += &application;
    set_mode(&world.path(""), 0o755);
    Some(world)
}

/// What one encrypt of another user gets, and after which time.
async fn encrypt_as(uid: u32, socket: PathBuf) -> (Result<(), Error>, Duration) {
    let thread = as_user(uid, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let began = Instant::now();
            let client = Client::connect(socket).await.unwrap();
            let answer = client.encrypt(KEY, "x", &context([("id", "7")])).await;
            (answer.map(drop), began.elapsed())
        })
    });
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap()
}

/// The records of an operation, after a stop.
async fn records(world: &World, daemon: Daemon, operation: &str) -> Vec<Record> {
    assert!(daemon.stop().await.success(), "{}", world.log());
    world.audit().into_iter().filter(|record| record.operation == operation).collect()
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

fn failed(reason: &str) -> Outcome {
    Outcome::Failed(reason.to_owned())
}

/// The most memory that the daemon has had, in KiB.
fn most_memory(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What each of the calls of a person, of a monitor and of an operator gets.
async fn asked_as(uid: u32, groups: &'static [u32], socket: PathBuf) -> [(&'static str, String); 5] {
    let thread = as_user_of(uid, groups, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let client = Client::connect(socket).await.unwrap();
            let told = |answer: Result<(), Error>| {
                answer.map_or_else(|error| error.reason().to_owned(), |()| "ok".to_owned())
            };
            let status = client.call(client.system().get_status(GetStatusRequest {})).await;
            let role = status.map_or_else(|error| error.reason().to_owned(), |status| status.role);
            let acts = client.call(client.logins().list_acts(ListActsRequest {})).await.map(drop);
            let checkpoint = client
                .call(client.audit().get_checkpoint(GetCheckpointRequest { fresh: false }))
                .await
                .map(drop);
            let tenant = CreateTenantRequest { tenant_id: "other".into(), ..CreateTenantRequest::default() };
            let tenant = client.call(client.keys().create_tenant(tenant)).await.map(drop);
            let field = client.encrypt(KEY, "x", &About::new()).await.map(drop);
            [
                ("role", role),
                ("acts", told(acts)),
                ("checkpoint", told(checkpoint)),
                ("tenant", told(tenant)),
                ("field", told(field)),
            ]
        })
    });
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap()
}

#[tokio::test]
async fn members_come_by_any_of_their_groups_and_monitors_only_look() {
    const MEMBERS: u32 = 7100;
    const MONITOR: u32 = 7101;
    let Some(mut world) = world_of_others() else { return };
    world.config += &format!(
        "\n[[principal]]\nname = \"members\"\nrole = \"member\"\ngroups = [{MEMBERS}]\n\
         [[principal]]\nname = \"metrics\"\nrole = \"monitor\"\nusers = [{MONITOR}]\n"
    );
    let (_daemon, _client) = world.start_with_key().await;
    let denied = "PERMISSION_DENIED";
    let told = |role: &str, rest: [&str; 4]| {
        let [acts, checkpoint, tenant, field] = rest.map(str::to_owned);
        [
            ("role", role.to_owned()),
            ("acts", acts),
            ("checkpoint", checkpoint),
            ("tenant", tenant),
            ("field", field),
        ]
    };
    let member = asked_as(STRANGER, &[60_001, MEMBERS], world.socket()).await;
    assert_eq!(member, told("member", ["ok", denied, denied, denied]));
    let monitor = asked_as(MONITOR, &[60_001], world.socket()).await;
    assert_eq!(monitor, told("monitor", [denied, "ok", denied, denied]));
    // In neither group: nobody.
    let stranger = asked_as(STRANGER, &[60_001], world.socket()).await;
    assert_eq!(stranger[0].1, "UNKNOWN_CALLER");
    // More groups than count: as if in none.
    let many: &'static [u32] = Vec::from_iter((0..2000).map(|n| 8000 + n).chain([MEMBERS])).leak();
    let crowded = asked_as(STRANGER, many, world.socket()).await;
    assert_eq!(crowded[0].1, "UNKNOWN_CALLER");
}

#[tokio::test]
async fn an_unknown_caller_is_told_why_within_moments() {
    let Some(world) = world_of_others() else { return };
    let (daemon, _client) = world.start_with_key().await;
    let (answer, took) = encrypt_as(STRANGER, world.socket()).await;
    let error = answer.unwrap_err();
    assert_eq!((error.code, error.reason()), (Code::PermissionDenied, "UNKNOWN_CALLER"), "{error}");
    assert!(error.message.contains("uid 7004"), "{error}");
    assert!(took < Duration::from_secs(2), "{took:?}");
    let (known, _) = encrypt_as(APPLICATION, world.socket()).await;
    known.unwrap();
    let [record] = records(&world, daemon, "unknown-callers").await.try_into().unwrap();
    assert_eq!((record.outcome, record.caller.unwrap().uid), (failed("UNKNOWN_CALLER"), STRANGER));
}

/// A range of subordinate ids: as many users as one likes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_unknown_users_leave_one_record_a_second() {
    let Some(world) = world_of_others() else { return };
    let (daemon, _client) = world.start_with_key().await;
    let began = Instant::now();
    let users: Vec<_> = (0..100)
        .map(|number| {
            let socket = world.socket();
            as_user(100_000 + number, move || {
                let mut connection = UnixStream::connect(socket).unwrap();
                connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                // Closed or reset, and not still open when the time is over.
                match connection.read_to_end(&mut Vec::new()) {
                    Ok(_) => true,
                    Err(error) => error.kind() == ErrorKind::ConnectionReset,
                }
            })
        })
        .collect();
    let ended = move || users.into_iter().map(|user| user.join().unwrap()).filter(|ended| *ended).count();
    assert_eq!(tokio::task::spawn_blocking(ended).await.unwrap(), 100);
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap() + 2;
    let found = records(&world, daemon, "unknown-callers").await;
    let told: u64 = found
        .iter()
        .map(|record| {
            let words = record.detail.as_deref().unwrap();
            assert!(words.len() < 300, "{words}");
            let connections = words.split(", ").nth(1).unwrap().split(' ').next().unwrap();
            connections.parse::<u64>().unwrap()
        })
        .sum();
    assert_eq!(told, 100, "{found:?}");
    assert!(found.len() <= seconds, "{} records in {seconds} seconds", found.len());
}

/// Two thousand connections of a caller who is nobody, against a daemon with a thousand descriptors.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_is_nobody_takes_no_descriptors_from_others() {
    let Some(mut world) = world_of_others() else { return };
    let own = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: own.maximum, maximum: own.maximum }).unwrap();
    world.launcher = vec!["prlimit".to_owned(), "--nofile=1024:1024".to_owned()];
    let (daemon, client) = world.start_with_key().await;
    let over = Arc::new(AtomicBool::new(false));
    let victim = tokio::spawn({
        let over = over.clone();
        async move {
            let mut done = 0;
            while !over.load(Ordering::Relaxed) {
                client.encrypt(KEY, "x", &context([("id", "7")])).await.unwrap();
                done += 1;
            }
            done
        }
    });
    let (told, connected) = tokio::sync::oneshot::channel();
    let (release, held) = std::sync::mpsc::channel::<()>();
    let socket = world.socket();
    let flood = as_user(STRANGER, move || {
        let open: Vec<_> = (0..2000).map(|_| UnixStream::connect(&socket).unwrap()).collect();
        told.send(open.len()).unwrap();
        // Until the test is done.
        held.recv().ok();
    });
    assert_eq!(connected.await.unwrap(), 2000);
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    assert!(descriptors < 256, "{descriptors}");
    daemon.status().await.expect("a new operator is let in");
    let (known, _) = encrypt_as(APPLICATION, world.socket()).await;
    known.expect("a new application is let in");
    over.store(true, Ordering::Relaxed);
    assert!(victim.await.unwrap() > 0);
    drop(release);
    flood.join().unwrap();
    assert!(!world.log().contains("Too many open files"), "{}", world.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_user_has_no_more_connections_than_it_may() {
    let Some(mut world) = world_of_others() else { return };
    world.reconfigure("[server]\n", "[server]\nmax_connections_per_uid = 16\n");
    let (daemon, client) = world.start_with_key().await;
    let socket = world.socket();
    let crowd = as_user(APPLICATION, move || {
        let connect = || {
            let mut connection = UnixStream::connect(&socket).unwrap();
            connection.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            // Half a preface, and no more.
            connection.write_all(b"PRI * HTTP").ok();
            connection
        };
        let read = |mut connection: UnixStream| {
            let mut first = Vec::new();
            connection.read_to_end(&mut first).map(|_| first.len()).unwrap_or(0)
        };
        let held: Vec<_> = (0..16).map(|_| connect()).collect();
        let began = Instant::now();
        let refused = read(connect());
        let at_once = began.elapsed();
        // Whoever does not begin is closed, and its place is free again.
        let greeted = held.into_iter().map(read).collect::<Vec<_>>();
        (refused, at_once, greeted.len(), began.elapsed())
    });
    client.encrypt(KEY, "x", &context([("id", "7")])).await.unwrap();
    let (refused, at_once, held, all) =
        tokio::task::spawn_blocking(move || crowd.join().unwrap()).await.unwrap();
    assert_eq!((refused, held), (0, 16), "the next one hears nothing");
    assert!(at_once < Duration::from_secs(3), "{at_once:?}");
    assert!(all > at_once && all < Duration::from_secs(20), "{all:?}");
    let (again, _) = encrypt_as(APPLICATION, world.socket()).await;
    again.expect("the places are free again");
    let [record] = records(&world, daemon, "connections-refused").await.try_into().unwrap();
    assert_eq!((record.outcome, record.caller.unwrap().uid), (failed("TOO_MUCH_IN_FLIGHT"), APPLICATION));
}

#[tokio::test]
async fn a_user_of_two_principals_is_neither() {
    let Some(mut world) = world_of_others() else { return };
    world.config +=
        &format!("\n[[principal]]\nname = \"erp\"\nrole = \"operator\"\nusers = [{APPLICATION}]\n");
    let checked = world
        .command("keywardd")
        .args(["--config", &world.config_file(), "--check-config"])
        .output()
        .unwrap();
    assert!(checked.status.success(), "{}", text(&checked));
    assert!(text(&checked).contains("user 7001 belongs to both crm and erp"), "{}", text(&checked));
    let (daemon, _client) = world.start_with_key().await;
    let (answer, _) = encrypt_as(APPLICATION, world.socket()).await;
    assert_eq!(answer.unwrap_err().reason(), "AMBIGUOUS_CALLER");
    let [record] = records(&world, daemon, "ambiguous-callers").await.try_into().unwrap();
    assert_eq!(record.outcome, failed("AMBIGUOUS_CALLER"));
}

#[tokio::test]
async fn the_daemons_own_user_looks_after_it_and_reads_nothing() {
    let mut world = World::ready();
    world.start_with_key().await.0.stop().await;
    world.reconfigure("allow_own_user = true", "allow_own_user = false");
    let refused = world.fails_to_start();
    assert!(refused.contains("principal tester") && refused.contains("runs the daemon"), "{refused}");
    let uid = rustix::process::getuid().as_raw();
    world.reconfigure(&format!("users = [{uid}]"), &format!("users = [{}]", uid + 1));
    let daemon = world.start().await;
    let client = daemon.client().await;
    let status = daemon.status().await.unwrap();
    assert_eq!((status.principal.as_str(), status.role.as_str()), ("keywardd", "own-user"));
    let drill = RecordDrillRequest { name: "backups/7".into(), passed: true, report: "all keys open".into() };
    client.backup().record_drill(drill).await.unwrap();
    let denied = client.encrypt(KEY, "x", &context([("id", "7")])).await.unwrap_err();
    assert_eq!(denied.reason(), "PERMISSION_DENIED", "{denied}");
    assert!(denied.message.contains("own user"), "{denied}");
    let tenant = CreateTenantRequest { tenant_id: "zeta".into(), display_name: String::new() };
    assert_eq!(reason(&client.keys().create_tenant(tenant).await.unwrap_err()), "PERMISSION_DENIED");
    let [record] = records(&world, daemon, "backup-drill").await.try_into().unwrap();
    assert_eq!(record.caller.unwrap().principal.as_deref(), Some("keywardd"));
}

/// Two bytes each on the wire, and eighty in memory.
#[tokio::test]
async fn a_batch_of_a_million_empty_items_is_never_made() {
    let world = World::ready();
    let (daemon, _client) = world.start_with_key().await;
    let mut crypto = world.crypto().await;
    let items = vec![batch_encrypt_request::Item::default(); 2_000_000];
    let request = BatchEncryptRequest { name: KEY.into(), items };
    let before = most_memory(&daemon);
    let refused = crypto.batch_encrypt(request).await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::InvalidArgument, "TOO_LARGE"),
        "{refused}"
    );
    assert!(refused.message().contains("more than 1000 items"), "{refused}");
    let grown = most_memory(&daemon) - before;
    assert!(grown < 64 << 10, "{grown} KiB");
    let [record] = records(&world, daemon, "refused-call").await.try_into().unwrap();
    assert_eq!(
        (record.outcome, record.resource.as_str()),
        (failed("TOO_LARGE"), "/keyward.v1.CryptoService/BatchEncrypt")
    );
}

#[tokio::test]
async fn messages_are_as_long_as_their_method_needs_and_no_longer() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let tenant = |bytes| CreateTenantRequest { tenant_id: "zeta".into(), display_name: "z".repeat(bytes) };
    let refused = client.keys().create_tenant(tenant(100 << 10)).await.unwrap_err();
    assert_eq!(reason(&refused), "TOO_LARGE", "{refused}");
    let field =
        |bytes| EncryptRequest { name: KEY.into(), plaintext: vec![7; bytes].into(), ..Default::default() };
    world.crypto().await.encrypt(field(1 << 20)).await.expect("the largest field");
    let refused = world.crypto().await.encrypt(field(3 << 20)).await.unwrap_err();
    assert_eq!(reason(&refused), "TOO_LARGE", "{refused}");
    let batch = |bytes: usize| BatchEncryptRequest {
        name: KEY.into(),
        items: vec![
            batch_encrypt_request::Item { plaintext: vec![7; bytes].into(), ..Default::default() };
            4
        ],
    };
    world.crypto().await.batch_encrypt(batch(1 << 19)).await.expect("a large batch");
    let refused = world.crypto().await.batch_encrypt(batch(2 << 20)).await.unwrap_err();
    assert_eq!(reason(&refused), "TOO_LARGE", "{refused}");
    let found = records(&world, daemon, "refused-call").await;
    let told: Vec<_> = found.iter().map(|record| record.resource.rsplit('/').next().unwrap()).collect();
    assert_eq!(told, ["CreateTenant", "Encrypt", "BatchEncrypt"]);
}

/// They are no calls of this API, and take no more than its smallest.
#[tokio::test]
async fn health_and_reflection_take_small_messages_only() {
    let world = World::ready();
    let (daemon, _client) = world.start_with_key().await;
    let address = format!("unix://{}", world.socket().display());
    let channel = Endpoint::try_from(address).unwrap().connect().await.unwrap();
    let asked = |bytes| HealthCheckRequest { service: "x".repeat(bytes) };
    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest::default()).await.unwrap();
    let refused = health.check(asked(8 << 10)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::OutOfRange, "{refused}");
    let mut reflection = ServerReflectionClient::new(channel);
    for (bytes, refused) in [(100, false), (8 << 10, true)] {
        let message = MessageRequest::ListServices("x".repeat(bytes));
        let asked = ServerReflectionRequest { host: String::new(), message_request: Some(message) };
        let mut answers =
            reflection.server_reflection_info(tokio_stream::iter([asked])).await.unwrap().into_inner();
        // Its service ends the stream without a word when a message does not decode.
        assert_eq!(matches!(answers.message().await, Ok(Some(_))), !refused, "{bytes} bytes");
    }
    assert!(daemon.stop().await.success());
}

/// A thousand items wait for the store in each of some sessions; few of them read it at a time.
#[tokio::test(flavor = "multi_thread")]
async fn items_that_wait_for_the_store_take_few_descriptors() {
    const SESSIONS: u32 = 8;
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let sealed = client.encrypt(KEY, "x", &About::new()).await.unwrap().ciphertext;
    let asked = ListKeyVersionsRequest { parent: KEY.into(), ..Default::default() };
    let versions = client.keys().list_key_versions(asked).await.unwrap().into_inner().key_versions;
    let dek = versions[0].dek_id.to_vec();
    let at = sealed.windows(dek.len()).position(|bytes| bytes == &dek[..]).unwrap();
    let unknown = move |id: u64| {
        let mut ciphertext = sealed.to_vec();
        ciphertext[at..at + 8].copy_from_slice(&id.to_be_bytes());
        let asked = DecryptRequest { name: KEY.into(), ciphertext: ciphertext.into(), ..Default::default() };
        CryptSessionRequest { id, request: Some(Asked::Decrypt(asked)) }
    };
    let mut sessions = tokio::task::JoinSet::new();
    for session in 0..SESSIONS {
        let (mut crypto, unknown) = (world.crypto().await, unknown.clone());
        sessions.spawn(async move {
            let items = (1..=1000).map(move |item| unknown(u64::from(session) * 1000 + item));
            let mut answers = crypto.crypt_session(tokio_stream::iter(items)).await.unwrap().into_inner();
            while answers.message().await.unwrap().is_some() {}
        });
    }
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap().count();
    let mut most = 0;
    while sessions.try_join_next().transpose().unwrap().is_some() || !sessions.is_empty() {
        most = most.max(descriptors());
        client.encrypt(KEY, "y", &About::new()).await.expect("others are served");
    }
    assert!(most < 300, "{most} descriptors");
    assert!(daemon.stop().await.success());
}

/// What leaves no other record: an empty session, a file without a header, a method that there is not.
#[tokio::test]
async fn every_attempt_of_a_known_caller_is_on_record() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let nothing = tokio_stream::empty::<CryptSessionRequest>();
    let mut session = client.crypto().crypt_session(nothing).await.unwrap().into_inner();
    assert_eq!(session.message().await.unwrap(), None);
    let chunk = EncryptStreamRequest { message: Some(Message::Chunk(vec![7; 9].into())) };
    let mut file = client.crypto().encrypt_stream(tokio_stream::iter([chunk])).await.unwrap().into_inner();
    assert_eq!(reason(&file.message().await.unwrap_err()), "ARGUMENT_INVALID");
    let address = format!("unix://{}", world.socket().display());
    let channel = Endpoint::try_from(address).unwrap().connect().await.unwrap();
    let mut elsewhere = CryptoServiceClient::new(Elsewhere(channel));
    let unknown = elsewhere.encrypt(EncryptRequest::default()).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::Unimplemented, "METHOD_UNKNOWN"));
    assert!(daemon.stop().await.success(), "{}", world.log());
    let records = world.audit();
    let outcome = |operation: &str| {
        records.iter().filter(|r| r.operation == operation).map(|r| r.outcome.clone()).collect::<Vec<_>>()
    };
    assert_eq!(outcome("session-end"), [Outcome::Ok]);
    assert_eq!(outcome("encrypt-stream"), [failed("ARGUMENT_INVALID")]);
    assert_eq!(outcome("refused-call"), [failed("METHOD_UNKNOWN")]);
}

#[tokio::test]
async fn what_does_not_fit_into_flight_is_refused_and_fits_again_later() {
    let mut world = World::ready();
    // One file holds a message of 1 MiB from its beginning, so two do not fit.
    world.config += "\n[limits]\nbatch = \"1MiB\"\nin_flight_per_connection = \"1MiB\"\n";
    let (daemon, client) = world.start_with_key().await;
    let begin = || {
        let (pieces, queue) = tokio::sync::mpsc::channel(4);
        let header = StreamHeader { name: KEY.into(), ..StreamHeader::default() };
        pieces.try_send(EncryptStreamRequest { message: Some(Message::Header(header)) }).unwrap();
        let mut crypto = client.crypto();
        async move {
            let answers = crypto.encrypt_stream(ReceiverStream::new(queue)).await?.into_inner();
            Ok::<_, Status>((pieces, answers))
        }
    };
    let first = begin().await.unwrap();
    let refused = begin().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::ResourceExhausted, "TOO_MUCH_IN_FLIGHT"));
    drop(first);
    eventually("room for another file", async || begin().await.ok()).await;
    let found = records(&world, daemon, "refused-call").await;
    assert!(!found.is_empty());
    assert!(found.iter().all(|record| record.outcome == failed("TOO_MUCH_IN_FLIGHT")), "{found:?}");
}

/// A minute without reading: the session and the file end, and their records say why.
#[tokio::test]
async fn whoever_does_not_read_is_ended_with_a_record() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let (mut crypto, mut files) = (world.crypto().await, world.crypto().await);
    let before = most_memory(&daemon);
    let field = EncryptRequest { name: KEY.into(), plaintext: vec![7; 1 << 20].into(), ..Default::default() };
    let items =
        (1..=200).map(move |id| CryptSessionRequest { id, request: Some(Asked::Encrypt(field.clone())) });
    let session = crypto.crypt_session(tokio_stream::iter(items)).await.unwrap().into_inner();
    let header = StreamHeader { name: KEY.into(), ..StreamHeader::default() };
    let chunks = std::iter::once(Message::Header(header))
        .chain(std::iter::repeat_n(Message::Chunk(vec![7; 1 << 20].into()), 200))
        .map(|message| EncryptStreamRequest { message: Some(message) });
    let mut file = files.encrypt_stream(tokio_stream::iter(chunks)).await.unwrap().into_inner();

    let deadline = Instant::now() + Duration::from_secs(150);
    while world.log().matches("CALLER_STALLED").count() < 2 {
        assert!(Instant::now() < deadline, "{}", world.log());
        client.encrypt(KEY, "x", &context([("id", "7")])).await.expect("others go on");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let grown = most_memory(&daemon) - before;
    assert!(grown < 128 << 10, "{grown} KiB");
    // A cut file is never taken for a whole one.
    let end = loop {
        match file.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the file ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&end), "CALLER_STALLED", "{end}");
    drop((session, file, crypto, files));
    assert!(daemon.stop().await.success(), "{}", world.log());
    let stalled: Vec<_> =
        world.audit().into_iter().filter(|record| record.outcome == failed("CALLER_STALLED")).collect();
    let told = |operation: &str| stalled.iter().any(|record| record.operation == operation);
    assert!(told("session-end") && told("encrypt-stream-end"), "{stalled:?}");
}

/// A client whose calls go to a method that there is not.
struct Elsewhere(Channel);

impl Service<Request<Body>> for Elsewhere {
    type Response = Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        *request.uri_mut() = Uri::from_static("/keyward.v1.CryptoService/Nothing");
        self.0.call(request)
    }
}
