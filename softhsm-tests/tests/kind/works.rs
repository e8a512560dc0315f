//! What works in an installation, to be compared before and after.

use std::collections::{BTreeMap, BTreeSet};

use keyward::id::RootId;
use keyward::keyring::account::Account;
use keyward::keyring::record::{Erasure, ErasureState, KekRecord, Principal, Root, RootState};
use keyward::store::StoreError;
use keyward::store::tables::describe;
use keyward_hsm_memory::World;

use super::deeds;
use super::worlds::Scene;

/// What works, and how.
pub(crate) type Works = BTreeMap<String, String>;

/// Looks at everything.
pub(crate) async fn works(world: &World, scene: &Scene) -> Works {
    let mut works = Works::new();
    for (key, ciphertext) in &scene.ciphertexts {
        let how = match deeds::decrypt(world, key, ciphertext).await {
            Ok(right) => right.to_string(),
            // What is being destroyed is refused for one reason after the other.
            Err(_) => "refused".to_owned(),
        };
        works.insert(format!("decrypting with {key}"), how);
    }
    let said = |outcome: Result<String, StoreError>| outcome.unwrap_or_else(|error| error.to_string());
    works.insert("keys that records name are in the HSM".to_owned(), said(named(world).await));
    works.insert("accounts".to_owned(), said(accounts(world).await));
    works.insert("frozen principals".to_owned(), said(frozen(world).await));
    works
}

/// The master keys without which records could not be read, and which are not in the HSM.
async fn named(world: &World) -> Result<String, StoreError> {
    let objects: BTreeSet<RootId> = world.token().objects().into_iter().map(|(id, _)| id).collect();
    let mut missing = Vec::new();
    for (path, stored) in world.records().complete::<Root>().await? {
        let in_force = matches!(stored.record.state, None | Some(RootState::Active));
        if in_force && !objects.contains(&stored.record.id) {
            missing.push(describe(&path.key()));
        }
    }
    for (path, stored) in world.records().complete::<Erasure>().await? {
        let needed = !matches!(
            stored.record.state,
            ErasureState::Unborn | ErasureState::Unused | ErasureState::Destroyed
        );
        if needed && !objects.contains(&stored.record.root) {
            missing.push(describe(&path.key()));
        }
    }
    for (path, stored) in world.records().complete::<KekRecord>().await? {
        if stored.record.resident.is_some() && !objects.contains(&stored.record.root) {
            missing.push(describe(&path.key()));
        }
    }
    Ok(format!("missing: {missing:?}"))
}

async fn accounts(world: &World) -> Result<String, StoreError> {
    let all = world.records().complete::<Account>().await?.into_iter();
    let said = all.map(|(path, stored)| {
        let Account { level, suspended, .. } = stored.record;
        format!("{} {} {suspended}", path.id, level.get())
    });
    Ok(said.collect::<Vec<_>>().join(", "))
}

async fn frozen(world: &World) -> Result<String, StoreError> {
    let all = world.records().complete::<Principal>().await?.into_iter();
    Ok(all
        .map(|(path, stored)| format!("{} {}", path.id, stored.record.frozen))
        .collect::<Vec<_>>()
        .join(", "))
}
