//! Message authentication codes of records, the journal and the meta row.
//!
//! ```text
//! stored value = format 0x01 | u64 revision | MAC (32) | payload (CBOR)
//! MAC          = HMAC-SHA-256(record key, lp32("keyward/1/store/record") | lp32(table) | lp32(path) | u64 revision | payload)
//! ```

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::secret::{Guarded, Key256};

type HmacSha256 = Hmac<Sha256>;

const FORMAT: u8 = 1;
const MAC_LEN: usize = 32;
const HEADER_LEN: usize = 1 + 8 + MAC_LEN;

/// The keys that authenticate the store, derived from the daemon's secret.
pub struct StoreKeys {
    record: Guarded<HmacSha256>,
    journal: Guarded<HmacSha256>,
    meta: Guarded<HmacSha256>,
}

impl StoreKeys {
    /// `key = HKDF-Expand-SHA-256(secret, "keyward/1/store/" | purpose, 32)` for each purpose.
    pub fn derive(secret: &Key256) -> Self {
        Self {
            record: derive(secret, b"keyward/1/store/record-mac"),
            journal: derive(secret, b"keyward/1/store/journal-mac"),
            meta: derive(secret, b"keyward/1/store/meta-mac"),
        }
    }

    /// The stored value of a record: its payload with revision and MAC.
    pub(super) fn seal(&self, key: &[u8], revision: u64, payload: &[u8]) -> Vec<u8> {
        let mac = self.record_mac(key, revision, payload).finalize().into_bytes();
        let mut value = Vec::with_capacity(HEADER_LEN + payload.len());
        value.push(FORMAT);
        value.extend_from_slice(&revision.to_be_bytes());
        value.extend_from_slice(&mac);
        value.extend_from_slice(payload);
        value
    }

    /// Revision and payload of a stored value; `None` unless it is genuine.
    pub(super) fn open<'a>(&self, key: &[u8], value: &'a [u8]) -> Option<(u64, &'a [u8])> {
        let rest = value.strip_prefix(&[FORMAT])?;
        let (revision, rest) = rest.split_first_chunk()?;
        let (mac, payload) = rest.split_first_chunk::<MAC_LEN>()?;
        let revision = u64::from_be_bytes(*revision);
        self.record_mac(key, revision, payload).verify_slice(mac).ok()?;
        Some((revision, payload))
    }

    fn record_mac(&self, key: &[u8], revision: u64, payload: &[u8]) -> HmacSha256 {
        let (table, path) = key.split_at(key.len().min(1));
        let mut mac = HmacSha256::clone(&self.record);
        for part in [b"keyward/1/store/record".as_slice(), table, path] {
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
        let value = keys(1).seal(b"\x03acme\0", 7, b"payload");
        assert_eq!(keys(1).open(b"\x03acme\0", &value), Some((7, b"payload".as_slice())));
        for bit in 0..value.len() * 8 {
            let mut bad = value.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(keys(1).open(b"\x03acme\0", &bad), None, "bit {bit}");
        }
        assert_eq!(keys(2).open(b"\x03acme\0", &value), None, "other keys");
        assert_eq!(keys(1).open(b"\x05acme\0", &value), None, "other table");
        assert_eq!(keys(1).open(b"\x03acm\0", &value), None, "other path");
        for end in 0..value.len() {
            assert_eq!(keys(1).open(b"\x03acme\0", &value[..end]), None, "cut at {end}");
        }
    }

    #[test]
    fn the_purposes_have_different_keys() {
        let keys = keys(1);
        assert_ne!(keys.journal_link(&[0; 32], b""), keys.meta_mac(&[0; 32]));
        assert_ne!(keys.journal_link(&[0; 32], b"a"), keys.journal_link(&[1; 32], b"a"));
    }

    #[test]
    fn the_format_stays() {
        let value = keys(1).seal(b"\x03acme\0", 7, b"payload");
        assert_eq!(hex::encode(&value[..9]), "010000000000000007");
        assert_eq!(&value[41..], b"payload");
    }
}
