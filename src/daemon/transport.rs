//! How the daemon runs and serves. The benchmark's echo server does the same,
//! so that it differs from the daemon in its work alone.

use std::io;

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

/// The server, with windows that let files and sessions flow.
pub fn server() -> Server {
    Server::builder().initial_connection_window_size(8 << 20).initial_stream_window_size(1 << 20)
}

/// The connections that are accepted.
pub fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<Lingering>> {
    UnixListenerStream::new(listener).map(|accepted| accepted.map(Lingering::new))
}
