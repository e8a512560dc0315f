//! The escrow of a root key: its wrapped copy, and what becomes of the backup
//! key that opens it. Data only; the cryptography is in `envelope`.

use std::fmt;

use minicbor::{Decode, Encode};

use super::roster::Quorum;
use super::wrapped::WrappedKek;
use crate::id::{CeremonyId, CustodianId, DeploymentId, RootId};

/// A public key for key agreement on P-256: an uncompressed point
/// (SEC 1, section 2.3.3), 65 bytes that begin with 4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(transparent)]
pub struct AgreementPoint(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 65]);

impl fmt::Debug for AgreementPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AgreementPoint(")?;
        self.0.iter().take(5).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("…)")
    }
}

/// A secret that the holder of one [`AgreementPoint`] can open.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SealedBox {
    /// The sender's key, made for this box.
    #[n(0)]
    pub ephemeral: AgreementPoint,
    /// The secret under AES-256-GCM, with its 16-byte tag.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub ciphertext: Vec<u8>,
}

/// The escrow of one generation of the root.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Escrow {
    /// The root.
    #[n(1)]
    pub root: RootId,
    /// The root itself, wrapped at birth under a one-time backup key.
    #[n(2)]
    pub wrapped: WrappedKek,
    /// The ceremony that made it.
    #[n(3)]
    pub ceremony: CeremonyId,
    /// How many shares are needed.
    #[n(4)]
    pub quorum: Quorum,
    /// The shares of the backup key, one for each custodian.
    #[n(5)]
    pub shares: Vec<EscrowShare>,
}

/// The escrow of a resident KEK. It is kept before the KEK is a token object, and goes after it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub struct KekEscrow(#[n(0)] pub Escrow);

/// One custodian's share of a backup key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct EscrowShare {
    /// Who can open it.
    #[n(1)]
    pub custodian: CustodianId,
    /// The share, sealed to the custodian's agreement key and bound to [`share_context`].
    #[n(2)]
    pub sealed: SealedBox,
}

/// What a share is bound to:
/// `"keyward/1/escrow-share" | deployment (16) | ceremony (16) | u8 quorum | u32 length | custodian`.
///
/// The ceremony stands for the root that it makes: the root's name is not known before the shares are.
pub fn share_context(
    deployment: DeploymentId,
    ceremony: CeremonyId,
    quorum: Quorum,
    custodian: &CustodianId,
) -> Vec<u8> {
    let mut context = b"keyward/1/escrow-share".to_vec();
    context.extend_from_slice(&deployment.0);
    context.extend_from_slice(&ceremony.0);
    context.push(quorum.get());
    let name = custodian.as_str().as_bytes();
    context.extend_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
    context.extend_from_slice(name);
    context
}

/// What a share is bound to on its way from a custodian's workstation to the token that takes the root:
/// the same, and the point of the key that it is sealed to.
pub fn delivery_context(share: &[u8], transport: &AgreementPoint) -> Vec<u8> {
    [b"keyward/1/share-delivery".as_slice(), &transport.0, share].concat()
}
