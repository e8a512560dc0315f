//! The HSM in memory: that it keeps the contract, that its controls do what they say, and use cases over it.

#![allow(clippy::unwrap_used)]

mod controls;
mod use_cases;
mod world;
