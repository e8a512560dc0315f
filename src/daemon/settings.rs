//! From configuration to the settings of each part.

use crate::audit::file;
use crate::config::Config;
use crate::hsm::pin::PinSource;
use crate::hsm::pkcs11::{self, TokenSelector, uri::TokenUri};
use crate::ops::vault;

/// Why an option cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("hsm.token: {0}")]
pub struct TokenError(#[from] pkcs11::uri::UriError);

/// The HSM's settings.
///
/// # Errors
/// [`TokenError`] when `hsm.token` is a PKCS#11 URI that is not one.
pub fn hsm(config: &Config) -> Result<pkcs11::Settings, TokenError> {
    let hsm = &config.hsm;
    Ok(pkcs11::Settings {
        module: hsm.module.clone(),
        token: token(&hsm.token)?,
        pin: pin(config),
        state_dir: config.state_dir.clone(),
        sessions: hsm.sessions,
        queue: hsm.queue,
        deadline: hsm.deadline.0,
        kek_cache: hsm.kek_cache,
        probe_interval: hsm.probe_interval.0,
    })
}

/// A token by its label or a PKCS#11 URI.
///
/// # Errors
/// [`TokenError`] when it is a PKCS#11 URI that is not one.
pub fn token(text: &str) -> Result<TokenSelector, TokenError> {
    match text.starts_with("pkcs11:") {
        true => Ok(TokenUri::parse(text)?.token),
        false => Ok(TokenSelector::label(text)),
    }
}

fn pin(config: &Config) -> PinSource {
    match (&config.hsm.pin_file, &config.hsm.pin_credential) {
        (Some(path), _) => PinSource::File(path.clone()),
        (None, Some(name)) => PinSource::Credential(name.clone()),
        // The configuration's check demands one of the two.
        (None, None) => PinSource::Prompt,
    }
}

/// The audit log's settings; `create` only when an installation is made.
pub(super) fn audit(config: &Config, create: bool) -> file::Settings {
    file::Settings {
        create,
        segment_bytes: config.audit.segment.0,
        reserve_bytes: config.audit.reserve.0,
        ..file::Settings::new(config.audit_dir())
    }
}

/// The vault's settings.
pub(super) fn vault(config: &Config) -> vault::Settings {
    vault::Settings {
        limits: config.limits.clone(),
        classes: config.class.clone(),
        list_decrypted_items: config.audit.list_decrypted_items,
    }
}
