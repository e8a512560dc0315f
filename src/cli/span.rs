//! Lengths of time and dates as people type them.

use std::time::Duration;

/// A length of time, or none: `90d`, `12h`, `never`.
pub(crate) fn period(text: &str) -> Result<Option<prost_types::Duration>, String> {
    if text == "never" {
        return Ok(None);
    }
    let span: Duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write for example 90d, or never"))?;
    prost_types::Duration::try_from(span).map(Some).map_err(|error| error.to_string())
}

/// A date: `2027-01-01T00:00:00Z`.
pub(crate) fn date(text: &str) -> Result<prost_types::Timestamp, String> {
    let time: jiff::Timestamp =
        text.parse().map_err(|error| format!("{error}; write for example 2027-01-01T00:00:00Z"))?;
    Ok(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() })
}

/// A count, or none: `1000000`, `never`.
pub(crate) fn count(text: &str) -> Result<u64, String> {
    match text {
        "never" => Ok(0),
        _ => text.parse().map_err(|error| format!("{error}; write for example 1000000, or never")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_dates_and_counts() {
        assert_eq!(period("never"), Ok(None));
        assert_eq!(period("90d").unwrap().unwrap().seconds, 90 * 86_400);
        assert_eq!(date("2027-01-01T00:00:00Z").unwrap().seconds, 1_798_761_600);
        assert_eq!((count("never"), count("17")), (Ok(0), Ok(17)));
        for error in [period("soon").unwrap_err(), date("tomorrow").unwrap_err(), count("-1").unwrap_err()] {
            assert!(error.contains("for example"), "{error}");
        }
    }
}
