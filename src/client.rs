//! The Rust client: plain asynchronous calls over the daemon's Unix socket.
//!
//! ```no_run
//! # async fn example() -> Result<(), keyward::client::Error> {
//! use keyward::client::{Client, context};
//!
//! let client = Client::connect("/run/keyward/keyward.sock").await?;
//! let key = "tenants/acme/keys/customer-pii";
//! let about = context([("table", "customers"), ("id", "42")]);
//! let sealed = client.encrypt(key, "0912 345 678", &about).await?;
//! let phone = client.decrypt(key, sealed.ciphertext, &about).await?;
//! assert_eq!(phone.plaintext.expose(), b"0912 345 678");
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is cheap to clone; all clones share one connection and one CryptSession, in which
//! [`encrypt`](Client::encrypt) and [`decrypt`](Client::decrypt) are pipelined. Everything but
//! files and administration is safe to repeat, so it is tried again, up to
//! [`Options::deadline`], when the connection breaks or the daemon asks for it.
//!
//! Plaintexts come back as [`SecretBytes`]: wiped when dropped, and never printed. The buffers of
//! the transport below are not wiped; a process that receives plaintext holds it in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

mod batch;
mod connect;
mod data;
pub mod error;
#[cfg(test)]
pub(crate) mod fake;
mod retry;
mod session;
mod staff;
mod stream;
#[cfg(test)]
mod tests;

pub use batch::Item;
pub use data::{BlindIndex, DataKey, ReEncrypted};
pub use error::{Code, Error};
pub use staff::{SessionKey, Staff, Stamp};
pub use stream::{StreamError, Streamed};

use crate::rpc::proto::access_service_client::AccessServiceClient;
use crate::rpc::proto::audit_service_client::AuditServiceClient;
use crate::rpc::proto::backup_service_client::BackupServiceClient;
use crate::rpc::proto::ceremony_service_client::CeremonyServiceClient;
use crate::rpc::proto::crypt_session_request::Request;
use crate::rpc::proto::crypt_session_response::Response;
use crate::rpc::proto::crypto_service_client::CryptoServiceClient;
use crate::rpc::proto::key_service_client::KeyServiceClient;
use crate::rpc::proto::login_service_client::LoginServiceClient;
use crate::rpc::proto::system_service_client::SystemServiceClient;
use crate::rpc::proto::{DecryptRequest, EncryptRequest};
use crate::secret::SecretBytes;

/// The encryption context: what a ciphertext is about. Decrypting needs the same map.
pub type Context = BTreeMap<String, String>;

/// Builds a context from pairs.
pub fn context<K: Into<String>, V: Into<String>>(pairs: impl IntoIterator<Item = (K, V)>) -> Context {
    pairs.into_iter().map(|(key, value)| (key.into(), value.into())).collect()
}

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long one call may take, with all its repetitions; 10 s by default. Files have no limit.
    pub deadline: Duration,
    /// How many encrypt and decrypt calls are under way at a time; more wait. 1024 by default.
    pub in_flight: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10), in_flight: 1024 }
    }
}

/// A connection to keywardd.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    stamp: Stamp,
    session: Arc<session::Session>,
    options: Options,
}

/// CryptoService, with what belongs to each call in its metadata.
pub type Crypto = CryptoServiceClient<InterceptedService<Channel, Stamp>>;

/// An encrypted field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted {
    /// Ciphertext format 1.
    pub ciphertext: Bytes,
    /// The key version that encrypted it.
    pub version: u32,
}

/// A decrypted field.
#[derive(Debug)]
pub struct Decrypted {
    /// The field.
    pub plaintext: SecretBytes,
    /// The key version that had encrypted it.
    pub version: u32,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// [`Error`] that says what is wrong with the socket.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::connect_with(path, Options::default()).await
    }

    /// As [`connect`](Self::connect), with options.
    ///
    /// # Errors
    /// [`Error`] that says what is wrong with the socket.
    pub async fn connect_with(path: impl AsRef<Path>, options: Options) -> Result<Self, Error> {
        let channel = retry::once(options.deadline, connect::channel(path.as_ref())).await?;
        Ok(Self::over(channel, Stamp::default(), options))
    }

    fn over(channel: Channel, stamp: Stamp, options: Options) -> Self {
        let crypto = crypto(&channel, &stamp);
        let session = Arc::new(session::Session::new(crypto, options.in_flight.max(1)));
        Self { channel, stamp, session, options }
    }

    /// A client over the same connection that acts for a staff member: encrypts and decrypts what both the
    /// application and they may. It has a session of its own.
    ///
    /// # Errors
    /// [`Error`] when the assertion or the address is none.
    pub fn for_staff(&self, staff: Staff) -> Result<Self, Error> {
        Ok(Self::over(self.channel.clone(), Stamp::of(staff)?, self.options.clone()))
    }

    /// Encrypts one field under the key `name` (`tenants/{tenant}/keys/{key}`).
    ///
    /// # Errors
    /// [`Error`] with the daemon's refusal, or that it cannot be reached.
    pub async fn encrypt(
        &self,
        name: &str,
        plaintext: impl Into<Bytes>,
        context: &Context,
    ) -> Result<Encrypted, Error> {
        let request =
            EncryptRequest { name: name.into(), plaintext: plaintext.into(), context: context.clone() };
        match self.crypt(Request::Encrypt(request)).await? {
            Response::Encrypt(answer) => {
                Ok(Encrypted { ciphertext: answer.ciphertext, version: answer.version })
            }
            _ => Err(Error::protocol()),
        }
    }

    /// Decrypts one field that was encrypted under the key `name` with the same context.
    ///
    /// # Errors
    /// [`Error`] with the daemon's refusal, or that it cannot be reached.
    pub async fn decrypt(
        &self,
        name: &str,
        ciphertext: impl Into<Bytes>,
        context: &Context,
    ) -> Result<Decrypted, Error> {
        let request =
            DecryptRequest { name: name.into(), ciphertext: ciphertext.into(), context: context.clone() };
        match self.crypt(Request::Decrypt(request)).await? {
            Response::Decrypt(answer) => {
                Ok(Decrypted { plaintext: secret(answer.plaintext), version: answer.version })
            }
            _ => Err(Error::protocol()),
        }
    }

    async fn crypt(&self, request: Request) -> Result<Response, Error> {
        retry::repeat(self.options.deadline, || self.session.call(request.clone())).await
    }

    /// CryptoService as it is, for calls that this client has no method for.
    pub fn crypto(&self) -> Crypto {
        crypto(&self.channel, &self.stamp)
    }

    /// The connection, for other services of the daemon such as health.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The generated client of the key service, for [`call`](Self::call).
    pub fn keys(&self) -> KeyServiceClient<Channel> {
        KeyServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The generated client of the access service, for [`call`](Self::call).
    pub fn access(&self) -> AccessServiceClient<Channel> {
        AccessServiceClient::new(self.channel.clone())
    }

    /// The generated client of the backup service, for [`call`](Self::call).
    pub fn backup(&self) -> BackupServiceClient<Channel> {
        BackupServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The generated client of the ceremony service, for [`call`](Self::call).
    pub fn ceremonies(&self) -> CeremonyServiceClient<Channel> {
        CeremonyServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The generated client of the login service, for [`call`](Self::call).
    pub fn logins(&self) -> LoginServiceClient<Channel> {
        LoginServiceClient::new(self.channel.clone())
    }

    /// The generated client of the audit service, for [`call`](Self::call).
    pub fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    /// The generated client of the system service, for [`call`](Self::call).
    pub fn system(&self) -> SystemServiceClient<Channel> {
        SystemServiceClient::new(self.channel.clone())
    }

    /// Runs one call of a generated client: once, up to the deadline.
    ///
    /// `client.call(client.keys().get_tenant(request)).await`
    ///
    /// # Errors
    /// [`Error`] with the daemon's refusal, or that it cannot be reached.
    pub async fn call<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    ) -> Result<T, Error> {
        retry::once(self.options.deadline, async { Ok(call.await?.into_inner()) }).await
    }

    /// As [`call`](Self::call), for a call that is safe to repeat.
    async fn repeat<R: Clone, T, F>(&self, request: R, call: impl Fn(Crypto, R) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
    {
        retry::repeat(self.options.deadline, || {
            let call = call(self.crypto(), request.clone());
            async { Ok(call.await?.into_inner()) }
        })
        .await
    }
}

/// How large a message may be is the daemon's rule, not the client's.
fn crypto(channel: &Channel, stamp: &Stamp) -> Crypto {
    CryptoServiceClient::with_interceptor(channel.clone(), stamp.clone())
        .max_decoding_message_size(usize::MAX)
}

fn secret(bytes: Bytes) -> SecretBytes {
    SecretBytes::new(bytes.into())
}
