//! Measures Keyward against an empty service and against itself
//! (docs/performance.md): `bench` writes `bench/results.json` and
//! `bench/summary.json` in the target folder.
//!
//! Whatever makes load is a process of its own: `bench load WORK --socket FILE`.
//!
//! `bench --quick --against FOLDER` is the ruler for a change: the cost of calls in turns with an older version, in
//! `bench/quick.json`.

use std::error::Error;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

mod aead;
mod figures;
mod fill;
mod hsm;
mod load;
mod login;
mod machine;
mod quick;
mod report;
mod rounds;
mod servers;
mod single;
mod tenants;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Measures Keyward; the results are ratios within one run
#[derive(Parser)]
#[command(after_help = "Example: bench --quick --against ../older/target/release")]
struct Arguments {
    /// Measures the cost of calls, starts and new keys in under two minutes
    #[arg(long)]
    quick: bool,
    /// The same in turns with an older version: a folder with its keyward, keywardd and bench; without --quick
    /// in longer rounds and with a million tenants
    #[arg(long, value_name = "FOLDER")]
    against: Option<PathBuf>,
    /// Where servers keep their data and results are written [default: bench, beside the folder of this program]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Makes one kind of load and prints what it saw as JSON
    Load(load::Load),
    /// Measures HSM calls with and without a process of their own and prints the figures as JSON
    Isolation {
        /// Folder with the token
        folder: PathBuf,
    },
    /// Fills the store of a configuration with tenants that have a key each
    Fill {
        /// The configuration of a daemon that does not run
        config: PathBuf,
        /// How many
        tenants: usize,
        /// Versions of the key of one further tenant
        versions: u32,
    },
    /// Measures a store with very many tenants and prints the figures as JSON
    Tenants,
}

fn main() -> Outcome<()> {
    let arguments = Arguments::parse();
    // One thread: the client must not compete with the server for both cores.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match &arguments.command {
        Some(Command::Load(load)) => runtime.block_on(load::run(load)),
        Some(Command::Isolation { folder }) => {
            let found = runtime.block_on(hsm::measure(folder))?;
            report::say(&serde_json::to_string(&found)?)
        }
        Some(Command::Fill { config, tenants, versions }) => {
            runtime.block_on(fill::fill(config, *tenants, *versions))
        }
        Some(Command::Tenants) => {
            let found = runtime.block_on(tenants::run(scale(&arguments), &folder(&arguments)?))?;
            report::say(&serde_json::to_string_pretty(&found)?)
        }
        None if arguments.quick || arguments.against.is_some() => {
            let scale = if arguments.quick { &quick::QUICK } else { &quick::FULL };
            let folder = folder(&arguments)?;
            runtime.block_on(quick::run(scale, &folder, arguments.against.as_deref())).map(drop)
        }
        None => runtime.block_on(measure(&arguments)),
    }
}

async fn measure(arguments: &Arguments) -> Outcome<()> {
    let folder = folder(arguments)?;
    let machine = machine::facts(&folder)?;
    report::say(&format!("{}", machine))?;
    let servers = servers::Servers::start(&folder).await?;
    let rounds = rounds::run(&rounds::FULL, &servers)?;
    let single = single::run(&rounds::FULL, servers).await?;
    let isolation = hsm::run()?;
    let logins = login::run(&folder).await?;
    let tenants = tenants::run(scale(arguments), &folder).await?;
    report::write(&folder, &machine, &report::Measured { rounds, single, isolation, logins, tenants })
}

fn scale(arguments: &Arguments) -> &'static tenants::Scale {
    if arguments.quick { &tenants::FEW } else { &tenants::MILLION }
}

/// Where servers keep their data; it is there then.
fn folder(arguments: &Arguments) -> Outcome<PathBuf> {
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => {
            let program = std::env::current_exe()?;
            let target =
                program.ancestors().nth(2).ok_or("this program is in no target folder: give --folder")?;
            target.join("bench")
        }
    };
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}
