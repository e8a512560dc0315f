//! What the daemon and its HSM process say to each other.
//!
//! ```text
//! daemon → process   Hello   Order …        Decision, Handover, Verdict (when a root is made)
//! process → daemon   FromChild …
//! ```

use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::hsm::birth::{BackupPlan, Newborn, Purpose};
use crate::hsm::confine::Confined;
use crate::hsm::figures::{CacheFigures, Objects};
use crate::hsm::pkcs11::root::Settled;
use crate::hsm::pkcs11::{ConnectError, Settings};
use crate::hsm::{Forget, HsmError, Operation, Reply, TokenInfo, transfer};
use crate::id::RootId;
use crate::keyring::escrow::{AgreementPoint, SealedBox};
use crate::keyring::wrapped::Canary;
use crate::secret::Pin;

/// The first message: which token, its PIN, and what is to be done.
#[derive(Debug, Encode, Decode)]
pub(super) struct Hello {
    #[n(0)]
    pub(super) settings: Settings,
    #[cbor(n(1), with = "transfer::pin")]
    pub(super) pin: Pin,
    /// How long the process may take to finish when the daemon has closed the socket.
    #[n(2)]
    pub(super) patience: Duration,
    #[n(3)]
    pub(super) task: Task,
}

/// What an HSM process does.
#[derive(Debug, Encode, Decode)]
pub(super) enum Task {
    /// Executes operations until the socket is closed.
    #[n(0)]
    Serve {
        /// A token that does not open it is refused.
        #[n(0)]
        canary: Option<Canary>,
    },
    /// Lists the keys of a purpose.
    #[n(1)]
    Roots(#[n(0)] Purpose),
    /// Examines module and token.
    #[n(4)]
    Check,
    /// Makes a root key.
    #[n(2)]
    CreateRoot {
        #[n(0)]
        purpose: Purpose,
        #[n(1)]
        plan: BackupPlan,
    },
    /// Takes over a root key that was born on another token; a [`Handover`] follows.
    #[n(3)]
    AdoptRoot,
    /// Destroys a root key.
    #[n(5)]
    DestroyRoot(#[n(0)] RootId),
    /// Lists the keys of several purposes.
    #[n(6)]
    Standing(#[n(0)] Vec<Purpose>),
}

/// What a serving process is to do, as it is read.
#[derive(Debug, Decode)]
pub(super) enum Order {
    /// Execute a list of operations.
    #[n(0)]
    Run {
        #[n(0)]
        number: u64,
        #[n(1)]
        operations: Vec<Operation>,
    },
    /// Destroy the handles of KEKs.
    #[n(1)]
    Forget(#[n(0)] Forget),
    /// From now on this canary proves the root.
    #[n(2)]
    Expect(#[n(0)] Canary),
}

/// The same, as it is written.
#[derive(Debug, Encode)]
pub(super) enum OrderRef<'a> {
    #[n(0)]
    Run {
        #[n(0)]
        number: u64,
        #[n(1)]
        operations: Vec<&'a Operation>,
    },
    #[n(1)]
    Forget(#[n(0)] &'a Forget),
    #[n(2)]
    Expect(#[n(0)] &'a Canary),
}

/// Whether a root's escrow is kept, so that the root may become a token object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub(super) enum Decision {
    #[n(0)]
    Go,
    #[n(1)]
    Stop,
}

/// What an HSM process says.
#[derive(Debug, Encode, Decode)]
pub(super) enum FromChild {
    /// There is no connection.
    #[n(0)]
    Failed(#[n(0)] ConnectError),
    /// How the process is confined: the first message, before the library is loaded. [`FromChild::Failed`]
    /// in its place: it is not to be loaded.
    #[n(13)]
    Confined(#[n(0)] Confined),
    /// Ready to execute operations.
    #[n(1)]
    Ready {
        #[n(0)]
        token: TokenInfo,
    },
    /// A list was executed.
    #[n(2)]
    Done {
        #[n(0)]
        number: u64,
        #[n(1)]
        answers: Vec<Result<Reply, HsmError>>,
        /// Calls that used a key or the generator of the HSM.
        #[n(2)]
        calls: u64,
    },
    /// The connection was proved healthy a moment ago.
    #[n(3)]
    Healthy {
        /// Memory of the process that is in use, in bytes.
        #[n(0)]
        resident: u64,
        /// Its cache of unwrapped KEKs.
        #[n(1)]
        keks: CacheFigures,
        /// How full the token is.
        #[n(2)]
        objects: Option<Objects>,
    },
    /// The connection is lost; the process serves no more.
    #[n(4)]
    Lost(#[n(0)] String),
    /// The root keys on the token.
    #[n(5)]
    Roots(#[n(0)] Vec<RootId>),
    /// The keys of several purposes on the token.
    #[n(14)]
    Standing(#[n(0)] Vec<(Purpose, RootId)>),
    /// The report on module and token, as JSON.
    #[n(10)]
    Report(#[n(0)] String),
    /// A master key that is not on the token yet; waits for a [`Decision`].
    #[n(6)]
    Newborn(#[n(0)] Newborn),
    /// A root key on the token; waits for a [`Verdict`].
    #[n(7)]
    Settled(#[n(0)] Settled),
    /// The key to which this process wants the backup key sealed; waits for a [`Handover`].
    #[n(11)]
    Receives(#[n(0)] AgreementPoint),
    /// The backup key, sealed as it was asked for; waits for a [`Verdict`].
    #[n(12)]
    HandedOver(#[n(0)] SealedBox),
    /// The task was done.
    #[n(8)]
    Finished,
    /// The task was not done, and why.
    #[n(9)]
    Refused(#[n(0)] String),
    /// The token has no room for another key, in words.
    #[n(18)]
    Full(#[n(0)] String),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::child::frame;
    use crate::hsm::Kek;
    use crate::keyring::signing::tests::TestKey;
    use crate::keyring::signing::{Signature, SigningKey, SigningWrap};
    use crate::keyring::wrapped::{KeyCheck, SealMechanism, SealedKey, WrapMechanism, WrappedKek};
    use crate::secret::{Key256, SecretBytes};

    fn wrapped(byte: u8) -> WrappedKek {
        WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes: vec![byte; 40] }
    }

    fn kek(byte: u8) -> Kek {
        Kek::Sealed { root: RootId([byte; 16]), wrapped: wrapped(byte) }
    }

    fn sealed(byte: u8) -> SealedKey {
        let check = Some(KeyCheck::of(&Key256::init_with(|key| key.fill(byte))));
        SealedKey { mechanism: SealMechanism::AesGcm, iv: [byte; 12], ciphertext: [byte; 48], check }
    }

    fn signing_key() -> SigningKey {
        let public = TestKey::fixed();
        SigningKey {
            root: RootId([1; 16]),
            kek: wrapped(2),
            wrap: SigningWrap::Rfc5649,
            wrapped: vec![3; 80],
            public,
        }
    }

    fn sent<M: for<'b> Decode<'b, ()>>(message: &impl Encode<()>) -> M {
        frame::read(&mut frame::encode(message).unwrap().as_slice()).unwrap().unwrap()
    }

    #[test]
    fn operations_arrive_as_they_were_sent() {
        let operations = [
            Operation::Random { len: 4096 },
            Operation::GenerateKek { root: RootId([1; 16]) },
            Operation::GenerateKey { kek: kek(2), aad: vec![3] },
            Operation::OpenKey { kek: kek(4), aad: Vec::new(), sealed: sealed(5) },
            Operation::MoveKey {
                from: kek(6),
                from_aad: vec![7],
                sealed: sealed(8),
                to: Kek::Resident(RootId([9; 16])),
                to_aad: vec![10],
            },
            Operation::GenerateSigningKey { root: RootId([11; 16]) },
            Operation::Sign { key: signing_key(), digest: [12; 32] },
        ];
        let order: Order = sent(&OrderRef::Run { number: u64::MAX, operations: operations.iter().collect() });
        let Order::Run { number: u64::MAX, operations: arrived } = order else { panic!("{order:?}") };
        assert_eq!(format!("{arrived:?}"), format!("{operations:?}"));
    }

    #[test]
    fn what_is_to_be_forgotten_arrives_as_it_was_sent() {
        let order: Order = sent(&OrderRef::Forget(&Forget::These(vec![kek(1)])));
        assert!(matches!(order, Order::Forget(Forget::These(keks)) if keks == [kek(1)]));
        let order: Order = sent(&OrderRef::Forget(&Forget::All));
        assert!(matches!(order, Order::Forget(Forget::All)));
    }

    #[test]
    fn answers_arrive_as_they_were_sent() {
        let key = Key256::from_slice(&[7; 32]).unwrap();
        let answers = vec![
            Ok(Reply::Random(SecretBytes::new(vec![1, 2]))),
            Ok(Reply::Key(key.duplicate())),
            Ok(Reply::NewKey { key, sealed: sealed(1) }),
            Ok(Reply::Wrapped(wrapped(2))),
            Ok(Reply::Sealed(sealed(3))),
            Ok(Reply::NewSigningKey(signing_key())),
            Ok(Reply::Signature(Signature([13; 64]))),
            Err(HsmError::Integrity),
            Err(HsmError::Busy { retry_after: Duration::from_millis(5) }),
            Err(HsmError::Unavailable("a".into())),
            Err(HsmError::UnknownRoot(RootId([4; 16]))),
            Err(HsmError::Misbehaved("b".into())),
        ];
        let FromChild::Done { number: 3, answers, calls: 9 } =
            sent(&FromChild::Done { number: 3, answers, calls: 9 })
        else {
            panic!("another message")
        };
        let [
            Ok(Reply::Random(random)),
            Ok(Reply::Key(first)),
            Ok(Reply::NewKey { key: second, .. }),
            rest @ ..,
        ] = answers.as_slice()
        else {
            panic!("{answers:?}")
        };
        assert_eq!((random.expose(), first.expose(), second.expose()), (&[1, 2][..], &[7; 32], &[7; 32]));
        assert_eq!(rest.len(), 9);
        assert!(matches!(&rest[2], Ok(Reply::NewSigningKey(key)) if *key == signing_key()));
        assert!(matches!(&rest[3], Ok(Reply::Signature(Signature(raw))) if *raw == [13; 64]));
        assert!(matches!(&rest[8], Err(HsmError::Misbehaved(reason)) if reason == "b"));
    }

    #[test]
    fn the_pin_travels_and_is_not_shown() {
        let token = crate::hsm::pkcs11::TokenSelector::label("a");
        let hello = Hello {
            settings: Settings::new("/x.so".into(), token, "/state".into()),
            pin: Pin::from_bytes(b"84215097").unwrap(),
            patience: Duration::from_secs(5),
            task: Task::Serve { canary: None },
        };
        assert!(!format!("{hello:?}").contains("84215097"));
        assert_eq!(sent::<Hello>(&hello).pin.expose(), "84215097");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut frame = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            frame.extend(bytes);
            let _ = frame::read::<FromChild>(&mut frame.as_slice());
            let _ = frame::read::<Order>(&mut frame.as_slice());
        }
    }
}
