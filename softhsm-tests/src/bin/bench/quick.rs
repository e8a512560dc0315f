//! The ruler for a change: what calls, starts and new keys cost, in turns with an older version, in under two
//! minutes. The cost is CPU time and instructions of the daemon and its HSM process, which a busy
//! machine changes far less than time by the clock.

use std::path::Path;

use keyward::rpc::proto::CreateKeyRequest;
use serde::Serialize;

use super::load::{Load, Work};
use super::report::say;
use super::{Outcome, machine, tenants};
use cost::{Account, Used};
use pairs::{Role, Row, Series};
use side::{Running, Side};

mod cost;
mod pairs;
mod side;
mod table;

/// How much is measured.
pub(crate) struct Scale {
    rounds: usize,
    /// Seconds of each piece of load.
    seconds: f64,
    tenants: usize,
    /// Tenants that are used first after each start.
    cold: usize,
    /// Keys that are made in each round.
    created: usize,
}

/// What `bench --quick` does.
pub(crate) const QUICK: Scale = Scale { rounds: 7, seconds: 0.25, tenants: 20_000, cold: 64, created: 32 };

/// What `bench --against FOLDER` does without it.
pub(crate) const FULL: Scale =
    Scale { rounds: 9, seconds: 2.0, tenants: 1_000_000, cold: 1_000, created: 200 };

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) tenants: usize,
    /// Why instructions were not counted.
    pub(crate) no_instructions: Option<String>,
    pub(crate) rows: Vec<Row>,
}

/// Measures with data in `folder`; prints a table and writes `quick.json`.
///
/// # Errors
/// When a program of either version is missing or fails.
pub(crate) async fn run(scale: &Scale, folder: &Path, against: Option<&Path>) -> Outcome<Measured> {
    let machine = machine::facts(folder)?;
    say(&machine.to_string())?;
    let (sides, tenants) = side::all(folder, scale.tenants, against).await?;
    say(&format!("{} worlds with {tenants} tenants each", sides.len()))?;
    let mut series = Series::default();
    let mut no_instructions = None;
    for round in 0..scale.rounds {
        let mut running = Vec::new();
        for side in in_turns(&sides, round) {
            running.push(start(side, &mut series).await?);
        }
        if tenants > 0 {
            cold_tenants(scale, tenants, round, &running, &mut series).await?;
        }
        calls(scale, &running, &mut series)?;
        create_keys(scale, round, &running, &mut series).await?;
        no_instructions = running.iter().find_map(|one| one.account.refusal()).map(str::to_owned);
        stop(running).await?;
        say(&format!("round {} of {}", round + 1, scale.rounds))?;
    }
    let measured = Measured { tenants, no_instructions, rows: series.rows() };
    table::write(folder, &machine, &measured)?;
    Ok(measured)
}

/// Every second round goes backwards, so that nobody is always the first.
fn in_turns<T>(sides: &[T], round: usize) -> Vec<&T> {
    let mut turns: Vec<&T> = sides.iter().collect();
    if !round.is_multiple_of(2) {
        turns.reverse();
    }
    turns
}

/// Starts a daemon, a new one in each round: where its memory happens to lie is chance, and must differ
/// between the pairs of the control as much as between the others.
async fn start(side: &Side, series: &mut Series) -> Outcome<Running> {
    const START: &str = "start";
    let (daemon, seconds) = tenants::start(&side.world).await?;
    let account = Account::of(&daemon).await?;
    let used = account.so_far()?;
    let ms = |ns: u64| ns as f64 / 1e6;
    series.note(START, "ms until the vault is open", side.role, seconds * 1e3);
    series.note(START, "CPU ms", side.role, ms(used.both().cpu_ns));
    series.note(START, "CPU ms of the HSM process", side.role, ms(used.hsm.cpu_ns));
    Ok(Running { role: side.role, daemon, account })
}

async fn stop(running: Vec<Running>) -> Outcome<()> {
    for Running { daemon, .. } in running {
        let status = daemon.stop().await;
        if !status.success() {
            return Err(format!("a daemon did not stop well: {status}").into());
        }
    }
    Ok(())
}

async fn cold_tenants(
    scale: &Scale,
    tenants: usize,
    round: usize,
    running: &[Running],
    series: &mut Series,
) -> Outcome<()> {
    let numbers = round * scale.cold..(round + 1) * scale.cold;
    for one in running {
        let before = one.account.so_far()?;
        tenants::encrypt(&one.daemon, tenants, numbers.clone()).await?;
        let used = one.account.so_far()?.since(before);
        note_with_hsm(series, "cold tenant, encrypt 256 B", one.role, used, scale.cold as u64);
    }
    Ok(())
}

fn calls(scale: &Scale, running: &[Running], series: &mut Series) -> Outcome<()> {
    let loads = loads(scale);
    // Unmeasured: the key is opened, and the code is in the processor's caches.
    for one in running {
        loads[0].1.at(one.daemon.socket()).spawn()?;
    }
    for (operation, load) in &loads {
        for one in running {
            call(operation, load, one, series)?;
        }
    }
    Ok(())
}

fn loads(scale: &Scale) -> [(&'static str, Load); 8] {
    let load = |work, in_flight: usize, bytes| Load {
        work,
        // Each side's own takes its place.
        socket: Default::default(),
        in_flight,
        connections: in_flight.min(4),
        bytes,
        warm_up: 0.0,
        seconds: scale.seconds,
    };
    [
        ("encrypt 256 B, 1 in flight", load(Work::Encrypt, 1, 256)),
        ("encrypt 256 B, 8 in flight", load(Work::Encrypt, 8, 256)),
        ("encrypt 256 B, 64 in flight", load(Work::Encrypt, 64, 256)),
        ("decrypt 256 B, 1 in flight", load(Work::Decrypt, 1, 256)),
        ("decrypt 256 B, 8 in flight", load(Work::Decrypt, 8, 256)),
        ("decrypt 256 B, 64 in flight", load(Work::Decrypt, 64, 256)),
        ("batch of 100, an item of 64 B", load(Work::Batch, 8, 64)),
        ("session, 512 in flight, 256 B", load(Work::Session, 512, 256)),
    ]
}

/// Everything that the daemon did for this load, with its connections, over everything that it answered.
fn call(operation: &'static str, load: &Load, one: &Running, series: &mut Series) -> Outcome<()> {
    let before = one.account.so_far()?;
    let figures = load.at(one.daemon.socket()).spawn()?;
    let used = one.account.so_far()?.since(before);
    if figures.answered == 0 {
        return Err(format!("{operation}: nothing was answered").into());
    }
    note(series, operation, one.role, used, figures.answered);
    series.note(operation, "p50 us", one.role, figures.p50_us);
    Ok(())
}

async fn create_keys(scale: &Scale, round: usize, running: &[Running], series: &mut Series) -> Outcome<()> {
    for one in running {
        let mut keys = one.daemon.client().await.keys();
        let before = one.account.so_far()?;
        for number in 0..scale.created {
            let (parent, key_id) = ("tenants/acme".to_owned(), format!("bench-{round}-{number}"));
            keys.create_key(CreateKeyRequest { parent, key_id, data_class: 0 }).await?;
        }
        let used = one.account.so_far()?.since(before);
        note_with_hsm(series, "create a key", one.role, used, scale.created as u64);
    }
    Ok(())
}

fn note(series: &mut Series, operation: &'static str, role: Role, used: Used, items: u64) {
    let cost = used.both();
    series.note(operation, "CPU us", role, cost.cpu_ns as f64 / 1e3 / items as f64);
    if let Some(instructions) = cost.instructions {
        series.note(operation, "instructions", role, instructions as f64 / items as f64);
    }
}

/// For operations that need the HSM each time; for the others its share is nothing but noise.
fn note_with_hsm(series: &mut Series, operation: &'static str, role: Role, used: Used, items: u64) {
    note(series, operation, role, used, items);
    let hsm_us = used.hsm.cpu_ns as f64 / 1e3 / items as f64;
    series.note(operation, "CPU us of the HSM process", role, hsm_us);
}

#[cfg(test)]
mod tests {
    use keyward_softhsm_tests::binary;
    use tempfile::TempDir;

    use super::*;

    #[test]
    fn every_second_round_goes_backwards() {
        assert_eq!(in_turns(&[1, 2, 3], 0), [&1, &2, &3]);
        assert_eq!(in_turns(&[1, 2, 3], 1), [&3, &2, &1]);
    }

    /// Everything once, against the same binaries, so shortly that no figure means anything.
    #[tokio::test]
    async fn smoke() {
        let scale = Scale { rounds: 2, seconds: 0.02, tenants: 40, cold: 2, created: 1 };
        let folder = TempDir::with_prefix_in("kw-quick-", "/dev/shm").unwrap();
        let older = binary("keywardd").parent().unwrap().to_owned();
        let measured = run(&scale, folder.path(), Some(&older)).await.unwrap();
        assert_eq!(measured.tenants, 40);
        let of = |figure: &str| measured.rows.iter().filter(|row| row.figure == figure).count();
        assert_eq!((of("CPU us"), of("p50 us"), of("ms until the vault is open")), (10, 8, 1));
        assert_eq!(of("instructions"), if measured.no_instructions.is_some() { 0 } else { 10 });
        for row in &measured.rows {
            assert_eq!(row.rounds.each_ref().map(Vec::len), [2; 3], "{row:?}");
            assert!(row.rounds.iter().flatten().all(|figure| figure.is_finite()), "{row:?}");
            // So short a piece of load may end before its first answer, and the HSM process may rest.
            let may_be_nothing = row.figure == "p50 us" || row.figure.contains("HSM");
            assert!(may_be_nothing || row.this > 0.0, "{row:?}");
        }
        let written = std::fs::read(folder.path().join("quick.json")).unwrap();
        let written: serde_json::Value = serde_json::from_slice(&written).unwrap();
        assert_eq!(written["measured"]["rows"][0]["operation"], "start");
        assert_eq!(written["measured"]["rows"][0]["verdict"], "not-distinguishable");
    }
}
