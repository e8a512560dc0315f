//! `keyward token sign`

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::args::TokenArgs;
use super::card::{deployment, exact};
use crate::cli::Shell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::clock::Date;
use crate::id::{CeremonyId, DeploymentId};
use crate::keyring::credential::CredentialId;
use crate::keyring::custodian::AgreementKey;
use crate::token::envelope::{Ceremony, Matter, RestoreShare};
use crate::token::printable::Statement;

/// What a statement can be signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum StatementPurpose {
    // Comments would make two pages of the help.
    Ceremony,
    RestoreShare,
}

/// `keyward token sign`
#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// What the signature is for
    #[arg(long, value_enum)]
    purpose: StatementPurpose,
    /// File with the statement, exactly as it was proposed
    #[arg(long, value_name = "FILE")]
    statement: PathBuf,
    /// Installation, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = deployment)]
    deployment: DeploymentId,
    /// Ceremony: its name, or its id in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = ceremony)]
    ceremony: CeremonyId,
    /// Digest of the roster that decides, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = exact::<32>, required_if_eq("purpose", "ceremony"))]
    roster: Option<[u8; 32]>,
    /// When it was proposed: a date (RFC 3339), or milliseconds since 1970
    #[arg(long, value_name = "DATE", value_parser = date, required_if_eq("purpose", "ceremony"))]
    created: Option<Date>,
    /// When it expires
    #[arg(long, value_name = "DATE", value_parser = date, required_if_eq("purpose", "ceremony"))]
    expires: Option<Date>,
    /// Key that the share is encrypted to: SubjectPublicKeyInfo in DER, in hexadecimal
    #[arg(long, value_name = "HEX", value_parser = transport, required_if_eq("purpose", "restore-share"))]
    transport: Option<AgreementKey>,
    /// File to write the signature to, as bytes; without it, it is shown in hexadecimal
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Replace the file
    #[arg(long, requires = "out")]
    force: bool,
    #[command(flatten)]
    token: TokenArgs,
}

fn ceremony(text: &str) -> Result<CeremonyId, String> {
    exact(text.strip_prefix("ceremonies/").unwrap_or(text)).map(CeremonyId)
}

fn transport(text: &str) -> Result<AgreementKey, String> {
    let spki = hex::decode(text).map_err(|_| "expected hexadecimal digits")?;
    AgreementKey::new(spki).map_err(|error| error.to_string())
}

fn date(text: &str) -> Result<Date, String> {
    if let Ok(millis) = text.parse() {
        return Ok(Date(millis));
    }
    let date: jiff::Timestamp = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let whole = date.as_nanosecond() % 1_000_000 == 0;
    let millis = u64::try_from(date.as_millisecond()).ok().filter(|_| whole);
    millis.map(Date).ok_or_else(|| "expected whole milliseconds since 1970".to_owned())
}

impl Sign {
    pub(super) async fn run(self: Box<Self>, shell: &mut Shell) -> Result<Exit, Failure> {
        let matter = self.matter()?;
        // Before the PIN: whoever enters it has read this.
        shell.print.show(&shown(&matter, self.deployment));
        let mut output = match &self.out {
            Some(path) => Some(Output::open_for_everybody(Some(path), self.force)?),
            None => None,
        };
        let mut session = self.token.open(shell).await?;
        let credential = session.credential().await?;
        let envelope = matter.envelope(self.deployment, credential.id());
        let signature = session.sign(shell, &credential, &envelope).await?;
        if let Some(output) = &mut output {
            let written = output.writer().write_all(&signature).await;
            written.map_err(Failure::file("write", output.path()))?;
        }
        if let Some(output) = output {
            output.commit().await?;
        }
        let value = json!({
            "purpose": envelope.purpose().as_str(),
            "credential": credential.id().to_string(),
            "algorithm": credential.algorithm().as_str(),
            "signature": hex::encode(&signature),
        });
        match &self.out {
            Some(out) => shell.print.report(&format!("signed; wrote {}", out.display()), &value)?,
            None => shell.print.answer(&hex::encode(&signature), &value)?,
        }
        Ok(Exit::Ok)
    }

    fn matter(&self) -> Result<Matter, Failure> {
        let statement = read(&self.statement)?;
        let ceremony = self.ceremony;
        let absent = || Failure::Usage("an option of this purpose is missing".to_owned());
        Ok(match self.purpose {
            StatementPurpose::Ceremony => Matter::Ceremony(Ceremony {
                ceremony,
                roster: self.roster.ok_or_else(absent)?,
                created: self.created.ok_or_else(absent)?,
                expires: self.expires.ok_or_else(absent)?,
                statement,
            }),
            StatementPurpose::RestoreShare => Matter::RestoreShare(RestoreShare {
                ceremony,
                statement,
                transport: self.transport.clone().ok_or_else(absent)?,
            }),
        })
    }
}

fn read(path: &Path) -> Result<Statement, Failure> {
    let text = std::fs::read(path).map_err(Failure::file("read", path))?;
    let bad = |error: String| Failure::Input(format!("{}: {error}", path.display()));
    let text = String::from_utf8(text).map_err(|_| bad("it is not UTF-8 text".to_owned()))?;
    Statement::new(&text).map_err(|error| bad(error.to_string()))
}

/// The statement between two lines, and everything else that is signed with it.
fn shown(matter: &Matter, deployment: DeploymentId) -> String {
    let rule = "-".repeat(72);
    let (statement, ceremony, rest) = match matter {
        Matter::Ceremony(ceremony) => {
            let (created, expires) = (words(ceremony.created), words(ceremony.expires));
            let roster = hex::encode(ceremony.roster);
            let rest = format!("roster {roster}\nproposed {created}, expires {expires}\n");
            (&ceremony.statement, ceremony.ceremony, rest)
        }
        Matter::RestoreShare(share) => {
            let transport = CredentialId::of(share.transport.spki());
            (&share.statement, share.ceremony, format!("the share is sealed to {transport}\n"))
        }
        // Nothing else is made from a statement here.
        _ => return String::new(),
    };
    format!(
        "you sign for purpose {}, ceremony {ceremony}:\n{rule}\n{statement}\n{rule}\ndeployment {deployment}\n{rest}",
        matter.purpose()
    )
}

fn words(date: Date) -> String {
    let millis = i64::try_from(date.millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis)
        .map_or_else(|_| date.millis().to_string(), |date| date.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_signed_is_shown() {
        let here = DeploymentId([0xd1; 16]);
        let statement = || Statement::new("Rotate.").unwrap();
        let (ceremony, roster) = (CeremonyId([0xc2; 16]), [0xb3; 32]);
        let (created, expires) = (Date(1_800_000_000_000), Date(1_800_000_600_000));
        let matter =
            Matter::Ceremony(Ceremony { ceremony, roster, created, expires, statement: statement() });
        let said = shown(&matter, here);
        for part in ["d1".repeat(16), "c2".repeat(16), "b3".repeat(32), "2027-01-15T08:10:00Z".into()] {
            assert!(said.contains(&part), "{said}");
        }
        let transport = crate::keyring::public_key::tests::one_of_each()[0].1.clone();
        let transport = AgreementKey::new(transport).unwrap();
        let sealed_to = CredentialId::of(transport.spki()).to_string();
        let matter = Matter::RestoreShare(RestoreShare { ceremony, statement: statement(), transport });
        let said = shown(&matter, here);
        assert!(said.contains(&sealed_to) && said.contains(&"d1".repeat(16)), "{said}");
    }

    #[test]
    fn dates_have_whole_milliseconds() {
        assert_eq!(date("1800000000000"), Ok(Date(1_800_000_000_000)));
        assert_eq!(date("2027-01-15T08:00:00Z"), Ok(Date(1_800_000_000_000)));
        assert_eq!(date("2027-01-15T08:00:00.5Z"), Ok(Date(1_800_000_000_500)));
        for wrong in ["", "2027-01-15", "2027-01-15T08:00:00.0001Z", "-1", "1960-01-01T00:00:00Z"] {
            assert!(date(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_ceremony_is_named_in_two_ways() {
        let id = "00112233445566778899aabbccddeeff";
        assert_eq!(ceremony(id).unwrap().to_string(), id);
        assert_eq!(ceremony(&format!("ceremonies/{id}")).unwrap().to_string(), id);
        assert!(ceremony("0011").is_err());
    }
}
