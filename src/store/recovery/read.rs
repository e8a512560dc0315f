//! Reading a recovery export, and filling a store from it.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt};
use zeroize::Zeroizing;

use super::header::Head;
use super::{MAX_PART, Trailer, context, damaged, dek, name};
use crate::envelope::{self, StreamOpener};
use crate::id::ErasureGeneration;
use crate::secret::Key256;
use crate::store::error::StoreError;
use crate::store::kv::{Kv, Write};
use crate::store::mac::StoreKeys;
use crate::store::meta::LogState;
use crate::store::rebuild::{Filler, verify_and_hash, write_journal};
use crate::store::recover::refuse_unless_new;
use crate::store::tables::Table;
use crate::store::view::Row;

/// Bytes read at a time.
const PIECE: usize = 256 << 10;

/// An export of which only the head was read.
pub struct Closed<R> {
    /// What it says of itself.
    pub head: Head,
    reader: R,
    /// What was read behind the head.
    rest: Vec<u8>,
}

/// An export whose key was opened.
pub struct Opened<R> {
    reader: R,
    rest: Vec<u8>,
    /// Gone at the end of the file.
    opener: Option<StreamOpener>,
    plain: Zeroizing<Vec<u8>>,
    at: usize,
}

/// What a restore made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restored {
    /// Records.
    pub records: u64,
    /// The revision of the store.
    pub revision: u64,
}

impl<R: AsyncRead + Unpin> Closed<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// As [`Head::parse`], and failures of reading.
    pub async fn read(mut reader: R) -> Result<Self, StoreError> {
        let mut file = Vec::new();
        loop {
            match Head::parse(&file)? {
                Ok((head, end)) => {
                    let rest = file.split_off(end);
                    return Ok(Self { head, reader, rest });
                }
                Err(more) => {
                    let at = file.len();
                    file.resize(at + more, 0);
                    read_exact(&mut reader, &mut file[at..]).await?;
                }
            }
        }
    }

    /// Opens the stream with the export key.
    ///
    /// # Errors
    /// [`super::Refusal::ExportDamaged`] when the stream is not the one of this key and head.
    pub async fn open(mut self, key: Key256) -> Result<Opened<R>, StoreError> {
        let mut bytes = vec![0; envelope::Header::LEN];
        let have = self.rest.len().min(bytes.len());
        bytes[..have].copy_from_slice(&self.rest[..have]);
        self.rest.drain(..have);
        read_exact(&mut self.reader, &mut bytes[have..]).await?;
        let changed = |_| damaged("its stream does not belong to its header and key");
        let (header, _) = envelope::Header::parse(&bytes).map_err(|_| damaged("its stream has no header"))?;
        let dek = dek(&self.head.header, key);
        let opener =
            StreamOpener::new(&dek, &name()?, &context(&self.head.hash)?, &header).map_err(changed)?;
        let plain = Zeroizing::default();
        Ok(Opened { reader: self.reader, rest: self.rest, opener: Some(opener), plain, at: 0 })
    }
}

impl<R: AsyncRead + Unpin> Opened<R> {
    /// Fills an empty backend, and makes a new journal at `journal`. Every record is
    /// verified, and wrapped keys are sealed under `erasure`. After an error the
    /// backend holds no store; remove it and begin again.
    ///
    /// # Errors
    /// [`super::Refusal::NotEmpty`] when there is a store or a journal already,
    /// [`super::Refusal::ExportDamaged`], [`StoreError::Tampered`] when a record is not genuine.
    pub async fn restore(
        mut self,
        head: &Head,
        kv: Arc<dyn Kv>,
        journal: &Path,
        secret: &Key256,
        erasure: (ErasureGeneration, Key256),
    ) -> Result<Restored, StoreError> {
        refuse_unless_new(kv.as_ref(), journal).await?;
        let keys = StoreKeys::derive(secret);
        keys.erasure.add(erasure.0, erasure.1);
        keys.erasure.seal_under(erasure.0);
        let keys = Arc::new(keys);
        let (revision, deployment) = (head.header.revision, head.header.deployment);
        let found = self.fill(&kv, &keys, revision).await?;
        if found.records != head.header.records {
            return Err(damaged("it has another number of records than its header says"));
        }
        let totals = verify_and_hash(kv.as_ref(), &keys, revision).await?.totals;
        if totals.records() != found.records {
            return Err(damaged("a record stands in it twice"));
        }
        write_journal(kv.as_ref(), journal, deployment, &keys, totals, LogState::default()).await?;
        Ok(Restored { records: totals.records(), revision })
    }

    async fn fill(
        &mut self,
        kv: &Arc<dyn Kv>,
        keys: &StoreKeys,
        revision: u64,
    ) -> Result<Trailer, StoreError> {
        let (mut filler, mut found, mut last) = (Filler::new(kv.clone()), Trailer::default(), Vec::new());
        loop {
            let key = self.part().await?;
            if key.is_empty() {
                break;
            }
            if key <= last || key.first() >= Some(&Table::Digest.byte()) {
                return Err(damaged("a record is out of place"));
            }
            let row = Row::open(&key, self.part().await?, keys, revision)?;
            found.add(&row.value);
            let value = keys.seal(&key, row.revision, &row.payload(&key, keys)?)?;
            last.clone_from(&key);
            filler.put([Write { key, value: Some(value) }]).await?;
        }
        filler.flush().await?;
        let trailer: Trailer =
            minicbor::decode(&self.part().await?).map_err(|_| damaged("its end cannot be read"))?;
        self.expect_end().await?;
        if trailer == found { Ok(found) } else { Err(damaged("its records do not add up")) }
    }

    async fn part(&mut self) -> Result<Vec<u8>, StoreError> {
        let length = self.take(4).await?.try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX) as usize;
        if length > MAX_PART {
            return Err(damaged("a length is impossible"));
        }
        self.take(length).await
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, StoreError> {
        while self.plain.len() - self.at < length {
            if !self.more().await? {
                return Err(damaged("it ends too early"));
            }
        }
        let taken = self.plain[self.at..self.at + length].to_vec();
        self.at += length;
        Ok(taken)
    }

    async fn expect_end(&mut self) -> Result<(), StoreError> {
        while self.more().await? {}
        if self.at == self.plain.len() { Ok(()) } else { Err(damaged("there is something behind its end")) }
    }

    /// Decrypts the next piece; `false` at the end, which must be the end of the stream.
    async fn more(&mut self) -> Result<bool, StoreError> {
        let Some(opener) = &mut self.opener else { return Ok(false) };
        let mut piece = std::mem::take(&mut self.rest);
        if piece.is_empty() {
            piece.resize(PIECE, 0);
            let read = self.reader.read(&mut piece).await.map_err(StoreError::Transfer)?;
            piece.truncate(read);
        }
        self.plain.drain(..self.at);
        self.at = 0;
        let refused = |_| damaged("it was cut or changed");
        if piece.is_empty() {
            let opener = self.opener.take().ok_or_else(|| damaged("it ends too early"))?;
            opener.finish(&mut self.plain).map_err(refused)?;
        } else {
            opener.update(&piece, &mut self.plain).map_err(refused)?;
        }
        Ok(true)
    }
}

async fn read_exact(reader: &mut (impl AsyncRead + Unpin), bytes: &mut [u8]) -> Result<(), StoreError> {
    reader.read_exact(bytes).await.map(drop).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it ends too early"),
        _ => StoreError::Transfer(error),
    })
}
