//! Writing a recovery export, piece by piece.

use super::header::{self, Head, Header, put};
use super::{Trailer, context, dek, name};
use crate::envelope::{Salt, StreamSealer};
use crate::keyring::record::{Root, SystemSecret};
use crate::keyring::wrapped::SealedKey;
use crate::secret::Key256;
use crate::store::error::StoreError;
use crate::store::mac::StoreKeys;
use crate::store::meta::{Meta, Totals};
use crate::store::scan::Scan;
use crate::store::view::Row;
use crate::store::{Records, StoreChange, recover};
use std::sync::Arc;

/// The records at one revision.
pub struct Snapshot {
    /// The root, and the daemon's secret.
    pub bootstrap: (Root, SystemSecret),
    scan: Scan,
    totals: Totals,
    keys: Arc<StoreKeys>,
}

/// An export that is being written.
pub struct Writer {
    snapshot: Snapshot,
    /// The first piece, until it was given out.
    head: Option<Vec<u8>>,
    /// Gone when the last piece was given out.
    sealer: Option<StreamSealer>,
    /// What the rows add up to as they are stored, and as they are exported.
    stored: Totals,
    exported: Trailer,
}

impl Records {
    /// Everything at its newest revision, for an export.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when the store is not as the daemon left it.
    pub async fn recovery(&self) -> Result<Snapshot, StoreError> {
        let bootstrap = recover::verified_bootstrap(self).await?;
        let bootstrap = bootstrap.ok_or_else(|| StoreError::tampered(&Meta::key(), "there is no secret"))?;
        let view = self.view().await?;
        let (totals, keys) = (view.meta.totals, self.inner.keys.clone());
        Ok(Snapshot { bootstrap, scan: Scan::new(view.snapshot), totals, keys })
    }
}

impl Snapshot {
    /// The revision, and the digest at it.
    pub fn position(&self) -> StoreChange {
        self.totals.change()
    }

    /// Records.
    pub fn records(&self) -> u64 {
        self.totals.records()
    }

    /// The hash of a header, to which the export key is to be bound.
    pub fn hash(header: &Header) -> [u8; 32] {
        header::encode(header).1
    }

    /// Begins to write, under `key`, which is sealed as `sealed`.
    ///
    /// # Errors
    /// [`StoreError::Primitive`].
    pub fn write(
        self,
        header: &Header,
        sealed: &SealedKey,
        key: Key256,
        salt: Salt,
    ) -> Result<Writer, StoreError> {
        let (mut head, hash) = (Head::encode(header, sealed), Self::hash(header));
        let sealer = StreamSealer::new(&dek(header, key), &name()?, &context(&hash)?, salt);
        let sealer = sealer.map_err(|_| StoreError::Primitive("the export's stream"))?;
        head.extend_from_slice(sealer.header());
        let stored = Totals { revision: self.totals.revision, digest: self.totals.digest, ..Totals::EMPTY };
        Ok(Writer {
            snapshot: self,
            head: Some(head),
            sealer: Some(sealer),
            stored,
            exported: Trailer::default(),
        })
    }
}

impl Writer {
    /// The next piece of the file; `None` when it is whole.
    ///
    /// # Errors
    /// [`StoreError::Tampered`] when a record is not genuine or one is missing: what was
    /// written so far is of no use.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        if self.sealer.is_none() {
            return Ok(None);
        }
        let rows = self.snapshot.scan.next().await?;
        if rows.is_empty() {
            return self.finish().map(Some);
        }
        let mut body = Vec::new();
        for (key, value) in rows {
            self.put_row(&key, value, &mut body)?;
        }
        let mut out = Vec::with_capacity(body.len() + body.len() / 1024 + 64);
        let failed = |_| StoreError::Primitive("the export's stream");
        self.sealer.as_mut().map_or(Ok(()), |sealer| sealer.update(&body, &mut out)).map_err(failed)?;
        Ok(Some(out))
    }

    fn put_row(&mut self, key: &[u8], value: Vec<u8>, body: &mut Vec<u8>) -> Result<(), StoreError> {
        let keys = &self.snapshot.keys;
        let row = Row::open(key, value, keys, self.snapshot.totals.revision)?;
        self.stored.add(key, &row.value, keys);
        let plain = keys.plain(key, row.revision, &row.payload(key, keys)?);
        self.exported.add(&plain);
        put(body, key);
        put(body, &plain);
        Ok(())
    }

    fn finish(&mut self) -> Result<Vec<u8>, StoreError> {
        if self.stored != self.snapshot.totals {
            return Err(StoreError::tampered(&Meta::key(), "the records do not add up to what it says"));
        }
        let mut body = Vec::new();
        put(&mut body, &[]);
        put(&mut body, &minicbor::to_vec(&self.exported).expect("encoding into memory cannot fail"));
        let mut out = Vec::new();
        let failed = |_| StoreError::Primitive("the export's stream");
        if let Some(mut sealer) = self.sealer.take() {
            sealer.update(&body, &mut out).map_err(failed)?;
            sealer.finish(&mut out).map_err(failed)?;
        }
        Ok(out)
    }
}
