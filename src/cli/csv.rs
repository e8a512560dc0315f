//! Encrypts and decrypts columns of a CSV file, and leaves every other byte as it is.
//!
//! Quotes, line ends, blank lines and a byte order mark are kept; a cell that stood in quotes stands
//! in quotes afterwards. So a file that was encrypted and decrypted is the same file, byte by byte.

use std::path::Path;

use tokio::io::{AsyncBufRead, AsyncWrite, AsyncWriteExt};

mod record;

use record::{Field, Records};

use super::failure::Failure;
use crate::client::Context;

/// Cells handed out at a time at most, unless one row has more.
const BATCH_CELLS: usize = 1000;
/// Bytes of cells after which a batch is full.
const BATCH_BYTES: usize = 2 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Which cells, and what they are about.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    /// Columns to work on, by their names in the header.
    pub columns: Vec<String>,
    /// Columns whose value in the same row belongs to the context of each cell.
    pub bind: Vec<String>,
    /// The context of every cell; `column` and the bound columns are added to it.
    pub context: Context,
    /// Between fields.
    pub delimiter: u8,
    /// Leave a cell that fails as it is, and go on.
    pub keep_going: bool,
}

/// One cell to work on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cell {
    /// What it says, without quotes.
    pub value: Vec<u8>,
    /// What it is about.
    pub context: Context,
}

/// What came of one cell: its new value.
pub(crate) type Outcome = Result<Vec<u8>, Failure>;

/// Does the work, and hears how it goes.
pub(crate) trait Worker {
    /// Answers with one outcome for each cell, in order; fails when none could be answered.
    fn work(&mut self, cells: Vec<Cell>) -> impl Future<Output = Result<Vec<Outcome>, Failure>>;

    /// So many bytes of input more are done.
    fn advance(&mut self, bytes: u64);

    /// A cell failed, and work goes on.
    fn failed(&mut self, failure: Failure);
}

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    /// Rows, without the header.
    pub rows: u64,
    /// Cells that were worked on.
    pub cells: u64,
    /// How many of them failed.
    pub failed: u64,
}

impl Plan {
    /// Whether the plan makes sense for any file.
    ///
    /// # Errors
    /// [`Failure::Usage`] that names the contradiction.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let usage = |text: String| Err(Failure::Usage(text));
        if self.context.contains_key("column") {
            return usage("--context column is set by --columns: each cell is bound to its column".into());
        }
        for name in &self.bind {
            if self.columns.contains(name) {
                return usage(format!("{name:?} stands in both --columns and --context-from"));
            }
            if name == "column" || self.context.contains_key(name) {
                return usage(format!("--context-from {name:?}: the context has that key already"));
            }
        }
        Ok(())
    }
}

/// Works on the file, batch by batch, in constant memory.
///
/// # Errors
/// [`Failure`]; what was written until then must be thrown away.
pub(crate) async fn transform(
    plan: &Plan,
    input: impl AsyncBufRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    worker: &mut impl Worker,
) -> Result<Summary, Failure> {
    plan.check()?;
    let mut records = Records::new(input);
    let Some((line, header)) = records.next().await? else {
        return Err(Failure::Input("the input is empty: expected a header line".into()));
    };
    let layout = Layout::new(plan, line, &header)?;
    let mut batch = Batch { read: header.len() as u64, rendered: header, ..Batch::default() };
    let mut summary = Summary::default();
    loop {
        let record = records.next().await?;
        if record.is_none() || batch.is_full(&layout) {
            batch.finish(plan, worker, &mut summary).await?;
            write(&mut output, &batch.rendered).await?;
            worker.advance(batch.read);
            batch = Batch::default();
        }
        match record {
            None => break,
            Some((line, record)) => batch.add(&layout, line, record)?,
        }
    }
    output.flush().await.map_err(Failure::file("write", Path::new("the output")))?;
    Ok(summary)
}

async fn write(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), Failure> {
    output.write_all(bytes).await.map_err(Failure::file("write", Path::new("the output")))
}

/// The plan applied to one header.
struct Layout<'a> {
    plan: &'a Plan,
    width: usize,
    /// Position and name, from left to right.
    columns: Vec<(usize, &'a str)>,
    bind: Vec<(usize, &'a str)>,
}

impl<'a> Layout<'a> {
    fn new(plan: &'a Plan, line: u64, header: &[u8]) -> Result<Self, Failure> {
        let content = record::content(header);
        let content = content.strip_prefix(BYTE_ORDER_MARK).unwrap_or(content);
        let fields = record::split(content, plan.delimiter).map_err(|what| record::malformed(line, what))?;
        let names: Vec<_> = fields.iter().map(|field| record::value(content, field)).collect();
        let find = |name: &'a String| Ok((position(&names, name)?, name.as_str()));
        let mut columns = plan.columns.iter().map(find).collect::<Result<Vec<_>, Failure>>()?;
        columns.sort_unstable();
        columns.dedup();
        let bind = plan.bind.iter().map(find).collect::<Result<_, Failure>>()?;
        Ok(Self { plan, width: fields.len(), columns, bind })
    }

    fn context(&self, column: &str, row: &[u8], fields: &[Field], line: u64) -> Result<Context, Failure> {
        let mut context = self.plan.context.clone();
        context.insert("column".into(), column.into());
        for (position, name) in &self.bind {
            let value = String::from_utf8(record::value(row, &fields[*position])).map_err(|_| {
                Failure::Input(format!("line {line}: {name:?} is not UTF-8, as a context must be"))
            })?;
            context.insert((*name).into(), value);
        }
        Ok(context)
    }
}

fn position(names: &[Vec<u8>], name: &str) -> Result<usize, Failure> {
    let mut found = names.iter().enumerate().filter(|(_, known)| *known == name.as_bytes());
    match (found.next(), found.next()) {
        (Some((position, _)), None) => Ok(position),
        (Some(_), Some(_)) => Err(Failure::Input(format!("the header has two columns {name:?}"))),
        (None, _) => {
            let names: Vec<_> = names.iter().map(|name| String::from_utf8_lossy(name)).collect();
            Err(Failure::Input(format!("the header has no column {name:?}; it has: {}", names.join(", "))))
        }
    }
}

/// Rows that are worked on together.
#[derive(Default)]
struct Batch {
    /// Bytes of input.
    read: u64,
    /// Output that is ready.
    rendered: Vec<u8>,
    rows: Vec<Row>,
    cells: Vec<Cell>,
    bytes: usize,
}

struct Row {
    line: u64,
    record: Vec<u8>,
    /// The cells to work on, from left to right.
    fields: Vec<Field>,
}

impl Batch {
    fn is_full(&self, layout: &Layout<'_>) -> bool {
        self.bytes >= BATCH_BYTES || self.cells.len() + layout.columns.len() > BATCH_CELLS
    }

    fn add(&mut self, layout: &Layout<'_>, line: u64, record: Vec<u8>) -> Result<(), Failure> {
        let content = record::content(&record);
        let mut fields = Vec::new();
        // A blank line between rows is kept as it is.
        if !content.is_empty() {
            let all = record::split(content, layout.plan.delimiter)
                .map_err(|what| record::malformed(line, what))?;
            if all.len() != layout.width {
                let what = format!("line {line} has {} fields, the header {}", all.len(), layout.width);
                return Err(Failure::Input(what));
            }
            for (position, name) in &layout.columns {
                let value = record::value(content, &all[*position]);
                self.bytes += value.len();
                let context = layout.context(name, content, &all, line)?;
                self.cells.push(Cell { value, context });
                fields.push(all[*position].clone());
            }
        }
        self.read += record.len() as u64;
        self.bytes += record.len();
        self.rows.push(Row { line, record, fields });
        Ok(())
    }

    async fn finish(
        &mut self,
        plan: &Plan,
        worker: &mut impl Worker,
        summary: &mut Summary,
    ) -> Result<(), Failure> {
        let cells = std::mem::take(&mut self.cells);
        let columns: Vec<_> = cells.iter().map(|cell| cell.context["column"].clone()).collect();
        let outcomes = if cells.is_empty() { Vec::new() } else { worker.work(cells).await? };
        let mut outcomes = outcomes.into_iter().zip(columns);
        for row in std::mem::take(&mut self.rows) {
            summary.rows += u64::from(!row.fields.is_empty());
            summary.cells += row.fields.len() as u64;
            let mut at = 0;
            for (field, (outcome, column)) in row.fields.iter().zip(&mut outcomes) {
                self.rendered.extend_from_slice(&row.record[at..field.range.start]);
                at = field.range.end;
                match outcome {
                    Ok(value) => record::write(&mut self.rendered, &value, field.quoted, plan.delimiter),
                    Err(error) => {
                        let failure = Failure::Cell { line: row.line, column, error: Box::new(error) };
                        if !plan.keep_going {
                            return Err(failure);
                        }
                        worker.failed(failure);
                        summary.failed += 1;
                        self.rendered.extend_from_slice(&row.record[field.range.clone()]);
                    }
                }
            }
            self.rendered.extend_from_slice(&row.record[at..]);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
