//! What the card remembers beside its application: policies of keys, counters, objects of Yubico's.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// A key that was made in a slot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Key {
    /// NIST SP 800-78-4, table 6-2.
    pub algorithm: u8,
    /// 1 never, 2 once, 3 always.
    pub pin: u8,
    /// 1 never, 2 always, 3 cached for 15 seconds.
    pub touch: u8,
    /// The objects of the public key, in hexadecimal.
    pub public: String,
}

/// The management key, as metadata show it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Management {
    pub algorithm: u8,
    pub touch: u8,
    pub default: bool,
}

/// A secret that a person enters, and its tries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Secret {
    pub left: u8,
    pub default: bool,
}

impl Secret {
    /// Tries of the application, for PIN and PUK.
    pub const PIN_TRIES: u8 = 3;
    pub const PUK_TRIES: u8 = 3;

    fn new(tries: u8) -> Self {
        Self { left: tries, default: true }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct State {
    pub keys: BTreeMap<u8, Key>,
    pub pin: Secret,
    pub puk: Secret,
    pub management: Management,
    /// By the last byte of their tag 5FFFxx, in hexadecimal.
    pub objects: BTreeMap<u8, String>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            pin: Secret::new(Secret::PIN_TRIES),
            puk: Secret::new(Secret::PUK_TRIES),
            management: Management { algorithm: 3, touch: 1, default: true },
            objects: BTreeMap::new(),
        }
    }
}

/// The state, and the file that it survives in.
pub struct Memory {
    file: PathBuf,
    pub state: State,
}

impl Memory {
    /// Whether a card was kept in this folder before.
    pub fn exists(folder: &Path) -> bool {
        Self::file(folder).exists()
    }

    fn file(folder: &Path) -> PathBuf {
        folder.join("state.json")
    }

    pub fn open(folder: &Path) -> io::Result<Self> {
        let file = Self::file(folder);
        let state = match std::fs::read(&file) {
            Ok(text) => serde_json::from_slice(&text)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(error) => return Err(error),
        };
        Ok(Self { file, state })
    }

    /// Changes the state, on disk too before it answers.
    pub fn change<T>(&mut self, change: impl FnOnce(&mut State) -> T) -> T {
        let changed = change(&mut self.state);
        let new = self.file.with_extension("new");
        std::fs::write(&new, serde_json::to_vec_pretty(&self.state).expect("JSON")).expect("the state");
        std::fs::rename(new, &self.file).expect("the state");
        changed
    }
}
