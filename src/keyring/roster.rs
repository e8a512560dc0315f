//! Who the custodians are, and how many of them must agree.

use std::fmt;

use minicbor::{Decode, Encode};

/// How many custodians must agree: at least 2, so that nobody acts alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
#[cbor(transparent)]
pub struct Quorum(#[n(0)] u8);

impl Quorum {
    /// A quorum for a roster of `custodians`; `None` unless 2 ≤ `needed` ≤ `custodians` ≤ 255.
    pub fn new(needed: u32, custodians: usize) -> Option<Self> {
        let fits = needed >= 2 && usize::try_from(needed).is_ok_and(|needed| needed <= custodians);
        u8::try_from(needed).ok().filter(|_| fits && custodians <= usize::from(u8::MAX)).map(Self)
    }

    /// The number.
    pub fn get(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Quorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
