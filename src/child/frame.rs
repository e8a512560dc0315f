//! Messages on a socket: a length (4 bytes, big-endian), then CBOR.
//!
//! A length is checked before anything is allocated, a message must use every
//! byte, and each buffer is wiped, because messages carry keys and PINs.

use std::io::{self, ErrorKind, Read, Write};

use minicbor::{Decode, Encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::{Zeroize, Zeroizing};

/// Longest message in bytes: far more than a list of operations ever needs.
const LONGEST: usize = 16 << 20;
const LENGTH: usize = 4;

/// A message with its length in front.
pub(crate) fn encode(message: &impl Encode<()>) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut frame = Wiping(Zeroizing::new(Vec::with_capacity(512)));
    frame.append(&[0; LENGTH]);
    minicbor::encode(message, &mut frame).map_err(io::Error::other)?;
    let Wiping(mut frame) = frame;
    let body = frame.len() - LENGTH;
    let length = u32::try_from(body).ok().filter(|_| body <= LONGEST).ok_or_else(|| too_long(body))?;
    frame[..LENGTH].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

fn too_long(length: usize) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("a message of {length} bytes; {LONGEST} are the most"))
}

fn decode<M: for<'b> Decode<'b, ()>>(body: &[u8]) -> io::Result<M> {
    let mut decoder = minicbor::Decoder::new(body);
    let malformed =
        |reason: String| io::Error::new(ErrorKind::InvalidData, format!("a malformed message: {reason}"));
    let message = decoder.decode().map_err(|error| malformed(error.to_string()))?;
    match decoder.position() == body.len() {
        true => Ok(message),
        false => Err(malformed("it goes on after its end".to_owned())),
    }
}

fn length(prefix: [u8; LENGTH]) -> io::Result<usize> {
    let length = usize::try_from(u32::from_be_bytes(prefix)).map_err(io::Error::other)?;
    if length <= LONGEST { Ok(length) } else { Err(too_long(length)) }
}

/// Writes a message.
pub(crate) fn write(socket: &mut impl Write, message: &impl Encode<()>) -> io::Result<()> {
    socket.write_all(&encode(message)?)
}

/// Reads a message; `None` when the other side has closed.
pub(crate) fn read<M: for<'b> Decode<'b, ()>>(socket: &mut impl Read) -> io::Result<Option<M>> {
    let mut prefix = [0; LENGTH];
    match socket.read(&mut prefix)? {
        0 => return Ok(None),
        part => socket.read_exact(&mut prefix[part..])?,
    }
    let mut body = Zeroizing::new(vec![0; length(prefix)?]);
    socket.read_exact(&mut body)?;
    decode(&body).map(Some)
}

/// As [`write`].
pub(crate) async fn write_async(
    socket: &mut (impl AsyncWrite + Unpin),
    message: &impl Encode<()>,
) -> io::Result<()> {
    let frame = encode(message)?;
    socket.write_all(&frame).await
}

/// As [`read`].
pub(crate) async fn read_async<M: for<'b> Decode<'b, ()>>(
    socket: &mut (impl AsyncRead + Unpin),
) -> io::Result<Option<M>> {
    let mut prefix = [0; LENGTH];
    match socket.read(&mut prefix).await? {
        0 => return Ok(None),
        part => socket.read_exact(&mut prefix[part..]).await?,
    };
    let mut body = Zeroizing::new(vec![0; length(prefix)?]);
    socket.read_exact(&mut body).await?;
    decode(&body).map(Some)
}

/// A buffer that leaves nothing behind when it grows.
struct Wiping(Zeroizing<Vec<u8>>);

impl Wiping {
    fn append(&mut self, bytes: &[u8]) {
        let needed = self.0.len() + bytes.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.next_power_of_two()));
            larger.extend_from_slice(&self.0);
            self.0.zeroize();
            self.0 = larger;
        }
        self.0.extend_from_slice(bytes);
    }
}

impl minicbor::encode::Write for Wiping {
    type Error = std::convert::Infallible;

    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Self::Error> {
        self.append(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let mut wire = Vec::new();
        write(&mut wire, &"one".to_owned()).unwrap();
        write(&mut wire, &vec![7u8; 100_000]).unwrap();
        let mut wire = wire.as_slice();
        assert_eq!(read::<String>(&mut wire).unwrap().unwrap(), "one");
        assert_eq!(read::<Vec<u8>>(&mut wire).unwrap().unwrap(), [7; 100_000]);
        assert_eq!(read::<String>(&mut wire).unwrap(), None);
    }

    #[test]
    fn a_length_is_refused_before_memory_is_taken_for_it() {
        let error = read::<String>(&mut &[0xff; 4][..]).unwrap_err();
        assert!(error.to_string().contains("are the most"), "{error}");
    }

    #[test]
    fn a_message_that_is_cut_or_goes_on_is_refused() {
        let frame = encode(&"one".to_owned()).unwrap();
        for cut in 1..frame.len() {
            let error = read::<String>(&mut &frame[..cut]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::UnexpectedEof, "{cut}");
        }
        let mut longer = frame.to_vec();
        longer[3] += 1;
        longer.push(0);
        let error = read::<String>(&mut longer.as_slice()).unwrap_err();
        assert!(error.to_string().contains("goes on"), "{error}");
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut frame = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            frame.extend(bytes);
            let _ = read::<String>(&mut frame.as_slice());
            let _ = read::<Vec<Option<u8>>>(&mut frame.as_slice());
        }
    }
}
