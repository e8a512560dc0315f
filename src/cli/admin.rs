//! `keyward admin`: what administrators (staff of level 3) approve.

use clap::Subcommand;

use super::Shell;
use super::account::Prefix;
use super::exit::Exit;
use super::failure::Failure;
use super::name;
use super::token::{TokenArgs, WINDOW};
use super::view::{Fields, View, time};
use crate::clock::Date;
use crate::id::{AccountName, DeploymentId, ProposalId};
use crate::rpc::proto::propose_act_request::Act as Asked;
use crate::rpc::proto::{Act, ApproveActRequest, CancelActRequest, ListActsRequest, ProposeActRequest};
use crate::token::envelope::StepUp;
use crate::token::printable::Statement;
use crate::token::wire::KeyUse;

/// `keyward admin`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Propose something that takes an administrator
    #[command(subcommand)]
    Propose(Propose),
    /// List the acts that wait for an administrator
    #[command(after_help = "Example:\n  keyward admin list")]
    List,
    /// Show an act in full: what an administrator signs
    #[command(after_help = "Example:\n  keyward admin show 91f3a2b4")]
    Show {
        /// The act, or the beginning of its id
        act: String,
    },
    /// Approve an act with your token, after it was shown in full
    #[command(after_help = "Example:\n  keyward admin approve 91f3a2b4 --as bob --piv")]
    Approve(Box<Approve>),
    /// Take an act back
    #[command(after_help = "Example:\n  keyward admin cancel 91f3a2b4")]
    Cancel {
        /// The act, or the beginning of its id
        act: String,
    },
}

/// `keyward admin propose`
#[derive(Debug, Subcommand)]
pub(crate) enum Propose {
    /// Let a token be logged in with
    #[command(
        after_help = "Example:\n  keyward admin propose approve-token alice 3f0c9a12 --reason 'new colleague'"
    )]
    ApproveToken {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
        /// The token's credential, or its first 8 digits
        #[arg(value_parser = Prefix::parse)]
        credential: Prefix,
        /// Why; administrators read it
        #[arg(long)]
        reason: String,
    },
    /// End the lock after wrong one-time passwords
    #[command(after_help = "Example:\n  keyward admin propose unlock alice --reason 'called back, mistyped'")]
    Unlock {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
        /// Why; administrators read it
        #[arg(long)]
        reason: String,
    },
    /// End a suspension
    #[command(after_help = "Example:\n  keyward admin propose resume alice --reason 'back from leave'")]
    Resume {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
        /// Why; administrators read it
        #[arg(long)]
        reason: String,
    },
    /// Take a one-time password away, so that an operator can make another one
    #[command(after_help = "Example:\n  keyward admin propose reset-otp alice --reason 'new phone'")]
    ResetOtp {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
        /// Why; administrators read it
        #[arg(long)]
        reason: String,
    },
    /// Give an account another level
    #[command(
        after_help = "Example:\n  keyward admin propose set-level alice 2 --reason 'head of department agrees'"
    )]
    SetLevel {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
        /// 1 views basic fields, 2 edits, 3 administers
        #[arg(value_parser = clap::value_parser!(u32).range(1..=3))]
        level: u32,
        /// Why; administrators read it
        #[arg(long)]
        reason: String,
    },
}

/// `keyward admin approve`
#[derive(Debug, clap::Args)]
pub(crate) struct Approve {
    /// The act, or the beginning of its id
    act: String,
    /// Your account
    #[arg(long = "as", value_name = "ACCOUNT", value_parser = name::account)]
    account: AccountName,
    #[command(flatten)]
    token: TokenArgs,
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Propose(propose) => propose.run(shell).await?,
            Self::List => {
                let acts = acts(shell).await?;
                shell.print.views("acts", &acts)?;
            }
            Self::Show { act } => {
                let act = find(shell, &act).await?;
                show(shell, &act)?;
            }
            Self::Approve(approve) => approve.run(shell).await?,
            Self::Cancel { act } => {
                let name = find(shell, &act).await?.name;
                let client = shell.client().await?;
                client.call(client.logins().cancel_act(CancelActRequest { name: name.clone() })).await?;
                shell.print.note(&format!("{name} is taken back"));
            }
        }
        Ok(Exit::Ok)
    }
}

impl Propose {
    async fn run(self, shell: &mut Shell) -> Result<(), Failure> {
        let (account, act, reason) = match self {
            Self::ApproveToken { account, credential, reason } => {
                let client = shell.client().await?;
                let credential = credential.credential(&client, &account).await?;
                (account, Asked::ApproveToken(credential), reason)
            }
            Self::Unlock { account, reason } => (account, Asked::Unlock(true), reason),
            Self::Resume { account, reason } => (account, Asked::Resume(true), reason),
            Self::ResetOtp { account, reason } => (account, Asked::ResetOtp(true), reason),
            Self::SetLevel { account, level, reason } => (account, Asked::SetLevel(level), reason),
        };
        let request = ProposeActRequest { reason, account: account.to_string(), act: Some(act) };
        let client = shell.client().await?;
        let proposed = client.call(client.logins().propose_act(request)).await?;
        show(shell, &proposed)?;
        shell.print.note(&format!(
            "an administrator approves it: `keyward admin approve {} --as NAME`",
            short(&proposed)
        ));
        Ok(())
    }
}

impl Approve {
    async fn run(self, shell: &mut Shell) -> Result<(), Failure> {
        let act = find(shell, &self.act).await?;
        if act.account == self.account.to_string() {
            let message = "nobody approves what is done to their own account: ask another administrator";
            return Err(Failure::Refused { reason: "APPROVAL_REFUSED", message: message.to_owned() });
        }
        let bad = |what: &str| Failure::Input(format!("the daemon gave an act without {what}"));
        let id = act.name.strip_prefix("acts/").and_then(ProposalId::parse).ok_or_else(|| bad("a name"))?;
        let deployment = act.deployment[..].try_into().map(DeploymentId).map_err(|_| bad("a deployment"))?;
        let statement = Statement::new(&act.statement).map_err(|error| Failure::Input(error.to_string()))?;
        let signed = StepUp {
            proposal: id,
            account: self.account.0.clone(),
            created: date(act.create_time.as_ref()).ok_or_else(|| bad("a time"))?,
            expires: date(act.expire_time.as_ref()).ok_or_else(|| bad("an end"))?,
            statement,
        };
        // Before the PIN: whoever enters it has read this.
        let matter = format!("{}\n\nyou sign as {}", act.statement, self.account);
        shell.print.show(&matter);
        let mut session = self.token.open_for(shell, KeyUse::Login, &matter, WINDOW).await?;
        let credential = session.credential().await?;
        let envelope = signed.envelope(deployment, credential.id());
        let signature = session.sign(shell, &credential, &envelope).await?;
        let request = ApproveActRequest {
            name: act.name,
            administrator: self.account.to_string(),
            credential: credential.id().0.to_vec().into(),
            signature: signature.into(),
        };
        let client = shell.client().await?;
        let account = client.call(client.logins().approve_act(request)).await?;
        shell.print.view(&account)
    }
}

/// What an administrator signs says everything.
fn show(shell: &mut Shell, act: &Act) -> Result<(), Failure> {
    if shell.print.is_json() {
        return shell.print.view(act);
    }
    Statement::new(&act.statement).map_err(|error| Failure::Input(error.to_string()))?;
    shell.print.text(&format!("{}\n", act.statement))
}

async fn acts(shell: &mut Shell) -> Result<Vec<Act>, Failure> {
    let client = shell.client().await?;
    Ok(client.call(client.logins().list_acts(ListActsRequest {})).await?.acts)
}

/// The one act whose id begins so.
async fn find(shell: &mut Shell, begin: &str) -> Result<Act, Failure> {
    let begin = begin.strip_prefix("acts/").unwrap_or(begin);
    let mut fitting = acts(shell).await?;
    fitting.retain(|act| act.name.strip_prefix("acts/").is_some_and(|id| id.starts_with(begin)));
    match (fitting.pop(), fitting.len()) {
        (Some(only), 0) if begin.len() >= 4 => Ok(only),
        (None, _) => Err(Failure::missing(format!("no act that waits begins with {begin:?}"))),
        _ => Err(Failure::Input("give more of the act's id".into())),
    }
}

fn short(act: &Act) -> &str {
    let id = act.name.strip_prefix("acts/").unwrap_or(&act.name);
    id.get(..8).unwrap_or(id)
}

fn date(time: Option<&prost_types::Timestamp>) -> Option<Date> {
    let time = time?;
    let seconds = u64::try_from(time.seconds).ok()?;
    Some(Date(seconds.checked_mul(1000)?.checked_add(u64::try_from(time.nanos).ok()? / 1_000_000)?))
}

impl View for Act {
    fn fields(&self) -> Fields {
        let mut fields = self.row();
        fields.push(("statement", self.statement.clone().into()));
        fields
    }

    fn row(&self) -> Fields {
        vec![
            ("name", self.name.clone().into()),
            ("action", self.action.clone().into()),
            ("account", self.account.clone().into()),
            ("proposed_by", self.proposed_by.clone().into()),
            ("create_time", time(self.create_time.as_ref())),
            ("expire_time", time(self.expire_time.as_ref())),
        ]
    }
}
