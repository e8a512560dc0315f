//! An orderly stop finishes what is in flight, and ends in time whatever its clients do.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use keyward::audit::{Outcome, Record};
use keyward::client::{Code, Context};
use keyward::rpc::proto::crypt_session_request::Request;
use keyward::rpc::proto::crypt_session_response::Response as Answer;
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{
    CryptSessionRequest, CryptSessionResponse, DecryptStreamRequest, EncryptRequest, EncryptStreamRequest,
    GetStatusRequest, StreamHeader, decrypt_stream_request, encrypt_stream_request::Message,
};
use keyward_softhsm_tests::{Daemon, KEY, World, eventually_now};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

fn message(message: Message) -> EncryptStreamRequest {
    EncryptStreamRequest { message: Some(message) }
}

fn header() -> StreamHeader {
    StreamHeader { name: KEY.into(), ..StreamHeader::default() }
}

fn encrypt(id: u64, plaintext: Vec<u8>) -> CryptSessionRequest {
    let asked = EncryptRequest { name: KEY.into(), plaintext: plaintext.into(), context: Default::default() };
    CryptSessionRequest { id, request: Some(Request::Encrypt(asked)) }
}

/// The code and the reason of a refusal.
fn refusal(status: &tonic::Status) -> (Code, String) {
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}

fn shutting_down() -> (Code, String) {
    (Code::Unavailable, "SHUTTING_DOWN".to_owned())
}

/// Stops the daemon; how long that took.
async fn stop(world: &World, daemon: Daemon) -> Duration {
    let began = Instant::now();
    assert!(daemon.stop().await.success(), "{}", world.log());
    began.elapsed()
}

fn of<'r>(records: &'r [Record], operation: &str) -> Vec<&'r Record> {
    records.iter().filter(|record| record.operation == operation).collect()
}

#[tokio::test]
async fn a_file_that_was_begun_is_finished() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    let (pieces, queue) = mpsc::channel(4);
    pieces.send(message(Message::Header(header()))).await.unwrap();
    let mut answers = client.crypto().encrypt_stream(ReceiverStream::new(queue)).await.unwrap().into_inner();
    let mut sealed = answers.message().await.unwrap().unwrap().chunk.to_vec();
    daemon.signal(Signal::TERM);
    for _ in 0..8 {
        pieces.send(message(Message::Chunk(vec![7; 100_000].into()))).await.unwrap();
    }
    drop(pieces);
    while let Some(answer) = answers.message().await.unwrap() {
        sealed.extend_from_slice(&answer.chunk);
    }
    stop(&world, daemon).await;

    let daemon = world.start().await;
    let mut opened = Vec::new();
    daemon.client().await.decrypt_stream(KEY, &Context::new(), &sealed[..], &mut opened).await.unwrap();
    assert_eq!(opened, vec![7; 800_000]);
    let records = world.audit();
    assert_eq!(of(&records, "encrypt-stream-end")[0].outcome, Outcome::Ok);
    assert_eq!(of(&records, "stop").len(), 1);
}

#[tokio::test]
async fn a_session_that_is_cut_says_so() {
    let world = World::ready();
    let (daemon, _client) = world.start_with_key().await;
    let (requests, queue) = mpsc::channel(64);
    // Sends until nobody takes it any more: the caller never says that it is done.
    let feeder = tokio::spawn(async move {
        let mut id = 1;
        while requests.send(encrypt(id, b"x".to_vec())).await.is_ok() {
            id += 1;
        }
    });
    let mut answers =
        world.crypto().await.crypt_session(ReceiverStream::new(queue)).await.unwrap().into_inner();
    let (mut answered, mut refused) = (0_u32, 0_u32);
    let end = loop {
        match answers.message().await {
            // What was taken in the moment of the stop is told so itself.
            Ok(Some(CryptSessionResponse { response: Some(Answer::Error(error)), .. })) => {
                assert_eq!(error.code, Code::Unavailable as i32, "{error:?}");
                refused += 1;
            }
            Ok(Some(_)) => {
                answered += 1;
                if answered == 100 {
                    daemon.signal(Signal::TERM);
                }
            }
            Ok(None) => panic!("the session looks whole after {answered} answers"),
            Err(status) => break status,
        }
    };
    assert_eq!(refusal(&end), shutting_down());
    drop(answers);
    stop(&world, daemon).await;
    feeder.abort();
    // No more than one turn of taking.
    assert!(refused <= 1024, "{refused} refused");
    let records = world.audit();
    let done = |record: &&Record| record.items.as_ref().map_or(0, |items| items.done);
    let recorded: u32 = of(&records, "session-encrypt").iter().map(done).sum();
    assert!(recorded >= answered, "{recorded} recorded, {answered} answered");
    assert_eq!(records.last().unwrap().operation, "stop");
}

/// A caller that has sent all still waits for its answers; one that it does not get is no good end.
#[tokio::test]
async fn a_session_whose_items_wait_for_the_hsm_does_not_end_well() {
    let mut world = World::ready();
    world.reconfigure("shutdown_grace = \"10s\"", "shutdown_grace = \"2s\"");
    let (daemon, _client) = world.start_with_key().await;
    assert!(daemon.stop().await.success());
    let daemon = world.start().await;
    let hsm = daemon.serving_processes(1).await.remove(0);
    hsm.signal(Signal::STOP);
    let asked = tokio_stream::iter([encrypt(1, b"x".to_vec())]);
    let mut answers = world.crypto().await.crypt_session(asked).await.unwrap().into_inner();
    daemon.signal(Signal::TERM);
    let end = answers.message().await.expect_err("the session looks whole");
    assert_eq!(refusal(&end), shutting_down());
    stop(&world, daemon).await;
    let records = world.audit();
    let ended = of(&records, "session-end");
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].outcome, Outcome::Failed("SHUTTING_DOWN".into()));
}

/// A file that was begun has its time; then its caller and its record say that it was cut.
#[tokio::test]
async fn a_file_that_goes_on_is_cut_and_says_so() {
    let mut world = World::ready();
    world.reconfigure("shutdown_grace = \"10s\"", "shutdown_grace = \"2s\"");
    let (daemon, client) = world.start_with_key().await;
    let mut sealed = Vec::new();
    client.encrypt_stream(KEY, &Context::new(), &[7_u8; 300_000][..], &mut sealed).await.unwrap();
    let (pieces, queue) = mpsc::channel(4);
    let piece = |message| DecryptStreamRequest { message: Some(message) };
    pieces.send(piece(decrypt_stream_request::Message::Header(header()))).await.unwrap();
    let begun = sealed[..200_000].to_vec();
    pieces.send(piece(decrypt_stream_request::Message::Chunk(begun.into()))).await.unwrap();
    let mut answers = client.crypto().decrypt_stream(ReceiverStream::new(queue)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    daemon.signal(Signal::TERM);
    let end = loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a part looks like the whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(refusal(&end), shutting_down());
    stop(&world, daemon).await;
    let records = world.audit();
    let ended = of(&records, "decrypt-stream-end");
    assert_eq!(ended.len(), 1);
    assert_eq!(ended[0].outcome, Outcome::Failed("SHUTTING_DOWN".into()));
}

/// A connection of a client that says what it wants and then neither reads nor writes.
struct Holding(UnixStream);

impl Holding {
    /// Opens `calls` calls of `method` and sends no message on them. Acknowledges nothing.
    fn open(socket: &Path, method: &str, calls: u32) -> Self {
        let mut stream = UnixStream::connect(socket).unwrap();
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut bytes, 4, 0, 0, &[]);
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", method),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ];
        let mut block = Vec::new();
        for (name, value) in fields {
            // A literal field, not indexed, no Huffman code (RFC 7541, 6.2.2).
            block.push(0);
            for text in [name, value] {
                block.push(u8::try_from(text.len()).unwrap());
                block.extend_from_slice(text.as_bytes());
            }
        }
        for call in 0..calls {
            // END_HEADERS, and the stream stays open.
            frame(&mut bytes, 1, 4, 2 * call + 1, &block);
        }
        stream.write_all(&bytes).unwrap();
        // The daemon's first bytes: it has taken the connection.
        stream.read_exact(&mut [0; 9]).unwrap();
        Self(stream)
    }
}

/// One frame of HTTP/2 (RFC 9113, 4.1).
fn frame(to: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    to.extend_from_slice(&u32::try_from(payload.len()).unwrap().to_be_bytes()[1..]);
    to.extend_from_slice(&[kind, flags]);
    to.extend_from_slice(&stream.to_be_bytes());
    to.extend_from_slice(payload);
}

/// Nothing was begun for these, so nothing is waited for.
#[tokio::test]
async fn a_stop_does_not_wait_for_who_only_holds_something() {
    let mut world = World::ready();
    world.reconfigure("shutdown_grace = \"10s\"", "shutdown_grace = \"60s\"");
    let (daemon, _client) = world.start_with_key().await;
    let silent = UnixStream::connect(world.socket()).unwrap();
    let mut half = UnixStream::connect(world.socket()).unwrap();
    half.write_all(b"PRI * HTTP/2.0\r\n").unwrap();
    let method = |name: &str| format!("/keyward.v1.CryptoService/{name}");
    let held = ["EncryptStream", "DecryptStream", "CryptSession", "Encrypt"]
        .map(|name| Holding::open(daemon.socket(), &method(name), 50));
    let mut health = HealthClient::new(world.channel().await);
    let watched = health.watch(HealthCheckRequest::default()).await.unwrap();
    let took = stop(&world, daemon).await;
    assert!(took < Duration::from_secs(20), "the stop took {took:?}\n{}", world.log());
    assert!(!world.log().contains("could not be recorded"), "{}", world.log());
    drop((silent, half, held.map(|held| held.0), watched));
}

/// Files that are not sent on, answers that are not read: the grace is waited once, and each has its record.
#[tokio::test]
async fn a_stop_ends_in_time_whatever_clients_do() {
    const GRACE: Duration = Duration::from_secs(8);
    const FILES: usize = 30;
    let mut world = World::ready();
    world.reconfigure("shutdown_grace = \"10s\"", "shutdown_grace = \"8s\"");
    world.config.push_str("\n[limits]\nin_flight_per_connection = \"128MiB\"\n");
    let (daemon, client) = world.start_with_key().await;
    let mut held = Vec::new();
    for _ in 0..FILES {
        let (pieces, queue) = mpsc::channel(4);
        pieces.send(message(Message::Header(header()))).await.unwrap();
        let mut answers =
            client.crypto().encrypt_stream(ReceiverStream::new(queue)).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        held.push((pieces, answers));
    }
    // As many answers as the windows of the connection hold, and more.
    let (requests, queue) = mpsc::channel(1);
    let unread = world.crypto().await.crypt_session(ReceiverStream::new(queue)).await.unwrap();
    let feeder = tokio::spawn(async move {
        let mut id = 1;
        while requests.send(encrypt(id, vec![7; 500_000])).await.is_ok() {
            id += 1;
        }
    });
    let took = stop(&world, daemon).await;
    assert!(took < GRACE + Duration::from_secs(5), "the stop took {took:?}\n{}", world.log());
    drop((held, unread));
    feeder.abort();
    let records = world.audit();
    assert_eq!(of(&records, "encrypt-stream").len(), FILES);
    let ended = of(&records, "encrypt-stream-end");
    assert_eq!(ended.len(), FILES, "{}", world.log());
    assert!(ended.iter().all(|record| record.outcome == Outcome::Failed("SHUTTING_DOWN".into())));
    assert!(!world.log().contains("could not be recorded"), "{}", world.log());
    // And the last checkpoint covers all of them.
    let report = keyward::audit::verify::verify(&world.path("state/audit")).unwrap();
    assert_eq!(report.counted.covered, report.records);
}

/// What systemd was told until now.
fn told(heard: &UnixDatagram) -> String {
    let mut buffer = [0; 2048];
    let mut said = String::new();
    while let Ok(length) = heard.recv(&mut buffer) {
        said.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        said.push('\n');
    }
    said
}

#[tokio::test]
async fn ready_means_serving_or_not_serving_for_a_reason_that_is_told() {
    let mut world = World::ready();
    let heard = UnixDatagram::bind(world.path("notify")).unwrap();
    heard.set_nonblocking(true).unwrap();
    world.launcher = vec!["env".into(), format!("NOTIFY_SOCKET={}", world.path("notify").display())];
    let mut said = String::new();
    let daemon = world.spawn();
    eventually_now("READY", || {
        said += &told(&heard);
        said.contains("READY=1").then_some(())
    });
    assert!(said.contains("READY=1\nSTATUS=serving"), "{said}");
    // At that moment, and not a little later.
    daemon.client().await.system().get_status(GetStatusRequest {}).await.unwrap();
    assert_eq!(daemon.status().await.unwrap().serving(), Serving::Ready);
    stop(&world, daemon).await;

    world.reconfigure("token = \"token\"", "token = \"another\"");
    said = String::new();
    let daemon = world.spawn();
    eventually_now("READY although the token is away", || {
        said += &told(&heard);
        said.contains("READY=1").then_some(())
    });
    assert!(said.contains("READY=1\nSTATUS=not serving: "), "{said}");
    assert!(said.contains("another"), "it names the token: {said}");
    stop(&world, daemon).await;
}

#[tokio::test]
async fn systemd_is_told_that_the_stop_goes_on() {
    let mut world = World::ready();
    let heard = UnixDatagram::bind(world.path("notify")).unwrap();
    heard.set_nonblocking(true).unwrap();
    world.launcher = vec!["env".into(), format!("NOTIFY_SOCKET={}", world.path("notify").display())];
    let daemon = world.start().await;
    let mut said = String::new();
    eventually_now("READY", || {
        said += &told(&heard);
        said.contains("READY=1").then_some(())
    });
    stop(&world, daemon).await;
    said += &told(&heard);
    let (ready, stopping) = (said.find("READY=1"), said.find("STOPPING=1"));
    assert!(ready.is_some() && ready < stopping, "{said}");
    assert!(said.contains("EXTEND_TIMEOUT_USEC=10000000"), "{said}");
}
