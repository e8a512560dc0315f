//! When a key is rotated or destroyed without being asked again.

use std::time::Duration;

use minicbor::{Decode, Encode};

use super::state::KeyState;
use crate::clock::Date;

/// The shortest period of an automatic rotation: one that is shorter is a mistake in the unit.
pub const MIN_PERIOD: Duration = Duration::from_secs(60 * 60);

/// Uses that are reserved at a time, in a durable write: at most.
const MAX_BLOCK: u64 = 65_536;

/// Into how many blocks the uses of one version are divided, at least.
const BLOCKS: u64 = 16;

/// When a key, or the KEK of a tenant, is rotated by itself.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Schedule {
    /// Seconds that a version stays the primary one.
    #[n(1)]
    pub period: Option<u64>,
    /// Encryptions under one version, for keys.
    #[n(2)]
    pub uses: Option<u64>,
    /// The next rotation. It stands in the agenda under this date.
    #[n(3)]
    pub next: Option<Date>,
}

impl Schedule {
    /// A schedule for a primary version that was made at `born`; `None` when there is nothing to schedule.
    pub fn new(period: Option<Duration>, uses: Option<u64>, born: Date) -> Option<Self> {
        (period.is_some() || uses.is_some())
            .then(|| Self { period: period.map(|period| period.as_secs()), uses, next: None }.renewed(born))
    }

    /// The period.
    pub fn period(&self) -> Option<Duration> {
        self.period.map(Duration::from_secs)
    }

    /// What it is after a rotation that made the primary version at `born`. Rotations that
    /// were missed, because the daemon did not run, are not made up for.
    pub fn renewed(&self, born: Date) -> Self {
        Self { next: self.period().map(|period| born.after(period)), ..self.clone() }
    }

    /// What it is when `reserved` encryptions under the primary version are reserved at `now`.
    pub fn used(&self, reserved: u64, now: Date) -> Self {
        let used_up = self.uses.is_some_and(|uses| reserved >= uses);
        let next = if used_up { Some(self.next.map_or(now, |next| next.min(now))) } else { self.next };
        Self { next, ..self.clone() }
    }

    /// Encryptions to reserve at a time: the more uses, the fewer writes. A rotation comes
    /// early by at most one block.
    pub fn block(&self) -> u64 {
        self.uses.map_or(MAX_BLOCK, |uses| (uses / BLOCKS).clamp(1, MAX_BLOCK))
    }
}

/// How often a DEK was used, for a key that is rotated by use.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct DekUses {
    /// Encryptions reserved so far: an upper bound of those done.
    #[n(1)]
    pub reserved: u64,
}

/// The destruction of a tenant, a key or a version.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Destruction {
    /// When it was asked for.
    #[n(1)]
    pub asked: Date,
    /// From when on it is done. Until then it can be called off.
    #[n(2)]
    pub due: Date,
    /// The state before.
    #[n(3)]
    pub was: KeyState,
    /// When the keys were taken out of the records; from here on there is no way back.
    #[n(4)]
    pub begun: Option<Date>,
    /// When it was proved that nothing is left in the files of the live system.
    #[n(5)]
    pub done: Option<Date>,
    /// Why, in the words of whoever planned it; nothing where a ceremony or a rotation decides.
    #[n(6)]
    pub reason: Option<String>,
    /// The principal that planned it.
    #[n(7)]
    pub planner: Option<String>,
}

impl Destruction {
    /// One that is planned.
    pub fn planned(was: KeyState, asked: Date, due: Date) -> Self {
        Self { asked, due, was, begun: None, done: None, reason: None, planner: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    #[test]
    fn age_decides() {
        let schedule = Schedule::new(Some(90 * DAY), None, Date(1000)).unwrap();
        assert_eq!(schedule.next, Some(Date(1000).after(90 * DAY)));
        // After a year without a daemon it rotates once.
        let late = Date(1000).after(365 * DAY);
        assert_eq!(schedule.renewed(late).next, Some(late.after(90 * DAY)));
        assert_eq!(Schedule::new(None, None, Date(0)), None);
    }

    #[test]
    fn use_decides_too() {
        let schedule = Schedule::new(Some(90 * DAY), Some(100), Date(0)).unwrap();
        assert_eq!(schedule.block(), 6);
        assert_eq!(schedule.used(99, Date(5)), schedule);
        let used = schedule.used(100, Date(5));
        assert_eq!(used.next, Some(Date(5)));
        // It stays due since then, and is not put off by further use.
        assert_eq!(used.used(106, Date(9)).next, Some(Date(5)));
        assert_eq!(used.renewed(Date(9)).next, Some(Date(9).after(90 * DAY)));
        assert_eq!(Schedule::new(None, Some(100), Date(0)).unwrap().next, None);
    }

    proptest! {
        #[test]
        fn a_rotation_is_early_by_a_block_at_most(uses in 1u64.., taken in any::<u64>()) {
            let schedule = Schedule::new(None, Some(uses), Date(0)).unwrap();
            let block = schedule.block();
            prop_assert!((1..=MAX_BLOCK).contains(&block) && (block == 1 || block * BLOCKS <= uses));
            prop_assert_eq!(schedule.used(taken, Date(1)).next.is_some(), taken >= uses);
        }
    }
}
