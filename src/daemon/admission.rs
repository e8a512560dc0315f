//! Who gets a connection.
//!
//! The kernel says at accept whose it is, so that is judged before a byte is read. A principal gets
//! one while it and all of them have fewer than they may; the last places are the operators'. Whoever
//! is nobody gets one of very few, for two seconds: long enough to be told so (`rpc::admission`).
//! Everybody else is closed at once, and counted.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::{Stream, stream};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, Sleep, sleep};
use tonic::transport::server::Connected;

use super::linger::Lingering;
use super::peer;
use crate::access::{Peer, Standing};
use crate::config::Server;
use crate::config::value::Role;
use crate::rpc::admission::Connection;
use crate::rpc::call::Gate;

/// Descriptors that connections leave to the store, the log, the HSM processes and the runtime.
const RESERVE: usize = 128;
/// Of all places, the share that only operators get, and how many those are at least.
const FOR_OPERATORS: usize = 16;
/// Connections of callers who are nobody that are told so at a time.
const NOBODIES: usize = 4;
/// How long such a connection lives. Its answer waits for a record, of which there is one a second.
const NOBODYS_TIME: Duration = Duration::from_secs(2);
/// How long a client may take to begin HTTP/2.
const GREETING_TIME: Duration = Duration::from_secs(5);
/// What it sends by then: the preface (RFC 9113, 3.4), and the head of its settings.
const GREETING: usize = 24 + 9;
/// The pause when the system gives no more descriptors: some are given back in such a time.
const PAUSE: Duration = Duration::from_millis(100);
/// The shortest time between two warnings of that.
const WARN_EVERY: Duration = Duration::from_secs(1);

/// Decides about connections.
pub(super) struct Door {
    gate: Arc<Gate>,
    places: Arc<Places>,
    nobodies: Arc<Semaphore>,
    /// Turns true when a stop waits no longer.
    closed: watch::Receiver<bool>,
    warned: Option<Instant>,
}

impl Door {
    pub(super) fn new(gate: Arc<Gate>, places: Arc<Places>, closed: watch::Receiver<bool>) -> Self {
        Self { gate, places, nobodies: Arc::new(Semaphore::new(NOBODIES)), closed, warned: None }
    }

    /// The connections that are let in.
    pub(super) fn incoming(self, listener: UnixListener) -> impl Stream<Item = io::Result<Admitted>> {
        stream::unfold((self, listener), |(mut door, listener)| async move {
            let admitted = door.next(&listener).await;
            Some((Ok::<_, io::Error>(admitted), (door, listener)))
        })
    }

    async fn next(&mut self, listener: &UnixListener) -> Admitted {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Some(admitted) = self.admit(stream) {
                        return admitted;
                    }
                }
                Err(error) => self.pause(&error).await,
            }
        }
    }

    fn admit(&self, stream: UnixStream) -> Option<Admitted> {
        // Without credentials there is nobody to answer.
        let peer = peer::of(&stream).ok()?;
        let stream = Lingering::new(stream).until(self.closed.clone());
        let Standing::Known(principal) = self.gate.policy.standing(&peer) else {
            return self.admit_nobody(stream, peer);
        };
        let looks_after = principal.role() == Role::Operator || principal.is_own_user();
        match Places::take(&self.places, peer.uid, looks_after) {
            Some(place) => Some(Admitted::new(stream, peer, GREETING_TIME, Ticket::Place { _held: place })),
            None => {
                self.gate.turned_away.crowded.connection(&peer);
                None
            }
        }
    }

    fn admit_nobody(&self, stream: Lingering, peer: Peer) -> Option<Admitted> {
        match self.nobodies.clone().try_acquire_owned() {
            Ok(permit) => {
                let visit = Visit { gate: self.gate.clone(), _permit: permit };
                Some(Admitted::new(stream, peer, NOBODYS_TIME, Ticket::Visit(visit)))
            }
            Err(_) => {
                self.gate.turned_away.unknown.connection(&peer);
                None
            }
        }
    }

    /// Accepting again at once would fail again, at the cost of a whole core.
    async fn pause(&mut self, error: &io::Error) {
        let now = Instant::now();
        if self.warned.is_none_or(|last| now.duration_since(last) >= WARN_EVERY) {
            self.warned = Some(now);
            tracing::warn!(%error, "cannot accept connections");
        }
        sleep(PAUSE).await;
    }
}

/// How many connections there may be.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Limits {
    all: usize,
    per_uid: usize,
    /// The last places, which only operators get.
    operators: usize,
}

impl Limits {
    fn of(server: &Server, files: usize) -> Self {
        // With very few descriptors half of them are for connections.
        let room = files.saturating_sub(RESERVE).max(files / 2);
        let all = server.max_connections.min(room);
        let operators = (all / FOR_OPERATORS).max(FOR_OPERATORS).min(all / 2);
        Self { all, per_uid: server.max_connections_per_uid, operators }
    }
}

/// The places of connections, and who has them.
pub(super) struct Places(Mutex<Taken>);

#[derive(Debug, Default)]
struct Taken {
    limits: Limits,
    all: usize,
    /// Only users who have some.
    by_uid: HashMap<u32, usize>,
}

impl Places {
    /// As many as the configuration allows, and the limit of open files.
    pub(super) fn new(server: &Server) -> Arc<Self> {
        let places = Self(Mutex::default());
        places.set(server);
        Arc::new(places)
    }

    /// Has other limits from now on. Whoever has a place keeps it.
    pub(super) fn set(&self, server: &Server) {
        let files = getrlimit(Resource::Nofile).current;
        let files = files.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        let limits = Limits::of(server, files);
        let connections = limits.all;
        if connections < server.max_connections {
            tracing::info!("the limit of {files} open files leaves {connections} connections");
        }
        self.taken().limits = limits;
    }

    fn take(places: &Arc<Self>, uid: u32, operator: bool) -> Option<Place> {
        let mut taken = places.taken();
        let Limits { all, per_uid, operators } = taken.limits;
        let most = if operator { all } else { all - operators };
        let own = taken.by_uid.get(&uid).copied().unwrap_or(0);
        if taken.all >= most || own >= per_uid {
            return None;
        }
        taken.all += 1;
        taken.by_uid.insert(uid, own + 1);
        Some(Place { places: places.clone(), uid })
    }

    /// Counts are whole after a panic elsewhere.
    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One place, given back when it is dropped.
struct Place {
    places: Arc<Places>,
    uid: u32,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken();
        taken.all -= 1;
        let own = taken.by_uid.get(&self.uid).map_or(0, |own| own - 1);
        match own {
            0 => taken.by_uid.remove(&self.uid),
            own => taken.by_uid.insert(self.uid, own),
        };
    }
}

/// The short visit of somebody who is nobody.
struct Visit {
    gate: Arc<Gate>,
    _permit: OwnedSemaphorePermit,
}

/// By what a connection was let in.
enum Ticket {
    Place { _held: Place },
    Visit(Visit),
}

/// A connection that was let in.
pub(super) struct Admitted {
    stream: Lingering,
    connection: Arc<Connection>,
    /// When it ends: for a known caller, unless it begins HTTP/2 before.
    until: Option<Pin<Box<Sleep>>>,
    /// What is left of the greeting.
    greeting: usize,
    ticket: Ticket,
}

impl Admitted {
    fn new(stream: Lingering, peer: Peer, time: Duration, ticket: Ticket) -> Self {
        Self {
            stream,
            connection: Connection::new(peer),
            until: Some(Box::pin(sleep(time))),
            greeting: GREETING,
            ticket,
        }
    }

    /// An error once its time is over. Reading, writing and flushing all ask, since HTTP/2 may
    /// wait for any of them alone.
    fn check_time(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(until) = &mut self.until
            && until.as_mut().poll(context).is_ready()
        {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    fn greeted(&mut self, bytes: usize) {
        self.greeting = self.greeting.saturating_sub(bytes);
        if self.greeting == 0 && matches!(self.ticket, Ticket::Place { .. }) {
            self.until = None;
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        if let Ticket::Visit(visit) = &self.ticket
            && !self.connection.asked()
        {
            visit.gate.turned_away.unknown.connection(self.connection.peer());
        }
    }
}

impl Connected for Admitted {
    type ConnectInfo = Arc<Connection>;

    fn connect_info(&self) -> Arc<Connection> {
        self.connection.clone()
    }
}

impl AsyncRead for Admitted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_time(context)?;
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if self.greeting > 0 {
            self.greeted(buffer.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for Admitted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_time(context)?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(all: usize, per_uid: usize, operators: usize) -> Arc<Places> {
        let limits = Limits { all, per_uid, operators };
        Arc::new(Places(Mutex::new(Taken { limits, ..Taken::default() })))
    }

    #[test]
    fn one_user_gets_no_more_than_its_share_and_gives_it_back() {
        let places = places(10, 2, 3);
        let held: Vec<_> = (0..3).filter_map(|_| Places::take(&places, 7, false)).collect();
        assert_eq!(held.len(), 2);
        assert!(Places::take(&places, 8, false).is_some());
        drop(held);
        assert!(Places::take(&places, 7, false).is_some());
        let taken = places.taken();
        assert_eq!((taken.all, taken.by_uid.len()), (0, 0), "nothing is kept of who is gone");
    }

    #[test]
    fn the_last_places_are_the_operators() {
        let places = places(10, 10, 3);
        let held: Vec<_> = (0..10).filter_map(|uid| Places::take(&places, uid, false)).collect();
        assert_eq!(held.len(), 7);
        let operators: Vec<_> = (0..10).filter_map(|_| Places::take(&places, 0, true)).collect();
        assert_eq!(operators.len(), 3);
    }

    #[test]
    fn descriptors_are_left_for_store_and_log() {
        let server = Server::default();
        assert_eq!(Limits::of(&server, usize::MAX), Limits { all: 4096, per_uid: 256, operators: 256 });
        assert_eq!(Limits::of(&server, 1024), Limits { all: 896, per_uid: 256, operators: 56 });
        let few = Limits::of(&server, 64);
        assert!(few.all <= 32 && few.operators > 0 && few.operators < few.all, "{few:?}");
    }

    #[tokio::test]
    async fn a_known_caller_has_its_time_to_begin_and_then_as_long_as_it_likes() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        const TIME: Duration = Duration::from_millis(100);
        let admitted = |stream| {
            let place = Places::take(&places(10, 10, 3), 7, false).unwrap();
            let stream = Lingering::new(stream);
            Admitted::new(
                stream,
                Peer { uid: 7, gid: 7, groups: Arc::default(), pid: None },
                TIME,
                Ticket::Place { _held: place },
            )
        };
        let (server, mut client) = UnixStream::pair().unwrap();
        let mut server = admitted(server);
        client.write_all(&[7; GREETING - 1]).await.unwrap();
        let mut greeting = [0; GREETING];
        server.read_exact(&mut greeting[1..]).await.unwrap();
        let late = server.read(&mut greeting).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);

        let (server, mut client) = UnixStream::pair().unwrap();
        let mut server = admitted(server);
        client.write_all(&[7; GREETING]).await.unwrap();
        server.read_exact(&mut greeting).await.unwrap();
        sleep(2 * TIME).await;
        client.write_all(&[7]).await.unwrap();
        assert_eq!(server.read(&mut greeting).await.unwrap(), 1);
    }
}
