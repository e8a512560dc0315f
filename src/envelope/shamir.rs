//! Splitting a key among custodians (Shamir, "How to share a secret", 1979),
//! over GF(2^8) with the polynomial of AES, byte by byte.
//!
//! A share is `u8 x | 32 bytes of y`, x counted from 1. Fewer than the quorum say
//! nothing about the key, not even with the others' x. Shares carry no proof of
//! their own: they are sealed one by one, and what comes out of them opens a
//! wrapped key or does not.

use chacha20::ChaCha20Rng;
use rand_core::SeedableRng;
use vsss_rs::Gf256;
use zeroize::{Zeroize, Zeroizing};

use crate::secret::{Key256, SecretBytes};

/// Bytes in a share.
pub const SHARE_LEN: usize = 33;

/// Why a key was not split or not put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShamirError {
    /// 2 ≤ quorum ≤ count ≤ 255 does not hold.
    #[error("a key is split among 2 to 255 holders, and at least 2 of them are needed")]
    Sizes,
    /// Two shares are the same one, or one is none.
    #[error("the shares do not fit together")]
    Shares,
}

/// Splits a key into `count` shares of which any `quorum` give it back. The
/// coefficients are ChaCha20 output under `seed`, which is used for this alone.
///
/// # Errors
/// [`ShamirError::Sizes`]
pub fn split(key: &Key256, quorum: u8, count: u8, seed: &Key256) -> Result<Vec<SecretBytes>, ShamirError> {
    let coefficients = ChaCha20Rng::from_seed(*seed.expose());
    let shares = Gf256::split_bytes(quorum.into(), count.into(), key.expose(), coefficients);
    Ok(shares.map_err(|_| ShamirError::Sizes)?.into_iter().map(SecretBytes::new).collect())
}

/// Puts a key together. Whether it is the right one shows when it is used.
///
/// # Errors
/// [`ShamirError::Shares`]
pub fn combine(shares: &[SecretBytes]) -> Result<Key256, ShamirError> {
    if shares.len() < 2 || shares.iter().any(|share| share.len() != SHARE_LEN) {
        return Err(ShamirError::Shares);
    }
    let mut copies: Vec<Vec<u8>> = shares.iter().map(|share| share.expose().to_vec()).collect();
    let combined = Gf256::combine_bytes(&copies).map(Zeroizing::new);
    copies.iter_mut().for_each(Zeroize::zeroize);
    combined.ok().and_then(|key| Key256::from_slice(&key)).ok_or(ShamirError::Shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key256 {
        Key256::init_with(|key| key.iter_mut().enumerate().for_each(|(at, out)| *out = byte ^ at as u8))
    }

    fn copy(share: &SecretBytes) -> SecretBytes {
        SecretBytes::new(share.expose().to_vec())
    }

    #[test]
    fn any_quorum_gives_it_back_and_fewer_do_not() {
        let shares = split(&key(7), 3, 5, &key(1)).unwrap();
        assert!(
            shares.iter().zip(1u8..).all(|(share, x)| share.len() == SHARE_LEN && share.expose()[0] == x)
        );
        for a in 0..5 {
            for b in a + 1..5 {
                assert_ne!(combine(&[copy(&shares[a]), copy(&shares[b])]).unwrap().expose(), key(7).expose());
                for c in b + 1..5 {
                    let three = [copy(&shares[c]), copy(&shares[a]), copy(&shares[b])];
                    assert_eq!(combine(&three).unwrap().expose(), key(7).expose());
                }
            }
        }
    }

    /// A biased generator (RUSTSEC-2024-0398, and what the audit of vsss-rs found in 2026) shows in the
    /// coefficients: with quorum 2, y(1) XOR y(0) is the coefficient itself.
    #[test]
    fn coefficients_take_every_value_evenly() {
        let mut seen = [0u32; 256];
        for round in 0u32..2000 {
            let seed = Key256::init_with(|seed| seed[..4].copy_from_slice(&round.to_be_bytes()));
            let shares = split(&key(0), 2, 2, &seed).unwrap();
            for (y, secret) in shares[0].expose()[1..].iter().zip(key(0).expose()) {
                seen[usize::from(y ^ secret)] += 1;
            }
        }
        // 64 000 draws, 250 of each expected: seven standard deviations are 111.
        assert!(seen.iter().all(|count| (139..=361).contains(count)), "{seen:?}");
    }

    /// Computed with an independent program (docs/ceremonies.md, "Test vectors").
    #[test]
    fn published_shares_give_the_key() {
        let share = |text: &str| SecretBytes::new(hex::decode(text).unwrap());
        let shares = VECTOR.map(share);
        let expected: Vec<u8> = (0..32).collect();
        for (a, b, c) in [(0, 1, 2), (2, 3, 4), (4, 0, 2)] {
            let three = [copy(&shares[a]), copy(&shares[b]), copy(&shares[c])];
            assert_eq!(combine(&three).unwrap().expose()[..], expected);
        }
    }

    const VECTOR: [&str; 5] = include!("shamir/vector.in");

    #[test]
    fn what_is_no_share_is_refused() {
        let shares = split(&key(7), 2, 3, &key(1)).unwrap();
        let twice = [copy(&shares[0]), copy(&shares[0])];
        assert_eq!(combine(&twice).unwrap_err(), ShamirError::Shares);
        assert_eq!(combine(&[copy(&shares[0])]).unwrap_err(), ShamirError::Shares);
        let short = [copy(&shares[0]), SecretBytes::new(shares[1].expose()[..32].to_vec())];
        assert_eq!(combine(&short).unwrap_err(), ShamirError::Shares);
        let zero = [copy(&shares[0]), SecretBytes::new(vec![0; SHARE_LEN])];
        assert_eq!(combine(&zero).unwrap_err(), ShamirError::Shares);
        for (quorum, count) in [(0, 3), (1, 3), (4, 3), (2, 1)] {
            assert_eq!(split(&key(7), quorum, count, &key(1)).unwrap_err(), ShamirError::Sizes);
        }
    }
}
