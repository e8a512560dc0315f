//! The results: a table for people, two files for programs.

use std::io::Write;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::Outcome;
use super::figures::{Figures, median};
use super::hsm::Isolation;
use super::login::Logins;
use super::machine::Machine;
use super::rounds::{Name, Rounds, ratio};
use super::single::Single;
use super::tenants::Tenants;

/// Everything that was measured.
#[derive(Serialize)]
pub(crate) struct Measured {
    pub(crate) rounds: Rounds,
    pub(crate) single: Single,
    pub(crate) isolation: Isolation,
    pub(crate) logins: Logins,
    pub(crate) tenants: Tenants,
}

/// What is promised for a ratio: at least, or at most.
enum Target {
    AtLeast(f64),
    AtMost(f64),
    None,
}

use Target::{AtLeast, AtMost};

/// A line on the standard output.
pub(crate) fn say(line: &str) -> Outcome<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Prints everything and writes `results.json` and `summary.json`.
pub(crate) fn write(folder: &Path, machine: &Machine, measured: &Measured) -> Outcome<()> {
    let keys = keys(machine, measured);
    say(&format!("\n{}\n\n{}\n", absolute(measured), ratios(&keys)))?;
    let summary: Map<String, Value> =
        keys.into_iter().map(|(key, value, _)| (key.into(), value.into())).collect();
    let results = json!({ "machine": machine, "summary": summary, "measured": measured });
    save(&folder.join("results.json"), &results)?;
    save(&folder.join("summary.json"), &summary.into())
}

fn keys(machine: &Machine, measured: &Measured) -> Vec<(&'static str, f64, Target)> {
    use Name::{
        BatchSmall, DecryptAuditInMemory, DecryptEcho, DecryptKeyward, EncryptAuditInMemory, EncryptEcho,
        EncryptKeyward, EncryptSmall, Session64, Session512,
    };
    let Measured { rounds, single, isolation, logins, tenants } = measured;
    let ratio = |this, that| ratio(rounds, this, that);
    vec![
        ("unary_encrypt_vs_echo", ratio(EncryptKeyward, EncryptEcho), AtLeast(0.8)),
        ("unary_decrypt_vs_echo", ratio(DecryptKeyward, DecryptEcho), AtLeast(0.8)),
        ("unary_encrypt_vs_echo_no_audit", ratio(EncryptAuditInMemory, EncryptEcho), Target::None),
        ("unary_decrypt_vs_echo_no_audit", ratio(DecryptAuditInMemory, DecryptEcho), Target::None),
        ("session_vs_unary", ratio(Session512, EncryptKeyward), AtLeast(4.0)),
        ("session_vs_unary_64", ratio(Session64, EncryptKeyward), Target::None),
        ("disk_sync_us", machine.disk_sync_us, Target::None),
        ("batch_items_vs_unary", ratio(BatchSmall, EncryptSmall), AtLeast(10.0)),
        ("stream_vs_aead", single.stream_vs_aead(), AtLeast(0.5)),
        ("stream_memory_growth_mib", single.memory_growth_bytes as f64 / f64::from(1 << 20), AtMost(64.0)),
        ("hsm_ops_per_million_encrypts", single.hsm_operations_per_million(), AtMost(10.0)),
        ("hsm_isolation_overhead", isolation.lists(), AtLeast(0.8)),
        ("hsm_isolation_single_calls", isolation.single_calls(), Target::None),
        ("login_begin_known_vs_unknown", logins.begin_tells(), AtMost(1.05)),
        ("login_failure_known_vs_unknown", logins.failure_tells(), AtMost(1.05)),
        ("rewrap_vs_raw_hsm", tenants.rewrap_vs_raw(), AtLeast(0.8)),
        ("cold_tenant_hsm_ops", tenants.cold_operations, AtMost(3.0)),
        ("million_tenants_start_s", tenants.start_s(), AtMost(2.0)),
        ("million_tenants_rss_mib", tenants.rss_mib(), AtMost(512.0)),
    ]
}

fn absolute(Measured { rounds, single, tenants, .. }: &Measured) -> Table {
    let mut table = table(["median of the rounds", "per second", "p50 us", "p99 us"]);
    for (name, figures) in rounds {
        let median = |of: fn(&Figures) -> f64| format!("{:.0}", median(figures.iter().map(of)));
        table.add_row([
            words(*name).to_owned(),
            median(|figures| figures.per_second),
            median(|figures| figures.p50_us),
            median(|figures| figures.p99_us),
        ]);
    }
    for (name, speeds) in
        [("encrypted files, MiB", &single.files), ("AES-256-GCM on one core, MiB", &single.aead)]
    {
        let speed = median(speeds.iter().map(|speed| speed / f64::from(1 << 20)));
        table.add_row([name.to_owned(), format!("{speed:.0}"), String::new(), String::new()]);
    }
    for (name, rates) in [
        ("keys moved by a rotation", &tenants.moved),
        ("keys opened and sealed by the module alone", &tenants.raw),
    ] {
        let rate = median(rates.iter().copied());
        table.add_row([name.to_owned(), format!("{rate:.0}"), String::new(), String::new()]);
    }
    table
}

fn words(name: Name) -> &'static str {
    match name {
        Name::EncryptEcho => "echo, as encrypt of 256 B",
        Name::EncryptKeyward => "encrypt 256 B",
        Name::EncryptAuditInMemory => "encrypt 256 B, audit log in memory",
        Name::DecryptEcho => "echo, as decrypt of 256 B",
        Name::DecryptKeyward => "decrypt 256 B",
        Name::DecryptAuditInMemory => "decrypt 256 B, audit log in memory",
        Name::Session512 => "session, encrypt 256 B, 512 in flight",
        Name::Session64 => "session, encrypt 256 B, 64 in flight",
        Name::EncryptSmall => "encrypt 64 B",
        Name::BatchSmall => "batches of 100, encrypt 64 B",
    }
}

fn ratios(keys: &[(&'static str, f64, Target)]) -> Table {
    let mut table = table(["key", "measured", "target", ""]);
    for (key, value, target) in keys {
        let (target, verdict) = match target {
            AtLeast(least) => (format!(">= {least}"), if value >= least { "met" } else { "MISSED" }),
            AtMost(most) => (format!("<= {most}"), if value <= most { "met" } else { "MISSED" }),
            Target::None => (String::new(), ""),
        };
        table.add_row([(*key).to_owned(), format!("{value:.2}"), target, verdict.to_owned()]);
    }
    table
}

fn table(header: [&str; 4]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
        .column_iter_mut()
        .skip(1)
        .take(2)
        .for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    table
}

/// Writes a file for programs, and says where it is.
pub(crate) fn save(path: &Path, value: &Value) -> Outcome<()> {
    std::fs::write(path, serde_json::to_string_pretty(value)? + "\n")?;
    say(&format!("wrote {}", path.display()))
}
