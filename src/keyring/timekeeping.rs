//! Whether the wall clock can be believed.
//!
//! Dates decide when keys are rotated and destroyed, and whoever can set the
//! clock could have that done early, or never. So the clock is compared with the
//! latest date that was ever seen, which is stored, and with the boot-time clock,
//! which nobody can set.

use std::time::Duration;

use minicbor::{Decode, Encode};

use crate::clock::{Date, Moment};

/// A step back that is no reason to worry: what a time service corrects.
pub const TOLERANCE: Duration = Duration::from_secs(5 * 60);

/// How far the stored mark may be behind what was seen.
const MARK_EVERY: Duration = Duration::from_secs(60 * 60);

/// The latest date that was seen, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ClockMark {
    /// The date.
    #[n(1)]
    pub high: Date,
    /// When an operator last accepted the clock as it was.
    #[n(2)]
    pub accepted: Option<Date>,
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The wall clock.
    pub wall: Date,
    /// The boot-time clock.
    pub boot: Moment,
}

impl Now {
    /// Reads both.
    pub fn read() -> Self {
        Self { wall: Date::now(), boot: Moment::now() }
    }
}

/// What is thought of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It can be believed.
    Trusted,
    /// It was set back: nothing is done by date until it has caught up.
    Behind {
        /// By how much.
        by: Duration,
    },
    /// It ran ahead of the boot-time clock: nothing is destroyed by date.
    Ahead {
        /// By how much.
        by: Duration,
    },
}

impl Verdict {
    /// Whether keys may be rotated and activated by date.
    pub fn permits_schedules(self) -> bool {
        !matches!(self, Self::Behind { .. })
    }

    /// Whether keys may be destroyed by date.
    pub fn permits_destruction(self) -> bool {
        self == Self::Trusted
    }

    /// Why not everything is permitted, in words for the operator.
    pub fn reason(self) -> Option<String> {
        let words = |by: Duration| humantime::format_duration(Duration::from_secs(by.as_secs())).to_string();
        match self {
            Self::Trusted => None,
            Self::Behind { by } => Some(format!(
                "the clock is {} behind the latest date seen: rotations and destructions by date wait",
                words(by)
            )),
            Self::Ahead { by } => Some(format!(
                "the clock is {} ahead of the time that has passed: destructions by date wait",
                words(by)
            )),
        }
    }
}

/// Watches the clock of one process.
#[derive(Debug, Clone)]
pub struct Timekeeper {
    high: Date,
    /// Both clocks when the wall clock was first believed. It does not move with the
    /// clock, so that many small jumps add up.
    anchor: Option<Now>,
    max_ahead: Duration,
}

impl Timekeeper {
    /// Begins with the latest date that is known. `max_ahead` is how far the clock may run
    /// ahead of the boot-time clock.
    pub fn new(high: Date, max_ahead: Duration) -> Self {
        Self { high, anchor: None, max_ahead }
    }

    /// From the next look on, how far the clock may run ahead.
    pub fn set_max_ahead(&mut self, max_ahead: Duration) {
        self.max_ahead = max_ahead;
    }

    /// Judges the clocks as they are now.
    pub fn look(&mut self, now: Now) -> Verdict {
        let behind = self.high.since(now.wall);
        if behind > TOLERANCE {
            return Verdict::Behind { by: behind };
        }
        let anchor = *self.anchor.get_or_insert(now);
        let expected = anchor.wall.after(now.boot.since(anchor.boot));
        let ahead = now.wall.since(expected);
        if ahead > self.max_ahead {
            return Verdict::Ahead { by: ahead };
        }
        self.high = self.high.max(now.wall);
        Verdict::Trusted
    }

    /// The operator says that the clock is right as it is.
    pub fn accept(&mut self, now: Now) {
        (self.high, self.anchor) = (now.wall, Some(now));
    }

    /// The latest date that was believed.
    pub fn high(&self) -> Date {
        self.high
    }

    /// The mark to store, when the stored one is too old.
    pub fn mark(&self, stored: Option<ClockMark>) -> Option<ClockMark> {
        let accepted = stored.and_then(|stored| stored.accepted);
        let due = stored.is_none_or(|stored| self.high.since(stored.high) >= MARK_EVERY);
        due.then_some(ClockMark { high: self.high, accepted })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const START: Date = Date(1_000_000_000_000);

    /// The clocks `boot` after the start, with the wall clock showing `wall` after it.
    fn at(boot: Duration, wall: Duration) -> Now {
        static BEGIN: std::sync::OnceLock<Moment> = std::sync::OnceLock::new();
        Now { wall: START.after(wall), boot: BEGIN.get_or_init(Moment::now).after(boot) }
    }

    fn keeper() -> Timekeeper {
        let mut keeper = Timekeeper::new(START, DAY);
        assert_eq!(keeper.look(at(Duration::ZERO, Duration::ZERO)), Verdict::Trusted);
        keeper
    }

    #[test]
    fn a_step_back_stops_everything_until_time_has_caught_up() {
        let mut keeper = keeper();
        assert_eq!(keeper.look(at(DAY, DAY)), Verdict::Trusted);
        assert_eq!(keeper.look(at(DAY, DAY - 5 * MINUTE)), Verdict::Trusted);
        let behind = keeper.look(at(DAY, DAY - 6 * MINUTE));
        assert_eq!(behind, Verdict::Behind { by: 6 * MINUTE });
        assert!(!behind.permits_schedules() && !behind.permits_destruction());
        assert!(keeper.look(at(DAY, DAY)).permits_destruction());
    }

    #[test]
    fn the_mark_outlives_the_process() {
        let mark = keeper().mark(None).unwrap();
        let mut next = Timekeeper::new(mark.high, DAY);
        assert!(matches!(next.look(Now { wall: Date(5), ..at(DAY, DAY) }), Verdict::Behind { .. }));
        // Where the clock was when it is believed first is where it is measured from.
        assert_eq!(next.look(at(DAY, 60 * DAY)), Verdict::Trusted);
        assert_eq!(next.mark(Some(mark)), Some(ClockMark { high: START.after(60 * DAY), accepted: None }));
        assert_eq!(next.mark(next.mark(None)), None);
    }

    #[test]
    fn a_jump_ahead_destroys_nothing_and_can_be_taken_back() {
        let mut keeper = keeper();
        let ahead = keeper.look(at(MINUTE, 31 * DAY));
        assert!(ahead.permits_schedules() && !ahead.permits_destruction(), "{ahead:?}");
        assert_eq!(keeper.look(at(2 * MINUTE, 2 * MINUTE)), Verdict::Trusted);
        // Setting it back first does not help.
        assert!(matches!(keeper.look(at(DAY, Duration::ZERO)), Verdict::Trusted));
        assert!(matches!(keeper.look(at(DAY, 31 * DAY)), Verdict::Ahead { .. }));
        keeper.accept(at(DAY, 31 * DAY));
        assert_eq!(keeper.look(at(DAY, 31 * DAY)), Verdict::Trusted);
    }

    proptest! {
        /// Nobody gets a key destroyed early by moving the clock in steps.
        #[test]
        fn small_jumps_add_up(steps in prop::collection::vec((0u64..60, 0u64..86_000), 1..60)) {
            let mut keeper = keeper();
            let (mut boot, mut wall) = (Duration::ZERO, Duration::ZERO);
            for (passed, jump) in steps {
                boot += Duration::from_secs(passed);
                wall += Duration::from_secs(passed + jump);
                if keeper.look(at(boot, wall)).permits_destruction() {
                    prop_assert!(wall <= boot + DAY);
                }
            }
        }

        #[test]
        fn a_clock_that_runs_is_believed(steps in prop::collection::vec(0u64..10_000_000, 1..60)) {
            let mut keeper = keeper();
            let mut now = Duration::ZERO;
            for passed in steps {
                now += Duration::from_secs(passed);
                prop_assert_eq!(keeper.look(at(now, now)), Verdict::Trusted);
            }
        }
    }
}
