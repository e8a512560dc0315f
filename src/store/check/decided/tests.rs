use super::*;
use crate::clock::Date;
use crate::id::{
    CeremonyId, DekId, Epoch, FieldId, IndexVersion, KekVersion, RootGeneration, RootId, RosterVersion,
};
use crate::keyring::agenda::Task;
use crate::keyring::ceremony::Progress;
use crate::keyring::record::{Field, IndexField, IndexKey, Indexes, KekRecord, RunningRotation};
use crate::keyring::remains::Remains;
use crate::keyring::roster::Members;
use crate::keyring::roster::tests::custodian;
use crate::keyring::schedule::Destruction;
use crate::keyring::state::DataClass;
use crate::keyring::wrapped::{WrapMechanism, WrappedKek};
use crate::store::testing::{
    Place, dek, dek_path, first_records, key_name, keys, keys_without_erasure, sealed, tenant_id,
};
use crate::store::{Changes, Records};

const DEK: u32 = 1;

fn tenant() -> Tenant {
    Tenant { keys: 1, ..Tenant::new(Date(7), None) }
}

fn key() -> Key {
    let field = IndexField { field: field(), primary: IndexVersion::FIRST };
    Key { fields: vec![field], ..Key::new(DataClass::Sensitive, Date(7)) }
}

fn field() -> FieldId {
    FieldId::new("mail").unwrap()
}

fn version() -> Version {
    Version::new(dek_path(DEK).id.1, Date(7))
}

fn kek() -> KekRecord {
    KekRecord {
        root: RootId([1; 16]),
        wrapped: WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes: vec![2; 40] },
        state: KeyState::Active,
        uses_reserved: 0,
        created: Date(7),
        destruction: None,
        resident: None,
    }
}

fn erasure(state: ErasureState) -> Erasure {
    Erasure {
        root: RootId([8; 16]),
        kek: None,
        sealed: None,
        created: Date(7),
        state,
        resealed_to: None,
        destroyed: None,
    }
}

fn roster() -> Roster {
    let members = Members::new(2, vec![custodian("alice"), custodian("bob")]).unwrap();
    Roster { members, ceremony: CeremonyId([1; 16]), created: Date(7) }
}

fn destruction(target: String) -> Ceremony {
    Ceremony {
        action: CeremonyAction::Destroy(target),
        state: State::Done,
        statement: "Do it.".into(),
        proposer: "ops".into(),
        created: Date(1),
        expires: Date(2),
        roster: Some(RosterVersion::FIRST),
        roster_digest: [0; 32],
        approvals: Vec::new(),
        progress: Progress::default(),
        finished: Some(Date(2)),
        outcome: None,
    }
}

fn tombstone() -> Tombstone {
    Tombstone {
        destroyed: Date(9),
        remains: Remains::of(b"what was stored"),
        authority: "schedule".into(),
        target: key_name().to_string(),
        epoch: None,
        kek: None,
    }
}

fn version_path() -> Path<Version> {
    tables::version(&key_name(), Epoch::FIRST)
}

fn kek_path() -> Path<KekRecord> {
    tables::kek(&tenant_id(0), KekVersion::FIRST)
}

fn index_key_path() -> Path<IndexKey> {
    tables::index_key(&key_name(), &field(), IndexVersion::FIRST)
}

/// A tenant with one key, an erasure key, a roster, and a line of the agenda; and the revision that made them.
async fn whole(place: &Place) -> (Records, u64) {
    let records = place.create().await;
    let mut changes = Changes::new();
    changes.create(&tables::tenant(&tenant_id(0)), &tenant()).create(&kek_path(), &kek());
    changes.create(&tables::key(&key_name()), &key()).create(&version_path(), &version());
    changes.create(&dek_path(DEK), &dek(1));
    let index_key = IndexKey { kek: KekVersion::FIRST, sealed: sealed(3), created: Date(7) };
    changes.create(&index_key_path(), &index_key);
    changes.create(&tables::erasure(ErasureGeneration::FIRST), &erasure(ErasureState::Current));
    changes.create(&tables::roster(RosterVersion::FIRST), &roster());
    changes.create(&tables::due(Date(5), &Task::RotateKey(key_name())), &Due { entered: Date(7) });
    let made = records.commit(changes).await.unwrap();
    (records, made.revision)
}

async fn told(place: &Place) -> Vec<String> {
    let kv = place.kv().await;
    decided(kv.as_ref(), Arc::new(keys_without_erasure())).await.unwrap().told().to_vec()
}

/// Makes a change of a whole store; what is told of it then.
async fn after(change: impl FnOnce(&mut Changes, u64)) -> Vec<String> {
    let place = Place::new();
    let (records, revision) = whole(&place).await;
    let mut changes = Changes::new();
    change(&mut changes, revision);
    records.commit(changes).await.unwrap();
    told(&place).await
}

#[tokio::test]
async fn nothing_is_told_of_a_store_that_fits_together() {
    let place = Place::new();
    let (records, revision) = whole(&place).await;
    assert_eq!(told(&place).await, Vec::<String>::new());
    // Destroyed as it is done: the tombstone takes the place of the row.
    let mut changes = Changes::new();
    changes.delete(&dek_path(DEK), revision).create(&tables::tombstone(&dek_path(DEK)), &tombstone());
    let gone = Version { state: KeyState::Destroyed, ..version() };
    changes.replace(&version_path(), &gone, revision);
    let ceremony = destruction(version_path().id.to_string());
    changes.create(&tables::ceremony(CeremonyId([2; 16])), &ceremony);
    records.commit(changes).await.unwrap();
    assert_eq!(told(&place).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_store_that_was_edited_is_not_compared() {
    let place = Place::new();
    let (_records, _) = whole(&place).await;
    assert_eq!(place.sql("DELETE FROM kv WHERE key = ?1", &kek_path().key()), 1);
    let told = told(&place).await;
    assert!(told.len() == 1 && told[0].contains("it was removed"), "{told:?}");
}

#[tokio::test]
async fn one_root_is_in_force() {
    let (root, _) = first_records();
    let second = RootGeneration::FIRST.next().unwrap();
    let (generation, id) = (second, RootId([9; 16]));
    let told = after(|changes, _| {
        changes.create(&tables::root(second), &Root { generation, id, ..root.clone() });
    })
    .await;
    assert_eq!(told, ["roots: 2 of them are in force, not one"]);
    let told = after(|changes, _| {
        // The first change of the store made it.
        let retired = Root { state: Some(RootState::Retired), ..root.clone() };
        changes.replace(&tables::root(RootGeneration::FIRST), &retired, 1);
        changes.create(&tables::root(second), &Root { generation, id, ..root.clone() });
    })
    .await;
    assert_eq!(told, ["system-secret: the root that it is under is not in force"]);
}

#[tokio::test]
async fn one_erasure_key_seals_and_what_is_sealed_can_be_opened() {
    let first = tables::erasure(ErasureGeneration::FIRST);
    let second = tables::erasure(ErasureGeneration::FIRST.next().unwrap());
    let told = after(|changes, _| {
        changes.create(&second, &erasure(ErasureState::TakingOver));
    })
    .await;
    assert_eq!(told, ["erasure-keys: 2 of them seal new rows, not one"]);
    let told = after(|changes, revision| {
        changes.replace(&first, &erasure(ErasureState::Destroyed), revision);
        changes.create(&second, &erasure(ErasureState::Current));
    })
    .await;
    assert_eq!(told, ["erasure-keys/1: 3 rows are sealed under it, and it is not in use"]);
    let told = after(|changes, revision| {
        changes.replace(&first, &erasure(ErasureState::Retiring), revision);
        changes.create(&second, &erasure(ErasureState::Current));
    })
    .await;
    assert_eq!(told, ["erasure-keys: one is retiring, and none takes over"]);
    let told = after(|changes, _| {
        changes.create(&second, &erasure(ErasureState::Unborn));
    })
    .await;
    assert_eq!(told, Vec::<String>::new());
}

#[tokio::test]
async fn rosters_follow_each_other() {
    let third = RosterVersion::new(3).unwrap();
    let told = after(|changes, _| {
        changes.create(&tables::roster(third), &roster());
    })
    .await;
    assert_eq!(told, ["rosters/3: the one before it is missing"]);
}

#[tokio::test]
async fn days_count_their_lines() {
    let day = tables::due_day(Day::of(Date(5)));
    let told = after(|changes, revision| {
        changes.replace(&day, &DueDay { lines: 2 }, revision);
    })
    .await;
    assert_eq!(told, ["agenda-days/0: 1 lines of 2"]);
    let other = tables::due_day(Day(3));
    let told = after(|changes, revision| {
        changes.delete(&day, revision).create(&other, &DueDay { lines: 1 });
    })
    .await;
    assert_eq!(told, ["agenda-days/3: 0 lines of 1", "agenda-days/0: 1 lines, and nothing counts them"]);
}

#[tokio::test]
async fn a_tenant_has_its_keks_and_its_keys() {
    let path = tables::tenant(&tenant_id(0));
    let told = after(|changes, revision| {
        let primary_kek = KekVersion::FIRST.next().unwrap();
        changes.replace(&path, &Tenant { primary_kek, ..tenant() }, revision);
    })
    .await;
    assert_eq!(told, ["tenants/t0/kekVersions/2: it is missing, and was never destroyed"]);
    let told = after(|changes, revision| {
        let begun =
            Destruction { begun: Some(Date(9)), ..Destruction::planned(KeyState::Active, Date(8), Date(9)) };
        changes.replace(&path, &Tenant { destruction: Some(begun), ..tenant() }, revision);
    })
    .await;
    assert_eq!(told, ["tenants/t0/kekVersions/1: its tenant is destroyed, and it is there"]);
    let told = after(|changes, revision| {
        changes.delete(&kek_path(), revision).create(&tables::tombstone(&kek_path()), &tombstone());
    })
    .await;
    assert_eq!(told, ["tenants/t0/kekVersions/1: it is destroyed, and its tenant is not"]);
    let told = after(|changes, revision| {
        changes.replace(&path, &Tenant { keys: 2, ..tenant() }, revision);
    })
    .await;
    assert!(told.len() == 1 && told[0].starts_with("tenants/t0: ") && told[0].contains("1 of 2"), "{told:?}");
    let told = after(|changes, _| {
        changes.create(&tables::running(&tenant_id(0)), &RunningRotation { to: KekVersion::FIRST });
    })
    .await;
    assert_eq!(told, ["tenants/t0/running-rotation: its tenant knows of no such rotation"]);
}

#[tokio::test]
async fn a_key_has_its_versions_and_they_their_wrapped_keys() {
    let name = version_path().id.to_string();
    let told = after(|changes, revision| {
        changes.delete(&version_path(), revision);
    })
    .await;
    assert_eq!(told, [format!("{name}: it is missing")]);
    let told = after(|changes, revision| {
        changes.replace(&version_path(), &Version::new(DekId([7; 16]), Date(7)), revision);
    })
    .await;
    assert_eq!(told, [format!("{name}: its wrapped key is missing, and was never destroyed")]);
    let gone = Version { state: KeyState::Destroyed, ..version() };
    let told = after(|changes, revision| {
        changes.replace(&version_path(), &gone, revision);
    })
    .await;
    assert_eq!(told, [format!("{name}: it is destroyed, and its wrapped key is there")]);
    let told = after(|changes, revision| {
        changes.replace(&version_path(), &gone, revision).delete(&dek_path(DEK), revision);
    })
    .await;
    assert_eq!(told, [format!("{name}: it is destroyed, and has no tombstone")]);
    let told = after(|changes, revision| {
        changes.delete(&index_key_path(), revision);
    })
    .await;
    let index_key = describe(&index_key_path().key());
    assert_eq!(told, [format!("{index_key}: it is missing, and was never destroyed")]);
}

#[tokio::test]
async fn a_key_has_the_fields_that_it_counts() {
    let (path, name) = (tables::key(&key_name()), key_name().to_string());
    let counting = |fields, keys| Key { indexes: Some(Indexes { fields, keys }), ..key() };
    let told = after(|changes, revision| {
        changes.replace(&path, &counting(1, 1), revision);
    })
    .await;
    assert!(told.len() == 1 && told[0].starts_with(&format!("{name}: ")), "{told:?}");
    let phone = FieldId::new("phone").unwrap();
    let record = Field { primary: IndexVersion::FIRST, changed: Date(7) };
    let told = after(|changes, revision| {
        changes.replace(&path, &counting(1, 2), revision);
        changes.create(&tables::index_field(&key_name(), &phone), &record);
    })
    .await;
    let missing = describe(&tables::index_key(&key_name(), &phone, IndexVersion::FIRST).key());
    assert_eq!(
        told,
        [
            format!("{name}: its fields have 1 index keys of 2"),
            format!("{missing}: it is missing, and was never destroyed")
        ]
    );
}

#[tokio::test]
async fn what_is_buried_is_not_there() {
    let told = after(|changes, _| {
        changes.create(&tables::tombstone(&dek_path(DEK)), &tombstone());
    })
    .await;
    assert_eq!(told, [format!("{}: it has a tombstone, and is there", describe(&dek_path(DEK).key()))]);
}

#[tokio::test]
async fn what_custodians_had_destroyed_is_destroyed() {
    for target in
        [version_path().id.to_string(), key_name().to_string(), "tenants/t0".into(), "tenants/t9".into()]
    {
        let told = after(|changes, _| {
            changes.create(&tables::ceremony(CeremonyId([2; 16])), &destruction(target.clone()));
        })
        .await;
        assert!(told.len() == 1 && told[0].contains(&format!("{target} is not destroyed")), "{told:?}");
    }
}

#[tokio::test]
async fn a_check_tells_of_both() {
    let place = Place::new();
    let (_records, _) = whole(&place).await;
    let kv = place.kv().await;
    let mut report =
        crate::store::check::check(kv.as_ref(), &place.journal(), Arc::new(keys())).await.unwrap();
    assert!(report.is_whole(), "{:?}", report.lines());
    report.decided.add("roots: 2 of them are in force, not one");
    assert!(!report.is_whole());
    assert_eq!(
        report.lines().last().map(String::as_str),
        Some("records: roots: 2 of them are in force, not one")
    );
}
