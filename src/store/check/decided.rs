//! What was decided, compared with what is there: records that only fit together in one way.
//!
//! Each record is read verified, so what does not fit was written so: by a mistake in a program, or after records
//! had been lost. Only what can be told with certainty is told. It reads one revision; a daemon may work on meanwhile.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;

use super::Problems;
use crate::clock::Day;
use crate::id::{ErasureGeneration, KeyName, TenantId, TenantName, VersionName};
use crate::keyring::agenda::{Due, DueDay};
use crate::keyring::ceremony::{Ceremony, CeremonyAction, State};
use crate::keyring::record::{Erasure, ErasureState, Key, Root, RootState, Tenant, Version};
use crate::keyring::remains::Tombstone;
use crate::keyring::roster::Roster;
use crate::keyring::state::KeyState;
use crate::store::digest::Tree;
use crate::store::error::StoreError;
use crate::store::kv::Kv;
use crate::store::mac::StoreKeys;
use crate::store::tables::{self, Path, Prefix, Record, describe};
use crate::store::view::{Stored, View};

/// Records that are read at a time.
const PAGE: usize = 500;

/// Compares the records with each other. It takes no memory for each record, but for the keys of one tenant.
///
/// # Errors
/// When reading fails; a record that is not genuine ends the comparison, and is a problem.
pub async fn decided(kv: &dyn Kv, keys: Arc<StoreKeys>) -> Result<Problems, StoreError> {
    let mut problems = Problems::default();
    let compared = async {
        let mut records = Decided { view: View::open_any(kv, &keys).await?, problems: &mut problems };
        records.roots().await?;
        records.erasure_keys().await?;
        records.rosters().await?;
        records.agenda().await?;
        records.tenants().await?;
        records.keys().await?;
        records.tombstones().await?;
        records.ceremonies().await
    }
    .await;
    match compared {
        Err(error) if error.is_edited() => problems.add(error.to_string()),
        other => other?,
    }
    Ok(problems)
}

/// The records of one revision.
struct Decided<'a> {
    view: View,
    problems: &'a mut Problems,
}

impl Decided<'_> {
    fn tell(&mut self, what: impl Display, how: impl Display) {
        self.problems.add(format!("{what}: {how}"));
    }

    async fn page<T: Record>(
        &mut self,
        after: Option<&Path<T>>,
    ) -> Result<Vec<(Path<T>, Stored<T>)>, StoreError> {
        // Nodes of pages before are not needed again, and a million records have 200 MB of them.
        self.view.tree = Tree::new(self.view.meta.totals.digest);
        Ok(self.view.page(&Prefix::all(), after, PAGE).await?.into_rows())
    }

    /// Whether there are rows at some keys; they are not opened.
    async fn are_there(&mut self, keys: &[Vec<u8>]) -> Result<Vec<bool>, StoreError> {
        Ok(self.view.rows(keys).await?.iter().map(Option::is_some).collect())
    }

    /// Whether there is the row of a wrapped key, and whether there is its tombstone.
    async fn remains<T: Record>(&mut self, path: &Path<T>) -> Result<(bool, bool), StoreError> {
        let there = self.are_there(&[path.key(), tables::tombstone(path).key()]).await?;
        Ok((there.first() == Some(&true), there.last() == Some(&true)))
    }

    async fn roots(&mut self) -> Result<(), StoreError> {
        let roots = self.view.complete::<Root>().await?.into_rows();
        let in_force: Vec<&Root> = roots
            .iter()
            .map(|(_, stored)| &stored.record)
            .filter(|root| matches!(root.state, None | Some(RootState::Active)))
            .collect();
        if in_force.len() != 1 {
            self.tell("roots", format!("{} of them are in force, not one", in_force.len()));
        }
        if let Some(secret) = self.view.get(&tables::system_secret()).await?
            && !in_force.iter().any(|root| root.id == secret.record.root)
        {
            self.tell("system-secret", "the root that it is under is not in force");
        }
        Ok(())
    }

    async fn erasure_keys(&mut self) -> Result<(), StoreError> {
        let all = self.view.complete::<Erasure>().await?.into_rows();
        let states: BTreeMap<u32, ErasureState> =
            all.iter().map(|(path, stored)| (path.id.get(), stored.record.state)).collect();
        let count = |states: &BTreeMap<u32, ErasureState>, wanted: &[ErasureState]| {
            states.values().filter(|state| wanted.contains(state)).count()
        };
        if count(&states, &[ErasureState::Unborn, ErasureState::Forgotten]) == states.len() {
            return Ok(());
        }
        let sealing = count(&states, &[ErasureState::TakingOver, ErasureState::Current]);
        if sealing != 1 {
            self.tell("erasure-keys", format!("{sealing} of them seal new rows, not one"));
        }
        let taking_over = count(&states, &[ErasureState::TakingOver]);
        if count(&states, &[ErasureState::Retiring]) > 0 && taking_over == 0 {
            self.tell("erasure-keys", "one is retiring, and none takes over");
        }
        for (number, rows) in self.view.meta.totals.generations.all().collect::<Vec<_>>() {
            let opens = [ErasureState::TakingOver, ErasureState::Current, ErasureState::Retiring];
            let Some(generation) = ErasureGeneration::new(number) else { continue };
            if !states.get(&number).is_some_and(|state| opens.contains(state)) {
                let name = describe(&tables::erasure(generation).key());
                self.tell(name, format!("{rows} rows are sealed under it, and it is not in use"));
            }
        }
        Ok(())
    }

    async fn rosters(&mut self) -> Result<(), StoreError> {
        let rosters = self.view.complete::<Roster>().await?.into_rows();
        for (number, (path, _)) in (1..).zip(rosters) {
            if path.id.get() != number {
                self.tell(describe(&path.key()), "the one before it is missing");
                break;
            }
        }
        Ok(())
    }

    async fn agenda(&mut self) -> Result<(), StoreError> {
        let days = self.view.complete::<DueDay>().await?.into_rows();
        let (mut lines, mut last) = (BTreeMap::<Day, u64>::new(), None);
        loop {
            let page = self.page::<Due>(last.as_ref()).await?;
            let Some((path, _)) = page.last() else { break };
            last = Some(path.clone());
            for (path, _) in &page {
                *lines.entry(Day::of(path.id.0)).or_default() += 1;
            }
        }
        // Before days were counted there were none; the next start counts them.
        if days.is_empty() {
            return Ok(());
        }
        for (path, stored) in days {
            let found = lines.remove(&path.id).unwrap_or_default();
            if found != stored.record.lines {
                self.tell(describe(&path.key()), format!("{found} lines of {}", stored.record.lines));
            }
        }
        for (day, found) in lines {
            let name = describe(&tables::due_day(day).key());
            self.tell(name, format!("{found} lines, and nothing counts them"));
        }
        Ok(())
    }

    async fn tenants(&mut self) -> Result<(), StoreError> {
        let mut last = None;
        loop {
            let page = self.page::<Tenant>(last.as_ref()).await?;
            let Some((path, _)) = page.last() else { return Ok(()) };
            last = Some(path.clone());
            for (path, stored) in page {
                self.tenant(&path.id, &stored.record).await?;
            }
        }
    }

    async fn tenant(&mut self, id: &TenantId, tenant: &Tenant) -> Result<(), StoreError> {
        let destroyed = tenant.state() == KeyState::Destroyed;
        for version in tenant.kek_versions() {
            let path = tables::kek(id, version);
            let name = describe(&path.key());
            match self.remains(&path).await? {
                (false, false) => self.tell(name, "it is missing, and was never destroyed"),
                (true, _) if destroyed => self.tell(name, "its tenant is destroyed, and it is there"),
                (false, true) if !destroyed && version == tenant.primary_kek => {
                    self.tell(name, "it is destroyed, and its tenant is not");
                }
                _ => (),
            }
        }
        match self.view.counted(&tables::keys(id), tenant.keys.into()).await {
            Err(error) if error.is_edited() => self.tell(describe(&tables::tenant(id).key()), error),
            other => drop(other?),
        }
        let running = tables::running(id);
        if let Some(mark) = self.view.get(&running).await?
            && tenant.rotating_to != Some(mark.record.to)
        {
            self.tell(describe(&running.key()), "its tenant knows of no such rotation");
        }
        Ok(())
    }

    async fn keys(&mut self) -> Result<(), StoreError> {
        let mut last = None;
        loop {
            let page = self.page::<Key>(last.as_ref()).await?;
            let Some((path, _)) = page.last() else { return Ok(()) };
            last = Some(path.clone());
            for (path, stored) in page {
                self.versions(&path.id, &stored.record).await?;
                self.index_keys(&path.id, &stored.record).await?;
            }
        }
    }

    async fn versions(&mut self, name: &KeyName, key: &Key) -> Result<(), StoreError> {
        for epoch in key.epochs() {
            let path = tables::version(name, epoch);
            match self.view.get(&path).await? {
                Some(stored) => self.version(name, &path, &stored.record).await?,
                None => self.tell(describe(&path.key()), "it is missing"),
            }
        }
        Ok(())
    }

    async fn version(
        &mut self,
        key: &KeyName,
        path: &Path<Version>,
        version: &Version,
    ) -> Result<(), StoreError> {
        let name = describe(&path.key());
        match (version.state, self.remains(&tables::dek(key, version.dek)).await?) {
            (KeyState::Destroyed, (true, _)) => {
                self.tell(name, "it is destroyed, and its wrapped key is there");
            }
            (KeyState::Destroyed, (_, false)) => self.tell(name, "it is destroyed, and has no tombstone"),
            (_, (false, false)) => self.tell(name, "its wrapped key is missing, and was never destroyed"),
            _ => (),
        }
        Ok(())
    }

    async fn index_keys(&mut self, name: &KeyName, key: &Key) -> Result<(), StoreError> {
        let counted = key.indexes.unwrap_or_default();
        let own = match self.view.counted(&tables::index_fields(name), counted.fields.into()).await {
            Err(error) if error.is_edited() => {
                self.tell(name, error);
                return Ok(());
            }
            own => own?.into_rows(),
        };
        let keys: u64 = own.iter().map(|(_, stored)| u64::from(stored.record.primary.get())).sum();
        if keys != u64::from(counted.keys) {
            self.tell(name, format!("its fields have {keys} index keys of {}", counted.keys));
        }
        let own = own.into_iter().map(|(path, stored)| (path.id.1, stored.record.primary));
        let fields = key.fields.iter().map(|field| (field.field.clone(), field.primary)).chain(own);
        for (field, primary) in fields {
            for version in std::iter::successors(Some(primary), |version| version.previous()) {
                let path = tables::index_key(name, &field, version);
                if self.remains(&path).await? == (false, false) {
                    self.tell(describe(&path.key()), "it is missing, and was never destroyed");
                }
            }
        }
        Ok(())
    }

    /// What is buried is not there.
    async fn tombstones(&mut self) -> Result<(), StoreError> {
        let mut last = None;
        loop {
            let page = self.page::<Tombstone>(last.as_ref()).await?;
            let Some((path, _)) = page.last() else { return Ok(()) };
            last = Some(path.clone());
            let buried: Vec<Vec<u8>> = page.iter().map(|(path, _)| path.id.key().to_vec()).collect();
            let there = self.are_there(&buried).await?;
            for (key, _) in buried.iter().zip(there).filter(|(_, there)| *there) {
                self.tell(describe(key), "it has a tombstone, and is there");
            }
        }
    }

    /// What custodians had destroyed is destroyed.
    async fn ceremonies(&mut self) -> Result<(), StoreError> {
        let mut last = None;
        loop {
            let page = self.page::<Ceremony>(last.as_ref()).await?;
            let Some((path, _)) = page.last() else { return Ok(()) };
            last = Some(path.clone());
            for (path, stored) in &page {
                if let (State::Done, CeremonyAction::Destroy(target)) =
                    (stored.record.state, &stored.record.action)
                    && !self.is_destroyed(target).await?
                {
                    self.tell(describe(&path.key()), format!("it is done, and {target} is not destroyed"));
                }
            }
        }
    }

    async fn is_destroyed(&mut self, target: &str) -> Result<bool, StoreError> {
        let state = if let Ok(version) = VersionName::parse(target) {
            let stored = self.view.get(&tables::version(&version.key, version.epoch)).await?;
            stored.map(|stored| stored.record.state)
        } else if let Ok(key) = KeyName::parse(target) {
            self.view.get(&tables::key(&key)).await?.map(|stored| stored.record.state)
        } else if let Ok(TenantName(tenant)) = TenantName::parse(target) {
            self.view.get(&tables::tenant(&tenant)).await?.map(|stored| stored.record.state())
        } else {
            // A KEK version, whose tombstone was looked at with its tenant.
            return Ok(true);
        };
        Ok(state == Some(KeyState::Destroyed))
    }
}

#[cfg(test)]
mod tests;
