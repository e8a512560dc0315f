//! How the daemon runs and serves. The benchmark's echo server does the same,
//! so that it differs from the daemon in its work alone.

use std::io;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::Server;

pub use super::linger::Lingering;

/// The runtime: one worker for each core.
///
/// # Errors
/// When the system gives no threads.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}

/// Calls that one connection may have open.
const STREAMS: u32 = 256;
/// The longest heads of a call, by the count of RFC 9113: assertions and proofs are short.
const HEADERS: u32 = 16 << 10;
/// How long a connection may be silent before it is asked whether anybody is there, and may take to say so.
const PING_EVERY: Duration = Duration::from_secs(60);
const PING_ANSWER: Duration = Duration::from_secs(20);

/// The server, with windows that let files and sessions flow. What waits to be sent on a stream is
/// limited by hyper (400 KiB).
pub fn server() -> Server {
    Server::builder()
        .initial_connection_window_size(8 << 20)
        .initial_stream_window_size(1 << 20)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADERS)
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_ANSWER))
}

/// The connections that are accepted, from whomever. The daemon has a door before it.
pub fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<Lingering>> {
    UnixListenerStream::new(listener).map(|accepted| accepted.map(Lingering::new))
}
