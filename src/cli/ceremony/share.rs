//! `keyward ceremony share`: a custodian's part of a restore.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::cli::Shell;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::output::Output;
use crate::cli::root::read;
use crate::cli::token::TokenArgs;
use crate::daemon::restore::{envelope_of, sealed_to};
use crate::envelope::sealed_box;
use crate::keyring::armour::Armoured;
use crate::keyring::custodian::{AgreementKey, Custodian};
use crate::keyring::escrow::{AgreementPoint, SealedBox, delivery_context, share_context};
use crate::keyring::recovery::{RestoreRequest, RestoreShare};
use crate::token::printable::Statement;

/// `keyward ceremony share`
#[derive(Debug, Args)]
#[command(
    after_help = "The statement is shown in full before the PIN is asked for: compare the line `Shares are sealed to:`
with the screen where the restore runs. The share is opened on this machine and sealed at once to
the process that restores; it is never written down in the clear.

Example:
  keyward ceremony share /media/restore/restore.request --token alice-token \\
      --out /media/restore/alice.share"
)]
pub(crate) struct Share {
    /// The request, as `keyward root restore` wrote it
    request: PathBuf,
    /// File to write the answer to; it must end with `.share`
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    token: TokenArgs,
}

impl Share {
    pub(super) async fn run(self: Box<Self>, shell: &mut Shell) -> Result<Exit, Failure> {
        let request = read::<RestoreRequest>(&self.request)?;
        check(&request)?;
        // Only what is checked to be printable reaches the terminal.
        let statement = Statement::new(&request.statement).map_err(|error| refused(&error.to_string()))?;
        if self.out.extension().is_none_or(|extension| extension != "share") {
            return Err(Failure::Usage(
                "--out must end with .share: that is what `root restore` looks for".into(),
            ));
        }
        let mut output = Output::open_for_everybody(Some(&self.out), self.force)?;
        shell.print.show(statement.as_str());
        let mut session = self.token.open(shell).await?;
        let credential = session.credential().await?;
        let custodians = request.members.custodians().iter();
        let own = custodians.clone().find(|one| one.signing().id() == credential.id());
        let own = own.ok_or_else(|| refused("this token is none of the custodians of this root"))?;
        let sealed = request.shares.iter().find(|share| share.custodian == *own.name());
        let sealed = &sealed.ok_or_else(|| refused("the request has no share for this custodian"))?.sealed;
        let peer =
            AgreementKey::of_point(&sealed.ephemeral.0).map_err(|error| refused(&error.to_string()))?;
        let agreed = session.agree(shell, &peer).await?;
        let sealed = handed_over(&request, own, sealed, &agreed)?;
        let envelope = envelope_of(&request, own).map_err(|error| refused(&error.to_string()))?;
        let signature = session.sign(shell, own.signing(), &envelope).await?;
        let share =
            RestoreShare { ceremony: request.ceremony, custodian: own.name().clone(), sealed, signature };
        let written = output.writer().write_all(share.to_text().as_bytes()).await;
        written.map_err(Failure::file("write", &self.out))?;
        output.commit().await?;
        let value = json!({ "custodian": own.name().as_str(), "out": self.out });
        shell.print.report(&format!("the share of {} is in {}", own.name(), self.out.display()), &value)?;
        Ok(Exit::Ok)
    }
}

/// That the statement is about this request: the token signs what was read.
fn check(request: &RestoreRequest) -> Result<(), Failure> {
    let lines = [
        format!("Ceremony: {}", request.ceremony),
        format!("Deployment: {}", request.deployment),
        "Action: restore".to_owned(),
        sealed_to(&request.transport),
    ];
    match lines.into_iter().find(|line| !request.statement.lines().any(|said| said == line)) {
        Some(line) => Err(refused(&format!("the statement does not say {line:?}: nothing was signed"))),
        None => Ok(()),
    }
}

/// The share, sealed to the process that restores. It is whole in this process for a moment only.
fn handed_over(
    request: &RestoreRequest,
    own: &Custodian,
    sealed: &SealedBox,
    agreed: &crate::secret::Key256,
) -> Result<SealedBox, Failure> {
    let point = AgreementPoint(own.agreement().point());
    let context = share_context(request.deployment, request.made_by, request.members.quorum(), own.name());
    let share = sealed_box::open_agreed(agreed, &point, sealed, &context)
        .map_err(|error| refused(&format!("the share does not open with this token: {error}")))?;
    let to = AgreementPoint(request.transport.point());
    sealed_box::seal(&to, &delivery_context(&context, &to), share.expose())
        .map_err(|error| refused(&error.to_string()))
}

fn refused(why: &str) -> Failure {
    Failure::Refused { reason: "APPROVAL_REFUSED", message: why.to_owned() }
}
