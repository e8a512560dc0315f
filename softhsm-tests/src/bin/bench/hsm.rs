//! What it costs that the PKCS#11 library lives in a process of its own: the
//! same work, in turns, through an HSM process and on session threads of this one.

use std::path::Path;
use std::sync::mpsc;
use std::time::Instant;

use keyward::daemon::child;
use keyward::hsm::birth::{BackupPlan, NewRoot, Purpose};
use keyward::hsm::pin::PinSource;
use keyward::hsm::pkcs11::pool::{self, Executed, Pool};
use keyward::hsm::pkcs11::{self, TokenSelector};
use keyward::hsm::process::{self, HsmGroup, Program, Settings, create_root};
use keyward::hsm::{Hsm, HsmError, Kek, Operation, Reply, Status};
use keyward::keyring::wrapped::SealedKey;
use keyward_softhsm_tests::{World, binary, softhsm_module};
use serde::{Deserialize, Serialize};

use super::Outcome;
use super::figures::median;

/// Keys that are moved in one round, in lists as long as a rotation's.
const KEYS: usize = 5_000;
const LIST: usize = 500;
/// Keys that are opened in one round by calls of their own, so many at a time.
const OPENED: usize = 20_000;
const IN_FLIGHT: usize = 64;
const ROUNDS: usize = 5;
const AAD: &[u8] = b"bench";

/// Operations each second, a figure for each round.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Isolation {
    pub(crate) moved_in_process: Vec<f64>,
    pub(crate) moved_isolated: Vec<f64>,
    pub(crate) opened_in_process: Vec<f64>,
    pub(crate) opened_isolated: Vec<f64>,
}

impl Isolation {
    /// How fast keys are moved through the HSM process, compared with in this process.
    pub(crate) fn lists(&self) -> f64 {
        ratio(&self.moved_isolated, &self.moved_in_process)
    }

    /// The same for calls of one operation.
    pub(crate) fn single_calls(&self) -> f64 {
        ratio(&self.opened_isolated, &self.opened_in_process)
    }
}

fn ratio(these: &[f64], those: &[f64]) -> f64 {
    median(these.iter().zip(those).map(|(this, that)| this / that))
}

/// Measures in a process of its own, since the module's state is that of its process.
pub(crate) fn run() -> Outcome<Isolation> {
    let world = World::new();
    std::fs::create_dir(world.path("state"))?;
    let output = world.command("bench").arg("isolation").arg(world.path("")).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// The measurement, with the token in a folder: `bench isolation FOLDER`.
pub(crate) async fn measure(folder: &Path) -> Outcome<Isolation> {
    let settings = settings(folder);
    let root = create_root(&settings, Purpose::Root, BackupPlan::Drop, async |_| Ok(())).await?;
    let canary = root.born().canary.clone();
    let group = process::start(settings.clone(), Some(canary.clone()));
    group.status().wait_for(|status| matches!(status, Status::Ready { .. })).await?;
    let (from, to) = (new_kek(&group, &root).await?, new_kek(&group, &root).await?);
    let keys = new_keys(&group, &from).await?;
    let slot = &settings.slots[0];
    let (watch, pool) = pool::start(&slot.hsm, &slot.pin.read()?, Some(canary))?;
    let mut found = Isolation::default();
    for _ in 0..ROUNDS {
        found.moved_in_process.push(rate(KEYS, || move_in_process(&pool, &keys, &from, &to))?);
        let began = Instant::now();
        for list in keys.chunks(LIST) {
            all_done(group.run(moves(list, &from, &to)).await)?;
        }
        found.moved_isolated.push(KEYS as f64 / began.elapsed().as_secs_f64());
        found.opened_in_process.push(rate(OPENED, || open_in_process(&pool, &keys, &from))?);
        let began = Instant::now();
        open_isolated(&group, &keys, &from).await?;
        found.opened_isolated.push(OPENED as f64 / began.elapsed().as_secs_f64());
    }
    drop(pool);
    drop(watch);
    group.shutdown().await;
    Ok(found)
}

fn settings(folder: &Path) -> Settings {
    let (token, state) = (TokenSelector::label("token"), folder.join("state"));
    let mut hsm = pkcs11::Settings::new(softhsm_module().into(), token, state);
    hsm.confinement.allow_paths.push(folder.join("tokens"));
    let program = Program::new(binary("keyward"), vec![child::COMMAND.into()]);
    Settings::new(hsm, PinSource::File(folder.join("pin")), program)
}

fn misfit() -> HsmError {
    HsmError::Misbehaved("it gave another answer than asked for".to_owned())
}

async fn new_kek(group: &HsmGroup, root: &NewRoot) -> Outcome<Kek> {
    match group.run(vec![Operation::GenerateKek { root: root.id }]).await.pop() {
        Some(Ok(Reply::Wrapped(wrapped))) => Ok(Kek::Sealed { root: root.id, wrapped }),
        Some(Err(error)) => Err(error.into()),
        _ => Err(misfit().into()),
    }
}

async fn new_keys(group: &HsmGroup, kek: &Kek) -> Outcome<Vec<SealedKey>> {
    let mut keys = Vec::with_capacity(KEYS);
    while keys.len() < KEYS {
        let one = || Operation::GenerateKey { kek: kek.clone(), aad: AAD.to_vec() };
        for answer in group.run(std::iter::repeat_with(one).take(LIST).collect()).await {
            let Reply::NewKey { sealed, .. } = answer? else { return Err(misfit().into()) };
            keys.push(sealed);
        }
    }
    Ok(keys)
}

fn moves(keys: &[SealedKey], from: &Kek, to: &Kek) -> Vec<Operation> {
    let one = |sealed: &SealedKey| Operation::MoveKey {
        from: from.clone(),
        from_aad: AAD.to_vec(),
        sealed: sealed.clone(),
        to: to.clone(),
        to_aad: AAD.to_vec(),
    };
    keys.iter().map(one).collect()
}

fn open(sealed: &SealedKey, kek: &Kek) -> Vec<Operation> {
    vec![Operation::OpenKey { kek: kek.clone(), aad: AAD.to_vec(), sealed: sealed.clone() }]
}

fn all_done(answers: Vec<Result<Reply, HsmError>>) -> Outcome<()> {
    answers.into_iter().try_for_each(|answer| answer.map(drop)).map_err(Into::into)
}

fn rate(count: usize, work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let began = Instant::now();
    work()?;
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// The receiver waits for every answer.
fn send_to(answers: mpsc::Sender<Executed>) -> pool::Answer {
    Box::new(move |executed| drop(answers.send(executed)))
}

fn move_in_process(pool: &Pool, keys: &[SealedKey], from: &Kek, to: &Kek) -> Outcome<()> {
    let (answer, answers) = mpsc::channel::<Executed>();
    for list in keys.chunks(LIST) {
        let answer = answer.clone();
        pool.run(moves(list, from, to), send_to(answer));
        all_done(answers.recv()?.answers)?;
    }
    Ok(())
}

fn open_in_process(pool: &Pool, keys: &[SealedKey], kek: &Kek) -> Outcome<()> {
    let (answer, answers) = mpsc::channel::<Executed>();
    let mut waiting = 0;
    for sealed in keys.iter().cycle().take(OPENED) {
        if waiting == IN_FLIGHT {
            all_done(answers.recv()?.answers)?;
            waiting -= 1;
        }
        let answer = answer.clone();
        pool.run(open(sealed, kek), send_to(answer));
        waiting += 1;
    }
    (0..waiting).try_for_each(|_| all_done(answers.recv()?.answers))
}

async fn open_isolated(group: &HsmGroup, keys: &[SealedKey], kek: &Kek) -> Outcome<()> {
    let lane = async |lane: usize| -> Outcome<()> {
        for sealed in keys.iter().cycle().skip(lane).step_by(IN_FLIGHT).take(OPENED / IN_FLIGHT) {
            all_done(group.run(open(sealed, kek)).await)?;
        }
        Ok(())
    };
    futures_util::future::try_join_all((0..IN_FLIGHT).map(lane)).await.map(drop)
}
