//! The recovery export: all records at one revision, opened from the erasure key and
//! encrypted as a stream that opens on a token with the root and nowhere else.
//!
//! ```text
//! file   = "KWB\n" | u32 format = 1 | needs (16, ASCII, zero-padded) | lp32(header, CBOR) | lp32(sealed export key, CBOR) | stream
//! stream = suite 2 of docs/format.md under the export key, DEK id = id of the export,
//!          name "tenants/keyward/keys/recovery", context {"header": SHA-256 of all before the sealed key, in hex}
//! body   = (part (row key) | part (stored value))… | u32 0 | part (trailer, CBOR)      part = u32 length | bytes
//! ```
//!
//! The stored values are those of format 1 of a row: none is sealed. The export key
//! is sealed under a KEK that the root wraps, and bound to the hash of the header:
//! a changed header opens nothing.

mod header;
mod read;
mod write;

pub use header::{Canary, Head, Header};
pub use read::{Closed, Opened, Restored};
pub use write::{Snapshot, Writer};

use super::error::{Refusal, StoreError};
use super::mac::mac_of;
use super::meta;
use crate::envelope::{Context, Dek};
use crate::id::{DekId, KeyId, KeyName, TenantId};
use crate::keyring::record::SuiteFamily;
use crate::secret::Key256;

/// Longest part: far above any key or record.
const MAX_PART: usize = 1 << 24;

/// What stands behind the last record.
#[derive(Debug, Clone, Default, PartialEq, Eq, minicbor::Encode, minicbor::Decode)]
#[cbor(map)]
struct Trailer {
    /// Records.
    #[n(1)]
    records: u64,
    /// Sum of their MACs, as big-endian numbers modulo 2^256. The stream is encrypted, so nobody sees it.
    #[cbor(n(2), with = "minicbor::bytes")]
    sum: [u8; 32],
}

impl Trailer {
    /// Counts a stored value in.
    fn add(&mut self, value: &[u8]) {
        self.records += 1;
        self.sum = meta::add(self.sum, mac_of(value));
    }
}

/// The name that the stream is bound to; the same for every export, as each has a key of its own.
fn name() -> Result<KeyName, StoreError> {
    let failed = |_| StoreError::Primitive("the name of the export");
    Ok(KeyName {
        tenant: TenantId::new("keyward").map_err(failed)?,
        key: KeyId::new("recovery").map_err(failed)?,
    })
}

fn context(head: &[u8; 32]) -> Result<Context, StoreError> {
    Context::new([("header", hex::encode(head).as_str())])
        .map_err(|_| StoreError::Primitive("the context of the export"))
}

/// The key of the export with this header.
fn dek(header: &Header, key: Key256) -> Dek {
    Dek::new(DekId(header.id.0), SuiteFamily::AesSha2, key)
}

fn damaged(how: &str) -> StoreError {
    Refusal::ExportDamaged(how.into()).into()
}

#[cfg(test)]
mod tests;
