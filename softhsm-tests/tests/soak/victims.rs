//! Those who only want to work: an application with calls at a fixed rate, and an operator.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keyward::client::{Client, context};
use keyward::rpc::proto::crypto_service_client::CryptoServiceClient;
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{
    CreateKeyRequest, DecryptRequest, EncryptRequest, GetKeyRequest, GetStatusRequest, KeyState,
};
use keyward_softhsm_tests::KEY;
use rustix::thread::{Uid, set_thread_res_uid};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status};

/// How often the application begins a round trip, whatever became of those before; and the operator.
const APPLICATION_EVERY: Duration = Duration::from_millis(50);
const OPERATOR_EVERY: Duration = Duration::from_secs(1);
/// A call without an answer by then is lost.
const LOST: Duration = Duration::from_secs(10);

/// What a victim got.
#[derive(Default)]
pub(crate) struct Served {
    /// How long each call took that had its right answer.
    pub(crate) took: Vec<Duration>,
    /// What else came.
    pub(crate) lost: Vec<String>,
}

impl Served {
    fn count(&mut self, calls: Result<Vec<Duration>, String>) {
        match calls {
            Ok(took) => self.took.extend(took),
            Err(lost) => self.lost.push(lost),
        }
    }

    /// The time within which 99 of 100 calls had their answer.
    pub(crate) fn p99(&self) -> Duration {
        let mut took = self.took.clone();
        took.sort_unstable();
        took[(took.len() * 99 / 100).min(took.len() - 1)]
    }
}

/// Does work in a thread that is another user's, with a runtime of its own: the kernel tells of a socket who
/// connected it.
pub(crate) fn as_user<T, F>(uid: u32, work: impl FnOnce() -> F + Send + 'static) -> JoinHandle<T>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    std::thread::spawn(move || {
        let uid = Uid::from_raw(uid);
        set_thread_res_uid(uid, uid, uid).expect("root becomes anybody");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work())
    })
}

/// A client that sends each call once, and as it is.
pub(crate) async fn crypto(socket: PathBuf) -> CryptoServiceClient<Channel> {
    let address = format!("unix://{}", socket.display());
    CryptoServiceClient::new(Endpoint::try_from(address).unwrap().connect().await.unwrap())
}

/// The application: encrypts and decrypts until it is over.
pub(crate) async fn application(socket: PathBuf, over: Arc<AtomicBool>) -> Served {
    let crypto = crypto(socket).await;
    let mut ticks = tokio::time::interval(APPLICATION_EVERY);
    let mut calls = JoinSet::new();
    let mut id = 0_u64;
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        calls.spawn(round_trip(crypto.clone(), id));
        id += 1;
    }
    let mut served = Served::default();
    calls.join_all().await.into_iter().for_each(|done| served.count(done));
    served
}

async fn round_trip(mut crypto: CryptoServiceClient<Channel>, id: u64) -> Result<Vec<Duration>, String> {
    let plaintext = format!("customer {id}").into_bytes();
    let about = context([("id", id.to_string())]);
    let asked =
        EncryptRequest { name: KEY.into(), plaintext: plaintext.clone().into(), context: about.clone() };
    let (sealed, first) = timed(crypto.encrypt(asked)).await?;
    let asked = DecryptRequest { name: KEY.into(), ciphertext: sealed.ciphertext, context: about };
    let (opened, second) = timed(crypto.decrypt(asked)).await?;
    if opened.plaintext != plaintext {
        return Err(format!("another plaintext than that of {id}"));
    }
    Ok(vec![first, second])
}

/// The operator: makes a key, looks at it and at the status, each time on a new connection.
pub(crate) async fn operator(socket: PathBuf, turn: u32, over: Arc<AtomicBool>) -> Served {
    let mut ticks = tokio::time::interval(OPERATOR_EVERY);
    let (mut served, mut number) = (Served::default(), 0_u32);
    while !over.load(Ordering::Relaxed) {
        ticks.tick().await;
        number += 1;
        served.count(administer(&socket, format!("k{turn}-{number}")).await);
    }
    served
}

async fn administer(socket: &Path, key: String) -> Result<Vec<Duration>, String> {
    let client = Client::connect(socket).await.map_err(|error| error.to_string())?;
    let mut keys = client.keys();
    let name = format!("tenants/acme/keys/{key}");
    let asked = CreateKeyRequest { parent: "tenants/acme".into(), key_id: key, data_class: 0 };
    let (made, first) = timed(keys.create_key(asked)).await?;
    let (found, second) = timed(keys.get_key(GetKeyRequest { name: name.clone() })).await?;
    if made.name != name || found.name != name || found.state() != KeyState::Active || found.frozen {
        return Err(format!("{name}: made {made:?}, found {found:?}"));
    }
    let mut system = client.system();
    let (status, third) = timed(system.get_status(GetStatusRequest {})).await?;
    if status.serving() != Serving::Ready || status.role != "operator" {
        return Err(format!("{status:?}"));
    }
    Ok(vec![first, second, third])
}

async fn timed<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Result<(T, Duration), String> {
    let began = Instant::now();
    match tokio::time::timeout(LOST, call).await {
        Ok(Ok(answer)) => Ok((answer.into_inner(), began.elapsed())),
        Ok(Err(status)) => Err(status.to_string()),
        Err(_) => Err(format!("no answer within {LOST:?}")),
    }
}
