//! CryptoService: unary and batch calls. Sessions and files have their own modules.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::answers::Answers;
use super::call::{Gate, settled};
use super::proto::crypto_service_server::CryptoService;
use super::proto::{
    BatchDecryptRequest, BatchDecryptResponse, BatchEncryptRequest, BatchEncryptResponse,
    ComputeBlindIndexRequest, ComputeBlindIndexResponse, CryptSessionRequest, CryptSessionResponse,
    DecryptDataKeyRequest, DecryptDataKeyResponse, DecryptRequest, DecryptResponse, DecryptStreamRequest,
    DecryptStreamResponse, EncryptRequest, EncryptResponse, EncryptStreamRequest, EncryptStreamResponse,
    GenerateDataKeyRequest, GenerateDataKeyResponse, GenerateDataKeyWithoutPlaintextRequest,
    GenerateDataKeyWithoutPlaintextResponse, ReEncryptRequest, ReEncryptResponse, batch_decrypt_response,
    batch_encrypt_response,
};
use super::status::item_status;
use super::{admission, convert, files, session};
use crate::access::permission;
use crate::id::{FieldId, KeyName};
use crate::ops::data_key::DataKey;

/// The service.
pub(super) struct Crypto(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl CryptoService for Crypto {
    type CryptSessionStream = Answers<CryptSessionResponse>;
    type EncryptStreamStream = Answers<EncryptStreamResponse>;
    type DecryptStreamStream = Answers<DecryptStreamResponse>;

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let mut call = self.0.call(&request, "encrypt", &request.get_ref().name);
        let message = request.into_inner();
        let done = settled!(call, {
            let (vault, right) =
                call.authorize_data::<permission::Encrypt>(KeyName::parse(&message.name)?).await?;
            vault.encrypt(&right, &convert::context(&message.context)?, &message.plaintext).await
        })?;
        Ok(Response::new(session::encrypt_response(done)))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let mut call = self.0.call(&request, "decrypt", &request.get_ref().name);
        let message = request.into_inner();
        let done = settled!(call, {
            let (vault, right) =
                call.authorize_data::<permission::Decrypt>(KeyName::parse(&message.name)?).await?;
            vault.decrypt(&right, &convert::context(&message.context)?, &message.ciphertext).await
        })?;
        Ok(Response::new(session::decrypt_response(done)))
    }

    async fn batch_encrypt(
        &self,
        request: Request<BatchEncryptRequest>,
    ) -> Result<Response<BatchEncryptResponse>, Status> {
        let mut call = self.0.call(&request, "batch-encrypt", &request.get_ref().name);
        let message = request.into_inner();
        let results = settled!(call, {
            let (vault, right) =
                call.authorize_data::<permission::Encrypt>(KeyName::parse(&message.name)?).await?;
            vault.check_items(message.items.len())?;
            let items =
                message.items.iter().map(|item| (convert::context(&item.context), &item.plaintext[..]));
            vault.batch_encrypt(&right, &items.collect::<Vec<_>>()).await
        })?
        .into_iter()
        .zip(message.items)
        .map(|(result, item)| {
            use batch_encrypt_response::result::Result as Answer;
            let answer = match result {
                Ok(done) => Answer::Ciphertext(done.ciphertext.into()),
                Err(error) => Answer::Error(item_status(&error)),
            };
            batch_encrypt_response::Result { reference: item.reference, result: Some(answer) }
        });
        Ok(Response::new(BatchEncryptResponse { results: results.collect() }))
    }

    async fn batch_decrypt(
        &self,
        request: Request<BatchDecryptRequest>,
    ) -> Result<Response<BatchDecryptResponse>, Status> {
        let mut call = self.0.call(&request, "batch-decrypt", &request.get_ref().name);
        let message = request.into_inner();
        let results = settled!(call, {
            let (vault, right) =
                call.authorize_data::<permission::Decrypt>(KeyName::parse(&message.name)?).await?;
            vault.check_items(message.items.len())?;
            let items =
                message.items.iter().map(|item| (convert::context(&item.context), &item.ciphertext[..]));
            vault.batch_decrypt(&right, &items.collect::<Vec<_>>()).await
        })?
        .into_iter()
        .zip(message.items)
        .map(|(result, item)| {
            use batch_decrypt_response::result::Result as Answer;
            let answer = match result {
                Ok(done) => Answer::Plaintext(convert::secret_bytes(done.plaintext)),
                Err(error) => Answer::Error(item_status(&error)),
            };
            batch_decrypt_response::Result { reference: item.reference, result: Some(answer) }
        });
        Ok(Response::new(BatchDecryptResponse { results: results.collect() }))
    }

    async fn crypt_session(
        &self,
        request: Request<Streaming<CryptSessionRequest>>,
    ) -> Result<Response<Self::CryptSessionStream>, Status> {
        let (caller, part) =
            (self.0.stream_caller(&request, "session-begin").await?, admission::part(&request)?);
        Ok(Response::new(session::serve(self.0.clone(), caller, part, request.into_inner())))
    }

    async fn re_encrypt(
        &self,
        request: Request<ReEncryptRequest>,
    ) -> Result<Response<ReEncryptResponse>, Status> {
        let mut call = self.0.call(&request, "re-encrypt", &request.get_ref().name);
        let message = request.into_inner();
        let done = settled!(call, {
            let (vault, right) =
                call.authorize_data::<permission::ReEncrypt>(KeyName::parse(&message.name)?).await?;
            vault.re_encrypt(&right, &convert::context(&message.context)?, &message.ciphertext).await
        })?;
        Ok(Response::new(ReEncryptResponse {
            ciphertext: done.encrypted.ciphertext.into(),
            version: done.encrypted.version.get(),
            previous_version: done.previous.get(),
        }))
    }

    async fn generate_data_key(
        &self,
        request: Request<GenerateDataKeyRequest>,
    ) -> Result<Response<GenerateDataKeyResponse>, Status> {
        let mut call = self.0.call(&request, "generate-data-key", &request.get_ref().name);
        let message = request.into_inner();
        let DataKey { plaintext, encrypted } = settled!(call, {
            let name = KeyName::parse(&message.name)?;
            let (vault, right) = call.authorize_data::<permission::GenerateDataKey>(name).await?;
            vault.generate_data_key(&right, &convert::context(&message.context)?).await
        })?;
        Ok(Response::new(GenerateDataKeyResponse {
            plaintext: convert::key_bytes(&plaintext),
            ciphertext: encrypted.ciphertext.into(),
            version: encrypted.version.get(),
        }))
    }

    async fn generate_data_key_without_plaintext(
        &self,
        request: Request<GenerateDataKeyWithoutPlaintextRequest>,
    ) -> Result<Response<GenerateDataKeyWithoutPlaintextResponse>, Status> {
        let mut call = self.0.call(&request, "generate-data-key-without-plaintext", &request.get_ref().name);
        let message = request.into_inner();
        let encrypted = settled!(call, {
            let name = KeyName::parse(&message.name)?;
            let (vault, right) = call.authorize_data::<permission::GenerateDataKey>(name).await?;
            let made = vault.generate_data_key(&right, &convert::context(&message.context)?).await?;
            Ok(made.map(|key| key.encrypted))
        })?;
        Ok(Response::new(GenerateDataKeyWithoutPlaintextResponse {
            ciphertext: encrypted.ciphertext.into(),
            version: encrypted.version.get(),
        }))
    }

    async fn decrypt_data_key(
        &self,
        request: Request<DecryptDataKeyRequest>,
    ) -> Result<Response<DecryptDataKeyResponse>, Status> {
        let mut call = self.0.call(&request, "decrypt-data-key", &request.get_ref().name);
        let message = request.into_inner();
        let done = settled!(call, {
            let name = KeyName::parse(&message.name)?;
            let (vault, right) = call.authorize_data::<permission::DecryptDataKey>(name).await?;
            vault.decrypt_data_key(&right, &convert::context(&message.context)?, &message.ciphertext).await
        })?;
        Ok(Response::new(DecryptDataKeyResponse {
            plaintext: convert::secret_bytes(done.plaintext),
            version: done.version.get(),
        }))
    }

    async fn encrypt_stream(
        &self,
        request: Request<Streaming<EncryptStreamRequest>>,
    ) -> Result<Response<Self::EncryptStreamStream>, Status> {
        let (caller, part) =
            (self.0.stream_caller(&request, "encrypt-stream").await?, admission::part(&request)?);
        Ok(Response::new(files::encrypt(&self.0, caller, part, request.into_inner())))
    }

    async fn decrypt_stream(
        &self,
        request: Request<Streaming<DecryptStreamRequest>>,
    ) -> Result<Response<Self::DecryptStreamStream>, Status> {
        let (caller, part) =
            (self.0.stream_caller(&request, "decrypt-stream").await?, admission::part(&request)?);
        Ok(Response::new(files::decrypt(&self.0, caller, part, request.into_inner())))
    }

    /// The first index of a field makes its key, so the work outlives its caller.
    async fn compute_blind_index(
        &self,
        request: Request<ComputeBlindIndexRequest>,
    ) -> Result<Response<ComputeBlindIndexResponse>, Status> {
        let mut call = self.0.call(&request, "blind-index", &request.get_ref().name);
        let message = request.into_inner();
        let done = self.0.detached(async move {
            settled!(call, {
                let (vault, right) =
                    call.authorize_data::<permission::BlindIndex>(KeyName::parse(&message.name)?).await?;
                let (field, rule) =
                    (FieldId::new(&message.field)?, convert::parse_rule(message.normalization)?);
                vault.blind_index(&right, &field, rule, &message.value).await
            })
        });
        let mut indexes = done.await?.indexes.into_iter().map(|index| bytes::Bytes::copy_from_slice(&index));
        let index = indexes.next().unwrap_or_default();
        Ok(Response::new(ComputeBlindIndexResponse { index, previous: indexes.collect() }))
    }
}
