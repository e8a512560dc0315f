//! `keyward account`: staff accounts, their one-time passwords and tokens.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Shell;
use super::exit::Exit;
use super::failure::Failure;
use super::name;
use super::view::{Fields, View, time};
use crate::id::AccountName;
use crate::rpc::proto::{
    Account, CreateAccountRequest, GetAccountRequest, ListAccountsRequest, LoginCredential,
    UnlockAccountRequest, UpdateAccountRequest,
};

mod otp;
mod tokens;

pub(super) use tokens::Prefix;

/// `keyward account`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an account that nobody can log in to yet
    #[command(after_help = "Example:
  keyward account create alice --display-name 'Alice Adams'
  keyward account otp alice
  keyward account enroll alice --out alice.ticket")]
    Create {
        /// The account, for example alice
        #[arg(value_parser = name::account)]
        account: AccountName,
        /// 1 views basic fields, 2 edits, 3 administers
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=3))]
        level: u32,
        /// A name for people
        #[arg(long, value_name = "TEXT")]
        display_name: Option<String>,
    },
    /// List the accounts
    #[command(after_help = "Example:\n  keyward account list")]
    List,
    /// Show one account with its tokens
    #[command(after_help = "Example:\n  keyward account show alice --json")]
    Show {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
    },
    /// Change the level or the display name of an account
    #[command(after_help = "Example:\n  keyward account update alice --level 2")]
    Update {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
        #[command(flatten)]
        changes: Changes,
    },
    /// Let nobody log in to an account, and end its assertions at once
    #[command(after_help = "Example:\n  keyward account suspend alice")]
    Suspend {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
    },
    /// End a suspension
    #[command(after_help = "Example:\n  keyward account resume alice")]
    Resume {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
    },
    /// End the lock after wrong one-time passwords
    #[command(after_help = "Example:\n  keyward account unlock alice --reason 'called back, case 17'")]
    Unlock {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
        /// Why; stands in the audit log
        #[arg(long)]
        reason: String,
    },
    /// Give an account a new one-time password; the old one ends
    Otp(otp::Otp),
    /// Confirm a new one-time password by a first one
    OtpConfirm(otp::Confirm),
    /// Permit the enrolment of one token, within 24 hours
    Enroll(tokens::Enroll),
    /// Hand in what `keyward token enroll` has written
    Submit(tokens::Submit),
    /// Let a token be logged in with
    Approve(tokens::Approve),
    /// Take a token off record for ever
    Revoke(tokens::Revoke),
}

/// What can be changed.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Changes {
    /// 1 views basic fields, 2 edits, 3 administers
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3))]
    level: Option<u32>,
    /// A name for people
    #[arg(long, value_name = "TEXT")]
    display_name: Option<String>,
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Create { account, level, display_name } => {
                create(shell, account, level, display_name).await
            }
            Self::List => list(shell).await,
            Self::Show { account } => show(shell, account).await,
            Self::Update { account, changes } => {
                let (level, display_name) = (changes.level, changes.display_name);
                update(shell, account, UpdateAccountRequest { level, display_name, ..Default::default() })
                    .await
            }
            Self::Suspend { account } => suspend(shell, account, true).await,
            Self::Resume { account } => suspend(shell, account, false).await,
            Self::Unlock { account, reason } => unlock(shell, account, reason).await,
            Self::Otp(otp) => otp.run(shell).await,
            Self::OtpConfirm(confirm) => confirm.run(shell).await,
            Self::Enroll(enroll) => enroll.run(shell).await,
            Self::Submit(submit) => submit.run(shell).await,
            Self::Approve(approve) => approve.run(shell).await,
            Self::Revoke(revoke) => revoke.run(shell).await,
        }
    }
}

async fn create(
    shell: &mut Shell,
    account: AccountName,
    level: u32,
    display_name: Option<String>,
) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let display_name = display_name.unwrap_or_default();
    let request = CreateAccountRequest { name: account.to_string(), display_name, level };
    let made = client.call(client.logins().create_account(request)).await?;
    shell.print.view(&made)?;
    shell.print.note(&format!(
        "next: `keyward account otp {0}`, and `keyward account enroll {0} --out {0}.ticket`",
        account.0
    ));
    Ok(Exit::Ok)
}

async fn list(shell: &mut Shell) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let found = client.call(client.logins().list_accounts(ListAccountsRequest {})).await?;
    shell.print.views("accounts", &found.accounts)?;
    Ok(Exit::Ok)
}

async fn show(shell: &mut Shell, account: AccountName) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let request = GetAccountRequest { name: account.to_string() };
    let found = client.call(client.logins().get_account(request)).await?;
    shell.print.view(&found)?;
    Ok(Exit::Ok)
}

async fn suspend(shell: &mut Shell, account: AccountName, suspended: bool) -> Result<Exit, Failure> {
    let request = UpdateAccountRequest { suspended: Some(suspended), ..Default::default() };
    update(shell, account, request).await
}

async fn update(
    shell: &mut Shell,
    account: AccountName,
    request: UpdateAccountRequest,
) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let request = UpdateAccountRequest { name: account.to_string(), ..request };
    let changed = client.call(client.logins().update_account(request)).await?;
    shell.print.view(&changed)?;
    Ok(Exit::Ok)
}

async fn unlock(shell: &mut Shell, account: AccountName, reason: String) -> Result<Exit, Failure> {
    let client = shell.client().await?;
    let request = UnlockAccountRequest { name: account.to_string(), reason };
    let unlocked = client.call(client.logins().unlock_account(request)).await?;
    shell.print.view(&unlocked)?;
    Ok(Exit::Ok)
}

impl View for Account {
    fn fields(&self) -> Fields {
        let tokens: Vec<Value> = self.credentials.iter().map(token).collect();
        let mut fields = self.head();
        fields.push(("display_name", said(&self.display_name)));
        fields.push(("created", time(self.create_time.as_ref())));
        fields.push(("tokens", Value::Array(tokens)));
        fields
    }

    fn row(&self) -> Fields {
        let active = self.credentials.iter().filter(|found| found.state == "active").count();
        let mut fields = self.head();
        fields.push(("active_tokens", json!(active)));
        fields
    }
}

impl Account {
    fn head(&self) -> Fields {
        vec![
            ("name", json!(self.name)),
            ("level", json!(self.level)),
            ("suspended", json!(self.suspended)),
            ("otp", json!(self.otp)),
            ("lock", said(&self.lock)),
        ]
    }
}

/// A text; null where nothing is said.
fn said(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { text.into() }
}

/// A token of an account.
fn token(found: &LoginCredential) -> Value {
    json!({
        "token": found.token,
        "state": found.state,
        "credential": hex::encode(&found.id),
        "kind": found.kind,
        "algorithm": found.algorithm,
        "assurance": found.assurance,
        "requested_by": said(&found.requested_by),
        "approved_by": said(&found.approved_by),
        "enrolled": time(found.enrol_time.as_ref()),
        "last_used": time(found.last_use_time.as_ref()),
        "reason": said(&found.reason),
        "serial": if found.serial == 0 { Value::Null } else { json!(found.serial) },
        "firmware": said(&found.firmware),
        "pin_policy": said(&found.pin_policy),
        "touch_policy": said(&found.touch_policy),
        "certificate_subject": said(&found.certificate_subject),
        "certificate_expires": time(found.certificate_expire_time.as_ref()),
    })
}
