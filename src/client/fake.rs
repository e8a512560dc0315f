//! A daemon for tests: the generated traits over a reversible toy cipher, with faults on order.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt};

use super::Context;
use crate::rpc::proto::access_service_server::{AccessService, AccessServiceServer};
use crate::rpc::proto::crypt_session_request::Request as Ask;
use crate::rpc::proto::crypt_session_response::Response as Answer;
use crate::rpc::proto::crypto_service_server::{CryptoService, CryptoServiceServer};
use crate::rpc::proto::key_service_server::{KeyService, KeyServiceServer};
use crate::rpc::proto::system_service_server::{SystemService, SystemServiceServer};
use crate::rpc::proto::*;

const MARK: &[u8] = b"KW\x01\x01";

/// What the daemon does and has seen.
#[derive(Default)]
pub(crate) struct Fake {
    /// Answered, in order, instead of the next calls and session items.
    pub(crate) refusals: Mutex<VecDeque<Status>>,
    /// Session items gathered before they are answered, last first.
    pub(crate) hold: usize,
    /// Items under way in all sessions at most.
    pub(crate) most_under_way: AtomicUsize,
    /// Calls and items seen.
    pub(crate) seen: AtomicUsize,
    /// Administrative requests, as text.
    pub(crate) log: Mutex<Vec<String>>,
}

/// A running fake; it dies like a killed process when dropped.
pub(crate) struct Running(Option<tokio::runtime::Runtime>);

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Listens at `path` until the answer is dropped.
pub(crate) fn start(path: &Path, fake: &Arc<Fake>) -> Running {
    if path.exists() {
        std::fs::remove_file(path).unwrap();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let guard = runtime.enter();
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    drop(guard);
    let shared = || Shared(Arc::clone(fake));
    let server = tonic::transport::Server::builder()
        .add_service(CryptoServiceServer::new(shared()).max_decoding_message_size(16 << 20))
        .add_service(KeyServiceServer::new(shared()))
        .add_service(AccessServiceServer::new(shared()))
        .add_service(SystemServiceServer::new(shared()))
        .serve_with_incoming(UnixListenerStream::new(listener));
    runtime.spawn(server);
    Running(Some(runtime))
}

/// A refusal as the daemon words it.
pub(crate) fn refusal(code: Code, reason: &str, retry: Option<std::time::Duration>) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, "keyward", HashMap::new());
    details.set_retry_info(retry);
    Status::with_error_details(code, format!("refused: {reason}"), details)
}

fn digest(name: &str, context: &Context) -> [u8; 32] {
    Sha256::digest(format!("{name}{context:?}")).into()
}

/// MARK | digest of name and context | flipped plaintext
pub(crate) fn seal(name: &str, context: &Context, plaintext: &[u8]) -> Bytes {
    let mut sealed = BytesMut::from(MARK);
    sealed.extend_from_slice(&digest(name, context));
    sealed.extend(plaintext.iter().map(|byte| byte ^ 0x5a));
    sealed.freeze()
}

pub(crate) fn open(name: &str, context: &Context, sealed: &[u8]) -> Result<Bytes, Status> {
    let rest = sealed.strip_prefix(MARK).and_then(|rest| rest.split_at_checked(32));
    match rest {
        None => Err(refusal(Code::InvalidArgument, "CIPHERTEXT_MALFORMED", None)),
        Some((about, _)) if about != digest(name, context) => {
            Err(refusal(Code::InvalidArgument, "CIPHERTEXT_REFUSED", None))
        }
        Some((_, body)) => Ok(body.iter().map(|byte| byte ^ 0x5a).collect()),
    }
}

struct Shared(Arc<Fake>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Reply<T> = Result<Response<T>, Status>;

impl Fake {
    fn admit(&self) -> Result<(), Status> {
        self.seen.fetch_add(1, Ordering::SeqCst);
        self.refusals.lock().unwrap().pop_front().map_or(Ok(()), Err)
    }

    fn item(&self, ask: Option<Ask>) -> Result<Answer, Status> {
        self.admit()?;
        match ask {
            Some(Ask::Encrypt(e)) => Ok(Answer::Encrypt(EncryptResponse {
                ciphertext: seal(&e.name, &e.context, &e.plaintext),
                version: 1,
            })),
            Some(Ask::Decrypt(d)) => Ok(Answer::Decrypt(DecryptResponse {
                plaintext: open(&d.name, &d.context, &d.ciphertext)?,
                version: 1,
            })),
            None => Err(Status::invalid_argument("empty")),
        }
    }

    async fn session(&self, mut asks: Streaming<CryptSessionRequest>, out: Out<CryptSessionResponse>) {
        let mut held = Vec::new();
        while let Some(Ok(ask)) = asks.next().await {
            held.push(ask);
            self.most_under_way.fetch_max(held.len(), Ordering::SeqCst);
            if held.len() < self.hold {
                continue;
            }
            for CryptSessionRequest { id, request } in held.drain(..).rev() {
                let response = self.item(request).unwrap_or_else(|status| Answer::Error(rpc(&status)));
                if out.send(Ok(CryptSessionResponse { id, response: Some(response) })).await.is_err() {
                    return;
                }
            }
        }
    }
}

type Out<T> = mpsc::Sender<Result<T, Status>>;

/// A status of the transport as an item carries it.
pub(crate) fn rpc(status: &Status) -> tonic_types::Status {
    use prost::Message;
    match status.details() {
        [] => tonic_types::Status {
            code: status.code().into(),
            message: status.message().into(),
            details: Vec::new(),
        },
        details => tonic_types::Status::decode(details).unwrap(),
    }
}

fn reply<T>(value: T) -> Reply<T> {
    Ok(Response::new(value))
}

#[tonic::async_trait]
impl CryptoService for Shared {
    type CryptSessionStream = Answers<CryptSessionResponse>;
    type EncryptStreamStream = Answers<EncryptStreamResponse>;
    type DecryptStreamStream = Answers<DecryptStreamResponse>;

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Reply<EncryptResponse> {
        match self.0.item(Some(Ask::Encrypt(request.into_inner())))? {
            Answer::Encrypt(answer) => reply(answer),
            _ => Err(Status::internal("odd")),
        }
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Reply<DecryptResponse> {
        match self.0.item(Some(Ask::Decrypt(request.into_inner())))? {
            Answer::Decrypt(answer) => reply(answer),
            _ => Err(Status::internal("odd")),
        }
    }

    async fn batch_encrypt(&self, request: Request<BatchEncryptRequest>) -> Reply<BatchEncryptResponse> {
        self.0.admit()?;
        let BatchEncryptRequest { name, items } = request.into_inner();
        let seal = |item: batch_encrypt_request::Item| batch_encrypt_response::Result {
            reference: item.reference,
            result: Some(batch_encrypt_response::result::Result::Ciphertext(seal(
                &name,
                &item.context,
                &item.plaintext,
            ))),
        };
        reply(BatchEncryptResponse { results: items.into_iter().map(seal).collect() })
    }

    async fn batch_decrypt(&self, request: Request<BatchDecryptRequest>) -> Reply<BatchDecryptResponse> {
        use batch_decrypt_response::result::Result as Outcome;
        self.0.admit()?;
        let BatchDecryptRequest { name, items } = request.into_inner();
        let open = |item: batch_decrypt_request::Item| batch_decrypt_response::Result {
            reference: item.reference,
            result: Some(match open(&name, &item.context, &item.ciphertext) {
                Ok(plaintext) => Outcome::Plaintext(plaintext),
                Err(status) => Outcome::Error(rpc(&status)),
            }),
        };
        reply(BatchDecryptResponse { results: items.into_iter().map(open).collect() })
    }

    async fn crypt_session(
        &self,
        request: Request<Streaming<CryptSessionRequest>>,
    ) -> Reply<Self::CryptSessionStream> {
        let (out, answers) = mpsc::channel(64);
        let fake = Arc::clone(&self.0);
        tokio::spawn(async move { fake.session(request.into_inner(), out).await });
        reply(Box::pin(ReceiverStream::new(answers)))
    }

    async fn re_encrypt(&self, request: Request<ReEncryptRequest>) -> Reply<ReEncryptResponse> {
        self.0.admit()?;
        let ReEncryptRequest { name, ciphertext, context } = request.into_inner();
        let plaintext = open(&name, &context, &ciphertext)?;
        reply(ReEncryptResponse {
            ciphertext: seal(&name, &context, &plaintext),
            version: 2,
            previous_version: 1,
        })
    }

    async fn generate_data_key(
        &self,
        request: Request<GenerateDataKeyRequest>,
    ) -> Reply<GenerateDataKeyResponse> {
        self.0.admit()?;
        let GenerateDataKeyRequest { name, context } = request.into_inner();
        let ciphertext = seal(&name, &context, &[7; 32]);
        reply(GenerateDataKeyResponse { plaintext: vec![7; 32].into(), ciphertext, version: 1 })
    }

    async fn generate_data_key_without_plaintext(
        &self,
        request: Request<GenerateDataKeyWithoutPlaintextRequest>,
    ) -> Reply<GenerateDataKeyWithoutPlaintextResponse> {
        self.0.admit()?;
        let GenerateDataKeyWithoutPlaintextRequest { name, context } = request.into_inner();
        let ciphertext = seal(&name, &context, &[7; 32]);
        reply(GenerateDataKeyWithoutPlaintextResponse { ciphertext, version: 1 })
    }

    async fn decrypt_data_key(
        &self,
        request: Request<DecryptDataKeyRequest>,
    ) -> Reply<DecryptDataKeyResponse> {
        self.0.admit()?;
        let DecryptDataKeyRequest { name, ciphertext, context } = request.into_inner();
        reply(DecryptDataKeyResponse { plaintext: open(&name, &context, &ciphertext)?, version: 1 })
    }

    async fn encrypt_stream(
        &self,
        request: Request<Streaming<EncryptStreamRequest>>,
    ) -> Reply<Self::EncryptStreamStream> {
        use encrypt_stream_request::Message;
        self.0.admit()?;
        let answers = request.into_inner().map(move |message| match message?.message {
            Some(Message::Header(header)) => {
                let chunk = seal(&header.name, &header.context, b"");
                Ok(EncryptStreamResponse { chunk, version: 1 })
            }
            Some(Message::Chunk(chunk)) => {
                let chunk = chunk.iter().map(|byte| byte ^ 0x5a).collect();
                Ok(EncryptStreamResponse { chunk, version: 0 })
            }
            None => Err(Status::invalid_argument("empty")),
        });
        reply(Box::pin(answers))
    }

    async fn decrypt_stream(
        &self,
        request: Request<Streaming<DecryptStreamRequest>>,
    ) -> Reply<Self::DecryptStreamStream> {
        use decrypt_stream_request::Message;
        self.0.admit()?;
        let (mut header, mut first) = (StreamHeader::default(), true);
        let answers = request.into_inner().map(move |message| match message?.message {
            Some(Message::Header(given)) => {
                header = given;
                Ok(DecryptStreamResponse { chunk: Bytes::new(), version: 1 })
            }
            Some(Message::Chunk(chunk)) if std::mem::take(&mut first) => {
                let chunk = open(&header.name, &header.context, &chunk)?;
                Ok(DecryptStreamResponse { chunk, version: 0 })
            }
            // The toy's mark of a damaged segment.
            Some(Message::Chunk(chunk)) if chunk.contains(&0xff) => {
                Err(refusal(Code::InvalidArgument, "CIPHERTEXT_REFUSED", None))
            }
            Some(Message::Chunk(chunk)) => {
                let chunk = chunk.iter().map(|byte| byte ^ 0x5a).collect();
                Ok(DecryptStreamResponse { chunk, version: 0 })
            }
            None => Err(Status::invalid_argument("empty")),
        });
        reply(Box::pin(answers))
    }

    async fn compute_blind_index(
        &self,
        request: Request<ComputeBlindIndexRequest>,
    ) -> Reply<ComputeBlindIndexResponse> {
        self.0.admit()?;
        let ComputeBlindIndexRequest { name, field, value, normalization } = request.into_inner();
        let digest = Sha256::digest(format!("{name}{field}{value:?}{normalization}"));
        let index = Bytes::copy_from_slice(&digest[..20]);
        reply(ComputeBlindIndexResponse { index, previous: vec![] })
    }
}

macro_rules! recorded {
    ($service:ident { $($method:ident($request:ty) -> $response:ty;)* }) => {
        #[tonic::async_trait]
        impl $service for Shared {
            $(async fn $method(&self, request: Request<$request>) -> Reply<$response> {
                self.0.admit()?;
                self.0.log.lock().unwrap().push(format!("{:?}", request.into_inner()));
                reply(Sample::sample())
            })*
        }
    };
}

recorded!(KeyService {
    create_tenant(CreateTenantRequest) -> Tenant;
    get_tenant(GetTenantRequest) -> Tenant;
    list_tenants(ListTenantsRequest) -> ListTenantsResponse;
    update_tenant(UpdateTenantRequest) -> Tenant;
    rotate_tenant(RotateTenantRequest) -> Rotation;
    get_rotation(GetRotationRequest) -> Rotation;
    list_kek_versions(ListKekVersionsRequest) -> ListKekVersionsResponse;
    create_key(CreateKeyRequest) -> Key;
    get_key(GetKeyRequest) -> Key;
    list_keys(ListKeysRequest) -> ListKeysResponse;
    update_key(UpdateKeyRequest) -> Key;
    rotate_key(RotateKeyRequest) -> Key;
    rotate_index_key(RotateIndexKeyRequest) -> IndexKey;
    get_key_version(GetKeyVersionRequest) -> KeyVersion;
    list_key_versions(ListKeyVersionsRequest) -> ListKeyVersionsResponse;
    update_key_version(UpdateKeyVersionRequest) -> KeyVersion;
    create_key_version(CreateKeyVersionRequest) -> KeyVersion;
    schedule_destroy(ScheduleDestroyRequest) -> Destruction;
    cancel_destroy(CancelDestroyRequest) -> Destruction;
});

recorded!(AccessService {
    freeze(FreezeRequest) -> FreezeResponse;
    unfreeze(UnfreezeRequest) -> UnfreezeResponse;
});

impl Shared {
    fn record<T: Sample>(&self, request: &impl std::fmt::Debug) -> Reply<T> {
        self.0.admit()?;
        self.0.log.lock().unwrap().push(format!("{request:?}"));
        reply(T::sample())
    }
}

#[tonic::async_trait]
impl SystemService for Shared {
    type ExportStoreStream = Pin<Box<dyn Stream<Item = Result<ExportStoreResponse, Status>> + Send>>;

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Reply<crate::rpc::proto::Status> {
        self.record(&request.into_inner())
    }

    async fn reload(&self, request: Request<ReloadRequest>) -> Reply<ReloadResponse> {
        self.record(&request.into_inner())
    }

    async fn accept_clock(&self, request: Request<AcceptClockRequest>) -> Reply<AcceptClockResponse> {
        self.record(&request.into_inner())
    }

    async fn check_store(&self, request: Request<CheckStoreRequest>) -> Reply<StoreReport> {
        self.record(&request.into_inner())
    }

    async fn export_store(&self, _: Request<ExportStoreRequest>) -> Reply<Self::ExportStoreStream> {
        self.0.admit()?;
        let end = export_store_response::Message::End(StoreExport::default());
        let all: [Result<_, Status>; 1] = [Ok(ExportStoreResponse { message: Some(end) })];
        reply(Box::pin(tokio_stream::iter(all)))
    }
}

/// What administrative calls answer.
trait Sample: Default {
    fn sample() -> Self {
        Self::default()
    }
}

impl Sample for Tenant {
    fn sample() -> Self {
        Self { name: "tenants/acme".into(), primary_kek_version: 1, key_count: 2, ..Self::default() }
    }
}

impl Sample for Key {
    fn sample() -> Self {
        let name = "tenants/acme/keys/pii".into();
        Self { name, data_class: 2, state: 1, primary_version: 3, ..Self::default() }
    }
}

impl Sample for Rotation {
    fn sample() -> Self {
        let name = "tenants/acme/rotations/2".into();
        Self { name, state: 2, done: 5, total: 5, ..Self::default() }
    }
}

impl Sample for KeyVersion {}
impl Sample for AcceptClockResponse {}
impl Sample for ReloadResponse {}
impl Sample for StoreReport {}
impl Sample for Destruction {}
impl Sample for IndexKey {}
impl Sample for FreezeResponse {}
impl Sample for UnfreezeResponse {}
impl Sample for crate::rpc::proto::Status {
    fn sample() -> Self {
        Self {
            serving: 1,
            version: "0.1.0".into(),
            hsm: Some(status::Hsm { state: "ready".into(), operations: 12, ..Default::default() }),
            audit: Some(status::Audit { sequence: 7, writable: true }),
            role: "operator".into(),
            ..Self::default()
        }
    }
}
impl Sample for ListKekVersionsResponse {}
impl Sample for ListKeyVersionsResponse {}

impl Sample for ListTenantsResponse {
    fn sample() -> Self {
        Self { tenants: vec![Tenant::sample()], next_page_token: String::new() }
    }
}

impl Sample for ListKeysResponse {
    fn sample() -> Self {
        Self { keys: vec![Key::sample()], next_page_token: String::new() }
    }
}
