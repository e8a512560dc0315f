//! What a call costs before it is decoded.
//!
//! Every call passes here with its head alone. A caller who is nobody is told so, and the body of
//! its call is never looked at. What a known caller sends is counted as it arrives, against what
//! its connection and its principal may have in flight, until the answer has left. And what the
//! transport refuses by itself, of a known caller, gets its reason and its record here.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response, Uri};
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::call::Gate;
use super::staff;
use super::status::status;
use crate::access::Action;
use crate::access::meter::{Load, Meter, Part, Room};
use crate::access::{Denied, Peer, Standing};
use crate::config::Limits;
use crate::ops::Error;

/// What a call holds beside its bytes: its task, its heads, its place in the tables.
pub(super) const CALL: usize = 4 << 10;

/// What a call holds that may answer a list.
const LISTS: usize = 64 << 10;

/// Calls that answer what they were given.
const CRYPTO: &str = "/keyward.v1.CryptoService/";

/// Calls whose requests never end: they hold one message, and count what they keep themselves.
const STREAMS: [&str; 3] = [
    "/keyward.v1.CryptoService/CryptSession",
    "/keyward.v1.CryptoService/EncryptStream",
    "/keyward.v1.CryptoService/DecryptStream",
];

/// Health and reflection, which are no calls of this API: they tell nothing, and leave no record.
const STANDARD: &str = "/grpc.";

/// How long messages may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// One field, or one chunk of a file.
    pub field: usize,
    /// A batch.
    pub batch: usize,
    /// Anything that is no data.
    pub other: usize,
    /// A ceremony's proposal, with the cards of custodians.
    pub ceremony: usize,
}

impl Sizes {
    pub(super) fn of(limits: &Limits) -> Self {
        /// The context, 16 KiB, with names and framing.
        const BESIDE: usize = 64 << 10;
        /// Chunks of files may be as long, whatever fields may.
        const CHUNK: usize = 1 << 20;
        Self {
            field: limits.plaintext.as_usize().max(CHUNK).saturating_add(BESIDE),
            batch: limits.batch.as_usize().saturating_add(1 << 20),
            other: 64 << 10,
            ceremony: 1 << 20,
        }
    }
}

/// One connection, as every call on it sees it.
#[derive(Debug)]
pub struct Connection {
    peer: Peer,
    in_flight: Arc<Meter>,
    asked: AtomicBool,
}

impl Connection {
    /// A connection of a peer.
    #[must_use]
    pub fn new(peer: Peer) -> Arc<Self> {
        Arc::new(Self { peer, in_flight: Arc::default(), asked: AtomicBool::new(false) })
    }

    /// The process at the other end: its user and group, never who that is.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether a call has come in.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// What a stream may keep, besides the one message that it holds from its beginning.
pub(super) fn part<M>(request: &tonic::Request<M>) -> Result<Part, Status> {
    match request.extensions().get::<Arc<Load>>() {
        Some(load) => Ok(load.part()),
        None => Err(status(&Error::Internal("a stream that was not admitted".to_owned()))),
    }
}

/// What is served, and how much of it at a time: by the limits of one configuration.
#[derive(Clone)]
pub struct Served {
    routes: Routes,
    room: Room,
    stream: usize,
}

impl Served {
    pub(super) fn new(routes: Routes, limits: &Limits) -> Self {
        let sizes = Sizes::of(limits);
        // The largest message always fits: a limit that nothing passes would be an outage.
        let least = sizes.batch.max(sizes.field).saturating_add(CALL);
        let room = Room {
            connection: limits.in_flight_per_connection.as_usize().max(least),
            principal: limits.in_flight_per_principal.as_usize().max(least),
        };
        Self { routes, room, stream: sizes.field }
    }
    /// What a call holds before its body is seen. A stream holds the message that is being read; what is no data
    /// answers lists and documents, of which the request says nothing.
    fn begins_with(&self, path: &str) -> usize {
        if STREAMS.contains(&path) || (path.starts_with(STANDARD) && !path.ends_with("/Check")) {
            self.stream.max(CALL)
        } else if path.starts_with(CRYPTO) || path.starts_with(STANDARD) {
            CALL
        } else {
            LISTS
        }
    }
}

/// Decides about a call by its head. What is served behind it may be replaced, for open connections too.
#[derive(Clone)]
pub struct Admission {
    gate: Arc<Gate>,
    served: Arc<RwLock<Served>>,
}

impl Admission {
    /// Before the services behind a gate.
    #[must_use]
    pub fn new(gate: Arc<Gate>, served: Served) -> Self {
        Self { gate, served: Arc::new(RwLock::new(served)) }
    }

    /// Serves each call from now on by other limits. Those in flight go on.
    pub fn replace(&self, served: Served) {
        *self.served.write().unwrap_or_else(PoisonError::into_inner) = served;
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<S> Layer<S> for Admission {
    type Service = Self;

    /// Stands in the place of what it is put before: what it serves is in it, so that it can be replaced.
    fn layer(&self, _: S) -> Self {
        self.clone()
    }
}

impl Service<Request<Body>> for Admission {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Routes are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let Some(connection) = request.extensions().get::<Arc<Connection>>() else {
            let error = Error::Internal("a call without a connection".to_owned());
            let refusal: Response<Body> = status(&error).into_http();
            return Box::pin(std::future::ready(Ok::<_, Infallible>(refusal)));
        };
        // Written once: every call on the connection reads what lies beside it.
        if !connection.asked() {
            connection.asked.store(true, Ordering::Relaxed);
        }
        let (gate, peer, on_connection) =
            (self.gate.clone(), connection.peer.clone(), connection.in_flight.clone());
        let principal = match gate.policy.standing(&peer) {
            Standing::Known(principal) => principal,
            // The request goes with its body unread.
            nobody => return Box::pin(async move { Ok(turn_away(&gate, &peer, nobody).await) }),
        };
        let uri = request.uri().clone();
        if !uri.path().starts_with(STANDARD)
            && let Err(error) = staff::check_names(request.headers())
        {
            return Box::pin(async move { Ok(refuse(&gate, peer, &uri, error).await) });
        }
        let streams = STREAMS.contains(&uri.path()) || uri.path().starts_with(STANDARD);
        let mut served = self.served.read().unwrap_or_else(PoisonError::into_inner).clone();
        let begins_with = served.begins_with(uri.path());
        let of_principal = principal.in_flight().clone();
        let Some(load) = Load::begin(on_connection, of_principal, served.room, begins_with) else {
            return Box::pin(async move { Ok(refuse(&gate, peer, &uri, Error::TooMuchInFlight).await) });
        };
        let answer = served.routes.call(counted(request, &load, streams));
        Box::pin(async move {
            let response = answer.await?;
            Ok(match refused_by_transport(&response, &uri) {
                Some(Ok(error)) => refuse(&gate, peer, &uri, error).await,
                Some(Err(Gone)) => {
                    gate.call_by(gate.policy.caller(peer), Action::RefusedCall, uri.path()).gone();
                    response
                }
                // Given back when the last byte of the answer has left, or the caller has.
                None => response.map(|body| Body::new(Held { body, load, counts: false })),
            })
        })
    }
}

/// Tells a caller who is nobody that it is, once that is on record.
async fn turn_away(gate: &Gate, peer: &Peer, standing: Standing) -> Response<Body> {
    let Peer { uid, gid, .. } = *peer;
    let (tally, denied) = match standing {
        Standing::Ambiguous { first, second } => {
            (&gate.turned_away.ambiguous, Denied::Ambiguous { uid, gid, first, second })
        }
        Standing::Known(_) | Standing::Unknown => (&gate.turned_away.unknown, Denied::Unknown { uid, gid }),
    };
    let error = match tally.call(peer).await {
        Ok(()) => Error::Denied(denied),
        Err(unwritable) => Error::Audit(unwritable),
    };
    status(&error).into_http()
}

/// Refuses a call of a known caller that reaches no service, with a record of its own.
async fn refuse(gate: &Arc<Gate>, peer: Peer, uri: &Uri, error: Error) -> Response<Body> {
    let call = gate.call_by(gate.policy.caller(peer), Action::RefusedCall, uri.path());
    match call.settle::<()>(Err(error)).await {
        Ok(()) => Response::new(Body::empty()),
        Err(refusal) => refusal.into_http(),
    }
}

/// What the transport refused by itself. Its statuses have no details; all of ours have.
fn refused_by_transport(response: &Response<Body>, uri: &Uri) -> Option<Result<Error, Gone>> {
    let status = Status::from_header_map(response.headers())?;
    let ours = !status.details().is_empty() || status.code() == Code::Ok;
    (!ours && !uri.path().starts_with(STANDARD)).then(|| transport_error(&status))
}

/// The caller went away before its message was whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Gone;

/// How tonic says that a stream was reset before a message came, or broke off in it.
const BROKEN_OFF: [&str; 2] = ["Missing request message", "h2 protocol error"];

/// A refusal of the transport in our words. The generated code answers INTERNAL when a request
/// does not decode, as if it were our fault: a string that is not UTF-8, say.
pub(super) fn transport_error(status: &Status) -> Result<Error, Gone> {
    if BROKEN_OFF.iter().any(|words| status.message().starts_with(words)) || status.code() == Code::Cancelled
    {
        return Err(Gone);
    }
    Ok(match status.code() {
        Code::Unimplemented => Error::NoMethod,
        Code::OutOfRange => Error::MessageTooLarge(status.message().to_owned()),
        Code::ResourceExhausted => Error::TooMuchInFlight,
        _ => Error::Argument(format!("the request is not a message of this API: {}", status.message())),
    })
}

fn counted(mut request: Request<Body>, load: &Arc<Load>, streams: bool) -> Request<Body> {
    // The call holds it too, for as long as it works after its caller has gone.
    request.extensions_mut().insert(load.clone());
    if streams {
        return request;
    }
    request.map(|body| Body::new(Held { body, load: load.clone(), counts: true }))
}

/// A body, with what its call holds until it is gone.
struct Held {
    body: Body,
    load: Arc<Load>,
    /// Whether each piece is counted before anybody reads it: those of a request are.
    counts: bool,
}

impl http_body::Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if this.counts
            && let Some(Ok(piece)) = &frame
            && let Some(bytes) = piece.data_ref()
            && !this.load.add(bytes.len())
        {
            // `transport_error` makes of it what it is.
            return Poll::Ready(Some(Err(Status::resource_exhausted("too many bytes in flight"))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::error::Reason;

    fn response(status: Status) -> Response<Body> {
        status.into_http()
    }

    #[test]
    fn what_the_transport_refuses_is_told_from_what_the_services_do() {
        let call = Uri::from_static("/keyward.v1.CryptoService/Encrypt");
        let reason = |status: Status| {
            refused_by_transport(&response(status), &call).map(|refused| refused.map(|error| error.reason()))
        };
        assert_eq!(reason(Status::unimplemented("")), Some(Ok(Reason::MethodUnknown)));
        assert_eq!(
            reason(Status::internal("failed to decode Protobuf message: x")),
            Some(Ok(Reason::ArgumentInvalid))
        );
        assert_eq!(reason(Status::out_of_range("too long")), Some(Ok(Reason::TooLarge)));
        assert_eq!(reason(Status::internal("Missing request message.")), Some(Err(Gone)));
        assert_eq!(
            reason(Status::unknown("h2 protocol error: error reading a body from connection")),
            Some(Err(Gone))
        );
        assert_eq!(reason(status(&Error::Conflict)), None);
        let standard = Uri::from_static("/grpc.health.v1.Health/Check");
        assert!(refused_by_transport(&response(Status::not_found("x")), &standard).is_none());
        assert!(refused_by_transport(&Response::new(Body::empty()), &call).is_none(), "an answer");
    }
}
