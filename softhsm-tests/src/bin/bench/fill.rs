//! Fills the store of a world with very many tenants, through the HSM and the
//! store's own transactions, but without a call of the API for each. Every
//! tenant has a KEK of its own, and every [`WITH_KEY`]th a key.

use std::path::Path;

use keyward::access::Action;
use keyward::audit::{FileLog, Outcome as Audited, Pending, StoreChange, file};
use keyward::clock::Date;
use keyward::hsm::{Hsm, HsmError, Kek, Operation, Reply};
use keyward::id::{DekId, Epoch, KekVersion, KeyName};
use keyward::keyring::binding;
use keyward::keyring::record::{Dek, KekRecord, Key, SuiteFamily, Tenant, Version};
use keyward::keyring::state::{DataClass, KeyState};
use keyward::keyring::wrapped::SealedKey;
use keyward::store::{Changes, tables};
use keyward_softhsm_tests::offline::Offline;

use super::{Outcome, report};

/// Tenants in one transaction, and operations in one list.
const TRANSACTION: usize = 1_000;
const LIST: usize = 250;
/// One tenant in so many has a key.
pub(crate) const WITH_KEY: usize = 10;
/// GCM uses that the daemon would have reserved for the first keys of a tenant.
const RESERVED: u64 = 1 << 20;

/// The name of the key of a tenant by its number. Names do not sort by number.
pub(crate) fn key_name(number: usize) -> KeyName {
    // Odd, so that no two numbers below 2^32 collide.
    let scattered = (number as u64).wrapping_mul(0x9e37_79b1) & 0xffff_ffff;
    KeyName::parse(&format!("tenants/t{scattered:08x}/keys/data")).unwrap_or_else(|_| unreachable!())
}

/// The key with very many versions, each sealed under the first KEK version.
pub(crate) fn old_key() -> KeyName {
    KeyName::parse("tenants/old/keys/data").unwrap_or_else(|_| unreachable!())
}

/// Adds `count` tenants with a key each, and one whose key has `versions` versions: `bench fill …`.
pub(crate) async fn fill(config: &Path, count: usize, versions: u32) -> Outcome<()> {
    let filler = Filler(Offline::open(config).await?);
    filler.add_old(versions).await?;
    filler.add_all(count).await?;
    filler.tell_the_audit_log().await?;
    filler.0.hsm.shutdown().await;
    Ok(())
}

struct Filler(Offline);

impl Filler {
    async fn add_all(&self, count: usize) -> Outcome<()> {
        let numbers: Vec<usize> = (0..count).collect();
        let mut chunks = numbers.chunks(TRANSACTION);
        let mut ready = self.new_tenants(chunks.next().unwrap_or_default()).await?;
        let mut done = 0;
        while !ready.is_empty() {
            // The HSM works on the next tenants while the store takes these.
            let next = self.new_tenants(chunks.next().unwrap_or_default());
            let (committed, next) = tokio::join!(self.0.records.commit(ready), next);
            committed?;
            (ready, done) = (next?, done + TRANSACTION);
            if done.is_multiple_of(100_000) {
                report::say(&format!("{done} tenants"))?;
            }
        }
        Ok(())
    }

    async fn new_tenants(&self, numbers: &[usize]) -> Outcome<Changes> {
        let names: Vec<KeyName> = numbers.iter().map(|number| key_name(*number)).collect();
        let keks = self.new_keks(names.len()).await?;
        let mut changes = Changes::new();
        for (number, (name, kek)) in names.iter().zip(&keks).enumerate() {
            self.put_tenant(&mut changes, name, kek, number.is_multiple_of(WITH_KEY))?;
        }
        // Chunks begin at multiples of it.
        let with_key = || names.iter().zip(&keks).step_by(WITH_KEY);
        let wanted = with_key().map(|(name, kek)| (name, Epoch::FIRST, kek)).collect();
        for ((name, _), (id, sealed)) in with_key().zip(self.new_deks(wanted).await?) {
            put_key(&mut changes, name, Epoch::FIRST);
            put_version(&mut changes, name, Epoch::FIRST, id, sealed);
        }
        Ok(changes)
    }

    async fn add_old(&self, versions: u32) -> Outcome<()> {
        let name = old_key();
        let kek = self.new_keks(1).await?.pop().ok_or("no KEK")?;
        let epochs: Vec<Epoch> = (1..=versions).filter_map(Epoch::new).collect();
        let primary = *epochs.last().ok_or("no versions")?;
        let mut changes = Changes::new();
        self.put_tenant(&mut changes, &name, &kek, true)?;
        put_key(&mut changes, &name, primary);
        for epochs in epochs.chunks(TRANSACTION) {
            let wanted = epochs.iter().map(|epoch| (&name, *epoch, &kek)).collect();
            for (epoch, (id, sealed)) in epochs.iter().zip(self.new_deks(wanted).await?) {
                put_version(&mut changes, &name, *epoch, id, sealed);
            }
        }
        self.0.records.commit(changes).await?;
        Ok(())
    }

    async fn new_keks(&self, count: usize) -> Outcome<Vec<Kek>> {
        let one = || Operation::GenerateKek { root: self.0.root.id };
        let made = self.run(std::iter::repeat_with(one).take(count).collect()).await?;
        made.into_iter()
            .map(|reply| match reply {
                Reply::Wrapped(wrapped) => Ok(Kek::Sealed { root: self.0.root.id, wrapped }),
                other => Err(format!("no KEK: {other:?}").into()),
            })
            .collect()
    }

    async fn new_deks(&self, wanted: Vec<(&KeyName, Epoch, &Kek)>) -> Outcome<Vec<(DekId, SealedKey)>> {
        let ids = wanted.iter().map(|_| DekId::random()).collect::<Result<Vec<_>, _>>()?;
        let operations = wanted.into_iter().zip(&ids).map(|((name, epoch, kek), id)| {
            let (first, family) = (KekVersion::FIRST, SuiteFamily::AesSha2);
            let aad = binding::dek(self.0.root.deployment, name, first, epoch, *id, family);
            Operation::GenerateKey { kek: kek.clone(), aad }
        });
        let made = self.run(operations.collect()).await?;
        let sealed = made.into_iter().map(|reply| match reply {
            Reply::NewKey { sealed, .. } => Ok(sealed),
            other => Err(format!("no DEK: {other:?}")),
        });
        Ok(ids.into_iter().zip(sealed.collect::<Result<Vec<_>, _>>()?).collect())
    }

    /// Runs operations in lists, several of them at the same time.
    async fn run(&self, mut operations: Vec<Operation>) -> Result<Vec<Reply>, HsmError> {
        let mut lists = Vec::new();
        while !operations.is_empty() {
            let rest = operations.split_off(operations.len().min(LIST));
            lists.push(self.0.hsm.run(std::mem::replace(&mut operations, rest)));
        }
        futures_util::future::join_all(lists).await.into_iter().flatten().collect()
    }

    fn put_tenant(&self, changes: &mut Changes, name: &KeyName, kek: &Kek, has_key: bool) -> Outcome<()> {
        let (created, first) = (Date::now(), KekVersion::FIRST);
        let tenant = Tenant { keys: has_key.into(), ..Tenant::new(created, None) };
        let Kek::Sealed { wrapped, .. } = kek else { return Err("a resident KEK".into()) };
        let (wrapped, state) = (wrapped.clone(), KeyState::Active);
        let kek = KekRecord {
            root: self.0.root.id,
            wrapped,
            state,
            uses_reserved: RESERVED,
            created,
            destruction: None,
            resident: None,
        };
        changes
            .create(&tables::tenant(&name.tenant), &tenant)
            .create(&tables::kek(&name.tenant, first), &kek);
        Ok(())
    }

    /// Without a record of the newest change the daemon would refuse the store as older than its log.
    async fn tell_the_audit_log(&self) -> Outcome<()> {
        let (log, _) = FileLog::open(file::Settings::new(self.0.config.audit_dir()), self.0.root.deployment)?;
        let mut record = Pending::begin(log.clone(), None, Action::Init, "", 0);
        let change = self.0.records.position();
        record.change(StoreChange { revision: change.revision, digest: change.digest });
        record.finish(Audited::Ok)?.await?;
        Ok(log.close()?)
    }
}

fn put_key(changes: &mut Changes, name: &KeyName, primary: Epoch) {
    let key = Key { primary, ..Key::new(DataClass::Sensitive, Date::now()) };
    changes.create(&tables::key(name), &key);
}

fn put_version(changes: &mut Changes, name: &KeyName, epoch: Epoch, id: DekId, sealed: SealedKey) {
    let version = Version::new(id, Date::now());
    let dek = Dek { epoch, kek: KekVersion::FIRST, sealed, family: SuiteFamily::AesSha2 };
    changes.create(&tables::version(name, epoch), &version).create(&tables::dek(name, id), &dek);
}
