//! Encoded messages for RSA: a PIV card computes the bare power, and the host pads (RFC 8017, section 9).

use keyward::token::error::TokenError;
use sha2::{Digest, Sha256};

/// Bytes of SHA-256, and of the salt.
const HASH: usize = 32;

/// DigestInfo of SHA-256 (RFC 8017, section 9.2, note 1).
const DIGEST_INFO: [u8; 19] = [
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
    0x04, 0x20,
];

/// EMSA-PSS-ENCODE (RFC 8017, section 9.1.1) with SHA-256, MGF1 with SHA-256 and a fresh salt of 32 bytes, for
/// a modulus of `length` bytes whose highest bit is set.
pub(crate) fn pss(message: &[u8], length: usize) -> Result<Vec<u8>, TokenError> {
    let mut salt = [0; HASH];
    getrandom::fill(&mut salt).map_err(|error| TokenError::Failed(format!("no random numbers: {error}")))?;
    pss_with(message, &salt, length).ok_or_else(too_short)
}

fn pss_with(message: &[u8], salt: &[u8; HASH], length: usize) -> Option<Vec<u8>> {
    let room = length.checked_sub(HASH + 1)?;
    let hash: [u8; HASH] = Sha256::new()
        .chain_update([0; 8])
        .chain_update(Sha256::digest(message))
        .chain_update(salt)
        .finalize()
        .into();
    let mut block = vec![0; room.checked_sub(HASH + 1)?];
    block.push(1);
    block.extend_from_slice(salt);
    for (byte, mask) in block.iter_mut().zip(mgf1(&hash, room)) {
        *byte ^= mask;
    }
    // emBits is one less than the bits of the modulus.
    block[0] &= 0x7f;
    block.extend_from_slice(&hash);
    block.push(0xbc);
    Some(block)
}

/// MGF1 (RFC 8017, appendix B.2.1).
fn mgf1(seed: &[u8], length: usize) -> Vec<u8> {
    let mut mask = Vec::with_capacity(length + HASH);
    for counter in 0u32.. {
        if mask.len() >= length {
            break;
        }
        mask.extend_from_slice(
            &Sha256::new().chain_update(seed).chain_update(counter.to_be_bytes()).finalize(),
        );
    }
    mask.truncate(length);
    mask
}

/// EMSA-PKCS1-v1_5-ENCODE (RFC 8017, section 9.2) with SHA-256, for a modulus of `length` bytes.
pub(crate) fn pkcs1(message: &[u8], length: usize) -> Result<Vec<u8>, TokenError> {
    let ones =
        length.checked_sub(DIGEST_INFO.len() + HASH + 3).filter(|ones| *ones >= 8).ok_or_else(too_short)?;
    let mut block = vec![0, 1];
    block.resize(2 + ones, 0xff);
    block.push(0);
    block.extend_from_slice(&DIGEST_INFO);
    block.extend_from_slice(&Sha256::digest(message));
    Ok(block)
}

fn too_short() -> TokenError {
    TokenError::Key("the RSA key is too short".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a verifier undoes (RFC 8017, section 9.1.2).
    fn verifies(message: &[u8], block: &[u8]) -> bool {
        let (masked, rest) = block.split_at(block.len() - HASH - 1);
        let hash = &rest[..HASH];
        let mut clear: Vec<u8> =
            masked.iter().zip(mgf1(hash, masked.len())).map(|(byte, mask)| byte ^ mask).collect();
        clear[0] &= 0x7f;
        let salt = &clear[clear.len() - HASH..];
        let again = Sha256::new()
            .chain_update([0; 8])
            .chain_update(Sha256::digest(message))
            .chain_update(salt)
            .finalize();
        let padding = &clear[..clear.len() - HASH - 1];
        rest[HASH] == 0xbc
            && again[..] == *hash
            && padding.iter().all(|byte| *byte == 0)
            && clear[padding.len()] == 1
    }

    #[test]
    fn a_block_verifies_for_its_message_only() {
        for length in [256, 384, 512] {
            let block = pss(b"message", length).expect("a block");
            assert_eq!(block.len(), length);
            assert!(block[0] < 0x80 && verifies(b"message", &block) && !verifies(b"another", &block));
            assert_ne!(pss(b"message", length).expect("a block"), block, "the salt is fresh");
        }
        assert!(pss(b"message", 64).is_err() && pkcs1(b"message", 61).is_err());
    }

    #[test]
    fn the_older_padding_is_that_of_the_rfc() {
        let block = pkcs1(b"", 256).expect("a block");
        assert_eq!((block.len(), &block[..3]), (256, &[0, 1, 0xff][..]));
        assert_eq!(block[256 - 52..256 - 32], [&[0][..], &DIGEST_INFO].concat());
        assert!(block[2..256 - 52].iter().all(|byte| *byte == 0xff));
    }
}
