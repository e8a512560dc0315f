//! CryptoService: unary and batch calls. Sessions and files have their own modules.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status, Streaming};

use super::answers::Answers;
use super::call::Gate;
use super::proto::crypto_service_server::CryptoService;
use super::proto::{
    BatchDecryptRequest, BatchDecryptResponse, BatchEncryptRequest, BatchEncryptResponse,
    ComputeBlindIndexRequest, ComputeBlindIndexResponse, CryptSessionRequest, CryptSessionResponse,
    DecryptDataKeyRequest, DecryptDataKeyResponse, DecryptRequest, DecryptResponse, DecryptStreamRequest,
    DecryptStreamResponse, EncryptRequest, EncryptResponse, EncryptStreamRequest, EncryptStreamResponse,
    GenerateDataKeyRequest, GenerateDataKeyResponse, GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse, ReEncryptRequest, ReEncryptResponse, batch_decrypt_request,
    batch_decrypt_response, batch_encrypt_request, batch_encrypt_response,
};
use super::status::item_status;
use super::{admission, convert, files, session};
use crate::access::{Action, action};
use crate::id::FieldId;
use crate::ops::crypt::{Decrypted, Encrypted};
use crate::ops::data_key::DataKey;
use crate::ops::{Error, Vault};

/// The service.
pub(super) struct Crypto(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl CryptoService for Crypto {
    type CryptSessionStream = Answers<CryptSessionResponse>;
    type EncryptStreamStream = Answers<EncryptStreamResponse>;
    type DecryptStreamStream = Answers<DecryptStreamResponse>;

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let work = |asked: EncryptRequest, vault: Arc<Vault>, right| async move {
            let done = vault.encrypt(&right, &convert::context(&asked.context)?, &asked.plaintext).await?;
            Ok(done.map(session::encrypt_response))
        };
        self.0.serve(action::Encrypt, request, work).await
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let work = |asked: DecryptRequest, vault: Arc<Vault>, right| async move {
            vault.decrypt(&right, &convert::context(&asked.context)?, &asked.ciphertext).await
        };
        // What is secret leaves its type when it is on record, and not before.
        self.0.serve_then(action::Decrypt, request, work, |_, done| session::decrypt_response(done)).await
    }

    async fn batch_encrypt(
        &self,
        request: Request<BatchEncryptRequest>,
    ) -> Result<Response<BatchEncryptResponse>, Status> {
        let work = |asked: BatchEncryptRequest, vault: Arc<Vault>, right| async move {
            vault.check_items(asked.items.len())?;
            let items = asked.items.iter().map(|item| (convert::context(&item.context), &item.plaintext[..]));
            let results = vault.batch_encrypt(&right, &items.collect::<Vec<_>>()).await?;
            Ok(results.map(|results| encrypted(results, asked.items)))
        };
        self.0.serve(action::BatchEncrypt, request, work).await
    }

    async fn batch_decrypt(
        &self,
        request: Request<BatchDecryptRequest>,
    ) -> Result<Response<BatchDecryptResponse>, Status> {
        let work = |asked: BatchDecryptRequest, vault: Arc<Vault>, right| async move {
            vault.check_items(asked.items.len())?;
            let items =
                asked.items.iter().map(|item| (convert::context(&item.context), &item.ciphertext[..]));
            let results = vault.batch_decrypt(&right, &items.collect::<Vec<_>>()).await?;
            Ok(results.map(|results| (results, asked.items)))
        };
        let answer = |_: &Arc<Gate>, (results, items)| decrypted(results, items);
        self.0.serve_then(action::BatchDecrypt, request, work, answer).await
    }

    async fn crypt_session(
        &self,
        request: Request<Streaming<CryptSessionRequest>>,
    ) -> Result<Response<Self::CryptSessionStream>, Status> {
        let (caller, part) =
            (self.0.stream_caller(&request, Action::SessionBegin).await?, admission::part(&request)?);
        Ok(Response::new(session::serve(self.0.clone(), caller, part, request.into_inner())))
    }

    async fn re_encrypt(
        &self,
        request: Request<ReEncryptRequest>,
    ) -> Result<Response<ReEncryptResponse>, Status> {
        let work = |asked: ReEncryptRequest, vault: Arc<Vault>, right| async move {
            let done =
                vault.re_encrypt(&right, &convert::context(&asked.context)?, &asked.ciphertext).await?;
            Ok(done.map(|done| ReEncryptResponse {
                ciphertext: done.encrypted.ciphertext.into(),
                version: done.encrypted.version.get(),
                previous_version: done.previous.get(),
            }))
        };
        self.0.serve(action::ReEncrypt, request, work).await
    }

    async fn generate_data_key(
        &self,
        request: Request<GenerateDataKeyRequest>,
    ) -> Result<Response<GenerateDataKeyResponse>, Status> {
        let work = |asked: GenerateDataKeyRequest, vault: Arc<Vault>, right| async move {
            vault.generate_data_key(&right, &convert::context(&asked.context)?).await
        };
        let answer = |_: &Arc<Gate>, DataKey { plaintext, encrypted }| GenerateDataKeyResponse {
            plaintext: convert::key_bytes(&plaintext),
            ciphertext: encrypted.ciphertext.into(),
            version: encrypted.version.get(),
        };
        self.0.serve_then(action::GenerateDataKey, request, work, answer).await
    }

    async fn generate_data_key_without_plaintext(
        &self,
        request: Request<GenerateDataKeyWithoutPlaintextRequest>,
    ) -> Result<Response<GenerateDataKeyWithoutPlaintextResponse>, Status> {
        let work = |asked: GenerateDataKeyWithoutPlaintextRequest, vault: Arc<Vault>, right| async move {
            let made = vault.generate_data_key(&right, &convert::context(&asked.context)?).await?;
            Ok(made.map(|DataKey { encrypted, .. }| GenerateDataKeyWithoutPlaintextResponse {
                ciphertext: encrypted.ciphertext.into(),
                version: encrypted.version.get(),
            }))
        };
        self.0.serve(action::GenerateDataKeyWithoutPlaintext, request, work).await
    }

    async fn decrypt_data_key(
        &self,
        request: Request<DecryptDataKeyRequest>,
    ) -> Result<Response<DecryptDataKeyResponse>, Status> {
        let work = |asked: DecryptDataKeyRequest, vault: Arc<Vault>, right| async move {
            let context = convert::context(&asked.context)?;
            vault.decrypt_data_key(&right, &context, &asked.ciphertext).await
        };
        let answer = |_: &Arc<Gate>, done: Decrypted| DecryptDataKeyResponse {
            plaintext: convert::secret_bytes(done.plaintext),
            version: done.version.get(),
        };
        self.0.serve_then(action::DecryptDataKey, request, work, answer).await
    }

    async fn encrypt_stream(
        &self,
        request: Request<Streaming<EncryptStreamRequest>>,
    ) -> Result<Response<Self::EncryptStreamStream>, Status> {
        let (caller, part) =
            (self.0.stream_caller(&request, Action::EncryptStream).await?, admission::part(&request)?);
        Ok(Response::new(files::encrypt(&self.0, caller, part, request.into_inner())))
    }

    async fn decrypt_stream(
        &self,
        request: Request<Streaming<DecryptStreamRequest>>,
    ) -> Result<Response<Self::DecryptStreamStream>, Status> {
        let (caller, part) =
            (self.0.stream_caller(&request, Action::DecryptStream).await?, admission::part(&request)?);
        Ok(Response::new(files::decrypt(&self.0, caller, part, request.into_inner())))
    }

    /// The first index of a field makes its key, so the work outlives its caller.
    async fn compute_blind_index(
        &self,
        request: Request<ComputeBlindIndexRequest>,
    ) -> Result<Response<ComputeBlindIndexResponse>, Status> {
        let work = |asked: ComputeBlindIndexRequest, vault: Arc<Vault>, right| async move {
            let field = FieldId::new(&asked.field)?;
            let rule = convert::parse_rule(asked.normalization)?;
            let done = vault.blind_index(&right, &field, rule, &asked.value).await?;
            Ok(done.map(|done| {
                let mut indexes = done.indexes.into_iter().map(|index| Bytes::copy_from_slice(&index));
                let index = indexes.next().unwrap_or_default();
                ComputeBlindIndexResponse { index, previous: indexes.collect() }
            }))
        };
        self.0.serve(action::BlindIndex, request, work).await
    }
}

fn encrypted(
    results: Vec<Result<Encrypted, Error>>,
    items: Vec<batch_encrypt_request::Item>,
) -> BatchEncryptResponse {
    use batch_encrypt_response::result::Result as Answer;
    let results = results.into_iter().zip(items).map(|(result, item)| {
        let answer = match result {
            Ok(done) => Answer::Ciphertext(done.ciphertext.into()),
            Err(error) => Answer::Error(item_status(&error)),
        };
        batch_encrypt_response::Result { reference: item.reference, result: Some(answer) }
    });
    BatchEncryptResponse { results: results.collect() }
}

fn decrypted(
    results: Vec<Result<Decrypted, Error>>,
    items: Vec<batch_decrypt_request::Item>,
) -> BatchDecryptResponse {
    use batch_decrypt_response::result::Result as Answer;
    let results = results.into_iter().zip(items).map(|(result, item)| {
        let answer = match result {
            Ok(done) => Answer::Plaintext(convert::secret_bytes(done.plaintext)),
            Err(error) => Answer::Error(item_status(&error)),
        };
        batch_decrypt_response::Result { reference: item.reference, result: Some(answer) }
    });
    BatchDecryptResponse { results: results.collect() }
}
