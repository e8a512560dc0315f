//! Data keys for applications that encrypt by themselves (suite 3).

use super::Error;
use super::crypt::{Decrypted, Encrypted, single};
use super::done::Done;
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::envelope::{Context, Header, Suite};
use crate::secret::Key256;

/// A new data key.
#[derive(Debug)]
pub struct DataKey {
    /// The key itself.
    pub plaintext: Key256,
    /// The key, encrypted under the named key.
    pub encrypted: Encrypted,
}

impl Vault {
    /// Makes a 256-bit data key.
    ///
    /// # Errors
    /// As encrypt.
    pub async fn generate_data_key(
        &self,
        right: &Authorized<permission::GenerateDataKey>,
        context: &Context,
    ) -> Result<Done<DataKey>, Error> {
        let ready = self.ready_to_encrypt(self.view_for(right).await?).await?;
        let plaintext = self.entropy.data_key()?;
        let item = self.seal(Suite::DataKey, &ready, context, plaintext.expose())?;
        Ok(single(item, false).map(|encrypted| DataKey { plaintext, encrypted }))
    }

    /// Opens a data key; refuses every ciphertext that is not one.
    ///
    /// # Errors
    /// As decrypt.
    pub async fn decrypt_data_key(
        &self,
        right: &Authorized<permission::DecryptDataKey>,
        context: &Context,
        ciphertext: &[u8],
    ) -> Result<Done<Decrypted>, Error> {
        self.check_ciphertext(ciphertext.len())?;
        let (header, _) = Header::parse(ciphertext)?;
        let ready = self.ready_to_decrypt(self.view_for(right).await?, &header).await?;
        let item = Self::open_sealed(Suite::DataKey, &ready, context, ciphertext)?;
        Ok(single(item, self.settings().list_decrypted_items))
    }
}
