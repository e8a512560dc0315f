//! Which token, which keys, and where the PIN comes from: the same for every command that uses one.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use secrecy::ExposeSecret;
use zeroize::Zeroizing;

use crate::cli::Shell;
use crate::cli::failure::Failure;
use crate::cli::view::plain;
use crate::daemon;
use crate::hsm::pin::PinSource;
use crate::id::token::{TokenInfo, TokenSelector, TokenUri};
use crate::keyring::credential::{Credential, CredentialId, TokenAlgorithm, TokenKind};
use crate::keyring::custodian::AgreementKey;
use crate::keyring::public_key::KeyType;
use crate::secret::{Key256, Pin, SecretMemory};
use crate::token::client::{Settings, TokenProcess};
use crate::token::envelope::Envelope;
use crate::token::error::{PinTrouble, TokenError};
use crate::token::wire::{Asked, KeySelector, KeyUse, PinState, Secret, TokenKey, TokenReport};

const MODULE_VARIABLE: &str = "KEYWARD_TOKEN_MODULE";

/// The token.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModuleArgs {
    /// PKCS#11 library of the token [default: $KEYWARD_TOKEN_MODULE]
    #[arg(long, value_name = "FILE")]
    module: Option<PathBuf>,
    /// The token is a PIV card, such as a YubiKey, reached through PC/SC: slots 9a (login), 9c (sign), 9d (agree)
    #[arg(long, conflicts_with = "module")]
    piv: bool,
    /// Token: its label, serial:NUMBER, or a PKCS#11 URI; when several are plugged in
    #[arg(long, value_name = "TOKEN", value_parser = selector)]
    token: Option<TokenUri>,
    /// Wait until the token is plugged in
    #[arg(long)]
    wait: bool,
    /// Longest wait for an answer of the token, with touching it
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = timeout)]
    timeout: Duration,
}

/// The token, its keys and its PIN.
#[derive(Debug, Clone, Args)]
pub(crate) struct TokenArgs {
    #[command(flatten)]
    pub(crate) module: ModuleArgs,
    /// Key that signs: its label, or id:HEX [default: the one that `token generate` made]
    #[arg(long, value_name = "KEY", value_parser = KeySelector::parse)]
    key: Option<KeySelector>,
    /// Key that shares are encrypted to, in the same way
    #[arg(long, value_name = "KEY", value_parser = KeySelector::parse)]
    agreement_key: Option<KeySelector>,
    /// How an RSA key signs: the same each time as when it was put on record
    #[arg(long, value_name = "PADDING", value_enum, default_value_t = RsaPadding::Pss)]
    rsa_padding: RsaPadding,
    #[command(flatten)]
    pub(crate) pin: PinArgs,
}

/// How an RSA key signs (RFC 8017).
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum RsaPadding {
    /// RSASSA-PSS
    Pss,
    /// RSASSA-PKCS1-v1_5, for tokens that know nothing else
    Pkcs1,
}

/// Where the PIN comes from: the terminal, unless a script says otherwise.
#[derive(Debug, Clone, Args)]
pub(crate) struct PinArgs {
    /// File with the PIN, for scripts; otherwise it is asked for on the terminal
    #[arg(long, value_name = "FILE", conflicts_with = "pin_fd")]
    pin_file: Option<PathBuf>,
    /// Open file descriptor to read the PIN from, for scripts
    #[arg(long, value_name = "NUMBER")]
    pin_fd: Option<u32>,
    /// Program that asks for the PIN in a window, where there is no terminal: pinentry of GnuPG
    #[arg(long, value_name = "PROGRAM", conflicts_with_all = ["pin_file", "pin_fd"])]
    pinentry: Option<PathBuf>,
    /// Try the PIN although a wrong one locks the token
    #[arg(long)]
    last_try: bool,
}

/// From a second to an hour; a token that makes a key may take five times as long.
fn timeout(text: &str) -> Result<Duration, String> {
    let span = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    match (Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&span) {
        true => Ok(span),
        false => Err("expected a time from 1s to 1h".to_owned()),
    }
}

/// A label, `serial:NUMBER`, or a PKCS#11 URI (RFC 7512).
fn selector(text: &str) -> Result<TokenUri, String> {
    match text.strip_prefix("serial:") {
        Some("") => Err("name the serial number behind `serial:`".to_owned()),
        Some(serial) => {
            let token = TokenSelector { serial: Some(serial.to_owned()), ..TokenSelector::default() };
            Ok(TokenUri { token, module: None })
        }
        None => daemon::token_uri(text).map_err(|error| error.to_string()),
    }
}

/// A failure of a token, with its reason.
pub(crate) fn failure(error: TokenError) -> Failure {
    let reason = match &error {
        TokenError::Module(_) => "TOKEN_MODULE",
        TokenError::NoToken(_) => "TOKEN_MISSING",
        TokenError::Pin(
            PinTrouble::LastTry
            | PinTrouble::LastPukTry
            | PinTrouble::Wrong(PinState::LastTry, _)
            | PinTrouble::WrongPuk(Some(1)),
        ) => "TOKEN_PIN_LAST_TRY",
        TokenError::Pin(
            PinTrouble::Locked
            | PinTrouble::NotSet
            | PinTrouble::Expired
            | PinTrouble::Wrong(PinState::Locked, _),
        ) => "TOKEN_PIN_UNUSABLE",
        TokenError::Pin(PinTrouble::PukLocked | PinTrouble::WrongPuk(Some(0))) => "TOKEN_PUK_LOCKED",
        TokenError::Pin(PinTrouble::Wrong(..) | PinTrouble::WrongPuk(_) | PinTrouble::Malformed) => {
            "TOKEN_PIN_WRONG"
        }
        TokenError::Key(_) => "TOKEN_KEY",
        TokenError::Refused(_) => "TOKEN_REFUSED",
        TokenError::Failed(_) => "TOKEN_FAILED",
        TokenError::Lost(_) => "TOKEN_LOST",
        TokenError::Busy(_) => "TOKEN_BUSY",
        TokenError::Untouched => "TOKEN_UNTOUCHED",
    };
    Failure::Refused { reason, message: error.to_string() }
}

impl ModuleArgs {
    /// How the token is reached.
    fn kind(&self) -> TokenKind {
        if self.piv { TokenKind::Piv } else { TokenKind::Pkcs11 }
    }

    /// Whether it is a PIV card that is asked for.
    pub(super) fn piv(&self) -> bool {
        self.piv
    }

    /// How the process is started that talks to the token.
    ///
    /// # Errors
    /// [`Failure`] when nobody says which library does, or the program for PIV cards is not installed.
    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        let named = self.token.as_ref().and_then(|uri| uri.module.clone());
        if self.piv {
            if named.is_some() {
                return Err(Failure::Usage(
                    "--token: module-path names a library, and --piv uses none".to_owned(),
                ));
            }
            let program = daemon::child::piv_program()
                .map_err(|error| Failure::Refused { reason: "TOKEN_MODULE", message: error.to_string() })?;
            return Ok(Settings { module: None, program, deadline: self.timeout });
        }
        let variable = || std::env::var_os(MODULE_VARIABLE).map(PathBuf::from);
        let module = self.module.clone().or_else(|| named.clone()).or_else(variable);
        let module = module.ok_or_else(|| {
            Failure::Usage(format!(
                "say which PKCS#11 library talks to the token: --module FILE, or {MODULE_VARIABLE}; or --piv for a PIV card"
            ))
        })?;
        let module = std::path::absolute(&module).map_err(Failure::file("find", &module))?;
        if let Some(uri) = &self.token {
            uri.clone().within(&module).map_err(|error| Failure::Usage(format!("--token: {error}")))?;
        }
        Ok(Settings { module: Some(module), program: daemon::child::token_program(), deadline: self.timeout })
    }

    /// The tokens that are plugged in; with `--wait` there is one at least that is asked for.
    ///
    /// # Errors
    /// [`Failure`] when the library cannot be used.
    pub(crate) async fn tokens(&self, shell: &mut Shell) -> Result<Vec<TokenReport>, Failure> {
        let settings = self.settings()?;
        let mut told = false;
        loop {
            // A process of its own for each look: many libraries see new tokens only when they start.
            let mut process = TokenProcess::start(&settings).await.map_err(failure)?;
            let mut tokens = process.list().await.map_err(failure)?;
            tokens.retain(|report| {
                self.token.as_ref().is_none_or(|wanted| wanted.token.matches(&report.token))
            });
            if !self.wait || !tokens.is_empty() {
                return Ok(tokens);
            }
            if !std::mem::replace(&mut told, true) {
                shell.print.note("insert your token… (Ctrl-C ends)");
            }
            process.wait().await.map_err(failure)?;
        }
    }

    /// The one token that is asked for.
    ///
    /// # Errors
    /// [`Failure`] when none fits, or several.
    pub(super) async fn token(&self, shell: &mut Shell) -> Result<TokenReport, Failure> {
        let tokens = self.tokens(shell).await?;
        self.only(tokens)
    }

    fn only(&self, mut tokens: Vec<TokenReport>) -> Result<TokenReport, Failure> {
        let missing = |message: String| Failure::Refused { reason: "TOKEN_MISSING", message };
        match (tokens.pop(), tokens.len()) {
            (Some(only), 0) => Ok(only),
            (Some(last), _) => {
                tokens.push(last);
                let words = tokens
                    .iter()
                    .map(|report| format!("{:?} (serial {})", report.token.label, report.token.serial));
                let words = words.collect::<Vec<_>>().join(", ");
                Err(Failure::Usage(format!("several tokens fit, say which with --token: {words}")))
            }
            (None, _) => Err(missing(match &self.token {
                Some(wanted) => format!("no token with {} is plugged in", wanted.token),
                None => "no token is plugged in".to_owned(),
            })),
        }
    }
}

impl PinArgs {
    /// Whether the last try of the PIN may be spent.
    pub(super) fn last_try(&self) -> bool {
        self.last_try
    }

    /// Reads the PIN; a terminal takes its time. A window shows `matter` too, what the PIN is for, and closes `within`
    /// some time.
    ///
    /// # Errors
    /// [`Failure`] when there is none.
    pub(super) async fn read(
        &self,
        token: &TokenInfo,
        matter: &str,
        within: Duration,
    ) -> Result<Pin, Failure> {
        if let Some(program) = &self.pinentry {
            let description = format!("{matter}\n\nPIN of {}", named(token));
            return in_a_window(program.clone(), description, within).await;
        }
        ask(&self.pin_file, self.pin_fd, format!("PIN of {}: ", named(token))).await
    }
}

/// Most bytes of a description: a request of the Assuan protocol has 1000, and line ends take three of them.
const LONGEST_DESCRIPTION: usize = 900;
/// A window that nobody answers closes after this time.
pub(crate) const WINDOW: Duration = Duration::from_secs(120);

/// Asks in a window, by the Assuan protocol of GnuPG's pinentry.
async fn in_a_window(program: PathBuf, description: String, within: Duration) -> Result<Pin, Failure> {
    let encoded = description.len() + 2 * description.matches(['\n', '\r', '%']).count();
    if encoded > LONGEST_DESCRIPTION {
        // Nobody signs what was shown in part.
        return Err(Failure::Input(
            "what is signed is too long for a window: run it in a terminal, without --pinentry".to_owned(),
        ));
    }
    // Whole seconds, and at least one: none would be a window that stays.
    let seconds = u16::try_from(within.as_secs()).unwrap_or(u16::MAX).max(1);
    let asked = tokio::task::spawn_blocking(move || {
        let mut input = pinentry::PassphraseInput::with_binary(program)
            .ok_or_else(|| Failure::Usage("--pinentry: there is no such program".to_owned()))?;
        input.with_title("Keyward").with_description(&description).with_prompt("PIN:").with_timeout(seconds);
        let typed =
            input.interact().map_err(|error| Failure::Input(format!("the PIN was not entered: {error}")))?;
        Pin::from_bytes(typed.expose_secret().as_bytes())
            .map_err(|why| Failure::Input(format!("what was typed is no PIN, so none is tried: {why}")))
    });
    asked.await.map_err(|error| Failure::Input(error.to_string()))?
}

/// A token, as a prompt names it.
pub(super) fn named(token: &TokenInfo) -> String {
    format!("token {:?} (serial {})", token.label, plain(&token.serial))
}

/// Reads a PIN, PUK or key from a file, a descriptor or the terminal, which takes its time.
///
/// # Errors
/// [`Failure`] when there is none.
pub(super) async fn ask(
    file: &Option<PathBuf>,
    descriptor: Option<u32>,
    prompt: String,
) -> Result<Pin, Failure> {
    let file = file.clone();
    let read = tokio::task::spawn_blocking(move || ask_blocking(file, descriptor, &prompt)).await;
    read.map_err(|error| Failure::Input(error.to_string()))?
}

fn ask_blocking(file: Option<PathBuf>, descriptor: Option<u32>, prompt: &str) -> Result<Pin, Failure> {
    let input = |message: &str| Failure::Input(message.to_owned());
    if let Some(path) = file {
        return PinSource::Own(path).read().map_err(|error| Failure::Input(error.to_string()));
    }
    let pin = match descriptor {
        Some(number) => {
            let path = PathBuf::from(format!("/proc/self/fd/{number}"));
            let read = File::open(&path).and_then(Pin::read);
            read.map_err(Failure::file("read the PIN from", &path))?
        }
        None => {
            let typed = rpassword::prompt_password(prompt).map_err(|error| {
                Failure::Usage(format!(
                    "cannot ask for it ({error}): run it in a terminal, or give a file or a descriptor (--help lists them)"
                ))
            })?;
            Pin::from_bytes(Zeroizing::new(typed).as_bytes())
        }
    };
    let pin = pin.map_err(|why| {
        let from =
            descriptor.map_or_else(|| "what was typed".to_owned(), |number| format!("descriptor {number}"));
        Failure::Input(format!("{from} has no PIN, so none is tried: {why}"))
    })?;
    if pin.expose().is_empty() { Err(input("the PIN is empty")) } else { Ok(pin) }
}

/// That a PIN may be tried: nobody types one in vain.
///
/// # Errors
/// [`Failure`] when it is locked, or the last try is left and `last_try` does not say to spend it.
pub(super) fn warn_of_tries(shell: &mut Shell, report: &TokenReport, last_try: bool) -> Result<(), Failure> {
    report.pin.may_try(last_try).map_err(|trouble| failure(TokenError::Pin(trouble)))?;
    match report.pin {
        PinState::LastTry => shell.print.note("a wrong PIN locks the token now"),
        PinState::FewTries => match report.tries {
            Some(tries) => {
                shell.print.note(&format!("a wrong PIN was entered before: {tries} tries are left"));
            }
            None => shell.print.note("a wrong PIN was entered before: few tries are left"),
        },
        PinState::Fine | PinState::NotSet | PinState::Locked => {}
    }
    Ok(())
}

/// That nobody knows the PIN, or what sets a new one, from the manual of the token.
fn forbid_factory_secrets(report: &TokenReport) -> Result<(), Failure> {
    let message = if report.factory.contains(&Secret::Pin) {
        "the token has the PIN that it left the factory with, which everybody knows"
    } else if report.factory.contains(&Secret::Puk) {
        "the token has the PUK that it left the factory with, by which everybody can set a new PIN"
    } else {
        return Ok(());
    };
    Err(Failure::Refused { reason: "TOKEN_FACTORY_SECRET", message: message.to_owned() })
}

/// The token that was looked at, and no other that is plugged in since.
pub(super) fn same(token: TokenInfo) -> TokenSelector {
    TokenSelector {
        label: Some(token.label),
        serial: Some(token.serial),
        manufacturer: Some(token.manufacturer),
        model: Some(token.model),
    }
}

/// Says that the token waits for a touch, where it tells.
pub(super) fn prompt_touch(shell: &mut Shell, key: &TokenKey) {
    if key.policy.is_some_and(|policy| policy.touch != Asked::Never) {
        shell.print.show("touch the token when it blinks…");
    }
}

/// A token that is logged in to. Dropping it ends the process that talks to it.
pub(crate) struct Session {
    process: TokenProcess,
    /// The token.
    pub(crate) token: TokenInfo,
    kind: TokenKind,
    key: KeySelector,
    agreement_key: KeySelector,
    rsa_padding: RsaPadding,
}

impl TokenArgs {
    /// Finds the token, asks for its PIN and logs in, with one try, for what custodians do.
    ///
    /// # Errors
    /// [`Failure`] that says what to do: no token, a wrong PIN and the tries that are left.
    pub(crate) async fn open(&self, shell: &mut Shell) -> Result<Session, Failure> {
        self.open_for(shell, KeyUse::Sign, "", WINDOW).await
    }

    /// The same, to sign with the key of one use; `matter` is what a window says that is signed, and it closes `within`
    /// some time.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) async fn open_for(
        &self,
        shell: &mut Shell,
        signs: KeyUse,
        matter: &str,
        within: Duration,
    ) -> Result<Session, Failure> {
        let report = self.module.token(shell).await?;
        let key = self.key.clone().unwrap_or_else(|| self.own_key(signs));
        self.open_token(shell, report, key, matter, within).await
    }

    /// The same, to sign with one of the keys that are asked for: a token that shows one, and that key, are found without
    /// `--token` and `--key`. Never a key that is for something else: whoever asks chooses among those for logins.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(crate) async fn open_to_answer(
        &self,
        shell: &mut Shell,
        asked: &[CredentialId],
        matter: &str,
        within: Duration,
    ) -> Result<Session, Failure> {
        let for_logins = |key: &TokenKey| match self.module.piv {
            true => key.id.first().is_some_and(|slot| KeyUse::Login.allows_piv_slot(*slot)),
            false => KeySelector::Made(KeyUse::Login).matches(key),
        };
        let answers = |key: &TokenKey| {
            let credential = key.spki.as_deref().map(CredentialId::of);
            for_logins(key) && credential.is_some_and(|credential| asked.contains(&credential))
        };
        let mut tokens = self.module.tokens(shell).await?;
        if tokens.iter().any(|report| report.keys.iter().any(answers)) {
            tokens.retain(|report| report.keys.iter().any(answers));
        }
        let report = self.module.only(tokens)?;
        let found = report.keys.iter().find(|key| answers(key)).map(|key| KeySelector::Id(key.id.clone()));
        let key = self.key.clone().or(found).unwrap_or_else(|| self.own_key(KeyUse::Login));
        self.open_token(shell, report, key, matter, within).await
    }

    async fn open_token(
        &self,
        shell: &mut Shell,
        report: TokenReport,
        key: KeySelector,
        matter: &str,
        within: Duration,
    ) -> Result<Session, Failure> {
        daemon::harden(SecretMemory::default()).map_err(Failure::file("protect", "this process".as_ref()))?;
        forbid_factory_secrets(&report)?;
        warn_of_tries(shell, &report, self.pin.last_try)?;
        let pin = self.pin.read(&report.token, matter, within).await?;
        let mut process = TokenProcess::start(&self.module.settings()?).await.map_err(failure)?;
        let opened = process.open(same(report.token), pin, self.pin.last_try).await;
        let token = opened.map_err(failure)?;
        let agreement_key = self.agreement_key.clone().unwrap_or_else(|| self.own_key(KeyUse::Agree));
        Ok(Session {
            process,
            token,
            kind: self.module.kind(),
            key,
            agreement_key,
            rsa_padding: self.rsa_padding,
        })
    }

    /// The key of a use when nobody says which: on a PIV card that of a slot (NIST SP 800-73-4), elsewhere
    /// the one that was made for it.
    fn own_key(&self, key_use: KeyUse) -> KeySelector {
        match self.module.piv {
            true => KeySelector::Id(vec![key_use.piv_slot()]),
            false => KeySelector::Made(key_use),
        }
    }
}

impl Session {
    /// The process, for requests that are not here.
    pub(super) fn process(&mut self) -> &mut TokenProcess {
        &mut self.process
    }

    /// The one key that signs, as the token shows it.
    ///
    /// # Errors
    /// [`Failure`] when none fits, or several.
    pub(crate) async fn signing_key(&mut self) -> Result<TokenKey, Failure> {
        let keys = self.process.keys().await.map_err(failure)?;
        self.key.only(KeyUse::Sign, keys, |key| key).map_err(failure)
    }

    /// What the signatures of the key that signs are checked with.
    ///
    /// # Errors
    /// [`Failure`] when no key fits, or its public key is not one that is used here.
    pub(crate) async fn credential(&mut self) -> Result<Credential, Failure> {
        let key = self.signing_key().await?;
        let bad = |error: String| failure(TokenError::Key(format!("the key {:?}: {error}", key.label)));
        let spki =
            key.spki.clone().ok_or_else(|| bad("the token shows no usable public key of it".into()))?;
        let algorithm = match KeyType::of(&spki).map_err(|error| bad(error.to_string()))? {
            KeyType::P256 => TokenAlgorithm::EcdsaP256Sha256,
            KeyType::P384 => TokenAlgorithm::EcdsaP384Sha384,
            KeyType::Rsa => match self.rsa_padding {
                RsaPadding::Pss => TokenAlgorithm::RsaPssSha256,
                RsaPadding::Pkcs1 => TokenAlgorithm::RsaPkcs1Sha256,
            },
            KeyType::Ed25519 => TokenAlgorithm::Ed25519,
        };
        Credential::new(self.kind, algorithm, spki).map_err(|error| bad(error.to_string()))
    }

    /// The token's word that it made a key: certificates in DER; none when it gives no word.
    ///
    /// # Errors
    /// [`Failure`] when the token fails.
    pub(super) async fn attest(&mut self, key: &TokenKey) -> Result<Vec<Vec<u8>>, Failure> {
        let attested = self.process.attest(&KeySelector::Id(key.id.clone())).await.map_err(failure)?;
        Ok(attested.map(|word| vec![word.key, word.token]).unwrap_or_default())
    }

    /// The key that shares are encrypted to.
    ///
    /// # Errors
    /// [`Failure`] when no key fits, or it is not on P-256.
    pub(crate) async fn agreement_key(&mut self) -> Result<AgreementKey, Failure> {
        let keys = self.process.keys().await.map_err(failure)?;
        let key = self.agreement_key.only(KeyUse::Agree, keys, |key| key).map_err(failure)?;
        let bad = |error: String| failure(TokenError::Key(format!("the key {:?}: {error}", key.label)));
        let spki =
            key.spki.clone().ok_or_else(|| bad("the token shows no usable public key of it".into()))?;
        AgreementKey::new(spki).map_err(|error| bad(error.to_string()))
    }

    /// Signs an envelope that names this credential; answers the signature in its one spelling.
    ///
    /// # Errors
    /// [`Failure`] when the token's key is another, or the token fails.
    pub(crate) async fn sign(
        &mut self,
        shell: &mut Shell,
        credential: &Credential,
        envelope: &Envelope,
    ) -> Result<Vec<u8>, Failure> {
        let key = self.signing_key().await?;
        prompt_touch(shell, &key);
        let signed = self.process.sign(&self.key, credential.algorithm(), envelope).await;
        signed.map_err(failure)
    }

    /// The secret that the token's key shares with `peer`: 32 bytes, to derive keys from.
    ///
    /// # Errors
    /// [`Failure`] when no key fits, or the token fails.
    pub(crate) async fn agree(&mut self, shell: &mut Shell, peer: &AgreementKey) -> Result<Key256, Failure> {
        let keys = self.process.keys().await.map_err(failure)?;
        let key = self.agreement_key.only(KeyUse::Agree, keys, |key| key).map_err(failure)?;
        prompt_touch(shell, &key);
        self.process.agree(&self.agreement_key, peer).await.map_err(failure)
    }

    /// Proves that the token agrees on secrets as it should.
    ///
    /// # Errors
    /// [`Failure`] when it does not.
    pub(crate) async fn test_agreement(&mut self) -> Result<(), Failure> {
        self.process.test_agreement(&self.agreement_key).await.map_err(failure)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_one_that_somebody_waits() {
        assert_eq!(timeout("90s"), Ok(Duration::from_secs(90)));
        for text in ["", "0s", "999ms", "61min", "18446744073709551615s", "500000000000years"] {
            assert!(timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_token_is_named_by_label_serial_or_uri() {
        assert_eq!(selector("alice"), Ok(TokenUri::label("alice")));
        assert_eq!(selector("serial:12").unwrap().token.serial.as_deref(), Some("12"));
        assert_eq!(selector("pkcs11:serial=12").unwrap().token.serial.as_deref(), Some("12"));
        assert!(selector("serial:").is_err() && selector("pkcs11:slot-id=1").is_err());
    }
}
