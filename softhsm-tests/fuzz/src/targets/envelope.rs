//! What tokens sign, and the text in it.

use keyward::token::envelope::Envelope;
use keyward::token::printable::{Statement, is_printable, quote};
use serde_json::Value;

const VECTORS: &str = include_str!("../../../vectors/tokens.json");

/// Reads `data`; what is read has no other spelling.
pub fn envelope(data: &[u8]) {
    if let Ok(read) = Envelope::parse(data) {
        assert_eq!(read.as_bytes(), data);
    }
}

/// Takes `data` as a statement and as user text in one: neither hides anything.
pub fn statement(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(statement) = Statement::new(text) {
        assert!(statement.as_str().chars().all(|character| character == '\n' || is_printable(character)));
    }
    let quoted = quote(text);
    assert!(quoted.chars().all(is_printable) && !quoted.contains("  "));
}

/// The envelopes and texts of the vectors.
pub fn seeds() -> Vec<Vec<u8>> {
    let vectors: Value = serde_json::from_str(VECTORS).expect("vectors are JSON");
    let of = |list: &str, field: &str| {
        let cases = vectors[list].as_array().expect("a list").iter();
        cases.map(|case| case[field].as_str().expect("a string").to_owned()).collect::<Vec<_>>()
    };
    let envelopes = of("signatures", "envelope").into_iter().map(|digits| hex::decode(digits).expect("hex"));
    envelopes.chain(of("texts", "text").into_iter().map(String::into_bytes)).collect()
}
