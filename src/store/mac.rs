//! Message authentication codes of records, the journal and the meta row.
//!
//! ```text
//! stored value = format 0x01 | u64 revision | MAC (32) | payload (CBOR)
//!              | format 0x02 | u64 revision | MAC (32) | payload (sealed, see erasure.rs)
//! MAC          = HMAC-SHA-256(record key, lp32(domain) | lp32(table) | lp32(path) | u64 revision | payload)
//! domain       = "keyward/1/store/record" for format 1, "keyward/1/store/sealed-record" for format 2
//! ```
//!
//! Whoever only moves rows (journal, compaction, check, repair, export) needs
//! these keys and no erasure key: the code covers the sealed payload.

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::erasure::{ErasureKeys, generation_of};
use super::error::StoreError;
use super::tables::Table;
use crate::id::ErasureGeneration;
use crate::secret::{Guarded, Key256};

type HmacSha256 = Hmac<Sha256>;

const PLAIN: u8 = 1;
const SEALED: u8 = 2;
const MAC_LEN: usize = 32;
const HEADER_LEN: usize = 1 + 8 + MAC_LEN;

/// Where the code of a stored value begins.
pub(super) const MAC_AT: usize = 1 + 8;

/// The keys that authenticate the store, derived from the daemon's secret.
pub struct StoreKeys {
    record: Guarded<HmacSha256>,
    journal: Guarded<HmacSha256>,
    meta: Guarded<HmacSha256>,
    multiset: Guarded<HmacSha256>,
    /// Seals the rows of wrapped keys; none is open at first.
    pub(super) erasure: ErasureKeys,
}

/// A stored value whose code matches.
pub(super) struct Genuine<'a> {
    /// The revision that wrote it.
    pub revision: u64,
    /// The payload is sealed under an erasure key.
    pub sealed: bool,
    /// The payload as it is stored.
    pub payload: &'a [u8],
}

impl StoreKeys {
    /// `key = HKDF-Expand-SHA-256(secret, "keyward/1/store/" | purpose, 32)` for each purpose.
    pub fn derive(secret: &Key256) -> Self {
        Self {
            record: derive(secret, b"keyward/1/store/record-mac"),
            journal: derive(secret, b"keyward/1/store/journal-mac"),
            meta: derive(secret, b"keyward/1/store/meta-mac"),
            multiset: derive(secret, b"keyward/1/store/multiset"),
            erasure: ErasureKeys::default(),
        }
    }

    /// The stored value of a record: its payload with revision and MAC, sealed
    /// under the erasure key in the tables of wrapped keys.
    ///
    /// # Errors
    /// [`StoreError::NoErasureKey`] when there is none to seal with.
    pub(super) fn seal(&self, key: &[u8], revision: u64, payload: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(match is_sealed(key) {
            true => self.value(SEALED, key, revision, &self.erasure.seal(key, revision, payload)?),
            false => self.plain(key, revision, payload),
        })
    }

    /// The stored value of a record that is not sealed, whatever its table: in a recovery export.
    pub(super) fn plain(&self, key: &[u8], revision: u64, payload: &[u8]) -> Vec<u8> {
        self.value(PLAIN, key, revision, payload)
    }

    fn value(&self, format: u8, key: &[u8], revision: u64, payload: &[u8]) -> Vec<u8> {
        let mac = self.record_mac(format, key, revision, payload).finalize().into_bytes();
        let mut value = Vec::with_capacity(HEADER_LEN + payload.len());
        value.push(format);
        value.extend_from_slice(&revision.to_be_bytes());
        value.extend_from_slice(&mac);
        value.extend_from_slice(payload);
        value
    }

    /// What a stored value says; `None` unless it is genuine.
    pub(super) fn open<'a>(&self, key: &[u8], value: &'a [u8]) -> Option<Genuine<'a>> {
        let (format, rest) = value.split_first()?;
        let (revision, rest) = rest.split_first_chunk()?;
        let (mac, payload) = rest.split_first_chunk::<MAC_LEN>()?;
        let revision = u64::from_be_bytes(*revision);
        if ![PLAIN, SEALED].contains(format) {
            return None;
        }
        self.record_mac(*format, key, revision, payload).verify_slice(mac).ok()?;
        Some(Genuine { revision, sealed: *format == SEALED, payload })
    }

    fn record_mac(&self, format: u8, key: &[u8], revision: u64, payload: &[u8]) -> HmacSha256 {
        let (table, path) = key.split_at(key.len().min(1));
        let domain: &[u8] = match format {
            SEALED => b"keyward/1/store/sealed-record",
            _ => b"keyward/1/store/record",
        };
        let mut mac = HmacSha256::clone(&self.record);
        for part in [domain, table, path] {
            mac.update(&lp32(part));
            mac.update(part);
        }
        mac.update(&revision.to_be_bytes());
        mac.update(payload);
        mac
    }

    /// `HMAC(journal key, previous | body)`: one link of the journal's chain.
    pub(super) fn journal_link(&self, previous: &[u8; 32], body: &[u8]) -> [u8; 32] {
        let mac = HmacSha256::clone(&self.journal).chain_update(previous).chain_update(body);
        mac.finalize().into_bytes().into()
    }

    /// What a record adds to the sum of all: `HMAC(multiset key, 1 | MAC of the record)`. With
    /// [`sum_mask`](Self::sum_mask) this is MSet-Add-Hash (Clarke, Devadas, van Dijk, Gassend, Suh: Incremental
    /// Multiset Hash Functions, ASIACRYPT 2003). Neither stands in a file, so nobody can search for other
    /// records of the same sum.
    pub(super) fn element(&self, mac: &[u8; MAC_LEN]) -> [u8; 32] {
        HmacSha256::clone(&self.multiset).chain_update([1]).chain_update(mac).finalize().into_bytes().into()
    }

    /// What a covered record adds to the sum that compares records with the leaves of the digest:
    /// `HMAC(multiset key, 2 | its entry in the leaf)`. That sum is in memory only.
    pub(super) fn leaf_element(&self, entry: &[u8]) -> [u8; 32] {
        HmacSha256::clone(&self.multiset).chain_update([2]).chain_update(entry).finalize().into_bytes().into()
    }

    /// What hides the sum of all records on disk: `HMAC(multiset key, 0 | nonce)`.
    pub(super) fn sum_mask(&self, nonce: &[u8]) -> [u8; 32] {
        HmacSha256::clone(&self.multiset).chain_update([0]).chain_update(nonce).finalize().into_bytes().into()
    }

    /// The MAC of the meta row's bytes.
    pub(super) fn meta_mac(&self, body: &[u8]) -> [u8; 32] {
        HmacSha256::clone(&self.meta).chain_update(body).finalize().into_bytes().into()
    }
}

impl std::fmt::Debug for StoreKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreKeys(redacted)")
    }
}

fn derive(secret: &Key256, info: &[u8]) -> Guarded<HmacSha256> {
    let hkdf = Hkdf::<Sha256>::from_prk(secret.expose()).expect("a PRK of 32 bytes is long enough");
    let key = Key256::init_with(|key| {
        hkdf.expand(info, key).expect("32 bytes are less than 255 blocks");
    });
    Guarded::new(HmacSha256::new_from_slice(key.expose()).expect("HMAC takes keys of any length"))
}

/// The MAC inside a stored value; zeros when the value is too short to be one.
pub(super) fn mac_of(value: &[u8]) -> [u8; MAC_LEN] {
    value.get(9..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default()
}

/// The payload of a stored value, unauthenticated.
pub(super) fn payload_of(value: &[u8]) -> &[u8] {
    value.get(HEADER_LEN..).unwrap_or_default()
}

/// Whether the row at `key` is sealed under an erasure key.
pub(super) fn is_sealed(key: &[u8]) -> bool {
    key.first().and_then(|byte| Table::from_byte(*byte)).is_some_and(Table::sealed)
}

/// The generation of the erasure key that a stored value is sealed under; `None` for one that is not sealed.
pub(super) fn sealed_under(value: &[u8]) -> Option<ErasureGeneration> {
    (value.first() == Some(&SEALED)).then(|| generation_of(payload_of(value))).flatten()
}

/// The length of `part` as u32 big-endian.
pub(super) fn lp32(part: &[u8]) -> [u8; 4] {
    u32::try_from(part.len()).expect("parts are far below 4 GiB").to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(byte: u8) -> StoreKeys {
        StoreKeys::derive(&Key256::init_with(|key| key.fill(byte)))
    }

    #[test]
    fn every_bit_and_every_input_counts() {
        let value = keys(1).plain(b"\x03acme\0", 7, b"payload");
        let open = |byte, key: &[u8], value: &[u8]| {
            keys(byte).open(key, value).map(|row| (row.revision, row.sealed, row.payload.to_vec()))
        };
        assert_eq!(open(1, b"\x03acme\0", &value), Some((7, false, b"payload".to_vec())));
        for bit in 0..value.len() * 8 {
            let mut bad = value.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(1, b"\x03acme\0", &bad), None, "bit {bit}");
        }
        assert_eq!(open(2, b"\x03acme\0", &value), None, "other keys");
        assert_eq!(open(1, b"\x05acme\0", &value), None, "other table");
        assert_eq!(open(1, b"\x03acm\0", &value), None, "other path");
        for end in 0..value.len() {
            assert_eq!(open(1, b"\x03acme\0", &value[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn a_wrapped_key_is_stored_sealed_or_not_at_all() {
        let keys = keys(1);
        assert!(matches!(keys.seal(b"\x07acme\0", 7, b"wrapped"), Err(StoreError::NoErasureKey)));
        keys.erasure.add(ErasureGeneration::FIRST, Key256::init_with(|key| key.fill(2)));
        keys.erasure.seal_under(ErasureGeneration::FIRST);
        let value = keys.seal(b"\x07acme\0", 7, b"wrapped").unwrap();
        let row = keys.open(b"\x07acme\0", &value).unwrap();
        assert!(row.sealed && sealed_under(&value) == Some(ErasureGeneration::FIRST));
        assert!(!value.windows(7).any(|bytes| bytes == b"wrapped"));
        assert_eq!(keys.erasure.open(b"\x07acme\0", 7, row.payload).unwrap(), b"wrapped");
        let mut other = value.clone();
        other[0] = PLAIN;
        assert!(keys.open(b"\x07acme\0", &other).is_none(), "a sealed row is never taken for an open one");
    }

    #[test]
    fn the_purposes_have_different_keys() {
        let keys = keys(1);
        assert_ne!(keys.journal_link(&[0; 32], b""), keys.meta_mac(&[0; 32]));
        assert_ne!(keys.journal_link(&[0; 32], b"a"), keys.journal_link(&[1; 32], b"a"));
    }

    #[test]
    fn the_format_stays() {
        let value = keys(1).seal(b"\x03acme\0", 7, b"payload").unwrap();
        assert_eq!(hex::encode(&value[..9]), "010000000000000007");
        assert_eq!(&value[41..], b"payload");
    }
}
