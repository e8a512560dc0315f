//! Files of any size (suite 2), segment by segment in constant memory.

use std::sync::Arc;

use super::Error;
use super::done::{Done, items};
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::audit::ItemDigest;
use crate::envelope::{Context, Header, OVERHEAD, SEGMENT, StreamOpener, StreamSealer};
use crate::id::Epoch;

/// A file that is being encrypted.
pub struct Encrypting {
    vault: Arc<Vault>,
    right: Authorized<permission::Encrypt>,
    sealer: StreamSealer,
    digest: ItemDigest,
    version: Epoch,
}

/// A file that is being decrypted.
pub struct Decrypting {
    vault: Arc<Vault>,
    right: Authorized<permission::Decrypt>,
    opener: StreamOpener,
    dek: crate::id::DekId,
    digest: ItemDigest,
    version: Epoch,
}

impl Vault {
    /// Begins a file. The answer is released by the record that says so.
    ///
    /// # Errors
    /// As encrypt.
    pub async fn begin_encrypt(
        self: Arc<Self>,
        right: Authorized<permission::Encrypt>,
        context: &Context,
    ) -> Result<Done<Encrypting>, Error> {
        let ready = self.ready_to_encrypt(self.view_for(&right).await?).await?;
        let sealer = StreamSealer::new(&ready.open.secret, right.resource(), context, self.entropy.salt()?)?;
        let digest = ItemDigest(sealer.digest());
        let stream = Encrypting { vault: self, right, sealer, digest, version: ready.version.epoch };
        Ok(Done::with_items(stream, items(vec![digest], 0, false)))
    }

    /// Begins a file whose first 76 bytes are `header`.
    ///
    /// # Errors
    /// As decrypt.
    pub async fn begin_decrypt(
        self: Arc<Self>,
        right: Authorized<permission::Decrypt>,
        context: &Context,
        header: &[u8],
    ) -> Result<Done<Decrypting>, Error> {
        let (header, _) = Header::parse(header)?;
        let ready = self.ready_to_decrypt(self.view_for(&right).await?, &header).await?;
        let opener = StreamOpener::new(&ready.open.secret, right.resource(), context, &header)?;
        let digest = ItemDigest(opener.digest());
        let keep = self.settings().list_decrypted_items;
        let version = ready.version.epoch;
        let stream = Decrypting { vault: self, right, opener, dek: header.dek, digest, version };
        Ok(Done::with_items(stream, items(vec![digest], 0, keep)))
    }
}

impl Encrypting {
    /// The DEK epoch.
    pub fn version(&self) -> Epoch {
        self.version
    }

    /// The first bytes of the ciphertext.
    pub fn header(&self) -> Vec<u8> {
        self.sealer.header().to_vec()
    }

    /// Encrypts a piece; answers the segments that are complete. A key that was
    /// frozen or disabled meanwhile stops the file.
    ///
    /// # Errors
    /// As encrypt.
    pub async fn update(&mut self, piece: &[u8]) -> Result<Vec<u8>, Error> {
        self.vault.view_for(&self.right).await?.check_encrypt()?;
        let mut out = room(piece);
        self.sealer.update(piece, &mut out)?;
        Ok(out)
    }

    /// The last segment, which a key that was frozen meanwhile stops too.
    ///
    /// # Errors
    /// As encrypt, and when there are more segments than the format can count.
    pub async fn finish(self) -> Result<Done<Vec<u8>>, Error> {
        self.vault.view_for(&self.right).await?.check_encrypt()?;
        let mut out = room(&[]);
        self.sealer.finish(&mut out)?;
        Ok(Done::with_items(out, items(vec![self.digest], 0, false)))
    }
}

impl Decrypting {
    /// The DEK epoch.
    pub fn version(&self) -> Epoch {
        self.version
    }

    /// Decrypts a piece; answers the segments that are complete and verified.
    ///
    /// # Errors
    /// As decrypt.
    pub async fn update(&mut self, piece: &[u8]) -> Result<Vec<u8>, Error> {
        self.check().await?;
        let mut out = room(piece);
        self.opener.update(piece, &mut out)?;
        Ok(out)
    }

    /// The last segment; fails unless it was marked as the last. A small file is nothing else, so everything is
    /// checked again.
    ///
    /// # Errors
    /// As decrypt, and [`Error::Refused`] for a file that was cut.
    pub async fn finish(self) -> Result<Done<Vec<u8>>, Error> {
        self.check().await?;
        let mut out = room(&[]);
        self.opener.finish(&mut out)?;
        let keep = self.vault.settings().list_decrypted_items;
        Ok(Done::with_items(out, items(vec![self.digest], 0, keep)))
    }
}

impl Decrypting {
    async fn check(&self) -> Result<(), Error> {
        let view = self.vault.view_for(&self.right).await?;
        let version = self.vault.version_view(&view.name, self.dek).await?.ok_or(Error::Refused)?;
        view.check_decrypt(&version)
    }
}

/// Room for what a piece completes: itself and one held segment, each segment
/// with a tag. The buffer is never moved, so no plaintext stays behind unwiped.
fn room(piece: &[u8]) -> Vec<u8> {
    let segments = piece.len() / SEGMENT + 2;
    Vec::with_capacity(piece.len() + SEGMENT + segments * (OVERHEAD - Header::LEN))
}
