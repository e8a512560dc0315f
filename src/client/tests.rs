//! The client against a fake daemon on a real socket.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use super::error::{DEADLINE_EXCEEDED, UNREACHABLE};
use super::fake::{self, Fake, Running, refusal};
use super::*;

const KEY: &str = "tenants/acme/keys/pii";

struct Bed {
    fake: Arc<Fake>,
    running: Option<Running>,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn new(fake: Fake) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (fake, socket) = (Arc::new(fake), dir.path().join("s"));
        let running = Some(fake::start(&socket, &fake));
        Self { fake, running, socket, _dir: dir }
    }

    async fn client(&self, deadline: Duration) -> Client {
        Client::connect_with(&self.socket, Options { deadline, in_flight: 8 }).await.unwrap()
    }

    fn refuse(&self, code: Code, reason: &str, retry: Option<Duration>) {
        self.fake.refusals.lock().unwrap().push_back(refusal(code, reason, retry));
    }

    fn kill(&mut self) {
        self.running = None;
    }

    fn restart(&mut self) {
        self.running = Some(fake::start(&self.socket, &self.fake));
    }
}

const AMPLE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn fields_round_trip_and_wrong_context_is_refused() {
    let bed = Bed::new(Fake::default());
    let client = bed.client(AMPLE).await;
    let about = context([("id", "1")]);
    let sealed = client.encrypt(KEY, "secret", &about).await.unwrap();
    let opened = client.decrypt(KEY, sealed.ciphertext.clone(), &about).await.unwrap();
    assert_eq!((opened.plaintext.expose(), opened.version), (&b"secret"[..], 1));
    let refused = client.decrypt(KEY, sealed.ciphertext, &context([("id", "2")])).await.unwrap_err();
    assert_eq!((refused.code, refused.reason()), (Code::InvalidArgument, "CIPHERTEXT_REFUSED"));
}

#[tokio::test]
async fn many_callers_share_a_session_answered_out_of_order_and_bounded() {
    let bed = Bed::new(Fake { hold: 8, ..Fake::default() });
    let client = bed.client(AMPLE).await;
    let mut calls = JoinSet::new();
    for n in 0..96 {
        let client = client.clone();
        calls.spawn(async move {
            let text = format!("field {n}");
            let sealed = client.encrypt(KEY, text.clone(), &Context::new()).await.unwrap();
            assert_eq!(sealed.ciphertext, fake::seal(KEY, &Context::new(), text.as_bytes()));
        });
    }
    calls.join_all().await;
    assert_eq!(bed.fake.most_under_way.load(Ordering::SeqCst), 8);
}

#[tokio::test]
async fn a_restarted_daemon_is_found_again() {
    let mut bed = Bed::new(Fake::default());
    let client = bed.client(AMPLE).await;
    for _ in 0..3 {
        client.encrypt(KEY, "a", &Context::new()).await.unwrap();
        bed.kill();
        let waiting = tokio::spawn({
            let client = client.clone();
            async move { client.encrypt(KEY, "b", &Context::new()).await }
        });
        tokio::task::yield_now().await;
        bed.restart();
        waiting.await.unwrap().unwrap();
        client.batch_encrypt(KEY, vec![]).await.unwrap();
    }
}

#[tokio::test]
async fn answers_lost_with_the_daemon_are_asked_again() {
    let mut bed = Bed::new(Fake { hold: 2, ..Fake::default() });
    let client = bed.client(AMPLE).await;
    let call = |text: &'static str| {
        let client = client.clone();
        tokio::spawn(async move { client.encrypt(KEY, text, &Context::new()).await })
    };
    let first = call("a");
    while bed.fake.most_under_way.load(Ordering::SeqCst) == 0 {
        tokio::task::yield_now().await;
    }
    bed.kill();
    bed.restart();
    let second = call("b");
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let bed = Bed::new(Fake { hold: usize::MAX, ..Fake::default() });
    let client = bed.client(Duration::from_millis(100)).await;
    let error = client.encrypt(KEY, "a", &Context::new()).await.unwrap_err();
    assert_eq!((error.code, error.reason()), (Code::DeadlineExceeded, DEADLINE_EXCEEDED));
}

#[tokio::test]
async fn a_daemon_that_stays_away_is_named() {
    let mut bed = Bed::new(Fake::default());
    let client = bed.client(Duration::from_millis(200)).await;
    bed.kill();
    let errors = [
        client.encrypt(KEY, "a", &Context::new()).await.unwrap_err(),
        client.batch_encrypt(KEY, vec![]).await.unwrap_err(),
    ];
    for error in errors {
        assert_eq!((error.code, error.reason()), (Code::Unavailable, UNREACHABLE), "{error}");
    }
    let error = Client::connect("/nowhere/at/all").await.err().unwrap();
    assert_eq!(error.to_string(), "is keywardd running? there is no socket at /nowhere/at/all");
}

#[tokio::test]
async fn only_hinted_refusals_are_repeated() {
    let bed = Bed::new(Fake::default());
    let client = bed.client(AMPLE).await;
    let seen = || bed.fake.seen.swap(0, Ordering::SeqCst);
    let hint = Some(Duration::from_millis(5));

    bed.refuse(Code::Unavailable, "HSM_UNAVAILABLE", hint);
    bed.refuse(Code::ResourceExhausted, "HSM_BUSY", hint);
    client.encrypt(KEY, "a", &Context::new()).await.unwrap();
    assert_eq!(seen(), 3);

    bed.refuse(Code::Unavailable, "HSM_UNAVAILABLE", hint);
    client.re_encrypt(KEY, fake::seal(KEY, &Context::new(), b"a"), &Context::new()).await.unwrap();
    assert_eq!(seen(), 2);

    for (code, reason) in
        [(Code::InvalidArgument, "CONTEXT_INVALID"), (Code::Unavailable, "AUDIT_UNAVAILABLE")]
    {
        bed.refuse(code, reason, None);
        let error = client.encrypt(KEY, "a", &Context::new()).await.unwrap_err();
        assert_eq!((error.code, error.reason(), seen()), (code, reason, 1));
    }
}

#[tokio::test]
async fn administration_is_not_repeated() {
    let bed = Bed::new(Fake::default());
    let client = bed.client(AMPLE).await;
    bed.refuse(Code::Unavailable, "HSM_UNAVAILABLE", Some(Duration::ZERO));
    let rotate = || crate::rpc::proto::RotateTenantRequest { name: "tenants/acme".into() };
    let error = client.call(client.keys().rotate_tenant(rotate())).await.unwrap_err();
    assert_eq!(error.reason(), "HSM_UNAVAILABLE");
    client.call(client.keys().rotate_tenant(rotate())).await.unwrap();
}

#[tokio::test]
async fn items_of_a_batch_fail_alone() {
    let bed = Bed::new(Fake::default());
    let client = bed.client(AMPLE).await;
    let item = |data: &'static str| Item { data: data.into(), context: Context::new() };
    let sealed = client.batch_encrypt(KEY, vec![item("a"), item("b")]).await.unwrap();
    let mut items: Vec<_> =
        sealed.into_iter().map(|data| Item { data: data.unwrap(), context: Context::new() }).collect();
    items.insert(1, item("no ciphertext"));
    let opened = client.batch_decrypt(KEY, items).await.unwrap();
    let texts: Vec<_> =
        opened.iter().map(|r| r.as_ref().map(|p| p.expose()).map_err(Error::reason)).collect();
    assert_eq!(texts, [Ok(&b"a"[..]), Err("CIPHERTEXT_MALFORMED"), Ok(b"b")]);
}

#[tokio::test]
async fn data_keys_and_indexes() {
    let bed = Bed::new(Fake::default());
    let client = bed.client(AMPLE).await;
    let about = context([("file", "7")]);
    let made = client.generate_data_key(KEY, &about).await.unwrap();
    let opened = client.decrypt_data_key(KEY, made.sealed.ciphertext, &about).await.unwrap();
    assert_eq!(opened.plaintext.expose(), made.key.expose());
    client.generate_sealed_data_key(KEY, &about).await.unwrap();
    let digits = crate::rpc::proto::Normalization::Digits;
    assert_eq!(client.blind_index(KEY, "phone", "1", digits).await.unwrap().index.len(), 20);
}

#[tokio::test]
async fn files_round_trip() {
    let bed = Bed::new(Fake::default());
    let client = bed.client(AMPLE).await;
    for size in [0, 1, 256 << 10, (256 << 10) + 1, 3_000_000] {
        let (mut sealed, mut opened) = (Vec::new(), Vec::new());
        let data: Vec<u8> = (0..size).map(|n: u32| (n % 101) as u8).collect();
        let streamed = client.encrypt_stream(KEY, &Context::new(), &data[..], &mut sealed).await.unwrap();
        assert_eq!((streamed.bytes_in, streamed.bytes_out), (data.len() as u64, sealed.len() as u64));
        assert_eq!(streamed.version, 1);
        client.decrypt_stream(KEY, &Context::new(), &sealed[..], &mut opened).await.unwrap();
        assert!(opened == data, "{size}");
    }
}

#[tokio::test]
async fn a_damaged_file_and_a_broken_reader_fail() {
    let bed = Bed::new(Fake::default());
    let client = bed.client(AMPLE).await;
    let mut sealed = fake::seal(KEY, &Context::new(), &vec![0; 1 << 20]).to_vec();
    sealed[900_000] = 0xff;
    let error =
        client.decrypt_stream(KEY, &Context::new(), &sealed[..], tokio::io::sink()).await.unwrap_err();
    assert!(matches!(error, StreamError::Daemon(e) if e.reason() == "CIPHERTEXT_REFUSED"));

    let broken = broken_reader();
    let error = client.encrypt_stream(KEY, &Context::new(), broken, tokio::io::sink()).await.unwrap_err();
    assert!(matches!(error, StreamError::Read(_)), "{error}");
}

/// Gives a little, then fails.
fn broken_reader() -> impl tokio::io::AsyncRead + Unpin {
    struct Broken(bool);
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            mut self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            buffer: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            if std::mem::replace(&mut self.0, true) {
                return std::task::Poll::Ready(Err(std::io::Error::other("disk on fire")));
            }
            buffer.put_slice(b"beginning");
            std::task::Poll::Ready(Ok(()))
        }
    }
    Broken(false)
}
