//! USB tokens: what they sign, and how a signature is checked.
//!
//! ```text
//! envelope  printable     the bytes that a token signs, and the text that a person reads
//! verify                  signatures, and how tokens spell them
//! enrolment               custodian cards, proved
//! ```

pub mod enrolment;
pub mod envelope;
pub mod printable;
pub mod verify;
