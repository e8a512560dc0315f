//! What tokens show when they are enrolled: the certificates of a real card, and those of a company (made with
//! OpenSSL, good for a hundred years).

use std::sync::LazyLock;

use keyward::clock::Date;
use keyward::token::attestation::Anchors;
use keyward::token::certification::Authority;
use x509_cert::Certificate;
use x509_cert::der::{DecodePem, Encode};

/// 2027, when all of them are within their dates.
const NOW: Date = Date(1_800_000_000_000);

/// Certificates and what they are of.
struct Known {
    anchors: Anchors,
    /// Of a key, and of the card that it is in.
    card: [Vec<u8>; 2],
    attested: Vec<u8>,
    root: &'static [u8],
    /// Of a staff member's key.
    staff: Vec<u8>,
    certified: Vec<u8>,
    list: Vec<u8>,
}

static KNOWN: LazyLock<Known> = LazyLock::new(|| {
    let read = |pem: &str| Certificate::from_pem(pem).expect("a certificate");
    let spki = |of: &Certificate| of.tbs_certificate().subject_public_key_info().to_der().expect("a key");
    let key = read(include_str!("../../../../src/token/fixtures/yubikey-9c.pem"));
    let card = read(include_str!("../../../../src/token/fixtures/yubikey-f9.pem"));
    let staff = read(include_str!("../../seeds/company-leaf.pem"));
    let list = include_str!("../../seeds/company-list.pem");
    let list = x509_cert::crl::CertificateList::<x509_cert::certificate::Rfc5280>::from_pem(list);
    Known {
        anchors: Anchors::yubico(),
        attested: spki(&key),
        card: [key, card].map(|certificate| certificate.to_der().expect("DER")),
        root: include_bytes!("../../seeds/company-root.pem"),
        certified: spki(&staff),
        staff: staff.to_der().expect("DER"),
        list: list.expect("a list").to_der().expect("DER"),
    }
});

/// The certificates of a card.
pub fn card() -> Vec<Vec<u8>> {
    KNOWN.card.to_vec()
}

/// A staff member's certificate.
pub fn staff() -> Vec<Vec<u8>> {
    vec![KNOWN.staff.clone()]
}

/// A revocation list.
pub fn list() -> Vec<Vec<u8>> {
    vec![KNOWN.list.clone()]
}

/// Takes `data` for the certificate of a key, and for that of the card: only the real ones attest.
pub fn attestation(data: &[u8]) {
    let Known { anchors, card, attested, .. } = &*KNOWN;
    for (at, real) in card.iter().enumerate() {
        let mut chain = card.to_vec();
        chain[at] = data.to_vec();
        assert_eq!(anchors.verify(&chain, attested).is_ok(), data == real, "certificate {at}");
    }
}

/// Takes `data` for a staff member's certificate: only the real one counts.
pub fn certification(data: &[u8]) {
    let mut authority = company();
    authority.add_lists(&KNOWN.list).expect("the list");
    let good = authority.verify(&[data.to_vec()], &KNOWN.certified, NOW).is_ok();
    assert_eq!(good, data == KNOWN.staff);
}

/// Takes `data` for the revocation list: nobody is let in on the word of another than the real one.
pub fn revocation(data: &[u8]) {
    let mut authority = company();
    let good = authority.add_lists(data).is_ok() && authority.verify(&staff(), &KNOWN.certified, NOW).is_ok();
    assert_eq!(good, data == KNOWN.list);
}

fn company() -> Authority {
    let mut authority = Authority::default();
    authority.add_roots(KNOWN.root).expect("the root");
    authority
}
