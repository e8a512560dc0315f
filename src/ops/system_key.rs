//! The daemon's own signing keys: made in the HSM when there is none, and made
//! anew, with the word of the one before, when the root is another one.

use sha2::{Digest, Sha256};

use super::Error;
use super::commit::Affects;
use super::vault::{Vault, misfit};
use crate::access::Action;
use crate::audit::checkpoint::NoteKey;
use crate::clock::Date;
use crate::hsm::{Operation, Reply};
use crate::id::{DeploymentId, RootId, SigningGeneration};
use crate::keyring::record::{SigningPurpose, SystemKey};
use crate::keyring::signing::{PublicKey, Signature, SigningKey};
use crate::store::{Changes, tables};

/// A generation and its record.
pub type Generation = (SigningGeneration, SystemKey);

/// What a generation signs for the one after it, already hashed.
///
/// ```text
/// SHA-256( lp32("keyward/1/signing-key-handover") | deployment (16) | u8 purpose | u32 generation | lp32(SubjectPublicKeyInfo) )
/// ```
pub fn handover(
    deployment: DeploymentId,
    purpose: SigningPurpose,
    generation: SigningGeneration,
    next: &PublicKey,
) -> [u8; 32] {
    let lp32 = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
    let (domain, spki) = (b"keyward/1/signing-key-handover".as_slice(), next.spki());
    let digest = Sha256::new().chain_update(lp32(domain)).chain_update(domain).chain_update(deployment.0);
    let digest = digest.chain_update([purpose as u8]).chain_update(generation.get().to_be_bytes());
    digest.chain_update(lp32(&spki)).chain_update(spki).finalize().into()
}

impl Vault {
    /// Every generation of the key that signs checkpoints and documents, the first one first.
    ///
    /// # Errors
    /// When the store does not serve.
    pub async fn audit_keys(&self) -> Result<Vec<Generation>, Error> {
        self.signing_keys(SigningPurpose::Audit).await
    }

    /// Every generation of one of the daemon's signing keys, the first one first.
    ///
    /// # Errors
    /// When the store does not serve.
    pub(super) async fn signing_keys(&self, purpose: SigningPurpose) -> Result<Vec<Generation>, Error> {
        let (mut found, mut next) = (Vec::new(), Some(SigningGeneration::FIRST));
        // Each is asked for by its name: the store proves that the one behind the last is not there.
        while let Some(generation) = next {
            let path = tables::system_key(purpose, generation);
            let Some(stored) = self.records.get(&path).await? else { break };
            found.push((generation, stored.record));
            next = generation.next();
        }
        Ok(found)
    }

    /// The keys by which checkpoints and documents of this installation are verified.
    ///
    /// # Errors
    /// As [`audit_keys`](Self::audit_keys).
    pub async fn note_keys(&self) -> Result<Vec<NoteKey>, Error> {
        let keys = self.audit_keys().await?;
        Ok(keys.into_iter().map(|(_, record)| NoteKey::new(self.deployment(), record.key.public)).collect())
    }

    /// The generation that signs; made now when there is none.
    ///
    /// # Errors
    /// When the HSM or the store does not serve.
    pub(super) async fn audit_key(&self) -> Result<Generation, Error> {
        self.signing_key(SigningPurpose::Audit).await
    }

    /// As [`audit_key`](Self::audit_key), for any purpose.
    pub(super) async fn signing_key(&self, purpose: SigningPurpose) -> Result<Generation, Error> {
        if let Some(newest) = self.signing_keys(purpose).await?.pop() {
            return Ok(newest);
        }
        // Alone: between two looks at the root it could be replaced, and the key would be born under the old one.
        let _alone = self.making_first_keys.lock().await;
        match self.signing_keys(purpose).await?.pop() {
            Some(newest) => Ok(newest),
            None => match self.make_signing_key(purpose, self.root().id, None).await {
                // Another daemon has made it meanwhile.
                Err(Error::Conflict) => self.signing_keys(purpose).await?.pop().ok_or(Error::Conflict),
                made => made,
            },
        }
    }

    /// Makes a generation under another root: the old one signs that the new one
    /// follows it, if it still can. Does nothing when the newest is under `root` already.
    ///
    /// # Errors
    /// When the HSM or the store does not serve; then nothing has changed.
    pub async fn move_audit_key(&self, root: RootId) -> Result<Generation, Error> {
        let _alone = self.checkpointing.lock().await;
        let _first = self.making_first_keys.lock().await;
        match self.audit_keys().await?.pop() {
            Some(newest) if newest.1.key.root == root => Ok(newest),
            newest => self.make_signing_key(SigningPurpose::Audit, root, newest).await,
        }
    }

    /// As [`move_audit_key`](Self::move_audit_key), for the key that signs login assertions, if there is one.
    ///
    /// # Errors
    /// When the HSM or the store does not serve; then nothing has changed.
    pub async fn move_login_key(&self, root: RootId) -> Result<(), Error> {
        let _alone = self.making_first_keys.lock().await;
        match self.signing_keys(SigningPurpose::Login).await?.pop() {
            Some(newest) if newest.1.key.root != root => {
                self.make_signing_key(SigningPurpose::Login, root, Some(newest)).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    async fn make_signing_key(
        &self,
        purpose: SigningPurpose,
        root: RootId,
        before: Option<Generation>,
    ) -> Result<Generation, Error> {
        let Reply::NewSigningKey(key) = self.hsm(Operation::GenerateSigningKey { root }).await? else {
            return Err(misfit("a signing key"));
        };
        let used_up = || Error::Internal("the generations of a signing key are used up".into());
        let generation = match &before {
            None => SigningGeneration::FIRST,
            Some((generation, _)) => generation.next().ok_or_else(used_up)?,
        };
        let handover = match &before {
            None => None,
            Some((_, old)) => {
                let statement = handover(self.deployment(), purpose, generation, &key.public);
                // A root that is lost has taken its keys along; then people must vouch for the new one.
                self.sign(&old.key, statement).await.ok()
            }
        };
        let record = SystemKey { key, created: Date::now(), handover };
        let mut changes = Changes::default();
        changes.create(&tables::system_key(purpose, generation), &record);
        let resource = format!("system-keys/{}/{generation}", purpose.as_str());
        self.commit_own(changes, Affects::Nothing, Action::CreateSystemKey, resource).await?;
        Ok((generation, record))
    }

    /// A signature of the HSM over a SHA-256 digest.
    pub(super) async fn sign(&self, key: &SigningKey, digest: [u8; 32]) -> Result<Signature, Error> {
        match self.hsm(Operation::Sign { key: key.clone(), digest }).await? {
            Reply::Signature(signature) if key.public.verifies(&digest, &signature) => Ok(signature),
            _ => Err(misfit("a signature")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::signing::tests::TestKey;

    #[test]
    fn a_handover_is_for_one_key_of_one_installation() {
        let (key, other) = (TestKey::fixed(), TestKey::new().public());
        let second = SigningGeneration::FIRST.next().unwrap();
        let of = |deployment, generation, key| {
            handover(DeploymentId([deployment; 16]), SigningPurpose::Audit, generation, key)
        };
        let statement = of(1, second, &key);
        assert_eq!(statement, of(1, second, &key));
        for another in [of(2, second, &key), of(1, SigningGeneration::FIRST, &key), of(1, second, &other)] {
            assert_ne!(statement, another);
        }
    }
}
