//! Who connected a Unix socket: what the kernel recorded then.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use tokio::net::UnixStream;

use crate::access::Peer;

/// Supplementary groups that count: whoever has more has none, so that a stranger costs a fixed amount.
const GROUPS: usize = 1024;

/// The process at the other end.
///
/// # Errors
/// When the kernel does not say: then there is nobody to answer.
pub(super) fn of(stream: &UnixStream) -> io::Result<Peer> {
    let found = stream.peer_cred()?;
    Ok(Peer { uid: found.uid(), gid: found.gid(), groups: groups(stream)?, pid: found.pid() })
}

/// The supplementary groups that the process had when it connected (unix(7): SO_PEERGROUPS, since Linux 4.13).
#[allow(unsafe_code)]
fn groups(stream: &UnixStream) -> io::Result<Arc<[u32]>> {
    let mut groups = [0_u32; GROUPS];
    let mut bytes = libc::socklen_t::try_from(size_of_val(&groups)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is that of `stream`, which outlives the call; the kernel writes at most `bytes` bytes to `groups`,
    // which has so many, and any bytes are group numbers.
    let answered = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    if answered == 0 {
        let count = usize::try_from(bytes).unwrap_or_default() / size_of::<u32>();
        return Ok(groups.get(..count).unwrap_or_default().into());
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ERANGE) => Ok(Arc::default()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_tells_of_this_process() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = of(&one).unwrap();
        assert_eq!(peer.uid, rustix::process::geteuid().as_raw());
        let mut own: Vec<u32> =
            rustix::process::getgroups().unwrap().iter().map(|group| group.as_raw()).collect();
        let mut told = peer.groups.to_vec();
        own.sort_unstable();
        told.sort_unstable();
        assert_eq!(told, own);
    }
}
