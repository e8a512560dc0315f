//! `keyward version`: single versions of a key.

use clap::Subcommand;
use prost_types::{FieldMask, Timestamp};

use super::destroy::{self, HowToDestroy, WhyToCancel};
use super::exit::Exit;
use super::failure::Failure;
use super::{Shell, name, span};
use crate::id::{KeyName, VersionName};
use crate::rpc::proto::{
    CreateKeyVersionRequest, GetKeyVersionRequest, KeyState, KeyVersion, UpdateKeyVersionRequest,
};

/// `keyward version`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show one version
    #[command(after_help = "Example:\n  keyward version show acme/customer-pii/3")]
    Show {
        /// The version, for example acme/customer-pii/3
        #[arg(value_parser = name::version)]
        version: VersionName,
    },
    /// Make the next version of a key now, for use from a date on
    #[command(
        after_help = "Example:\n  keyward version create acme/customer-pii --activate 2027-01-01T00:00:00Z"
    )]
    Create {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        /// From when on it is the primary version (RFC 3339)
        #[arg(long, value_name = "DATE", value_parser = span::date)]
        activate: Timestamp,
    },
    /// Destroy a version, after a time in which that can be called off; not the primary one
    #[command(
        after_help = "Example:\n  keyward version destroy acme/customer-pii/2 --reason 'data is re-encrypted'"
    )]
    Destroy {
        /// The version
        #[arg(value_parser = name::version)]
        version: VersionName,
        #[command(flatten)]
        how: HowToDestroy,
    },
    /// Call the destruction of a version off
    #[command(
        after_help = "Example:\n  keyward version cancel-destroy acme/customer-pii/2 --reason 'still needed'"
    )]
    CancelDestroy {
        /// The version
        #[arg(value_parser = name::version)]
        version: VersionName,
        #[command(flatten)]
        why: WhyToCancel,
    },
    /// Let a version decrypt, and encrypt where it is the primary one
    #[command(after_help = "Example:\n  keyward version enable acme/customer-pii/2")]
    Enable {
        /// The version
        #[arg(value_parser = name::version)]
        version: VersionName,
    },
    /// Let a version do nothing until it is enabled again; not the primary one
    #[command(after_help = "Example:\n  keyward version disable acme/customer-pii/2")]
    Disable {
        /// The version
        #[arg(value_parser = name::version)]
        version: VersionName,
    },
    /// Let a version decrypt only
    #[command(after_help = "Example:\n  keyward version decrypt-only acme/customer-pii/2")]
    DecryptOnly {
        /// The version
        #[arg(value_parser = name::version)]
        version: VersionName,
    },
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Show { version } => show(shell, &version).await?,
            Self::Create { key, activate } => create(shell, &key, activate).await?,
            Self::Destroy { version, how } => return destroy::destroy(shell, version.to_string(), how).await,
            Self::CancelDestroy { version, why } => {
                return destroy::cancel(shell, version.to_string(), why).await;
            }
            Self::Enable { version } => set_state(shell, &version, KeyState::Active).await?,
            Self::Disable { version } => set_state(shell, &version, KeyState::Disabled).await?,
            Self::DecryptOnly { version } => set_state(shell, &version, KeyState::DecryptOnly).await?,
        }
        Ok(Exit::Ok)
    }
}

async fn show(shell: &mut Shell, version: &VersionName) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = GetKeyVersionRequest { name: version.to_string() };
    shell.print.view(&client.call(client.keys().get_key_version(request)).await?)
}

async fn create(shell: &mut Shell, key: &KeyName, activate: Timestamp) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = CreateKeyVersionRequest { parent: key.to_string(), activate_time: Some(activate) };
    shell.print.view(&client.call(client.keys().create_key_version(request)).await?)
}

async fn set_state(shell: &mut Shell, version: &VersionName, state: KeyState) -> Result<(), Failure> {
    let client = shell.client().await?;
    let version = KeyVersion { name: version.to_string(), state: state.into(), ..KeyVersion::default() };
    let update_mask = Some(FieldMask { paths: vec!["state".into()] });
    let request = UpdateKeyVersionRequest { key_version: Some(version), update_mask };
    shell.print.view(&client.call(client.keys().update_key_version(request)).await?)
}
