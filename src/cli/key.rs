//! `keyward key`: the named keys of a tenant.

use clap::{Args, Subcommand};
use prost_types::FieldMask;

use super::destroy::{self, HowToDestroy, WhyToCancel};
use super::exit::Exit;
use super::failure::Failure;
use super::freeze::{self, Reason};
use super::{Shell, name, span};
use crate::id::{KeyName, TenantName};
use crate::rpc::proto::{
    CreateKeyRequest, GetKeyRequest, Key, KeyState, ListKeyVersionsRequest, ListKeysRequest,
    RotateKeyRequest, UpdateKeyRequest,
};

/// `keyward key`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a key with its first version
    #[command(after_help = "Example:\n  keyward key create acme/customer-pii --class 2")]
    Create {
        /// The key, for example acme/customer-pii
        #[arg(value_parser = name::key)]
        key: KeyName,
        /// Data class: 1 basic, 2 sensitive, 3 highest
        #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=3))]
        class: u32,
    },
    /// List the keys of a tenant
    #[command(after_help = "Example:\n  keyward key list acme")]
    List {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
    },
    /// Show one key
    #[command(after_help = "Example:\n  keyward key show acme/customer-pii")]
    Show {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
    },
    /// Open a new version for new data
    #[command(after_help = "Example:\n  keyward key rotate acme/customer-pii")]
    Rotate {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
    },
    /// List the versions of a key, newest first
    #[command(after_help = "Example:\n  keyward key versions acme/customer-pii")]
    Versions {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
    },
    /// Let a key encrypt and decrypt
    #[command(after_help = "Example:\n  keyward key enable acme/customer-pii")]
    Enable {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
    },
    /// Let a key do nothing until it is enabled again
    #[command(after_help = "Example:\n  keyward key disable acme/customer-pii")]
    Disable {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
    },
    /// Let a key decrypt, but no longer encrypt
    #[command(after_help = "Example:\n  keyward key decrypt-only acme/customer-pii")]
    DecryptOnly {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
    },
    /// Raise the data class of a key
    #[command(after_help = "Example:\n  keyward key set-class acme/customer-pii 3")]
    SetClass {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        /// 1 basic, 2 sensitive, 3 highest; it can only be raised
        #[arg(value_parser = clap::value_parser!(u32).range(1..=3))]
        class: u32,
    },
    /// Change when a key is rotated by itself, and which versions still decrypt
    #[command(
        override_usage = "keyward key update [OPTIONS] <KEY>",
        after_help = "Example:\n  keyward key update acme/customer-pii --rotate-every 90d"
    )]
    Update {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        #[command(flatten)]
        changes: Changes,
    },
    /// Destroy a key with all its versions, after a time in which that can be called off
    #[command(after_help = "Example:\n  keyward key destroy acme/customer-pii --reason 'contract 17 ended'")]
    Destroy {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        #[command(flatten)]
        how: HowToDestroy,
    },
    /// Call the destruction of a key off
    #[command(after_help = "Example:\n  keyward key cancel-destroy acme/customer-pii --reason 'wrong key'")]
    CancelDestroy {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        #[command(flatten)]
        why: WhyToCancel,
    },
    /// Stop everything for a key at once
    #[command(after_help = "Example:\n  keyward key freeze acme/customer-pii --reason 'case 17'")]
    Freeze {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        #[command(flatten)]
        reason: Reason,
    },
    /// End the freeze of a key
    #[command(after_help = "Example:\n  keyward key unfreeze acme/customer-pii --reason 'case 17 closed'")]
    Unfreeze {
        /// The key
        #[arg(value_parser = name::key)]
        key: KeyName,
        #[command(flatten)]
        reason: Reason,
    },
}

/// What is changed; what is not given stays.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct Changes {
    /// Open a new version when the primary one is this old, for example 90d; or never
    #[arg(long, value_name = "TIME", value_parser = Period::parse)]
    rotate_every: Option<Period>,
    /// Open a new version after so many encryptions; or never
    #[arg(long, value_name = "N", value_parser = span::count)]
    rotate_after_uses: Option<u64>,
    /// Versions below this no longer decrypt; 1 lets all of them decrypt
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    min_version: Option<u32>,
    /// Whether applications may work with it only for a staff member who has logged in
    #[arg(long, value_name = "yes|no", value_parser = yes_or_no)]
    staff_required: Option<bool>,
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("say yes or no".to_owned()),
    }
}

/// A length of time, or never.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Period(pub(crate) Option<prost_types::Duration>);

impl Period {
    /// Reads `90d` or `never`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        span::period(text).map(Self)
    }
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Create { key, class } => create(shell, &key, class).await?,
            Self::List { tenant } => list(shell, &tenant).await?,
            Self::Show { key } => show(shell, &key).await?,
            Self::Rotate { key } => rotate(shell, &key).await?,
            Self::Versions { key } => versions(shell, &key).await?,
            Self::Enable { key } => set_state(shell, &key, KeyState::Active).await?,
            Self::Disable { key } => set_state(shell, &key, KeyState::Disabled).await?,
            Self::DecryptOnly { key } => set_state(shell, &key, KeyState::DecryptOnly).await?,
            Self::SetClass { key, class } => set_class(shell, &key, class).await?,
            Self::Update { key, changes } => change(shell, &key, changes).await?,
            Self::Destroy { key, how } => return destroy::destroy(shell, key.to_string(), how).await,
            Self::CancelDestroy { key, why } => return destroy::cancel(shell, key.to_string(), why).await,
            Self::Freeze { key, reason } => return freeze::freeze(shell, key.to_string(), reason).await,
            Self::Unfreeze { key, reason } => return freeze::unfreeze(shell, key.to_string(), reason).await,
        }
        Ok(Exit::Ok)
    }
}

async fn create(shell: &mut Shell, key: &KeyName, data_class: u32) -> Result<(), Failure> {
    let client = shell.client().await?;
    let parent = TenantName(key.tenant.clone()).to_string();
    let request = CreateKeyRequest { parent, key_id: key.key.to_string(), data_class };
    shell.print.view(&client.call(client.keys().create_key(request)).await?)
}

async fn list(shell: &mut Shell, tenant: &TenantName) -> Result<(), Failure> {
    let client = shell.client().await?;
    let (mut keys, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListKeysRequest { parent: tenant.to_string(), page_size: 1000, page_token };
        let page = client.call(client.keys().list_keys(request)).await?;
        keys.extend(page.keys);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return shell.print.views("keys", &keys);
        }
    }
}

async fn show(shell: &mut Shell, key: &KeyName) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = GetKeyRequest { name: key.to_string() };
    shell.print.view(&client.call(client.keys().get_key(request)).await?)
}

async fn rotate(shell: &mut Shell, key: &KeyName) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = RotateKeyRequest { name: key.to_string() };
    shell.print.view(&client.call(client.keys().rotate_key(request)).await?)
}

async fn versions(shell: &mut Shell, key: &KeyName) -> Result<(), Failure> {
    let client = shell.client().await?;
    let (mut versions, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListKeyVersionsRequest { parent: key.to_string(), page_size: 1000, page_token };
        let page = client.call(client.keys().list_key_versions(request)).await?;
        versions.extend(page.key_versions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return shell.print.views("key_versions", &versions);
        }
    }
}

async fn set_state(shell: &mut Shell, key: &KeyName, state: KeyState) -> Result<(), Failure> {
    let key = Key { name: key.to_string(), state: state.into(), ..Key::default() };
    update(shell, key, vec!["state".to_owned()]).await
}

async fn change(shell: &mut Shell, key: &KeyName, changes: Changes) -> Result<(), Failure> {
    let mut asked = Key { name: key.to_string(), ..Key::default() };
    let mut paths = Vec::new();
    if let Some(Period(period)) = changes.rotate_every {
        asked.rotation_period = period;
        paths.push("rotation_period".to_owned());
    }
    if let Some(uses) = changes.rotate_after_uses {
        asked.rotation_uses = uses;
        paths.push("rotation_uses".to_owned());
    }
    if let Some(version) = changes.min_version {
        asked.min_version = version;
        paths.push("min_version".to_owned());
    }
    if let Some(required) = changes.staff_required {
        asked.staff_required = required;
        paths.push("staff_required".to_owned());
    }
    update(shell, asked, paths).await
}

async fn set_class(shell: &mut Shell, key: &KeyName, data_class: u32) -> Result<(), Failure> {
    let key = Key { name: key.to_string(), data_class, ..Key::default() };
    update(shell, key, vec!["data_class".to_owned()]).await
}

async fn update(shell: &mut Shell, key: Key, paths: Vec<String>) -> Result<(), Failure> {
    let client = shell.client().await?;
    let update_mask = Some(FieldMask { paths });
    let request = UpdateKeyRequest { key: Some(key), update_mask };
    shell.print.view(&client.call(client.keys().update_key(request)).await?)
}
