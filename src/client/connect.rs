//! A gRPC channel over the daemon's Unix socket.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint, Uri};

use super::error::{Error, NotConnected};

/// A daemon that stopped answering pings is treated as gone after these.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(10);
/// How long a place in the socket's queue is tried for, and how often.
const QUEUE_FULL: Duration = Duration::from_secs(5);
const AGAIN: Duration = Duration::from_millis(5);

/// Connects now, so that a wrong path is told at once; the channel connects again by itself.
pub(super) async fn channel(path: &Path) -> Result<Channel, Error> {
    let path: Arc<Path> = path.into();
    let connector = tower::service_fn(move |_: Uri| dial(Arc::clone(&path)));
    // The address is a placeholder that HTTP/2 demands: nothing resolves it.
    let endpoint = Endpoint::from_static("http://keywardd")
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_ANSWER);
    Ok(endpoint.connect_with_connector(connector).await?)
}

async fn dial(path: Arc<Path>) -> Result<TokioIo<UnixStream>, NotConnected> {
    let began = Instant::now();
    loop {
        match UnixStream::connect(&path).await {
            Ok(stream) => return Ok(TokioIo::new(stream)),
            // More callers connect at this moment than the socket's queue holds.
            Err(error) if error.kind() == ErrorKind::WouldBlock && began.elapsed() < QUEUE_FULL => {
                sleep(AGAIN).await;
            }
            Err(error) => return Err(NotConnected::new(&path, error)),
        }
    }
}
