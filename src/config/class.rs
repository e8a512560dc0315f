//! What is set for each data class.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

use super::check::{faults, within};
use super::value::{Span, StaffLevel};
use crate::keyring::account::Level;
use crate::keyring::state::DataClass;

/// Caching, and what staff need, by data class.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Classes {
    /// Class 1: basic.
    #[serde(rename = "1", deserialize_with = "Class::read_basic")]
    pub basic: Class,
    /// Class 2: sensitive.
    #[serde(rename = "2", deserialize_with = "Class::read_sensitive")]
    pub sensitive: Class,
    /// Class 3: highest.
    #[serde(rename = "3", deserialize_with = "Class::read_highest")]
    pub highest: Class,
}

impl Default for Classes {
    fn default() -> Self {
        Self { basic: Class::basic(), sensitive: Class::sensitive(), highest: Class::highest() }
    }
}

impl Classes {
    /// The settings of one class.
    pub fn of(&self, class: DataClass) -> &Class {
        match class {
            DataClass::Basic => &self.basic,
            DataClass::Sensitive => &self.sensitive,
            DataClass::Highest => &self.highest,
        }
    }

    pub(super) fn check(&self) -> Vec<String> {
        faults([
            within("class.1.cache_uses", self.basic.cache_uses, 1..=u64::MAX),
            within("class.2.cache_uses", self.sensitive.cache_uses, 1..=u64::MAX),
            within("class.3.cache_uses", self.highest.cache_uses, 1..=u64::MAX),
        ])
    }
}

/// How long data keys of a class stay open, and what staff need for its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// Longest age of an open data key while the HSM is there.
    pub cache_ttl: Span,
    /// Uses after which an open data key is opened anew while the HSM is there.
    pub cache_uses: u64,
    /// How long open data keys serve while the HSM is away.
    pub serve_without_hsm: Span,
    /// The level that a staff member needs to read or search data of the class.
    pub staff_read: Level,
    /// The level that a staff member needs to make or change data of the class.
    pub staff_write: Level,
}

impl Class {
    fn basic() -> Self {
        Self {
            cache_ttl: Span(Duration::from_secs(900)),
            cache_uses: 1_000_000,
            serve_without_hsm: Span(Duration::from_secs(300)),
            staff_read: Level::One,
            staff_write: Level::Two,
        }
    }

    fn sensitive() -> Self {
        Self { staff_read: Level::Two, ..Self::basic() }
    }

    fn highest() -> Self {
        let (staff_read, staff_write) = (Level::Three, Level::Three);
        Self { serve_without_hsm: Span(Duration::ZERO), staff_read, staff_write, ..Self::basic() }
    }

    fn read_basic<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(deserializer, Self::basic())
    }

    fn read_sensitive<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(deserializer, Self::sensitive())
    }

    fn read_highest<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::read(deserializer, Self::highest())
    }

    /// What a class leaves out has its own default, not that of another class.
    fn read<'de, D: Deserializer<'de>>(deserializer: D, own: Self) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            cache_ttl: Option<Span>,
            cache_uses: Option<u64>,
            serve_without_hsm: Option<Span>,
            staff_read: Option<StaffLevel>,
            staff_write: Option<StaffLevel>,
        }

        let written = Written::deserialize(deserializer)?;
        Ok(Self {
            cache_ttl: written.cache_ttl.unwrap_or(own.cache_ttl),
            cache_uses: written.cache_uses.unwrap_or(own.cache_uses),
            serve_without_hsm: written.serve_without_hsm.unwrap_or(own.serve_without_hsm),
            staff_read: written.staff_read.map_or(own.staff_read, |level| level.0),
            staff_write: written.staff_write.map_or(own.staff_write, |level| level.0),
        })
    }
}
