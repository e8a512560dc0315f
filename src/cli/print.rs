//! The one place that prints: results to stdout, everything else to stderr.
//!
//! Lines on stderr start with `keyward: error: …`, `keyward: hint: …` or `keyward: …`: lower case,
//! no period. With `--json`, results and errors are JSON.

use std::io::{self, IsTerminal, Write};
use std::path::Path;

use comfy_table::{Table, presets};
use serde_json::{Value, json};

use super::exit::Exit;
use super::failure::Failure;
use super::view::{self, View, plain};

/// Where output goes, and in which form.
pub(crate) struct Printer {
    /// Results.
    pub out: Box<dyn Write>,
    /// Everything else.
    pub err: Box<dyn Write>,
    /// JSON instead of text.
    pub json: bool,
    /// Neither notes nor progress.
    pub quiet: bool,
    /// Whether `out` is a terminal.
    pub to_terminal: bool,
}

impl Printer {
    /// The standard streams of the process.
    pub(crate) fn standard(json: bool, quiet: bool) -> Self {
        let to_terminal = io::stdout().is_terminal();
        Self { out: Box::new(io::stdout()), err: Box::new(io::stderr()), json, quiet, to_terminal }
    }

    /// One resource.
    pub(crate) fn view(&mut self, view: &impl View) -> Result<(), Failure> {
        let fields = view.fields();
        if self.json {
            return self.value(&view::object(fields));
        }
        let mut table = bare_table();
        for (name, value) in fields {
            add_field(&mut table, &name.replace('_', " "), &value);
        }
        self.line(&flush_left(table))
    }

    /// Many resources, under `name` in JSON.
    pub(crate) fn views(&mut self, name: &str, views: &[impl View]) -> Result<(), Failure> {
        if self.json {
            let values: Vec<_> = views.iter().map(|view| view::object(view.fields())).collect();
            return self.value(&json!({ name: values }));
        }
        let Some(first) = views.first() else {
            self.note("nothing to list");
            return Ok(());
        };
        let mut table = bare_table();
        let header = first.row().into_iter().map(|(name, _)| name.replace('_', " ").to_uppercase());
        table.set_header(header.collect::<Vec<_>>());
        for view in views {
            table.add_row(view.row().iter().map(|(_, value)| view::text(value)).collect::<Vec<_>>());
        }
        self.line(&flush_left(table))
    }

    /// Whether results are for programs.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// A result that is `line` for people and `value` in JSON.
    pub(crate) fn answer(&mut self, line: &str, value: &Value) -> Result<(), Failure> {
        if self.json { self.value(value) } else { self.line(line) }
    }

    fn value(&mut self, value: &Value) -> Result<(), Failure> {
        self.line(&format!("{value:#}"))
    }

    fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.write(format!("{line}\n").as_bytes())
    }

    /// Text that is ready to be shown: help, version, completion scripts.
    pub(crate) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.write(text.as_bytes())
    }

    /// A result that went to a file: a note for people, a value in JSON.
    pub(crate) fn report(&mut self, note: &str, value: &Value) -> Result<(), Failure> {
        if self.json {
            return self.value(value);
        }
        self.note(note);
        Ok(())
    }

    /// Whether progress is out of place.
    pub(crate) fn hides_progress(&self) -> bool {
        self.quiet || self.json
    }

    /// A result as it is, to be read by a program: never to a terminal.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.to_terminal {
            return Err(Failure::Terminal);
        }
        self.write(bytes)
    }

    /// A decrypted field: as it is into a file or pipe; on a terminal only what is printable.
    pub(crate) fn plaintext(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match std::str::from_utf8(bytes) {
            Ok(text)
                if self.to_terminal && text.trim_end_matches('\n') == plain(text.trim_end_matches('\n')) =>
            {
                self.line(text.trim_end_matches('\n'))
            }
            _ => self.raw(bytes),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.out.write_all(bytes).and_then(|()| self.out.flush());
        written.map_err(Failure::file("write", Path::new("stdout")))
    }

    /// Something to know that is no result.
    pub(crate) fn note(&mut self, text: &str) {
        if !self.quiet && !self.json {
            self.complain(&format!("keyward: {text}"));
        }
    }

    /// What must be seen, whatever is asked for: the text that a token is about to sign.
    pub(crate) fn show(&mut self, text: &str) {
        self.complain(text.trim_end());
    }

    /// Something that went wrong and is passed over.
    pub(crate) fn warn(&mut self, text: &str) {
        if !self.json {
            self.complain(&format!("keyward: warning: {}", plain(text)));
        }
    }

    /// A failure, with what to do next.
    pub(crate) fn failure(&mut self, failure: &Failure) -> Exit {
        if self.json {
            self.complain(&json!({ "error": error_value(failure) }).to_string());
        } else if !is_closed_pipe(failure) {
            self.complain(&format!("keyward: error: {}", plain(&failure.to_string())));
            if let Some(hint) = failure.hint() {
                self.complain(&format!("keyward: hint: {hint}"));
            }
        }
        failure.exit()
    }

    /// A wrong command line, explained by clap: `text` starts with `error: `.
    pub(crate) fn usage(&mut self, text: &str) -> Exit {
        if self.json {
            // What is wrong, which may take lines; not how the command is used.
            let lines = text.lines().take_while(|line| !line.starts_with("Usage:")).map(str::trim);
            let message = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
            let message = message
                .trim_start_matches("error: ")
                .trim_end_matches("For more information, try '--help'.")
                .trim_end();
            let error = json!({ "code": "Usage", "reason": "USAGE", "message": message });
            self.complain(&json!({ "error": error }).to_string());
        } else {
            self.complain(&format!("keyward: {}", text.trim_end()));
        }
        Exit::Usage
    }

    fn complain(&mut self, line: &str) {
        // Nobody is left to be told when stderr is closed.
        drop(writeln!(self.err, "{line}"));
    }
}

fn error_value(failure: &Failure) -> Value {
    let mut error =
        json!({ "code": failure.code(), "reason": failure.reason(), "message": failure.to_string() });
    if let Some(hint) = failure.hint() {
        error["hint"] = hint.into();
    }
    error
}

/// The reader of a pipe has seen enough, as `head` does.
fn is_closed_pipe(failure: &Failure) -> bool {
    matches!(failure, Failure::File { source, .. } if source.kind() == io::ErrorKind::BrokenPipe)
}

fn bare_table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn flush_left(mut table: Table) -> String {
    if let Some(first) = table.column_mut(0) {
        first.set_padding((0, 1));
    }
    table.trim_fmt()
}

/// A line for a value, or one for each of its parts.
fn add_field(table: &mut Table, name: &str, value: &Value) {
    match value {
        Value::Object(parts) => {
            for (part, value) in parts {
                add_field(table, &format!("{name} {}", part.replace('_', " ")), value);
            }
        }
        Value::Array(items) if items.is_empty() => {
            table.add_row(vec![name.to_owned(), view::text(&Value::Null)]);
        }
        Value::Array(items) if items.iter().all(Value::is_object) => {
            for (number, item) in (1..).zip(items) {
                add_field(table, &format!("{name} {number}"), &said(item));
            }
        }
        value => {
            table.add_row(vec![name.to_owned(), view::text(value)]);
        }
    }
}

/// An object without the parts that say nothing.
fn said(item: &Value) -> Value {
    let parts = item.as_object().into_iter().flatten();
    let parts = parts.filter(|(_, value)| !value.is_null() && value.as_str() != Some(""));
    Value::Object(parts.map(|(name, value)| (name.clone(), value.clone())).collect())
}
