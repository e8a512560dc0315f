//! A configuration, checked on this machine before it is put in force: all that is wrong, not the first of it alone.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::run::RunError;
use super::{hardening, settings};
use crate::access::Principals;
use crate::config::Config;
use crate::hsm::pin::PinSource;
use crate::ops::schedule::Node;
use crate::ops::vault;

/// What a check of a configuration finds.
#[derive(Debug, Default)]
pub struct Checked {
    /// What `run` or a login would refuse.
    pub faults: Vec<RunError>,
    /// What is no fault and still worth a word.
    pub warnings: Vec<String>,
}

/// What is to be said of `server.allow_own_user`.
const OWN_USER_ALLOWED: &str = "server.allow_own_user: whatever runs as the daemon's user, the PKCS#11 library too, may call as a principal";

/// Checks of a configuration what can be checked without starting: principals, tokens and their libraries, the files of
/// `[login]`, and who may write what the daemon rests on.
pub fn check(config: &Config) -> Checked {
    // PINs are read, by the rules that hold for whoever holds them.
    let hardened = hardening::harden(config.secret_memory).err().map(RunError::from);
    // Whoever checks may be another user than the daemon, whose the state is; before there is any, nobody knows.
    let daemon = std::fs::metadata(&config.state_dir).map(|state| state.uid()).ok();
    let (_, mut found) = principals(config, daemon);
    // Whoever starts it so knows; whoever has it checked may not.
    found.warnings.extend(config.server.allow_own_user.then(|| OWN_USER_ALLOWED.to_owned()));
    found.faults.extend(hardened);
    found.faults.extend(tokens(config));
    found.faults.extend(login_and_hands(config));
    found
}

/// A configuration without a fault, as a running daemon needs it.
pub(super) struct Prepared {
    pub(super) config: Config,
    pub(super) principals: Principals,
    pub(super) vault: vault::Settings,
    pub(super) warnings: Vec<String>,
}

/// Prepares a configuration for a daemon that runs, as this user, since it has read `started`.
///
/// # Errors
/// Everything that is wrong with it.
pub(super) fn prepare(config: Config, node: Node, started: &Config) -> Result<Prepared, Vec<String>> {
    let daemon = rustix::process::geteuid().as_raw();
    let (principals, Checked { mut faults, mut warnings }) = principals(&config, Some(daemon));
    faults.extend(login_and_hands(&config));
    let tokens = tokens(&config);
    // What this file does not change must not keep it from taking a right away.
    match config.hsm == started.hsm {
        true => warnings.extend(tokens.iter().map(|fault| format!("the next start would fail: {fault}"))),
        false => faults.extend(tokens),
    }
    let words = |faults: Vec<RunError>| faults.iter().map(ToString::to_string).collect();
    match settings::vault(&config, node) {
        Ok(vault) if faults.is_empty() => Ok(Prepared { config, principals, vault, warnings }),
        // What is wrong with the vault's settings is among the faults.
        _ => Err(words(faults)),
    }
}

/// Who may call, where the daemon runs as `daemon`.
pub(super) fn principals(config: &Config, daemon: Option<u32>) -> (Principals, Checked) {
    let own_user = daemon.filter(|_| !config.server.allow_own_user);
    let (principals, faults) = Principals::resolve(&config.principals, own_user);
    let warnings = principals.warnings();
    (principals, Checked { faults: faults.into_iter().map(RunError::from).collect(), warnings })
}

/// What is wrong with the tokens: their names, libraries and PIN files.
fn tokens(config: &Config) -> Vec<RunError> {
    let slots = match settings::hsm(config) {
        Ok(hsm) => hsm.slots,
        Err(error) => return vec![error.into()],
    };
    let files = slots.iter().filter(|slot| matches!(slot.pin, PinSource::File(_)));
    let pins = files.filter_map(|slot| slot.pin.read().err()).map(RunError::from);
    slots.iter().filter_map(|slot| unreadable(&slot.hsm.module)).chain(pins).collect()
}

/// What is wrong with the files of `[login]`, and with who may write what the daemon rests on.
fn login_and_hands(config: &Config) -> Vec<RunError> {
    let login = settings::check_login(&config.login);
    let mut faults: Vec<_> = login.into_iter().map(RunError::from).collect();
    faults.extend(settings::check_hands(config, true).err().map(RunError::from));
    faults
}

/// Why a library cannot be loaded, if it is not even there.
fn unreadable(module: &Path) -> Option<RunError> {
    let failed = std::fs::File::open(module).err()?;
    Some(RunError::Module(module.display().to_string(), failed))
}
