//! Columns of a CSV file: the engine of [`crate::cli::csv`] over the daemon.

use bytes::Bytes;
use futures_util::StreamExt;
use indicatif::ProgressBar;
use serde_json::json;
use tokio::io::BufReader;

use super::file::{Input, to_stdout};
use super::{Job, Verb};
use crate::cli::csv::{self, Cell, Outcome, Plan, Summary};
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::print::Printer;
use crate::cli::{Shell, context, progress, text};
use crate::client::{Client, Error, Item};

/// Items and bytes of one batch: within the daemon's default limits, with room for contexts.
const BATCH_ITEMS: usize = 1000;
const BATCH_BYTES: usize = 3 << 20;
/// Re-encryptions under way at a time.
const IN_FLIGHT: usize = 64;
/// Bytes read at a time.
const BUFFER: usize = 256 << 10;

pub(super) async fn run(verb: Verb, job: Job, keep_going: bool, shell: &mut Shell) -> Result<(), Failure> {
    let plan = Plan {
        context: context::context(&job.context)?,
        columns: job.csv.columns.clone(),
        bind: job.csv.context_from.clone(),
        delimiter: job.csv.delimiter,
        keep_going,
    };
    plan.check()?;
    let stdout = to_stdout(&job);
    if stdout && shell.print.to_terminal && verb == Verb::Decrypt {
        return Err(Failure::Terminal);
    }
    let input = Input::open(job.input.as_deref()).await?;
    let client = shell.client().await?;
    let mut output = Output::open(job.output.as_deref(), job.force)?;
    let bar = progress::bytes(input.size, shell.print.hides_progress());
    let mut worker = Remote { client, key: job.key.to_string(), verb, bar, print: &mut shell.print };
    let reader = BufReader::with_capacity(BUFFER, input.reader);
    let summary = csv::transform(&plan, reader, output.writer(), &mut worker).await;
    worker.bar.finish_and_clear();
    let summary = summary?;
    output.commit().await?;
    report(verb, summary, stdout, &mut shell.print)
}

fn report(verb: Verb, summary: Summary, stdout: bool, print: &mut Printer) -> Result<(), Failure> {
    let Summary { rows, cells, failed } = summary;
    if !stdout {
        let value = json!({ "rows": rows, "cells": cells, "failed": failed });
        print.report(&format!("{} {} cells in {rows} rows", verb.past(), cells - failed), &value)?;
    }
    if failed > 0 { Err(Failure::Partial { failed, total: cells }) } else { Ok(()) }
}

/// Cells go to the daemon in batches.
struct Remote<'a> {
    client: Client,
    key: String,
    verb: Verb,
    bar: ProgressBar,
    print: &'a mut Printer,
}

impl csv::Worker for Remote<'_> {
    async fn work(&mut self, cells: Vec<Cell>) -> Result<Vec<Outcome>, Failure> {
        let mut items = Vec::with_capacity(cells.len());
        // A cell that is no ciphertext fails here; the others go on.
        let refused: Vec<Option<Failure>> =
            cells.into_iter().map(|cell| self.item(cell).map(|item| items.push(item)).err()).collect();
        let mut answers = Vec::with_capacity(items.len());
        for batch in batches(items) {
            answers.extend(self.call(batch).await?);
        }
        let mut answers = answers.into_iter();
        let outcome = |refused: Option<Failure>| match refused {
            Some(failure) => Err(failure),
            None => answers.next().unwrap_or_else(|| Err(Error::protocol())).map_err(Failure::Daemon),
        };
        Ok(refused.into_iter().map(outcome).collect())
    }

    fn advance(&mut self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn failed(&mut self, failure: Failure) {
        self.bar.suspend(|| self.print.failure(&failure));
    }
}

impl Remote<'_> {
    fn item(&self, Cell { value, context }: Cell) -> Result<Item, Failure> {
        let data = if self.verb == Verb::Encrypt { value } else { text::decode(&value)? };
        Ok(Item { data: data.into(), context })
    }

    /// One outcome for each item: what stands in the cell afterwards. A daemon that went away is
    /// no fault of a cell: then there is no outcome at all.
    async fn call(&self, items: Vec<Item>) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
        let outcomes = self.outcomes(items).await?;
        let mut errors = outcomes.iter().filter_map(|outcome| outcome.as_ref().err());
        match errors.find(|error| Exit::of(error) == Exit::Unavailable) {
            Some(away) => Err(away.clone()),
            None => Ok(outcomes),
        }
    }

    async fn outcomes(&self, items: Vec<Item>) -> Result<Vec<Result<Vec<u8>, Error>>, Error> {
        let (client, key) = (&self.client, self.key.as_str());
        let sealed = |result: Result<Bytes, Error>| result.map(|bytes| text::encode(&bytes).into_bytes());
        match self.verb {
            Verb::Encrypt => Ok(client.batch_encrypt(key, items).await?.into_iter().map(sealed).collect()),
            Verb::Decrypt => {
                let opened = client.batch_decrypt(key, items).await?.into_iter();
                Ok(opened.map(|result| result.map(|plaintext| plaintext.expose().to_vec())).collect())
            }
            Verb::ReEncrypt => {
                let calls = items.into_iter().map(|item| async move {
                    let moved = client.re_encrypt(key, item.data, &item.context).await;
                    sealed(moved.map(|moved| moved.ciphertext))
                });
                Ok(futures_util::stream::iter(calls).buffered(IN_FLIGHT).collect().await)
            }
        }
    }
}

/// Cuts items into batches that the daemon takes.
fn batches(items: Vec<Item>) -> Vec<Vec<Item>> {
    let mut batches: Vec<Vec<Item>> = Vec::new();
    let mut bytes = 0;
    for item in items {
        let size =
            item.data.len() + item.context.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        bytes += size;
        match batches.last_mut() {
            Some(batch) if batch.len() < BATCH_ITEMS && bytes <= BATCH_BYTES => batch.push(item),
            _ => {
                bytes = size;
                batches.push(vec![item]);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_bounded_by_items_and_bytes() {
        let item = |size: usize| Item { data: vec![0; size].into(), context: Default::default() };
        let sizes = |items: Vec<Item>| batches(items).iter().map(Vec::len).collect::<Vec<_>>();
        assert_eq!(sizes((0..2500).map(|_| item(10)).collect()), [1000, 1000, 500]);
        assert_eq!(sizes((0..7).map(|_| item(1 << 20)).collect()), [3, 3, 1]);
        assert_eq!(sizes(vec![item(5 << 20), item(1)]), [1, 1]);
        assert!(sizes(vec![]).is_empty());
    }
}
