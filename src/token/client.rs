//! A token process, as everybody else sees it: each request has a deadline, at which the process is killed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Child;

use crate::child::{Program, frame, last_words};
use crate::id::token::{TokenInfo, TokenSelector};
use crate::keyring::credential::TokenAlgorithm;
use crate::keyring::custodian::AgreementKey;
use crate::secret::{Key256, Pin, SecretBytes};
use crate::token::envelope::Envelope;
use crate::token::error::TokenError;
use crate::token::wire::{
    Attestation, Hello, KeySelector, NewKey, PukSets, Reply, Request, TokenKey, TokenReport,
};

/// How a token process is started.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The vendor's PKCS#11 library: an absolute path. `None` for a program that needs none.
    pub module: Option<PathBuf>,
    /// The program that becomes the process.
    pub program: Program,
    /// Longest wait for an answer; a person may have to touch the token.
    pub deadline: Duration,
}

impl Settings {
    /// Default of [`Settings::deadline`].
    pub const DEADLINE: Duration = Duration::from_secs(60);
    /// Making a key takes some tokens minutes: so much longer may it last.
    const GENERATING: u32 = 5;
}

/// A process that has loaded the library of a token. Dropping it kills it.
#[derive(Debug)]
pub struct TokenProcess {
    /// `None` when it was killed.
    live: Option<(Child, UnixStream)>,
    deadline: Duration,
}

impl TokenProcess {
    /// Starts a process and has it load the library.
    ///
    /// # Errors
    /// [`TokenError::Module`] when the library is none, [`TokenError::Lost`] when it crashes or hangs.
    pub async fn start(settings: &Settings) -> Result<Self, TokenError> {
        let Settings { module, program, deadline } = settings;
        let title = format!("keyward-token: {}", module.as_deref().map_or_else(|| "piv".to_owned(), name));
        let started = program
            .spawn(&title)
            .map_err(|error| TokenError::Lost(format!("cannot start the token process: {error}")))?;
        let mut process = Self { live: Some(started), deadline: *deadline };
        match process.exchange(&Hello { module: module.clone() }, *deadline).await? {
            Reply::Ready => Ok(process),
            other => Err(unexpected(other)),
        }
    }

    /// All tokens, with what they show without a PIN.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn list(&mut self) -> Result<Vec<TokenReport>, TokenError> {
        match self.ask(Request::List).await? {
            Reply::Tokens(tokens) => Ok(tokens),
            other => Err(unexpected(other)),
        }
    }

    /// Logs in, with one try of the PIN; with the last one that is left only if `last_try`.
    ///
    /// # Errors
    /// [`TokenError::Pin`] says how many tries remain, if the token tells.
    pub async fn open(
        &mut self,
        token: TokenSelector,
        pin: Pin,
        last_try: bool,
    ) -> Result<TokenInfo, TokenError> {
        match self.ask(Request::Open { token, pin, last_try }).await? {
            Reply::Opened(token) => Ok(token),
            other => Err(unexpected(other)),
        }
    }

    /// The private keys of the open token.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn keys(&mut self) -> Result<Vec<TokenKey>, TokenError> {
        match self.ask(Request::Keys).await? {
            Reply::Keys(keys) => Ok(keys),
            other => Err(unexpected(other)),
        }
    }

    /// Signs an envelope with the key that it names; answers the signature in its one spelling.
    ///
    /// # Errors
    /// [`TokenError::Refused`] when the envelope names another key than `key`.
    pub async fn sign(
        &mut self,
        key: &KeySelector,
        algorithm: TokenAlgorithm,
        envelope: &Envelope,
    ) -> Result<Vec<u8>, TokenError> {
        let envelope = envelope.as_bytes().to_vec();
        match self.ask(Request::Sign { key: key.clone(), algorithm, envelope }).await? {
            Reply::Signature(signature) => Ok(signature),
            other => Err(unexpected(other)),
        }
    }

    /// The secret (x-coordinate, 32 bytes) that the token's key shares with `peer`. It is not
    /// uniform: derive keys from it with HKDF.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn agree(&mut self, key: &KeySelector, peer: &AgreementKey) -> Result<Key256, TokenError> {
        let point = peer.point().to_vec();
        match self.ask(Request::Agree { key: key.clone(), point }).await? {
            Reply::Secret(secret) => Ok(secret),
            other => Err(unexpected(other)),
        }
    }

    /// Waits until a token comes or goes, however long that takes.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn wait(&mut self) -> Result<(), TokenError> {
        done(answer(self.exchange(&Request::Wait, Duration::MAX).await?)?)
    }

    /// Changes the PIN, with one try of the old one; with the last one that is left only if `last_try`.
    ///
    /// # Errors
    /// [`TokenError::Pin`] says how many tries remain, if the token tells.
    pub async fn change_pin(
        &mut self,
        token: TokenSelector,
        pin: Pin,
        new: Pin,
        last_try: bool,
    ) -> Result<(), TokenError> {
        done(self.ask(Request::ChangePin { token, pin, new, last_try }).await?)
    }

    /// Sets a new PIN, or PUK, with one try of what unblocks a PIN; with the last one that is left only if `last_try`.
    ///
    /// # Errors
    /// [`TokenError::Pin`].
    pub async fn use_puk(
        &mut self,
        token: TokenSelector,
        puk: Pin,
        sets: PukSets,
        new: Pin,
        last_try: bool,
    ) -> Result<(), TokenError> {
        done(self.ask(Request::UsePuk { token, puk, sets, new, last_try }).await?)
    }

    /// Proves to a PIV card that its keys may be made anew; an empty key is the one that cards leave
    /// the factory with.
    ///
    /// # Errors
    /// [`TokenError::Refused`] when it is another one.
    pub async fn manage(&mut self, key: SecretBytes) -> Result<(), TokenError> {
        done(self.ask(Request::Manage(key)).await?)
    }

    /// The token's word that it made a key; `None` when it gives none.
    ///
    /// # Errors
    /// [`TokenError`].
    pub async fn attest(&mut self, key: &KeySelector) -> Result<Option<Attestation>, TokenError> {
        match self.ask(Request::Attest(key.clone())).await? {
            Reply::Attested(attestation) => Ok(attestation),
            other => Err(unexpected(other)),
        }
    }

    /// Makes a key pair in the token.
    ///
    /// # Errors
    /// [`TokenError::Key`] when there is one of that name.
    pub async fn generate(&mut self, new: NewKey) -> Result<TokenKey, TokenError> {
        let deadline = self.deadline * Settings::GENERATING;
        match answer(self.exchange(&Request::Generate(new), deadline).await?)? {
            Reply::Made(key) => Ok(key),
            other => Err(unexpected(other)),
        }
    }

    /// Proves that the token agrees on secrets as it should.
    ///
    /// # Errors
    /// [`TokenError::Failed`] when it does not.
    pub async fn test_agreement(&mut self, key: &KeySelector) -> Result<(), TokenError> {
        done(self.ask(Request::TestAgreement(key.clone())).await?)
    }

    async fn ask(&mut self, request: Request) -> Result<Reply, TokenError> {
        answer(self.exchange(&request, self.deadline).await?)
    }

    /// One message each way. A process that does not answer in time, or in another way, is killed.
    async fn exchange(
        &mut self,
        message: &impl minicbor::Encode<()>,
        deadline: Duration,
    ) -> Result<Reply, TokenError> {
        let Some((mut child, mut socket)) = self.live.take() else {
            return Err(TokenError::Lost("the token process has ended: start again".to_owned()));
        };
        let exchanged = async {
            // A process that has died does not read; how it died is said below.
            frame::write_async(&mut socket, message).await.ok();
            frame::read_async(&mut socket).await
        };
        match tokio::time::timeout(deadline, exchanged).await {
            Ok(Ok(Some(reply))) => {
                self.live = Some((child, socket));
                Ok(reply)
            }
            Ok(Ok(None) | Err(_)) => Err(TokenError::Lost(last_words("the token process", &mut child).await)),
            Err(_) => {
                child.kill().await.ok();
                Err(TokenError::Lost(format!("the token did not answer within {deadline:?}")))
            }
        }
    }
}

fn answer(reply: Reply) -> Result<Reply, TokenError> {
    match reply {
        Reply::Failed(error) => Err(error),
        other => Ok(other),
    }
}

fn done(reply: Reply) -> Result<(), TokenError> {
    match reply {
        Reply::Done => Ok(()),
        other => Err(unexpected(other)),
    }
}

fn unexpected(reply: Reply) -> TokenError {
    match reply {
        Reply::Failed(error) => error,
        _ => TokenError::Lost("the token process speaks another protocol".to_owned()),
    }
}

fn name(module: &Path) -> String {
    module.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
