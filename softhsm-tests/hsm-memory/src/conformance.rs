//! The contract of [`Hsm`], as tests that any implementation passes: the one in memory, and a real token
//! behind its process.
//!
//! What comes out is taken apart with another implementation of the algorithms where that can be done: with
//! the backup key of a root, its escrow gives the root, the root a KEK, the KEK a data key. So the two
//! agree on lengths and forms, not only on the words.

use std::sync::Arc;
use std::time::Duration;

use keyward::hsm::birth::{Backup, BackupPlan, NewRoot, Newborn, Purpose};
use keyward::hsm::process::TaskError;
use keyward::hsm::{Hsm, HsmError, KeepNewborn, Kek, Operation, Reply, Status};
use keyward::id::RootId;
use keyward::keyring::wrapped::{SealedKey, WrappedKek};
use keyward::secret::Key256;
use tokio::sync::oneshot;

mod birth;
mod keys;
mod signing;
mod state;

/// How long anything may take before the suite gives up: far more than it needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the whole suite. `hsm` was opened without a canary, on one token without any key of Keyward, and
/// has no other caller. Answers the names of what was shown; at the end the token has two roots, and the
/// HSM serves.
///
/// # Panics
/// At the first thing that is not as the contract says.
pub async fn suite(hsm: Arc<dyn Hsm>) -> Vec<&'static str> {
    let suite = Suite { hsm };
    suite.until("it serves", |status| matches!(status, Status::Ready { .. })).await;
    let mut shown = Vec::new();
    suite.random_bytes_have_the_length_asked_for().await;
    shown.push("random");
    suite.no_root_without_its_escrow().await;
    shown.push("no root without its escrow");
    let (root, backup_key) = suite.the_escrow_is_kept_before_the_root_is_there().await;
    shown.push("escrow first");
    let second = suite.a_backup_key_is_split_as_planned().await;
    shown.push("split");
    let key = suite.the_escrow_gives_the_root_again(&root, &backup_key);
    shown.push("escrow opens");
    suite.keys_are_made_opened_and_moved(&root, &second, &key).await;
    shown.push("keys");
    suite.damage_is_integrity(&root, &second).await;
    shown.push("damage");
    suite.an_unknown_root_is_named(&root).await;
    shown.push("unknown root");
    suite.operations_are_answered_in_order_each_for_itself(&root).await;
    shown.push("order");
    suite.a_resident_kek_encrypts_and_is_no_root(&root).await;
    shown.push("resident");
    suite.signatures_verify(&root, &key).await;
    shown.push("signatures");
    suite.calls_are_counted(&root).await;
    shown.push("figures");
    suite.forgotten_keks_are_unwrapped_anew(&root).await;
    shown.push("forget");
    suite.what_is_destroyed_is_gone_and_nothing_else(&root).await;
    shown.push("destroy");
    suite.a_foreign_canary_is_refused(&root, &second).await;
    shown.push("canary");
    shown
}

struct Suite {
    hsm: Arc<dyn Hsm>,
}

impl Suite {
    /// Waits for a status.
    async fn until(&self, what: &str, wanted: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.hsm.status();
        match tokio::time::timeout(PATIENCE, status.wait_for(wanted)).await {
            Ok(Ok(found)) => found.clone(),
            _ => panic!("it never happened: {what}; it is {:?}", *self.hsm.status().borrow()),
        }
    }

    async fn one(&self, operation: Operation) -> Result<Reply, HsmError> {
        let mut answers = self.hsm.run(vec![operation]).await;
        assert_eq!(answers.len(), 1, "one answer for one operation");
        answers.remove(0)
    }

    async fn new_kek(&self, root: RootId) -> Kek {
        match self.one(Operation::GenerateKek { root }).await {
            Ok(Reply::Wrapped(wrapped)) => Kek::Sealed { root, wrapped },
            other => panic!("a KEK: {other:?}"),
        }
    }

    async fn new_key(&self, kek: &Kek, aad: &[u8]) -> (Key256, SealedKey) {
        match self.one(Operation::GenerateKey { kek: kek.clone(), aad: aad.to_vec() }).await {
            Ok(Reply::NewKey { key, sealed }) => (key, sealed),
            other => panic!("a new key: {other:?}"),
        }
    }

    async fn open(&self, kek: &Kek, aad: &[u8], sealed: &SealedKey) -> Result<Key256, HsmError> {
        let (kek, aad, sealed) = (kek.clone(), aad.to_vec(), sealed.clone());
        match self.one(Operation::OpenKey { kek, aad, sealed }).await? {
            Reply::Key(key) => Ok(key),
            other => panic!("an open key: {other:?}"),
        }
    }

    async fn move_key(
        &self,
        from: (&Kek, &[u8]),
        sealed: &SealedKey,
        to: (&Kek, &[u8]),
    ) -> Result<SealedKey, HsmError> {
        let operation = Operation::MoveKey {
            from: from.0.clone(),
            from_aad: from.1.to_vec(),
            sealed: sealed.clone(),
            to: to.0.clone(),
            to_aad: to.1.to_vec(),
        };
        match self.one(operation).await? {
            Reply::Sealed(sealed) => Ok(sealed),
            other => panic!("a sealed key: {other:?}"),
        }
    }

    /// Makes a master key whose backup key is dropped.
    async fn create(&self, purpose: Purpose) -> NewRoot {
        let keep: KeepNewborn<'_> = Box::new(|_| Box::pin(async { Ok(()) }));
        self.hsm.create_root(purpose, BackupPlan::Drop, keep).await.expect("a master key")
    }

    /// Makes a master key, and answers what was to be kept, too.
    async fn create_with(&self, purpose: Purpose, plan: BackupPlan) -> (NewRoot, Newborn) {
        let (tell, told) = oneshot::channel();
        let keep: KeepNewborn<'_> = Box::new(move |newborn| {
            Box::pin(async move { tell.send(newborn).map_err(|_| "nobody keeps it".to_owned()) })
        });
        let made = self.hsm.create_root(purpose, plan, keep).await.expect("a master key");
        (made, told.await.expect("it was asked to be kept"))
    }

    async fn roots(&self, purpose: Purpose) -> Vec<RootId> {
        let mut found = self.hsm.roots(purpose).await.expect("a list");
        found.sort_unstable();
        found
    }
}

/// The wrapped bytes of a KEK that is in the store.
fn wrapped(kek: &Kek) -> &WrappedKek {
    match kek {
        Kek::Sealed { wrapped, .. } => wrapped,
        Kek::Resident(id) => panic!("{id} is resident"),
    }
}

fn handed_out(newborn: Newborn) -> Key256 {
    match newborn.backup {
        Backup::HandedOut(key) => key,
        other => panic!("the backup key was to be handed out: {other:?}"),
    }
}

fn is_persist(error: &TaskError) -> bool {
    matches!(error, TaskError::Persist(_))
}
