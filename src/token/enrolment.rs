//! Custodian cards: made by the token's holder, proved by whoever puts it on a roster.

use crate::id::{CustodianId, DeploymentId};
use crate::keyring::credential::Credential;
use crate::keyring::credential::Verified;
use crate::keyring::custodian::{AgreementKey, Custodian, CustodianCard};
use crate::token::envelope::{Enrolment, Envelope};
use crate::token::verify::{SignatureError, verify};

/// Why a card puts nobody on a roster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EnrolmentError {
    /// It was made for another installation.
    #[error("the card is for deployment {card}, and this is deployment {here}: have it made again")]
    Deployment {
        /// Whose roster the card is for.
        card: DeploymentId,
        /// This installation.
        here: DeploymentId,
    },
    /// The token did not sign name, deployment and keys of the card.
    #[error("the card was changed, or made without its token: {0}")]
    Signature(#[from] SignatureError),
}

/// What a token signs to prove that it has the keys.
pub fn envelope(
    name: &CustodianId,
    deployment: DeploymentId,
    signing: &Credential,
    agreement: &AgreementKey,
) -> Envelope {
    Enrolment { name: name.clone(), agreement: agreement.clone() }.envelope(deployment, signing.id())
}

/// The custodian of a card, when the token has proved that it has the key that signs.
///
/// That it has the key that agrees is the signer's word. Whoever names another's key gives that
/// person a share more, so a roster must not have one key twice.
///
/// # Errors
/// [`EnrolmentError`] for another installation's card and for one that was changed.
pub fn prove(card: CustodianCard, here: DeploymentId) -> Result<Custodian, EnrolmentError> {
    let CustodianCard { custodian, deployment, signature } = card;
    if deployment != here {
        return Err(EnrolmentError::Deployment { card: deployment, here });
    }
    let signed = envelope(custodian.name(), deployment, custodian.signing(), custodian.agreement());
    let Verified { .. } = verify(custodian.signing(), &signed, &signature)?;
    Ok(custodian)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::credential::{TokenAlgorithm, TokenKind};
    use crate::keyring::public_key::tests::one_of_each;
    use crate::token::verify::tests::key;

    const HERE: DeploymentId = DeploymentId([1; 16]);

    fn alice() -> CustodianId {
        CustodianId::new("alice").unwrap()
    }

    fn agreement() -> AgreementKey {
        AgreementKey::new(one_of_each()[0].1.clone()).unwrap()
    }

    fn card() -> CustodianCard {
        let algorithm = TokenAlgorithm::Ed25519;
        let (spki, sign) = key(algorithm);
        let (signing, agreement) =
            (Credential::new(TokenKind::Pkcs11, algorithm, spki).unwrap(), agreement());
        let signature = sign(envelope(&alice(), HERE, &signing, &agreement).as_bytes());
        let custodian = Custodian::new(alice(), signing, agreement, None).unwrap();
        CustodianCard { custodian, deployment: HERE, signature }
    }

    #[test]
    fn a_signed_card_is_proved() {
        let card = card();
        assert_eq!(prove(card.clone(), HERE).unwrap(), card.custodian);
    }

    #[test]
    fn a_changed_card_is_not() {
        let card = card();
        let signing = card.custodian.signing().clone();
        let change = |name: &CustodianId, signing: &Credential, agreement: &AgreementKey| {
            let custodian = Custodian::new(name.clone(), signing.clone(), agreement.clone(), None).unwrap();
            prove(CustodianCard { custodian, ..card.clone() }, HERE)
        };
        let invalid = Err(EnrolmentError::Signature(SignatureError::Invalid));
        let own = card.custodian.agreement();
        assert_eq!(change(&CustodianId::new("mallory").unwrap(), &signing, own), invalid);
        assert_eq!(change(&alice(), &signing, &agreement()), invalid);
        let (other, _) = key(TokenAlgorithm::Ed25519);
        let other = Credential::new(TokenKind::Pkcs11, TokenAlgorithm::Ed25519, other).unwrap();
        assert_eq!(change(&alice(), &other, own), invalid);
    }

    #[test]
    fn a_card_of_another_deployment_is_not() {
        let (card, here) = (card(), DeploymentId([2; 16]));
        let error = prove(card.clone(), here).unwrap_err();
        assert_eq!(error, EnrolmentError::Deployment { card: HERE, here });
        let moved = CustodianCard { deployment: here, ..card };
        assert_eq!(prove(moved, here), Err(EnrolmentError::Signature(SignatureError::Invalid)));
    }
}
