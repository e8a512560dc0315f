//! `keyward tenant`: tenants, their KEK versions and rotations.

use std::time::Duration;

use clap::Subcommand;
use prost_types::FieldMask;

use super::destroy::{self, HowToDestroy, WhyToCancel};
use super::exit::Exit;
use super::failure::Failure;
use super::freeze::{self, Reason};
use super::key::Period;
use super::{Shell, name, progress};
use crate::client::Client;
use crate::id::{RotationName, TenantName};
use crate::rpc::proto::rotation::State;
use crate::rpc::proto::{
    CreateTenantRequest, GetRotationRequest, GetTenantRequest, ListKekVersionsRequest, ListTenantsRequest,
    RotateTenantRequest, Rotation, Tenant, UpdateTenantRequest,
};

/// How often a rotation is looked at.
const POLL: Duration = Duration::from_millis(200);

/// `keyward tenant`
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create a tenant with its first KEK
    #[command(after_help = "Example:\n  keyward tenant create acme --display-name 'ACME Ltd'")]
    Create {
        /// 1 to 63 lower-case letters, digits, '-' or '_'; never used again
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        /// A name for people
        #[arg(long, default_value = "", hide_default_value = true)]
        display_name: String,
    },
    /// List all tenants
    #[command(after_help = "Example:\n  keyward tenant list --json")]
    List,
    /// Show one tenant
    #[command(after_help = "Example:\n  keyward tenant show acme")]
    Show {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
    },
    /// Change the name for people; the id never changes
    #[command(after_help = "Example:\n  keyward tenant rename acme 'ACME International'")]
    Rename {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        /// A name for people
        display_name: String,
    },
    /// Make a new KEK, move every data key to it, and open a new version of every key
    #[command(after_help = "Ciphertexts stay readable, and nothing stops meanwhile.\n\n\
        Example:\n  keyward tenant rotate acme --wait")]
    Rotate {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        /// Stay until all data keys are moved
        #[arg(long)]
        wait: bool,
    },
    /// Look at rotations
    #[command(subcommand)]
    Rotation(RotationCommand),
    /// List the KEK versions of a tenant
    #[command(after_help = "Example:\n  keyward tenant keks acme")]
    Keks {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
    },
    /// Change when the KEK of a tenant is rotated by itself
    #[command(after_help = "Example:\n  keyward tenant update acme --rotate-every 365d")]
    Update {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        /// Rotate when the primary KEK version is this old, for example 365d; or never
        #[arg(long, value_name = "TIME", value_parser = Period::parse)]
        rotate_every: Period,
    },
    /// Destroy a tenant with all its keys, after a time in which that can be called off
    #[command(after_help = "Example:\n  keyward tenant destroy acme --reason 'contract 17 ended'")]
    Destroy {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        #[command(flatten)]
        how: HowToDestroy,
    },
    /// Call the destruction of a tenant off
    #[command(after_help = "Example:\n  keyward tenant cancel-destroy acme --reason 'contract renewed'")]
    CancelDestroy {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        #[command(flatten)]
        why: WhyToCancel,
    },
    /// Stop everything for a tenant at once
    #[command(after_help = "Example:\n  keyward tenant freeze acme --reason 'case 17'")]
    Freeze {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        #[command(flatten)]
        reason: Reason,
    },
    /// End the freeze of a tenant
    #[command(after_help = "Example:\n  keyward tenant unfreeze acme --reason 'case 17 closed'")]
    Unfreeze {
        /// The tenant
        #[arg(value_parser = name::tenant)]
        tenant: TenantName,
        #[command(flatten)]
        reason: Reason,
    },
}

/// `keyward tenant rotation`
#[derive(Debug, Subcommand)]
pub(crate) enum RotationCommand {
    /// Show how far a rotation is
    #[command(after_help = "Example:\n  keyward tenant rotation show acme/2")]
    Show {
        /// The rotation: tenant and new KEK version
        #[arg(value_parser = name::rotation)]
        rotation: RotationName,
    },
}

impl Command {
    pub(super) async fn run(self, shell: &mut Shell) -> Result<Exit, Failure> {
        match self {
            Self::Create { tenant, display_name } => create(shell, &tenant, display_name).await?,
            Self::List => list(shell).await?,
            Self::Show { tenant } => show(shell, &tenant).await?,
            Self::Rename { tenant, display_name } => rename(shell, &tenant, display_name).await?,
            Self::Rotate { tenant, wait } => rotate(shell, &tenant, wait).await?,
            Self::Rotation(RotationCommand::Show { rotation }) => show_rotation(shell, &rotation).await?,
            Self::Keks { tenant } => keks(shell, &tenant).await?,
            Self::Update { tenant, rotate_every } => update(shell, &tenant, rotate_every).await?,
            Self::Destroy { tenant, how } => return destroy::destroy(shell, tenant.to_string(), how).await,
            Self::CancelDestroy { tenant, why } => {
                return destroy::cancel(shell, tenant.to_string(), why).await;
            }
            Self::Freeze { tenant, reason } => {
                return freeze::freeze(shell, tenant.to_string(), reason).await;
            }
            Self::Unfreeze { tenant, reason } => {
                return freeze::unfreeze(shell, tenant.to_string(), reason).await;
            }
        }
        Ok(Exit::Ok)
    }
}

async fn create(shell: &mut Shell, tenant: &TenantName, display_name: String) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = CreateTenantRequest { tenant_id: tenant.0.to_string(), display_name };
    shell.print.view(&client.call(client.keys().create_tenant(request)).await?)
}

async fn list(shell: &mut Shell) -> Result<(), Failure> {
    let client = shell.client().await?;
    let (mut tenants, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTenantsRequest { page_size: 1000, page_token };
        let page = client.call(client.keys().list_tenants(request)).await?;
        tenants.extend(page.tenants);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return shell.print.views("tenants", &tenants);
        }
    }
}

async fn show(shell: &mut Shell, tenant: &TenantName) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = GetTenantRequest { name: tenant.to_string() };
    shell.print.view(&client.call(client.keys().get_tenant(request)).await?)
}

async fn rename(shell: &mut Shell, tenant: &TenantName, display_name: String) -> Result<(), Failure> {
    let client = shell.client().await?;
    let tenant = Tenant { name: tenant.to_string(), display_name, ..Tenant::default() };
    let update_mask = Some(FieldMask { paths: vec!["display_name".into()] });
    let request = UpdateTenantRequest { tenant: Some(tenant), update_mask };
    shell.print.view(&client.call(client.keys().update_tenant(request)).await?)
}

async fn update(shell: &mut Shell, tenant: &TenantName, every: Period) -> Result<(), Failure> {
    let client = shell.client().await?;
    let tenant = Tenant { name: tenant.to_string(), rotation_period: every.0, ..Tenant::default() };
    let update_mask = Some(FieldMask { paths: vec!["rotation_period".into()] });
    let request = UpdateTenantRequest { tenant: Some(tenant), update_mask };
    shell.print.view(&client.call(client.keys().update_tenant(request)).await?)
}

async fn rotate(shell: &mut Shell, tenant: &TenantName, wait: bool) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = RotateTenantRequest { name: tenant.to_string() };
    let mut rotation = client.call(client.keys().rotate_tenant(request)).await?;
    if wait {
        rotation = finished(&client, rotation, shell.print.hides_progress()).await?;
    } else {
        shell.print.note(&format!(
            "the rotation goes on in the daemon: `keyward tenant rotation show {}`",
            rotation.name
        ));
    }
    shell.print.view(&rotation)
}

/// Watches a rotation to its end; an HSM or a daemon that is away for a while is waited for.
async fn finished(client: &Client, mut rotation: Rotation, quiet: bool) -> Result<Rotation, Failure> {
    let bar = progress::items(quiet);
    while rotation.state() != State::Done {
        bar.set_length(rotation.total);
        bar.set_position(rotation.done);
        bar.set_message(super::view::plain(&rotation.waiting_for));
        tokio::time::sleep(POLL).await;
        match rotation_of(client, &rotation.name).await {
            Ok(newer) => rotation = newer,
            Err(error) if error.is_transient() => bar.set_message(super::view::plain(&error.message)),
            Err(error) => return Err(error.into()),
        }
    }
    bar.finish_and_clear();
    Ok(rotation)
}

async fn rotation_of(client: &Client, name: &str) -> Result<Rotation, crate::client::Error> {
    client.call(client.keys().get_rotation(GetRotationRequest { name: name.into() })).await
}

async fn show_rotation(shell: &mut Shell, rotation: &RotationName) -> Result<(), Failure> {
    let client = shell.client().await?;
    shell.print.view(&rotation_of(&client, &rotation.to_string()).await?)
}

async fn keks(shell: &mut Shell, tenant: &TenantName) -> Result<(), Failure> {
    let client = shell.client().await?;
    let request = ListKekVersionsRequest { parent: tenant.to_string() };
    let answer = client.call(client.keys().list_kek_versions(request)).await?;
    shell.print.views("kek_versions", &answer.kek_versions)
}
