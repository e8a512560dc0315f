//! `encrypt`, `decrypt` and `re-encrypt`: one field, a file, or columns of a CSV file.

use std::path::PathBuf;

use clap::Args;

mod field;
mod file;
pub(crate) mod input;
mod table;

use super::exit::Exit;
use super::failure::Failure;
use super::{Shell, context, name};
use crate::id::KeyName;

/// `keyward encrypt`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  printf 0912345678 | keyward encrypt acme/customer-pii --context table=customers
  keyward encrypt acme/customer-pii --in scan.pdf --out scan.pdf.kw
  keyward encrypt acme/customer-pii --csv --columns phone,id_number --context-from id \\
      --in customers.csv --out customers.enc.csv")]
pub(crate) struct Encrypt {
    #[command(flatten)]
    job: Job,
}

/// `keyward decrypt`
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  keyward decrypt acme/customer-pii kw1:S1cBAc… --context table=customers
  keyward decrypt acme/customer-pii --in scan.pdf.kw --out scan.pdf
  keyward decrypt acme/customer-pii --csv --columns phone,id_number --context-from id \\
      --in customers.enc.csv --out customers.csv")]
pub(crate) struct Decrypt {
    #[command(flatten)]
    job: Job,
    /// Leave a cell that is refused as it is, report it, and go on (exit code 7)
    #[arg(long, requires = "csv", help_heading = "CSV")]
    keep_going: bool,
}

/// `keyward re-encrypt`
#[derive(Debug, Args)]
#[command(after_help = "The plaintext never leaves the daemon.

Examples:
  keyward re-encrypt acme/customer-pii kw1:S1cBAc… --context table=customers
  keyward re-encrypt acme/customer-pii --csv --columns phone,id_number --context-from id \\
      --in customers.enc.csv --out customers.new.csv")]
pub(crate) struct ReEncrypt {
    #[command(flatten)]
    job: Job,
    /// Leave a cell that is refused as it is, report it, and go on (exit code 7)
    #[arg(long, requires = "csv", help_heading = "CSV")]
    keep_going: bool,
}

/// What to work on.
#[derive(Debug, Args)]
struct Job {
    /// The key, for example acme/customer-pii
    #[arg(value_parser = name::key)]
    key: KeyName,
    /// The field; else stdin, where a plaintext belongs: everybody can see arguments
    #[arg(conflicts_with_all = ["input", "output", "csv"])]
    text: Option<String>,
    /// What the data is about; the same is needed to decrypt
    #[arg(long, value_name = "KEY=VALUE", value_parser = context::pair)]
    context: Vec<(String, String)>,
    /// Ciphertext as raw bytes instead of kw1: text
    #[arg(long, conflicts_with_all = ["input", "output", "csv"])]
    raw: bool,
    /// File to read, '-' for stdin; a file of any size goes through in constant memory
    #[arg(long = "in", value_name = "FILE", help_heading = "Files")]
    input: Option<PathBuf>,
    /// File to write, '-' for stdout; it appears only when it is whole
    #[arg(long = "out", value_name = "FILE", help_heading = "Files")]
    output: Option<PathBuf>,
    /// Replace the file if it exists
    #[arg(long, requires = "output", help_heading = "Files")]
    force: bool,
    #[command(flatten)]
    csv: Csv,
}

#[derive(Debug, Args)]
struct Csv {
    /// Work on columns of a CSV file with a header; the rest stays as it is, byte by byte
    #[arg(long, requires = "columns", help_heading = "CSV")]
    csv: bool,
    /// Columns to work on; each cell is bound to `column=NAME`
    #[arg(long, requires = "csv", value_name = "NAMES", value_delimiter = ',', help_heading = "CSV")]
    columns: Vec<String>,
    /// Bind each cell to the value of this column in its row, for example `id`
    #[arg(long, requires = "csv", value_name = "NAMES", value_delimiter = ',', help_heading = "CSV")]
    context_from: Vec<String>,
    /// Between fields: , ; | or tab
    #[arg(long, requires = "csv", value_name = "CHAR", value_parser = delimiter, default_value = ",",
          help_heading = "CSV")]
    delimiter: u8,
}

fn delimiter(text: &str) -> Result<u8, &'static str> {
    match text {
        "," | ";" | "|" | "\t" => Ok(text.as_bytes()[0]),
        "tab" => Ok(b'\t'),
        _ => Err("expected , ; | or tab"),
    }
}

/// What to do with the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Encrypt,
    Decrypt,
    ReEncrypt,
}

impl Verb {
    fn past(self) -> &'static str {
        match self {
            Self::Encrypt => "encrypted",
            Self::Decrypt => "decrypted",
            Self::ReEncrypt => "re-encrypted",
        }
    }
}

impl Encrypt {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        self.job.run(Verb::Encrypt, false, shell).await
    }
}

impl Decrypt {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        self.job.run(Verb::Decrypt, self.keep_going, shell).await
    }
}

impl ReEncrypt {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        self.job.run(Verb::ReEncrypt, self.keep_going, shell).await
    }
}

impl Job {
    async fn run(self, verb: Verb, keep_going: bool, shell: &mut Shell) -> Result<Exit, Failure> {
        if self.csv.csv {
            table::run(verb, self, keep_going, shell).await?;
        } else if self.input.is_some() || self.output.is_some() {
            file::run(verb, self, shell).await?;
        } else {
            field::run(verb, self, shell).await?;
        }
        Ok(Exit::Ok)
    }
}
