//! The rounds: every measurement once in each, close together in time, so that
//! what disturbs the machine disturbs both sides of a ratio.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::Outcome;
use super::figures::{Figures, median};
use super::load::{Load, Work};
use super::report;
use super::servers::Servers;

/// How much is measured.
pub(crate) struct Plan {
    rounds: usize,
    warm_up: f64,
    seconds: f64,
    /// Bytes of the file.
    pub(crate) file: usize,
    /// How often the file is encrypted.
    pub(crate) files: usize,
}

/// What `make bench` does.
pub(crate) const FULL: Plan = Plan { rounds: 5, warm_up: 1.0, seconds: 4.0, file: 1 << 30, files: 5 };

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Name {
    EncryptEcho,
    EncryptKeyward,
    EncryptAuditInMemory,
    DecryptEcho,
    DecryptKeyward,
    DecryptAuditInMemory,
    Session512,
    Session64,
    EncryptSmall,
    BatchSmall,
}

/// The figures of each round.
pub(crate) type Rounds = BTreeMap<Name, Vec<Figures>>;

/// Measures round after round; every second one goes backwards.
pub(crate) fn run(plan: &Plan, servers: &Servers) -> Outcome<Rounds> {
    let mut steps = steps(plan, servers);
    let mut rounds = Rounds::new();
    for number in 1..=plan.rounds {
        for (name, load) in &steps {
            rounds.entry(*name).or_default().push(load.spawn()?);
        }
        steps.reverse();
        report::say(&format!("round {number} of {}", plan.rounds))?;
    }
    Ok(rounds)
}

fn steps(plan: &Plan, servers: &Servers) -> Vec<(Name, Load)> {
    let [echo, disk, memory] =
        [servers.echo.socket(), servers.disk.world.socket(), servers.memory.world.socket()];
    let load = |work, socket: &PathBuf| Load {
        work,
        socket: socket.clone(),
        in_flight: 64,
        connections: 4,
        bytes: 256,
        warm_up: plan.warm_up,
        seconds: plan.seconds,
    };
    vec![
        (Name::EncryptEcho, load(Work::Encrypt, &echo)),
        (Name::EncryptKeyward, load(Work::Encrypt, &disk)),
        (Name::EncryptAuditInMemory, load(Work::Encrypt, &memory)),
        (Name::DecryptEcho, load(Work::Decrypt, &echo)),
        (Name::DecryptKeyward, load(Work::Decrypt, &disk)),
        (Name::DecryptAuditInMemory, load(Work::Decrypt, &memory)),
        (Name::Session512, Load { in_flight: 512, ..load(Work::Session, &disk) }),
        (Name::Session64, load(Work::Session, &disk)),
        (Name::EncryptSmall, Load { bytes: 64, ..load(Work::Encrypt, &disk) }),
        (Name::BatchSmall, Load { bytes: 64, ..load(Work::Batch, &disk) }),
    ]
}

/// The median over the rounds of `this` divided by `that`.
pub(crate) fn ratio(rounds: &Rounds, this: Name, that: Name) -> f64 {
    let of = |name| rounds.get(&name).into_iter().flatten().map(|figures| figures.per_second);
    median(of(this).zip(of(that)).map(|(this, that)| this / that))
}
