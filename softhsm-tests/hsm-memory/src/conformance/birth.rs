//! Master keys: made, kept in escrow, listed, destroyed.

use keyward::envelope::sealed_box::Receiver;
use keyward::envelope::shamir;
use keyward::hsm::birth::{Backup, BackupPlan, Holder, NewRoot, Purpose};
use keyward::hsm::{HsmError, KeepNewborn, Kek};
use keyward::id::{DeploymentId, RootId};
use keyward::keyring::wrapped::Canary;
use keyward::secret::Key256;

use super::{Suite, handed_out, is_persist};
use crate::crypto;

/// Two installations on one token.
const MINE: Purpose = Purpose::Erasure(DeploymentId([0xa; 16]));
const OTHER: Purpose = Purpose::Erasure(DeploymentId([0xb; 16]));

impl Suite {
    pub(super) async fn no_root_without_its_escrow(&self) {
        let keep: KeepNewborn<'_> = Box::new(|_| Box::pin(async { Err("there is no room".to_owned()) }));
        let refused = self.hsm.create_root(Purpose::Root, BackupPlan::HandOut, keep).await;
        let error = refused.expect_err("a root without its escrow");
        assert!(is_persist(&error) && error.to_string().contains("there is no room"), "{error}");
        assert_eq!(self.roots(Purpose::Root).await, []);
    }

    /// The first root, and its backup key.
    pub(super) async fn the_escrow_is_kept_before_the_root_is_there(&self) -> (NewRoot, Key256) {
        let (tell, told) = tokio::sync::oneshot::channel();
        let hsm = self.hsm.clone();
        let keep: KeepNewborn<'_> = Box::new(move |newborn| {
            Box::pin(async move {
                let before = hsm.roots(Purpose::Root).await.map_err(|error| error.to_string())?;
                tell.send((newborn, before)).map_err(|_| "nobody keeps it".to_owned())
            })
        });
        let made = self.hsm.create_root(Purpose::Root, BackupPlan::HandOut, keep).await.expect("a root");
        let (newborn, before) = told.await.expect("it was asked to be kept");
        assert_eq!(before, [], "a token object before its escrow");
        assert_eq!((newborn.id, &newborn.wrapped), (made.id, &made.escrow));
        assert_eq!(made.escrow.bytes.len(), 40);
        assert_eq!(made.settled.len(), self.hsm.slots().len(), "it is on every token");
        assert_eq!((made.born().canary.root, made.born().canary.kek.is_some()), (made.id, true));
        assert_eq!(self.roots(Purpose::Root).await, [made.id]);
        for other in [MINE, Purpose::Resident] {
            assert_eq!(self.roots(other).await, [], "{other:?}");
        }
        (made, handed_out(newborn))
    }

    /// The second root; two of three holders have its backup key.
    pub(super) async fn a_backup_key_is_split_as_planned(&self) -> NewRoot {
        let receiver = || Receiver::generate().expect("a key pair");
        let holders = [receiver(), receiver(), receiver()];
        let context = |at: usize| format!("share {at}").into_bytes();
        let holder =
            |(at, holder): (usize, &Receiver)| Holder { key: *holder.public(), context: context(at) };
        let plan = BackupPlan::Split { quorum: 2, holders: holders.iter().enumerate().map(holder).collect() };
        let (made, newborn) = self.create_with(Purpose::Root, plan).await;
        let Backup::Split(sealed) = newborn.backup else { panic!("the backup key was to be split") };
        assert_eq!(sealed.len(), 3);
        assert!(holders[0].open(&sealed[1], &context(1)).is_err(), "a share for anybody");
        let opened = |at: usize| holders[at].open(&sealed[at], &context(at)).expect("a share");
        let backup_key = shamir::combine(&[opened(2), opened(0)]).expect("a quorum");
        assert_opens(&made, &self.the_escrow_gives_the_root_again(&made, &backup_key));
        let sizes = BackupPlan::Split { quorum: 2, holders: Vec::new() };
        let keep: KeepNewborn<'_> = Box::new(|_| Box::pin(async { Ok(()) }));
        assert!(self.hsm.create_root(Purpose::Root, sizes, keep).await.is_err(), "split among nobody");
        made
    }

    /// With the backup key the escrow is the root: RFC 3394, computed here.
    pub(super) fn the_escrow_gives_the_root_again(&self, root: &NewRoot, backup_key: &Key256) -> Key256 {
        let key = crypto::unwrap(backup_key, &root.escrow.bytes).expect("the escrow opens");
        assert_opens(root, &key);
        key
    }

    pub(super) async fn a_resident_kek_encrypts_and_is_no_root(&self, root: &NewRoot) {
        let (made, newborn) = self.create_with(Purpose::Resident, BackupPlan::HandOut).await;
        assert!(made.born().canary.kek.is_none(), "a resident KEK wraps nothing");
        let key = crypto::unwrap(&handed_out(newborn), &made.escrow.bytes).expect("the escrow opens");
        assert_opens(&made, &key);
        let resident = Kek::Resident(made.id);
        let (data, sealed) = self.new_key(&resident, b"aad").await;
        let opened = crypto::open(&key, b"aad", &sealed).expect("sealed under the resident KEK itself");
        assert_eq!(opened.expose(), data.expose());
        let other = self.new_kek(root.id).await;
        let moved = self.move_key((&resident, b"aad"), &sealed, (&other, b"to")).await.expect("moved out");
        let back = self.move_key((&other, b"to"), &moved, (&resident, b"back")).await.expect("moved in");
        let opened = self.open(&resident, b"back", &back).await.expect("opened");
        assert_eq!(opened.expose(), data.expose());
        let wrong = self.open(&resident, b"aad", &back).await.expect_err("another context");
        assert_eq!(wrong, HsmError::Integrity);
        assert_eq!(self.roots(Purpose::Resident).await, [made.id]);
        self.hsm.destroy_root(made.id).await.expect("destroyed");
        let gone = self.open(&resident, b"back", &back).await.expect_err("a KEK that is gone");
        assert_eq!(gone, HsmError::UnknownRoot(made.id));
    }

    pub(super) async fn what_is_destroyed_is_gone_and_nothing_else(&self, root: &NewRoot) {
        let before = self.roots(Purpose::Root).await;
        let (mine, other) = (self.create(MINE).await, self.create(OTHER).await);
        assert_eq!(self.roots(MINE).await, [mine.id]);
        assert_eq!(self.roots(OTHER).await, [other.id]);
        let kek = self.new_kek(mine.id).await;
        let (_, sealed) = self.new_key(&kek, b"aad").await;
        self.hsm.destroy_root(mine.id).await.expect("destroyed");
        self.hsm.destroy_root(mine.id).await.expect("destroyed once more");
        self.hsm.destroy_root(RootId([9; 16])).await.expect("there never was one");
        let gone = self.open(&kek, b"aad", &sealed).await.expect_err("a KEK of a root that is gone");
        assert_eq!(gone, HsmError::UnknownRoot(mine.id));
        assert_eq!(self.roots(MINE).await, []);
        assert_eq!(self.roots(OTHER).await, [other.id]);
        assert_eq!(self.roots(Purpose::Root).await, before);
        // What is left works.
        let kek = self.new_kek(other.id).await;
        self.new_key(&kek, b"aad").await;
        self.new_kek(root.id).await;
        self.hsm.destroy_root(other.id).await.expect("destroyed");
    }
}

/// That the canary is what its form says, under this master key.
fn assert_opens(root: &NewRoot, key: &Key256) {
    let canary = &root.born().canary;
    let kek = match &canary.kek {
        Some(wrapped) => crypto::unwrap(key, &wrapped.bytes).expect("the canary's KEK"),
        None => key.duplicate(),
    };
    let opened = crypto::open(&kek, Canary::AAD, &canary.sealed).expect("the canary");
    assert_eq!(crypto::sha256(opened.expose()), canary.fingerprint);
}
