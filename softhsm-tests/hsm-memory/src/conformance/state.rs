//! What is counted, what is forgotten, and when nothing is served.

use keyward::hsm::birth::NewRoot;
use keyward::hsm::{Forget, HsmError, Kek, Operation, SlotState, Status};
use keyward::keyring::wrapped::SealedKey;

use super::Suite;

impl Suite {
    /// Calls of this work: those that use a key or the generator.
    async fn calls(&self, work: impl Future<Output = ()>) -> u64 {
        let before = self.hsm.figures().operations;
        work.await;
        self.hsm.figures().operations - before
    }

    async fn calls_to_open(&self, kek: &Kek, sealed: &SealedKey) -> u64 {
        let open = async { drop(self.open(kek, b"aad", sealed).await.expect("opened")) };
        self.calls(open).await
    }

    pub(super) async fn calls_are_counted(&self, root: &NewRoot) {
        let nothing = self.calls(async { drop(self.one(Operation::Random { len: 0 }).await) }).await;
        assert_eq!(nothing, 0);
        let random = self.calls(async { drop(self.one(Operation::Random { len: 16 }).await) }).await;
        assert_eq!(random, 1);
        // Generated, wrapped, unwrapped once.
        assert_eq!(self.calls(async { drop(self.new_kek(root.id).await) }).await, 3);
        let kek = self.new_kek(root.id).await;
        // Random for the key and for the IV, sealed, opened once.
        assert_eq!(self.calls(async { drop(self.new_key(&kek, b"aad").await) }).await, 4);
        let (_, sealed) = self.new_key(&kek, b"aad").await;
        assert_eq!(self.calls_to_open(&kek, &sealed).await, 1);
        // Opened, random for the IV, sealed.
        let moved = async { drop(self.move_key((&kek, b"aad"), &sealed, (&kek, b"to")).await) };
        assert_eq!(self.calls(moved).await, 3);
    }

    pub(super) async fn forgotten_keks_are_unwrapped_anew(&self, root: &NewRoot) {
        let (kek, other) = (self.new_kek(root.id).await, self.new_kek(root.id).await);
        let (_, sealed) = self.new_key(&kek, b"aad").await;
        let (_, others) = self.new_key(&other, b"aad").await;
        assert_eq!(self.calls_to_open(&kek, &sealed).await, 1);
        self.hsm.forget(Forget::These(vec![kek.clone()]));
        assert_eq!(self.calls_to_open(&kek, &sealed).await, 2, "it was unwrapped still");
        assert_eq!(self.calls_to_open(&other, &others).await, 1, "another one was forgotten, too");
        for all in [Forget::All, Forget::Root(root.id)] {
            self.hsm.forget(all);
            assert_eq!(self.calls_to_open(&kek, &sealed).await, 2);
            assert_eq!(self.calls_to_open(&other, &others).await, 2);
        }
    }

    pub(super) async fn a_foreign_canary_is_refused(&self, root: &NewRoot, second: &NewRoot) {
        let Status::Ready { epoch: before, token } = self.hsm.status().borrow().clone() else {
            panic!("it does not serve")
        };
        assert_eq!(token, root.born().token);
        assert!(self.hsm.slots().iter().all(|slot| matches!(slot.state, SlotState::Ready { .. })));
        // Another root of the same token is as good: a rotation changes from one to the other.
        self.hsm.expect(second.born().canary.clone());
        self.new_kek(second.id).await;
        let mut foreign = root.born().canary.clone();
        foreign.fingerprint[0] ^= 1;
        self.hsm.expect(foreign);
        let refused = |status: &Status| matches!(status, Status::Refused { .. });
        self.until("a foreign canary is refused", refused).await;
        assert!(!self.hsm.slots().iter().any(|slot| matches!(slot.state, SlotState::Ready { .. })));
        let answer = self.one(Operation::GenerateKek { root: root.id }).await.expect_err("it is refused");
        assert!(matches!(answer, HsmError::Unavailable(_)), "{answer:?}");
        assert!(self.hsm.figures().unanswered >= 1);
        self.hsm.expect(root.born().canary.clone());
        let ready = |status: &Status| matches!(status, Status::Ready { .. });
        let again = self.until("its own canary is taken again", ready).await;
        assert!(matches!(again, Status::Ready { epoch, .. } if epoch > before), "{again:?}");
        self.new_kek(root.id).await;
    }
}
