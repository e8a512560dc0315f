//! A token: what is there still when a connection, a process or the daemon is not.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use keyward::hsm::birth::Purpose;
use keyward::hsm::figures::Objects;
use keyward::hsm::pkcs11;
use keyward::id::RootId;
use keyward::id::token::TokenInfo;
use keyward::secret::Key256;

use crate::{MARKER, crypto};

/// A token with its objects. Clones are the same token: one HSM after the other may use it, as one daemon
/// after the other uses a real one.
#[derive(Clone)]
pub struct Token(Arc<Mutex<State>>);

pub(crate) struct State {
    info: TokenInfo,
    objects: BTreeMap<RootId, Object>,
    destroyed: Vec<(RootId, Purpose)>,
    max_objects: usize,
}

/// A master key.
struct Object {
    purpose: Purpose,
    key: Key256,
}

impl Default for Token {
    fn default() -> Self {
        Self::new("memory")
    }
}

impl Token {
    /// A token with this label, and no objects.
    pub fn new(label: &str) -> Self {
        let info = TokenInfo {
            label: label.to_owned(),
            serial: "0001".to_owned(),
            manufacturer: MARKER.to_owned(),
            model: "memory".to_owned(),
        };
        let (objects, destroyed) = (BTreeMap::new(), Vec::new());
        let max_objects = pkcs11::Settings::MAX_OBJECTS;
        Self(Arc::new(Mutex::new(State { info, objects, destroyed, max_objects })))
    }

    /// What it calls itself.
    pub fn info(&self) -> TokenInfo {
        self.with(|state| state.info.clone())
    }

    /// Its master keys, by name.
    pub fn objects(&self) -> Vec<(RootId, Purpose)> {
        self.with(|state| state.objects.iter().map(|(id, object)| (*id, object.purpose)).collect())
    }

    /// Its master keys for this purpose.
    pub fn roots(&self, purpose: Purpose) -> Vec<RootId> {
        self.with(|state| state.roots(purpose))
    }

    /// What an HSM was told to destroy and did, in that order, since the token was made.
    pub fn destroyed(&self) -> Vec<(RootId, Purpose)> {
        self.with(|state| state.destroyed.clone())
    }

    /// Another token with the same objects, of which none was destroyed yet: what is done to one is not done to
    /// the other.
    #[must_use]
    pub fn copy(&self) -> Self {
        self.with(|state| {
            let twin = |(id, Object { purpose, key }): (&RootId, &Object)| {
                (*id, Object { purpose: *purpose, key: key.duplicate() })
            };
            Self(Arc::new(Mutex::new(State {
                info: state.info.clone(),
                objects: state.objects.iter().map(twin).collect(),
                destroyed: Vec::new(),
                max_objects: state.max_objects,
            })))
        })
    }

    /// Puts a master key there that nobody asked an HSM for: a stray one.
    pub fn plant(&self, purpose: Purpose) -> RootId {
        let id = RootId::random().expect("randomness");
        let key = crypto::new_key().expect("randomness");
        self.with(|state| state.objects.insert(id, Object { purpose, key }));
        id
    }

    /// Takes a master key away behind the HSM's back; `false` when it has none of that name. It does not
    /// stand among those that were destroyed.
    pub fn remove(&self, id: RootId) -> bool {
        self.with(|state| state.objects.remove(&id).is_some())
    }

    /// How many objects Keyward may have on it; at this number no resident KEK is made any more.
    pub fn set_max_objects(&self, most: usize) {
        self.with(|state| state.max_objects = most);
    }

    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    pub(crate) fn roots(&self, purpose: Purpose) -> Vec<RootId> {
        let of = |object: &Object| object.purpose == purpose;
        self.objects.iter().filter(|(_, object)| of(object)).map(|(id, _)| *id).collect()
    }

    /// A master key and what it is for.
    pub(crate) fn get(&self, id: &RootId) -> Option<(Key256, Purpose)> {
        self.objects.get(id).map(|object| (object.key.duplicate(), object.purpose))
    }

    pub(crate) fn put(&mut self, id: RootId, purpose: Purpose, key: Key256) {
        self.objects.insert(id, Object { purpose, key });
    }

    pub(crate) fn destroy(&mut self, id: RootId) {
        if let Some(object) = self.objects.remove(&id) {
            self.destroyed.push((id, object.purpose));
        }
    }

    pub(crate) fn count(&self) -> Objects {
        let total = self.objects.len();
        Objects { total, own: total, limit: self.max_objects }
    }
}
