//! Tenants, keys and their versions: records and states, and what follows from
//! them at a given time. Pure: no I/O, no clock of its own.

pub mod armour;
pub mod binding;
pub mod ceremony;
pub mod credential;
pub mod custodian;
pub mod escrow;
pub mod public_key;
pub mod record;
pub mod recovery;
pub mod roster;
pub mod signing;
pub mod state;
pub mod wrapped;
