//! Serving the queue with one HSM process, until one of them ends.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::child::frame;
use crate::clock::Moment;
use crate::hsm::process::flight::Flight;
use crate::hsm::process::group::Group;
use crate::hsm::process::link::last_words;
use crate::hsm::process::settings::{Settings, Slot};
use crate::hsm::process::wire::{FromChild, OrderRef};
use crate::hsm::{Forget, Status};
use crate::keyring::wrapped::Canary;

/// How often deadlines are looked at.
const TICK: Duration = Duration::from_millis(20);

/// How serving ended.
pub(super) enum End {
    /// The daemon stops; the process has finished its work.
    Stopped,
    /// The process is lost.
    Lost {
        /// Why.
        reason: String,
        /// It has answered something before: the next one need not wait long.
        served: bool,
    },
}

/// One process that is ready to work.
pub(super) struct Service<'a> {
    group: &'a Group,
    settings: &'a Settings,
    index: usize,
    slot: &'a Slot,
    /// Seen as far as the process was told at its start.
    canary: watch::Receiver<Option<Canary>>,
    stop: &'a CancellationToken,
    flight: Flight,
    heard: LastHeard,
    served: AtomicBool,
}

/// When the process last gave a sign of life: nanoseconds after `start`.
struct LastHeard {
    start: Moment,
    after: AtomicU64,
}

impl LastHeard {
    fn new() -> Self {
        Self { start: Moment::now(), after: AtomicU64::new(0) }
    }

    fn now(&self) {
        let after = u64::try_from(Moment::now().since(self.start).as_nanos()).unwrap_or(u64::MAX);
        self.after.store(after, Ordering::Relaxed);
    }

    fn ago(&self) -> Duration {
        let after = Duration::from_nanos(self.after.load(Ordering::Relaxed));
        Moment::now().since(self.start.after(after))
    }
}

async fn write(writer: &mut OwnedWriteHalf, encoded: io::Result<Zeroizing<Vec<u8>>>) -> io::Result<()> {
    writer.write_all(&encoded?).await
}

/// Why the socket to a process broke: mostly because that has ended, of which the socket may tell first.
async fn broken(child: &mut Child, error: &io::Error) -> String {
    format!("{} (its socket: {error})", last_words(child).await)
}

impl<'a> Service<'a> {
    pub(super) fn new(
        group: &'a Group,
        settings: &'a Settings,
        index: usize,
        canary: watch::Receiver<Option<Canary>>,
        stop: &'a CancellationToken,
    ) -> Self {
        let slot = &settings.slots[index];
        let (flight, heard) = (Flight::new(slot.hsm.sessions), LastHeard::new());
        Self { group, settings, index, slot, canary, stop, flight, heard, served: AtomicBool::new(false) }
    }

    /// Serves until the process is lost or the daemon stops. What was in work
    /// then is for the next who takes it.
    pub(super) async fn run(self, child: &mut Child, socket: UnixStream) -> End {
        let (reader, writer) = socket.into_split();
        let lost = tokio::select! {
            reason = self.hear(reader, child) => (!self.stop.is_cancelled()).then_some(reason),
            Err(error) = self.send(writer) => Some(broken(child, &error).await),
            reason = self.watch() => Some(reason),
        };
        if lost.is_some() {
            self.group.counters.losses.fetch_add(1, Ordering::Relaxed);
        }
        let repeated =
            self.group.queue.repeat(self.flight.lost(), lost.as_deref().unwrap_or("it was shut down"));
        self.group.counters.repeated.fetch_add(repeated, Ordering::Relaxed);
        self.group.keks_are_gone(self.index);
        let served = self.served.into_inner();
        lost.map_or(End::Stopped, |reason| End::Lost { reason, served })
    }

    /// Sends work while there is a free session; closes the socket when the daemon stops.
    async fn send(&self, mut writer: OwnedWriteHalf) -> io::Result<()> {
        let mut status = self.group.status();
        let mut forget = self.group.forget.subscribe();
        let mut canary = self.canary.clone();
        loop {
            let work = async {
                let session = self.flight.session().await;
                // A group that must not begin takes no work. The sender lives as long as the group.
                status.wait_for(|status| matches!(status, Status::Ready { .. })).await.map(drop).ok();
                (session, self.group.queue.take(self.group.sessions).await)
            };
            let (session, jobs) = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                keks = forget.recv() => {
                    // Too many at once: then all. The sender lives as long as the group.
                    let keks = keks.unwrap_or_else(|_| Arc::new(Forget::All));
                    write(&mut writer, frame::encode(&OrderRef::Forget(&keks))).await?;
                    continue;
                }
                changed = canary.changed() => {
                    let canary = canary.borrow_and_update().clone();
                    if let (Ok(()), Some(canary)) = (changed, canary) {
                        write(&mut writer, frame::encode(&OrderRef::Expect(&canary))).await?;
                    }
                    continue;
                }
                work = work => work,
            };
            let count = jobs.iter().map(|job| job.operations.len()).sum();
            let number = self.flight.send(jobs, self.settings.session_limit(count), session);
            let encoded = self.flight.with(number, |jobs| {
                let operations = jobs.iter().flat_map(|job| &job.operations).collect();
                frame::encode(&OrderRef::Run { number, operations })
            });
            // Nothing but the answer takes it away, and it was not asked yet.
            let Some(encoded) = encoded else { continue };
            write(&mut writer, encoded).await?;
        }
    }

    /// Hands out answers. Answers why nothing more comes.
    async fn hear(&self, mut reader: OwnedReadHalf, child: &mut Child) -> String {
        loop {
            let message = match frame::read_async(&mut reader).await {
                Ok(Some(message)) => message,
                Ok(None) => return last_words(child).await,
                Err(error) => return broken(child, &error).await,
            };
            self.heard.now();
            if let Err(reason) = self.take(message) {
                return reason;
            }
        }
    }

    fn take(&self, message: FromChild) -> Result<(), String> {
        match message {
            FromChild::Done { number, answers, calls } => {
                self.group.counters.operations.fetch_add(calls, Ordering::Relaxed);
                self.served.store(true, Ordering::Relaxed);
                self.flight.done(number, answers)
            }
            FromChild::Healthy { resident, .. } if resident > self.settings.memory => Err(format!(
                "the HSM process uses {} MiB of memory, more than hsm.memory allows",
                resident >> 20
            )),
            FromChild::Healthy { keks, objects, .. } => {
                self.group.note_keks(self.index, keks);
                self.group.note_objects(self.index, objects);
                Ok(())
            }
            FromChild::Lost(reason) => Err(reason),
            _ => Err("the HSM process said something else than was expected".to_owned()),
        }
    }

    /// Answers what is overdue: a call, or a sign of life.
    async fn watch(&self) -> String {
        let silence = self.slot.hsm.probe_interval.saturating_add(self.settings.deadline);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.flight.overdue() {
                return "a call into the PKCS#11 module did not return in time".to_owned();
            }
            if self.heard.ago() > silence {
                return format!("the HSM process gave no sign of life for {silence:?}");
            }
        }
    }
}
