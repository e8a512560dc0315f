//! The supervisor of one token: starts its process, serves, starts it again.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::hsm::pin::{PinSource, RefusedPins, Stamp};
use crate::hsm::pkcs11::ConnectError;
use crate::hsm::process::group::Group;
use crate::hsm::process::link::{self, Link};
use crate::hsm::process::serve::{End, Service};
use crate::hsm::process::settings::{Settings, Slot};
use crate::hsm::process::wire::{FromChild, Task};
use crate::hsm::{SlotState, TokenInfo};
use crate::keyring::wrapped::Canary;
use crate::secret::Pin;

/// Pause after the first failure; doubled after each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often a refused connection looks whether somebody has changed the PIN or cleared the record.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

pub(super) struct Supervisor {
    pub(super) index: usize,
    pub(super) group: Arc<Group>,
    pub(super) settings: Arc<Settings>,
    /// What proves the root; seen as far as the newest connection was told.
    pub(super) canary: watch::Receiver<Option<Canary>>,
    pub(super) stop: CancellationToken,
    /// A PIN from the terminal is asked for once.
    pub(super) typed: Option<Pin>,
    /// Why the token did not serve last: the log tells it once, however often it is tried again.
    pub(super) told: Option<String>,
}

/// The daemon stops.
struct Stop;

impl Supervisor {
    /// Runs until the daemon stops; says whether the process ended by itself then.
    pub(super) async fn run(mut self) -> bool {
        let stop = self.stop.clone();
        let mut pause = FIRST_PAUSE;
        let clean = loop {
            let credential = self.slot().pin.stamp();
            let connected = tokio::select! {
                biased;
                () = stop.cancelled() => break true,
                connected = self.connect() => connected,
            };
            if connected.is_ok() {
                self.told = None;
            }
            let next = match connected {
                Ok(connected) => match self.serve(connected).await {
                    End::Stopped => break true,
                    End::Lost { .. } if stop.is_cancelled() => break false,
                    End::Lost { reason, served } => {
                        if served {
                            pause = FIRST_PAUSE;
                        }
                        self.away(SlotState::Down(reason), pause).await
                    }
                },
                Err(ConnectError::Away(reason)) => self.away(SlotState::Down(reason), pause).await,
                Err(ConnectError::Foreign(reason)) => self.away(SlotState::Foreign(reason), pause).await,
                Err(ConnectError::Unfit(reason)) => self.away(SlotState::Refused(reason), pause).await,
                Err(ConnectError::Refused(reason)) => self.wait_for_a_person(reason, credential).await,
            };
            if let Err(Stop) = next {
                break true;
            }
            pause = LONGEST_PAUSE.min(pause * 2);
        };
        self.announce(SlotState::Down("it was shut down".to_owned()));
        clean
    }

    fn slot(&self) -> &Slot {
        &self.settings.slots[self.index]
    }

    fn announce(&self, state: SlotState) {
        self.group.announce(self.index, state);
    }

    async fn connect(&mut self) -> Result<(Child, UnixStream, TokenInfo), ConnectError> {
        let pin = match self.typed.take() {
            Some(pin) => pin,
            None => read_pin(self.slot().pin.clone()).await?,
        };
        let keep = (self.slot().pin == PinSource::Prompt).then(|| pin.duplicate());
        let patience = self.settings.connect_limit();
        let connected = tokio::time::timeout(patience, self.open(pin)).await.unwrap_or_else(|_| {
            Err(ConnectError::Away(format!("the PKCS#11 module gave no connection within {patience:?}")))
        });
        self.typed = keep.filter(|_| !matches!(connected, Err(ConnectError::Refused(_))));
        connected
    }

    async fn open(&mut self, pin: Pin) -> Result<(Child, UnixStream, TokenInfo), ConnectError> {
        let task = Task::Serve { canary: self.canary.borrow_and_update().clone() };
        let patience = self.settings.deadline;
        let mut link = Link::open(&self.settings.program, self.slot(), pin, patience, task).await?;
        self.group.note_confinement(self.index, link.confined);
        match link.hear().await {
            Ok(FromChild::Ready { token }) => Ok((link.child, link.socket, token)),
            Ok(FromChild::Failed(error)) => {
                link::end(link.child).await;
                Err(error)
            }
            Ok(_) => Err(ConnectError::Away("the HSM process speaks another protocol".to_owned())),
            Err(reason) => Err(ConnectError::Away(reason)),
        }
    }

    async fn serve(&self, (mut child, socket, token): (Child, UnixStream, TokenInfo)) -> End {
        let epoch = self.group.next_epoch();
        tracing::info!(token = token.label, serial = token.serial, epoch, "HSM process ready");
        self.announce(SlotState::Ready { epoch, token });
        let canary = self.canary.clone();
        let service = Service::new(&self.group, &self.settings, self.index, canary, &self.stop);
        let end = service.run(&mut child, socket).await;
        if let End::Lost { reason, .. } = &end {
            // First nobody waits for this slot, then its process is ended.
            self.announce(SlotState::Down(reason.clone()));
        }
        link::end(child).await;
        end
    }

    /// Announces why the token does not serve, and waits before the next attempt.
    async fn away(&mut self, state: SlotState, span: Duration) -> Result<(), Stop> {
        let reason = state.reason().unwrap_or_default().to_owned();
        if self.told.as_ref() != Some(&reason) {
            let token = self.slot().name();
            match &state {
                SlotState::Down(_) => tracing::warn!(token, "the HSM is away, and is tried again: {reason}"),
                _ => tracing::error!(token, "the HSM does not serve, and is tried again: {reason}"),
            }
            self.told = Some(reason);
        }
        self.announce(state);
        self.sleep(span).await
    }

    /// Waits until somebody has changed the PIN or cleared the record of refused PINs.
    async fn wait_for_a_person(&mut self, reason: String, credential: Option<Stamp>) -> Result<(), Stop> {
        self.told = None;
        tracing::error!(token = self.slot().name(), "the HSM connection is refused: {reason}");
        // Looked at before the refusal is announced: what follows is an answer to it.
        let record = RefusedPins::in_dir(&self.slot().hsm.state_dir);
        let refused = record.stamp();
        self.announce(SlotState::Refused(reason));
        while self.slot().pin.stamp() == credential && record.stamp() == refused {
            self.sleep(LOOK_AGAIN).await?;
        }
        Ok(())
    }

    async fn sleep(&self, span: Duration) -> Result<(), Stop> {
        match tokio::time::timeout(span, self.stop.cancelled()).await {
            Ok(()) => Err(Stop),
            Err(_) => Ok(()),
        }
    }
}

/// Reads the PIN; a terminal takes its time, so this has a thread of its own.
pub(super) async fn read_pin(source: PinSource) -> Result<Pin, ConnectError> {
    let read = tokio::task::spawn_blocking(move || source.read()).await;
    Ok(read.map_err(|error| ConnectError::Away(error.to_string()))??)
}
