//! The use cases, one per file. Each takes a proof of authorisation and
//! answers a [`Done`], whose value is released only against an audit record.

pub mod attest;
pub mod backup;
pub mod blind_index;
pub mod ceremony;
pub mod certificate;
pub mod checkpoint;
pub mod crypt;
pub mod data_key;
pub mod destroy;
pub mod done;
pub mod erasure;
pub mod error;
pub mod freeze;
pub mod group;
pub mod key;
pub mod login;
pub mod re_encrypt;
mod resident;
pub mod rotate;
pub mod schedule;
pub mod strays;
pub mod stream;
pub mod system_key;
pub mod tenant;
pub mod timekeeping;
pub mod upkeep;
pub mod vault;
pub mod version;

pub mod acting;
mod agenda;
mod commit;
mod custody;
mod dek_uses;
mod deks;
mod entropy;
mod epoch;
mod kek_uses;
mod mend;
pub mod opened;
mod root;
mod sealed;
mod views;

pub use done::Done;
pub use error::Error;
pub use vault::Vault;
