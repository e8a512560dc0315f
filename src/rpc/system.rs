//! SystemService: the state of the daemon. It answers while nothing else does,
//! so it needs neither the vault nor a writable audit log.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::access::check_reason;
use super::call::Gate;
use super::convert::{stray, timestamp};
use super::proto::status::Serving;
use super::proto::system_service_server::SystemService;
use super::proto::{
    self, AcceptClockRequest, AcceptClockResponse, CheckStoreRequest, ExportStoreRequest, GetStatusRequest,
    StoreReport,
};
use super::status::status;
use super::upkeep;
use crate::access::action;
use crate::access::caller::Principal;
use crate::access::permission::ViewStatus;
use crate::clock::Date;
use crate::config::value::Role;
use crate::hsm::figures::{CacheFigures, Objects};
use crate::hsm::{self, SlotState, SlotStatus};
use crate::id::Installation;
use crate::keyring::record::Custody;
use crate::keyring::timekeeping::Verdict;
use crate::ops::strays::Looked;
use crate::ops::{Done, Error, Vault};
use crate::secret;

/// The service.
pub(super) struct System(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl SystemService for System {
    type ExportStoreStream = upkeep::Pieces;

    async fn get_status(
        &self,
        request: Request<GetStatusRequest>,
    ) -> Result<Response<proto::Status>, Status> {
        let gate = &self.0;
        let caller = gate.caller(&request);
        let right = gate
            .policy
            .authorize::<ViewStatus>(&caller, Installation)
            .map_err(|denied| status(&denied.into()))?;
        let (serving, reason) = gate.serving();
        let vault = gate.vault.get();
        let looked = vault.map(|vault| vault.strays());
        // What is wrong with a file names other principals.
        let known = caller.principal.as_ref();
        let looks_after = known.is_some_and(|known| known.role() == Role::Operator || known.is_own_user());
        let configuration = gate.reloads.in_force().for_whom(looks_after);
        Ok(Response::new(proto::Status {
            serving: serving.into(),
            reason,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            start_time: Some(timestamp(gate.started)),
            hsm: Some(self.hsm()),
            store: vault.map(|vault| store(vault)),
            audit: Some(proto::status::Audit {
                sequence: gate.audit.durable(),
                writable: gate.audit.check().is_ok(),
            }),
            root: vault.map(|vault| root(vault)),
            cache: vault.map(|vault| cache(vault.cache_stats())),
            kek_cache: Some(cache(gate.hsm.keks())),
            audit_checkpoint: gate.audit.checkpoint().map_or(0, |note| note.checkpoint.head.size),
            audit_checkpoint_failure: vault.and_then(|vault| vault.checkpoint_failure()).unwrap_or_default(),
            erasure: erasure(vault.map(AsRef::as_ref)).await,
            principal: right.principal().to_string(),
            secret_memory: secret::protection().unwrap_or_default().to_owned(),
            capacity_warning: scarce(&gate.hsm.slots()).unwrap_or_default(),
            stray_warning: looked.as_ref().and_then(Looked::warning).unwrap_or_default(),
            strays: looked.map(strays),
            schedule: Some(schedule(vault.map(AsRef::as_ref)).await),
            configuration_warning: configuration.warning().unwrap_or_default(),
            configuration: Some(configuration.into()),
            role: caller.principal.map(|known| role(&known).to_owned()).unwrap_or_default(),
        }))
    }

    async fn accept_clock(
        &self,
        request: Request<AcceptClockRequest>,
    ) -> Result<Response<AcceptClockResponse>, Status> {
        let work = |asked: AcceptClockRequest, vault: Arc<Vault>, right| async move {
            check_reason(&asked.reason)?;
            let accepted = vault.accept_clock(&right, &asked.reason).await?;
            Ok(accepted.map(|date| AcceptClockResponse { time: Some(timestamp(date)) }))
        };
        self.0.serve(action::ClockAccept, request, work).await
    }

    async fn reload(
        &self,
        request: Request<proto::ReloadRequest>,
    ) -> Result<Response<proto::ReloadResponse>, Status> {
        let work = |_, gate: Arc<Gate>, right| async move {
            Ok(Done::new(gate.reloads.reload(&right).await?.into()))
        };
        self.0.serve(action::Reload, request, work).await
    }

    async fn check_store(
        &self,
        request: Request<CheckStoreRequest>,
    ) -> Result<Response<StoreReport>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            Ok(vault.check_store(&right).await?.map(|found| upkeep::report(&found)))
        };
        self.0.serve(action::CheckStore, request, work).await
    }

    async fn export_store(
        &self,
        request: Request<ExportStoreRequest>,
    ) -> Result<Response<Self::ExportStoreStream>, Status> {
        Ok(Response::new(upkeep::export(&self.0, &request)))
    }
}

/// What is done by date, and why it is not.
async fn schedule(vault: Option<&Vault>) -> proto::status::Schedule {
    let Some(vault) = vault else {
        return proto::status::Schedule { clock: "unknown".to_owned(), ..Default::default() };
    };
    let status = vault.schedule_status();
    let clock = match status.verdict {
        None => "unknown",
        Some(Verdict::Trusted) => "trusted",
        Some(Verdict::Behind { .. }) => "behind",
        Some(Verdict::Ahead { .. }) => "ahead",
    };
    // Of what is due nothing is done while a line of the agenda is missing, so it must be said.
    let (next, unread) = match vault.next_due().await {
        Ok(next) => (next, None),
        Err(error) => (None, Some(format!("the agenda cannot be read: {error}"))),
    };
    proto::status::Schedule {
        clock: clock.to_owned(),
        reason: status.verdict.and_then(Verdict::reason).or(unread).unwrap_or_default(),
        high_water_time: (status.high > Date(0)).then(|| timestamp(status.high)),
        leading: status.leading,
        next_due_time: next.map(timestamp),
    }
}

impl Gate {
    fn serving(&self) -> (Serving, String) {
        match (self.vault(), &*self.hsm.status().borrow()) {
            (Err(Error::NotReady(reason)), _) => (Serving::NotServing, reason),
            (Err(error), _) => (Serving::NotServing, error.to_string()),
            (Ok(_), hsm::Status::Ready { .. }) => match missing(&self.hsm.slots()) {
                None => (Serving::Ready, String::new()),
                Some(reason) => (Serving::Degraded, reason),
            },
            (Ok(_), away) => (Serving::Degraded, words(away).1),
        }
    }

    /// How the daemon is: `serving`, or what is missing.
    pub fn state_in_words(&self) -> String {
        match self.serving() {
            (Serving::Ready, _) => "serving".to_owned(),
            (Serving::Degraded, reason) => format!("degraded: {reason}"),
            // What is waited for is told a moment after the HSM is known to be away.
            (_, waiting) => format!("not serving: {}", self.away_from_the_start().unwrap_or(waiting)),
        }
    }

    /// Why the HSM is away, while the vault was never open.
    fn away_from_the_start(&self) -> Option<String> {
        let status = self.hsm.status();
        let reason = words(&status.borrow()).1;
        (self.vault.get().is_none() && !reason.is_empty()).then_some(reason)
    }
}

impl System {
    fn hsm(&self) -> proto::status::Hsm {
        let receiver = self.0.hsm.status();
        let status = receiver.borrow();
        let (state, reason) = words(&status);
        let figures = self.0.hsm.figures();
        let (epoch, token) = match &*status {
            hsm::Status::Ready { epoch, token } => (*epoch, token.clone()),
            _ => Default::default(),
        };
        proto::status::Hsm {
            state: if reason.is_empty() { state.to_owned() } else { format!("{state}: {reason}") },
            epoch,
            token_label: token.label,
            token_serial: token.serial,
            manufacturer: token.manufacturer,
            model: token.model,
            operations: figures.operations,
            losses: figures.losses,
            repeated: figures.repeated,
            unanswered: figures.unanswered,
            slots: self.0.hsm.slots().into_iter().map(slot).collect(),
        }
    }
}

/// Why some token of the group does not serve.
fn missing(slots: &[SlotStatus]) -> Option<String> {
    slots
        .iter()
        .find_map(|slot| Some(format!("the token with {} is missing: {}", slot.name, slot.state.reason()?)))
}

/// Which token has nearly as many keys as it may.
fn scarce(slots: &[SlotStatus]) -> Option<String> {
    slots.iter().find_map(|slot| {
        let Objects { own, limit, .. } = slot.objects.filter(|objects| objects.is_scarce())?;
        let name = &slot.name;
        Some(format!("the token with {name} has {own} keys of Keyward; hsm.max_objects allows {limit}"))
    })
}

fn slot(slot: SlotStatus) -> proto::status::Slot {
    let reason = slot.state.reason().unwrap_or_default().to_owned();
    let (state, epoch, token_serial) = match slot.state {
        SlotState::Starting => ("starting", 0, String::new()),
        SlotState::Ready { epoch, token } => ("ready", epoch, token.serial),
        SlotState::Down(_) => ("down", 0, String::new()),
        SlotState::Refused(_) => ("refused", 0, String::new()),
        SlotState::Foreign(_) => ("foreign", 0, String::new()),
    };
    let Objects { total, own, limit } = slot.objects.unwrap_or_default();
    let confinement = slot.confinement.map(|confined| confined.to_string()).unwrap_or_default();
    proto::status::Slot {
        name: slot.name,
        state: state.to_owned(),
        reason,
        epoch,
        token_serial,
        objects: total as u64,
        own_objects: own as u64,
        max_objects: limit as u64,
        confinement,
    }
}

fn words(status: &hsm::Status) -> (&'static str, String) {
    match status {
        hsm::Status::Starting => ("starting", String::new()),
        hsm::Status::Ready { .. } => ("ready", String::new()),
        hsm::Status::Down { reason } => ("down", reason.clone()),
        hsm::Status::Refused { reason } => ("refused", reason.clone()),
    }
}

fn store(vault: &Vault) -> proto::status::Store {
    let stats = vault.records().stats();
    proto::status::Store {
        backend: vault.records().backend().to_owned(),
        revision: stats.revision,
        records: stats.records,
        journal_bytes: stats.journal_bytes,
    }
}

fn root(vault: &Vault) -> proto::status::Root {
    let root = vault.root();
    let custody = match root.custody {
        Custody::Unfounded => "unfounded",
        Custody::Founded => "founded",
    };
    proto::status::Root {
        generation: root.generation.get(),
        custody: custody.to_owned(),
        create_time: Some(timestamp(root.created)),
        deployment: root.deployment.to_string(),
    }
}

/// The erasure key; nothing when its records cannot be read, which others tell.
async fn erasure(vault: Option<&Vault>) -> Option<proto::status::Erasure> {
    let key = vault?.erasure_status().await.ok()?;
    Some(proto::status::Erasure {
        generation: key.generation.get(),
        create_time: Some(timestamp(key.created)),
        age: Date::now().millis().saturating_sub(key.created.millis()) / 1000,
        replacing: key.replacing.as_str().to_owned(),
    })
}

fn strays(looked: Looked) -> proto::status::Strays {
    proto::status::Strays {
        look_time: looked.at.map(timestamp),
        failure: looked.failure.unwrap_or_default(),
        keys: looked.found.iter().map(stray).collect(),
    }
}

fn cache(figures: CacheFigures) -> proto::status::Cache {
    proto::status::Cache {
        entries: figures.entries,
        hits: figures.hits,
        misses: figures.misses,
        expired: figures.expired,
        used_up: figures.used_up,
        flushed: figures.flushed,
        evicted: figures.evicted,
    }
}

fn role(known: &Principal) -> &'static str {
    match known.role() {
        _ if known.is_own_user() => "own-user",
        Role::Application => "application",
        Role::Operator => "operator",
        Role::Member => "member",
        Role::Monitor => "monitor",
    }
}
