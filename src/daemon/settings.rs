//! From configuration to the settings of each part.

use std::path::{Path, PathBuf};

use crate::audit::file;
use crate::config::value::{KnownBy, Touch};
use crate::config::{self, Config, Standby};
use crate::hsm::confine::{Confinement, Mode};
use crate::hsm::pin::PinSource;
use crate::hsm::pkcs11;
use crate::hsm::process::{self, Slot};
use crate::id::token::{TokenUri, UriError};
use crate::keyring::account::{Asked, Assurance};
use crate::modes::{self, Owners, Untrusted};
use crate::ops::login::evidence::{Rules, Unfit, authority};
use crate::ops::schedule::Node;
use crate::ops::{erasure, vault};
use crate::token::attestation::Anchors;

use super::child;

/// Why an option cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("hsm.token: {0}")]
pub struct TokenError(#[from] UriError);

/// The HSM's settings.
///
/// # Errors
/// [`TokenError`] when `hsm.token` is a PKCS#11 URI that is not one.
pub fn hsm(config: &Config) -> Result<process::Settings, TokenError> {
    let hsm = &config.hsm;
    let primary = Slot {
        hsm: pkcs11::Settings {
            module: hsm.module.clone(),
            init_args: hsm.init_args.clone(),
            token: token(&hsm.token)?.within(&hsm.module)?,
            state_dir: config.state_dir.clone(),
            sessions: hsm.sessions,
            kek_cache: hsm.kek_cache,
            kek_ttl: hsm.kek_ttl.0,
            kek_uses: hsm.kek_uses,
            probe_interval: hsm.probe_interval.0,
            max_objects: hsm.max_objects,
            confinement: confinement(config),
        },
        pin: pin(hsm.pin_file.as_ref(), hsm.pin_credential.as_ref()),
    };
    let standby = hsm.standby.iter().map(|other| standby(&primary, other));
    let others: Vec<Slot> = standby.collect::<Result<_, _>>()?;
    let mut slots = vec![primary];
    slots.extend(others);
    Ok(process::Settings {
        slots,
        queue: hsm.queue,
        deadline: hsm.deadline.0,
        memory: hsm.memory.0,
        program: child::program(&config.log, config.secret_memory),
    })
}

/// What the library may reach, and what it must not.
fn confinement(config: &Config) -> Confinement {
    let hsm = &config.hsm;
    let database = config.database();
    let beside = ["-wal", "-shm"].map(|suffix| {
        let mut path = database.clone().into_os_string();
        path.push(suffix);
        PathBuf::from(path)
    });
    let pins = hsm.standby.iter().map(|standby| &standby.pin_file).chain([&hsm.pin_file]);
    let mut kept = vec![config.state_dir.clone(), config.journal(), config.audit_dir(), config.file.clone()];
    kept.extend(pins.flatten().cloned());
    kept.extend(beside);
    kept.push(database);
    let file = std::path::absolute(&config.file).unwrap_or_else(|_| config.file.clone());
    // One that lies among the system's own files is kept alone.
    let shared = ["/", "/etc", "/usr/local/etc", "/tmp", "/var/tmp", "/dev/shm", "/opt"].map(Path::new);
    let folder = file.parent().filter(|folder| !shared.contains(folder));
    Confinement {
        mode: match hsm.confinement {
            config::Confinement::Required => Mode::Required,
            config::Confinement::BestEffort => Mode::BestEffort,
        },
        allow_paths: hsm.allow_paths.clone(),
        allow_network: hsm.allow_network,
        kept,
        configuration: folder.map(Path::to_owned),
    }
}

/// That nobody else may write what the daemon rests on: state, audit log, journal, store, configuration,
/// and the libraries. As root also for a daemon that runs as the owner of the state directory, when
/// nothing is started but only looked at.
///
/// # Errors
/// [`Untrusted`] for the first that somebody may, with the command that mends it.
pub(super) fn check_hands(config: &Config, looking: bool) -> Result<(), Untrusted> {
    let owners = Owners::of_this_process();
    let owners = if looking { owners.or_owner_of(&config.state_dir) } else { owners };
    let (database, journal, audit) = (config.database(), config.journal(), config.audit_dir());
    let files = [
        ("the configuration", config.file.as_path()),
        ("the state directory", config.state_dir.as_path()),
        ("the store", database.as_path()),
        ("the journal", journal.as_path()),
        ("the audit log", audit.as_path()),
    ];
    // Those that are loaded, whether an option names them or a URI; without a good one nothing is.
    let slots = hsm(config).map(|hsm| hsm.slots).unwrap_or_default();
    let modules = slots.iter().map(|slot| ("the PKCS#11 module", slot.hsm.module.as_path()));
    for (what, path) in files.into_iter().chain(modules) {
        modes::written_by_none_but(&owners, what, path)?;
    }
    Ok(())
}

/// What a standby does not say is as in the primary.
fn standby(primary: &Slot, standby: &Standby) -> Result<Slot, TokenError> {
    let uri = token(&standby.token)?;
    let module = standby.module.as_ref().or(uri.module.as_ref()).unwrap_or(&primary.hsm.module).clone();
    let token = uri.within(&module)?;
    let own_pin = standby.pin_file.is_some() || standby.pin_credential.is_some();
    Ok(Slot {
        hsm: pkcs11::Settings { module, token, ..primary.hsm.clone() },
        pin: match own_pin {
            true => pin(standby.pin_file.as_ref(), standby.pin_credential.as_ref()),
            false => primary.pin.clone(),
        },
    })
}

/// A token by its label or a PKCS#11 URI, which may also name the library.
///
/// # Errors
/// [`TokenError`] when it is a PKCS#11 URI that is not one.
pub fn token(text: &str) -> Result<TokenUri, TokenError> {
    match text.starts_with("pkcs11:") {
        true => Ok(TokenUri::parse(text)?),
        false => Ok(TokenUri::label(text)),
    }
}

fn pin(file: Option<&PathBuf>, credential: Option<&String>) -> PinSource {
    match (file, credential) {
        (Some(path), _) => PinSource::File(path.clone()),
        (None, Some(name)) => PinSource::Credential(name.clone()),
        // The configuration's check demands one of the two.
        (None, None) => PinSource::Prompt,
    }
}

/// The audit log's settings; `create` only when an installation is made.
pub fn audit(config: &Config, create: bool) -> file::Settings {
    file::Settings {
        create,
        segment_bytes: config.audit.segment.0,
        reserve_bytes: config.audit.reserve.0,
        ..file::Settings::new(config.audit_dir())
    }
}

/// The vault's settings.
///
/// # Errors
/// [`RootsError`] when a root of attestations cannot be read.
pub fn vault(config: &Config, node: Node) -> Result<vault::Settings, RootsError> {
    Ok(vault::Settings {
        limits: config.limits.clone(),
        classes: config.class.clone(),
        list_decrypted_items: config.audit.list_decrypted_items,
        checkpoint_interval: config.audit.checkpoint_interval.0,
        challenge_ttl: config.login.challenge_ttl.0,
        assertion_ttl: config.login.assertion_ttl.0,
        login: login(&config.login)?,
        erasure: erasure::Settings { replace_every: config.erasure.replace_every.0 },
        lifecycle: vault::Lifecycle {
            rotation: config.rotation.clone(),
            destruction: config.destruction.clone(),
            clock: config.clock.clone(),
            node,
        },
    })
}

/// A root of attestations cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("login.{0}: {1}: {2}")]
pub struct RootsError(&'static str, String, String);

/// What is wrong with the files of `[login]`. Those of the company's authority are read at each login, and passed over then
/// where they are not what they must be.
pub(super) fn check_login(config: &config::Login) -> Vec<RootsError> {
    let (roots, lists) = (&config.corporate_roots, &config.corporate_crls);
    let files = [("corporate_roots", authority(roots, &[]).1), ("corporate_crls", authority(&[], lists).1)];
    let faults = files.into_iter().flat_map(|(key, unfit)| {
        unfit.into_iter().map(move |Unfit { path, why, .. }| RootsError(key, path.display().to_string(), why))
    });
    login(config).err().into_iter().chain(faults).collect()
}

fn login(config: &config::Login) -> Result<Rules, RootsError> {
    let mut anchors = if config.yubico_roots { Anchors::yubico() } else { Anchors::default() };
    for path in &config.attestation_roots {
        let failed = |error: String| RootsError("attestation_roots", path.display().to_string(), error);
        let file = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
        anchors.add(&file).map_err(failed)?;
    }
    let accepted = config.assurance.iter().map(|known| match known {
        KnownBy::Attested => Assurance::Attested,
        KnownBy::Certified => Assurance::Certified,
        KnownBy::Witnessed => Assurance::Witnessed,
    });
    Ok(Rules {
        accepted: accepted.collect(),
        minimum_firmware: config.minimum_firmware.0,
        touch: match config.touch {
            Touch::Any => Asked::Never,
            Touch::Cached => Asked::Once,
            Touch::Always => Asked::Always,
        },
        anchors,
        roots: config.corporate_roots.clone(),
        lists: config.corporate_crls.clone(),
    })
}
