//! A gRPC channel over the daemon's Unix socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::error::{Error, NotConnected};

/// A daemon that stopped answering pings is treated as gone after these.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_ANSWER: Duration = Duration::from_secs(10);

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
    match UnixStream::connect(&path).await {
        Ok(stream) => Ok(TokioIo::new(stream)),
        Err(error) => Err(NotConnected::new(&path, error)),
    }
}
