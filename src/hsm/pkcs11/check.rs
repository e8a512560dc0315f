//! The report of `keyward hsm check`: what a module and its token can do.

use std::borrow::Cow;
use std::time::Instant;

use cryptoki::error::Error;
use cryptoki::session::Session;
use serde::{Deserialize, Serialize};

use crate::hsm::birth::Purpose;
use crate::hsm::confine::Confined;
use crate::hsm::pin::RefusedPins;
use crate::hsm::pkcs11::Settings;
use crate::hsm::pkcs11::error::{ConnectError, words};
use crate::hsm::pkcs11::login::login;
use crate::hsm::pkcs11::mechanisms;
use crate::hsm::pkcs11::module::{Library, Module};
use crate::hsm::pkcs11::primitive::{self, IV_LEN, Usage};
use crate::hsm::pkcs11::quirks::{self, Quirk};
use crate::hsm::pkcs11::root;
use crate::hsm::pkcs11::selftest::{self, SelfTest};
use crate::hsm::pkcs11::token::Token;
use crate::secret::Pin;

/// What was found.
#[derive(Debug, Serialize, Deserialize)]
pub struct CheckReport {
    /// The library's name and version.
    pub library: String,
    /// The version of the PKCS#11 interface.
    pub cryptoki: String,
    /// The token's label.
    pub label: String,
    /// The token's serial number.
    pub serial: String,
    /// Who made it.
    pub manufacturer: String,
    /// Its model.
    pub model: String,
    /// Its firmware version.
    pub firmware: String,
    /// Most sessions at a time; `None`: the token does not say, or has no limit.
    pub max_sessions: Option<u64>,
    /// Most of them that may change token objects.
    pub max_rw_sessions: Option<u64>,
    /// Bytes free for private objects, when the token says.
    pub free_private_memory: Option<u64>,
    /// Shortest and longest PIN in bytes.
    pub pin_length: (u64, u64),
    /// The mechanisms that the token advertises, by name, in order.
    pub mechanisms: Vec<String>,
    /// What it does.
    pub selftest: SelfTest,
    /// Names of the Keyward root keys on it.
    pub roots: Vec<String>,
    /// What is known about it.
    pub quirks: Vec<KnownQuirk>,
    /// Rough timings, one session, mean of a few calls.
    pub timings: Vec<Timing>,
    /// The `[hsm]` table for `keywardd.toml`, when Keyward would use it.
    pub configuration: Option<String>,
    /// Whether Keyward would use it.
    pub usable: bool,
    /// The same in words.
    pub verdict: String,
    /// What the process in which it was examined may not do.
    #[serde(default)]
    pub confinement: Confined,
}

/// A row of the [table of quirks](quirks::TABLE).
#[derive(Debug, Serialize, Deserialize)]
pub struct KnownQuirk {
    /// Whose tokens.
    pub manufacturer: String,
    /// Which model; empty for all.
    pub model: String,
    /// What the module does.
    pub behaviour: String,
    /// What that costs.
    pub lost: String,
}

impl From<&Quirk> for KnownQuirk {
    fn from(quirk: &Quirk) -> Self {
        Self {
            manufacturer: quirk.manufacturer.to_owned(),
            model: quirk.model.to_owned(),
            behaviour: quirk.behaviour.to_owned(),
            lost: quirk.lost.to_owned(),
        }
    }
}

/// How long one call takes.
#[derive(Debug, Serialize, Deserialize)]
pub struct Timing {
    /// The call.
    pub operation: Cow<'static, str>,
    /// Microseconds.
    pub micros: f64,
}

/// Examines module and token. No service may use the module in this process meanwhile.
///
/// # Errors
/// [`ConnectError`] when it does not come to a login or the token cannot be described.
pub fn check(settings: &Settings, pin: &Pin) -> Result<CheckReport, ConnectError> {
    let module = Library::load(&settings.module)?.open(settings)?;
    let session = module.session(false)?;
    login(&module, &session, pin, &RefusedPins::in_dir(&settings.state_dir))?;
    report(settings, &module, &session).map_err(|error| ConnectError::Away(words(&error)))
}

fn report(settings: &Settings, module: &Module, session: &Session) -> Result<CheckReport, Error> {
    let library = module.context().get_library_info()?;
    let info = module.token_now()?;
    let token = module.token().clone();
    let selftest = selftest::heard_when_bad(module, session);
    let failure = selftest.failure();
    Ok(CheckReport {
        library: format!("{} {}", library.library_description(), library.library_version()),
        cryptoki: library.cryptoki_version().to_string(),
        firmware: info.firmware.clone(),
        max_sessions: info.max_sessions,
        free_private_memory: info.free_private_memory,
        pin_length: info.pin_length,
        mechanisms: advertised(module)?,
        max_rw_sessions: info.max_rw_sessions,
        configuration: failure.is_none().then(|| configuration(settings, &info)),
        roots: root::list(session, Purpose::Root)?.iter().map(ToString::to_string).collect(),
        quirks: quirks::of(&token).into_iter().map(KnownQuirk::from).collect(),
        timings: if failure.is_none() { timings(session)? } else { Vec::new() },
        usable: failure.is_none(),
        verdict: failure
            .map_or_else(|| "fit for use".to_owned(), |reason| format!("must not be used: {reason}")),
        // Whoever asked for the report knows it.
        confinement: Confined::default(),
        selftest,
        label: token.label,
        serial: token.serial,
        manufacturer: token.manufacturer,
        model: token.model,
    })
}

/// By name, in order; those that the standard does not know come first, by number.
fn advertised(module: &Module) -> Result<Vec<String>, Error> {
    let mut names: Vec<String> = module.mechanisms()?.into_iter().map(mechanisms::name).collect();
    names.sort();
    Ok(names)
}

/// The beginning of a configuration for this token, to be copied.
fn configuration(settings: &Settings, token: &Token) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
    let mut lines = vec![
        "[hsm]".to_owned(),
        format!("module = {}", quoted(&settings.module.display().to_string())),
        format!("token = {}", quoted(&format!("pkcs11:serial={}", encoded(&token.name.serial)))),
    ];
    lines.extend(settings.init_args.iter().map(|text| format!("init_args = {}", quoted(text))));
    if let Some(most) = token.max_sessions {
        // One session holds the login.
        let sessions = most.saturating_sub(1).clamp(1, Settings::SESSIONS as u64);
        lines.push(format!("sessions = {sessions}  # the token has {most}, one of which holds the login"));
    }
    let confinement = &settings.confinement;
    if !confinement.allow_paths.is_empty() {
        let paths = confinement.allow_paths.iter().map(|path| quoted(&path.display().to_string()));
        lines.push(format!("allow_paths = [{}]", paths.collect::<Vec<_>>().join(", ")));
    }
    if confinement.allow_network {
        lines.push("allow_network = true".to_owned());
    }
    lines.push("pin_credential = \"hsm-pin\"".to_owned());
    lines.join("\n")
}

/// Percent-encoding of everything that has a meaning in a PKCS#11 URI (RFC 7512, section 2.3).
fn encoded(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._".contains(byte);
    let one = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

/// Calls for each timing.
const ROUNDS: u32 = 64;

fn timings(session: &Session) -> Result<Vec<Timing>, Error> {
    let root = primitive::generate(session, Usage::Wrap, false)?;
    let key = primitive::generate(session, Usage::Cipher, true)?;
    let wrapped = primitive::wrap(session, root, key)?;
    let iv = [0; IV_LEN];
    let (sealed, _) = primitive::gcm_encrypt(session, key, iv, b"", &[0; 32])?;
    let measured = vec![
        time("random 32 bytes", || session.generate_random_slice(&mut [0; 32]))?,
        time("generate and destroy an AES key", || {
            session.destroy_object(primitive::generate(session, Usage::None, true)?)
        })?,
        time("wrap a KEK", || primitive::wrap(session, root, key).map(drop))?,
        time("unwrap and destroy a KEK", || {
            session.destroy_object(primitive::unwrap(
                session,
                root,
                &wrapped,
                &primitive::kek([0; 16], false),
            )?)
        })?,
        time("seal a 32-byte key", || primitive::gcm_encrypt(session, key, iv, b"", &[0; 32]).map(drop))?,
        time("open a 32-byte key", || primitive::gcm_decrypt(session, key, iv, b"", &sealed).map(drop))?,
    ];
    session.destroy_object(key)?;
    session.destroy_object(root)?;
    Ok(measured)
}

fn time(operation: &'static str, mut call: impl FnMut() -> Result<(), Error>) -> Result<Timing, Error> {
    let start = Instant::now();
    (0..ROUNDS).try_for_each(|_| call())?;
    let micros = start.elapsed().as_secs_f64() * 1e6 / f64::from(ROUNDS);
    Ok(Timing { operation: Cow::Borrowed(operation), micros })
}
