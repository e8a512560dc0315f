//! A repair never revives a destroyed key: when the store is rebuilt from a journal that is
//! older than a destruction, the tombstones of the store that is replaced count.

use std::path::Path as FilePath;
use std::sync::Arc;

use crate::keyring::remains::Tombstone;
use crate::store::kv::Kv;
use crate::store::mac::StoreKeys;
use crate::store::records::{Changes, Records};
use crate::store::tables::{Path, Prefix};
use crate::store::view::Row;
use crate::store::{Cause, SqliteKv, StoreError};

/// Rows read at a time.
const PAGE: usize = 500;

type Graves = Vec<(Path<Tombstone>, Tombstone)>;

/// The genuine tombstones of a store, however damaged the rest of it is. Nothing of what stands
/// beside them is believed, so an unreadable store has none.
pub(super) async fn read(store: &FilePath, keys: &Arc<StoreKeys>) -> Graves {
    let mut graves = Vec::new();
    // Opening would make a store where there is none.
    if !store.try_exists().unwrap_or(false) {
        return graves;
    }
    let Ok(kv) = SqliteKv::open(store).await else { return graves };
    let Ok(mut snapshot) = kv.snapshot().await else { return graves };
    let (prefix, mut after) = (Prefix::<Tombstone>::all(), None);
    while let Ok(rows) = snapshot.range(prefix.as_bytes(), after.as_deref(), PAGE).await
        && let Some((last, _)) = rows.last()
    {
        after = Some(last.clone());
        graves.extend(rows.into_iter().filter_map(|(key, entry)| genuine(&key, entry.value, keys)));
    }
    graves
}

fn genuine(key: &[u8], value: Vec<u8>, keys: &StoreKeys) -> Option<(Path<Tombstone>, Tombstone)> {
    let row = Row::open(key, value, keys, u64::MAX).ok()?;
    Some((Path::parse(key)?, row.decode(key, keys).ok()?.record))
}

/// Puts back the tombstones that a repaired store does not have, and takes out what they bury.
pub(super) async fn keep(records: &Records, graves: Graves) -> Result<Option<String>, StoreError> {
    let mut kept = 0;
    for graves in graves.chunks(PAGE) {
        let mut view = records.view().await?;
        let paths: Vec<_> = graves.iter().map(|(path, _)| path.clone()).collect();
        let present = view.get_many(&paths).await?;
        let buried: Vec<Vec<u8>> = paths.iter().map(|path| path.id.key().to_vec()).collect();
        let rows = view.rows(&buried).await?;
        drop(view);
        let mut changes = Changes::new();
        for (((path, tombstone), present), row) in graves.iter().zip(present).zip(rows) {
            if present.is_none() {
                changes.bury_again(path, tombstone, row.map(|row| row.revision));
                kept += 1;
            }
        }
        if !changes.is_empty() {
            changes.because(Cause::own("store-repair", "destroyed keys that the journal still had"));
            records.commit(changes).await?;
        }
    }
    if kept > 0 {
        records.compact().await?;
    }
    Ok((kept > 0).then(|| format!("kept {kept} keys destroyed that the key journal still had")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Date;
    use crate::keyring::remains::Remains;
    use crate::secret::Key256;
    use crate::store::meta::Meta;
    use crate::store::repair::repair;
    use crate::store::tables;
    use crate::store::testing::{DEPLOYMENT, Place, add, crash, dek, dek_path};

    fn tombstone() -> Tombstone {
        Tombstone {
            destroyed: Date(9),
            remains: Remains::of(b"what was stored"),
            authority: "schedule".into(),
            target: "tenants/t0/keys/k".into(),
            epoch: None,
            kek: None,
        }
    }

    #[tokio::test]
    async fn an_older_journal_brings_no_destroyed_key_back() {
        let place = Place::new();
        let records = place.create().await;
        let mut changes = Changes::new();
        changes.create(&dek_path(1), &dek(1)).create(&dek_path(2), &dek(2));
        let made = records.commit(changes).await.unwrap();
        let before = place.image();
        let mut changes = Changes::new();
        changes.delete(&dek_path(1), made.revision);
        changes.create(&tables::tombstone(&dek_path(1)), &tombstone());
        records.commit(changes).await.unwrap();
        add(&records, 1).await.unwrap();
        crash(records);
        // The journal of before the destruction, and a store that cannot be believed.
        std::fs::copy(before.journal(), place.journal()).unwrap();
        place.poke(&Meta::key(), &[1; 60]);
        let secret = Key256::init_with(|key| key.fill(0x5a));
        let report = repair(&place.store(), &place.journal(), DEPLOYMENT, &secret).await.unwrap();
        assert!(report.notes.iter().any(|note| note.contains("kept 1 keys destroyed")), "{:?}", report.notes);
        let (records, _) = place.open().await.unwrap();
        assert_eq!(records.get(&dek_path(1)).await.unwrap(), None);
        assert_eq!(records.get(&dek_path(2)).await.unwrap().unwrap().record, dek(2));
        let buried = records.get(&tables::tombstone(&dek_path(1))).await.unwrap();
        assert_eq!(buried.unwrap().record, tombstone());
    }
}
