use std::sync::Arc;

use super::*;
use crate::clock::Date;
use crate::envelope::Salt;
use crate::id::{ErasureGeneration, ExportId};
use crate::store::check::check;
use crate::store::testing::{
    DEPLOYMENT, Place, add, dek, dek_path, erasure_secret, first_records, keys_without_erasure, read, sealed,
};
use crate::store::{Changes, Records, StoreError};

fn key() -> Key256 {
    Key256::init_with(|key| key.fill(0x77))
}

fn secret() -> Key256 {
    Key256::init_with(|key| key.fill(0x5a))
}

fn next() -> ErasureGeneration {
    ErasureGeneration::new(2).unwrap()
}

async fn export(records: &Records) -> Vec<u8> {
    let snapshot = records.recovery().await.unwrap();
    let (root, secret) = first_records();
    let position = snapshot.position();
    let header = Header {
        id: ExportId([1; 16]),
        deployment: DEPLOYMENT,
        root: root.id,
        canary: root.canary,
        kek: root.escrow,
        secret,
        created: Date(1),
        delete_by: Date(2),
        revision: position.revision,
        digest: position.digest,
        records: snapshot.records(),
        erasure: ErasureGeneration::FIRST,
        ciphertext: None,
    };
    let mut writer = snapshot.write(&header, &sealed(9), key(), Salt([3; 24])).unwrap();
    let mut file = Vec::new();
    while let Some(piece) = writer.next().await.unwrap() {
        file.extend(piece);
    }
    file
}

async fn restore(file: &[u8], place: &Place) -> Result<Restored, StoreError> {
    let closed = Closed::read(file).await?;
    let head = closed.head.clone();
    let opened = closed.open(key()).await?;
    let erasure = (next(), erasure_secret(8));
    opened.restore(&head, place.kv().await, &place.journal(), &secret(), erasure).await
}

async fn source(place: &Place) -> Records {
    let records = place.create().await;
    add(&records, 1).await.unwrap();
    let mut changes = Changes::new();
    changes.create(&dek_path(1), &dek(1));
    records.commit(changes).await.unwrap();
    records
}

#[tokio::test]
async fn what_was_exported_is_restored_under_another_erasure_key() {
    let (here, there) = (Place::new(), Place::new());
    let records = source(&here).await;
    let file = export(&records).await;
    let restored = restore(&file, &there).await.unwrap();
    assert_eq!(restored, Restored { records: 4, revision: records.position().revision });
    let keys = keys_without_erasure();
    let (moved, _) = Records::open(there.kv().await, &there.journal(), DEPLOYMENT, keys, None).await.unwrap();
    assert_eq!(read(&moved, 1).await, Some(0));
    assert!(matches!(moved.get(&dek_path(1)).await, Err(StoreError::Erased { .. })), "sealed anew");
    moved.open_erasure_key(next(), erasure_secret(8));
    assert_eq!(moved.get(&dek_path(1)).await.unwrap(), records.get(&dek_path(1)).await.unwrap());
    let keys = Arc::new(keys_without_erasure());
    let report = check(there.kv().await.as_ref(), &there.journal(), keys).await.unwrap();
    assert!(report.is_whole(), "{:?}", report.lines());
    assert!(matches!(restore(&file, &there).await, Err(StoreError::Refused(Refusal::NotEmpty(_)))));
}

#[tokio::test]
async fn a_flipped_byte_or_a_cut_is_refused() {
    let here = Place::new();
    let file = export(&source(&here).await).await;
    let (_, head) = Head::parse(&file).unwrap().unwrap();
    // The sealed key is the HSM's to judge; it has two fields and their heads.
    let after_hash = head - (4 + minicbor::to_vec(sealed(9)).unwrap().len());
    for at in (0..after_hash).chain(head..file.len()) {
        let mut changed = file.clone();
        changed[at] ^= 1;
        assert!(restore(&changed, &Place::new()).await.is_err(), "byte {at}");
    }
    for length in (0..file.len()).step_by(7) {
        assert!(restore(&file[..length], &Place::new()).await.is_err(), "cut at {length}");
    }
    let longer = [file.as_slice(), b"x"].concat();
    assert!(restore(&longer, &Place::new()).await.is_err());
}

#[tokio::test]
async fn an_export_of_a_store_that_is_not_whole_fails() {
    let here = Place::new();
    let records = source(&here).await;
    here.sql("DELETE FROM kv WHERE key = ?1", &dek_path(1).key());
    let snapshot = records.recovery().await.unwrap();
    let (root, secret) = first_records();
    let header = Header {
        id: ExportId([1; 16]),
        deployment: DEPLOYMENT,
        root: root.id,
        canary: root.canary,
        kek: root.escrow,
        secret,
        created: Date(1),
        delete_by: Date(2),
        revision: 1,
        digest: [0; 32],
        records: 1,
        erasure: ErasureGeneration::FIRST,
        ciphertext: None,
    };
    let mut writer = snapshot.write(&header, &sealed(9), key(), Salt([3; 24])).unwrap();
    let failed = loop {
        match writer.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it must not end"),
            Err(error) => break error,
        }
    };
    assert!(matches!(failed, StoreError::Tampered { .. }), "{failed}");
}

#[tokio::test]
async fn a_newer_export_is_refused_by_name() {
    let here = Place::new();
    let mut file = export(&source(&here).await).await;
    file[7] = 2;
    let error = restore(&file, &Place::new()).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(Refusal::Newer { found: 2, known: 1, .. })), "{error}");
}
