//! The birth of a master key, a root or a resident KEK: what is asked for, and what comes out.

use minicbor::{Decode, Encode};

use crate::hsm::pkcs11::root::Settled;
use crate::hsm::transfer;
use crate::id::{DeploymentId, RootId};
use crate::keyring::escrow::{AgreementPoint, SealedBox};
use crate::keyring::wrapped::{Canary, WrappedKek};
use crate::secret::Key256;

/// What a master key is for. It decides the label on the token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Purpose {
    /// The root of all tenants.
    #[n(0)]
    Root,
    /// An erasure key of this installation: destroyed on purpose, and never escrowed. A person has one
    /// destroyed that no record of the installation names, so the label says whose it is.
    #[n(1)]
    Erasure(#[n(0)] DeploymentId),
    /// A KEK of one tenant, which stays in the HSM: it wraps nothing, it encrypts data keys.
    #[n(2)]
    Resident,
}

impl Purpose {
    /// How the labels of all purposes begin.
    pub const LABELS: [&str; 3] = ["keyward root ", "keyward erasure ", "keyward kek "];

    /// How the labels on the token begin; the id follows.
    pub fn label(self) -> String {
        let [root, erasure, kek] = Self::LABELS;
        match self {
            Self::Root => root.to_owned(),
            Self::Erasure(deployment) => format!("{erasure}{deployment} "),
            Self::Resident => kek.to_owned(),
        }
    }

    /// Whether the key wraps KEKs, and does nothing else; a resident KEK encrypts with GCM, and does
    /// nothing else.
    pub(super) fn wraps(self) -> bool {
        self != Self::Resident
    }
}

/// A master key that stands on a token under one of Keyward's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// What its label says that it is for.
    pub purpose: Purpose,
    /// Its name, the CKA_ID.
    pub id: RootId,
    /// The token, as the configuration asks for it.
    pub token: String,
}

/// What becomes of the one-time backup key under which a new root is wrapped.
#[derive(Debug, Clone, Encode, Decode)]
pub enum BackupPlan {
    /// It is handed out whole, for a file that one operator keeps.
    #[n(0)]
    HandOut,
    /// It is split: any `quorum` of the holders can put it together again.
    #[n(1)]
    Split {
        /// How many are needed, at least 2.
        #[n(0)]
        quorum: u8,
        /// Who gets a share.
        #[n(1)]
        holders: Vec<Holder>,
    },
    /// It is dropped: nothing ever brings this root back.
    #[n(2)]
    Drop,
}

/// Who gets a share.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Holder {
    /// The key to which the share is sealed.
    #[n(0)]
    pub key: AgreementPoint,
    /// What the sealed share is bound to.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub context: Vec<u8>,
}

/// A root before it stands on any token.
#[derive(Debug, Encode, Decode)]
pub struct Newborn {
    /// Its name, and its CKA_ID on each token.
    #[n(0)]
    pub id: RootId,
    /// The root, wrapped under the backup key.
    #[n(1)]
    pub wrapped: WrappedKek,
    /// What there is of the backup key.
    #[n(2)]
    pub backup: Backup,
}

/// What leaves the HSM process of a backup key, as its [`BackupPlan`] says.
#[derive(Debug, Encode, Decode)]
pub enum Backup {
    /// The key itself.
    #[n(0)]
    HandedOut(#[cbor(n(0), with = "transfer::key")] Key256),
    /// Its shares, each sealed to its holder, in the order of the plan.
    #[n(1)]
    Split(#[n(0)] Vec<SealedBox>),
    /// Nothing.
    #[n(2)]
    Dropped,
}

/// A root on every token of the group.
#[derive(Debug)]
pub struct NewRoot {
    /// Its name, and its CKA_ID on the tokens.
    pub id: RootId,
    /// The root, wrapped under the backup key.
    pub escrow: WrappedKek,
    /// How each token holds it; the first is the one where it was born.
    pub settled: Vec<Settled>,
}

impl NewRoot {
    /// How the token holds it where it was born.
    pub fn born(&self) -> &Settled {
        // A root is made on one token at least.
        &self.settled[0]
    }
}

/// A root on its way to another token.
#[derive(Debug, Clone, Encode, Decode)]
pub struct Handover {
    /// What it is for.
    #[n(0)]
    pub purpose: Purpose,
    /// Its name.
    #[n(1)]
    pub id: RootId,
    /// The root, wrapped under the backup key.
    #[n(2)]
    pub wrapped: WrappedKek,
    /// What it must open.
    #[n(3)]
    pub canary: Canary,
    /// The backup key.
    #[n(4)]
    pub delivery: Delivery,
}

impl Handover {
    /// What a whole backup key is bound to while it is handed over.
    pub(super) fn context(id: &RootId) -> Vec<u8> {
        [b"keyward/1/root-handover".as_slice(), &id.0].concat()
    }
}

/// A backup key, sealed to the process that takes the root over.
#[derive(Debug, Clone, Encode, Decode)]
pub enum Delivery {
    /// From the process where the root was born.
    #[n(0)]
    Whole(#[n(0)] SealedBox),
    /// From those who hold shares of it.
    #[n(1)]
    Shares(#[n(0)] Vec<DeliveredShare>),
}

/// A share, sealed to the process that takes the root over.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct DeliveredShare {
    /// Whose it is, for messages.
    #[n(0)]
    pub holder: String,
    /// What it was bound to as the holder had it.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub context: Vec<u8>,
    /// The share, bound to [`delivery_context`](crate::keyring::escrow::delivery_context).
    #[n(2)]
    pub sealed: SealedBox,
}
