//! The HSM process itself: the only one that loads the vendor's library.
//!
//! It serves the one socket that it was started with and ends when that is
//! closed. What goes wrong in the library goes wrong here: the daemon sees a
//! closed socket, or none of the signs of life that it expects.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::bounded;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, getpid, kill_process};

use crate::child::{ChildError, frame, take_socket};
use crate::envelope::sealed_box::Receiver;
use crate::hsm::HsmError;
use crate::hsm::birth::{BackupPlan, Newborn, Purpose};
use crate::hsm::confine::{Confined, confine};
use crate::hsm::pin::RefusedPins;
use crate::hsm::pkcs11::pool::{self, Executed, Pool, Seen, Watch};
use crate::hsm::pkcs11::root::{self, Registrar, RootError, Settled, Verdict};
use crate::hsm::pkcs11::{ConnectError, Settings, check};
use crate::hsm::process::queue::all;
use crate::hsm::process::wire::{Decision, FromChild, Hello, Order, Task};
use crate::keyring::escrow::SealedBox;
use crate::keyring::wrapped::Canary;
use crate::secret::Pin;

/// How long the process may go on once the daemon is gone: enough to finish what a software token writes
/// at a login.
const ORPHANED: Duration = Duration::from_millis(500);

/// Serves the socket on standard input.
///
/// # Errors
/// [`ChildError`]; what goes wrong with the HSM is told to the daemon instead.
pub fn run() -> Result<(), ChildError> {
    let mut socket = take_socket()?;
    let Some(Hello { settings, pin, patience, task }) = frame::read(&mut socket)? else { return Ok(()) };
    // Before the library, and before any thread: what is confined is this thread and what it starts.
    match confined(&settings) {
        Ok(confined) => tell(&mut socket, &FromChild::Confined(confined))?,
        Err(error) => return tell(&mut socket, &FromChild::Failed(error)),
    }
    end_with_daemon(&socket)?;
    match task {
        Task::Serve { canary } => serve(socket, &settings, pin, canary, patience),
        Task::Roots(purpose) => {
            let found = root::roots(&settings, &pin, purpose).map(FromChild::Roots);
            tell(&mut socket, &found.unwrap_or_else(refused))
        }
        Task::Standing(purposes) => {
            let found = root::standing(&settings, &pin, &purposes).map(FromChild::Standing);
            tell(&mut socket, &found.unwrap_or_else(refused))
        }
        Task::Check => tell(&mut socket, &report(&settings, &pin)),
        Task::CreateRoot { purpose, plan } => create_root(&mut socket, &settings, &pin, purpose, &plan),
        Task::AdoptRoot => adopt_root(&mut socket, &settings, &pin),
        Task::DestroyRoot(id) => finish(&mut socket, root::destroy(&settings, &pin, id)),
    }
}

/// Gives up what the library shall not have.
fn confined(settings: &Settings) -> Result<Confined, ConnectError> {
    // It lies where this process will not reach any more.
    RefusedPins::take_over(&settings.state_dir).map_err(|error| ConnectError::Unfit(error.to_string()))?;
    let own = RefusedPins::folder(&settings.state_dir);
    confine(&settings.confinement, &settings.module, &own)
        .map_err(|error| ConnectError::Unfit(error.to_string()))
}

/// Ends this process when the daemon is gone, whatever the library does then: it may hang while it
/// connects, and nobody reads the socket meanwhile. Not tied to the daemon's thread that started this
/// process, as a death signal would be.
fn end_with_daemon(socket: &UnixStream) -> Result<(), ChildError> {
    let socket = socket.try_clone()?;
    std::thread::Builder::new().name("daemon-watch".to_owned()).spawn(move || {
        wait_for_hangup(&socket);
        std::thread::sleep(ORPHANED);
        // An orderly exit runs the library's clean-up, which may hang as well.
        kill_process(getpid(), Signal::KILL).ok();
    })?;
    Ok(())
}

/// Returns when the other end is closed in both directions. At a stop the daemon closes one, and reads
/// until this process has ended.
fn wait_for_hangup(socket: &UnixStream) {
    let mut watched = [PollFd::new(socket, PollFlags::empty())];
    while !watched[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return tracing::error!(%error, "cannot watch the daemon"),
        }
    }
}

fn report(settings: &Settings, pin: &Pin) -> FromChild {
    let report = match check::check(settings, pin) {
        Ok(report) => serde_json::to_string(&report),
        Err(error) => return FromChild::Failed(error),
    };
    report.map_or_else(|error| FromChild::Refused(error.to_string()), FromChild::Report)
}

fn tell(socket: &mut UnixStream, message: &FromChild) -> Result<(), ChildError> {
    Ok(frame::write(socket, message)?)
}

/// The socket, shared by all who have something to tell.
type Mouth = Arc<Mutex<UnixStream>>;

/// Tells the daemon; when that fails it is gone, which the reading thread sees too.
fn say(mouth: &Mouth, message: &FromChild) {
    match frame::encode(message) {
        Ok(frame) => write(mouth, &frame),
        Err(error) => tracing::error!(%error, "cannot tell the daemon"),
    }
}

fn write(mouth: &Mouth, frame: &[u8]) {
    let mut socket = mouth.lock().unwrap_or_else(PoisonError::into_inner);
    socket.write_all(frame).ok();
}

fn serve(
    mut socket: UnixStream,
    settings: &Settings,
    pin: Pin,
    canary: Option<Canary>,
    patience: Duration,
) -> Result<(), ChildError> {
    let started = pool::start(settings, &pin, canary);
    drop(pin);
    let (watch, pool) = match started {
        Ok(started) => started,
        Err(error) => return tell(&mut socket, &FromChild::Failed(error)),
    };
    tell(&mut socket, &FromChild::Ready { token: pool.token().clone() })?;
    let mouth = Arc::new(Mutex::new(socket.try_clone()?));
    let (alive, ended) = bounded::<()>(0);
    let interval = settings.probe_interval;
    let watching = Arc::clone(&mouth);
    std::thread::Builder::new().name("hsm-watch".to_owned()).spawn(move || {
        watch_over(watch, interval, &watching);
        drop(alive);
    })?;
    let closed = take_work(&mut socket, pool, &mouth);
    if ended.recv_timeout(patience).is_err_and(|error| error.is_timeout()) {
        // A thread hangs in the library; so might its clean-up at an orderly exit.
        kill_process(getpid(), Signal::KILL).map_err(io::Error::from)?;
    }
    closed
}

/// Hands over work until the daemon closes the socket.
fn take_work(socket: &mut UnixStream, pool: Pool, mouth: &Mouth) -> Result<(), ChildError> {
    while let Some(order) = frame::read(socket)? {
        match order {
            Order::Run { number, operations } => {
                let mouth = Arc::clone(mouth);
                pool.run(operations, Box::new(move |executed| answer(&mouth, number, executed)));
            }
            Order::Forget(keks) => pool.forget(keks),
            Order::Expect(canary) => pool.expect(canary),
        }
    }
    Ok(())
}

fn answer(mouth: &Mouth, number: u64, Executed { answers, calls }: Executed) {
    let count = answers.len();
    match frame::encode(&FromChild::Done { number, answers, calls }) {
        Ok(frame) => write(mouth, &frame),
        Err(error) => {
            let too_long = HsmError::Unavailable(format!("the list was executed, but {error}"));
            say(mouth, &FromChild::Done { number, answers: all(count, &too_long), calls });
        }
    }
}

/// Gives signs of life until the connection is lost or everything has ended.
fn watch_over(watch: Watch, interval: Duration, mouth: &Mouth) {
    loop {
        match watch.look(interval) {
            Seen::Healthy => {
                let (keks, objects) = (watch.keks(), watch.objects());
                say(mouth, &FromChild::Healthy { resident: resident(), keks, objects });
            }
            // The daemon ends this process now; what hangs in the library goes with it.
            Seen::Lost(reason) => return say(mouth, &FromChild::Lost(reason)),
            Seen::Ended => return,
        }
    }
}

/// Bytes of memory in use; zero when the kernel does not say.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    pages.unwrap_or(0).saturating_mul(page)
}

fn create_root(
    socket: &mut UnixStream,
    settings: &Settings,
    pin: &Pin,
    purpose: Purpose,
    plan: &BackupPlan,
) -> Result<(), ChildError> {
    let made = root::create(settings, pin, purpose, plan, &mut Asking(socket));
    finish(socket, made)
}

fn adopt_root(socket: &mut UnixStream, settings: &Settings, pin: &Pin) -> Result<(), ChildError> {
    let receiver = match Receiver::generate() {
        Ok(receiver) => receiver,
        Err(error) => return tell(socket, &FromChild::Refused(error.to_string())),
    };
    tell(socket, &FromChild::Receives(*receiver.public()))?;
    let Some(handover) = frame::read(socket)? else { return Ok(()) };
    let made = root::adopt(settings, pin, &handover, &receiver, &mut Asking(socket));
    finish(socket, made)
}

/// Asks the daemon. A daemon that is gone has decided nothing, so nothing is kept.
struct Asking<'a>(&'a mut UnixStream);

impl Asking<'_> {
    fn ask<A: for<'b> minicbor::Decode<'b, ()>>(&mut self, question: &FromChild) -> Option<A> {
        frame::write(self.0, question).and_then(|()| frame::read(self.0)).ok().flatten()
    }
}

impl Registrar for Asking<'_> {
    fn keep(&mut self, newborn: Newborn) -> bool {
        self.ask(&FromChild::Newborn(newborn)) == Some(Decision::Go)
    }

    fn judge(&mut self, settled: &Settled) -> Verdict {
        self.ask(&FromChild::Settled(settled.clone())).unwrap_or(Verdict::GiveUp)
    }

    fn hand_over(&mut self, sealed: SealedBox) -> Verdict {
        self.ask(&FromChild::HandedOver(sealed)).unwrap_or(Verdict::GiveUp)
    }
}

fn finish(socket: &mut UnixStream, made: Result<(), RootError>) -> Result<(), ChildError> {
    tell(socket, &made.map_or_else(refused, |()| FromChild::Finished))
}

fn refused(error: RootError) -> FromChild {
    match error {
        RootError::Connect(error) => FromChild::Failed(error),
        full @ RootError::Full { .. } => FromChild::Full(full.to_string()),
        other => FromChild::Refused(other.to_string()),
    }
}
