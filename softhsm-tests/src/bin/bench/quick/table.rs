//! The comparison: a table for people, `quick.json` for programs.

use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde_json::json;

use super::super::Outcome;
use super::super::machine::Machine;
use super::super::report::{save, say};
use super::Measured;
use super::pairs::{Row, Spread, Verdict};

/// Prints the comparison and writes `quick.json` into `folder`.
///
/// # Errors
/// When either cannot be written.
pub(crate) fn write(folder: &Path, machine: &Machine, measured: &Measured) -> Outcome<()> {
    say(&format!("\n{}\n", table(&measured.rows)))?;
    if let Some(refusal) = &measured.no_instructions {
        say(&format!("no instructions, CPU time alone: this machine does not count them ({refusal})"))?;
    }
    save(&folder.join("quick.json"), &json!({ "machine": machine, "measured": measured }))
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header([
        "",
        "",
        "this",
        "older",
        "this/older",
        "min..max",
        "control",
        "",
    ]);
    table
        .column_iter_mut()
        .skip(2)
        .take(5)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    for row in rows {
        let reach = |spread: Spread| format!("{:.3}..{:.3}", spread.min, spread.max);
        table.add_row([
            row.operation.to_owned(),
            row.figure.to_owned(),
            number(row.this),
            row.older.map(number).unwrap_or_default(),
            row.ratio.map(|ratio| format!("{:.3}", ratio.median)).unwrap_or_default(),
            row.ratio.map(reach).unwrap_or_default(),
            row.control.map(reach).unwrap_or_default(),
            row.verdict.map(words).unwrap_or_default().to_owned(),
        ]);
    }
    table
}

fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::NotDistinguishable => "not distinguishable",
        Verdict::Less => "LESS",
        Verdict::More => "MORE",
    }
}

/// Three digits that count, or all before the point.
fn number(number: f64) -> String {
    let decimals = match number {
        number if number >= 100.0 => 0,
        number if number >= 10.0 => 1,
        _ => 2,
    };
    format!("{number:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        assert_eq!([12_345.6, 99.94, 3.149, 0.0].map(number), ["12346", "99.9", "3.15", "0.00"]);
    }
}
