//! The ciphertext parser and everything behind it.

use std::sync::LazyLock;

use keyward::envelope::{
    Context, Dek, Header, OpenError, Salt, StreamOpener, StreamSealer, Suite, open, seal,
};
use keyward::id::{DekId, KeyName};
use keyward::keyring::record::SuiteFamily;
use keyward::secret::Key256;
use serde_json::Value;

const VECTORS: &str = include_str!("../../../vectors/format1.json");

/// The three short vectors that most others are made from, by suite.
const BASES: [(Suite, &str); 3] =
    [(Suite::Field, "field"), (Suite::Stream, "stream"), (Suite::DataKey, "data_key")];

static VECTOR_LIST: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(VECTORS).expect("vectors are JSON"));
static READERS: LazyLock<[Reader; 3]> = LazyLock::new(|| BASES.map(|(suite, name)| Reader::new(suite, name)));

/// Who can open the vectors of one suite.
struct Reader {
    suite: Suite,
    dek: Dek,
    name: KeyName,
    context: Context,
    header: Vec<u8>,
}

impl Reader {
    fn new(suite: Suite, name: &str) -> Self {
        let case = cases().find(|case| case["name"] == name).expect("the base vectors exist");
        let id = unhex(&case["dek_id"]).try_into().expect("a DEK id has 16 bytes");
        let key = Key256::from_slice(&unhex(&case["dek"])).expect("a DEK has 32 bytes");
        let resource = format!("tenants/{}/keys/{}", text(&case["tenant"]), text(&case["key"]));
        let pairs = case["context"].as_array().into_iter().flatten();
        Self {
            suite,
            dek: Dek::new(DekId(id), SuiteFamily::AesSha2, key),
            name: KeyName::parse(&resource).expect("names of vectors are valid"),
            context: Context::new(pairs.map(|pair| (text(&pair[0]), text(&pair[1]))))
                .expect("a valid context"),
            header: seed(case).expect("base vectors are short")[..Header::LEN].to_vec(),
        }
    }

    fn open(&self, ciphertext: &[u8]) -> Result<Vec<u8>, OpenError> {
        if self.suite != Suite::Stream {
            let opened = open(self.suite, &self.dek, &self.name, &self.context, ciphertext)?;
            return Ok(opened.plaintext.expose().to_vec());
        }
        let (header, body) = Header::parse(ciphertext)?;
        let mut opener = StreamOpener::new(&self.dek, &self.name, &self.context, &header)?;
        let mut out = Vec::new();
        // Any chunking must give the same answer, so the data may choose it.
        let chunk = 1 + usize::from(body.first().copied().unwrap_or(0));
        body.chunks(chunk).try_for_each(|chunk| opener.update(chunk, &mut out))?;
        opener.finish(&mut out).map(|()| out)
    }

    fn seal(&self, salt: [u8; 24], plaintext: &[u8]) -> Vec<u8> {
        let salt = Salt(salt);
        if self.suite != Suite::Stream {
            let sealed = seal(self.suite, &self.dek, &self.name, &self.context, salt, plaintext);
            return sealed.expect("what opened can be sealed").ciphertext;
        }
        let stream = StreamSealer::new(&self.dek, &self.name, &self.context, salt);
        let mut sealer = stream.expect("the family fits");
        let mut out = sealer.header().to_vec();
        sealer.update(plaintext, &mut out).expect("it is short");
        sealer.finish(&mut out).expect("it is short");
        out
    }

    /// What opens must be byte for byte what sealing writes: there is no second spelling.
    fn check(&self, ciphertext: &[u8]) {
        if let Ok(plaintext) = self.open(ciphertext) {
            let (header, _) = Header::parse(ciphertext).expect("it opened");
            assert_eq!(self.seal(header.salt, &plaintext), ciphertext);
        }
    }
}

/// Parses and opens `data`, as it is and behind a good header of each suite.
pub fn ciphertext(data: &[u8]) {
    if let Ok((header, rest)) = Header::parse(data) {
        assert_eq!([&header.encode()[..], rest].concat(), data);
    }
    for reader in READERS.iter() {
        reader.check(data);
        let body = data.get(Header::LEN..).unwrap_or(data);
        reader.check(&[&reader.header, body].concat());
    }
}

/// The short ciphertexts of the vectors.
pub fn seeds() -> Vec<Vec<u8>> {
    cases().filter_map(seed).collect()
}

fn seed(case: &Value) -> Option<Vec<u8>> {
    match case["ciphertext"].as_array()?.as_slice() {
        [piece] if piece["hex"].as_str()?.len() < 4096 => Some(unhex(&piece["hex"])),
        _ => None,
    }
}

fn cases() -> impl Iterator<Item = &'static Value> {
    VECTOR_LIST["ciphertexts"].as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("the field is a string")
}

fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).expect("the field is hex")
}
