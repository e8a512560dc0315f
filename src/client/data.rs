//! The calls that are made one at a time: data keys, re-encryption, blind indexes.

use bytes::Bytes;
use zeroize::Zeroize;

use super::{Client, Context, Decrypted, Encrypted, Error, secret};
use crate::rpc::proto::{
    ComputeBlindIndexRequest, ComputeBlindIndexResponse, DecryptDataKeyRequest, GenerateDataKeyRequest,
    GenerateDataKeyWithoutPlaintextRequest, Normalization, ReEncryptRequest,
};
use crate::secret::Key256;

/// A new data key: in the clear, and encrypted to be kept next to the data.
#[derive(Debug)]
pub struct DataKey {
    /// The key, to be used and forgotten.
    pub key: Key256,
    /// The key encrypted (suite 3), for [`Client::decrypt_data_key`].
    pub sealed: Encrypted,
}

/// A ciphertext moved to the primary version of its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReEncrypted {
    /// The new ciphertext.
    pub ciphertext: Bytes,
    /// The key version that encrypted it.
    pub version: u32,
    /// The version of the ciphertext that was given.
    pub previous_version: u32,
}

/// The blind index of a value: 20 bytes, compared for equality.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlindIndex {
    /// Under the primary index key.
    pub index: Bytes,
    /// Under the older index keys, newest first: a search looks for any of them.
    pub previous: Vec<Bytes>,
}

impl Client {
    /// Decrypts a ciphertext and encrypts it again under the primary version of the key, inside
    /// the daemon.
    ///
    /// # Errors
    /// [`Error`] with the daemon's refusal, or that it cannot be reached.
    pub async fn re_encrypt(
        &self,
        name: &str,
        ciphertext: impl Into<Bytes>,
        context: &Context,
    ) -> Result<ReEncrypted, Error> {
        let request =
            ReEncryptRequest { name: name.into(), ciphertext: ciphertext.into(), context: context.clone() };
        let answer = self
            .repeat(request, |mut crypto, request| async move { crypto.re_encrypt(request).await })
            .await?;
        Ok(ReEncrypted {
            ciphertext: answer.ciphertext,
            version: answer.version,
            previous_version: answer.previous_version,
        })
    }

    /// Makes a 32-byte data key for encryption outside the daemon.
    ///
    /// # Errors
    /// [`Error`] with the daemon's refusal, or that it cannot be reached.
    pub async fn generate_data_key(&self, name: &str, context: &Context) -> Result<DataKey, Error> {
        let request = GenerateDataKeyRequest { name: name.into(), context: context.clone() };
        let answer = self
            .repeat(request, |mut crypto, request| async move { crypto.generate_data_key(request).await })
            .await?;
        let key = key256(answer.plaintext).ok_or_else(Error::protocol)?;
        Ok(DataKey { key, sealed: Encrypted { ciphertext: answer.ciphertext, version: answer.version } })
    }

    /// Makes a 32-byte data key that this process does not see.
    ///
    /// # Errors
    /// [`Error`] with the daemon's refusal, or that it cannot be reached.
    pub async fn generate_sealed_data_key(&self, name: &str, context: &Context) -> Result<Encrypted, Error> {
        let request = GenerateDataKeyWithoutPlaintextRequest { name: name.into(), context: context.clone() };
        let answer = self
            .repeat(request, |mut crypto, request| async move {
                crypto.generate_data_key_without_plaintext(request).await
            })
            .await?;
        Ok(Encrypted { ciphertext: answer.ciphertext, version: answer.version })
    }

    /// Decrypts a data key.
    ///
    /// # Errors
    /// [`Error`] with the daemon's refusal, or that it cannot be reached.
    pub async fn decrypt_data_key(
        &self,
        name: &str,
        ciphertext: impl Into<Bytes>,
        context: &Context,
    ) -> Result<Decrypted, Error> {
        let request = DecryptDataKeyRequest {
            name: name.into(),
            ciphertext: ciphertext.into(),
            context: context.clone(),
        };
        let answer = self
            .repeat(request, |mut crypto, request| async move { crypto.decrypt_data_key(request).await })
            .await?;
        Ok(Decrypted { plaintext: secret(answer.plaintext), version: answer.version })
    }

    /// Computes the blind index of `value` in the column `field`.
    ///
    /// # Errors
    /// [`Error`] with the daemon's refusal, or that it cannot be reached.
    pub async fn blind_index(
        &self,
        name: &str,
        field: &str,
        value: impl Into<Bytes>,
        normalization: Normalization,
    ) -> Result<BlindIndex, Error> {
        let request = ComputeBlindIndexRequest {
            name: name.into(),
            field: field.into(),
            value: value.into(),
            normalization: normalization.into(),
        };
        let ComputeBlindIndexResponse { index, previous } = self
            .repeat(request, |mut crypto, request| async move { crypto.compute_blind_index(request).await })
            .await?;
        Ok(BlindIndex { index, previous })
    }
}

fn key256(bytes: Bytes) -> Option<Key256> {
    let mut bytes = Vec::from(bytes);
    let key = Key256::from_slice(&bytes);
    bytes.zeroize();
    key
}
