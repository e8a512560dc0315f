//! Log lines: to stderr or to the journal.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

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

/// Starts logging; the second call in a process does nothing.
pub(super) fn start(log: &Log) {
    let targets = targets(log.level);
    let output: Box<dyn Layer<Registry> + Send + Sync> = match log.format {
        LogFormat::Journald => journald().unwrap_or_else(text),
        LogFormat::Auto if under_systemd() => journald().unwrap_or_else(text),
        LogFormat::Auto | LogFormat::Text => text(),
        LogFormat::Json => fmt::layer().json().with_writer(std::io::stderr).boxed(),
    };
    // An error means that logging was started before: then there is nothing to do.
    tracing_subscriber::registry().with(output.with_filter(targets)).try_init().ok();
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

fn journald() -> Option<Box<dyn Layer<Registry> + Send + Sync>> {
    tracing_journald::layer().ok().map(Layer::boxed)
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
