//! Reads and verifies a whole log, also while a daemon writes it.

use std::path::{Path, PathBuf};

use super::checkpoint::{NoteKey, SignedCheckpoint};
use super::damage::{Damage, Flaw, VerifyError};
use super::frame::{ChainHash, Tip};
use super::reader::SegmentReader;
use super::record::{Record, StoreChange};
use super::recount::{Counted, Recount};
use super::segment;
use super::telling::{Telling, Told};
use crate::clock::Date;
use crate::id::DeploymentId;

/// What a log that verifies holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The installation that wrote it.
    pub deployment: DeploymentId,
    /// How many segments it has.
    pub segments: u64,
    /// How many records it has; the newest one has this sequence number.
    pub records: u64,
    /// Time of the first record.
    pub first: Option<Date>,
    /// Time of the newest record.
    pub last: Option<Date>,
    /// The chain hash of the newest record.
    pub head: ChainHash,
    /// The newest store change in it.
    pub last_change: Option<StoreChange>,
    /// Whether it tells of every change.
    pub told: Told,
    /// The tree over the records, and its checkpoints.
    pub counted: Counted,
    /// An unfinished write behind the newest record: left by a crash, or being
    /// written right now.
    pub torn: Option<Torn>,
}

/// An unfinished write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// The segment file.
    pub file: PathBuf,
    /// Where it starts.
    pub offset: u64,
    /// How many bytes were found.
    pub bytes: u64,
}

/// Verifies every record, header and hash of the log in `dir`, the tree over it and, but for
/// their signatures, its checkpoints.
///
/// # Errors
/// [`VerifyError`] with the first place that is wrong.
pub fn verify(dir: &Path) -> Result<Report, VerifyError> {
    verify_against(dir, Against::default())
}

/// What a log is verified against, besides itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Against<'a> {
    /// Keys of which one must have signed each checkpoint.
    pub keys: Option<&'a [NoteKey]>,
    /// A checkpoint that was kept elsewhere, and the file that it is in.
    pub witness: Option<(&'a Path, &'a SignedCheckpoint)>,
}

/// As [`verify`], and against what comes from elsewhere.
///
/// # Errors
/// [`VerifyError`] with the first place that is wrong.
pub fn verify_against(dir: &Path, against: Against<'_>) -> Result<Report, VerifyError> {
    let mut records = read(dir)?;
    let mut recount = Recount::open(dir, records.segment.header().deployment, against)?;
    // A daemon may have begun a segment since the first look; its checkpoints may be in there.
    records.newest = segments(dir)?.last().copied().unwrap_or(records.newest);
    let (mut first, mut last, mut telling) = (None, None, Telling::default());
    while let Some((_, record)) = records.advance()? {
        recount.add(records.segment.record_bytes())?;
        telling.see(&record);
        first = first.or(Some(record.time));
        last = Some(record.time);
    }
    let tip = records.segment.tip();
    Ok(Report {
        deployment: records.segment.header().deployment,
        segments: records.segment.header().number,
        records: tip.sequence,
        first,
        last,
        head: tip.hash,
        last_change: records.change,
        told: telling.finish(),
        counted: recount.finish()?,
        torn: records.torn(),
    })
}

/// The records of the log in `dir`, from the first, verified on the way.
///
/// # Errors
/// [`VerifyError`] when its first segment cannot be read.
pub fn read(dir: &Path) -> Result<Records, VerifyError> {
    let numbers = segments(dir)?;
    let Some(&newest) = numbers.last() else { return Err(VerifyError::Missing(dir.to_owned())) };
    let segment = SegmentReader::open(dir, 1, newest == 1)?;
    let genesis = Tip { sequence: 0, hash: ChainHash([0; 32]) };
    if segment.header().previous != genesis || segment.header().change.is_some() {
        return Err(segment.header_flaw(Flaw::Discontinued));
    }
    Ok(Records { dir: dir.to_owned(), newest, segment, change: None, done: false })
}

/// The numbers of all segments: 1 and up, without a gap.
pub(super) fn segments(dir: &Path) -> Result<Vec<u64>, VerifyError> {
    let numbers = match segment::list(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        listed => listed.map_err(VerifyError::unreadable(dir))?,
    };
    match (1..).zip(&numbers).find(|(expected, found)| expected != *found) {
        None => Ok(numbers),
        Some((gone, _)) => {
            let file = segment::path(dir, gone);
            Err(Damage { file, offset: 0, sequence: 0, flaw: Flaw::Missing }.into())
        }
    }
}

/// The records of a log with their sequence numbers; ends after the first error.
pub struct Records {
    dir: PathBuf,
    newest: u64,
    segment: SegmentReader,
    change: Option<StoreChange>,
    done: bool,
}

impl Records {
    fn advance(&mut self) -> Result<Option<(u64, Record)>, VerifyError> {
        loop {
            if let Some(record) = self.segment.next()? {
                self.change = record.change.or(self.change);
                return Ok(Some((self.segment.tip().sequence, record)));
            }
            if self.segment.header().number == self.newest {
                return Ok(None);
            }
            self.next_segment()?;
        }
    }

    fn torn(&self) -> Option<Torn> {
        let (file, offset, bytes) =
            (self.segment.path().to_owned(), self.segment.offset(), self.segment.torn());
        (bytes > 0).then_some(Torn { file, offset, bytes })
    }

    fn next_segment(&mut self) -> Result<(), VerifyError> {
        let before = self.segment.header();
        let number = before.number + 1;
        let next = SegmentReader::open(&self.dir, number, number == self.newest)?;
        let header = next.header();
        let continues = header.deployment == before.deployment
            && header.previous == self.segment.tip()
            && header.change == self.change;
        if !continues {
            return Err(next.header_flaw(Flaw::Discontinued));
        }
        self.segment = next;
        Ok(())
    }
}

impl Iterator for Records {
    type Item = Result<(u64, Record), VerifyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let item = self.advance().transpose();
        self.done = !matches!(item, Some(Ok(_)));
        item
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::audit::file::Settings;
    use crate::audit::file::tests::{open, settings, write_each};

    /// A closed log of `records` records in small segments.
    fn log(records: u64) -> (TempDir, PathBuf) {
        let temp = TempDir::new().unwrap();
        let settings = Settings { segment_bytes: 500, ..settings(temp.path()) };
        write_each(&open(&settings).0, 1..records + 1);
        (temp, settings.dir)
    }

    fn damage(dir: &Path) -> Damage {
        match verify(dir) {
            Err(VerifyError::Damaged(damage)) => damage,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_report_tells_what_is_there() {
        let (_temp, dir) = log(9);
        let report = verify(&dir).unwrap();
        assert_eq!((report.records, report.segments, report.torn), (9, 3, None));
        assert!(report.first.unwrap() <= report.last.unwrap());
        let records: Vec<(u64, Record)> = read(&dir).unwrap().map(Result::unwrap).collect();
        assert!(records.iter().all(|(sequence, record)| *sequence == record.request_id));
        assert!(matches!(verify(&dir.join("elsewhere")), Err(VerifyError::Missing(_))));
    }

    #[test]
    fn a_flipped_byte_is_found_where_it_is() {
        let (_temp, dir) = log(9);
        for number in [1, 2] {
            let path = segment::path(&dir, number);
            let bytes = fs::read(&path).unwrap();
            for at in 0..bytes.len() {
                let mut wrong = bytes.clone();
                wrong[at] ^= 0x04;
                fs::write(&path, &wrong).unwrap();
                match verify(&dir).unwrap_err() {
                    VerifyError::Damaged(found) => {
                        assert_eq!(found.file, path, "byte {at}");
                        assert!(found.offset <= at as u64 && found.offset + 200 > at as u64, "byte {at}");
                    }
                    // The number of the format says that this program cannot judge.
                    VerifyError::Newer { .. } => assert!((8..12).contains(&at)),
                    other => panic!("byte {at}: {other}"),
                }
            }
            fs::write(&path, &bytes).unwrap();
        }
    }

    #[test]
    fn a_lost_or_swapped_segment_is_found() {
        let (_temp, dir) = log(9);
        let second = segment::path(&dir, 2);
        let bytes = fs::read(&second).unwrap();
        fs::remove_file(&second).unwrap();
        let found = damage(&dir);
        assert_eq!((found.file, found.flaw), (second.clone(), Flaw::Missing));

        fs::copy(segment::path(&dir, 3), &second).unwrap();
        let found = damage(&dir);
        assert_eq!((found.file, found.flaw), (second.clone(), Flaw::Discontinued));

        let (_other, other) = log(9);
        fs::copy(segment::path(&other, 2), &second).unwrap();
        assert_eq!(damage(&dir).flaw, Flaw::Discontinued);

        // An old segment may not be cut between two records.
        let cut = bytes.len() - (bytes.len() - segment::LENGTH) / 3;
        fs::write(&second, &bytes[..cut]).unwrap();
        assert_eq!(damage(&dir).file, segment::path(&dir, 3));
        fs::write(&second, &bytes[..cut - 1]).unwrap();
        assert_eq!(damage(&dir).file, second);
    }

    #[test]
    fn a_header_must_continue_everything_before_it() {
        let (_temp, dir) = log(9);
        let report = verify(&dir).unwrap();
        let previous = Tip { sequence: report.records, hash: report.head };
        let deployment = report.deployment;
        let right = segment::Header { deployment, number: 4, previous, date: Date(0), change: None };
        let write = |header: segment::Header| fs::write(segment::path(&dir, 4), header.encode().0).unwrap();
        write(right);
        assert_eq!(verify(&dir).unwrap().segments, 4);
        let change = Some(StoreChange { revision: 1, digest: [0; 32] });
        for wrong in [
            segment::Header { deployment: DeploymentId([0; 16]), ..right },
            segment::Header { number: 5, ..right },
            segment::Header { previous: Tip { sequence: 8, ..previous }, ..right },
            segment::Header { previous: Tip { hash: ChainHash([0; 32]), ..previous }, ..right },
            segment::Header { change, ..right },
        ] {
            write(wrong);
            let found = damage(&dir);
            assert_eq!((found.file, found.flaw), (segment::path(&dir, 4), Flaw::Discontinued), "{wrong:?}");
        }
    }

    #[test]
    fn a_log_verifies_while_it_is_written() {
        let temp = TempDir::new().unwrap();
        let settings = Settings { segment_bytes: 10_000, ..settings(temp.path()) };
        let (log, _) = open(&settings);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| write_each(&log, 0..1000));
            let mut before = 0;
            while !writing.is_finished() {
                let durable = crate::audit::AuditLog::durable(&*log);
                let report = verify(&settings.dir).unwrap();
                assert!(report.records >= before.max(durable));
                before = report.records;
            }
        });
        assert_eq!(verify(&settings.dir).unwrap().records, 1000);
    }
}
