//! Strays: master keys that stand on the tokens under Keyward's labels and in no record.
//!
//! That a record is not there is no evidence, so the daemon destroys none of them. It tells them, in its status
//! and in every certificate of a destruction, until people have done something about them: with
//! [`forget_erasure_root`](Vault::forget_erasure_root) for an erasure root, with the means of the token for the
//! others. The label of an erasure root says whose it is. Those of roots and of resident KEKs do not, so one of
//! them may as well be another installation's.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Error;
use super::erasure::not_done;
use super::vault::Vault;
use crate::access::{Authorized, permission};
use crate::clock::Date;
use crate::hsm::birth::{Purpose, Standing};
use crate::id::{Installation, RootId};
use crate::keyring::escrow::{Escrow, KekEscrow};
use crate::keyring::record::{Erasure, ErasureState, Export, Root, RootState};
use crate::store::{Records, StoreError};

/// A master key on the tokens that no record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// Its name, the CKA_ID.
    pub id: RootId,
    /// What its label says that it is for.
    pub purpose: Purpose,
    /// The tokens that have it, as the configuration asks for them.
    pub tokens: Vec<String>,
}

impl Stray {
    /// Its label on the token.
    pub fn label(&self) -> String {
        format!("{}{}", self.purpose.label(), self.id)
    }

    /// The word for what it is.
    pub fn kind(&self) -> &'static str {
        match self.purpose {
            Purpose::Erasure(_) => "erasure-root",
            Purpose::Root => "root",
            Purpose::Resident => "kek",
        }
    }

    /// Whether its label names this installation.
    pub fn is_own(&self) -> bool {
        matches!(self.purpose, Purpose::Erasure(_))
    }

    /// How a destroyed key could come back by it, in words, for a certificate. `own` says that it is known to be
    /// of this installation.
    pub(super) fn brings_back(&self, own: bool) -> String {
        let id = self.id;
        let whose = if own { "" } else { " (of another installation, or left over)" };
        match self.purpose {
            Purpose::Erasure(_) => format!(
                "the erasure root {id} on the tokens, with a copy of a store that was sealed under it, until \
                 somebody has it destroyed"
            ),
            Purpose::Root => format!(
                "the root key {id} on the tokens, which no record names{whose}, with an export that was made \
                 under it, until somebody removes it from them"
            ),
            Purpose::Resident => format!(
                "the key-encryption key {id} on the tokens, which no record names{whose}, with a copy of what it \
                 sealed, until somebody removes it from them"
            ),
        }
    }
}

/// What the newest look at the tokens has shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Looked {
    /// When the tokens were last seen; none when they were not seen since the start.
    pub at: Option<Date>,
    /// What was found then.
    pub found: Vec<Stray>,
    /// Why the newest look showed nothing: what is there now is not known.
    pub failure: Option<String>,
}

impl Looked {
    /// What an operator should know, in words; nothing where there is no stray.
    pub fn warning(&self) -> Option<String> {
        let names = |own: bool| {
            let found = self.found.iter().filter(|stray| stray.is_own() == own);
            found.map(|stray| stray.id.to_string()).collect::<Vec<_>>().join(", ")
        };
        let (own, others) = (names(true), names(false));
        let mut words = Vec::new();
        if let Some(reason) = &self.failure {
            words.push(format!("keys on the tokens that no record names could not be looked for: {reason}"));
        }
        if !own.is_empty() {
            words.push(format!(
                "erasure roots that no record names are on the tokens, see `keyward erasure status`: {own}"
            ));
        }
        if !others.is_empty() {
            words.push(format!(
                "keys that no record names are on the tokens, of another installation or left over: {others}"
            ));
        }
        (!words.is_empty()).then(|| words.join("; "))
    }
}

/// The newest look, for whoever asks for the status.
#[derive(Debug, Default)]
pub(super) struct Strays(Mutex<Looked>);

impl Strays {
    fn lock(&self) -> MutexGuard<'_, Looked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a look, and says in the log what is new.
    fn note(&self, looked: &Result<Vec<Stray>, Error>) {
        let mut last = self.lock();
        match looked {
            Ok(found) => {
                for stray in found.iter().filter(|stray| !last.found.contains(stray)) {
                    told(stray);
                }
                *last = Looked { at: Some(Date::now()), found: found.clone(), failure: None };
            }
            Err(error) => {
                let reason = error.told();
                if last.failure.as_ref() != Some(&reason) {
                    tracing::warn!(reason, "keys on the tokens that no record names could not be looked for");
                }
                // What was there is told on: it is not gone because nobody could look.
                last.failure = Some(reason);
            }
        }
    }
}

fn told(stray: &Stray) {
    let (id, label, tokens) = (stray.id, stray.label(), stray.tokens.join(", "));
    match stray.is_own() {
        true => tracing::warn!(
            label,
            tokens,
            "an erasure root that no record names is on the tokens: copies of a store may open with it; have it \
             destroyed with `keyward erasure forget {id}`"
        ),
        // On a token that installations share there always is one: no alarm.
        false => tracing::info!(
            label,
            tokens,
            "a key that no record names is on the tokens: it is of another installation, or left over"
        ),
    }
}

/// Those that no record names, each once, with the tokens that have it.
fn unnamed(standing: Vec<Standing>, named: &HashSet<RootId>) -> Vec<Stray> {
    let mut strays: Vec<Stray> = Vec::new();
    for Standing { purpose, id, token } in standing.into_iter().filter(|key| !named.contains(&key.id)) {
        let at = strays.iter().position(|stray| stray.id == id && stray.purpose == purpose);
        let at = at.unwrap_or_else(|| {
            strays.push(Stray { id, purpose, tokens: Vec::new() });
            strays.len() - 1
        });
        strays[at].tokens.push(token);
    }
    strays
}

/// Refuses the name of a newborn that a record has already.
///
/// The HSM process chooses the name. Whoever had it name a key of ours could have that key destroyed as what a
/// birth has left that was cut short.
///
/// # Errors
/// That it is taken, or why the records cannot be read; in words, as births are refused.
pub(super) async fn require_new(records: &Records, id: RootId) -> Result<(), String> {
    match is_named(records, id).await {
        Ok(false) => Ok(()),
        Ok(true) => Err(format!("the HSM names its new key {id}, which is the name of a key on record")),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a record names a master key, be it one that is gone.
pub(super) async fn is_named(records: &Records, id: RootId) -> Result<bool, StoreError> {
    Ok(names(records, true).await?.contains(&id))
}

/// The master keys that records name. `gone` says whether those count that are gone by them.
async fn names(records: &Records, gone: bool) -> Result<HashSet<RootId>, StoreError> {
    let mut named = HashSet::new();
    let mut view = records.view().await?;
    for (_, stored) in view.complete::<Erasure>().await? {
        // What was forgotten is told until it is gone.
        if gone || !matches!(stored.record.state, ErasureState::Destroyed | ErasureState::Forgotten) {
            named.insert(stored.record.root);
        }
    }
    for (_, stored) in view.complete::<Root>().await? {
        if gone || stored.record.state != Some(RootState::Destroyed) {
            named.insert(stored.record.id);
        }
    }
    // Escrows are there from before a birth until after a destruction.
    named.extend(view.complete::<Escrow>().await?.into_iter().map(|(_, stored)| stored.record.root));
    named.extend(view.complete::<KekEscrow>().await?.into_iter().map(|(_, stored)| stored.record.0.root));
    Ok(named)
}

impl Vault {
    /// What stood on the tokens and in no record at the newest look.
    pub fn strays(&self) -> Looked {
        self.strays.lock().clone()
    }

    /// Looks at the tokens now, for an operator who asks; [`strays`](Self::strays) has what was seen, or why
    /// nothing was.
    pub async fn look_for_strays(&self, right: &Authorized<permission::ManageErasure>) {
        let Installation = right.resource();
        self.find_strays().await.ok();
    }

    /// Looks at the tokens now.
    ///
    /// # Errors
    /// When a token cannot be asked, or the records cannot be read.
    pub(super) async fn find_strays(&self) -> Result<Vec<Stray>, Error> {
        let looked = self.look_at_tokens().await;
        self.strays.note(&looked);
        looked
    }

    async fn look_at_tokens(&self) -> Result<Vec<Stray>, Error> {
        let purposes = [Purpose::Erasure(self.deployment()), Purpose::Root, Purpose::Resident];
        // Before the tokens are seen and after: what is born or destroyed meanwhile is named in one of the two.
        let mut named = names(&self.records, false).await?;
        let standing = self.hsm.standing(&purposes).await.map_err(not_done)?;
        named.extend(names(&self.records, false).await?);
        Ok(unnamed(standing, &named))
    }

    /// The roots that this installation knows as its own: those that are or were in force, and those that an
    /// export on record was made under.
    ///
    /// # Errors
    /// When the records cannot be read.
    pub(super) async fn own_roots(&self) -> Result<HashSet<RootId>, Error> {
        let mut view = self.records.view().await?;
        let roots = view.complete::<Root>().await?.into_iter().map(|(_, stored)| stored.record.id);
        let mut own: HashSet<RootId> = roots.collect();
        own.extend(view.complete::<Export>().await?.into_iter().map(|(_, stored)| stored.record.root));
        Ok(own)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::DeploymentId;

    const OWN: Purpose = Purpose::Erasure(DeploymentId([5; 16]));

    fn id(byte: u8) -> RootId {
        RootId([byte; 16])
    }

    fn standing(purpose: Purpose, byte: u8, token: &str) -> Standing {
        Standing { purpose, id: id(byte), token: token.to_owned() }
    }

    #[test]
    fn what_a_record_names_is_no_stray() {
        let on_tokens = vec![
            standing(OWN, 1, "a"),
            standing(OWN, 2, "a"),
            standing(Purpose::Root, 3, "a"),
            standing(OWN, 1, "b"),
            standing(OWN, 2, "b"),
            standing(Purpose::Resident, 4, "b"),
        ];
        let all = unnamed(on_tokens.clone(), &HashSet::from([id(2), id(3)]));
        let tokens = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            all,
            [
                Stray { id: id(1), purpose: OWN, tokens: tokens(&["a", "b"]) },
                Stray { id: id(4), purpose: Purpose::Resident, tokens: tokens(&["b"]) },
            ]
        );
        assert_eq!(all[0].label(), format!("keyward erasure {} {}", DeploymentId([5; 16]), id(1)));
        let none = unnamed(on_tokens, &HashSet::from([id(1), id(2), id(3), id(4)]));
        assert_eq!(none, []);
    }

    #[test]
    fn a_key_with_the_name_of_another_is_named_too() {
        // An object under the label of an erasure root with the id of the root in force: to destroy it by that
        // id destroys the root.
        let strays = unnamed(vec![standing(OWN, 3, "a")], &HashSet::from([id(3)]));
        assert_eq!(strays, []);
    }

    #[test]
    fn not_seen_is_not_none() {
        let strays = Strays::default();
        assert_eq!(strays.lock().warning(), None);
        strays.note(&Err(Error::NotReady("away".into())));
        let warned = strays.lock().warning().unwrap();
        assert!(warned.contains("could not be looked for") && warned.contains("away"), "{warned}");
        let stray = Stray { id: id(1), purpose: OWN, tokens: Vec::new() };
        strays.note(&Ok(vec![stray.clone()]));
        let warned = strays.lock().warning().unwrap();
        assert!(warned.contains("erasure status") && warned.contains(&id(1).to_string()), "{warned}");
        assert!(!warned.contains("could not"), "{warned}");
        // Nobody could look: what was there is told on.
        strays.note(&Err(Error::NotReady("away".into())));
        let looked = strays.lock().clone();
        assert_eq!(looked.found, [stray]);
        assert!(looked.at.is_some() && looked.failure.is_some());
        strays.note(&Ok(Vec::new()));
        assert_eq!(strays.lock().warning(), None);
    }

    #[test]
    fn only_what_may_be_of_another_installation_says_so() {
        for (purpose, own, says) in
            [(OWN, true, false), (Purpose::Root, true, false), (Purpose::Root, false, true)]
        {
            let words = Stray { id: id(1), purpose, tokens: Vec::new() }.brings_back(own);
            assert_eq!(words.contains("another installation"), says, "{words}");
        }
    }
}
