//! Log lines: to stderr or to the journal.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Level, Log, LogFormat};

/// Crates that trace what must not be logged (PINs in APDUs), or too much of it.
/// The cap is in code, so that no configuration lifts it.
const CAPPED: [(&str, LevelFilter); 6] = [
    ("yubikey", LevelFilter::WARN),
    ("pcsc", LevelFilter::WARN),
    ("cryptoki", LevelFilter::WARN),
    // What a client does to its own connection is no news, and whoever is nobody must not write the log.
    ("h2", LevelFilter::ERROR),
    ("hyper", LevelFilter::ERROR),
    ("tonic", LevelFilter::ERROR),
];

fn targets(level: Level) -> Targets {
    Targets::new().with_default(self::level(level)).with_targets(CAPPED)
}

/// Says how much is logged from now on.
#[derive(Clone)]
pub(super) struct Levels(reload::Handle<Targets, Registry>);

impl Levels {
    pub(super) fn set(&self, level: Level) {
        // An error means that logging has ended: then nobody sees the level.
        self.0.reload(targets(level)).ok();
    }
}

/// Starts logging; the second call in a process does nothing.
pub(super) fn start(log: &Log) -> Levels {
    let (targets, handle) = reload::Layer::new(targets(log.level));
    let output: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Journald | LogFormat::Auto if under_systemd() => journal(),
        LogFormat::Journald | LogFormat::Auto | LogFormat::Text => text(),
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    let clients = Targets::new().with_target(HTTP2, LevelFilter::DEBUG);
    let registry = tracing_subscriber::registry().with(output.with_filter(targets));
    // An error means that logging was started before: then there is nothing to do.
    registry.with(Authorities::default().with_filter(clients)).try_init().ok();
    Levels(handle)
}

/// Where HTTP/2 says why it refuses the head of a request, before any service sees it.
const HTTP2: &str = "h2::server";

/// Says in the daemon's log what a client must set whose calls end before they reach a service: the gRPC cores of C, Java
/// and others send the path of a Unix socket as authority, and HTTP/2 refuses that without a word to anybody.
#[derive(Default)]
struct Authorities {
    told: Mutex<Option<Instant>>,
}

/// The shortest time between two such lines: whoever is nobody must not fill the log.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Bytes of the client's words that are shown.
const SHOWN: usize = 200;

impl Authorities {
    /// Whether a line is due.
    fn is_due(&self) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.is_none_or(|last| last.elapsed() >= TELL_EVERY);
        if due {
            *told = Some(Instant::now());
        }
        due
    }
}

impl<S: Subscriber> Layer<S> for Authorities {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        if !message.0.contains("malformed authority") || !self.is_due() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let refused: String = message.0.chars().take(SHOWN).collect();
        // Elsewhere: while a layer sees an event, none may be made.
        runtime.spawn(async move {
            tracing::warn!(
                "HTTP/2 refused a client's call before the daemon saw it ({refused}): the client must set its authority to \
                 \"localhost\", for gRPC cores the option grpc.default_authority; see docs/clients.md"
            );
        });
    }
}

/// The message of an event.
struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

fn level(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    }
}

/// Systemd says so to what it connects to the journal.
fn under_systemd() -> bool {
    std::env::var_os("JOURNAL_STREAM").is_some()
}

/// Lines for the journal, by stderr: systemd takes the priority from their beginning (sd-daemon(3)), and has the time. The
/// whole event is in the message, who and why included: people read that, and not the fields beside it.
fn journal() -> Box<dyn Layer<Registry> + Send + Sync> {
    fmt::layer()
        .with_writer(Journal)
        .with_ansi(false)
        .with_target(false)
        .with_level(false)
        .without_time()
        .boxed()
}

/// Makes writers to stderr that begin each line with its priority.
struct Journal;

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(priority(tracing::Level::INFO))
    }

    fn make_writer_for(&'a self, event: &tracing::Metadata<'_>) -> Line {
        Line(priority(*event.level()))
    }
}

/// The priority of a level (syslog(3)).
fn priority(level: tracing::Level) -> u8 {
    match level {
        tracing::Level::ERROR => 3,
        tracing::Level::WARN => 4,
        tracing::Level::INFO => 6,
        _ => 7,
    }
}

/// One line of the journal, written at once.
struct Line(u8);

impl Line {
    /// No text within an event begins a line of its own, which could have another priority or another author.
    fn of(&self, event: &[u8]) -> Vec<u8> {
        let event = event.strip_suffix(b"\n").unwrap_or(event);
        let mut line = format!("<{}>", self.0).into_bytes();
        for &byte in event {
            match byte {
                b'\n' | b'\r' => line.extend_from_slice(b" | "),
                other => line.push(other),
            }
        }
        line.push(b'\n');
        line
    }
}

impl io::Write for Line {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(&self.of(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn text() -> Box<dyn Layer<Registry> + Send + Sync> {
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false).boxed()
}

#[cfg(test)]
mod tests {
    use tracing::Level as Of;

    use super::*;

    #[test]
    fn an_event_is_one_line_of_the_journal_whatever_is_in_it() {
        let line = |event: &str| String::from_utf8(Line(priority(Of::WARN)).of(event.as_bytes())).unwrap();
        assert_eq!(line("refused uid=7\n"), "<4>refused uid=7\n");
        assert_eq!(line("name a\n<0>forged\r\n\n"), "<4>name a | <0>forged |  | \n");
        assert_eq!(line(""), "<4>\n");
    }

    #[test]
    fn crates_that_trace_pins_stay_capped_at_any_level() {
        let targets = targets(Level::Debug);
        assert!(targets.would_enable("keyward::rpc", &Of::DEBUG));
        for capped in ["yubikey", "yubikey::apdu", "pcsc", "pcsc::context", "cryptoki::session"] {
            assert!(!targets.would_enable(capped, &Of::INFO), "{capped}");
            assert!(targets.would_enable(capped, &Of::WARN), "{capped}");
        }
        for transport in ["h2::proto::streams", "hyper::proto", "tonic::transport"] {
            assert!(!targets.would_enable(transport, &Of::WARN), "{transport}");
            assert!(targets.would_enable(transport, &Of::ERROR), "{transport}");
        }
    }
}
