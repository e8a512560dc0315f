//! Opens connections to a daemon and says nothing on them, as a service of systemd (`Type=notify`):
//!
//! ```text
//! connections SOCKET hold COUNT     each with half of HTTP/2's preface, the last with all; ends when they are closed
//! connections SOCKET flood SECONDS  as many and as often as it can
//! ```

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::{Duration, Instant};

/// What a client of HTTP/2 begins with (RFC 9113, 3.4), and empty settings (6.5).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HALF: usize = 16;
/// How many a flood holds at a time: fewer than this process may have files.
const HELD: usize = 500;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [socket, "hold", count] => hold(socket, count.parse()?),
        [socket, "flood", seconds] => flood(socket, Duration::from_secs(seconds.parse()?)),
        _ => Err("connections SOCKET hold COUNT | flood SECONDS".into()),
    }
}

fn hold(socket: &str, count: usize) -> Result<(), Box<dyn Error>> {
    let mut held = Vec::new();
    for _ in 1..count {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(&PREFACE[..HALF])?;
        held.push(stream);
    }
    let mut last = UnixStream::connect(socket)?;
    last.write_all(PREFACE)?;
    // The answer's first frame: this one was taken from the socket, and so were all before it.
    last.read_exact(&mut [0; 9])?;
    held.push(last);
    ready()?;
    for mut stream in held {
        let mut said = [0; 1024];
        // The daemon speaks first in HTTP/2. Closed in order or not is the same here.
        while stream.read(&mut said).is_ok_and(|length| length > 0) {}
    }
    Ok(())
}

fn flood(socket: &str, span: Duration) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    let mut held = vec![UnixStream::connect(socket)?];
    ready()?;
    while began.elapsed() < span {
        let stream = UnixStream::connect(socket)?;
        held.push(stream);
        if held.len() > HELD {
            held.drain(..HELD / 2);
        }
    }
    Ok(())
}

/// Tells systemd that it has begun.
fn ready() -> Result<(), Box<dyn Error>> {
    let systemd = std::env::var("NOTIFY_SOCKET")?;
    UnixDatagram::unbound()?.send_to(b"READY=1", systemd)?;
    Ok(())
}
