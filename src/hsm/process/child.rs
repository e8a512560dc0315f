//! The HSM process itself: the only one that loads the vendor's library.
//!
//! It serves the one socket that it was started with and ends when that is
//! closed. What goes wrong in the library goes wrong here: the daemon sees a
//! closed socket, or none of the signs of life that it expects.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::bounded;
use rustix::process::{Signal, getpid, kill_process};

use crate::hsm::HsmError;
use crate::hsm::pkcs11::pool::{self, Executed, Pool, Seen, Watch};
use crate::hsm::pkcs11::root::{self, Escrow, RootError, Settled};
use crate::hsm::pkcs11::{Settings, check};
use crate::hsm::process::frame;
use crate::hsm::process::queue::all;
use crate::hsm::process::wire::{Decision, FromChild, Hello, Order, Task};
use crate::keyring::wrapped::Canary;
use crate::secret::Pin;

/// Why an HSM process ended before its task was done.
#[derive(Debug, thiserror::Error)]
pub enum ChildError {
    /// A person started it.
    #[error("this command is for keywardd itself: its standard input must be a socket of the daemon")]
    NotStartedByKeyward,
    /// The daemon is gone, or does not speak the same protocol.
    #[error("the socket to the daemon: {0}")]
    Socket(#[from] io::Error),
}

/// Serves the socket on standard input.
///
/// # Errors
/// [`ChildError`]; what goes wrong with the HSM is told to the daemon instead.
pub fn run() -> Result<(), ChildError> {
    let mut socket = take_socket()?;
    let Some(Hello { settings, pin, patience, task }) = frame::read(&mut socket)? else { return Ok(()) };
    match task {
        Task::Serve { canary } => serve(socket, &settings, pin, canary, patience),
        Task::Roots => {
            let found = root::roots(&settings, &pin).map(FromChild::Roots);
            tell(&mut socket, &found.unwrap_or_else(refused))
        }
        Task::Check => tell(&mut socket, &report(&settings, &pin)),
        Task::CreateRoot => create_root(&mut socket, &settings, &pin),
        Task::AdoptRoot { escrow, canary } => adopt_root(&mut socket, &settings, &pin, &escrow, &canary),
    }
}

fn report(settings: &Settings, pin: &Pin) -> FromChild {
    let report = match check::check(settings, pin) {
        Ok(report) => serde_json::to_string(&report),
        Err(error) => return FromChild::Failed(error),
    };
    report.map_or_else(|error| FromChild::Refused(error.to_string()), FromChild::Report)
}

/// The library must not find the socket as its standard input.
fn take_socket() -> Result<UnixStream, ChildError> {
    let stdin = io::stdin();
    rustix::net::sockopt::socket_type(&stdin).map_err(|_| ChildError::NotStartedByKeyward)?;
    let socket = UnixStream::from(stdin.as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(std::fs::File::open("/dev/null")?).map_err(io::Error::from)?;
    Ok(socket)
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
    // The watch waits for the session threads, which end when the pool does: on every way out of here the
    // pool, bound last, is dropped first.
    let (watch, pool) = match started {
        Ok((pool, watch)) => (watch, pool),
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
                say(mouth, &FromChild::Healthy { resident: resident(), keks: watch.keks() });
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

fn create_root(socket: &mut UnixStream, settings: &Settings, pin: &Pin) -> Result<(), ChildError> {
    let mut other = socket.try_clone()?;
    let keep = |escrow: Escrow| go_on(&mut other, &FromChild::Escrow(escrow));
    let made = root::create(settings, pin, keep, |settled| go_on_settled(socket, settled));
    finish(socket, made)
}

fn adopt_root(
    socket: &mut UnixStream,
    settings: &Settings,
    pin: &Pin,
    escrow: &Escrow,
    canary: &Canary,
) -> Result<(), ChildError> {
    let made = root::adopt(settings, pin, escrow, canary, |settled| go_on_settled(socket, settled));
    finish(socket, made)
}

fn go_on_settled(socket: &mut UnixStream, settled: &Settled) -> bool {
    go_on(socket, &FromChild::Settled(settled.clone()))
}

/// Asks the daemon. A daemon that is gone has decided nothing, so nothing is kept.
fn go_on(socket: &mut UnixStream, question: &FromChild) -> bool {
    let answer = frame::write(socket, question).and_then(|()| frame::read::<Decision>(socket));
    matches!(answer, Ok(Some(Decision::Go)))
}

fn finish(socket: &mut UnixStream, made: Result<(), RootError>) -> Result<(), ChildError> {
    tell(socket, &made.map_or_else(refused, |()| FromChild::Finished))
}

fn refused(error: RootError) -> FromChild {
    match error {
        RootError::Connect(error) => FromChild::Failed(error),
        other => FromChild::Refused(other.to_string()),
    }
}
