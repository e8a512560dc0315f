//! The vendor's library: loaded once, initialised and finalised for each connection.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki_sys::CK_MECHANISM_TYPE;

use crate::hsm::TokenInfo;
use crate::hsm::confine::HINT;
use crate::hsm::pkcs11::Settings;
use crate::hsm::pkcs11::error::{ConnectError, code, words};
use crate::hsm::pkcs11::raw::Raw;
use crate::hsm::pkcs11::token::Token;
use crate::id::token::TokenSelector;

/// A loaded library. It stays loaded: some vendors' libraries do not survive being unloaded.
pub(super) struct Library {
    path: PathBuf,
    context: Pkcs11,
    raw: Raw,
}

impl Library {
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, ConnectError> {
        let away = |reason: String| {
            ConnectError::Away(format!("cannot load the PKCS#11 module {}: {reason}", path.display()))
        };
        if !path.is_absolute() {
            return Err(away("the path must be absolute".to_owned()));
        }
        let context = Pkcs11::new(path).map_err(|error| away(format!("{}; {HINT}", words(&error))))?;
        let raw = Raw::load(path).map_err(away)?;
        Ok(Arc::new(Self { path: path.to_owned(), context, raw }))
    }

    /// Initialises the library and finds the one token that is asked for.
    pub(super) fn open(self: &Arc<Self>, settings: &Settings) -> Result<Module, ConnectError> {
        // Without OS locking SoftHSM crashes under several threads.
        let arguments = match &settings.init_args {
            None => CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK),
            Some(text) => Raw::initialize_with(text).map_err(|_| {
                ConnectError::Refused("hsm.init_args must not contain a zero byte".to_owned())
            })?,
        };
        self.context.initialize(arguments).map_err(|error| match code(&error) {
            Some(RvError::CryptokiAlreadyInitialized) => ConnectError::Away(format!(
                "the PKCS#11 module {} is in use by another part of this process",
                self.path.display()
            )),
            _ => ConnectError::Away(format!(
                "the PKCS#11 module does not start: {}; {}",
                words(&error),
                surroundings(settings)
            )),
        })?;
        let started = Started(Arc::clone(self));
        let tokens = started.tokens()?;
        let none = tokens.is_empty();
        let (slot, token) = choose(tokens, &settings.token).map_err(|reason| {
            // A module that may not read its folder of tokens shows none.
            ConnectError::Away(if none { format!("{reason}; {}", surroundings(settings)) } else { reason })
        })?;
        Ok(Module { started, slot, token })
    }
}

/// What usually is the matter with a library that says nothing: as whom it runs, and what of its surroundings that user
/// may not read.
fn surroundings(settings: &Settings) -> String {
    let mut words = format!("{HINT}; it runs as user {}", rustix::process::geteuid().as_raw());
    let mut named = false;
    for (name, path) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().ends_with(b"_CONF")) {
        named = true;
        let (name, path) = (name.display().to_string(), Path::new(&path).to_owned());
        words.push_str(&match std::fs::File::open(&path) {
            Ok(_) => format!("; {name} of its environment names {}", path.display()),
            Err(error) => format!(
                "; {name} of its environment names {}, which it may not read: {error}",
                path.display()
            ),
        });
    }
    if !named {
        words.push_str("; no variable of its environment names a configuration, so it reads its own");
    }
    for path in &settings.confinement.allow_paths {
        // A folder is opened like a file, to be read.
        if let Err(error) = std::fs::File::open(path) {
            words.push_str(&format!("; of hsm.allow_paths it may not read {}: {error}", path.display()));
        }
    }
    words
}

/// An initialised library; finalised when dropped.
struct Started(Arc<Library>);

impl Started {
    fn tokens(&self) -> Result<Vec<(Slot, TokenInfo)>, ConnectError> {
        let context = &self.0.context;
        let away = |error| ConnectError::Away(format!("cannot list the tokens: {}", words(&error)));
        let mut tokens = Vec::new();
        for slot in context.get_slots_with_token().map_err(away)? {
            let token = self.0.raw.token(slot).map_err(away)?;
            tokens.extend(token.initialized().then_some((slot, token.name)));
        }
        Ok(tokens)
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Err(error) = self.0.context.clone().finalize() {
            tracing::warn!("the PKCS#11 module did not finalise: {}", words(&error));
        }
    }
}

fn choose<S>(tokens: Vec<(S, TokenInfo)>, wanted: &TokenSelector) -> Result<(S, TokenInfo), String> {
    let present = list(&tokens);
    let mut matching: Vec<_> = tokens.into_iter().filter(|(_, token)| wanted.matches(token)).collect();
    match (matching.pop(), matching.len()) {
        (Some(only), 0) => Ok(only),
        (Some(_), _) if *wanted == TokenSelector::default() => {
            Err(format!("there are several tokens: say which; present: {present}"))
        }
        (None, _) if *wanted == TokenSelector::default() => {
            Err("the module shows no initialised token".to_owned())
        }
        (Some(_), more) => {
            Err(format!("{} tokens have {wanted}: add the serial number; present: {present}", more + 1))
        }
        (None, _) => Err(format!("no token has {wanted}; present: {present}")),
    }
}

fn list<S>(tokens: &[(S, TokenInfo)]) -> String {
    let words: Vec<String> =
        tokens.iter().map(|(_, token)| format!("{:?} (serial {})", token.label, token.serial)).collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}

/// An initialised library with the chosen token. Its sessions must be closed before it is dropped.
pub(super) struct Module {
    started: Started,
    slot: Slot,
    token: TokenInfo,
}

impl Module {
    pub(super) fn token(&self) -> &TokenInfo {
        &self.token
    }

    pub(super) fn context(&self) -> &Pkcs11 {
        &self.started.0.context
    }

    pub(super) fn raw(&self) -> &Raw {
        &self.started.0.raw
    }

    /// The numbers of all mechanisms that the token advertises.
    pub(super) fn mechanisms(&self) -> Result<Vec<CK_MECHANISM_TYPE>, Error> {
        self.raw().mechanisms(self.slot)
    }

    /// What the token says of itself now.
    pub(super) fn token_now(&self) -> Result<Token, Error> {
        self.raw().token(self.slot)
    }

    /// That the same token is still in the slot: one of the few answers that a
    /// module does not give from memory after its token has gone.
    pub(super) fn token_present(&self) -> Result<(), String> {
        let now = self.token_now().map_err(|error| words(&error))?.name;
        if now.serial == self.token.serial {
            Ok(())
        } else {
            Err(format!("the slot now holds the token with serial {}", now.serial))
        }
    }

    pub(super) fn session(&self, write: bool) -> Result<Session, ConnectError> {
        let context = self.context();
        let opened =
            if write { context.open_rw_session(self.slot) } else { context.open_ro_session(self.slot) };
        opened.map_err(|error| ConnectError::Away(format!("cannot open a session: {}", words(&error))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(label: &str, serial: &str) -> ((), TokenInfo) {
        ((), TokenInfo { label: label.into(), serial: serial.into(), ..TokenInfo::default() })
    }

    #[test]
    fn exactly_one_token_must_match() {
        let tokens = || vec![token("a", "1"), token("b", "2"), token("b", "3")];
        let choose = |wanted: &TokenSelector| choose(tokens(), wanted).map(|((), token)| token.serial);
        assert_eq!(choose(&TokenSelector::label("a")), Ok("1".to_owned()));
        let one_of_two = TokenSelector { serial: Some("3".into()), ..TokenSelector::label("b") };
        assert_eq!(choose(&one_of_two), Ok("3".to_owned()));
        assert_eq!(
            choose(&TokenSelector::label("b")),
            Err(r#"2 tokens have label "b": add the serial number; present: "a" (serial 1), "b" (serial 2), "b" (serial 3)"#.to_owned())
        );
        assert!(
            choose(&TokenSelector::label("c"))
                .unwrap_err()
                .starts_with(r#"no token has label "c"; present: "a""#)
        );
    }

    #[test]
    fn the_only_token_need_not_be_named() {
        let any = TokenSelector::default();
        assert_eq!(choose(vec![token("a", "1")], &any).unwrap().1.serial, "1");
        let several = choose(vec![token("a", "1"), token("b", "2")], &any).unwrap_err();
        assert!(several.starts_with("there are several tokens: say which; present: \"a\""), "{several}");
        assert!(choose(Vec::<((), TokenInfo)>::new(), &any).unwrap_err().contains("no initialised token"));
    }

    #[test]
    fn an_empty_list_says_so() {
        let none = choose(Vec::<((), TokenInfo)>::new(), &TokenSelector::label("c"));
        assert_eq!(none.unwrap_err(), r#"no token has label "c"; present: none"#);
    }

    #[test]
    fn a_relative_path_is_not_searched_for() {
        let error = Library::load(Path::new("libsofthsm2.so")).err().unwrap();
        assert!(error.to_string().contains("must be absolute"), "{error}");
    }
}
