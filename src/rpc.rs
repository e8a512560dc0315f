//! The API: the only place that knows generated types and gRPC statuses.

pub mod admission;
pub mod call;
pub mod ceremonies;
pub mod proto;
pub mod services;
pub mod tally;

mod about;
mod access;
mod answers;
mod audit;
mod backup;
mod batch;
mod convert;
mod crypto;
mod files;
mod keys;
mod login;
pub mod reload;
mod serve;
mod session;
pub(crate) mod staff;
mod status;
mod system;
mod upkeep;
