//! The test vectors of format 1: `softhsm-tests/vectors/format1.json`.
//!
//! The modules below make them; this file keeps the stored file equal to what
//! they make, and runs every vector. After a change on purpose, write the file
//! again with `KEYWARD_WRITE_VECTORS=1 cargo test -p keyward --lib the_file_is`.

mod ciphertexts;
mod crafted;
mod others;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Context, Dek, Header, IndexKey, Normalization, OpenError, ParseError, Salt, StreamOpener, StreamSealer,
    Suite, open, seal, text,
};
use crate::id::{DekId, IndexVersion, KeyId, KeyName, TenantId};
use crate::keyring::record::SuiteFamily;
use crate::secret::Key256;

/// The file.
#[derive(Serialize, Deserialize)]
struct Vectors {
    about: String,
    ciphertexts: Vec<Case>,
    contexts: Vec<ContextCase>,
    texts: Vec<TextCase>,
    indexes: Vec<IndexCase>,
}

/// What a reader must answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Expect {
    Accepted,
    Refused,
    NotKeyward,
    NewerFormat,
    UnknownSuite,
    Truncated,
}

/// Bytes, spelled compactly; a list of them is their concatenation.
#[derive(Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Piece {
    Hex { hex: String },
    Repeat { repeat_hex: String, count: usize },
    Part { of: String, from: usize, to: usize },
}

/// A ciphertext and what a reader is asked about it.
#[derive(Clone, Serialize, Deserialize)]
struct Case {
    name: String,
    about: String,
    expect: Expect,
    read_as: u8,
    dek: String,
    dek_id: String,
    tenant: String,
    key: String,
    context: Vec<(String, String)>,
    /// Absent for long ones that are accepted: seal the plaintext to get it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ciphertext: Option<Vec<Piece>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<SealedAs>,
}

/// What an accepted ciphertext was made from.
#[derive(Clone, Serialize, Deserialize)]
struct SealedAs {
    salt: String,
    plaintext: Vec<Piece>,
    /// SHA-256 of BIND.
    digest: String,
    /// SHA-256 of the whole ciphertext.
    sha256: String,
}

#[derive(Serialize, Deserialize)]
struct ContextCase {
    name: String,
    expect: Expect,
    pairs: Vec<(String, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encoded: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct TextCase {
    name: String,
    expect: Expect,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct IndexCase {
    name: String,
    expect: Expect,
    key: String,
    version: u32,
    rule: String,
    value: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<String>,
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    hex::decode(hex).unwrap().try_into().unwrap()
}

fn name(tenant: &str, key: &str) -> KeyName {
    KeyName { tenant: TenantId::new(tenant).unwrap(), key: KeyId::new(key).unwrap() }
}

fn context(pairs: &[(String, String)]) -> Context {
    Context::new(pairs.iter().map(|(key, value)| (&**key, &**value))).unwrap()
}

fn dek(id: &str, key: &str) -> Dek {
    let key = Key256::init_with(|out| *out = bytes(key));
    Dek::new(DekId(bytes(id)), SuiteFamily::AesSha2, key)
}

/// Seals with any suite; the answer is ciphertext and digest.
fn seal_any(suite: Suite, dek: &Dek, name: &KeyName, context: &Context, salt: Salt, plain: &[u8]) -> Plain {
    if suite != Suite::Stream {
        let sealed = seal(suite, dek, name, context, salt, plain).unwrap();
        return (sealed.ciphertext, sealed.digest);
    }
    let mut sealer = StreamSealer::new(dek, name, context, salt).unwrap();
    let mut out = sealer.header().to_vec();
    sealer.update(plain, &mut out).unwrap();
    let digest = sealer.digest();
    sealer.finish(&mut out).unwrap();
    (out, digest)
}

type Plain = (Vec<u8>, [u8; 32]);

/// Opens with any suite; the answer is plaintext and digest.
fn open_any(
    suite: Suite,
    dek: &Dek,
    name: &KeyName,
    context: &Context,
    sealed: &[u8],
) -> Result<Plain, OpenError> {
    if suite != Suite::Stream {
        let opened = open(suite, dek, name, context, sealed)?;
        return Ok((opened.plaintext.expose().to_vec(), opened.digest));
    }
    let (header, body) = Header::parse(sealed)?;
    let mut opener = StreamOpener::new(dek, name, context, &header)?;
    let mut out = Vec::new();
    body.chunks(5000).try_for_each(|chunk| opener.update(chunk, &mut out))?;
    let digest = opener.digest();
    opener.finish(&mut out).map(|()| (out, digest))
}

fn answer<T>(result: &Result<T, OpenError>) -> Expect {
    match result {
        Ok(_) => Expect::Accepted,
        Err(OpenError::Refused) => Expect::Refused,
        Err(OpenError::Malformed(ParseError::NotKeyward)) => Expect::NotKeyward,
        Err(OpenError::Malformed(ParseError::NewerFormat(_))) => Expect::NewerFormat,
        Err(OpenError::Malformed(ParseError::UnknownSuite(_))) => Expect::UnknownSuite,
        Err(OpenError::Malformed(ParseError::Truncated)) => Expect::Truncated,
    }
}

fn accepted(accepted: bool) -> Expect {
    if accepted { Expect::Accepted } else { Expect::Refused }
}

impl Vectors {
    /// The bytes that a list of pieces spells.
    fn spell(&self, pieces: &[Piece]) -> Vec<u8> {
        pieces.iter().flat_map(|piece| self.spell_one(piece)).collect()
    }

    fn spell_one(&self, piece: &Piece) -> Vec<u8> {
        match piece {
            Piece::Hex { hex } => hex::decode(hex).unwrap(),
            Piece::Repeat { repeat_hex, count } => hex::decode(repeat_hex).unwrap().repeat(*count),
            Piece::Part { of, from, to } => {
                let whole = self.ciphertexts.iter().find(|case| case.name == *of).unwrap();
                self.spell(whole.ciphertext.as_ref().unwrap())[*from..*to].to_vec()
            }
        }
    }

    fn check_ciphertext(&self, case: &Case) {
        let suite = Suite::new(case.read_as).unwrap();
        let (dek, name) = (dek(&case.dek_id, &case.dek), name(&case.tenant, &case.key));
        let context = context(&case.context);
        let given = case.ciphertext.as_ref().map(|pieces| self.spell(pieces));
        if let Some(given) = &given {
            let result = open_any(suite, &dek, &name, &context, given);
            assert_eq!(answer(&result), case.expect, "{}", case.name);
        }
        assert_eq!(case.sealed.is_some(), case.expect == Expect::Accepted, "{}", case.name);
        let Some(from) = &case.sealed else { return };
        let plaintext = self.spell(&from.plaintext);
        let (sealed, digest) = seal_any(suite, &dek, &name, &context, Salt(bytes(&from.salt)), &plaintext);
        assert_eq!(hex::encode(digest), from.digest, "{}", case.name);
        assert_eq!(hex::encode(Sha256::digest(&sealed)), from.sha256, "{}", case.name);
        assert!(given.is_none_or(|given| given == sealed), "{}", case.name);
        let opened = open_any(suite, &dek, &name, &context, &sealed);
        assert!(opened == Ok((plaintext, digest)), "{}", case.name);
    }

    fn expectations(&self) -> impl Iterator<Item = (&str, Expect)> {
        let ciphertexts = self.ciphertexts.iter().map(|case| (&*case.name, case.expect));
        let contexts = self.contexts.iter().map(|case| (&*case.name, case.expect));
        let texts = self.texts.iter().map(|case| (&*case.name, case.expect));
        let indexes = self.indexes.iter().map(|case| (&*case.name, case.expect));
        ciphertexts.chain(contexts).chain(texts).chain(indexes)
    }
}

fn check_context(case: &ContextCase) {
    let context = Context::new(case.pairs.iter().map(|(key, value)| (&**key, &**value)));
    assert_eq!(accepted(context.is_ok()), case.expect, "{}", case.name);
    assert_eq!(context.ok().map(|context| hex::encode(context.encoded())), case.encoded, "{}", case.name);
}

fn check_text(case: &TextCase) {
    let bytes = text::decode(&case.text);
    assert_eq!(accepted(bytes.is_ok()), case.expect, "{}", case.name);
    assert_eq!(bytes.ok().map(hex::encode), case.bytes, "{}", case.name);
    if let Some(bytes) = &case.bytes {
        assert_eq!(text::encode(&hex::decode(bytes).unwrap()), case.text, "{}", case.name);
    }
}

fn check_index(case: &IndexCase) {
    let rule = Normalization::ALL.into_iter().find(|rule| rule.name() == case.rule).unwrap();
    let key = Key256::init_with(|out| *out = bytes(&case.key));
    let key = IndexKey::new(IndexVersion::new(case.version).unwrap(), key);
    let index = key.compute(rule, &hex::decode(&case.value).unwrap());
    assert_eq!(accepted(index.is_ok()), case.expect, "{}", case.name);
    assert_eq!(index.ok().map(hex::encode), case.index, "{}", case.name);
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("softhsm-tests/vectors/format1.json")
}

fn stored() -> Vectors {
    serde_json::from_slice(&std::fs::read(path()).unwrap()).unwrap()
}

#[test]
fn the_file_is_what_the_generator_makes() {
    let made = Vectors {
        about: "Ciphertext format 1 (docs/format.md): vectors named by their defect. \
                Keys are public and salts repeat here; use them for nothing else."
            .into(),
        ciphertexts: ciphertexts::all(),
        contexts: others::contexts(),
        texts: others::texts(),
        indexes: others::indexes(),
    };
    let made = serde_json::to_string_pretty(&made).unwrap() + "\n";
    if std::env::var_os("KEYWARD_WRITE_VECTORS").is_some() {
        std::fs::write(path(), &made).unwrap();
    }
    assert!(made.len() < 1 << 20, "{} bytes", made.len());
    // Not assert_eq: it would print a megabyte.
    assert!(std::fs::read(path()).unwrap() == made.as_bytes(), "format1.json is stale: see vectors.rs");
}

#[test]
fn every_vector_gets_its_answer() {
    let vectors = stored();
    vectors.ciphertexts.iter().for_each(|case| vectors.check_ciphertext(case));
    vectors.contexts.iter().for_each(check_context);
    vectors.texts.iter().for_each(check_text);
    vectors.indexes.iter().for_each(check_index);
}

#[test]
fn most_vectors_fail_and_each_has_its_own_name() {
    let vectors = stored();
    let mut names: Vec<_> = vectors.expectations().map(|(name, _)| name).collect();
    let failing = vectors.expectations().filter(|(_, expect)| *expect != Expect::Accepted).count();
    assert!(failing * 5 >= names.len() * 4, "{failing} of {} fail", names.len());
    names.sort_unstable();
    assert!(names.windows(2).all(|two| two[0] != two[1]));
}

#[test]
fn the_example_of_the_document_is_a_vector() {
    let document = include_str!("../../docs/format.md");
    let vectors = stored();
    let case = vectors.ciphertexts.iter().find(|case| case.name == "field").unwrap();
    let sealed = vectors.spell(case.ciphertext.as_ref().unwrap());
    let digest = case.sealed.as_ref().unwrap().digest.clone();
    let fields =
        [0..2, 2..3, 3..4, 4..20, 20..44, 44..76, 76..87, 87..103].map(|range| hex::encode(&sealed[range]));
    for hex in fields.iter().chain([&case.dek, &digest]) {
        assert!(document.contains(&**hex), "{hex} is not in docs/format.md");
    }
}
