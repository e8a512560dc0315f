//! What the slots of a group share, and how their states make one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use crate::clock::Moment;
use crate::hsm::confine::Confined;
use crate::hsm::figures::{CacheFigures, Figures, Objects};
use crate::hsm::process::queue::Queue;
use crate::hsm::{Forget, SlotState, SlotStatus, Status};
use crate::keyring::wrapped::Canary;

/// While every slot has been away no longer than this, calls wait for one to come back.
pub(super) const GRACE: Duration = Duration::from_secs(1);

/// Requests to forget that may wait for one slow process; beyond, it forgets everything.
const FORGETTING: usize = 64;

pub(super) struct Group {
    pub(super) queue: Queue,
    /// Sessions of all slots.
    pub(super) sessions: usize,
    pub(super) counters: Counters,
    keks: Mutex<Keks>,
    /// What every process is to give up.
    pub(super) forget: broadcast::Sender<Arc<Forget>>,
    /// What proves that a token has the root.
    pub(super) canary: watch::Sender<Option<Canary>>,
    status: watch::Sender<Status>,
    slots: Mutex<Slots>,
    epochs: AtomicU64,
    grace: Duration,
}

/// What [`Figures`] tell.
#[derive(Default)]
pub(super) struct Counters {
    pub(super) operations: AtomicU64,
    pub(super) losses: AtomicU64,
    pub(super) repeated: AtomicU64,
    pub(super) unanswered: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            operations: read(&self.operations),
            losses: read(&self.losses),
            repeated: read(&self.repeated),
            unanswered: read(&self.unanswered),
        }
    }
}

/// The caches of KEKs.
struct Keks {
    /// Of processes that have ended.
    gone: CacheFigures,
    /// Of those that live, by slot.
    live: Vec<CacheFigures>,
}

struct Slots {
    all: Vec<SlotStatus>,
    /// Some slot has served: from now on a strange token among the others is only left out.
    opened: bool,
    away_since: Moment,
}

impl Group {
    /// A group of the tokens with these names.
    pub(super) fn new(
        names: Vec<String>,
        sessions: usize,
        queue: usize,
        grace: Duration,
        canary: Option<Canary>,
    ) -> Self {
        let keks = Mutex::new(Keks {
            gone: CacheFigures::default(),
            live: vec![CacheFigures::default(); names.len()],
        });
        let slot = |name| SlotStatus { name, state: SlotState::Starting, objects: None, confinement: None };
        let all = names.into_iter().map(slot).collect();
        Self {
            queue: Queue::new(queue),
            sessions,
            counters: Counters::default(),
            keks,
            forget: broadcast::Sender::new(FORGETTING),
            canary: watch::Sender::new(canary),
            status: watch::Sender::new(Status::Starting),
            slots: Mutex::new(Slots { all, opened: false, away_since: Moment::now() }),
            epochs: AtomicU64::new(0),
            grace,
        }
    }

    /// The number of the next connection.
    pub(super) fn next_epoch(&self) -> u64 {
        self.epochs.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub(super) fn slots(&self) -> Vec<SlotStatus> {
        self.lock().all.clone()
    }

    /// Notes the state of one slot and announces what follows for the group.
    pub(super) fn announce(&self, slot: usize, state: SlotState) {
        // The status is locked first and the slots then, as by whoever looks at both.
        self.status.send_if_modified(|now| {
            let mut slots = self.lock();
            if let Some(slot) = slots.all.get_mut(slot) {
                slot.state = state;
            }
            let status = slots.status();
            let (was, is) = (matches!(now, Status::Ready { .. }), matches!(status, Status::Ready { .. }));
            slots.opened |= is;
            if was && !is {
                slots.away_since = Moment::now();
            }
            let changed = *now != status;
            *now = status;
            changed
        });
    }

    /// Notes what a process says of its cache of KEKs.
    pub(super) fn note_keks(&self, slot: usize, figures: CacheFigures) {
        if let Some(live) = self.lock_keks().live.get_mut(slot) {
            *live = figures;
        }
    }

    /// Notes how full a token is, and warns once when it gets scarce.
    pub(super) fn note_objects(&self, slot: usize, objects: Option<Objects>) {
        let mut slots = self.lock();
        let Some(slot) = slots.all.get_mut(slot) else { return };
        let was_scarce = slot.objects.is_some_and(Objects::is_scarce);
        if let Some(Objects { own, limit, .. }) = objects.filter(|now| now.is_scarce() && !was_scarce) {
            tracing::warn!(token = %slot.name, own, limit, "the token has nearly as many keys as hsm.max_objects allows");
        }
        slot.objects = objects.or(slot.objects);
    }

    /// Notes how the process of a slot is confined, and says it when that is not as it was.
    pub(super) fn note_confinement(&self, slot: usize, confined: Confined) {
        let mut slots = self.lock();
        let Some(slot) = slots.all.get_mut(slot) else { return };
        if slot.confinement.replace(confined) == Some(confined) {
            return;
        }
        let token = slot.name.as_str();
        match confined.holds() {
            true => tracing::info!(token, %confined, "the HSM process is confined"),
            false => {
                tracing::warn!(token, %confined, "the HSM process is not confined: its library reaches what the daemon does");
            }
        }
    }

    /// Notes that a process has ended: what it did is kept, what it held is not.
    pub(super) fn keks_are_gone(&self, slot: usize) {
        let mut keks = self.lock_keks();
        if let Some(live) = keks.live.get_mut(slot).map(std::mem::take) {
            keks.gone = keks.gone + CacheFigures { entries: 0, ..live };
        }
    }

    pub(super) fn keks(&self) -> CacheFigures {
        let keks = self.lock_keks();
        keks.live.iter().fold(keks.gone, |sum, live| sum + *live)
    }

    fn lock_keks(&self) -> MutexGuard<'_, Keks> {
        // Nothing panics while it is locked.
        self.keks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why calls are turned away at once; `None` while they are served or may wait.
    pub(super) fn turned_away(&self) -> Option<String> {
        match &*self.status.borrow() {
            Status::Ready { .. } => None,
            Status::Refused { reason } => Some(reason.clone()),
            Status::Starting | Status::Down { .. } if !self.grace_left().is_zero() => None,
            Status::Down { reason } => Some(reason.clone()),
            Status::Starting => Some("the first connection is still being made".to_owned()),
        }
    }

    /// Answers waiting calls when no slot has come back in time; ends with its task.
    pub(super) async fn turn_away(&self) {
        let mut status = self.status();
        loop {
            if let Some(reason) = self.turned_away() {
                self.queue.drain().into_iter().for_each(|job| job.unavailable(&reason));
            }
            let ready = matches!(*status.borrow_and_update(), Status::Ready { .. });
            let left = self.grace_left();
            let changed = status.changed();
            if ready || left.is_zero() {
                // The sender lives as long as this group.
                changed.await.ok();
            } else {
                tokio::time::timeout(left, changed).await.ok();
            }
        }
    }

    fn grace_left(&self) -> Duration {
        let since = self.lock().away_since;
        self.grace.saturating_sub(Moment::now().since(since))
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        // Nothing panics while the slots are locked.
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slots {
    /// A group serves when one slot does. Until it has served for the first
    /// time, it waits for the verdict on each of its tokens: tokens with
    /// different roots must not begin together.
    fn status(&self) -> Status {
        let states = || self.all.iter().map(|slot| &slot.state);
        if !self.opened {
            if let Some(reason) = states().find_map(SlotState::foreign) {
                return Status::Refused { reason: reason.to_owned() };
            }
            if states().any(|state| *state == SlotState::Starting) {
                return Status::Starting;
            }
        }
        if let Some((epoch, token)) = states().filter_map(SlotState::ready).max_by_key(|(epoch, _)| *epoch) {
            return Status::Ready { epoch, token: token.clone() };
        }
        match self.reasons(|state| matches!(state, SlotState::Down(_))) {
            Some(reason) => Status::Down { reason },
            None => match self.reasons(|_| true) {
                Some(reason) => Status::Refused { reason },
                None => Status::Starting,
            },
        }
    }

    /// The reasons of some slots, with their names when there are several slots.
    fn reasons(&self, of: impl Fn(&SlotState) -> bool) -> Option<String> {
        let words: Vec<String> = self
            .all
            .iter()
            .filter(|slot| of(&slot.state))
            .filter_map(|slot| {
                let reason = slot.state.reason()?;
                Some(if self.all.len() == 1 { reason.to_owned() } else { format!("{}: {reason}", slot.name) })
            })
            .collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hsm::TokenInfo;

    fn group(slots: usize, grace: Duration) -> Group {
        Group::new((0..slots).map(|slot| format!("token {slot}")).collect(), 1, 1, grace, None)
    }

    fn ready(epoch: u64) -> SlotState {
        SlotState::Ready { epoch, token: TokenInfo::default() }
    }

    fn down(reason: &str) -> SlotState {
        SlotState::Down(reason.to_owned())
    }

    fn now(group: &Group) -> Status {
        group.status().borrow().clone()
    }

    #[test]
    fn calls_wait_for_a_short_absence_only() {
        for (grace, waits) in [(Duration::MAX, true), (Duration::ZERO, false)] {
            let group = group(1, grace);
            assert_eq!(group.turned_away().is_none(), waits, "starting");
            group.announce(0, ready(1));
            assert_eq!(group.turned_away(), None);
            group.announce(0, down("a"));
            assert_eq!(group.turned_away(), (!waits).then(|| "a".to_owned()));
        }
    }

    #[test]
    fn what_a_lost_process_counted_is_kept_and_what_it_held_is_not() {
        let group = group(2, GRACE);
        let figures = |entries, hits| CacheFigures { entries, hits, ..CacheFigures::default() };
        group.note_keks(0, figures(2, 10));
        group.note_keks(1, figures(3, 20));
        assert_eq!(group.keks(), figures(5, 30));
        group.keks_are_gone(0);
        assert_eq!(group.keks(), figures(3, 30));
        group.note_keks(0, figures(1, 1));
        assert_eq!(group.keks(), figures(4, 31));
        for _ in 0..2 {
            group.note_keks(0, figures(u64::MAX, u64::MAX));
            group.keks_are_gone(0);
        }
        assert_eq!(group.keks(), figures(3, u64::MAX), "a number that was made up ends nothing");
    }

    #[test]
    fn a_new_reason_is_no_new_grace() {
        let group = group(1, GRACE);
        group.announce(0, ready(1));
        group.announce(0, down("a"));
        let since = group.lock().away_since;
        group.announce(0, down("b"));
        assert_eq!(group.lock().away_since, since);
    }

    #[test]
    fn a_refusal_turns_away_at_once() {
        let group = group(1, GRACE);
        group.announce(0, SlotState::Refused("pin".into()));
        assert_eq!(group.turned_away().as_deref(), Some("pin"));
    }

    #[test]
    fn a_group_waits_for_every_verdict_and_then_serves_with_one() {
        let group = group(2, GRACE);
        group.announce(0, ready(1));
        assert_eq!(now(&group), Status::Starting);
        group.announce(1, down("b"));
        assert!(matches!(now(&group), Status::Ready { epoch: 1, .. }));
        group.announce(1, ready(2));
        group.announce(0, down("a"));
        assert!(matches!(now(&group), Status::Ready { epoch: 2, .. }));
        group.announce(1, SlotState::Refused("pin".into()));
        assert_eq!(now(&group), Status::Down { reason: "token 0: a".into() });
        group.announce(0, SlotState::Refused("pin too".into()));
        assert_eq!(now(&group), Status::Refused { reason: "token 0: pin too; token 1: pin".into() });
    }

    #[test]
    fn different_roots_do_not_begin_together() {
        let group = group(2, GRACE);
        group.announce(0, ready(1));
        group.announce(1, SlotState::Foreign("another root".into()));
        assert_eq!(now(&group), Status::Refused { reason: "another root".into() });
        group.announce(1, ready(2));
        assert!(matches!(now(&group), Status::Ready { .. }));
        group.announce(1, SlotState::Foreign("another root".into()));
        assert!(matches!(now(&group), Status::Ready { epoch: 1, .. }));
    }

    #[test]
    fn asking_and_announcing_do_not_wait_for_each_other() {
        let group = group(1, Duration::MAX);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for epoch in 0..20_000 {
                    group.announce(0, ready(epoch));
                    group.announce(0, down("a"));
                }
            });
            for _ in 0..20_000 {
                assert_eq!(group.turned_away(), None);
                let status = group.status();
                let borrowed = status.borrow();
                assert_eq!(group.slots().len(), 1);
                drop(borrowed);
            }
        });
    }

    #[tokio::test]
    async fn waiting_calls_are_answered_when_the_grace_is_over() {
        let group = group(1, Duration::ZERO);
        let (reply, answer) = tokio::sync::oneshot::channel();
        let deadline = Moment::now().after(Duration::from_secs(60));
        let job = super::super::queue::Job { operations: Vec::new(), reply, deadline, repeated: false };
        group.queue.push(job).unwrap();
        group.announce(0, down("a"));
        tokio::select! {
            () = group.turn_away() => unreachable!(),
            answers = answer => assert_eq!(answers.unwrap().len(), 0),
        }
    }
}
