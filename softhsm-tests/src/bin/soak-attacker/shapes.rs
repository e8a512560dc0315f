//! The shapes of attacks on a socket. Each goes at a pace of its own until the end.

use std::collections::VecDeque;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use keyward_softhsm_tests::wire::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, SETTINGS, field, frame, heads,
    message,
};

use crate::post::Post;

const ENCRYPT: &str = "/keyward.v1.CryptoService/Encrypt";
const BATCH: &str = "/keyward.v1.CryptoService/BatchEncrypt";
const SESSION: &str = "/keyward.v1.CryptoService/CryptSession";
const FILE: &str = "/keyward.v1.CryptoService/EncryptStream";
const INDEX: &str = "/keyward.v1.CryptoService/ComputeBlindIndex";

/// A key on which none of them has a right, and the greedy application's own.
const FOREIGN: &str = "tenants/acme/keys/customer-pii";
const OWN: &str = "tenants/greedy/keys/own";

/// How much of an answer a connection takes: all, or nothing ever.
const ALL: u32 = (1 << 31) - 1;
const NOTHING: u32 = 0;

/// Connections of one caller that only stand there: some, so that its other attacks have places too, and in
/// the first seconds of each round more than it may have. One is made each time.
const SOME: usize = 100;
const TOO_MANY: usize = 300;
const ROUND: u64 = 10;
const CROWDED: u64 = 2;
const CONNECT_EVERY: Duration = Duration::from_millis(4);
/// Connections that begin slowly, and the time between two of their bytes.
const SLOW: usize = 32;
const BYTE_EVERY: Duration = Duration::from_millis(400);
/// Calls that are sent at once, how often, and how many may be without an answer.
const BURST: u32 = 10;
const BURST_EVERY: Duration = Duration::from_millis(40);
const WAITING: u64 = 200;
/// Calls on one connection.
const LAST_STREAM: u32 = 40_001;
/// Empty items of a batch, two bytes each, and how often one is sent.
const EMPTY: usize = 2_000_000;
const BATCH_EVERY: Duration = Duration::from_millis(1500);
/// Streams that are begun and not ended, and how long they stand.
const STREAMS: u32 = 300;
const STAND: Duration = Duration::from_millis(1500);
/// Fields of 1 MiB that a session sends at most, and how long it stays when they are taken no more.
const FIELDS: u64 = 64;
const STAY: Duration = Duration::from_secs(4);
const FIELD_EVERY: Duration = Duration::from_millis(20);
const INDEX_EVERY: Duration = Duration::from_millis(50);
const GIVE_UP_EVERY: Duration = Duration::from_millis(2);
const ODD_EVERY: Duration = Duration::from_millis(150);
/// How long an answer is waited for.
const ANSWER: Duration = Duration::from_millis(500);

const STRANGER: &[fn(&Post)] = &[hold, slow_preface, flood, empty_items, half_open, give_up, undecodable];
const GREEDY: &[fn(&Post)] = &[
    hold,
    slow_preface,
    flood,
    empty_items,
    half_open,
    give_up,
    undecodable,
    index_fields,
    never_read,
    never_read,
    never_read,
];

/// The shapes of a caller whom nobody knows, or of a known one with rights of its own; each in a thread.
pub(crate) fn of(who: &str) -> Option<&'static [fn(&Post)]> {
    match who {
        "stranger" => Some(STRANGER),
        "greedy" => Some(GREEDY),
        _ => None,
    }
}

/// Connections that are held, and made again.
fn hold(post: &Post) {
    let (mut held, began) = (VecDeque::new(), Instant::now());
    while post.goes_on() {
        held.extend(post.connect());
        let most = if began.elapsed().as_secs() % ROUND < CROWDED { TOO_MANY } else { SOME };
        let over = held.len().saturating_sub(most);
        held.drain(..over);
        post.rest(CONNECT_EVERY);
    }
}

/// The preface, a byte at a time, and never its last one.
fn slow_preface(post: &Post) {
    let mut slots: Vec<Option<(UnixStream, usize)>> = (0..SLOW).map(|_| None).collect();
    while post.goes_on() {
        for slot in &mut slots {
            let begun = slot.take().or_else(|| post.connect().map(|stream| (stream, 0)));
            let Some((mut stream, sent)) = begun else { continue };
            let more = sent + 1 < PREFACE.len() && stream.write_all(&PREFACE[sent..=sent]).is_ok();
            *slot = more.then_some((stream, sent + 1));
        }
        post.rest(BYTE_EVERY);
    }
}

/// Calls that are refused, as many as one likes.
fn flood(post: &Post) {
    let body = message(&[field(1, FOREIGN.as_bytes()), field(2, b"x")].concat());
    while post.goes_on() {
        let Some(mut wire) = post.hello(ALL) else { continue };
        let (mut stream, mut sent) = (1, 0);
        while post.goes_on() && !wire.dead && stream < LAST_STREAM {
            for _ in 0..BURST {
                wire.call(stream, ENCRYPT, &body);
                stream += 2;
            }
            post.sent(BURST.into());
            sent += u64::from(BURST);
            post.rest(BURST_EVERY);
            wire.pump(Duration::ZERO);
            while sent.saturating_sub(wire.ended) > WAITING && !wire.dead && post.goes_on() {
                wire.pump(ANSWER);
            }
        }
        post.all_refused(&wire);
    }
}

/// Batches of 4 MB on the wire, and forty times that in memory when somebody decodes them.
fn empty_items(post: &Post) {
    let items = field(2, b"").repeat(EMPTY);
    let body = message(&[field(1, FOREIGN.as_bytes()), items].concat());
    while post.goes_on() {
        if let Some(mut wire) = post.hello(ALL) {
            wire.open(1, BATCH);
            if wire.carry(1, &body, true) {
                wire.until_ended(ANSWER);
            }
            post.sent(1);
            post.all_refused(&wire);
        }
        post.rest(BATCH_EVERY);
    }
}

/// Streams that begin and do not go on.
fn half_open(post: &Post) {
    while post.goes_on() {
        if let Some(mut wire) = post.hello(ALL) {
            for number in 0..STREAMS {
                wire.open(1 + 2 * number, if number % 2 == 0 { ENCRYPT } else { FILE });
            }
            post.sent(STREAMS.into());
            wire.pump(ANSWER);
            post.rest(STAND);
            wire.pump(Duration::ZERO);
            post.all_refused(&wire);
        }
        post.rest(BURST_EVERY);
    }
}

/// Calls that are begun and given up at once: nothing is ever asked.
fn give_up(post: &Post) {
    while post.goes_on() {
        let Some(mut wire) = post.hello(ALL) else { continue };
        let mut stream = 1;
        while post.goes_on() && !wire.dead && stream < LAST_STREAM {
            let path = if stream % 4 == 1 { ENCRYPT } else { FILE };
            wire.open(stream, path);
            wire.pump(Duration::ZERO);
            wire.reset(stream);
            post.sent(1);
            stream += 2;
            post.rest(GIVE_UP_EVERY);
        }
        post.all_refused(&wire);
    }
}

/// What no message of the API looks like, and what no client of HTTP/2 sends.
fn undecodable(post: &Post) {
    let head = frame(HEADERS, END_HEADERS, 1, &heads(ENCRYPT));
    // Past the windows, which are wider than any of these.
    let calls =
        odd_bodies().into_iter().map(|body| [&head[..], &frame(DATA, END_STREAM, 1, &body)[..]].concat());
    let odd: Vec<Vec<u8>> = calls.chain(floods()).collect();
    for bytes in odd.iter().cycle() {
        if !post.goes_on() {
            return;
        }
        if let Some(mut wire) = post.hello(ALL) {
            wire.put(bytes);
            post.sent(1);
            wire.until_ended(ANSWER);
            post.all_refused(&wire);
        }
        post.rest(ODD_EVERY);
    }
}

fn odd_bodies() -> Vec<Vec<u8>> {
    let name = field(1, FOREIGN.as_bytes());
    vec![
        // A length beyond the end, a name that is no text, a type of field that there is not, groups in groups.
        message(&[0x0a, 0xff]),
        message(&field(1, &[0xff, 0xfe])),
        message(&[0x0f]),
        message(&[[0x7b_u8; 4000], [0x7c; 4000]].concat()),
        // 4 GiB to come; compressed by nothing; a mark that there is not.
        vec![0, 0xff, 0xff, 0xff, 0xff],
        vec![1, 0, 0, 0, 2, b'x', b'x'],
        vec![2, 0, 0, 0, 2, b'x', b'x'],
        [message(&name), message(&name)].concat(),
        Vec::new(),
    ]
}

fn floods() -> Vec<Vec<u8>> {
    let heads = heads(ENCRYPT);
    vec![
        // Heads that do not end.
        [frame(HEADERS, 0, 1, &heads), frame(CONTINUATION, 0, 1, b"").repeat(5000)].concat(),
        frame(SETTINGS, 0, 0, b"").repeat(2000),
        frame(PING, 0, 0, &[0; 8]).repeat(2000),
        // No HTTP/2 at all.
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(10),
    ]
}

/// Each name of a field is a key that stays for ever, where nothing limits them.
fn index_fields(post: &Post) {
    let mut number = 0_u32;
    while post.goes_on() {
        let Some(mut wire) = post.hello(ALL) else { continue };
        let mut stream = 1;
        while post.goes_on() && !wire.dead && stream < LAST_STREAM {
            let name = format!("f{number}");
            let fields = [field(1, OWN.as_bytes()), field(2, name.as_bytes()), field(3, b"a value")].concat();
            // And as it is: field 4, a number, is 1.
            wire.call(stream, INDEX, &message(&[fields, vec![4 << 3, 1]].concat()));
            post.sent(1);
            (number, stream) = (number + 1, stream + 2);
            post.rest(INDEX_EVERY);
            wire.pump(Duration::ZERO);
        }
    }
}

/// A session that sends fields of 1 MiB and takes none of the answers.
fn never_read(post: &Post) {
    let plaintext = vec![7_u8; 1 << 20];
    let fields = [field(1, OWN.as_bytes()), field(2, &plaintext)].concat();
    // Field 1, a number, is 1: its name among the session's items.
    let item = message(&[vec![1 << 3, 1], field(2, &fields)].concat());
    while post.goes_on() {
        let Some(mut wire) = post.hello(NOTHING) else { continue };
        wire.open(1, SESSION);
        let mut sent = 0;
        while sent < FIELDS && post.goes_on() && wire.carry(1, &item, false) {
            post.sent(1);
            sent += 1;
            post.rest(FIELD_EVERY);
        }
        post.rest(STAY);
    }
}
