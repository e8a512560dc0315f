//! The vectors of docs/tokens.md: `softhsm-tests/vectors/tokens.json`, written anew with `KEYWARD_BLESS=1`.

use std::path::Path;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::clock::Date;
use crate::id::{CeremonyId, CustodianId, DeploymentId};
use crate::keyring::credential::{Credential, CredentialId, TokenAlgorithm, TokenKind};
use crate::keyring::custodian::AgreementKey;
use crate::token::envelope::{Ceremony, Enrolment, Envelope, Matter, RestoreShare};
use crate::token::printable::{Statement, quote};
use crate::token::verify::{normalise, verify};

const ABOUT: &str = "Envelopes that tokens sign (docs/tokens.md), and texts in them. The keys are public; \
                     use them for nothing else.";

#[test]
fn the_vectors_hold() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("softhsm-tests/vectors/tokens.json");
    if std::env::var_os("KEYWARD_BLESS").is_some() {
        std::fs::write(&path, format!("{:#}\n", bless())).unwrap();
    }
    let vectors: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let (signatures, texts) = (list(&vectors["signatures"]), list(&vectors["texts"]));
    assert!(signatures.len() >= 8 && texts.len() >= 5);
    signatures.iter().for_each(check_signature);
    texts.iter().for_each(|text| assert_eq!(quote(word(&text["text"])), word(&text["quoted"])));
}

fn check_signature(case: &Value) {
    let credential = Credential::new(
        TokenKind::Pkcs11,
        TokenAlgorithm::parse(word(&case["algorithm"])).unwrap(),
        bytes(&case["public_key"]),
    )
    .unwrap();
    let fields = &case["fields"];
    let built = matter(word(&case["purpose"]), fields)
        .envelope(DeploymentId(fixed(&case["deployment"])), CredentialId(fixed(&case["credential"])));
    assert_eq!(hex::encode(built.as_bytes()), word(&case["envelope"]), "{}", case["name"]);
    assert_eq!(Envelope::parse(built.as_bytes()), Ok(built.clone()));
    let accepted = verify(&credential, &built, &bytes(&case["signature"])).is_ok();
    assert_eq!(accepted, word(&case["expect"]) == "accepted", "{}", case["name"]);
}

fn matter(purpose: &str, fields: &Value) -> Matter {
    let ceremony = || CeremonyId(fixed(&fields["ceremony"]));
    let statement = || Statement::new(word(&fields["statement"])).unwrap();
    let key = |name: &str| AgreementKey::new(bytes(&fields[name])).unwrap();
    match purpose {
        "enrolment" => Matter::Enrolment(Enrolment {
            name: CustodianId::new(word(&fields["name"])).unwrap(),
            agreement: key("agreement"),
        }),
        "ceremony" => Matter::Ceremony(Ceremony {
            ceremony: ceremony(),
            roster: fixed(&fields["roster"]),
            created: Date(fields["created"].as_u64().unwrap()),
            expires: Date(fields["expires"].as_u64().unwrap()),
            statement: statement(),
        }),
        "restore-share" => Matter::RestoreShare(RestoreShare {
            ceremony: ceremony(),
            statement: statement(),
            transport: key("transport"),
        }),
        other => panic!("no purpose {other}"),
    }
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(word(value)).unwrap()
}

fn fixed<const N: usize>(value: &Value) -> [u8; N] {
    bytes(value).try_into().unwrap()
}

/// The private keys 1 and 2 on P-256.
const POINTS: [&str; 2] = [
    "046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296\
     4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
    "047cf27b188d034f7e8a52380304b51ac3c08969e277f21b35a60b48fc47669978\
     07775510db8ed040293d9ac69f7430dbba7dade63ce982299e04b79d227873d1",
];

fn bless() -> Value {
    let point = hex::decode(POINTS[0]).unwrap();
    let mut one = [0; 32];
    one[31] = 1;
    let random = SystemRandom::new();
    let p256 = EcdsaKeyPair::from_private_key_and_public_key(&ECDSA_P256_SHA256_FIXED_SIGNING, &one, &point);
    let p256 = p256.unwrap();
    let edwards = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let der = |key: &dyn AsDer<PublicKeyX509Der<'static>>| key.as_der().unwrap().as_ref().to_vec();
    let ecdsa = |message: &[u8]| {
        let signature = p256.sign(&random, message).unwrap();
        normalise(TokenAlgorithm::EcdsaP256Sha256, signature.as_ref()).unwrap()
    };
    let ed25519 = |message: &[u8]| edwards.sign(message).as_ref().to_vec();
    let mut cases = Vec::new();
    for (purpose, fields) in all_fields() {
        let p256 = (TokenAlgorithm::EcdsaP256Sha256, der(p256.public_key()));
        cases.push(case(&format!("{purpose}-p256"), purpose, &fields, p256, &ecdsa));
        let edwards = (TokenAlgorithm::Ed25519, der(edwards.public_key()));
        cases.push(case(&format!("{purpose}-ed25519"), purpose, &fields, edwards, &ed25519));
    }
    let mut refused =
        vec![spoilt(&cases[2], "high-s", |s| high_s(s)), spoilt(&cases[2], "trailing", |s| s.push(0))];
    refused.push(spoilt(&cases[3], "flipped", |signature| signature[0] ^= 1));
    let mut moved = cases[2].clone();
    moved["name"] = json!("signature-of-another-envelope");
    moved["expect"] = json!("refused");
    moved["signature"] = cases[4]["signature"].clone();
    refused.push(moved);
    cases.extend(refused);
    json!({ "about": ABOUT, "signatures": cases, "texts": texts() })
}

fn all_fields() -> [(&'static str, Value); 3] {
    let spki = AgreementKey::of_point(&hex::decode(POINTS[1]).unwrap()).unwrap();
    let ceremony = hex::encode([0x33; 16]);
    [
        ("enrolment", json!({ "name": "alice", "agreement": hex::encode(spki.spki()) })),
        (
            "ceremony",
            json!({
                "ceremony": ceremony, "roster": hex::encode([0x44; 32]),
                "created": 1_800_000_000_000_u64, "expires": 1_800_000_600_000_u64,
                "statement": "Rotate the root key.\nReason: \"yearly\"",
            }),
        ),
        (
            "restore-share",
            json!({
                "ceremony": ceremony, "statement": "Restore the root key.",
                "transport": hex::encode(spki.spki()),
            }),
        ),
    ]
}

fn case(
    name: &str,
    purpose: &str,
    fields: &Value,
    (algorithm, spki): (TokenAlgorithm, Vec<u8>),
    sign: &dyn Fn(&[u8]) -> Vec<u8>,
) -> Value {
    let (deployment, credential) = (DeploymentId([0x11; 16]), CredentialId::of(&spki));
    let envelope = matter(purpose, fields).envelope(deployment, credential);
    json!({
        "name": name, "expect": "accepted", "algorithm": algorithm.as_str(), "public_key": hex::encode(&spki),
        "purpose": purpose, "deployment": deployment.to_string(), "credential": credential.to_string(),
        "fields": fields, "envelope": hex::encode(envelope.as_bytes()), "signature": hex::encode(sign(envelope.as_bytes())),
    })
}

fn spoilt(case: &Value, name: &str, spoil: fn(&mut Vec<u8>)) -> Value {
    let mut case = case.clone();
    let mut signature = bytes(&case["signature"]);
    spoil(&mut signature);
    case["name"] = json!(name);
    case["expect"] = json!("refused");
    case["signature"] = json!(hex::encode(&signature));
    case
}

/// The other s of the same signature.
fn high_s(signature: &mut [u8]) {
    let order = hex::decode("ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551").unwrap();
    let mut borrow = 0;
    for (digit, order) in signature[32..].iter_mut().zip(order).rev() {
        let difference = i16::from(order) - i16::from(*digit) - borrow;
        borrow = i16::from(difference < 0);
        *digit = u8::try_from(difference.rem_euclid(256)).unwrap();
    }
}

fn texts() -> Value {
    let texts = [
        "yearly rotation",
        "客户数据",
        "a\nb",
        "say \"yes\" \\ no",
        "x\u{202e}y\u{200b}",
        " two  spaces ",
        "e\u{301}\u{5d0}",
    ];
    texts.iter().map(|text| json!({ "text": text, "quoted": quote(text) })).collect()
}
