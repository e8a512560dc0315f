//! HTTP/2 (RFC 9113) by hand over a Unix socket: small enough to send what no client would.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// What a client says first (3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The frame of a body's piece (6.1).
pub const DATA: u8 = 0;
/// The frame of a call's heads (6.2).
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
/// The frame of settings (6.5).
pub const SETTINGS: u8 = 4;
/// The frame that asks whether anybody is there (6.7).
pub const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
/// The frame of further heads (6.10).
pub const CONTINUATION: u8 = 9;

/// The flag of a stream's last frame.
pub const END_STREAM: u8 = 1;
/// The flag of heads that have no continuation.
pub const END_HEADERS: u8 = 4;
/// The flag of settings and pings that are answers.
const ACK: u8 = 1;
/// Why a stream is given up: CANCEL (7).
const CANCEL: u32 = 8;

/// The setting that says how much of a stream is taken (6.5.2).
const INITIAL_WINDOW_SIZE: u16 = 4;
/// The windows before anything is said of them (6.9.2), and the longest frame that everybody takes (4.2).
const FIRST_WINDOW: i64 = 65_535;
const LONGEST_FRAME: i64 = 16 << 10;

/// How long a server may take nothing before a message is given up.
const STALLED: Duration = Duration::from_secs(2);
/// How long a look at what has come waits.
const GLANCE: Duration = Duration::from_millis(20);

/// A frame.
///
/// # Panics
/// When it is longer than a length can say.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame is short").to_be_bytes();
    [&length[1..], &[kind, flags][..], &stream.to_be_bytes()[..], payload].concat()
}

/// The heads of a call to this path, as HPACK literals that enter no table (RFC 7541, 6.2.2).
pub fn heads(path: &str) -> Vec<u8> {
    heads_to("localhost", path)
}

/// The same with another authority.
pub fn heads_to(authority: &str, path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", authority),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ];
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            // Seven bits hold the length of each of them.
            out.push(u8::try_from(text.len()).expect("a short text"));
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// A gRPC message.
pub fn message(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("below 4 GiB").to_be_bytes();
    [&[0_u8][..], &length[..], payload].concat()
}

/// A field of a protobuf message that is bytes, a text or a message.
pub fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = content.len();
    while length >= 128 {
        out.push(u8::try_from(length & 127).expect("seven bits") | 128);
        length >>= 7;
    }
    out.push(u8::try_from(length).expect("seven bits"));
    out.extend_from_slice(content);
    out
}

/// Connects; what is sent waits for a while at most.
///
/// # Errors
/// When nobody listens.
pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_write_timeout(Some(STALLED))?;
    Ok(stream)
}

/// A connection that has begun HTTP/2. Windows are kept for the connection and for one stream, which carries
/// long bodies; the others carry short ones.
pub struct Wire {
    stream: UnixStream,
    received: Vec<u8>,
    connection_room: i64,
    stream_room: i64,
    initial: i64,
    /// Streams that the server has ended.
    pub ended: u64,
    /// Bytes of messages that came.
    pub answered: u64,
    /// Whether it is of no use any more.
    pub dead: bool,
}

impl Wire {
    /// Connects and says hello; takes `window` bytes of each answer.
    ///
    /// # Errors
    /// When nobody listens, or it is closed at once.
    pub fn hello(socket: &Path, window: u32) -> io::Result<Self> {
        let mut stream = connect(socket)?;
        let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &window.to_be_bytes()[..]].concat();
        let mut hello = PREFACE.to_vec();
        hello.extend(frame(SETTINGS, 0, 0, &setting));
        hello.extend(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes()));
        stream.write_all(&hello)?;
        Ok(Self {
            stream,
            received: Vec::new(),
            connection_room: FIRST_WINDOW,
            stream_room: FIRST_WINDOW,
            initial: FIRST_WINDOW,
            ended: 0,
            answered: 0,
            dead: false,
        })
    }

    /// Sends these bytes, whatever they are.
    pub fn put(&mut self, bytes: &[u8]) {
        if !self.dead && self.stream.write_all(bytes).is_err() {
            self.dead = true;
        }
    }

    /// Begins a call that has not ended.
    pub fn open(&mut self, stream: u32, path: &str) {
        self.put(&frame(HEADERS, END_HEADERS, stream, &heads(path)));
    }

    /// Gives a call up.
    pub fn reset(&mut self, stream: u32) {
        self.put(&frame(RST_STREAM, 0, stream, &CANCEL.to_be_bytes()));
    }

    /// Makes a whole call with a short body.
    pub fn call(&mut self, stream: u32, path: &str, body: &[u8]) {
        let (length, began) = (i64::try_from(body.len()).expect("a short body"), Instant::now());
        while self.connection_room < length && !self.dead {
            self.pump(GLANCE);
            self.dead |= began.elapsed() > STALLED;
        }
        self.connection_room -= length;
        let head = frame(HEADERS, END_HEADERS, stream, &heads(path));
        self.put(&[head, frame(DATA, END_STREAM, stream, body)].concat());
    }

    /// Sends a long body as the windows allow, with the end of the stream behind it if asked; answers whether
    /// the server took all of it.
    pub fn carry(&mut self, stream: u32, body: &[u8], end: bool) -> bool {
        let (mut rest, mut moved, ended) = (body, Instant::now(), self.ended);
        while !rest.is_empty() {
            if self.dead || self.ended > ended || moved.elapsed() > STALLED {
                return false;
            }
            let room = self.connection_room.min(self.stream_room).min(LONGEST_FRAME);
            let Some(room) = usize::try_from(room).ok().filter(|room| *room > 0) else {
                self.pump(GLANCE);
                continue;
            };
            let (now, later) = rest.split_at(room.min(rest.len()));
            let last = end && later.is_empty();
            self.put(&frame(DATA, if last { END_STREAM } else { 0 }, stream, now));
            let length = i64::try_from(now.len()).expect("a frame is short");
            self.connection_room -= length;
            self.stream_room -= length;
            (rest, moved) = (later, Instant::now());
        }
        !self.dead
    }

    /// Takes in what comes until a stream has ended, for this long at most.
    pub fn until_ended(&mut self, time: Duration) {
        let (began, ended) = (Instant::now(), self.ended);
        while !self.dead && self.ended == ended && began.elapsed() < time {
            self.pump(GLANCE);
        }
    }

    /// Takes in what has come, and waits so long for some.
    pub fn pump(&mut self, wait: Duration) {
        let mut piece = [0; 16 << 10];
        // No time at all would mean for ever.
        let wait = wait.max(Duration::from_millis(1));
        if self.stream.set_read_timeout(Some(wait)).is_err() {
            self.dead = true;
            return;
        }
        match self.stream.read(&mut piece) {
            Ok(0) => self.dead = true,
            Ok(length) => {
                self.received.extend_from_slice(&piece[..length]);
                self.take_in();
            }
            Err(error) => {
                let none = [ErrorKind::WouldBlock, ErrorKind::TimedOut, ErrorKind::Interrupted]
                    .contains(&error.kind());
                self.dead |= !none;
            }
        }
    }

    fn take_in(&mut self) {
        while let Some((head, rest)) = self.received.split_first_chunk::<9>() {
            let [a, b, c, kind, flags, stream @ ..] = *head;
            let length = u32::from_be_bytes([0, a, b, c]) as usize;
            let stream = u32::from_be_bytes(stream) & 0x7fff_ffff;
            let Some(payload) = rest.get(..length) else { return };
            let payload = payload.to_vec();
            self.received.drain(..9 + length);
            self.came(kind, flags, stream, &payload);
        }
    }

    fn came(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        match kind {
            DATA => {
                self.answered += payload.len() as u64;
                self.ended += u64::from(flags & END_STREAM);
            }
            HEADERS => self.ended += u64::from(flags & END_STREAM),
            RST_STREAM => self.ended += 1,
            GOAWAY => self.dead = true,
            SETTINGS if flags & ACK == 0 => {
                self.settings(payload);
                self.put(&frame(SETTINGS, ACK, 0, &[]));
            }
            PING if flags & ACK == 0 => self.put(&frame(PING, ACK, 0, payload)),
            WINDOW_UPDATE => {
                let more = payload.first_chunk::<4>().map_or(0, |more| u32::from_be_bytes(*more));
                let more = i64::from(more & 0x7fff_ffff);
                match stream {
                    0 => self.connection_room += more,
                    _ => self.stream_room += more,
                }
            }
            _ => {}
        }
    }

    fn settings(&mut self, payload: &[u8]) {
        for setting in payload.chunks_exact(6) {
            let [a, b, value @ ..] = setting else { continue };
            let Some(value) = value.first_chunk::<4>() else { continue };
            if u16::from_be_bytes([*a, *b]) == INITIAL_WINDOW_SIZE {
                let initial = i64::from(u32::from_be_bytes(*value));
                // It holds for streams that are open already, too (6.9.2).
                self.stream_room += initial - self.initial;
                self.initial = initial;
            }
        }
    }
}
