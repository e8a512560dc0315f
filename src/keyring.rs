//! Tenants, keys and their versions: records and states, and what follows from
//! them at a given time. Pure: no I/O, no clock of its own.

pub mod account;
pub mod act;
pub mod agenda;
pub mod armour;
pub mod binding;
pub mod ceremony;
pub mod credential;
pub mod custodian;
pub mod escrow;
pub mod otp;
pub mod public_key;
pub mod record;
pub mod recovery;
pub mod remains;
pub mod roster;
pub mod schedule;
pub mod signing;
pub mod state;
pub mod timekeeping;
pub mod wrapped;
