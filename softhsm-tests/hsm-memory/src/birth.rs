//! The birth of a master key: the parts that are real on a token and real here.

use keyward::envelope::{sealed_box, shamir};
use keyward::hsm::birth::{Backup, BackupPlan, Newborn, Purpose};
use keyward::hsm::pkcs11::root::{Guards, Settled};
use keyward::hsm::process::TaskError;
use keyward::id::RootId;
use keyward::id::token::TokenInfo;
use keyward::keyring::wrapped::{Canary, KeyCheck, SealMechanism, SealedKey, WrapMechanism, WrappedKek};
use keyward::secret::Key256;

use crate::crypto::{self, Refused};

/// A master key that is on no token yet.
pub(crate) struct Birth {
    pub(crate) id: RootId,
    pub(crate) purpose: Purpose,
    pub(crate) key: Key256,
    /// The key, wrapped under its one-time backup key.
    pub(crate) escrow: WrappedKek,
}

impl Birth {
    /// Makes a key and its backup key; what there is of the latter is in the newborn alone.
    pub(crate) fn begin(purpose: Purpose, plan: &BackupPlan) -> Result<(Self, Newborn), TaskError> {
        let id = RootId::random().map_err(|error| TaskError::Failed(error.to_string()))?;
        let (key, backup_key) = (new_key()?, new_key()?);
        let bytes = crypto::wrap(&backup_key, &key).map_err(failed)?;
        let escrow = WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes };
        let backup = spread(plan, &backup_key)?;
        let newborn = Newborn { id, wrapped: escrow.clone(), backup };
        Ok((Self { id, purpose, key, escrow }, newborn))
    }

    /// What proves that a token has it.
    pub(crate) fn settled(&self, token: TokenInfo) -> Result<Settled, TaskError> {
        let canary = self.canary().map_err(failed)?;
        let guards = Guards { unmodifiable: true, uncopyable: true, limited: true };
        Ok(Settled { canary, token, guards, quirks: Vec::new() })
    }

    /// A key sealed under it: by a KEK that a root wraps, by a resident KEK itself.
    fn canary(&self) -> Result<Canary, Refused> {
        let wraps = self.purpose != Purpose::Resident;
        let kek = if wraps { crypto::new_key()? } else { self.key.duplicate() };
        let bytes = wraps.then(|| crypto::wrap(&self.key, &kek)).transpose()?;
        let wrapped = bytes.map(|bytes| WrappedKek { mechanism: WrapMechanism::AesKeyWrap, bytes });
        let key = crypto::new_key()?;
        let mut iv = [0; 12];
        crypto::fill(&mut iv)?;
        let ciphertext = crypto::seal(&kek, iv, Canary::AAD, &key)?;
        let check = Some(KeyCheck::of(&key));
        let sealed = SealedKey { mechanism: SealMechanism::AesGcm, iv, ciphertext, check };
        Ok(Canary { root: self.id, kek: wrapped, sealed, fingerprint: crypto::sha256(key.expose()) })
    }
}

/// What leaves the HSM of the backup key.
fn spread(plan: &BackupPlan, key: &Key256) -> Result<Backup, TaskError> {
    Ok(match plan {
        BackupPlan::HandOut => Backup::HandedOut(key.duplicate()),
        BackupPlan::Drop => Backup::Dropped,
        BackupPlan::Split { quorum, holders } => {
            let count = u8::try_from(holders.len()).unwrap_or(u8::MAX);
            let shares = shamir::split(key, *quorum, count, &new_key()?);
            let shares = shares.map_err(|error| TaskError::Failed(error.to_string()))?;
            let sealed = holders
                .iter()
                .zip(&shares)
                .map(|(holder, share)| sealed_box::seal(&holder.key, &holder.context, share.expose()));
            let sealed = sealed.collect::<Result<_, _>>();
            Backup::Split(sealed.map_err(|error| TaskError::Failed(error.to_string()))?)
        }
    })
}

fn new_key() -> Result<Key256, TaskError> {
    crypto::new_key().map_err(failed)
}

fn failed(_: Refused) -> TaskError {
    TaskError::Failed("no key was made: a primitive failed".to_owned())
}
