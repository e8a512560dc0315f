//! Many fields in one call.

use bytes::Bytes;

use super::{Client, Context, CryptoServiceClient, Error, secret};
use crate::rpc::proto::batch_decrypt_response::result::Result as DecryptOutcome;
use crate::rpc::proto::batch_encrypt_response::result::Result as EncryptOutcome;
use crate::rpc::proto::{BatchDecryptRequest, BatchEncryptRequest};
use crate::rpc::proto::{batch_decrypt_request, batch_encrypt_request};
use crate::secret::SecretBytes;

/// One field of a batch: a plaintext to encrypt or a ciphertext to decrypt.
#[derive(Clone)]
pub struct Item {
    /// The plaintext or ciphertext.
    pub data: Bytes,
    /// What it is about.
    pub context: Context,
}

impl Client {
    /// Encrypts many fields under one key. The results are in the order of the items; each item
    /// succeeds or fails alone.
    ///
    /// # Errors
    /// [`Error`] when the whole call fails: nothing was answered.
    pub async fn batch_encrypt(
        &self,
        name: &str,
        items: Vec<Item>,
    ) -> Result<Vec<Result<Bytes, Error>>, Error> {
        let count = items.len();
        let item = |Item { data, context }| batch_encrypt_request::Item {
            plaintext: data,
            context,
            ..Default::default()
        };
        let request = BatchEncryptRequest { name: name.into(), items: items.into_iter().map(item).collect() };
        let call =
            |mut crypto: CryptoServiceClient<_>, request| async move { crypto.batch_encrypt(request).await };
        let results = self.repeat(request, call).await?.results;
        in_full(count, results, |result| match result.result {
            Some(EncryptOutcome::Ciphertext(ciphertext)) => Ok(ciphertext),
            Some(EncryptOutcome::Error(status)) => Err(status.into()),
            None => Err(Error::protocol()),
        })
    }

    /// Decrypts many fields of one key. The results are in the order of the items; each item
    /// succeeds or fails alone.
    ///
    /// # Errors
    /// [`Error`] when the whole call fails: nothing was answered.
    pub async fn batch_decrypt(
        &self,
        name: &str,
        items: Vec<Item>,
    ) -> Result<Vec<Result<SecretBytes, Error>>, Error> {
        let count = items.len();
        let item = |Item { data, context }| batch_decrypt_request::Item {
            ciphertext: data,
            context,
            ..Default::default()
        };
        let request = BatchDecryptRequest { name: name.into(), items: items.into_iter().map(item).collect() };
        let call =
            |mut crypto: CryptoServiceClient<_>, request| async move { crypto.batch_decrypt(request).await };
        let results = self.repeat(request, call).await?.results;
        in_full(count, results, |result| match result.result {
            Some(DecryptOutcome::Plaintext(plaintext)) => Ok(secret(plaintext)),
            Some(DecryptOutcome::Error(status)) => Err(status.into()),
            None => Err(Error::protocol()),
        })
    }
}

/// One outcome for each item, or the answer is not one.
fn in_full<R, T>(
    count: usize,
    results: Vec<R>,
    outcome: impl Fn(R) -> Result<T, Error>,
) -> Result<Vec<Result<T, Error>>, Error> {
    match results.len() == count {
        true => Ok(results.into_iter().map(outcome).collect()),
        false => Err(Error::protocol()),
    }
}
