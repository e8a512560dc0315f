//! Checks and copies of the live store, by the daemon that has it open: nobody else sees every change.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, BufWriter, DuplexStream, duplex};
use tokio::task::JoinHandle;

use super::{Done, Error, Vault};
use crate::access::{Authorized, permission};
use crate::id::Installation;
use crate::store::StoreError;
use crate::store::check::CheckReport;
use crate::store::transfer::Exported;

/// Bytes of a piece at most, and of what waits for whoever reads it.
pub const PIECE: usize = 256 << 10;

/// A copy that is being written.
pub struct StoreCopy {
    pieces: DuplexStream,
    /// Writes at the other end, and stops when this one is gone.
    work: JoinHandle<Result<Exported, StoreError>>,
    bytes: u64,
}

/// A copy that was given out.
#[derive(Debug)]
pub struct Copied {
    /// What it holds.
    pub exported: Exported,
    /// Its length.
    pub bytes: u64,
}

impl Vault {
    /// Verifies every record of store and journal, and compares what was decided with what is there.
    ///
    /// # Errors
    /// When store or journal cannot be read; what is wrong with them stands in the report.
    pub async fn check_store(
        &self,
        right: &Authorized<permission::ManageStore>,
    ) -> Result<Done<CheckReport>, Error> {
        let Installation = right.resource();
        let mut report = self.records.check().await?;
        // Records that are not all there say nothing of what was decided.
        if report.is_whole() {
            report.decided = self.records.compare_decided().await?;
        }
        let problems = report.store.count() + report.journal.count() + report.decided.count();
        let detail =
            format!("{} records at revision {}, {problems} problems", report.records, report.revision);
        Ok(Done::new(report).detail(detail))
    }

    /// Begins a raw copy of all records. What fails is told with its pieces.
    pub fn begin_store_copy(&self, right: &Authorized<permission::ManageStore>) -> Done<StoreCopy> {
        let Installation = right.resource();
        let (pieces, end) = duplex(PIECE);
        let records = self.records.clone();
        let work = tokio::spawn(async move { records.export(BufWriter::with_capacity(PIECE, end)).await });
        let detail = format!("at revision {} or later", self.records.position().revision);
        Done::new(StoreCopy { pieces, work, bytes: 0 }).detail(detail)
    }
}

impl StoreCopy {
    /// The next piece of the file; `None` behind the last one, and behind the last one before a failure:
    /// only [`finish`](Self::finish) says that it is whole.
    ///
    /// # Errors
    /// When the daemon is at its end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        let mut piece = BytesMut::with_capacity(PIECE);
        // The piece never grows: reading stops when its room is used up, or nothing comes any more.
        while piece.len() < PIECE {
            let room = PIECE - piece.len();
            let read = (&mut self.pieces).take(room as u64).read_buf(&mut piece).await;
            match read.map_err(|error| Error::Internal(format!("the store's copy: {error}")))? {
                0 => break,
                count => self.bytes += count as u64,
            }
        }
        Ok((!piece.is_empty()).then(|| piece.freeze()))
    }

    /// What was given out, once all of it was.
    ///
    /// # Errors
    /// Why it ended before its end.
    pub async fn finish(self) -> Result<Done<Copied>, Error> {
        let Self { pieces, work, bytes } = self;
        let written = work.await;
        // Not before: without a reader the work would fail.
        drop(pieces);
        let exported =
            written.map_err(|stopped| Error::Internal(format!("the store's copy: {stopped}")))??;
        let detail =
            format!("{} records at revision {}, {bytes} bytes", exported.records, exported.position.revision);
        Ok(Done::new(Copied { exported, bytes }).detail(detail))
    }
}
