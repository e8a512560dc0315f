//! `keyward certificate`: what was destroyed, verified and shown offline.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::Shell;
use super::audit::trusted;
use super::document;
use super::exit::Exit;
use super::failure::Failure;
use super::name;
use super::output::Output;
use super::view::{Fields, View, date};
use crate::audit::checkpoint::NoteKey;
use crate::ops::attest::{AttestError, Document, Verified};
use crate::ops::certificate::{About, Authority, DestructionCertificate};
use crate::rpc::proto::GetDestructionCertificateRequest;

mod page;

/// `keyward certificate`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Fetch the certificate of a destruction; what is destroyed is looked for once more
    #[command(after_help = "Example:\n  keyward certificate get acme/customer-pii --out acme-pii.json")]
    Get {
        /// What was destroyed: `acme`, `acme/customer-pii`, `acme/customer-pii/3` or a full name
        resource: String,
        /// File to write it to
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Replace the file
        #[arg(long)]
        force: bool,
    },
    /// Verify a certificate: its signature, its record, and that the record is in the log
    #[command(after_help = "Example:\n  keyward certificate verify acme-pii.json --key audit-keys.txt")]
    Verify(Source),
    /// Verify a certificate and print it
    #[command(
        after_help = "Example:\n  keyward certificate show acme-pii.json --key audit-keys.txt --html acme-pii.html"
    )]
    Show {
        #[command(flatten)]
        source: Source,
        /// Write one page of HTML that prints well, instead of text
        #[arg(long, value_name = "FILE")]
        html: Option<PathBuf>,
        /// Replace the page when it exists
        #[arg(long)]
        force: bool,
    },
}

/// A certificate, and by which keys it is believed.
#[derive(Debug, Args)]
pub(crate) struct Source {
    /// The certificate
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Trusted keys, as `keyward audit keys` prints them
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

/// A certificate that verified.
struct Proved {
    certificate: DestructionCertificate,
    verified: Verified,
    /// Whether its key is one that the caller trusts, and not just the one that it names.
    trusted: bool,
}

impl Command {
    pub(crate) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Get { resource, out, force } => {
                let client = shell.client().await?;
                let request = GetDestructionCertificateRequest { name: name::any(&resource) };
                let document = client.call(client.audit().get_destruction_certificate(request)).await?;
                write(&out, &document.json, force).await?;
                let note = format!("wrote {}", out.display());
                shell.print.report(&note, &json!({ "file": out.display().to_string() }))?;
            }
            Self::Verify(source) => {
                let proved = source.verify(shell)?;
                shell.print.view(&Verdict(&proved))?;
                return Ok(proved.exit(shell));
            }
            Self::Show { source, html: None, .. } => {
                let proved = source.verify(shell)?;
                shell.print.view(&proved)?;
                return Ok(proved.exit(shell));
            }
            Self::Show { source, html: Some(path), force } => {
                let page = page::render(&source.verify(shell)?);
                write(&path, &page, force).await?;
                let note = format!("wrote {}", path.display());
                shell.print.report(&note, &json!({ "file": path.display().to_string() }))?;
            }
        }
        Ok(Exit::Ok)
    }
}

impl Proved {
    fn all_checks_passed(&self) -> bool {
        let checks = &self.certificate.checks;
        !checks.is_empty() && checks.iter().all(|check| check.passed)
    }

    /// A certificate that says itself that something was not found as it should be proves no destruction.
    fn exit(&self, shell: &mut Shell) -> Exit {
        if self.all_checks_passed() {
            return Exit::Ok;
        }
        shell
            .print
            .warn("not every check that the certificate tells of has passed: it proves no destruction");
        Exit::Integrity
    }
}

async fn write(path: &Path, page: &str, force: bool) -> Result<(), Failure> {
    let mut output = Output::open_for_everybody(Some(path), force)?;
    output.writer().write_all(page.as_bytes()).await.map_err(Failure::file("write", path))?;
    output.commit().await
}

impl Source {
    fn verify(&self, shell: &mut Shell) -> Result<Proved, Failure> {
        let text = document::read(&self.file)?;
        let document = Document::parse(&text).map_err(refused)?;
        let keys = match &self.key {
            Some(path) => trusted(path)?,
            None => vec![own_key(&document)?],
        };
        let verified = document.verify(&keys).map_err(refused)?;
        let certificate = DestructionCertificate::of(&verified).map_err(refused)?;
        if self.key.is_none() {
            shell.print.note("the key is the one that the certificate names: give --key to know whose it is");
        }
        Ok(Proved { certificate, verified, trusted: self.key.is_some() })
    }
}

fn own_key(document: &Document) -> Result<NoteKey, Failure> {
    document.key.parse().map_err(|_| refused(AttestError::Malformed("its key is none".into())))
}

fn refused(error: AttestError) -> Failure {
    Failure::Refused { reason: "CERTIFICATE_REFUSED", message: error.to_string() }
}

/// What verifying found, in short.
struct Verdict<'a>(&'a Proved);

impl View for Verdict<'_> {
    fn fields(&self) -> Fields {
        let Proved { certificate, verified, trusted } = self.0;
        vec![
            ("name", json!(certificate.name)),
            ("destroyed", json!(certificate.destroyed)),
            ("record", json!(verified.sequence)),
            ("record_time", date(verified.record.time)),
            ("operation", json!(verified.record.operation)),
            ("log_records", json!(verified.head.size)),
            ("key", json!(verified.key.to_string())),
            ("key_trusted", json!(trusted)),
            ("all_checks_passed", json!(self.0.all_checks_passed())),
        ]
    }
}

impl View for Proved {
    fn fields(&self) -> Fields {
        let certificate = &self.certificate;
        let mut fields = vec![
            ("what", json!(certificate.what.as_str())),
            ("name", json!(certificate.name)),
            ("destroyed", json!(certificate.destroyed)),
            ("authority", json!(authority(&certificate.authority))),
            ("reason", certificate.reason.as_ref().map_or(Value::Null, |reason| json!(reason))),
            ("signers", json!(certificate.signers)),
            ("display_name", about(certificate, |about| about.display_name.as_ref().map(|name| json!(name)))),
            ("data_class", about(certificate, |about| about.data_class.map(|class| json!(class)))),
            ("created", about(certificate, |about| Some(json!(about.created)))),
            ("age_days", about(certificate, |about| Some(json!(about.age_days)))),
            ("gone_from_live_system", json!(certificate.gone_from_live_system)),
            (
                "gone_from_backups",
                certificate.gone_from_backups.as_ref().map_or(Value::Null, |date| json!(date)),
            ),
        ];
        fields.push(("could_bring_back", numbered(&certificate.could_bring_back)));
        let checks: Vec<String> = certificate.checks.iter().map(check_line).collect();
        fields.push(("check", numbered(&checks)));
        let data_keys: Vec<String> = certificate
            .data_keys
            .iter()
            .map(|key| format!("{} {} {}", key.id, key.version, key.fingerprint))
            .collect();
        fields.push(("data_key", numbered(&data_keys)));
        let index_keys = certificate.index_keys.iter();
        let index_keys: Vec<String> =
            index_keys.map(|key| format!("{} {}", key.name, key.fingerprint)).collect();
        fields.push(("index_key", numbered(&index_keys)));
        let keks: Vec<String> =
            certificate.keks.iter().map(|kek| format!("{} {}", kek.name, kek.fingerprint)).collect();
        fields.push(("kek", numbered(&keks)));
        fields.extend(
            Verdict(self).fields().into_iter().filter(|(name, _)| !["name", "destroyed"].contains(name)),
        );
        fields
    }
}

fn about(certificate: &DestructionCertificate, of: impl Fn(&About) -> Option<Value>) -> Value {
    certificate.about.as_ref().and_then(of).unwrap_or(Value::Null)
}

fn check_line(check: &crate::ops::certificate::Check) -> String {
    let verdict = if check.passed { "passed" } else { "FAILED" };
    format!("{verdict}: {}: {}", check.what, check.found)
}

fn numbered(lines: &[String]) -> Value {
    Value::Object((1..).zip(lines).map(|(number, line)| (number.to_string(), json!(line))).collect())
}

/// On whose word, in words.
fn authority(authority: &Authority) -> String {
    match authority {
        Authority::Ceremony(id) => format!("ceremony {id}"),
        Authority::Operator(name) => format!("operator {name}"),
        Authority::Schedule(words) => format!("schedule: {words}"),
        Authority::Rotation(words) => format!("rotation: {words}"),
    }
}
