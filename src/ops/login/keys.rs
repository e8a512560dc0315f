//! What logging in derives from the daemon's own secret, which the HSM seals.

use aws_lc_rs::hmac;
use hkdf::Hkdf;
use sha2::Sha256;

use crate::envelope::aead::{AeadKey, NONCE, TAG};
use crate::id::{AccountId, DeploymentId};
use crate::keyring::credential::CredentialId;
use crate::ops::Error;
use crate::secret::Key256;

/// The keys under which seeds are sealed and decoys are made:
/// `HKDF-Expand-SHA-256(secret, "keyward/1/login/" | purpose, 32)`.
pub struct LoginKeys {
    seeds: AeadKey,
    decoys: hmac::Key,
}

impl LoginKeys {
    /// Derives them.
    ///
    /// # Errors
    /// Never, unless the library refuses a key of 32 bytes.
    pub fn derive(secret: &Key256) -> Result<Self, Error> {
        let seeds = expand(secret, b"keyward/1/login/otp-seed");
        let decoys = expand(secret, b"keyward/1/login/decoy");
        Ok(Self {
            seeds: AeadKey::new(seeds.expose()).map_err(|_| Error::Internal("no key for seeds".into()))?,
            decoys: hmac::Key::new(hmac::HMAC_SHA256, decoys.expose()),
        })
    }

    /// Seals a seed for one account: nonce | ciphertext | tag.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub(super) fn seal(
        &self,
        deployment: DeploymentId,
        account: &AccountId,
        seed: &Key256,
    ) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE];
        getrandom::fill(&mut nonce)?;
        let mut sealed = nonce.to_vec();
        sealed.resize(NONCE + Key256::LEN + TAG, 0);
        let refused = |_| Error::Internal("the seed cannot be sealed".into());
        self.seeds
            .seal(nonce, &aad(deployment, account), seed.expose(), &mut sealed[NONCE..])
            .map_err(refused)?;
        Ok(sealed)
    }

    /// Opens a seed of that account.
    ///
    /// # Errors
    /// When it is another account's, or was changed.
    pub(super) fn open(
        &self,
        deployment: DeploymentId,
        account: &AccountId,
        sealed: &[u8],
    ) -> Result<Key256, Error> {
        let refused = || Error::Internal(format!("the seed of accounts/{account} does not open"));
        let (nonce, sealed) = sealed.split_first_chunk().ok_or_else(refused)?;
        if sealed.len() != Key256::LEN + TAG {
            return Err(refused());
        }
        let aad = aad(deployment, account);
        Key256::try_init_with(|seed| self.seeds.open(*nonce, &aad, sealed, seed)).map_err(|_| refused())
    }

    /// A key that an account would have if it existed, or had more of them: always the same, and nobody's.
    pub(super) fn decoy(&self, account: &AccountId, number: usize) -> CredentialId {
        // Names of accounts have no zero bytes.
        let of = [account.as_str().as_bytes(), &[0], &number.to_be_bytes()].concat();
        let tag = hmac::sign(&self.decoys, &of);
        // HMAC-SHA-256 has 32 bytes.
        CredentialId(tag.as_ref().try_into().unwrap_or_default())
    }
}

fn expand(secret: &Key256, info: &[u8]) -> Key256 {
    let hkdf = Hkdf::<Sha256>::from_prk(secret.expose()).expect("a PRK of 32 bytes is long enough");
    Key256::init_with(|key| hkdf.expand(info, key).expect("32 bytes are less than 255 blocks"))
}

fn aad(deployment: DeploymentId, account: &AccountId) -> Vec<u8> {
    [b"keyward/1/login/otp-seed".as_slice(), &deployment.0, account.as_str().as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_opens_for_its_account_only() {
        let keys = LoginKeys::derive(&Key256::init_with(|key| key.fill(1))).unwrap();
        let other = LoginKeys::derive(&Key256::init_with(|key| key.fill(2))).unwrap();
        let (here, alice, bob) =
            (DeploymentId([3; 16]), AccountId::new("alice").unwrap(), AccountId::new("bob").unwrap());
        let seed = Key256::init_with(|seed| seed.fill(7));
        let sealed = keys.seal(here, &alice, &seed).unwrap();
        assert_eq!(keys.open(here, &alice, &sealed).unwrap().expose(), seed.expose());
        assert!(keys.open(here, &bob, &sealed).is_err());
        assert!(keys.open(DeploymentId([4; 16]), &alice, &sealed).is_err());
        assert!(other.open(here, &alice, &sealed).is_err());
        assert!(keys.open(here, &alice, &sealed[..59]).is_err());
        let mut changed = sealed;
        changed[20] ^= 1;
        assert!(keys.open(here, &alice, &changed).is_err());
    }

    #[test]
    fn a_decoy_is_always_the_same_and_of_one_account() {
        let keys = LoginKeys::derive(&Key256::init_with(|key| key.fill(1))).unwrap();
        let decoy = |name, number| keys.decoy(&AccountId::new(name).unwrap(), number);
        assert_eq!(decoy("mallory", 0), decoy("mallory", 0));
        assert_ne!(decoy("mallory", 0), decoy("mallorz", 0));
        assert_ne!(decoy("mallory", 0), decoy("mallory", 1));
    }
}
