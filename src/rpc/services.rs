//! All services, put together.

use std::sync::Arc;
use std::time::Duration;

use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthReporter;

use super::access::Access;
use super::admission::{CALL, Served, Sizes};
use super::audit::Audit;
use super::backup::Backups;
use super::batch::{self, Shape};
use super::call::{Gate, stopped};
use super::ceremonies::CeremonyDesk;
use super::crypto::Crypto;
use super::keys::Keys;
use super::login::Logins;
use super::proto::DESCRIPTORS;
use super::proto::access_service_server::AccessServiceServer;
use super::proto::audit_service_server::AuditServiceServer;
use super::proto::backup_service_server::BackupServiceServer;
use super::proto::ceremony_service_server::CeremonyServiceServer;
use super::proto::crypto_service_server::CryptoServiceServer;
use super::proto::key_service_server::KeyServiceServer;
use super::proto::login_service_server::LoginServiceServer;
use super::proto::system_service_server::SystemServiceServer;
use super::system::System;
use crate::access::Action;
use crate::audit::{Outcome, Pending};
use crate::config::Limits;
use crate::id::TenantId;

/// How often it is looked whether calls are served.
const LOOK: Duration = Duration::from_millis(100);

/// What answers for the health of the services, whatever their limits.
#[derive(Clone)]
pub struct Health<H: tonic_health::pb::health_server::Health> {
    /// Says how they are.
    pub reporter: HealthReporter,
    server: HealthServer<H>,
}

/// The health of services, of which nothing is said yet.
#[must_use]
pub fn health() -> Health<impl tonic_health::pb::health_server::Health> {
    let (reporter, server) = tonic_health::server::health_reporter();
    Health { reporter, server }
}

/// The services behind one gate, with the limits of a configuration.
///
/// # Errors
/// When the descriptors compiled into the program do not decode.
pub fn services<H: tonic_health::pb::health_server::Health>(
    gate: &Arc<Gate>,
    health: &Health<H>,
    limits: &Limits,
) -> Result<Served, tonic_reflection::server::Error> {
    let sizes = Sizes::of(limits);
    let crypto = Arc::new(Crypto(gate.clone()));
    let data = CryptoServiceServer::from_arc(crypto.clone())
        .max_decoding_message_size(sizes.field)
        .max_encoding_message_size(usize::MAX);
    // What is not about data is short.
    macro_rules! short {
        ($server:expr) => {
            $server.max_decoding_message_size(sizes.other)
        };
    }
    let desk = CeremonyServiceServer::new(CeremonyDesk(gate.clone()));
    let shape = Shape { items: limits.batch_items, bytes: sizes.batch };
    let described = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    // Of many tools the released version asks by the old name alone.
    let (reflection, as_before) = (described().build_v1()?, described().build_v1alpha()?);
    let system = System(gate.clone());
    let routes = Routes::default()
        .add_service(data)
        .add_service(short!(KeyServiceServer::new(Keys(gate.clone()))))
        .add_service(short!(AccessServiceServer::new(Access(gate.clone()))))
        .add_service(desk.max_decoding_message_size(sizes.ceremony))
        .add_service(short!(LoginServiceServer::new(Logins(gate.clone()))))
        .add_service(short!(AuditServiceServer::new(Audit(gate.clone()))))
        .add_service(short!(BackupServiceServer::new(Backups(gate.clone()))))
        .add_service(short!(SystemServiceServer::new(system)))
        .add_service(health.server.clone().max_decoding_message_size(CALL))
        .add_service(reflection.max_decoding_message_size(CALL))
        .add_service(as_before.max_decoding_message_size(CALL));
    Ok(Served::new(batch::route(routes, &crypto, shape), limits))
}

/// Tells health checks whether calls are served: for the server as a whole and for each service
/// that works with keys.
pub async fn report_health(reporter: &HealthReporter, serving: bool) {
    let status = if serving { ServingStatus::Serving } else { ServingStatus::NotServing };
    for service in ["", "keyward.v1.CryptoService", "keyward.v1.KeyService", "keyward.v1.LoginService"] {
        reporter.set_service_status(service, status).await;
    }
}

/// Keeps [`report_health`] true, until the daemon stops.
pub async fn follow_health(gate: Arc<Gate>, reporter: HealthReporter) {
    let (mut stop, mut told) = (gate.shutdown(), false);
    let mut tick = tokio::time::interval(LOOK);
    while !*stop.borrow() {
        let serving = gate.vault().is_ok();
        if serving != told {
            report_health(&reporter, serving).await;
            told = serving;
        }
        tokio::select! {
            _ = tick.tick() => {}
            () = stopped(&mut stop) => {}
        }
    }
    report_health(&reporter, false).await;
}

/// Replaces the erasure key when it is due, until the daemon stops.
pub fn keep_erasure_key(gate: &Arc<Gate>) {
    let Some(vault) = gate.vault.get().cloned() else { return };
    let mut stop = gate.shutdown();
    gate.spawn(async move {
        tokio::select! {
            // What is not finished now is finished after the next start.
            () = stopped(&mut stop) => {}
            () = vault.keep_erasure_key() => {}
        }
    });
}

/// Finishes a tenant's rotation in the background, and records that.
pub fn go_on_rotating(gate: &Arc<Gate>, tenant: TenantId) {
    let Some(vault) = gate.vault.get().cloned() else { return };
    let audit = gate.audit.clone();
    let mut stop = gate.shutdown();
    gate.spawn(async move {
        let resource = format!("tenants/{tenant}");
        tokio::select! {
            // What is not finished now is found again at the next start.
            () = stopped(&mut stop) => {}
            finished = vault.resume_rotation(tenant) => if let Some((name, change)) = finished {
                let mut record = Pending::begin(audit, None, Action::RotateTenantEnd, resource, 0);
                record.change(change);
                record.detail(name.to_string());
                match record.finish(Outcome::Ok) {
                    Ok(_) => tracing::info!(rotation = %name, "rotation finished"),
                    Err(error) => tracing::error!(rotation = %name, %error, "rotation finished, not recorded"),
                }
            }
        }
    });
}
