//! Documents made with a key in memory, and every way to alter one.

use serde_json::json;

use super::*;
use crate::audit::Outcome;
use crate::audit::checkpoint::{Checkpoint, origin};
use crate::clock::Date;
use crate::id::DeploymentId;
use crate::keyring::signing::tests::TestKey;

const DEPLOYMENT: DeploymentId = DeploymentId([5; 16]);

fn record(operation: &str) -> Vec<u8> {
    let record = Record {
        time: Date(1000),
        request_id: 1,
        caller: None,
        operation: operation.into(),
        resource: String::new(),
        outcome: Outcome::Ok,
        policy: String::new(),
        latency_us: 0,
        items: None,
        change: None,
        detail: None,
    };
    minicbor::to_vec(record).unwrap()
}

/// A document over the second of two records.
pub(in crate::ops) fn document(key: &TestKey, kind: &str, body: Value) -> (Document, NoteKey) {
    let note_key = NoteKey::new(DEPLOYMENT, key.public());
    let records = [record("start"), record("destroy-key")];
    let leaves = records.each_ref().map(|record| merkle::leaf(record));
    let head = TreeHead { size: 2, root: merkle::node(&leaves[0], &leaves[1]) };
    let checkpoint = Checkpoint { origin: origin(DEPLOYMENT), head };
    let note = key.sign(checkpoint.text().as_bytes());
    // ECDSA hashes its message; the statement is the digest of this one.
    let lp = |bytes: &[u8]| [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let signed = [
        lp(FORMAT.as_bytes()),
        lp(kind.as_bytes()),
        1u64.to_be_bytes().to_vec(),
        leaves[1].to_vec(),
        lp(&canonical(&body).unwrap()),
    ]
    .concat();
    let document = Document {
        format: FORMAT.into(),
        kind: kind.into(),
        body,
        key: note_key.to_string(),
        hsm_signature: encoded(&key.sign(&signed).0),
        checkpoint: checkpoint.signed(&note_key, &note).to_string(),
        inclusion: Inclusion { record: encoded(&records[1]), index: 1, proof: vec![encoded(&leaves[0])] },
    };
    (document, note_key)
}

#[test]
fn a_document_verifies_offline() {
    let (document, key) = document(&TestKey::new(), "test", json!({"a": 1}));
    let read = Document::parse(&document.to_text()).unwrap();
    let verified = read.verify(std::slice::from_ref(&key)).unwrap();
    assert_eq!((verified.kind.as_str(), &verified.body, verified.sequence), ("test", &json!({"a": 1}), 2));
    assert_eq!((verified.record.operation.as_str(), verified.key), ("destroy-key", key));
}

#[test]
fn an_altered_document_is_refused_with_its_reason() {
    let key = TestKey::new();
    let (whole, trusted) = document(&key, "test", json!({"a": 1}));
    let altered = |change: &dyn Fn(&mut Document)| {
        let mut document = whole.clone();
        change(&mut document);
        document.verify(std::slice::from_ref(&trusted)).unwrap_err()
    };
    assert_eq!(altered(&|document| document.body = json!({"a": 2})), AttestError::Signature);
    assert_eq!(altered(&|document| document.kind = "other".into()), AttestError::Signature);
    assert_eq!(altered(&|document| document.inclusion.index = 0), AttestError::Signature);
    let record = encoded(&record("another"));
    assert_eq!(altered(&|document| document.inclusion.record = record.clone()), AttestError::Signature);
    assert_eq!(altered(&|document| document.inclusion.proof.clear()), AttestError::Inclusion(2));
    let hash = encoded(&[1; 32]);
    assert_eq!(altered(&|document| document.inclusion.proof = vec![hash.clone()]), AttestError::Inclusion(2));
    let smaller = whole.checkpoint.replacen("\n2\n", "\n1\n", 1);
    assert!(matches!(
        altered(&|document| document.checkpoint = smaller.clone()),
        AttestError::Checkpoint(NoteError::Forged(_))
    ));
    for change in [
        (&|document: &mut Document| document.format.push('2')) as &dyn Fn(&mut Document),
        &|document| document.body = json!(1.5),
        &|document| document.hsm_signature.clear(),
        &|document| document.key.clear(),
        &|document| document.inclusion.proof = vec!["AA==".into()],
    ] {
        assert!(matches!(altered(change), AttestError::Malformed(_)));
    }
}

#[test]
fn a_foreign_key_is_refused() {
    let (stranger, _) = document(&TestKey::new(), "test", json!({}));
    let trusted = NoteKey::new(DEPLOYMENT, TestKey::new().public());
    assert!(matches!(stranger.verify(&[trusted]), Err(AttestError::Untrusted(_))));
    // Its checkpoint must be of the same log, by a trusted key.
    let (key, other) = (TestKey::new(), TestKey::new());
    let (mut mixed, trusted) = document(&key, "test", json!({}));
    mixed.checkpoint = document(&other, "test", json!({})).0.checkpoint;
    assert_eq!(mixed.verify(&[trusted]), Err(AttestError::Checkpoint(NoteError::Unsigned)));
}
