//! USB tokens: what they sign, and how a signature is checked.
//!
//! ```text
//! envelope  printable     the bytes that a token signs, and the text that a person reads
//! verify                  signatures, and how tokens spell them
//! enrolment               custodian cards, proved
//! client  wire            the process that talks to a token, as others see it
//! child                   the process itself: the only one that loads a token's library
//! backend                 what it needs of tokens: PKCS#11 is built in, PIV is a program of its own
//! ```

pub mod attestation;
pub mod backend;
pub mod certification;
pub mod child;
pub mod client;
pub mod enrolment;
pub mod envelope;
pub mod error;
mod pem;
pub mod printable;
#[cfg(test)]
mod vectors;
pub mod verify;
pub mod wire;
