//! What stands in front of a recovery export, for everybody to read.

use minicbor::{Decode, Encode};
use sha2::{Digest, Sha256};

use super::damaged;
use crate::clock::Date;
use crate::id::{DeploymentId, ErasureGeneration, ExportId, KeyId, KeyName, RootId, TenantId};
use crate::keyring::record::SystemSecret;
use crate::keyring::wrapped::{self, SealedKey, WrappedKek};
use crate::store::StoreChange;
use crate::store::error::{Refusal, StoreError};
use crate::store::needs;

const MAGIC: &[u8; 4] = b"KWB\n";
const FORMAT: u32 = 1;
/// Bytes before the header's length.
const FIXED: usize = 4 + 4 + needs::LEN;
/// Longest header and longest sealed key.
const MAX_HEADER: usize = 64 << 10;

/// What an export says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Header {
    /// Its name.
    #[n(1)]
    pub id: ExportId,
    /// The installation.
    #[n(2)]
    pub deployment: DeploymentId,
    /// The root that opens it.
    #[n(3)]
    pub root: RootId,
    /// Proves that a token has that root.
    #[n(4)]
    pub canary: wrapped::Canary,
    /// The KEK that seals the export key, wrapped by the root.
    #[n(5)]
    pub kek: WrappedKek,
    /// The daemon's secret, which verifies the records.
    #[n(6)]
    pub secret: SystemSecret,
    /// When it was made.
    #[n(7)]
    pub created: Date,
    /// When whoever keeps it must have deleted it.
    #[n(8)]
    pub delete_by: Date,
    /// The store's revision.
    #[n(9)]
    pub revision: u64,
    /// The store's digest at that revision, as it stands in the audit log.
    #[cbor(n(10), with = "minicbor::bytes")]
    pub digest: [u8; 32],
    /// Records.
    #[n(11)]
    pub records: u64,
    /// The newest generation of the erasure key; a restored store begins the one after it.
    #[n(12)]
    pub erasure: ErasureGeneration,
    /// A ciphertext of the installation, to be decrypted by a drill; none when there was no key yet.
    #[n(13)]
    pub ciphertext: Option<Canary>,
}

impl Header {
    /// Revision and digest of the store that it was made of.
    pub fn position(&self) -> StoreChange {
        StoreChange { revision: self.revision, digest: self.digest }
    }
}

/// A ciphertext that was made when the export was.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Canary {
    /// The tenant whose key made it.
    #[n(1)]
    pub tenant: TenantId,
    /// The key that made it.
    #[n(2)]
    pub key: KeyId,
    /// Format 1, suite 1, with the context {"purpose": "backup-canary"}.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub ciphertext: Vec<u8>,
}

impl Canary {
    /// The key that made it.
    pub fn name(&self) -> KeyName {
        KeyName { tenant: self.tenant.clone(), key: self.key.clone() }
    }

    /// What it decrypts to.
    pub const PLAINTEXT: &'static [u8] = b"keyward/1/backup-canary";
    /// Its context.
    pub const CONTEXT: [(&'static str, &'static str); 1] = [("purpose", "backup-canary")];
}

/// A header as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// What it says.
    pub header: Header,
    /// SHA-256 of the file up to and with the header.
    pub hash: [u8; 32],
    /// The sealed export key.
    pub sealed: SealedKey,
}

/// A header that is not sealed yet.
pub(super) fn encode(header: &Header) -> (Vec<u8>, [u8; 32]) {
    let mut bytes = [MAGIC.as_slice(), &FORMAT.to_be_bytes(), &needs::field()].concat();
    put(&mut bytes, &minicbor::to_vec(header).expect("encoding into memory cannot fail"));
    let hash = Sha256::digest(&bytes).into();
    (bytes, hash)
}

/// Adds the sealed export key.
pub(super) fn put_sealed(bytes: &mut Vec<u8>, sealed: &SealedKey) {
    put(bytes, &minicbor::to_vec(sealed).expect("encoding into memory cannot fail"));
}

/// Appends a part.
pub(super) fn put(out: &mut Vec<u8>, part: &[u8]) {
    out.extend_from_slice(&crate::store::mac::lp32(part));
    out.extend_from_slice(part);
}

impl Head {
    /// The bytes of a head.
    pub fn encode(header: &Header, sealed: &SealedKey) -> Vec<u8> {
        let (mut bytes, _) = encode(header);
        put_sealed(&mut bytes, sealed);
        bytes
    }

    /// Reads the head off the front of a file. `Ok(Err(more))` when at least so many
    /// bytes more are needed.
    ///
    /// # Errors
    /// [`Refusal::Foreign`], [`Refusal::Newer`] and [`Refusal::ExportDamaged`].
    pub fn parse(file: &[u8]) -> Result<Result<(Self, usize), usize>, StoreError> {
        let Some(fixed) = file.get(..FIXED) else { return Ok(Err(FIXED - file.len())) };
        check_fixed(fixed)?;
        let (header, end) = match part(file, FIXED)? {
            Ok(found) => found,
            Err(more) => return Ok(Err(more)),
        };
        let (sealed, after) = match part(file, end)? {
            Ok(found) => found,
            Err(more) => return Ok(Err(more)),
        };
        let hash = Sha256::digest(file.get(..end).unwrap_or_default()).into();
        let header = decode(header, "its header cannot be read")?;
        let sealed = decode(sealed, "its key cannot be read")?;
        Ok(Ok((Self { header, hash, sealed }, after)))
    }
}

fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8], how: &str) -> Result<T, StoreError> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode().map_err(|_| damaged(how))?;
    if decoder.position() == bytes.len() { Ok(value) } else { Err(damaged(how)) }
}

fn check_fixed(fixed: &[u8]) -> Result<(), StoreError> {
    let format = fixed.get(4..).and_then(<[u8]>::first_chunk).copied().map(u32::from_be_bytes);
    match format {
        Some(FORMAT) if fixed.starts_with(MAGIC) => Ok(()),
        Some(found) if found > FORMAT && fixed.starts_with(MAGIC) => {
            let needed = needs::read(fixed.get(8..).unwrap_or_default());
            Err(Refusal::Newer { what: "the recovery export".into(), found, known: FORMAT, needed }.into())
        }
        _ => Err(Refusal::Foreign("the recovery export".into()).into()),
    }
}

/// The part at `at` and where it ends, or how many bytes are missing.
fn part(file: &[u8], at: usize) -> Result<Result<(&[u8], usize), usize>, StoreError> {
    let rest = file.get(at..).unwrap_or_default();
    let Some((length, rest)) = rest.split_first_chunk() else { return Ok(Err(4 - rest.len())) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_HEADER {
        return Err(damaged("a length is impossible"));
    }
    Ok(match rest.get(..length) {
        Some(part) => Ok((part, at + 4 + length)),
        None => Err(length - rest.len()),
    })
}
