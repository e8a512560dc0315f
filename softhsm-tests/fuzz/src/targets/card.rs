//! Custodian cards: the armour, and what stands in it.

use keyward::id::{CustodianId, DeploymentId};
use keyward::keyring::credential::{Credential, TokenAlgorithm, TokenKind};
use keyward::keyring::custodian::{AgreementKey, Custodian, CustodianCard};
use keyward::keyring::public_key::{KeyType, spki_of_point};

/// The points of the private keys 1 and 2 on P-256.
const POINTS: [&str; 2] = [
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
     4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    "047cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978\
     07775510db8ed040293d9ac69f7430dbba7dade63ce982299e04b79d227873d1",
];

/// Reads `data`; what is read has no other spelling but line ends and white space around it.
pub fn text(data: &[u8]) {
    let Ok(given) = std::str::from_utf8(data) else { return };
    if let Ok(card) = CustodianCard::parse(given) {
        assert_eq!(card.to_text().trim_ascii_end(), given.replace("\r\n", "\n").trim_ascii());
    }
}

/// Reads `data`; what is read has no other spelling.
pub fn content(data: &[u8]) {
    if let Ok(card) = CustodianCard::from_bytes(data) {
        assert_eq!(card.to_bytes(), data);
    }
}

fn cards() -> impl Iterator<Item = CustodianCard> {
    let points = POINTS.map(|point| hex::decode(point).expect("hex"));
    let spki = spki_of_point(KeyType::P256, &points[0]).expect("a point");
    let signing = Credential::new(TokenKind::Pkcs11, TokenAlgorithm::EcdsaP256Sha256, spki).expect("a key");
    let agreement = AgreementKey::of_point(&points[1]).expect("a point");
    ["alice", "b-2"].into_iter().zip([64, 0]).map(move |(name, length)| {
        let name = CustodianId::new(name).expect("a name");
        let custodian = Custodian::new(name, signing.clone(), agreement.clone(), None).expect("two keys");
        CustodianCard { custodian, deployment: DeploymentId([9; 16]), signature: vec![5; length] }
    })
}

/// Two custodians without a key in common.
pub fn distinct() -> impl Iterator<Item = Custodian> {
    // The points of the private keys 1 to 4 on P-256.
    let more = [
        "045ecbe4d1a6330a44c8f7ef951d4bf165e6c6b721efada985fb41661bc6e7fd6c\
         8734640c4998ff7e374b06ce1a64a2ecd82ab036384fb83d9a79b127a27d5032",
        "04e2534a3532d08fbba02dde659ee62bd0031fe2db785596ef509302446b030852\
         e0f1575a4c633cc719dfee5fda862d764efc96c3f30ee0055c42c23f184ed8c6",
    ];
    ["alice", "bob"].into_iter().zip([POINTS, more]).map(|(name, points)| {
        let points = points.map(|point| hex::decode(point).expect("hex"));
        let spki = spki_of_point(KeyType::P256, &points[0]).expect("a point");
        let signing =
            Credential::new(TokenKind::Pkcs11, TokenAlgorithm::EcdsaP256Sha256, spki).expect("a key");
        let agreement = AgreementKey::of_point(&points[1]).expect("a point");
        Custodian::new(CustodianId::new(name).expect("a name"), signing, agreement, None).expect("two keys")
    })
}

/// Good cards.
pub fn texts() -> Vec<Vec<u8>> {
    cards().map(|card| card.to_text().into_bytes()).collect()
}

/// What stands in good cards.
pub fn contents() -> Vec<Vec<u8>> {
    cards().map(|card| card.to_bytes()).collect()
}
