//! Who the custodians are, and how many of them must agree.

use std::collections::BTreeSet;
use std::fmt;

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use super::custodian::Custodian;
use crate::clock::Date;
use crate::id::{CeremonyId, CustodianId, RosterVersion};

/// How many custodians must agree: at least 2, so that nobody acts alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Quorum(#[n(0)] u8);

impl Quorum {
    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Why custodians and a quorum make no roster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RosterError {
    /// 2 ≤ quorum ≤ custodians ≤ [`Members::MOST`] does not hold.
    #[error(
        "a quorum of {quorum} does not go with {custodians} custodians: at least 2 must agree, and there can be {} custodians at most",
        Members::MOST
    )]
    Quorum {
        /// The number that was asked for.
        quorum: u32,
        /// How many there are.
        custodians: usize,
    },
    /// One name twice.
    #[error("custodian {0} stands there twice")]
    Name(CustodianId),
    /// One key twice: two names would be one token.
    #[error("custodian {0} has a key that another custodian has too")]
    Key(CustodianId),
}

/// Custodians with different names and keys, in the order of their names, and how many of them must agree.
#[derive(Debug, Clone, PartialEq, Eq, Encode)]
#[cbor(map)]
pub struct Members {
    #[n(1)]
    quorum: Quorum,
    #[n(2)]
    custodians: Vec<Custodian>,
}

impl Members {
    /// Most custodians of one roster.
    pub const MOST: usize = 32;

    /// Checks custodians and quorum.
    ///
    /// # Errors
    /// [`RosterError`]
    pub fn new(quorum: u32, mut custodians: Vec<Custodian>) -> Result<Self, RosterError> {
        let count = custodians.len();
        let fits = quorum >= 2 && usize::try_from(quorum).is_ok_and(|quorum| quorum <= count);
        let number = u8::try_from(quorum).ok().filter(|_| fits && count <= Self::MOST);
        let number = number.ok_or(RosterError::Quorum { quorum, custodians: count })?;
        custodians.sort_by(|one, other| one.name().cmp(other.name()));
        if let Some([twice, _]) = custodians.array_windows().find(|[a, b]| a.name() == b.name()) {
            return Err(RosterError::Name(twice.name().clone()));
        }
        let mut keys = BTreeSet::new();
        for custodian in &custodians {
            if !keys.insert(custodian.signing().spki()) || !keys.insert(custodian.agreement().spki()) {
                return Err(RosterError::Key(custodian.name().clone()));
            }
        }
        Ok(Self { quorum: Quorum(number), custodians })
    }

    /// How many must agree.
    pub fn quorum(&self) -> Quorum {
        self.quorum
    }

    /// The custodians, in the order of their names.
    pub fn custodians(&self) -> &[Custodian] {
        &self.custodians
    }

    /// The custodian of this name.
    pub fn find(&self, name: &CustodianId) -> Option<&Custodian> {
        self.custodians.iter().find(|custodian| custodian.name() == name)
    }

    /// SHA-256 over `"keyward/1/roster"` and the members in their one encoding: what approvals name.
    pub fn digest(&self) -> [u8; 32] {
        let bytes = minicbor::to_vec(self).expect("encoding into memory cannot fail");
        Sha256::new_with_prefix(b"keyward/1/roster").chain_update(bytes).finalize().into()
    }
}

impl<'b, C> Decode<'b, C> for Members {
    fn decode(d: &mut minicbor::Decoder<'b>, ctx: &mut C) -> Result<Self, minicbor::decode::Error> {
        #[derive(Decode)]
        #[cbor(map)]
        struct Unchecked {
            #[n(1)]
            quorum: Quorum,
            #[n(2)]
            custodians: Vec<Custodian>,
        }
        let Unchecked { quorum, custodians } = Decode::decode(d, ctx)?;
        let names: Vec<CustodianId> = custodians.iter().map(|custodian| custodian.name().clone()).collect();
        match Self::new(quorum.get().into(), custodians) {
            Ok(members) if members.custodians.iter().map(Custodian::name).eq(&names) => Ok(members),
            Ok(_) => {
                Err(minicbor::decode::Error::message("the custodians are not in the order of their names"))
            }
            Err(error) => Err(minicbor::decode::Error::custom(error)),
        }
    }
}

/// One roster. The newest one is in force.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Roster {
    /// Who they are.
    #[n(1)]
    pub members: Members,
    /// The ceremony that put it in force.
    #[n(2)]
    pub ceremony: CeremonyId,
    /// Since when.
    #[n(3)]
    pub created: Date,
}

impl Roster {
    /// The version of the first roster.
    pub const FIRST: RosterVersion = RosterVersion::FIRST;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::credential::{Credential, TokenAlgorithm, TokenKind};
    use super::super::custodian::AgreementKey;
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    /// A custodian with new keys.
    pub(crate) fn custodian(name: &str) -> Custodian {
        let agreement = || {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            AgreementKey::of_point(pair.public_key().as_ref()).unwrap()
        };
        let spki = agreement().spki().to_vec();
        let signing = Credential::new(TokenKind::Pkcs11, TokenAlgorithm::EcdsaP256Sha256, spki).unwrap();
        Custodian::new(CustodianId::new(name).unwrap(), signing, agreement(), None).unwrap()
    }

    #[test]
    fn a_quorum_is_of_two_at_least_and_of_those_who_are_there() {
        let some = |count: usize| (0..count).map(|at| custodian(&format!("c{at}"))).collect::<Vec<_>>();
        for (quorum, count, fits) in [
            (2, 2, true),
            (2, 3, true),
            (3, 3, true),
            (1, 3, false),
            (0, 3, false),
            (4, 3, false),
            (2, 1, false),
        ] {
            assert_eq!(Members::new(quorum, some(count)).is_ok(), fits, "{quorum} of {count}");
        }
        assert!(matches!(Members::new(258, some(3)), Err(RosterError::Quorum { quorum: 258, .. })));
    }

    #[test]
    fn one_person_has_one_vote() {
        let (alice, bob) = (custodian("alice"), custodian("bob"));
        let again = Members::new(2, vec![alice.clone(), alice.clone()]);
        assert!(matches!(again, Err(RosterError::Name(_))));
        let (signing, agreement) = (alice.signing().clone(), bob.agreement().clone());
        let mallory = Custodian::new(CustodianId::new("mallory").unwrap(), signing, agreement, None).unwrap();
        let with_keys_of_others = Members::new(2, vec![alice, mallory]);
        assert!(matches!(with_keys_of_others, Err(RosterError::Key(_))));
    }

    #[test]
    fn the_digest_is_of_the_members_however_they_were_named() {
        let (alice, bob, carol) = (custodian("alice"), custodian("bob"), custodian("carol"));
        let one = Members::new(2, vec![carol.clone(), alice.clone(), bob.clone()]).unwrap();
        let other = Members::new(2, vec![alice.clone(), bob.clone(), carol]).unwrap();
        assert_eq!((one.digest(), &one), (other.digest(), &other));
        assert_ne!(one.digest(), Members::new(3, one.custodians().to_vec()).unwrap().digest());
        assert_ne!(one.digest(), Members::new(2, vec![alice, bob]).unwrap().digest());
        let bytes = minicbor::to_vec(&one).unwrap();
        assert_eq!(minicbor::decode::<Members>(&bytes).unwrap(), one);
        let swapped =
            Members { quorum: one.quorum, custodians: one.custodians.iter().rev().cloned().collect() };
        assert!(minicbor::decode::<Members>(&minicbor::to_vec(&swapped).unwrap()).is_err());
    }
}
