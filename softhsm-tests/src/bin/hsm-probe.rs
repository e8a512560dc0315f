//! Plays one scenario with a real PKCS#11 module, which an HSM process of its own
//! loads, through the library's interface, and prints what happened as JSON.
//!
//! `hsm-probe SCENARIO FOLDER`; the folder holds `pin`, `state/` and `tokens/`.

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keyward::daemon::child;
use keyward::envelope::sealed_box::{self, Receiver};
use keyward::hsm::birth::{
    Backup, BackupPlan, DeliveredShare, Delivery, Handover, Holder, NewRoot, Newborn, Purpose,
};
use keyward::hsm::pin::{PinSource, clear_refused_pin};
use keyward::hsm::pkcs11::root::Guards;
use keyward::hsm::pkcs11::{self, TokenSelector};
use keyward::hsm::process::{self, Heir, HsmGroup, Program, Settings, TaskError};
use keyward::hsm::{Hsm, HsmError, KeepNewborn, Kek, Operation, Reply, Status};
use keyward::id::RootId;
use keyward::keyring::escrow::delivery_context;
use keyward::keyring::wrapped::{SealedKey, WrappedKek};
use keyward::secret::Key256;
use keyward_softhsm_tests::binary;
use serde_json::{Value, json};

type Outcome = Result<Value, Box<dyn Error>>;

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, scenario, folder] = arguments.as_slice() else { return Err("hsm-probe SCENARIO FOLDER".into()) };
    let bench = Bench { folder: PathBuf::from(folder) };
    let outcome = match scenario.as_str() {
        "round-trip" => round_trip(&bench).await?,
        "damage" => damage(&bench).await?,
        "wrong-label" => wrong_label(&bench).await?,
        "wrong-pin" => wrong_pin(&bench).await?,
        "removal" => removal(&bench).await?,
        "interrupted" => interrupted(&bench).await?,
        "busy" => busy(&bench).await?,
        "storm" => storm(&bench).await?,
        "strange-canary" => strange_canary(&bench).await?,
        "no-backup" => no_backup(&bench).await?,
        "retire" => retire(&bench).await?,
        "restore" => restore(&bench).await?,
        "conformance" => conformance(&bench).await?,
        "check" => serde_json::to_value(process::check(&bench.settings()).await?)?,
        other => return Err(format!("no scenario {other}").into()),
    };
    writeln!(std::io::stdout(), "{outcome}")?;
    Ok(())
}

struct Bench {
    folder: PathBuf,
}

impl Bench {
    fn settings(&self) -> Settings {
        self.settings_with(|_| {})
    }

    fn settings_with(&self, change: impl FnOnce(&mut pkcs11::Settings)) -> Settings {
        let (token, state) = (TokenSelector::label("keyward-test"), self.folder.join("state"));
        let mut hsm = pkcs11::Settings::new(MODULE.into(), token, state);
        hsm.confinement.allow_paths.push(self.folder.join("tokens"));
        change(&mut hsm);
        let program = Program::new(binary("keyward"), vec![child::COMMAND.into()]);
        let settings = Settings::new(hsm, PinSource::File(self.folder.join("pin")), program);
        Settings { deadline: Duration::from_secs(30), ..settings }
    }

    async fn root(&self) -> Result<NewRoot, Box<dyn Error>> {
        Ok(self.create_root(async |_| Ok(())).await?)
    }

    async fn create_root(
        &self,
        keep: impl AsyncFnOnce(Newborn) -> Result<(), String>,
    ) -> Result<NewRoot, TaskError> {
        process::create_root(&self.settings(), Purpose::Root, BackupPlan::HandOut, keep).await
    }

    async fn ready(&self, settings: Settings, root: &NewRoot) -> Result<Arc<HsmGroup>, Box<dyn Error>> {
        let hsm = process::start(settings, Some(root.born().canary.clone()));
        wait(&hsm, |status| matches!(status, Status::Ready { .. })).await?;
        Ok(hsm)
    }

    fn tokens(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("tokens"), self.folder.join("tokens-away"))
    }
}

async fn wait(hsm: &HsmGroup, wanted: impl Fn(&Status) -> bool) -> Result<Status, Box<dyn Error>> {
    let mut status = hsm.status();
    let waiting = tokio::time::timeout(Duration::from_secs(60), status.wait_for(wanted));
    let found = waiting.await.map_err(|_| format!("still {:?}", *hsm.status().borrow()))??;
    Ok(found.clone())
}

async fn one(hsm: &HsmGroup, operation: Operation) -> Result<Reply, HsmError> {
    let mut answers = hsm.run(vec![operation]).await;
    answers.pop().unwrap_or(Err(HsmError::Misbehaved("no answer".to_owned())))
}

async fn new_kek(hsm: &HsmGroup, root: RootId) -> Result<Kek, Box<dyn Error>> {
    match one(hsm, Operation::GenerateKek { root }).await? {
        Reply::Wrapped(wrapped) => Ok(Kek::Sealed { root, wrapped }),
        other => Err(format!("{other:?}").into()),
    }
}

async fn new_key(hsm: &HsmGroup, kek: &Kek, aad: &[u8]) -> Result<(Key256, SealedKey), Box<dyn Error>> {
    match one(hsm, Operation::GenerateKey { kek: kek.clone(), aad: aad.to_vec() }).await? {
        Reply::NewKey { key, sealed } => Ok((key, sealed)),
        other => Err(format!("{other:?}").into()),
    }
}

async fn open(hsm: &HsmGroup, kek: &Kek, aad: &[u8], sealed: &SealedKey) -> Result<Key256, HsmError> {
    let operation = Operation::OpenKey { kek: kek.clone(), aad: aad.to_vec(), sealed: sealed.clone() };
    match one(hsm, operation).await? {
        Reply::Key(key) => Ok(key),
        other => Err(HsmError::Misbehaved(format!("{other:?}"))),
    }
}

fn words<T>(answer: Result<T, HsmError>) -> String {
    match answer {
        Ok(_) => "ok".to_owned(),
        Err(HsmError::Integrity) => "integrity".to_owned(),
        Err(HsmError::UnknownRoot(_)) => "unknown root".to_owned(),
        Err(HsmError::Unavailable(_)) => "unavailable".to_owned(),
        Err(HsmError::Busy { .. }) => "busy".to_owned(),
        Err(HsmError::Misbehaved(reason)) => format!("misbehaved: {reason}"),
    }
}

async fn round_trip(bench: &Bench) -> Outcome {
    let (mut persisted_first, mut backup_keys) = (false, Vec::new());
    let mut keep = |newborn: Newborn| match newborn.backup {
        Backup::HandedOut(key) => backup_keys.push(key),
        _ => unreachable!("it was asked for"),
    };
    let first = bench.create_root(async |newborn| {
        // The root must not stand on the token yet; its backup is kept first.
        persisted_first =
            newborn.wrapped.bytes.len() == 40 && objects(&bench.folder.join("tokens")).ok() == Some(0);
        keep(newborn);
        Ok(())
    });
    let first = first.await?;
    let second = bench.create_root(async |newborn| {
        keep(newborn);
        Ok(())
    });
    let second = second.await?;
    let listed = process::roots(&bench.settings(), Purpose::Root).await?;
    let hsm = bench.ready(bench.settings(), &first).await?;
    let (a, b) = (new_kek(&hsm, first.id).await?, new_kek(&hsm, second.id).await?);
    let before = hsm.figures().operations;
    let (key, sealed) = new_key(&hsm, &a, b"aad").await?;
    let cold = hsm.figures().operations - before;
    let opened = open(&hsm, &a, b"aad", &sealed).await?;
    let moved = Operation::MoveKey {
        from: a.clone(),
        from_aad: b"aad".to_vec(),
        sealed: sealed.clone(),
        to: b.clone(),
        to_aad: b"other".to_vec(),
    };
    let Reply::Sealed(moved) = one(&hsm, moved).await? else { return Err("no sealed key".into()) };
    let reopened = open(&hsm, &b, b"other", &moved).await?;
    let list = vec![
        Operation::Random { len: 0 },
        Operation::Random { len: 4096 },
        Operation::Random { len: 4097 },
        Operation::Random { len: 16 },
    ];
    let random: Vec<Value> = hsm
        .run(list)
        .await
        .into_iter()
        .map(|answer| match answer {
            Ok(Reply::Random(bytes)) => json!(bytes.len()),
            other => json!(words(other)),
        })
        .collect();
    Ok(json!({
        "persisted_first": persisted_first,
        "roots_differ": first.id != second.id && first.escrow != second.escrow,
        "backup_keys_differ": backup_keys[0].expose() != backup_keys[1].expose(),
        "listed": listed.len() == 2 && listed.contains(&first.id) && listed.contains(&second.id),
        "guards": first.born().guards == Guards { unmodifiable: true, uncopyable: false, limited: true },
        "quirks": first.born().quirks.len(),
        "label": first.born().token.label,
        "opened": opened.expose() == key.expose(),
        "reopened": reopened.expose() == key.expose(),
        "cold_operations": cold,
        "random": random,
        "shutdown": hsm.shutdown().await,
        "after_shutdown": words(open(&hsm, &a, b"aad", &sealed).await),
    }))
}

async fn damage(bench: &Bench) -> Outcome {
    let root = bench.root().await?;
    let hsm = bench.ready(bench.settings(), &root).await?;
    let kek = new_kek(&hsm, root.id).await?;
    let (_, sealed) = new_key(&hsm, &kek, b"aad").await?;
    let Kek::Sealed { wrapped, .. } = &kek else { return Err("a resident KEK".into()) };
    let with =
        |bytes: Vec<u8>| Kek::Sealed { root: root.id, wrapped: WrappedKek { bytes, ..wrapped.clone() } };
    let mut flipped = wrapped.bytes.clone();
    flipped[7] ^= 0x10;
    let mut tampered = sealed.clone();
    tampered.ciphertext[0] ^= 1;
    let other = new_kek(&hsm, root.id).await?;
    let unknown = Kek::Sealed { root: RootId([9; 16]), wrapped: wrapped.clone() };
    let answers = json!({
        "tampered_kek": words(open(&hsm, &with(flipped), b"aad", &sealed).await),
        "short_kek": words(open(&hsm, &with(wrapped.bytes[..39].to_vec()), b"aad", &sealed).await),
        "empty_kek": words(open(&hsm, &with(Vec::new()), b"aad", &sealed).await),
        "tampered_key": words(open(&hsm, &kek, b"aad", &tampered).await),
        "wrong_aad": words(open(&hsm, &kek, b"AAD", &sealed).await),
        "other_kek": words(open(&hsm, &other, b"aad", &sealed).await),
        "unknown_root": words(open(&hsm, &unknown, b"aad", &sealed).await),
        "unknown_root_generate": words(one(&hsm, Operation::GenerateKek { root: RootId([9; 16]) }).await),
        "still_opens": words(open(&hsm, &kek, b"aad", &sealed).await),
        "same_connection": matches!(*hsm.status().borrow(), Status::Ready { epoch: 1, .. }),
    });
    hsm.shutdown().await;
    Ok(answers)
}

async fn wrong_label(bench: &Bench) -> Outcome {
    let settings = bench.settings_with(|hsm| hsm.token = TokenSelector::label("nobody"));
    let hsm = process::start(settings, None);
    let status = wait(&hsm, |status| matches!(status, Status::Down { .. })).await?;
    hsm.shutdown().await;
    Ok(json!({ "status": format!("{status:?}") }))
}

/// The PIN file holds a wrong PIN. Then the token's PIN becomes that very value:
/// if it were presented again, the login would succeed.
async fn wrong_pin(bench: &Bench) -> Outcome {
    let refused = |status: &Status| matches!(status, Status::Refused { .. });
    let pin = bench.folder.join("pin");
    let right = std::fs::read_to_string(&pin)?;
    std::fs::write(&pin, "99999999")?;
    let hsm = process::start(bench.settings(), None);
    let first = wait(&hsm, refused).await?;
    let turned_away = words(one(&hsm, Operation::Random { len: 1 }).await);
    hsm.shutdown().await;
    let recorded = std::fs::read_to_string(bench.folder.join("state/pins/refused"))?;

    set_token_pin("99999999")?;
    let mut again = Vec::new();
    for _ in 0..3 {
        let hsm = process::start(bench.settings(), None);
        again.push(format!("{:?}", wait(&hsm, refused).await?));
        hsm.shutdown().await;
    }
    let check =
        process::check(&bench.settings()).await.err().ok_or("the PIN was presented again")?.to_string();

    let hsm = process::start(bench.settings(), None);
    wait(&hsm, refused).await?;
    let cleared = clear_refused_pin(&bench.folder.join("state"))?;
    let ready = wait(&hsm, |status| matches!(status, Status::Ready { .. })).await?;
    hsm.shutdown().await;

    std::fs::write(&pin, right.trim())?;
    let hsm = process::start(bench.settings(), None);
    wait(&hsm, refused).await?;
    std::fs::write(&pin, "99999999")?;
    wait(&hsm, |status| matches!(status, Status::Ready { .. })).await?;
    hsm.shutdown().await;
    let record = std::fs::read_to_string(bench.folder.join("state/pins/refused"))?;
    Ok(json!({
        "first": format!("{first:?}"),
        "turned_away": turned_away,
        "recorded": recorded.contains("CKR_PIN_INCORRECT") && !recorded.contains("99999999"),
        "again": again,
        "check": check,
        "cleared": cleared,
        "after_clearing": format!("{ready:?}"),
        "forgotten_after_success": !record.contains("CKR_PIN_INCORRECT"),
    }))
}

fn set_token_pin(new: &str) -> Result<(), Box<dyn Error>> {
    let so = ["--login", "--login-type", "so", "--so-pin", "12345678", "--init-pin", "--new-pin", new];
    let done = std::process::Command::new("pkcs11-tool")
        .args(["--module", MODULE, "--token-label", "keyward-test"])
        .args(so)
        .output()?;
    if done.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&done.stderr).into()) }
}

async fn removal(bench: &Bench) -> Outcome {
    let root = bench.root().await?;
    let settings = bench.settings_with(|hsm| hsm.probe_interval = Duration::from_millis(50));
    let hsm = bench.ready(settings, &root).await?;
    let kek = new_kek(&hsm, root.id).await?;
    let (key, sealed) = new_key(&hsm, &kek, b"aad").await?;
    let (here, away) = bench.tokens();
    std::fs::rename(&here, &away)?;
    let down = wait(&hsm, |status| matches!(status, Status::Down { .. })).await?;
    let meanwhile = words(open(&hsm, &kek, b"aad", &sealed).await);
    std::fs::rename(&away, &here)?;
    let ready = wait(&hsm, |status| matches!(status, Status::Ready { .. })).await?;
    let opened = open(&hsm, &kek, b"aad", &sealed).await?;
    hsm.shutdown().await;
    Ok(json!({
        "down": format!("{down:?}"),
        "meanwhile": meanwhile,
        "epoch": if let Status::Ready { epoch, .. } = ready { epoch } else { 0 },
        "opened": opened.expose() == key.expose(),
    }))
}

/// No probe runs: the call itself finds the loss, and is answered after the token came back.
async fn interrupted(bench: &Bench) -> Outcome {
    let root = bench.root().await?;
    let settings = bench.settings_with(|hsm| hsm.probe_interval = Duration::from_secs(3600));
    let hsm = bench.ready(settings, &root).await?;
    let (here, away) = bench.tokens();
    std::fs::rename(&here, &away)?;
    let call = tokio::spawn({
        let hsm = Arc::clone(&hsm);
        async move { one(&hsm, Operation::GenerateKek { root: root.id }).await }
    });
    wait(&hsm, |status| matches!(status, Status::Down { .. })).await?;
    std::fs::rename(&away, &here)?;
    let answer = words(call.await?);
    let ready = wait(&hsm, |status| matches!(status, Status::Ready { .. })).await?;
    hsm.shutdown().await;
    Ok(json!({ "answer": answer, "epoch": if let Status::Ready { epoch, .. } = ready { epoch } else { 0 } }))
}

async fn busy(bench: &Bench) -> Outcome {
    let root = bench.root().await?;
    let hsm =
        bench.ready(Settings { queue: 1, ..bench.settings_with(|hsm| hsm.sessions = 1) }, &root).await?;
    let long = |len: usize| std::iter::repeat_with(|| Operation::Random { len: 32 }).take(len).collect();
    let calls: Vec<_> = (0..8)
        .map(|_| {
            let (hsm, list) = (Arc::clone(&hsm), long(100_000));
            tokio::spawn(async move { hsm.run(list).await.into_iter().map(words).next() })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await?.unwrap_or_default());
    }
    let count = |wanted: &str| answers.iter().filter(|answer| *answer == wanted).count();
    let outcome = json!({ "busy": count("busy"), "ok": count("ok"), "of": answers.len() });
    hsm.shutdown().await;
    Ok(outcome)
}

async fn storm(bench: &Bench) -> Outcome {
    let root = bench.root().await?;
    let settings =
        Settings { queue: 64, ..bench.settings_with(|hsm| (hsm.sessions, hsm.kek_cache) = (4, 2)) };
    let hsm = bench.ready(settings, &root).await?;
    let mut keys = Vec::new();
    for number in 0..6u8 {
        let kek = new_kek(&hsm, root.id).await?;
        let (key, sealed) = new_key(&hsm, &kek, &[number]).await?;
        keys.push((kek, number, key, sealed));
    }
    let keys = Arc::new(keys);
    let threads: Vec<_> = (0..8)
        .map(|thread| {
            let (hsm, keys) = (Arc::clone(&hsm), Arc::clone(&keys));
            tokio::spawn(async move {
                let mut right = 0;
                for round in 0..300 {
                    let (kek, number, key, sealed) =
                        &keys[(round * 7 + thread * 5 + round / 11) % keys.len()];
                    let opened = open(&hsm, kek, &[*number], sealed).await;
                    right += usize::from(opened.is_ok_and(|opened| opened.expose() == key.expose()));
                }
                right
            })
        })
        .collect();
    let mut right = 0;
    for thread in threads {
        right += thread.await?;
    }
    let epoch_one = matches!(*hsm.status().borrow(), Status::Ready { epoch: 1, .. });
    hsm.shutdown().await;
    Ok(json!({ "right": right, "same_connection": epoch_one }))
}

/// A canary of a root that is not there, and one whose known answer differs.
async fn strange_canary(bench: &Bench) -> Outcome {
    let root = bench.root().await?;
    let mut missing = root.born().canary.clone();
    missing.root = RootId([9; 16]);
    let mut other = root.born().canary.clone();
    other.fingerprint[0] ^= 1;
    let mut damaged = root.born().canary.clone();
    damaged.kek.as_mut().ok_or("a canary without a KEK")?.bytes[0] ^= 1;
    let mut said = Vec::new();
    for canary in [missing, other, damaged] {
        let hsm = process::start(bench.settings(), Some(canary));
        said.push(format!("{:?}", wait(&hsm, |status| *status != Status::Starting).await?));
        hsm.shutdown().await;
    }
    Ok(json!({ "said": said }))
}

async fn no_backup(bench: &Bench) -> Outcome {
    let full = async |_| Err("there is no room".to_owned());
    let error = bench.create_root(full).await.err().ok_or("a root was made")?;
    let left = objects(&bench.folder.join("tokens"))?;
    Ok(
        json!({ "error": error.to_string(), "objects": left, "roots": process::roots(&bench.settings(), Purpose::Root).await?.len() }),
    )
}

/// A second root takes over from the first, which is destroyed, while the connection stays.
async fn retire(bench: &Bench) -> Outcome {
    let first = bench.root().await?;
    let hsm = bench.ready(bench.settings(), &first).await?;
    let a = new_kek(&hsm, first.id).await?;
    let (key, sealed) = new_key(&hsm, &a, b"aad").await?;
    let keep: KeepNewborn<'_> = Box::new(|_| Box::pin(async { Ok(()) }));
    let second = hsm.create_root(Purpose::Root, BackupPlan::Drop, keep).await?;
    let b = new_kek(&hsm, second.id).await?;
    let (from_aad, to_aad) = (b"aad".to_vec(), b"aad".to_vec());
    let moved =
        Operation::MoveKey { from: a.clone(), from_aad, sealed: sealed.clone(), to: b.clone(), to_aad };
    let Reply::Sealed(moved) = one(&hsm, moved).await? else { return Err("no sealed key".into()) };
    hsm.expect(second.born().canary.clone());
    hsm.destroy_root(first.id).await?;
    hsm.destroy_root(first.id).await?;
    let opened = open(&hsm, &b, b"aad", &moved).await?;
    Ok(json!({
        "opened": opened.expose() == key.expose(),
        "under_the_first": words(open(&hsm, &a, b"aad", &sealed).await),
        "roots": hsm.roots(Purpose::Root).await? == [second.id],
        "status": format!("{:?}", wait(&hsm, |_| true).await?).contains("epoch: 1,"),
    }))
}

/// A root whose backup key was split is lost with its token, and put together again by two of three.
async fn restore(bench: &Bench) -> Outcome {
    let holders = [Receiver::generate()?, Receiver::generate()?, Receiver::generate()?];
    let context = |at: usize| format!("share {at}").into_bytes();
    let plan = BackupPlan::Split {
        quorum: 2,
        holders: holders
            .iter()
            .enumerate()
            .map(|(at, holder)| Holder { key: *holder.public(), context: context(at) })
            .collect(),
    };
    let mut shares = Vec::new();
    let keep = async |newborn: Newborn| match newborn.backup {
        Backup::Split(sealed) => {
            shares = sealed;
            Ok(())
        }
        _ => Err("it was to be split".to_owned()),
    };
    let root = process::create_root(&bench.settings(), Purpose::Root, plan, keep).await?;
    process::destroy_root(&bench.settings(), root.id).await?;
    let deliver = async |whose: &[usize], settings: Settings| {
        let (heir, to) = Heir::open(&settings, &settings.slots[0]).await?;
        let delivered = whose.iter().map(|at| {
            let share = holders[*at].open(&shares[*at], &context(*at)).map_err(|error| error.to_string())?;
            let sealed = sealed_box::seal(&to, &delivery_context(&context(*at), &to), share.expose());
            let sealed = sealed.map_err(|error| error.to_string())?;
            Ok(DeliveredShare { holder: at.to_string(), context: context(*at), sealed })
        });
        let shares = delivered.collect::<Result<Vec<_>, String>>().map_err(TaskError::Failed)?;
        let (wrapped, canary) = (root.escrow.clone(), root.born().canary.clone());
        let delivery = Delivery::Shares(shares);
        heir.adopt(&Handover { purpose: Purpose::Root, id: root.id, wrapped, canary, delivery }).await
    };
    let alone = deliver(&[1], bench.settings()).await.err().map(|error| error.to_string());
    let twice = deliver(&[1, 1], bench.settings()).await.err().map(|error| error.to_string());
    let between = process::roots(&bench.settings(), Purpose::Root).await?.len();
    let settled = deliver(&[2, 0], bench.settings()).await?;
    let hsm = bench.ready(bench.settings(), &root).await?;
    Ok(json!({
        "alone": alone, "twice": twice, "between": between,
        "same_canary": settled.canary == root.born().canary,
        "serves": new_kek(&hsm, root.id).await.is_ok(),
    }))
}

/// The suite that the HSM in memory passes, too.
async fn conformance(bench: &Bench) -> Outcome {
    let settings = bench.settings_with(|hsm| hsm.probe_interval = Duration::from_millis(50));
    let hsm = process::start(settings, None);
    let shown = keyward_hsm_memory::conformance::suite(hsm.clone()).await;
    Ok(json!({ "shown": shown, "shutdown": hsm.shutdown().await }))
}

/// Object files of every token in the folder.
fn objects(tokens: &Path) -> Result<usize, Box<dyn Error>> {
    let mut count = 0;
    for token in std::fs::read_dir(tokens)? {
        for file in std::fs::read_dir(token?.path())? {
            let name = file?.file_name();
            count += usize::from(name.to_string_lossy().ends_with(".object") && name != "token.object");
        }
    }
    Ok(count)
}
