//! Encrypt and decrypt one field: the hot path.

use std::sync::Arc;

use super::Error;
use super::done::{Done, items};
use super::opened::Opened;
use super::vault::Vault;
use super::views::{KeyView, VersionView};
use crate::access::{Authorized, permission};
use crate::audit::ItemDigest;
use crate::envelope::{self, Context, Dek, Header, Suite};
use crate::id::Epoch;
use crate::secret::SecretBytes;

/// A ciphertext and the version that made it.
#[derive(Debug)]
pub struct Encrypted {
    /// Format-1 bytes.
    pub ciphertext: Vec<u8>,
    /// The DEK epoch.
    pub version: Epoch,
}

/// A plaintext and the version that had encrypted it.
#[derive(Debug)]
pub struct Decrypted {
    /// The bytes.
    pub plaintext: SecretBytes,
    /// The DEK epoch.
    pub version: Epoch,
}

/// One item that is done, and not released yet.
#[derive(Debug)]
pub struct Item<T> {
    pub(super) value: T,
    pub(super) digest: ItemDigest,
}

/// The key to encrypt or decrypt with, checked and open.
pub struct Ready {
    pub(super) view: Arc<KeyView>,
    pub(super) version: Arc<VersionView>,
    pub(super) open: Arc<Opened<Dek>>,
}

impl Vault {
    /// Encrypts one field.
    ///
    /// # Errors
    /// A frozen or disabled key, a plaintext over the limit, an HSM or store that does not serve.
    pub async fn encrypt(
        &self,
        right: &Authorized<permission::Encrypt>,
        context: &Context,
        plaintext: &[u8],
    ) -> Result<Done<Encrypted>, Error> {
        Ok(single(self.encrypt_item(right, context, plaintext).await?, false))
    }

    /// Decrypts one field.
    ///
    /// # Errors
    /// As [`encrypt`](Self::encrypt); [`Error::Refused`] when it does not belong to key and context.
    pub async fn decrypt(
        &self,
        right: &Authorized<permission::Decrypt>,
        context: &Context,
        ciphertext: &[u8],
    ) -> Result<Done<Decrypted>, Error> {
        let item = self.decrypt_item(right, context, ciphertext).await?;
        Ok(single(item, self.settings().list_decrypted_items))
    }

    /// One item of a batch or session.
    ///
    /// # Errors
    /// As [`encrypt`](Self::encrypt).
    pub async fn encrypt_item(
        &self,
        right: &Authorized<permission::Encrypt>,
        context: &Context,
        plaintext: &[u8],
    ) -> Result<Item<Encrypted>, Error> {
        let key = self.key_to_encrypt(right, plaintext.len()).await?;
        self.encrypt_with(&key, context, plaintext)
    }

    /// The key to encrypt a plaintext of `size` bytes with: all of [`encrypt_item`](Self::encrypt_item) that may
    /// have to wait, and needs no plaintext.
    ///
    /// # Errors
    /// As [`encrypt`](Self::encrypt).
    pub async fn key_to_encrypt(
        &self,
        right: &Authorized<permission::Encrypt>,
        size: usize,
    ) -> Result<Ready, Error> {
        self.check_plaintext(size)?;
        self.ready_to_encrypt(self.view_for(right).await?).await
    }

    /// Encrypts with a key of [`key_to_encrypt`](Self::key_to_encrypt).
    ///
    /// # Errors
    /// When the system gives no randomness.
    pub fn encrypt_with(
        &self,
        key: &Ready,
        context: &Context,
        plaintext: &[u8],
    ) -> Result<Item<Encrypted>, Error> {
        self.seal(Suite::Field, key, context, plaintext)
    }

    /// One item of a batch or session.
    ///
    /// # Errors
    /// As [`decrypt`](Self::decrypt).
    pub async fn decrypt_item(
        &self,
        right: &Authorized<permission::Decrypt>,
        context: &Context,
        ciphertext: &[u8],
    ) -> Result<Item<Decrypted>, Error> {
        self.check_ciphertext(ciphertext.len())?;
        let (header, _) = Header::parse(ciphertext)?;
        let key = self.key_to_decrypt(right, &header, ciphertext.len()).await?;
        Self::decrypt_with(&key, context, ciphertext)
    }

    /// The key to decrypt a ciphertext of `size` bytes with this header: all of
    /// [`decrypt_item`](Self::decrypt_item) that may have to wait.
    ///
    /// # Errors
    /// As [`decrypt`](Self::decrypt).
    pub async fn key_to_decrypt(
        &self,
        right: &Authorized<permission::Decrypt>,
        header: &Header,
        size: usize,
    ) -> Result<Ready, Error> {
        self.check_ciphertext(size)?;
        self.ready_to_decrypt(self.view_for(right).await?, header).await
    }

    /// Decrypts with a key of [`key_to_decrypt`](Self::key_to_decrypt).
    ///
    /// # Errors
    /// As [`decrypt`](Self::decrypt).
    pub fn decrypt_with(key: &Ready, context: &Context, ciphertext: &[u8]) -> Result<Item<Decrypted>, Error> {
        Self::open_sealed(Suite::Field, key, context, ciphertext)
    }

    /// The primary version of a key, open.
    pub(super) async fn ready_to_encrypt(&self, view: Arc<KeyView>) -> Result<Ready, Error> {
        view.check_encrypt()?;
        self.count_use(&view).await?;
        let version = view.primary.clone();
        let open = self.dek(&view, &version).await?;
        Ok(Ready { view, version, open })
    }

    /// The version that a header names, open. An id that this key does not have
    /// is refused with the same answer as a changed ciphertext.
    pub(super) async fn ready_to_decrypt(&self, view: Arc<KeyView>, header: &Header) -> Result<Ready, Error> {
        view.check_usable()?;
        let version = self.version_view(&view.name, header.dek).await?.ok_or(Error::Refused)?;
        view.check_decrypt(&version)?;
        let open = self.dek(&view, &version).await?;
        Ok(Ready { view, version, open })
    }

    pub(super) fn seal(
        &self,
        suite: Suite,
        key: &Ready,
        context: &Context,
        plaintext: &[u8],
    ) -> Result<Item<Encrypted>, Error> {
        let sealed = envelope::seal(
            suite,
            &key.open.secret,
            &key.view.name,
            context,
            self.entropy.salt()?,
            plaintext,
        )?;
        let value = Encrypted { ciphertext: sealed.ciphertext, version: key.version.epoch };
        Ok(Item { value, digest: ItemDigest(sealed.digest) })
    }

    pub(super) fn open_sealed(
        suite: Suite,
        key: &Ready,
        context: &Context,
        ciphertext: &[u8],
    ) -> Result<Item<Decrypted>, Error> {
        let opened = envelope::open(suite, &key.open.secret, &key.view.name, context, ciphertext)?;
        let value = Decrypted { plaintext: opened.plaintext, version: key.version.epoch };
        Ok(Item { value, digest: ItemDigest(opened.digest) })
    }

    fn check_plaintext(&self, size: usize) -> Result<(), Error> {
        let limit = self.settings().limits.plaintext.as_usize();
        too_large("the plaintext", size, limit, "plaintext")
    }

    pub(super) fn check_ciphertext(&self, size: usize) -> Result<(), Error> {
        let limit = self.settings().limits.plaintext.as_usize().saturating_add(envelope::OVERHEAD);
        too_large("the ciphertext", size, limit, "plaintext")
    }
}

pub(super) fn single<T>(item: Item<T>, keep_digest: bool) -> Done<T> {
    Done::with_items(item.value, items(vec![item.digest], 0, keep_digest))
}

pub(super) fn too_large(
    what: &'static str,
    size: usize,
    limit: usize,
    option: &'static str,
) -> Result<(), Error> {
    match size > limit {
        true => Err(Error::TooLarge { what, size, unit: "bytes", limit, option }),
        false => Ok(()),
    }
}
