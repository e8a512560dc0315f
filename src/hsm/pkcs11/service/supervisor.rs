//! The supervisor: connects, watches over the session threads, connects again.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::thread::{Builder, Scope};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded, select_biased};
use cryptoki::session::Session;

use crate::clock::Moment;
use crate::hsm::Status;
use crate::hsm::pin::{PinSource, RefusedPins, Stamp};
use crate::hsm::pkcs11::Settings;
use crate::hsm::pkcs11::connection::{Connected, Connection};
use crate::hsm::pkcs11::error::ConnectError;
use crate::hsm::pkcs11::module::Library;
use crate::hsm::pkcs11::service::worker::{Interrupted, Worker, lock};
use crate::hsm::pkcs11::service::{Job, Shared};
use crate::keyring::wrapped::Canary;
use crate::secret::Pin;

/// Pause after the first failure; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause. A connection that lasted longer resets the pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a refused connection looks whether somebody has changed the PIN or cleared the record.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) struct Supervisor {
    settings: Settings,
    canary: Option<Canary>,
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    /// Disconnected to stop.
    stop: Receiver<Infallible>,
    interrupted: Interrupted,
    library: Option<Arc<Library>>,
    /// A PIN from the terminal is asked for once.
    typed: Option<Pin>,
    epoch: u64,
}

/// How a connection ended.
enum End {
    Stopped,
    Lost(String),
}

/// The service shall stop.
struct Stop;

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.shared.announce(Status::Down { reason: "it was shut down".to_owned() });
    }
}

impl Supervisor {
    pub(super) fn new(
        settings: Settings,
        canary: Option<Canary>,
        shared: Arc<Shared>,
        jobs: Receiver<Job>,
        stop: Receiver<Infallible>,
    ) -> Self {
        let interrupted = Mutex::default();
        Self { settings, canary, shared, jobs, stop, interrupted, library: None, typed: None, epoch: 0 }
    }

    /// Runs until the service is stopped.
    pub(super) fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            let began = Moment::now();
            let credential = self.settings.pin.stamp();
            let reason = match self.connect().map(|connected| self.serve(connected)) {
                Ok(End::Stopped) => return,
                Ok(End::Lost(reason)) | Err(ConnectError::Away(reason)) => reason,
                Err(ConnectError::Refused(reason)) => {
                    let Ok(()) = self.wait_for_a_person(&reason, credential) else { return };
                    continue;
                }
            };
            tracing::warn!("the HSM is away: {reason}");
            self.shared.announce(Status::Down { reason: reason.clone() });
            if Moment::now().since(began) > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            let Ok(()) = self.pause(pause, &reason) else { return };
            pause = LONGEST_PAUSE.min(pause * 2);
        }
    }

    fn connect(&mut self) -> Result<Connected, ConnectError> {
        let library = match &self.library {
            Some(library) => Arc::clone(library),
            None => Library::load(&self.settings.module)?,
        };
        self.library = Some(Arc::clone(&library));
        let pin = match self.typed.take() {
            Some(pin) => pin,
            None => self.settings.pin.read().map_err(|error| ConnectError::Refused(error.to_string()))?,
        };
        let connected = Connected::open(&library, &self.settings, &pin, self.canary.clone(), false);
        let keep =
            self.settings.pin == PinSource::Prompt && !matches!(connected, Err(ConnectError::Refused(_)));
        self.typed = keep.then_some(pin);
        connected
    }

    /// Serves until the connection is lost or the service stops. Then every
    /// session thread has left, the sessions are closed and the module is finalised.
    fn serve(&mut self, connected: Connected) -> End {
        let connection = &connected.connection;
        let opened = (0..self.settings.sessions.max(1)).map(|_| connection.module.session(false)).collect();
        let mut sessions: Vec<Session> = match opened {
            Ok(sessions) => sessions,
            Err(error) => return End::Lost(format!("{error} (are there fewer sessions than configured?)")),
        };
        self.epoch += 1;
        let token = connection.module.token().clone();
        self.shared.announce(Status::Ready { epoch: self.epoch, token });
        std::thread::scope(|scope| self.serve_on(scope, &mut sessions, &connected))
    }

    fn serve_on<'scope, 'env>(
        &'env self,
        scope: &'scope Scope<'scope, 'env>,
        sessions: &'env mut [Session],
        connected: &'env Connected,
    ) -> End {
        let (stay, leave) = bounded(0);
        let (lost, losses) = bounded(1);
        let mut started = Ok(());
        for session in sessions {
            let worker = Worker {
                epoch: self.epoch,
                connection: &connected.connection,
                session,
                shared: &self.shared,
                interrupted: &self.interrupted,
                jobs: self.jobs.clone(),
                leave: leave.clone(),
                lost: lost.clone(),
            };
            let thread = Builder::new().name("hsm-session".to_owned());
            if let Err(error) = thread.spawn_scoped(scope, || worker.run()) {
                started = Err(error);
            }
        }
        drop(lost);
        let end = match started {
            Ok(()) => self.watch(&connected.holder, &connected.connection, &losses),
            Err(error) => End::Lost(format!("cannot start a session thread: {error}")),
        };
        // First nobody takes another job, then the loss is announced, then the
        // scope waits for the threads: one may hang in the module.
        drop(stay);
        if let End::Lost(reason) = &end {
            self.shared.announce(Status::Down { reason: reason.clone() });
        }
        end
    }

    /// Waits for the end of the connection, and proves its health from time to time.
    fn watch(&self, holder: &Session, connection: &Connection, losses: &Receiver<String>) -> End {
        loop {
            select_biased! {
                recv(self.stop) -> _ => return End::Stopped,
                recv(losses) -> reason => {
                    return End::Lost(reason.unwrap_or_else(|_| "every session thread has ended".to_owned()));
                }
                default(self.settings.probe_interval) => {
                    if let Err(reason) = connection.health(holder) {
                        return End::Lost(reason);
                    }
                }
            }
        }
    }

    /// Waits before the next attempt. Calls may wait during the grace, then they are turned away.
    fn pause(&self, span: Duration, reason: &str) -> Result<(), Stop> {
        let end = Moment::now().after(span);
        loop {
            lock(&self.interrupted).retain(|job| !job.abandoned());
            let (left, grace) = (end.since(Moment::now()), self.shared.grace_left());
            if left.is_zero() {
                return Ok(());
            }
            if grace.is_zero() {
                self.turn_away(left, reason)?;
            } else {
                self.sleep(left.min(grace))?;
            }
        }
    }

    /// Waits until somebody has changed the PIN or cleared the record of refused PINs.
    fn wait_for_a_person(&self, reason: &str, credential: Option<Stamp>) -> Result<(), Stop> {
        tracing::error!("the HSM connection is refused: {reason}");
        // Looked at before the refusal is announced: what follows is an answer to it.
        let record = RefusedPins::in_dir(&self.settings.state_dir);
        let refused = record.stamp();
        self.shared.announce(Status::Refused { reason: reason.to_owned() });
        for job in lock(&self.interrupted).drain(..) {
            job.unavailable(reason);
        }
        while self.settings.pin.stamp() == credential && record.stamp() == refused {
            self.turn_away(LOOK_AGAIN, reason)?;
        }
        Ok(())
    }

    /// Sleeps, and answers the calls that are still in the queue.
    fn turn_away(&self, span: Duration, reason: &str) -> Result<(), Stop> {
        for job in self.jobs.try_iter() {
            job.unavailable(reason);
        }
        self.sleep(span)
    }

    fn sleep(&self, span: Duration) -> Result<(), Stop> {
        match self.stop.recv_timeout(span) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => Err(Stop),
        }
    }
}
