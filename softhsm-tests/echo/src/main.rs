//! The empty service that the benchmark compares Keyward with: `keyward-echo SOCKET`.
//!
//! It has the daemon's runtime, transport and messages, and does nothing: it
//! knows no caller, reads no field but the length of the payload, and answers
//! zeros that it never copies.

use std::error::Error;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use keyward::daemon::transport;
use keyward::envelope::OVERHEAD;
use keyward::rpc::proto::crypto_service_server::{CryptoService, CryptoServiceServer};
use keyward::rpc::proto::{
    BatchDecryptRequest, BatchDecryptResponse, BatchEncryptRequest, BatchEncryptResponse,
    ComputeBlindIndexRequest, ComputeBlindIndexResponse, CryptSessionRequest, CryptSessionResponse,
    DecryptDataKeyRequest, DecryptDataKeyResponse, DecryptRequest, DecryptResponse, DecryptStreamRequest,
    DecryptStreamResponse, EncryptRequest, EncryptResponse, EncryptStreamRequest, EncryptStreamResponse,
    GenerateDataKeyRequest, GenerateDataKeyResponse, GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse, ReEncryptRequest, ReEncryptResponse,
};
use tokio::net::UnixListener;
use tonic::{Request, Response, Status, Streaming};

/// What it answers pieces of.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The version in every answer: one byte on the wire, as the daemon's.
const VERSION: u32 = 1;

struct Echo;

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Answer<T> = Result<Response<T>, Status>;

fn zeros(length: usize) -> Result<Bytes, Status> {
    match ZEROS.get(..length) {
        Some(zeros) => Ok(Bytes::from_static(zeros)),
        None => Err(Status::invalid_argument("the echo answers at most 64 KiB")),
    }
}

fn absent<T>() -> Answer<T> {
    Err(Status::unimplemented("the echo knows encrypt and decrypt only"))
}

#[tonic::async_trait]
impl CryptoService for Echo {
    type CryptSessionStream = Replies<CryptSessionResponse>;
    type EncryptStreamStream = Replies<EncryptStreamResponse>;
    type DecryptStreamStream = Replies<DecryptStreamResponse>;

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Answer<EncryptResponse> {
        let ciphertext = zeros(request.get_ref().plaintext.len() + OVERHEAD)?;
        Ok(Response::new(EncryptResponse { ciphertext, version: VERSION }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Answer<DecryptResponse> {
        let plaintext = zeros(request.get_ref().ciphertext.len().saturating_sub(OVERHEAD))?;
        Ok(Response::new(DecryptResponse { plaintext, version: VERSION }))
    }

    async fn batch_encrypt(&self, _: Request<BatchEncryptRequest>) -> Answer<BatchEncryptResponse> {
        absent()
    }

    async fn batch_decrypt(&self, _: Request<BatchDecryptRequest>) -> Answer<BatchDecryptResponse> {
        absent()
    }

    async fn crypt_session(
        &self,
        _: Request<Streaming<CryptSessionRequest>>,
    ) -> Answer<Self::CryptSessionStream> {
        absent()
    }

    async fn re_encrypt(&self, _: Request<ReEncryptRequest>) -> Answer<ReEncryptResponse> {
        absent()
    }

    async fn generate_data_key(&self, _: Request<GenerateDataKeyRequest>) -> Answer<GenerateDataKeyResponse> {
        absent()
    }

    async fn generate_data_key_without_plaintext(
        &self,
        _: Request<GenerateDataKeyWithoutPlaintextRequest>,
    ) -> Answer<GenerateDataKeyWithoutPlaintextResponse> {
        absent()
    }

    async fn decrypt_data_key(&self, _: Request<DecryptDataKeyRequest>) -> Answer<DecryptDataKeyResponse> {
        absent()
    }

    async fn encrypt_stream(
        &self,
        _: Request<Streaming<EncryptStreamRequest>>,
    ) -> Answer<Self::EncryptStreamStream> {
        absent()
    }

    async fn decrypt_stream(
        &self,
        _: Request<Streaming<DecryptStreamRequest>>,
    ) -> Answer<Self::DecryptStreamStream> {
        absent()
    }

    async fn compute_blind_index(
        &self,
        _: Request<ComputeBlindIndexRequest>,
    ) -> Answer<ComputeBlindIndexResponse> {
        absent()
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(socket) = std::env::args_os().nth(1) else { return Err("usage: keyward-echo SOCKET".into()) };
    transport::runtime()?.block_on(async {
        let listener = transport::incoming(UnixListener::bind(socket)?);
        transport::server().add_service(CryptoServiceServer::new(Echo)).serve_with_incoming(listener).await?;
        Ok(())
    })
}
