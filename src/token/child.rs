//! The token process: the only one that loads a USB token's library.
//!
//! A token is untrusted input, and so is its vendor's library: what crashes or hangs there
//! crashes or hangs here, and whoever asked kills this process at its deadline.
//!
//! ```text
//! module     the library and its tokens       session    the login
//! objects    keys and their public halves     generate   new keys
//! sign       envelopes                        agree      shared secrets
//! ```

use std::os::unix::net::UnixStream;

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::child::{ChildError, frame, take_socket};
use crate::token::child::module::Module;
use crate::token::child::session::Open;
use crate::token::envelope::Envelope;
use crate::token::error::TokenError;
use crate::token::wire::{Hello, KeyUse, Reply, Request};

mod agree;
mod generate;
mod module;
mod objects;
mod session;
mod sign;

/// Serves the socket on standard input until it is closed.
///
/// # Errors
/// [`ChildError`]; what goes wrong with the token is an answer instead.
pub fn run() -> Result<(), ChildError> {
    let mut socket = take_socket()?;
    // Also when the library hangs: nobody is left then who could end this process.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    let Some(Hello { module }) = frame::read(&mut socket)? else { return Ok(()) };
    let module = match Module::load(&module) {
        Ok(module) => module,
        Err(error) => return Ok(frame::write(&mut socket, &Reply::Failed(error))?),
    };
    frame::write(&mut socket, &Reply::Ready)?;
    serve(&mut socket, &module)
}

fn serve(socket: &mut UnixStream, module: &Module) -> Result<(), ChildError> {
    let mut open = None;
    while let Some(request) = frame::read(socket)? {
        let reply = answer(module, &mut open, request).unwrap_or_else(Reply::Failed);
        frame::write(socket, &reply)?;
    }
    Ok(())
}

fn answer(module: &Module, open: &mut Option<Open>, request: Request) -> Result<Reply, TokenError> {
    match request {
        Request::List => module.list().map(Reply::Tokens),
        Request::Open { token, pin, last_try } => {
            if open.is_some() {
                return Err(TokenError::Refused("a token is open already".to_owned()));
            }
            let opened = open.insert(Open::new(module, &token, &pin, last_try)?);
            Ok(Reply::Opened(opened.token().clone()))
        }
        other => answer_open(
            open.as_ref().ok_or_else(|| TokenError::Refused("no token is open".to_owned()))?,
            other,
        ),
    }
}

/// What needs a login.
fn answer_open(open: &Open, request: Request) -> Result<Reply, TokenError> {
    match request {
        Request::Keys => open.keys().map(Reply::Keys),
        Request::Sign { key, algorithm, envelope } => {
            let envelope =
                Envelope::parse(&envelope).map_err(|error| TokenError::Refused(error.to_string()))?;
            let key = open.key(&key, KeyUse::Sign)?;
            sign::sign(open.session(), &key, algorithm, &envelope).map(Reply::Signature)
        }
        Request::Agree { key, point } => {
            let key = open.key(&key, KeyUse::Agree)?;
            agree::agree(open.session(), &key, &point).map(Reply::Secret)
        }
        Request::Generate(new) => generate::generate(open, &new).map(Reply::Made),
        Request::TestAgreement(key) => {
            let key = open.key(&key, KeyUse::Agree)?;
            agree::test(open.session(), &key).map(|()| Reply::Tested)
        }
        Request::List | Request::Open { .. } => Err(TokenError::Refused("a token is open".to_owned())),
    }
}
