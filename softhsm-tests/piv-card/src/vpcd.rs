//! The socket to the reader in software, vpcd: two bytes of length, then a command for the reader or
//! for the card.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::linux::net::TcpStreamExt;

/// Answer to reset that offers T=1, which is what clients of such cards ask for.
const ATR: &[u8] = b"\x3b\x95\x13\x81\x01\x80\x73\xff\x01\x00\x0b";

/// A card, as its reader sees it.
pub trait Card {
    /// Loses its power, or is reset.
    fn reset(&mut self);

    /// Answers a command; `None` is no answer at all.
    fn transmit(&mut self, command: &[u8]) -> Option<Vec<u8>>;
}

/// Serves the reader until it goes.
pub fn serve(port: u16, card: &mut impl Card) -> io::Result<()> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_nodelay(true)?;
    while let Some(message) = receive(&mut socket)? {
        match message[..] {
            [0 | 1 | 2] => card.reset(),
            [4] => send(&mut socket, ATR)?,
            _ => match card.transmit(&message) {
                Some(answer) => send(&mut socket, &answer)?,
                None => return wait_for_end(&mut socket),
            },
        }
    }
    Ok(())
}

fn wait_for_end(socket: &mut TcpStream) -> io::Result<()> {
    io::copy(socket, &mut io::sink()).map(drop)
}

fn receive(socket: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    // vpcd writes length and body by themselves: without this, each body waits 40 ms for us to acknowledge.
    socket.set_quickack(true)?;
    match socket.read_exact(&mut length) {
        Err(error) if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&error.kind()) => {
            return Ok(None);
        }
        read => read?,
    }
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    socket.set_quickack(true)?;
    socket.read_exact(&mut message)?;
    Ok(Some(message))
}

fn send(socket: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    socket.write_all(&[&length.to_be_bytes()[..], message].concat())
}
