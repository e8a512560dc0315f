//! Encrypt existing data anew, for a suspected compromise of its data key.

use super::Error;
use super::crypt::Encrypted;
use super::done::{Done, items};
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::envelope::{Context, Header, Suite};
use crate::id::Epoch;

/// A ciphertext under the primary version.
#[derive(Debug)]
pub struct ReEncrypted {
    /// The new ciphertext and its version.
    pub encrypted: Encrypted,
    /// The version of the old one.
    pub previous: Epoch,
}

impl Vault {
    /// Decrypts and encrypts under the primary version. Tenant, key and
    /// context stay; the plaintext does not leave the daemon.
    ///
    /// # Errors
    /// As decrypt and encrypt.
    pub async fn re_encrypt(
        &self,
        right: &Authorized<permission::ReEncrypt>,
        context: &Context,
        ciphertext: &[u8],
    ) -> Result<Done<ReEncrypted>, Error> {
        self.check_ciphertext(ciphertext.len())?;
        let (header, _) = Header::parse(ciphertext)?;
        let view = self.view_for(right).await?;
        let old = self.ready_to_decrypt(view.clone(), &header).await?;
        let new = self.ready_to_encrypt(view).await?;
        let opened = Self::open_sealed(Suite::Field, &old, context, ciphertext)?;
        let sealed = self.seal(Suite::Field, &new, context, opened.value.plaintext.expose())?;
        let digests = vec![opened.digest, sealed.digest];
        let value = ReEncrypted { encrypted: sealed.value, previous: opened.value.version };
        Ok(Done::with_items(value, items(digests, 0, self.settings().list_decrypted_items)))
    }
}
