//! `keyward ceremony propose`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::shown;
use crate::cli::exit::Exit;
use crate::cli::failure::Failure;
use crate::cli::{Shell, document, name};
use crate::config::value::Span;
use crate::id::{AccountName, KeyName, RootId, TenantName};
use crate::keyring::credential::CredentialId;
use crate::rpc::proto::ProposeRequest;
use crate::rpc::proto::propose_request::{
    Action, ChangeRoster, Found, MakeAdministrator, MoveTenant, RotateRoot, SetMinVersion,
};

/// `keyward ceremony propose`
#[derive(Debug, Subcommand)]
pub(crate) enum Propose {
    /// Put the root under custodians; all of them must approve, once and for ever
    #[command(after_help = "Each custodian hands in a card, made with `token card`.\n\n\
        Example:\n  keyward ceremony propose found --quorum 2 --card alice.card --card bob.card \\\n      \
        --card carol.card --reason 'board decision of 3 May'")]
    Found {
        /// How many custodians must agree from then on: at least 2
        #[arg(long)]
        quorum: u32,
        /// A custodian's card; once for each custodian
        #[arg(long = "card", value_name = "FILE", required = true)]
        cards: Vec<PathBuf>,
        #[command(flatten)]
        how: How,
    },
    /// Replace the root key, and give every tenant a new key under it
    #[command(after_help = "Example:\n  keyward ceremony propose rotate-root --reason 'yearly'")]
    RotateRoot {
        #[command(flatten)]
        how: How,
    },
    /// Put other custodians, or another quorum, in force; replaces the root key
    #[command(
        after_help = "Example:\n  keyward ceremony propose change-roster --add dave.card --remove carol \\\n      \
        --reason 'carol has left'"
    )]
    ChangeRoster {
        /// How many custodians must agree from then on [default: as it is]
        #[arg(long)]
        quorum: Option<u32>,
        /// The card of a new custodian, or of the new token of one who is there
        #[arg(long, value_name = "FILE")]
        add: Vec<PathBuf>,
        /// A custodian who leaves
        #[arg(long, value_name = "NAME")]
        remove: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Give one tenant a new key-encryption key
    #[command(after_help = "Example:\n  keyward ceremony propose rotate-tenant acme --reason 'case 17'")]
    RotateTenant {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        #[command(flatten)]
        how: How,
    },
    /// Destroy a tenant, a key or a key version for ever
    #[command(
        after_help = "Example:\n  keyward ceremony propose destroy acme/customer-pii --reason 'contract ended'"
    )]
    Destroy {
        /// What: `acme`, `acme/customer-pii` or `acme/customer-pii/3`
        resource: String,
        #[command(flatten)]
        how: How,
    },
    /// End a freeze
    #[command(after_help = "Example:\n  keyward ceremony propose unfreeze acme --reason 'case 17 closed'")]
    Unfreeze {
        /// What: `acme`, `acme/customer-pii` or `principals/web-shop`
        resource: String,
        #[command(flatten)]
        how: How,
    },
    /// Put another minimum version of a key in force: versions below it decrypt no more
    #[command(
        after_help = "Example:\n  keyward ceremony propose set-min-version acme/customer-pii 3 --reason 'all re-encrypted'"
    )]
    SetMinVersion {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        /// The oldest version that decrypts from then on
        version: u32,
        #[command(flatten)]
        how: How,
    },
    /// Make a staff account an administrator's, with one of its tokens
    #[command(after_help = "`keyward account show NAME --json` has the credential.

Example:
  keyward ceremony propose make-administrator bob --reason 'head of IT' \\
      3f0c9a1200112233445566778899aabbccddeeff00112233445566778899aabb")]
    MakeAdministrator {
        /// The account
        #[arg(value_parser = name::account)]
        account: AccountName,
        /// The token's credential, in hexadecimal
        #[arg(value_name = "HEX", value_parser = credential)]
        credential: CredentialId,
        #[command(flatten)]
        how: How,
    },
    /// Destroy an erasure root that stands on the tokens and in no record, for ever
    #[command(after_help = "`keyward erasure status` lists them.

Example:
  keyward ceremony propose forget-erasure-root 3f0c9a1200112233445566778899aabb --reason 'case 17'")]
    ForgetErasureRoot {
        /// Its id, as the status shows it
        #[arg(value_name = "ID", value_parser = name::erasure_root)]
        id: RootId,
        #[command(flatten)]
        how: How,
    },
    /// Keep a tenant's key-encryption key in the HSM for good, or in the store again
    #[command(
        after_help = "Example:\n  keyward ceremony propose move-tenant acme --resident --reason 'high assurance'"
    )]
    MoveTenant {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        /// In the HSM; without it, wrapped in the store
        #[arg(long)]
        resident: bool,
        #[command(flatten)]
        how: How,
    },
}

/// What every proposal has.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Why; custodians read it in the statement
    #[arg(long)]
    reason: String,
    /// How long approvals are collected, for example `12h`
    #[arg(long, default_value = "3d", value_parser = span)]
    lasts: Span,
}

fn credential(text: &str) -> Result<CredentialId, String> {
    CredentialId::parse(text).ok_or_else(|| "expected 64 hexadecimal digits".to_owned())
}

fn span(text: &str) -> Result<Span, String> {
    humantime::parse_duration(text).map(Span).map_err(|error| error.to_string())
}

impl Propose {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        let (action, how) = self.action()?;
        let lasts = prost_types::Duration::try_from(how.lasts.0)
            .map_err(|_| Failure::Usage("--lasts: too long".into()))?;
        let request = ProposeRequest { reason: how.reason, lasts: Some(lasts), action: Some(action) };
        let client = shell.client().await?;
        let proposed = client.call(client.ceremonies().propose(request)).await?;
        shown::in_full(shell, &proposed)?;
        let id = proposed.name.trim_start_matches("ceremonies/");
        shell.print.note(&format!("custodians approve it with `keyward ceremony approve {id}`"));
        Ok(Exit::Ok)
    }

    fn action(self) -> Result<(Action, How), Failure> {
        Ok(match self {
            Self::Found { quorum, cards, how } => {
                (Action::Found(Found { quorum, cards: read(&cards)? }), how)
            }
            Self::RotateRoot { how } => (Action::RotateRoot(RotateRoot {}), how),
            Self::ChangeRoster { quorum, add, remove, how } => {
                let change = ChangeRoster { quorum: quorum.unwrap_or_default(), add: read(&add)?, remove };
                (Action::ChangeRoster(change), how)
            }
            Self::RotateTenant { tenant, how } => (Action::RotateTenant(tenant.to_string()), how),
            Self::Destroy { resource, how } => (Action::Destroy(name::any(&resource)), how),
            Self::Unfreeze { resource, how } => (Action::Unfreeze(name::any(&resource)), how),
            Self::SetMinVersion { key, version, how } => {
                (Action::SetMinVersion(SetMinVersion { name: key.to_string(), version }), how)
            }
            Self::MakeAdministrator { account, credential, how } => {
                let (account, credential) = (account.to_string(), credential.0.to_vec().into());
                (Action::MakeAdministrator(MakeAdministrator { account, credential }), how)
            }
            Self::ForgetErasureRoot { id, how } => (Action::ForgetErasureRoot(id.to_string()), how),
            Self::MoveTenant { tenant, resident, how } => {
                (Action::MoveTenant(MoveTenant { name: tenant.to_string(), resident }), how)
            }
        })
    }
}

fn read(cards: &[PathBuf]) -> Result<Vec<String>, Failure> {
    cards.iter().map(|card| document::read(card)).collect()
}
