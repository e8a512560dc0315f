//! What happens to keys by date, and how the clock is watched.

use std::time::Duration;

use serde::Deserialize;

use super::check::{faults, unless};
use super::value::Span;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The erasure key.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Erasure {
    /// It is replaced at this age; `0s`: only by hand.
    pub replace_every: Span,
}

impl Default for Erasure {
    fn default() -> Self {
        Self { replace_every: Span(DAY) }
    }
}

/// What becomes of the KEK that a rotation replaced.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rotation {
    /// Whether it is destroyed.
    pub old_kek: OldKek,
    /// How long after the end of the rotation.
    pub old_kek_grace: Span,
}

impl Default for Rotation {
    fn default() -> Self {
        Self { old_kek: OldKek::Destroy, old_kek_grace: Span(30 * DAY) }
    }
}

/// What becomes of a KEK that seals nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OldKek {
    /// It stays, decrypt-only.
    Keep,
    /// It is destroyed.
    Destroy,
}

/// How keys are destroyed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Destruction {
    /// How long a destruction can be called off, unless the caller says how long.
    pub delay: Span,
    /// The shortest delay that a caller may ask for.
    pub min_delay: Span,
}

impl Default for Destruction {
    fn default() -> Self {
        Self { delay: Span(30 * DAY), min_delay: Span(DAY) }
    }
}

impl Destruction {
    pub(super) fn check(&self) -> Vec<String> {
        let short = self.min_delay.0 > self.delay.0;
        faults([unless(short, || "destruction.delay is shorter than destruction.min_delay".into())])
    }
}

/// How the clock is watched.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clock {
    /// How far the wall clock may run ahead of the time that has passed before destructions wait.
    pub max_ahead: Span,
}

impl Default for Clock {
    fn default() -> Self {
        Self { max_ahead: Span(DAY) }
    }
}
