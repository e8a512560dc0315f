//! Opening a store: what fits together, what is repaired, what is refused.

use std::path::Path;
use std::sync::Arc;

use super::blocking::blocking;
use super::commit::{Writer, locate, lock};
use super::error::{Refusal, StoreError};
use super::files;
use super::journal::{Entry, Header, Journal, Kind, Source, Step, draft_path, journal_error};
use super::kv::{self, Kv, Transaction, Write};
use super::mac::{StoreKeys, payload_of};
use super::meta::{JournalPoint, LogState, Meta, StoreChange, Totals};
use super::migrate;
use super::records::{Changes, Records};
use super::tables::{self, Prefix};
use super::view::View;
use crate::id::{DeploymentId, ErasureGeneration};
use crate::keyring::record::{Erasure, Root, SigningPurpose, SystemKey, SystemSecret};

/// A list of roots is read in one go; there are never as many.
const ROOTS: usize = 10_000;

/// What opening a store found and did.
#[derive(Debug)]
pub struct OpenReport {
    /// Where the store is now.
    pub position: StoreChange,
    /// The verified root and secret. Compare them with those that [`bootstrap`]
    /// read; absent in a store without a secret.
    pub bootstrap: Option<(Root, SystemSecret)>,
    /// Changes that only the journal had.
    pub replayed: u64,
    /// That a store of an older format was migrated, in words: what is expected after an upgrade.
    pub migrated: Option<String>,
    /// What was done besides, in words; empty after an orderly stop.
    pub notes: Vec<String>,
}

/// What to do with a store that is older than the audit log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rollback {
    Refuse,
    Accept,
}

/// The newest root and the daemon's secret, read without any key: what is needed
/// to ask the HSM for the key that verifies them. `None` for an empty store.
///
/// # Errors
/// [`StoreError::Tampered`] when they cannot be read or do not belong together.
pub async fn bootstrap(kv: &dyn Kv) -> Result<Option<(Root, SystemSecret)>, StoreError> {
    let mut snapshot = kv.snapshot().await?;
    let roots = snapshot.range(Prefix::<Root>::all().as_bytes(), None, ROOTS).await?;
    let secret = snapshot.get(&tables::system_secret().key()).await?;
    first_records(roots.into_iter().map(|(_, entry)| entry.value), secret.map(|entry| entry.value))
}

/// The generations of one of the daemon's signing keys, read without any key: as they stand there.
///
/// # Errors
/// [`StoreError::Tampered`] when one cannot be read.
pub async fn signing_keys(kv: &dyn Kv, purpose: SigningPurpose) -> Result<Vec<SystemKey>, StoreError> {
    const MOST: usize = 1000;
    let mut snapshot = kv.snapshot().await?;
    let rows = snapshot.range(tables::system_keys(purpose).as_bytes(), None, MOST).await?;
    let read = |(key, entry): (Vec<u8>, kv::Entry)| {
        let decoded = minicbor::decode(payload_of(&entry.value));
        decoded.map_err(|_| StoreError::tampered(&key, "it cannot be read"))
    };
    rows.into_iter().map(read).collect()
}

/// The generations of the erasure key, read without any key: only good for asking the
/// HSM whether it still has them.
///
/// # Errors
/// When the store cannot be read.
pub async fn erasure_keys(kv: &dyn Kv) -> Result<ErasureList, StoreError> {
    let rows = kv.snapshot().await?.range(Prefix::<Erasure>::all().as_bytes(), None, usize::MAX >> 1).await?;
    Ok(erasure_list(rows.into_iter().map(|(key, entry)| (key, entry.value))))
}

/// Generations of the erasure key, in order.
pub type ErasureList = Vec<(ErasureGeneration, Erasure)>;

/// The generations among some rows.
pub(super) fn erasure_list(rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> ErasureList {
    let read = |(key, value): (Vec<u8>, Vec<u8>)| {
        let path = tables::Path::<Erasure>::parse(&key)?;
        Some((path.id, minicbor::decode(payload_of(&value)).ok()?))
    };
    rows.into_iter().filter_map(read).collect()
}

/// The secret, and the root that it names, from stored values.
pub(super) fn first_records(
    roots: impl IntoIterator<Item = Vec<u8>>,
    secret: Option<Vec<u8>>,
) -> Result<Option<(Root, SystemSecret)>, StoreError> {
    let Some(secret) = secret else { return Ok(None) };
    let key = tables::system_secret().key();
    let secret: SystemSecret =
        minicbor::decode(payload_of(&secret)).map_err(|_| StoreError::tampered(&key, "it cannot be read"))?;
    let root = roots
        .into_iter()
        .filter_map(|value| minicbor::decode::<Root>(payload_of(&value)).ok())
        .find(|root| root.id == secret.root);
    let root = root.ok_or_else(|| StoreError::tampered(&key, "the root that it names is not there"))?;
    Ok(Some((root, secret)))
}

/// See [`Records::create`].
pub(super) async fn create(
    kv: Arc<dyn Kv>,
    path: &Path,
    deployment: DeploymentId,
    keys: Arc<StoreKeys>,
    initial: Changes,
) -> Result<(Records, StoreChange), StoreError> {
    refuse_unless_new(kv.as_ref(), path).await?;
    let journal = empty_journal(path, deployment, keys.clone()).await?;
    let log = LogState::default();
    let meta = Meta { deployment, totals: Totals::EMPTY, journal: journal.end(), log };
    let row = Write { key: Meta::key(), value: Some(meta.seal(&keys)?) };
    kv.commit(Transaction { expect: Vec::new(), writes: vec![row] }).await?;
    let records = Records::new(kv, keys, deployment, meta, Writer::unsettled(journal));
    let change = records.commit(initial).await?;
    // Until now a crash leaves a store that counts as new; from here on one that opens.
    let journal = records.inner.writer.lock().await.journal.clone();
    let path = path.to_owned();
    blocking(move || name(&mut lock(&journal), &path)).await?;
    Ok((records, change))
}

fn name(journal: &mut Journal, path: &Path) -> Result<(), StoreError> {
    journal.rename(path)?;
    journal.sync_name()
}

async fn empty_journal(
    path: &Path,
    deployment: DeploymentId,
    keys: Arc<StoreKeys>,
) -> Result<Journal, StoreError> {
    let path = path.to_owned();
    blocking(move || {
        let mut draft = Journal::draft(&path, new_header(&path, deployment, &keys)?, &keys)?;
        let log = LogState::default();
        draft.append(&Entry { kind: Kind::Base, totals: Totals::EMPTY, writes: Vec::new(), log })?;
        Ok(draft)
    })
    .await
}

pub(super) fn new_header(
    path: &Path,
    deployment: DeploymentId,
    keys: &StoreKeys,
) -> Result<Header, StoreError> {
    Header::new(deployment, keys).map_err(|source| journal_error(path, source))
}

/// A store is new when nothing was ever committed to it, and no journal says that something was.
pub(super) async fn refuse_unless_new(kv: &dyn Kv, journal: &Path) -> Result<(), StoreError> {
    if !is_unused(kv).await? {
        return Err(Refusal::NotEmpty("the store".into()).into());
    }
    if is_there(journal)? {
        return Err(Refusal::NotEmpty(journal.display().to_string()).into());
    }
    Ok(())
}

/// Whether a journal is there. Where that cannot be looked, it is not known.
fn is_there(journal: &Path) -> Result<bool, StoreError> {
    journal.try_exists().map_err(|error| journal_error(journal, error))
}

async fn is_unused(kv: &dyn Kv) -> Result<bool, StoreError> {
    let rows = kv.snapshot().await?.range(b"", None, 2).await?;
    Ok(rows.iter().all(|(key, entry)| {
        *key == Meta::key()
            && Meta::unauthenticated(&entry.value).is_some_and(|meta| meta.totals.revision == 0)
    }))
}

async fn refuse_empty(kv: &dyn Kv, journal: &Path) -> Result<(), StoreError> {
    if !is_unused(kv).await? {
        return Ok(());
    }
    let lost = is_there(journal)?;
    Err(if lost { Refusal::StoreLost(journal.display().to_string()) } else { Refusal::NoStore }.into())
}

/// See [`Records::open`].
pub(super) async fn open(
    kv: Arc<dyn Kv>,
    path: &Path,
    deployment: DeploymentId,
    keys: Arc<StoreKeys>,
    anchor: Option<StoreChange>,
    rollback: Rollback,
) -> Result<(Records, OpenReport), StoreError> {
    refuse_empty(kv.as_ref(), path).await?;
    let migrated = migrate::to_format_3(&kv, path, &keys).await?;
    let meta = View::open_any(kv.as_ref(), &keys).await?.meta;
    let (journal, found) = find_journal(path, keys.clone(), meta.clone(), anchor).await?;
    if [meta.deployment, found.deployment] != [deployment; 2] {
        return Err(Refusal::OtherDeployment("the store".into()).into());
    }
    let mut notes = found.notes();
    notes.extend(judge(&found, anchor, rollback)?);
    let end = found.end;
    let journal = blocking(move || journal.continue_at(end)).await?;
    let from = meta.totals.revision;
    let records = Records::new(kv, keys, deployment, meta, Writer::unsettled(journal));
    let replayed = records.inner.catch_up(&mut *records.inner.writer.lock().await).await?;
    if replayed > 0 {
        notes.push(format!("replayed revisions {} to {} from the key journal", from + 1, from + replayed));
    }
    let bootstrap = verified_bootstrap(&records).await?;
    let position = records.position();
    Ok((records, OpenReport { position, bootstrap, replayed, migrated, notes }))
}

async fn find_journal(
    path: &Path,
    keys: Arc<StoreKeys>,
    meta: Meta,
    anchor: Option<StoreChange>,
) -> Result<(Source, Found), StoreError> {
    let path = path.to_owned();
    blocking(move || {
        let adopted = adopt_draft(&path)?;
        let source = Source::open(&path, &keys)?;
        // What a compaction that was cut short left behind.
        files::remove_if_there(&draft_path(&path)).map_err(|error| journal_error(&path, error))?;
        let found = survey(&source, &meta, anchor, adopted)?;
        Ok((source, found))
    })
    .await
}

/// A store that was made but for the last step has its journal under the draft's name.
fn adopt_draft(path: &Path) -> Result<bool, StoreError> {
    let draft = draft_path(path);
    let adopt = !is_there(path)? && is_there(&draft)?;
    if adopt {
        files::rename(&draft, path).map_err(|error| journal_error(path, error))?;
    }
    Ok(adopt)
}

/// What the journal says about the store.
struct Found {
    deployment: DeploymentId,
    adopted: bool,
    // Behind the last whole entry.
    end: JournalPoint,
    newest: StoreChange,
    // Bytes of an unfinished entry.
    torn: u64,
    at_anchor: AtAnchor,
}

/// The digest that journal and store have for the revision of the anchor.
enum AtAnchor {
    Is([u8; 32]),
    // The revision is from before the journal's base.
    TooLongAgo,
    NotThere,
}

impl Found {
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.adopted {
            notes.push("gave the new key journal its name".into());
        }
        if self.torn > 0 {
            notes.push(format!("cut {} bytes of an unfinished change off the key journal", self.torn));
        }
        notes
    }
}

fn survey(
    source: &Source,
    meta: &Meta,
    anchor: Option<StoreChange>,
    adopted: bool,
) -> Result<Found, StoreError> {
    let mut reader = locate(source, meta)?;
    let start = reader.point();
    refuse_damage_before(source, start, meta)?;
    let mut newest = meta.totals.change();
    let mut at_anchor = AtAnchor::NotThere;
    loop {
        if anchor.is_some_and(|anchor| anchor.revision == newest.revision) {
            at_anchor = AtAnchor::Is(newest.digest);
        }
        let offset = reader.point().offset;
        match reader.next()? {
            Step::End | Step::Torn => break,
            Step::Entry(entry) if entry.kind.is_change() && entry.totals.revision == newest.revision + 1 => {
                newest = entry.totals.change();
            }
            _ => return Err(Refusal::JournalDamaged { offset, revision: newest.revision }.into()),
        }
    }
    if let Some(anchor) = anchor.filter(|anchor| anchor.revision < meta.totals.revision) {
        at_anchor = look_back(source, start, anchor.revision)?;
    }
    let (deployment, end, torn) = (source.header().deployment(), reader.point(), reader.rest());
    Ok(Found { deployment, adopted, end, newest, torn, at_anchor })
}

/// A place is found by its code alone, so what stands before it may be damaged: what is written behind an entry that
/// cannot be read is lost with it.
fn refuse_damage_before(source: &Source, place: JournalPoint, meta: &Meta) -> Result<(), StoreError> {
    let damaged =
        || Refusal::JournalDamaged { offset: place.offset, revision: meta.totals.revision.saturating_sub(1) };
    let mut reader = source.reader_at(place)?.ok_or_else(damaged)?;
    match reader.back()? {
        Some(entry) if entry.totals.change() == meta.totals.change() => Ok(()),
        _ => Err(damaged().into()),
    }
}

fn look_back(source: &Source, from: JournalPoint, revision: u64) -> Result<AtAnchor, StoreError> {
    let Some(mut reader) = source.reader_at(from)? else { return Ok(AtAnchor::NotThere) };
    loop {
        let offset = reader.point().offset;
        match reader.back()? {
            Some(entry) if entry.totals.revision == revision => return Ok(AtAnchor::Is(entry.totals.digest)),
            Some(entry) if entry.kind == Kind::Base => return Ok(AtAnchor::TooLongAgo),
            Some(_) => (),
            None => return Err(Refusal::JournalDamaged { offset, revision: 0 }.into()),
        }
    }
}

/// Compares with the audit log. Returns a note when there is something to say.
fn judge(found: &Found, anchor: Option<StoreChange>, rollback: Rollback) -> Result<Option<String>, Refusal> {
    let Some(anchor) = anchor else { return Ok(None) };
    let refusal = match found.at_anchor {
        AtAnchor::Is(digest) if digest == anchor.digest => return Ok(None),
        AtAnchor::TooLongAgo => {
            let note = "not compared with the audit log: its last change is from before the key journal";
            return Ok(Some(note.into()));
        }
        AtAnchor::Is(_) => Refusal::OtherHistory { revision: anchor.revision },
        AtAnchor::NotThere => Refusal::RolledBack { store: found.newest.revision, audit: anchor.revision },
    };
    match rollback {
        Rollback::Refuse => Err(refusal),
        Rollback::Accept => Ok(Some(format!("accepted on the operator's order: {refusal}"))),
    }
}

pub(super) async fn verified_bootstrap(
    records: &Records,
) -> Result<Option<(Root, SystemSecret)>, StoreError> {
    let mut view = records.view().await?;
    let Some(secret) = view.get(&tables::system_secret()).await? else { return Ok(None) };
    let roots = view.complete::<Root>().await?;
    let root = roots.into_iter().map(|(_, stored)| stored.record).find(|root| root.id == secret.record.root);
    let key = tables::system_secret().key();
    let root = root.ok_or_else(|| StoreError::tampered(&key, "the root that it names is not there"))?;
    Ok(Some((root, secret.record)))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::store::testing::{
        self, DEPLOYMENT, FaultyKv, Place as Dir, add, crash, dek, dek_path, first_changes, keys, read, set,
    };

    async fn refusal(place: &Dir, anchor: Option<StoreChange>) -> Refusal {
        match place.open_after(anchor).await.err() {
            Some(StoreError::Refused(refusal)) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// A store of five revisions, and what the disk had at each.
    async fn history() -> (Dir, Vec<(StoreChange, Dir)>) {
        let place = Dir::new();
        let records = place.create().await;
        let mut images = vec![(records.position(), place.image())];
        for number in 1..5 {
            let change = add(&records, number).await.unwrap();
            images.push((change, place.image()));
        }
        crash(records);
        (place, images)
    }

    /// The store of one image with the journal of another.
    fn mix(store: &Dir, journal: &Dir) -> Dir {
        let mixed = store.image();
        std::fs::copy(journal.journal(), mixed.journal()).unwrap();
        mixed
    }

    #[tokio::test]
    async fn an_orderly_store_opens_without_a_word() {
        let (place, images) = history().await;
        for (change, image) in &images {
            let (records, report) = image.open_after(Some(*change)).await.unwrap();
            assert_eq!((report.position, report.replayed), (*change, 0));
            assert_eq!(report.notes, Vec::<String>::new());
            assert_eq!(report.bootstrap, Some(testing::first_records()));
            assert_eq!(records.position(), *change);
        }
        let kv = place.kv().await;
        assert_eq!(bootstrap(kv.as_ref()).await.unwrap(), Some(testing::first_records()));
    }

    #[tokio::test]
    async fn an_empty_place_is_no_store() {
        let place = Dir::new();
        assert_eq!(refusal(&place, None).await, Refusal::NoStore);
        assert_eq!(bootstrap(place.kv().await.as_ref()).await.unwrap(), None);
        let (old, _) = history().await;
        std::fs::copy(old.journal(), place.journal()).unwrap();
        assert!(matches!(refusal(&place, None).await, Refusal::StoreLost(_)));
        let again =
            Records::create(place.kv().await, &place.journal(), DEPLOYMENT, keys(), first_changes()).await;
        assert!(
            matches!(again.err(), Some(StoreError::Refused(Refusal::NotEmpty(_)))),
            "the journal may be the only copy"
        );
    }

    #[tokio::test]
    async fn a_store_is_not_made_twice() {
        let (place, _) = history().await;
        let again =
            Records::create(place.kv().await, &place.journal(), DEPLOYMENT, keys(), first_changes()).await;
        assert!(matches!(again.err(), Some(StoreError::Refused(Refusal::NotEmpty(_)))));
    }

    #[tokio::test]
    async fn what_the_store_lost_is_replayed() {
        let (_, images) = history().await;
        let (newest, last) = images.last().unwrap();
        for (change, image) in &images {
            let mixed = mix(image, last);
            let (records, report) = mixed.open_after(Some(*newest)).await.unwrap();
            assert_eq!(report.position, *newest);
            let lost = newest.revision - change.revision;
            assert_eq!(report.replayed, lost);
            if lost > 0 {
                let expected =
                    format!("replayed revisions {} to 5 from the key journal", change.revision + 1);
                assert_eq!(report.notes, [expected]);
            }
            assert_eq!(read(&records, 4).await, Some(0));
            add(&records, 9).await.unwrap();
            crash(records);
            let (_, report) = mixed.open().await.unwrap();
            assert_eq!((report.position.revision, report.replayed), (6, 0));
        }
    }

    #[tokio::test]
    async fn a_cut_journal_is_refused() {
        let (_, images) = history().await;
        let (_, last) = images.last().unwrap();
        for (change, image) in &images[..4] {
            let expected = Refusal::JournalCut { store: 5, journal: change.revision };
            assert_eq!(refusal(&mix(last, image), None).await, expected);
        }
        let missing = last.image();
        std::fs::remove_file(missing.journal()).unwrap();
        assert!(matches!(refusal(&missing, None).await, Refusal::NoJournal(_)));
    }

    #[tokio::test]
    async fn a_store_older_than_the_audit_log_is_refused_unless_ordered() {
        let (_, images) = history().await;
        let newest = images.last().unwrap().0;
        let (_, image) = &images[2];
        assert_eq!(refusal(image, Some(newest)).await, Refusal::RolledBack { store: 3, audit: 5 });
        let opened =
            Records::open_accepting_rollback(image.kv().await, &image.journal(), DEPLOYMENT, keys(), newest)
                .await;
        let (records, report) = opened.unwrap();
        assert_eq!(report.position.revision, 3);
        assert!(report.notes[0].starts_with("accepted on the operator's order"), "{:?}", report.notes);
        add(&records, 9).await.unwrap();
    }

    #[tokio::test]
    async fn another_history_is_refused() {
        let (_, images) = history().await;
        let (_, last) = images.last().unwrap();
        for (change, _) in &images {
            let (records, _) = last.open_after(Some(*change)).await.unwrap();
            crash(records);
            let other = StoreChange { digest: [1; 32], ..*change };
            assert_eq!(refusal(last, Some(other)).await, Refusal::OtherHistory { revision: change.revision });
            // The same when the store still has to catch up.
            let mixed = mix(&images[2].1, last);
            assert_eq!(
                refusal(&mixed, Some(other)).await,
                Refusal::OtherHistory { revision: change.revision }
            );
        }
    }

    #[tokio::test]
    async fn another_installation_is_refused() {
        let (place, _) = history().await;
        let other = DeploymentId([9; 16]);
        let opened = Records::open(place.kv().await, &place.journal(), other, keys(), None).await;
        assert!(matches!(opened.err(), Some(StoreError::Refused(Refusal::OtherDeployment(_)))));
        let keys = StoreKeys::derive(&crate::secret::Key256::init_with(|key| key.fill(1)));
        let opened = Records::open(place.kv().await, &place.journal(), DEPLOYMENT, keys, None).await;
        assert!(matches!(opened.err(), Some(StoreError::Tampered { .. })));
    }

    #[tokio::test]
    async fn a_store_that_was_swapped_at_bootstrap_is_noticed() {
        let (place, _) = history().await;
        let (mut root, _) = testing::first_records();
        root.token_label = "other".into();
        let key = tables::root(root.generation).key();
        let forged = keys().plain(&key, 1, &minicbor::to_vec(&root).unwrap());
        place.poke(&key, &forged);
        assert_eq!(bootstrap(place.kv().await.as_ref()).await.unwrap().unwrap().0, root);
        assert!(matches!(place.open().await.err(), Some(StoreError::Tampered { .. })));
    }

    /// Cuts or damages the WAL of a copy and opens it.
    async fn open_with_wal(
        image: &Dir,
        edit: impl Fn(&mut Vec<u8>),
    ) -> Result<(Records, OpenReport), StoreError> {
        let copy = image.image();
        let wal = copy.dir.path().join("store.db-wal");
        let mut bytes = std::fs::read(&wal).unwrap();
        edit(&mut bytes);
        std::fs::write(&wal, bytes).unwrap();
        copy.open().await
    }

    #[tokio::test]
    async fn a_damaged_wal_loses_nothing_that_was_acknowledged() {
        let place = Dir::new();
        let records = place.create().await;
        for number in 1..6 {
            add(&records, number).await.unwrap();
        }
        let image = place.image();
        let frames = std::fs::metadata(image.dir.path().join("store.db-wal")).unwrap().len() / 4120;
        let (mut replayed, mut lost) = (0, 0);
        for frame in (0..frames).step_by(3) {
            let at = 32 + 4120 * frame as usize;
            for cut in [true, false] {
                let opened =
                    open_with_wal(&image, |wal| if cut { wal.truncate(at + 100) } else { wal[at + 99] ^= 4 });
                match opened.await {
                    Ok((records, report)) => {
                        assert_eq!(report.position, place_position(&place).await);
                        assert_eq!(report.replayed > 0, !report.notes.is_empty());
                        assert_eq!(read(&records, 5).await, Some(0));
                        replayed += u32::from(report.replayed > 0);
                    }
                    Err(StoreError::Refused(Refusal::StoreLost(_))) => lost += 1,
                    Err(error) => panic!("frame {frame}, cut {cut}: {error}"),
                }
            }
        }
        assert!(replayed > 10 && lost > 0, "{replayed} {lost}");
    }

    async fn place_position(place: &Dir) -> StoreChange {
        let view = View::open_any(place.kv().await.as_ref(), &Arc::new(keys())).await.unwrap();
        view.position()
    }

    #[tokio::test]
    async fn the_journal_may_be_torn_at_any_byte_that_the_store_does_not_have() {
        let (_, images) = history().await;
        let (old, last) = (&images[2].1, &images[4].1);
        let [start, middle, end] =
            [2, 3, 4].map(|at| std::fs::metadata(images[at].1.journal()).unwrap().len());
        for length in start..=end {
            let mixed = mix(old, last);
            let file = std::fs::File::options().write(true).open(mixed.journal()).unwrap();
            file.set_len(length).unwrap();
            let (records, report) = mixed.open().await.unwrap();
            let whole = 3 + u64::from(length >= middle) + u64::from(length >= end);
            assert_eq!(report.position.revision, whole, "cut at {length}");
            let torn = ![start, middle, end].contains(&length);
            assert_eq!(report.notes.iter().any(|note| note.starts_with("cut ")), torn, "{:?}", report.notes);
            if length % 50 == 0 {
                add(&records, 9).await.unwrap();
                crash(records);
                assert_eq!(mixed.open().await.unwrap().1.position.revision, whole + 1);
            }
        }
    }

    #[tokio::test]
    async fn a_damaged_entry_in_the_middle_is_refused() {
        let (_, images) = history().await;
        let (old, last) = (&images[2].1, &images[4].1);
        let [start, middle] = [2, 3].map(|at| std::fs::metadata(images[at].1.journal()).unwrap().len());
        for at in (start..middle).step_by(3) {
            let mixed = mix(old, last);
            let mut bytes = std::fs::read(mixed.journal()).unwrap();
            bytes[at as usize] ^= 0x10;
            std::fs::write(mixed.journal(), bytes).unwrap();
            assert_eq!(
                refusal(&mixed, None).await,
                Refusal::JournalDamaged { offset: start, revision: 3 },
                "byte {at}"
            );
        }
    }

    #[tokio::test]
    async fn a_damaged_entry_that_the_store_has_is_refused() {
        let (_, images) = history().await;
        let last = &images[4].1;
        let [start, end] = [3, 4].map(|at| std::fs::metadata(images[at].1.journal()).unwrap().len());
        for at in (start..end).step_by(3) {
            let place = last.image();
            let mut bytes = std::fs::read(place.journal()).unwrap();
            bytes[at as usize] ^= 0x10;
            std::fs::write(place.journal(), bytes).unwrap();
            let found = refusal(&place, None).await;
            let expected = match end - at {
                // The code by which the place is found: the journal ends before the store then.
                5..=36 => Refusal::JournalCut { store: 5, journal: 4 },
                _ => Refusal::JournalDamaged { offset: end, revision: 4 },
            };
            assert_eq!(found, expected, "byte {at}");
        }
    }

    #[tokio::test]
    async fn a_crash_while_a_store_is_made_leaves_nothing_or_a_store() {
        let place = Dir::new();
        let kv = FaultyKv::new(place.kv().await);
        let journal = place.journal();
        let create = || Records::create(kv.clone(), &journal, DEPLOYMENT, keys(), first_changes());
        // The first commit writes the meta row.
        for fault in testing::Fault::BOTH {
            kv.commits.next(fault);
            assert!(create().await.is_err());
            assert_eq!(bootstrap(kv.as_ref()).await.unwrap(), None);
            assert_eq!(refusal(&place, None).await, Refusal::NoStore);
        }
        let (records, made) = create().await.unwrap();
        // As if the last step, naming the journal, had not happened.
        let image = place.image();
        std::fs::rename(image.journal(), draft_path(&image.journal())).unwrap();
        let (_, report) = image.open_after(Some(made)).await.unwrap();
        assert_eq!(report.notes, ["gave the new key journal its name"]);
        drop(records);
    }

    #[tokio::test]
    async fn opening_reads_as_little_from_a_large_store_as_from_a_small_one() {
        let place = Dir::new();
        let records = place.create().await;
        add(&records, 1).await.unwrap();
        crash(records);
        let small = rows_read_to_open(&place).await;
        let (records, _) = place.open().await.unwrap();
        for batch in 0..100 {
            let mut changes = Changes::new();
            for number in 0..1000 {
                changes.create(&dek_path(batch * 1000 + number), &dek(1));
            }
            records.commit(changes).await.unwrap();
        }
        for number in 2..100 {
            set(&records, 1, number).await.unwrap();
        }
        assert_eq!(records.stats().records, 100_003);
        crash(records);
        let large = rows_read_to_open(&place).await;
        assert!(large <= small && large < 40, "{large} rows, {small} from a small store");
    }

    async fn rows_read_to_open(place: &Dir) -> u64 {
        let kv = FaultyKv::new(place.kv().await);
        let (_, report) =
            Records::open(kv.clone(), &place.journal(), DEPLOYMENT, keys(), None).await.unwrap();
        assert_eq!(report.replayed, 0);
        kv.reads.load(Ordering::Relaxed)
    }
}
