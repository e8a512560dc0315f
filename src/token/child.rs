//! The token process: the only one that talks to USB tokens, or loads a vendor's library for them.
//!
//! A token is untrusted input, and so is its vendor's library: what crashes or hangs there
//! crashes or hangs here, and whoever asked kills this process at its deadline.
//!
//! ```text
//! serve  work                 the loop, and what is the same for every backend
//! pkcs11                      the backend that is built in:
//!   module     the library and its tokens       session    the login, and PINs
//!   objects    keys and their public halves     generate   new keys
//!   sign       messages                         agree      shared secrets
//! ```

use crate::child::{ChildError, take_socket};
use crate::token::child::module::Module;
use crate::token::error::TokenError;

mod agree;
mod generate;
mod module;
mod objects;
mod pkcs11;
mod serve;
mod session;
mod sign;
mod work;

pub use serve::serve;

/// Serves the socket on standard input until it is closed, with tokens of a PKCS#11 library.
///
/// # Errors
/// [`ChildError`]; what goes wrong with the token is an answer instead.
pub fn run() -> Result<(), ChildError> {
    serve(take_socket()?, |module| {
        let module = module.ok_or_else(|| TokenError::Module("no PKCS#11 library was named".to_owned()))?;
        Module::load(&module)
    })
}
