//! Checkpoints: the head of the tree as a signed note (C2SP tlog-checkpoint and
//! signed-note), and the keys that verify them. Pure text.
//!
//! ```text
//! keyward/<deployment>
//! <number of records>
//! <root of the tree, base64>
//!
//! — keyward/<deployment> <base64 of key id | ECDSA signature in DER>
//! ```

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::merkle::Hash;
use crate::id::DeploymentId;
use crate::keyring::signing::{PublicKey, Signature};

/// The signature type of ECDSA keys (C2SP signed-note, "Signature types").
const ECDSA: u8 = 0x02;
/// What a signature line begins with: an em dash and a space.
const DASH: &str = "\u{2014} ";
/// Signatures that a note may have at most.
const MOST_SIGNATURES: usize = 16;

/// The head of the tree over the first records of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TreeHead {
    /// How many records.
    pub size: u64,
    /// The root of the tree over them.
    pub root: Hash,
}

/// Why text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It is no signed note with the text of a checkpoint.
    #[error("it is no checkpoint: {0}")]
    Malformed(&'static str),
    /// It is no verifier key.
    #[error("it is no key of a signed note (NAME+ID+BASE64) for ECDSA on P-256")]
    Key,
    /// No trusted key signed it.
    #[error("none of the trusted keys signed it")]
    Unsigned,
    /// A signature names a trusted key and is not one of it.
    #[error("the signature that names the key {0} does not verify")]
    Forged(String),
}

/// Whose log it is: what stands in the first line, and the name of its keys.
pub fn origin(deployment: DeploymentId) -> String {
    format!("keyward/{deployment}")
}

/// A tree head and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Whose log: `keyward/<deployment>`.
    pub origin: String,
    /// The tree.
    pub head: TreeHead,
}

impl Checkpoint {
    /// The text that is signed; ends with a newline.
    pub fn text(&self) -> String {
        format!("{}\n{}\n{}\n", self.origin, self.head.size, STANDARD.encode(self.head.root))
    }

    /// SHA-256 of the text: what ECDSA signs.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.text()).into()
    }

    /// The checkpoint with a signature of the log's key.
    pub fn signed(self, key: &NoteKey, signature: &Signature) -> SignedCheckpoint {
        let line = SignatureLine { name: key.name.clone(), id: key.id(), bytes: signature.to_der() };
        SignedCheckpoint { checkpoint: self, signatures: vec![line] }
    }
}

impl FromStr for Checkpoint {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut lines = text.split('\n');
        let mut next = |what| lines.next().filter(|line| !line.is_empty()).ok_or(NoteError::Malformed(what));
        let origin = next("the origin is missing")?.to_owned();
        let size = next("the size is missing")?
            .parse()
            .map_err(|_| NoteError::Malformed("the size is no number"))?;
        let root = STANDARD.decode(next("the root is missing")?).unwrap_or_default();
        let root = root.try_into().map_err(|_| NoteError::Malformed("the root is not 32 bytes of base64"))?;
        let checkpoint = Self { origin, head: TreeHead { size, root } };
        // Another spelling of the same is refused; so are extension lines.
        match checkpoint.text() == text {
            true => Ok(checkpoint),
            false => Err(NoteError::Malformed("it is not written in the one canonical way")),
        }
    }
}

/// One signature of a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    /// The name of the key.
    pub name: String,
    /// Its id.
    pub id: [u8; 4],
    /// The signature itself.
    pub bytes: Vec<u8>,
}

/// A checkpoint with its signatures, not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// By the log, and by whoever witnessed it.
    pub signatures: Vec<SignatureLine>,
}

impl fmt::Display for SignedCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.checkpoint.text())?;
        self.signatures.iter().try_for_each(|line| {
            let bytes = [line.id.as_slice(), &line.bytes].concat();
            writeln!(f, "{DASH}{} {}", line.name, STANDARD.encode(bytes))
        })
    }
}

impl FromStr for SignedCheckpoint {
    type Err = NoteError;

    fn from_str(note: &str) -> Result<Self, NoteError> {
        // C2SP signed-note: no control character but the end of a line.
        if note.chars().any(|character| character.is_ascii_control() && character != '\n') {
            return Err(NoteError::Malformed("a control character stands in it"));
        }
        let (text, signatures) = note
            .rsplit_once("\n\n")
            .ok_or(NoteError::Malformed("no empty line stands before the signatures"))?;
        let checkpoint = format!("{text}\n").parse()?;
        let signatures =
            signatures.strip_suffix('\n').ok_or(NoteError::Malformed("the last line has no end"))?;
        let lines: Option<Vec<SignatureLine>> = signatures.split('\n').map(signature_line).collect();
        let signatures = lines
            .filter(|lines| (1..=MOST_SIGNATURES).contains(&lines.len()))
            .ok_or(NoteError::Malformed("a line behind the text is no signature"))?;
        Ok(Self { checkpoint, signatures })
    }
}

fn signature_line(line: &str) -> Option<SignatureLine> {
    let (name, encoded) = line.strip_prefix(DASH)?.split_once(' ')?;
    let bytes = STANDARD.decode(encoded).ok()?;
    let (id, bytes) = bytes.split_first_chunk()?;
    is_name(name).then(|| SignatureLine { name: name.to_owned(), id: *id, bytes: bytes.to_vec() })
}

/// Whether it may name a key: not empty, no spaces, no plus, no control characters.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c == '+' || c.is_whitespace() || c.is_control())
}

impl SignedCheckpoint {
    /// Finds the trusted key that signed it. A signature that names a trusted key and does not
    /// verify refuses the whole note; those of other keys are passed over.
    ///
    /// # Errors
    /// [`NoteError::Unsigned`] or [`NoteError::Forged`].
    pub fn verify<'k>(&self, trusted: &'k [NoteKey]) -> Result<&'k NoteKey, NoteError> {
        let digest = self.checkpoint.digest();
        let mut signer = None;
        for line in &self.signatures {
            let named = trusted.iter().find(|key| key.name == line.name && key.id() == line.id);
            let Some(key) = named else { continue };
            let signature = Signature::from_der(&line.bytes);
            if !signature.is_some_and(|signature| key.public.verifies(&digest, &signature)) {
                return Err(NoteError::Forged(key.to_string()));
            }
            signer = signer.or(Some(key));
        }
        signer.filter(|key| key.name == self.checkpoint.origin).ok_or(NoteError::Unsigned)
    }
}

/// A key that verifies notes. Its text is the verifier key of Go's `note` package:
/// `NAME+ID+BASE64(0x02 | SubjectPublicKeyInfo in DER)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoteKey {
    /// The origin of the log that it signs for.
    pub name: String,
    /// The key.
    pub public: PublicKey,
}

impl NoteKey {
    /// The key of a deployment's log.
    pub fn new(deployment: DeploymentId, public: PublicKey) -> Self {
        Self { name: origin(deployment), public }
    }

    /// The key id of ECDSA keys: the first bytes of SHA-256 over the SubjectPublicKeyInfo.
    pub fn id(&self) -> [u8; 4] {
        let digest: [u8; 32] = Sha256::digest(self.public.spki()).into();
        let (id, _) = digest.split_first_chunk().unwrap_or_else(|| unreachable!());
        *id
    }
}

impl fmt::Display for NoteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode([&[ECDSA], self.public.spki().as_slice()].concat());
        write!(f, "{}+{:08x}+{key}", self.name, u32::from_be_bytes(self.id()))
    }
}

impl FromStr for NoteKey {
    type Err = NoteError;

    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let name = parts.next().filter(|name| is_name(name)).ok_or(NoteError::Key)?;
        let encoded = parts.nth(1).and_then(|key| STANDARD.decode(key).ok()).ok_or(NoteError::Key)?;
        let [ECDSA, spki @ ..] = encoded.as_slice() else { return Err(NoteError::Key) };
        let public = PublicKey::from_spki(spki).ok_or(NoteError::Key)?;
        let key = Self { name: name.to_owned(), public };
        // The id is compared with the one that the key has.
        if key.to_string() == text { Ok(key) } else { Err(NoteError::Key) }
    }
}

/// Reads keys, one a line; empty lines and those with a `#` in front are passed over.
///
/// # Errors
/// [`NoteError::Key`] when a line is none, or there is no key at all.
pub fn read_keys(text: &str) -> Result<Vec<NoteKey>, NoteError> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let keys: Vec<NoteKey> = lines.map(str::parse).collect::<Result<_, _>>()?;
    if keys.is_empty() { Err(NoteError::Key) } else { Ok(keys) }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keyring::signing::tests::TestKey;

    const DEPLOYMENT: DeploymentId = DeploymentId([5; 16]);

    /// A checkpoint signed by a key in memory.
    pub(in crate::audit) fn signed(
        key: &TestKey,
        deployment: DeploymentId,
        head: TreeHead,
    ) -> SignedCheckpoint {
        let checkpoint = Checkpoint { origin: origin(deployment), head };
        let signature = key.sign(checkpoint.text().as_bytes());
        checkpoint.signed(&NoteKey::new(deployment, key.public()), &signature)
    }

    fn head() -> TreeHead {
        TreeHead { size: 7, root: [9; 32] }
    }

    #[test]
    fn a_checkpoint_reads_back_and_verifies() {
        let key = TestKey::new();
        let note = signed(&key, DEPLOYMENT, head()).to_string();
        let start = "keyward/05050505050505050505050505050505\n7\nCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk=\n\n\u{2014} keyward/0505";
        assert!(note.starts_with(start), "{note}");
        let read: SignedCheckpoint = note.parse().unwrap();
        let trusted =
            [NoteKey::new(DEPLOYMENT, TestKey::new().public()), NoteKey::new(DEPLOYMENT, key.public())];
        assert_eq!(read.verify(&trusted), Ok(&trusted[1]));
        assert_eq!(read.verify(&trusted[..1]), Err(NoteError::Unsigned));
    }

    #[test]
    fn signatures_of_others_are_passed_over_and_forged_ones_refused() {
        let (key, witness) = (TestKey::new(), TestKey::new());
        let mut note = signed(&key, DEPLOYMENT, head());
        let other = signed(&witness, DeploymentId([6; 16]), head());
        note.signatures.insert(0, other.signatures[0].clone());
        let trusted = [NoteKey::new(DEPLOYMENT, key.public())];
        let read: SignedCheckpoint = note.to_string().parse().unwrap();
        assert_eq!(read.verify(&trusted), Ok(&trusted[0]));
        // A witness alone vouches for nothing: the log itself has to sign.
        let witnesses = [NoteKey::new(DeploymentId([6; 16]), witness.public())];
        assert!(read.verify(&witnesses).is_err());
        let mut forged = read.clone();
        forged.checkpoint.head.size = 8;
        assert!(matches!(forged.verify(&trusted), Err(NoteError::Forged(_))));
    }

    #[test]
    fn keys_read_back() {
        let key = NoteKey::new(DEPLOYMENT, TestKey::new().public());
        let text = key.to_string();
        assert_eq!(text.parse(), Ok(key.clone()));
        assert_eq!(read_keys(&format!("# the log\n\n{text}\n{text}\n")), Ok(vec![key.clone(), key]));
        let other_id = text.replacen('+', "+0", 1);
        for wrong in ["", "a+b", &text[1..].replace('+', " "), &other_id, &text[..text.len() - 4]] {
            assert_eq!(wrong.parse::<NoteKey>(), Err(NoteError::Key), "{wrong}");
        }
        assert_eq!(read_keys("# none\n"), Err(NoteError::Key));
    }

    #[test]
    fn what_is_no_note_is_refused() {
        let note = signed(&TestKey::new(), DEPLOYMENT, head()).to_string();
        let text = note.split_once("\n\n").unwrap().0;
        for wrong in [
            "",
            text,
            &note[..note.len() - 1],
            &note.replacen("7\n", "07\n", 1),
            &note.replacen("7\n", "+7\n", 1),
            &note.replacen("\n\n", "\nmore\n\n", 1),
            &note.replacen("CQk=", "CQk", 1),
            &format!("{note}\n"),
            &format!("{note}words\n"),
            &note.repeat(2),
        ] {
            assert!(matches!(wrong.parse::<SignedCheckpoint>(), Err(NoteError::Malformed(_))), "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_the_same(size in any::<u64>(), root in any::<Hash>(), garbage in ".{0,200}") {
            let checkpoint = Checkpoint { origin: origin(DEPLOYMENT), head: TreeHead { size, root } };
            prop_assert_eq!(checkpoint.text().parse::<Checkpoint>().unwrap(), checkpoint);
            if let Ok(note) = garbage.parse::<SignedCheckpoint>() {
                prop_assert_eq!(note.to_string(), garbage);
            }
        }
    }
}
