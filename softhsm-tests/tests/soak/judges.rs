//! Those who ask what was decided about rows that somebody rewrites: the answer is the right one, or that the store
//! was tampered with.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use keyward::client::{Client, Context, Error};
use keyward::rpc::proto::{
    CreateKeyRequest, DecryptRequest, EncryptRequest, FreezeRequest, GetKeyRequest, KeyState,
    ScheduleDestroyRequest,
};
use keyward_softhsm_tests::{KEY, World, create_key, text};
use tonic::Status;
use tonic_types::StatusExt;

use crate::children::copy_store;
use crate::victims::crypto;

/// Keys of a tenant that nobody needs.
const OPEN: &str = "tenants/bait/keys/open";
const FROZEN: &str = "tenants/bait/keys/frozen";
const DOOMED: &str = "tenants/bait/keys/doomed";

/// The pause after each look: it leaves fewer refusals a second than are put on record one by one.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Right answers.
    pub(crate) right: u64,
    /// Answers that the store was tampered with.
    pub(crate) tampered: u64,
    /// All others.
    pub(crate) wrong: Vec<String>,
}

impl Verdict {
    fn judge(&mut self, what: &str, answer: Result<String, Status>, right: &str) {
        let said = answer.unwrap_or_else(|status| reason(&status).unwrap_or_else(|| status.to_string()));
        match said {
            said if said == right => self.right += 1,
            said if said == "STORE_TAMPERED" => self.tampered += 1,
            said => self.wrong.push(format!("{what}: {said}, and not {right}")),
        }
    }
}

fn reason(status: &Status) -> Option<String> {
    status.get_error_details().error_info().map(|info| info.reason.clone())
}

/// A ciphertext of each key of the bait that has one.
#[derive(Clone)]
pub(crate) struct Bait {
    open: Vec<u8>,
    frozen: Vec<u8>,
}

/// Makes a bait of each kind: a key in use, one that is frozen, one that is to be destroyed, a frozen principal, and
/// an export; the store of before the freezes stays as `older.db`.
pub(crate) async fn lay_bait(world: &World, client: &Client) -> Result<Bait, Error> {
    for key in ["open", "frozen", "doomed"] {
        create_key(client, "bait", key).await;
    }
    let about = Context::new();
    let open = client.encrypt(OPEN, "open", &about).await?.ciphertext.to_vec();
    let frozen = client.encrypt(FROZEN, "frozen", &about).await?.ciphertext.to_vec();
    copy_store(world, &world.path("older.db"));
    for name in [FROZEN, "principals/ghost"] {
        let asked = FreezeRequest { name: name.into(), reason: "soak".into() };
        client.call(client.access().freeze(asked)).await?;
    }
    let asked = ScheduleDestroyRequest { name: DOOMED.into(), delay: None, reason: "soak".into() };
    client.call(client.keys().schedule_destroy(asked)).await?;
    let out = world.path("export.kwb").display().to_string();
    let made = world.cli(["backup", "create", "--out", &out, "--keep-for", "20d"]);
    assert!(made.status.success(), "{}", text(&made));
    Ok(Bait { open, frozen })
}

/// Asks about the bait until it is over; sets `met` when a call that has a record was refused for tampering.
pub(crate) async fn watch_bait(
    socket: PathBuf,
    bait: Bait,
    met: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
) -> Verdict {
    let client = Client::connect(&socket).await.unwrap();
    let (crypto, keys) = (crypto(socket).await, client.keys());
    let mut verdict = Verdict::default();
    let decrypt = |name: &str, ciphertext: &[u8]| {
        let asked = DecryptRequest {
            name: name.into(),
            ciphertext: ciphertext.to_vec().into(),
            context: Context::new(),
        };
        let mut crypto = crypto.clone();
        async move {
            let opened = crypto.decrypt(asked).await?.into_inner();
            Ok::<_, Status>(String::from_utf8_lossy(&opened.plaintext).into_owned())
        }
    };
    let state = |name: &str| {
        let (asked, mut keys) = (GetKeyRequest { name: name.into() }, keys.clone());
        async move {
            let key = keys.get_key(asked).await?.into_inner();
            Ok::<_, Status>(format!("{} {}", key.state().as_str_name(), key.frozen))
        }
    };
    let doomed = format!("{} false", KeyState::ScheduledForDestruction.as_str_name());
    let frozen = format!("{} true", KeyState::Active.as_str_name());
    while !over.load(Ordering::Relaxed) {
        verdict.judge("decrypt of the open key", decrypt(OPEN, &bait.open).await, "open");
        verdict.judge("decrypt of the frozen key", decrypt(FROZEN, &bait.frozen).await, "FROZEN");
        verdict.judge("state of the frozen key", state(FROZEN).await, &frozen);
        verdict.judge("state of the doomed key", state(DOOMED).await, &doomed);
        // Nobody takes a name that is taken, whether its row is there or not.
        let asked = CreateKeyRequest { parent: "tenants/bait".into(), key_id: "open".into(), data_class: 0 };
        let made = keys.clone().create_key(asked).await.map(|made| made.into_inner().name);
        let before = verdict.tampered;
        verdict.judge("another key of the same name", made, "ALREADY_EXISTS");
        met.fetch_or(verdict.tampered > before, Ordering::Relaxed);
        tokio::time::sleep(LOOK_EVERY).await;
    }
    verdict
}

/// The frozen principal asks for service until it is over.
pub(crate) async fn haunt(socket: PathBuf, over: Arc<AtomicBool>) -> Verdict {
    let mut crypto = crypto(socket).await;
    let mut verdict = Verdict::default();
    while !over.load(Ordering::Relaxed) {
        let asked = EncryptRequest { name: KEY.into(), plaintext: "x".into(), ..Default::default() };
        let served = crypto.encrypt(asked).await.map(|_| "served".to_owned());
        verdict.judge("the frozen principal", served, "FROZEN");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    verdict
}
