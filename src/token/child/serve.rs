//! The loop of a token process: a request, an answer.

use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use rustix::process::{Signal, set_parent_process_death_signal};

use super::work;
use crate::child::{ChildError, frame};
use crate::token::backend::{Backend, OpenToken};
use crate::token::error::TokenError;
use crate::token::wire::{Hello, Reply, Request};

/// Serves a socket until it is closed. `load` gets the path of the library that is asked for.
///
/// # Errors
/// [`ChildError`]; what goes wrong with the token is an answer instead.
pub fn serve<B: Backend>(
    mut socket: UnixStream,
    load: impl FnOnce(Option<PathBuf>) -> Result<B, TokenError>,
) -> Result<(), ChildError> {
    // Also when the library hangs: nobody is left then who could end this process.
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(std::io::Error::from)?;
    let Some(Hello { module }) = frame::read(&mut socket)? else { return Ok(()) };
    let mut backend = match load(module) {
        Ok(backend) => backend,
        Err(error) => return Ok(frame::write(&mut socket, &Reply::Failed(error))?),
    };
    frame::write(&mut socket, &Reply::Ready)?;
    let mut open = None;
    while let Some(request) = frame::read(&mut socket)? {
        let reply = answer(&mut backend, &mut open, request).unwrap_or_else(Reply::Failed);
        frame::write(&mut socket, &reply)?;
    }
    Ok(())
}

fn answer<B: Backend>(
    backend: &mut B,
    open: &mut Option<B::Open>,
    request: Request,
) -> Result<Reply, TokenError> {
    match (request, open) {
        (Request::List, _) => backend.list().map(Reply::Tokens),
        (Request::Wait, _) => backend.wait().map(|()| Reply::Done),
        (Request::Open { token, pin, last_try }, open @ None) => {
            let opened = open.insert(backend.open(&token, &pin, last_try)?);
            Ok(Reply::Opened(opened.token().clone()))
        }
        (Request::ChangePin { token, pin, new, last_try }, None) => {
            backend.change_pin(&token, &pin, &new, last_try).map(|()| Reply::Done)
        }
        (Request::UsePuk { token, puk, sets, new, last_try }, None) => {
            backend.use_puk(&token, &puk, sets, &new, last_try).map(|()| Reply::Done)
        }
        (Request::Open { .. } | Request::ChangePin { .. } | Request::UsePuk { .. }, Some(_)) => {
            Err(TokenError::Refused("a token is open already".to_owned()))
        }
        (other, Some(open)) => answer_open(open, other),
        (_, None) => Err(TokenError::Refused("no token is open".to_owned())),
    }
}

/// What needs a login.
fn answer_open(open: &mut impl OpenToken, request: Request) -> Result<Reply, TokenError> {
    match request {
        Request::Keys => work::keys(open).map(Reply::Keys),
        Request::Sign { key, algorithm, envelope } => {
            work::sign(open, &key, algorithm, &envelope).map(Reply::Signature)
        }
        Request::Agree { key, point } => work::agree(open, &key, &point).map(Reply::Secret),
        Request::Generate(new) => open.generate(&new).map(Reply::Made),
        Request::TestAgreement(key) => work::test_agreement(open, &key).map(|()| Reply::Done),
        Request::Manage(key) => open.manage(&key).map(|()| Reply::Done),
        Request::Attest(key) => work::attest(open, &key).map(Reply::Attested),
        Request::List
        | Request::Wait
        | Request::Open { .. }
        | Request::ChangePin { .. }
        | Request::UsePuk { .. } => Err(TokenError::Refused("a token is open".to_owned())),
    }
}
