//! An HSM in the memory of a test: real cryptography, keys that anybody who reads the process has.
//!
//! It is for tests of use cases, which need to say what an HSM does in one moment: that it loses its
//! connection, waits, lies, or fails without having done, or after having done, what it was asked. It and a
//! real token pass one suite, [`conformance`]. Nothing depends on this crate but tests, and a test shows
//! that no program of the project contains it; no promise to users rests on it alone.
//!
//! ```text
//! world                        store, audit log and vault over it
//! hsm                          the trait
//! shared                       connections, their loss and the next one
//! connection  birth            what one connection does; how a master key is made
//! controls  gate  store  lying  what a test decides
//! token  crypto                what stays when a process ends; primitives
//! conformance                  the contract, as tests of any HSM
//! ```

mod birth;
pub mod conformance;
mod connection;
pub mod controls;
mod crypto;
pub mod gate;
mod hsm;
pub mod lying;
mod shared;
pub mod store;
mod token;
pub mod world;

pub use controls::{Controls, Kind};
pub use gate::Gate;
pub use hsm::MemoryHsm;
pub use lying::{Lie, Lies, When};
pub use store::{Fault, FaultyKv};
pub use token::Token;
pub use world::{Place, World};

/// Stands in every program that this crate is linked into: the name of the manufacturer of its tokens.
#[used]
pub static MARKER: &str = "keyward-hsm-memory: keys in plain memory, for tests only";
