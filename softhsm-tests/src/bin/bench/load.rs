//! Load: one kind of work on one socket, for some seconds. It uses the
//! generated clients, so that nothing but the transport is between it and the
//! server.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::{DecryptRequest, EncryptRequest};
use keyward_softhsm_tests::{KEY, binary};
use serde::Serialize;
use tonic::transport::{Channel, Endpoint};

use super::Outcome;
use super::figures::{Figures, Meter};

mod batch;
mod file;
mod session;
mod unary;

/// Items in a batch.
const BATCH: u32 = 100;

/// What to do, where, and how much at a time.
#[derive(Args, Clone)]
pub(crate) struct Load {
    /// What to ask for
    pub(crate) work: Work,
    /// The server's socket
    #[arg(long)]
    pub(crate) socket: PathBuf,
    /// Calls (in a session: items) under way at a time, spread over the connections
    #[arg(long, default_value_t = 64)]
    pub(crate) in_flight: usize,
    /// Connections
    #[arg(long, default_value_t = 4)]
    pub(crate) connections: usize,
    /// Bytes in a plaintext; for `file` the bytes of the file
    #[arg(long, default_value_t = 256)]
    pub(crate) bytes: usize,
    /// Seconds before the measurement
    #[arg(long, default_value_t = 1.0)]
    pub(crate) warm_up: f64,
    /// Seconds of the measurement
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,
}

/// Kinds of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// Encrypt, one field in a call
    Encrypt,
    /// Decrypt, one field in a call
    Decrypt,
    /// CryptSession with encrypts
    Session,
    /// BatchEncrypt with 100 items
    Batch,
    /// EncryptStream with one file
    File,
}

/// Does the work and prints its figures.
pub(crate) async fn run(load: &Load) -> Outcome<()> {
    let figures = match load.work {
        Work::Encrypt => unary::encrypt(load).await?,
        Work::Decrypt => unary::decrypt(load).await?,
        Work::Session => session::encrypt(load).await?,
        Work::Batch => batch::encrypt(load).await?,
        Work::File => file::encrypt(load).await?,
    };
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&figures)?)?)
}

impl Load {
    /// Does the work in a process of its own.
    pub(crate) fn spawn(&self) -> Outcome<Figures> {
        let work = self.work.to_possible_value().ok_or("a kind of work without a name")?;
        let output = std::process::Command::new(binary("bench"))
            .args(["load", work.get_name(), "--socket"])
            .arg(&self.socket)
            .args(["--in-flight", &self.in_flight.to_string()])
            .args(["--connections", &self.connections.to_string()])
            .args(["--bytes", &self.bytes.to_string()])
            .args(["--warm-up", &self.warm_up.to_string()])
            .args(["--seconds", &self.seconds.to_string()])
            .output()?;
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout)?),
            false => Err(format!("{}: {}", work.get_name(), String::from_utf8_lossy(&output.stderr)).into()),
        }
    }

    /// The same for another server.
    pub(crate) fn at(&self, socket: &Path) -> Self {
        Self { socket: socket.to_owned(), ..self.clone() }
    }

    fn meter(&self, items: u32) -> Meter {
        Meter::new(Duration::from_secs_f64(self.warm_up), Duration::from_secs_f64(self.seconds), items)
    }

    async fn clients(&self) -> Outcome<Vec<CryptoServiceClient<Channel>>> {
        let mut clients = Vec::new();
        for _ in 0..self.connections.max(1) {
            clients.push(connect(&self.socket).await?);
        }
        Ok(clients)
    }
}

async fn connect(socket: &Path) -> Outcome<CryptoServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display()))?;
    Ok(CryptoServiceClient::new(endpoint.connect().await?).max_decoding_message_size(usize::MAX))
}

fn context() -> BTreeMap<String, String> {
    keyward::client::context([("column", "phone"), ("row", "12345678")])
}

fn plaintext(bytes: usize) -> Bytes {
    vec![b'7'; bytes].into()
}

fn encrypt_request(bytes: usize) -> EncryptRequest {
    EncryptRequest { name: KEY.into(), plaintext: plaintext(bytes), context: context() }
}

fn decrypt_request(ciphertext: Bytes) -> DecryptRequest {
    DecryptRequest { name: KEY.into(), ciphertext, context: context() }
}
