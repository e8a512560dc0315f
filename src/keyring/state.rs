//! The states of keys and versions (NIST SP 800-57 part 1, section 7).

use std::fmt;

use minicbor::{Decode, Encode};

/// What a key, a key version or a KEK version may do.
///
/// ```text
///                ┌──────────── Enable, Restrict, Disable ───────────┐
///                ▼                                                  ▼
///  PreActive ─► Active ── Retire, Restrict ──► DecryptOnly ◄──► Disabled
///      │           │                                │               │
///      └───────────┴───────── Schedule ─────────────┴───────────────┘
///                                 │  ▲
///                                 ▼  │ Cancel: back to what it was
///                             Scheduled ── Destroy ──► Destroyed
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum KeyState {
    /// Protects and processes (NIST: active).
    #[n(1)]
    Active,
    /// Processes only (NIST: deactivated).
    #[n(2)]
    DecryptOnly,
    /// Does nothing until enabled again (NIST: suspended).
    #[n(3)]
    Disabled,
    /// Made, and not in use before its date (NIST: pre-activation).
    #[n(4)]
    PreActive,
    /// Does nothing, and is destroyed at its date unless that is cancelled
    /// (NIST: deactivated, the last step before destroyed).
    #[n(5)]
    Scheduled,
    /// Gone; only its name and its tombstones are left (NIST: destroyed).
    #[n(6)]
    Destroyed,
}

/// What can happen to a key, a key version or a KEK version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// Its activation date has come, or a rotation takes it before that.
    Activate,
    /// An operator lets it work.
    Enable,
    /// An operator lets it decrypt only.
    Restrict,
    /// An operator lets it do nothing.
    Disable,
    /// A rotation put a newer version in its place.
    Retire,
    /// Its destruction is planned.
    Schedule,
    /// Its destruction is called off: it is again what it was.
    Cancel(KeyState),
    /// It is destroyed.
    Destroy,
}

impl KeyState {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::PreActive, Self::Active, Self::DecryptOnly, Self::Disabled, Self::Scheduled, Self::Destroyed];

    /// The state after an act; `None` where the state does not permit it.
    pub fn after(self, act: Act) -> Option<Self> {
        match (act, self) {
            (Act::Activate, Self::PreActive) => Some(Self::Active),
            (Act::Enable, Self::Active | Self::DecryptOnly | Self::Disabled) => Some(Self::Active),
            (Act::Restrict, Self::Active | Self::DecryptOnly | Self::Disabled) => Some(Self::DecryptOnly),
            (Act::Disable, Self::Active | Self::DecryptOnly | Self::Disabled) => Some(Self::Disabled),
            (Act::Retire, Self::Active) => Some(Self::DecryptOnly),
            (Act::Retire, kept @ (Self::DecryptOnly | Self::Disabled)) => Some(kept),
            (Act::Schedule, state) if state.is_alive() => Some(Self::Scheduled),
            (Act::Cancel(was), Self::Scheduled) if was.is_alive() => Some(was),
            (Act::Destroy, Self::Scheduled) => Some(Self::Destroyed),
            _ => None,
        }
    }

    /// The act by which an operator asks for this state; `None` where it cannot be asked for.
    pub fn asked_by(self) -> Option<Act> {
        match self {
            Self::Active => Some(Act::Enable),
            Self::DecryptOnly => Some(Act::Restrict),
            Self::Disabled => Some(Act::Disable),
            Self::PreActive | Self::Scheduled | Self::Destroyed => None,
        }
    }

    /// Neither destroyed nor about to be.
    pub fn is_alive(self) -> bool {
        !matches!(self, Self::Scheduled | Self::Destroyed)
    }

    /// Whether new data may be encrypted.
    pub fn may_encrypt(self) -> bool {
        self == Self::Active
    }

    /// Whether existing data may be decrypted.
    pub fn may_decrypt(self) -> bool {
        matches!(self, Self::Active | Self::DecryptOnly)
    }

    /// The word for it, as people and scripts read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt-only",
            Self::Disabled => "disabled",
            Self::PreActive => "pre-active",
            Self::Scheduled => "scheduled for destruction",
            Self::Destroyed => "destroyed",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How sensitive the data under a key is: 1 basic, 2 sensitive, 3 highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
#[cbor(index_only)]
pub enum DataClass {
    /// Basic fields.
    #[n(1)]
    Basic,
    /// Sensitive fields; the default.
    #[n(2)]
    Sensitive,
    /// The highest class: never served without the HSM by default.
    #[n(3)]
    Highest,
}

impl DataClass {
    /// All of them, lowest first.
    pub const ALL: [Self; 3] = [Self::Basic, Self::Sensitive, Self::Highest];

    /// Takes a number from 1 to 3.
    pub fn new(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|class| class.number() == number)
    }

    /// The number.
    pub fn number(self) -> u32 {
        match self {
            Self::Basic => 1,
            Self::Sensitive => 2,
            Self::Highest => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn states() -> impl Strategy<Value = KeyState> {
        prop::sample::select(KeyState::ALL.as_slice())
    }

    fn acts() -> impl Strategy<Value = Act> {
        prop_oneof![
            Just(Act::Activate),
            Just(Act::Enable),
            Just(Act::Restrict),
            Just(Act::Disable),
            Just(Act::Retire),
            Just(Act::Schedule),
            states().prop_map(Act::Cancel),
            Just(Act::Destroy),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order.
        #[test]
        fn no_way_leads_where_it_must_not(start in states(), way in prop::collection::vec(acts(), 0..40)) {
            let mut state = start;
            for act in way {
                let Some(next) = state.after(act) else { continue };
                prop_assert!(state != KeyState::Destroyed, "destroyed is the end");
                prop_assert!(next != KeyState::PreActive || act == Act::Cancel(KeyState::PreActive));
                prop_assert!(next != KeyState::Destroyed || state == KeyState::Scheduled);
                prop_assert!(state != KeyState::Scheduled || matches!(act, Act::Cancel(_) | Act::Destroy));
                prop_assert!(state != KeyState::PreActive || matches!(act, Act::Activate | Act::Schedule));
                prop_assert!(!next.may_encrypt() || next.may_decrypt());
                state = next;
            }
        }

        #[test]
        fn an_operator_gets_what_was_asked_for(from in states(), to in states()) {
            if let Some(reached) = to.asked_by().and_then(|act| from.after(act)) {
                prop_assert_eq!(reached, to);
                prop_assert!(from.is_alive() && from != KeyState::PreActive);
            }
        }

        #[test]
        fn a_cancelled_destruction_changes_nothing(state in states()) {
            if let Some(planned) = state.after(Act::Schedule) {
                prop_assert!(!planned.may_decrypt() && !planned.may_encrypt());
                prop_assert_eq!(planned.after(Act::Cancel(state)), Some(state));
            }
        }
    }
}
