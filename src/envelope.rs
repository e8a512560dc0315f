//! Ciphertext format 1 (docs/format.md): bytes only, no I/O.
//!
//! A [`Dek`] seals and opens messages ([`seal`], [`open`]) and streams
//! ([`StreamSealer`], [`StreamOpener`]) under a [`Context`]; an [`IndexKey`]
//! computes blind indexes.

pub(crate) mod aead;
mod blind;
mod context;
mod dek;
mod derive;
mod header;
mod message;
pub mod sealed_box;
pub mod shamir;
mod stream;
mod suite;
pub mod text;

#[cfg(test)]
mod vectors;
#[cfg(test)]
mod wycheproof;

pub use blind::{INDEX_LEN, IndexKey, Normalization, NormalizeError, Normalized};
pub use context::{Context, ContextError};
pub use dek::Dek;
pub use header::{Header, OVERHEAD, ParseError};
pub use message::{DATA_KEY_LEN, OpenError, Opened, Salt, SealError, Sealed, open, seal};
pub use stream::{SEGMENT, StreamOpener, StreamSealer};
pub use suite::Suite;

/// Appends `u32 length | bytes`, the length in big-endian order.
fn put_lp32(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&lp32_len(bytes));
    out.extend_from_slice(bytes);
}

/// The length of `bytes` as lp32 writes it.
fn lp32_len(bytes: &[u8]) -> [u8; 4] {
    // Every caller checks a limit far below 4 GiB first; a longer value could only stop here.
    u32::try_from(bytes.len()).expect("lp32 values are shorter than 4 GiB").to_be_bytes()
}
