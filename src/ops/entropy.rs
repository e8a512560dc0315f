//! Randomness of the data path: the operating system's generator mixed with a
//! secret from the HSM, so that neither alone decides. Nothing is buffered and
//! nothing is counted: a snapshot of the machine cannot make a value come twice.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::Error;
use crate::envelope::Salt;
use crate::secret::{Guarded, Key256, SecretBytes};

/// Salts and data keys.
pub(super) struct Entropy(Guarded<Hmac<Sha256>>);

impl Entropy {
    /// Takes 32 bytes or more of the HSM's generator, drawn for this process.
    pub(super) fn new(seed: &SecretBytes) -> Result<Self, Error> {
        let constant = seed.expose().windows(2).all(|pair| bool::from(pair[0].ct_eq(&pair[1])));
        if seed.len() < 32 || constant {
            return Err(Error::Internal("the HSM's random generator answered a constant".into()));
        }
        let keyed =
            Hmac::new_from_slice(seed.expose()).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Self(Guarded::new(keyed)))
    }

    /// The salt of one ciphertext.
    pub(super) fn salt(&self) -> Result<Salt, Error> {
        let mut salt = [0; 24];
        salt.copy_from_slice(&self.draw(b"salt")?[..24]);
        Ok(Salt(salt))
    }

    /// A data key for an application.
    pub(super) fn data_key(&self) -> Result<Key256, Error> {
        let drawn = self.draw(b"data key")?;
        Ok(Key256::init_with(|key| key.copy_from_slice(&*drawn)))
    }

    fn draw(&self, label: &[u8]) -> Result<Zeroizing<[u8; 32]>, Error> {
        let mut system = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *system)?;
        let mixed = Hmac::clone(&self.0).chain_update(label).chain_update(*system).finalize();
        Ok(Zeroizing::new(mixed.into_bytes().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_differ_and_a_dead_generator_is_refused() {
        let entropy = Entropy::new(&SecretBytes::new((0..32).collect())).unwrap();
        assert_ne!(entropy.salt().unwrap().0, entropy.salt().unwrap().0);
        assert!(!bool::from(entropy.data_key().unwrap().ct_eq(&entropy.data_key().unwrap())));
        assert!(Entropy::new(&SecretBytes::new(vec![7; 32])).is_err());
        assert!(Entropy::new(&SecretBytes::new((0..31).collect())).is_err());
    }
}
