//! The speed that a file could have: AES-256-GCM of the same library on one
//! core, segment by segment.

use std::time::Instant;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::Outcome;

/// Bytes in a segment of a file.
const SEGMENT: usize = 64 << 10;

/// Bytes sealed in each second, with the segment in the processor's cache.
pub(crate) fn bytes_per_second(bytes: usize) -> Outcome<f64> {
    let failed = |_| "AES-256-GCM failed";
    let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &[7; 32]).map_err(failed)?);
    let plaintext = vec![b'7'; SEGMENT];
    let mut ciphertext = vec![0; SEGMENT];
    let mut tag = [0; 16];
    let segments = bytes / SEGMENT;
    let begun = Instant::now();
    for number in 0..segments {
        let mut nonce = [0; NONCE_LEN];
        nonce[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let nonce = Nonce::assume_unique_for_key(nonce);
        key.seal_out_of_place_scatter(nonce, Aad::empty(), &plaintext, &mut ciphertext, &[], &mut tag)
            .map_err(failed)?;
        std::hint::black_box(&ciphertext);
    }
    Ok((segments * SEGMENT) as f64 / begun.elapsed().as_secs_f64())
}
