//! Records of a CSV file (RFC 4180) as raw bytes, so that what is not touched stays as it is.

use std::ops::Range;
use std::path::Path;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::cli::failure::Failure;

/// Longest record: a quote that is never closed would otherwise take the rest of the file.
const MAX_RECORD: usize = 64 << 20;

/// Where one field stands in its record, with its quotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Field {
    /// The bytes of the field.
    pub range: Range<usize>,
    /// Whether it stands in quotes.
    pub quoted: bool,
}

/// Reads one record after the other.
pub(crate) struct Records<R> {
    input: R,
    line: u64,
}

impl<R: AsyncBufRead + Unpin> Records<R> {
    /// Starts at line 1.
    pub(crate) fn new(input: R) -> Self {
        Self { input, line: 1 }
    }

    /// The next record with its line end, and the line on which it starts.
    pub(crate) async fn next(&mut self) -> Result<Option<(u64, Vec<u8>)>, Failure> {
        let (start, mut record, mut open) = (self.line, Vec::new(), false);
        loop {
            let before = record.len();
            let read = self.input.read_until(b'\n', &mut record).await;
            let read = read.map_err(Failure::file("read", Path::new("the CSV input")))?;
            // Quotes come in pairs in every complete record.
            open ^= record[before..].iter().filter(|&&byte| byte == b'"').count() % 2 == 1;
            self.line += u64::from(record.ends_with(b"\n") && read > 0);
            match (open, read) {
                (false, _) => return Ok((!record.is_empty()).then_some((start, record))),
                (true, 0) => return Err(malformed(start, "a quoted field does not end")),
                (true, _) if record.len() > MAX_RECORD => {
                    return Err(malformed(start, "a quoted field is longer than 64 MiB"));
                }
                (true, _) => {}
            }
        }
    }
}

/// What is wrong with the record that starts on `line`.
pub(crate) fn malformed(line: u64, what: &str) -> Failure {
    Failure::Input(format!("line {line} is not CSV as in RFC 4180: {what}"))
}

/// The record without its line end.
pub(crate) fn content(record: &[u8]) -> &[u8] {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    record.strip_suffix(b"\r").unwrap_or(record)
}

/// Finds the fields of a record without line end.
///
/// # Errors
/// What breaks the grammar.
pub(crate) fn split(content: &[u8], delimiter: u8) -> Result<Vec<Field>, &'static str> {
    let mut fields = Vec::new();
    let mut start = 0;
    loop {
        let field = match content.get(start) {
            Some(b'"') => quoted(content, start)?,
            _ => unquoted(content, start, delimiter)?,
        };
        let end = field.range.end;
        fields.push(field);
        match content.get(end) {
            None => return Ok(fields),
            Some(byte) if *byte == delimiter => start = end + 1,
            Some(_) => return Err("there is something after a closing quote"),
        }
    }
}

fn quoted(content: &[u8], start: usize) -> Result<Field, &'static str> {
    let mut at = start + 1;
    loop {
        let quote =
            content[at..].iter().position(|&byte| byte == b'"').ok_or("a quoted field does not end")?;
        at += quote + 1;
        match content.get(at) {
            Some(b'"') => at += 1,
            _ => return Ok(Field { range: start..at, quoted: true }),
        }
    }
}

fn unquoted(content: &[u8], start: usize, delimiter: u8) -> Result<Field, &'static str> {
    let rest = &content[start..];
    let length = rest.iter().position(|&byte| byte == delimiter).unwrap_or(rest.len());
    if rest[..length].iter().any(|byte| matches!(byte, b'"' | b'\r')) {
        return Err("a quote or carriage return stands in a field without quotes");
    }
    Ok(Field { range: start..start + length, quoted: false })
}

/// What a field says, without quotes.
pub(crate) fn value(content: &[u8], field: &Field) -> Vec<u8> {
    let raw = &content[field.range.clone()];
    if !field.quoted {
        return raw.to_vec();
    }
    // Inside, quotes come in pairs: the first of each is taken, the second skipped.
    let inside = &raw[1..raw.len() - 1];
    let mut second = false;
    let keep = |byte: &u8| {
        second = *byte == b'"' && !second;
        *byte != b'"' || second
    };
    inside.iter().copied().filter(keep).collect()
}

/// Writes a field: in quotes where it stood in quotes, or where it needs them.
pub(crate) fn write(out: &mut Vec<u8>, value: &[u8], quoted: bool, delimiter: u8) {
    let special = |byte: &u8| matches!(byte, b'"' | b'\r' | b'\n') || *byte == delimiter;
    if !quoted && !value.iter().any(special) {
        out.extend_from_slice(value);
        return;
    }
    out.push(b'"');
    for &byte in value {
        out.extend(std::iter::repeat_n(byte, if byte == b'"' { 2 } else { 1 }));
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(content: &[u8]) -> Result<Vec<String>, &'static str> {
        let fields = split(content, b',')?;
        Ok(fields.iter().map(|field| String::from_utf8(value(content, field)).unwrap()).collect())
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(values(b"a,b").unwrap(), ["a", "b"]);
        assert_eq!(values(b"").unwrap(), [""]);
        assert_eq!(values(b",").unwrap(), ["", ""]);
        assert_eq!(values(br#""a,b","say ""hi""","""""""#).unwrap(), ["a,b", "say \"hi\"", "\"\""]);
        assert_eq!(values(b"\"two\r\nlines\",x").unwrap(), ["two\r\nlines", "x"]);
    }

    #[test]
    fn what_is_not_csv_is_refused() {
        for text in [&b"a\"b"[..], b"\"a", b"\"a\"b", b"\"a\" ,b", b"a\rb", b"\"a\"\"", b"x,\""] {
            assert!(values(text).is_err(), "{}", text.escape_ascii());
        }
    }

    #[tokio::test]
    async fn records_keep_their_line_ends_and_count_lines() {
        let mut records = Records::new(&b"a\r\n\"b\nc\"\n\nd"[..]);
        let mut found = Vec::new();
        while let Some((line, record)) = records.next().await.unwrap() {
            found.push((line, record.escape_ascii().to_string()));
        }
        let expected = [(1, "a\\r\\n"), (2, "\\\"b\\nc\\\"\\n"), (4, "\\n"), (5, "d")];
        assert_eq!(found, expected.map(|(line, text)| (line, text.to_owned())));
    }

    #[tokio::test]
    async fn an_open_quote_is_named_by_its_first_line() {
        let mut records = Records::new(&b"a\n\"b\nc\n"[..]);
        records.next().await.unwrap();
        let error = records.next().await.unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("does not end"), "{error}");
    }
}
