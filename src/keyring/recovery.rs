//! What is carried from hand to hand when a lost root, or a lost resident KEK, is put together again. Nothing
//! in these files is secret: shares are sealed to their holders, or to the process
//! that takes the root over.

use minicbor::{Decode, Encode};

use super::armour::Armoured;
use super::custodian::AgreementKey;
use super::escrow::{Escrow, EscrowShare, SealedBox};
use super::record::Root;
use super::roster::Members;
use super::wrapped::Canary;
use crate::id::{CeremonyId, CustodianId, DeploymentId, KekVersion, TenantId};

/// A root as it can be restored: its wrapped copy, the sealed shares of its backup key, and who holds them.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EscrowFile {
    /// The root.
    #[n(1)]
    pub root: Root,
    /// The sealed shares.
    #[n(2)]
    pub escrow: Escrow,
    /// The custodians.
    #[n(3)]
    pub members: Members,
    /// The ceremonies that put them in force: JSON, as in a transcript.
    #[n(4)]
    pub chain: String,
    /// The KEKs that are in the HSM and not in the store, one for each such tenant.
    #[n(5)]
    pub keks: Option<Vec<EscrowedKek>>,
}

/// A resident KEK as it can be restored: a backup key of its own, split among the same custodians.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EscrowedKek {
    /// Whose it is.
    #[n(1)]
    pub tenant: TenantId,
    /// Its version.
    #[n(2)]
    pub version: KekVersion,
    /// The sealed shares.
    #[n(3)]
    pub escrow: Escrow,
    /// What it must open.
    #[n(4)]
    pub canary: Canary,
}

impl Armoured for EscrowFile {
    const LABEL: &'static str = "KEYWARD ROOT ESCROW";
    const LONGEST: usize = 4 << 20;
}

/// What each custodian is asked for: to open a share, and to seal it to one process.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RestoreRequest {
    /// This restore.
    #[n(1)]
    pub ceremony: CeremonyId,
    /// The installation.
    #[n(2)]
    pub deployment: DeploymentId,
    /// What a custodian signs, word for word.
    #[n(3)]
    pub statement: String,
    /// The key to which the share is to be sealed.
    #[n(4)]
    pub transport: AgreementKey,
    /// The ceremony that made the key and its shares.
    #[n(5)]
    pub made_by: CeremonyId,
    /// The sealed shares.
    #[n(6)]
    pub shares: Vec<EscrowShare>,
    /// The custodians.
    #[n(7)]
    pub members: Members,
}

impl Armoured for RestoreRequest {
    const LABEL: &'static str = "KEYWARD RESTORE REQUEST";
    const LONGEST: usize = 1 << 20;
}

/// A custodian's answer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct RestoreShare {
    /// The restore that it is for.
    #[n(1)]
    pub ceremony: CeremonyId,
    /// Whose share it is.
    #[n(2)]
    pub custodian: CustodianId,
    /// The share, sealed to the process that takes the root over.
    #[n(3)]
    pub sealed: SealedBox,
    /// The custodian's signature over the request (purpose 7).
    #[cbor(n(4), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
}

impl Armoured for RestoreShare {
    const LABEL: &'static str = "KEYWARD RESTORE SHARE";
    const LONGEST: usize = 64 << 10;
}
