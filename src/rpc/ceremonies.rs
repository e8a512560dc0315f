//! CeremonyService. What changes something outlives a caller who goes away.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::answers::{self, Answers, End, Replies};
use super::call::{Ending, Gate, stopped};
use super::convert::{erasure_root, required, timestamp};
use super::proto::ceremony_service_server::CeremonyService;
use super::proto::propose_request::Action as Asked;
use super::proto::{
    self, ApproveRequest, CancelRequest, GetCeremonyRequest, GetEscrowRequest, GetRosterRequest,
    ListCeremoniesRequest, ListCeremoniesResponse, ProposeRequest, Transcript,
};
use super::status::status;
use crate::access::{Action, action};
use crate::audit::{Outcome, Pending};
use crate::id::{AccountName, CeremonyId, CustodianId, KeyName, RosterVersion, TenantName};
use crate::keyring::ceremony::{CeremonyAction, State};
use crate::keyring::credential::CredentialId;
use crate::keyring::custodian::Custodian;
use crate::keyring::roster::Roster;
use crate::ops::ceremony::{CeremonyInfo, Proposal};
use crate::ops::{Error, Vault};

/// How long approvals are collected unless the proposer says otherwise.
const LASTS: Duration = Duration::from_secs(3 * 24 * 3600);
/// Longest reason in bytes.
const MAX_REASON: usize = 500;
/// Changes that may wait for a slow watcher.
const QUEUE: usize = 4;
/// How often a watched ceremony is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// The service.
pub(super) struct CeremonyDesk(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl CeremonyService for CeremonyDesk {
    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<proto::Ceremony>, Status> {
        let work = |asked: ProposeRequest, vault: Arc<Vault>, right| async move {
            check_reason(&asked.reason)?;
            let lasts = asked.lasts.map(Duration::try_from).transpose();
            let lasts = lasts.map_err(|_| Error::Argument("lasts: no length of time".into()))?;
            let proposal = proposal(required(asked.action, "an action")?)?;
            let info = vault.propose(&right, proposal, &asked.reason, lasts.unwrap_or(LASTS)).await?;
            Ok(info.map(|info| ceremony(&info)))
        };
        self.0.serve(action::CeremonyPropose, request, work).await
    }

    async fn get_ceremony(
        &self,
        request: Request<GetCeremonyRequest>,
    ) -> Result<Response<proto::Ceremony>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            Ok(vault.show_ceremony(&right).await?.map(|info| ceremony(&info)))
        };
        self.0.serve(action::GetCeremony, request, work).await
    }

    async fn list_ceremonies(
        &self,
        request: Request<ListCeremoniesRequest>,
    ) -> Result<Response<ListCeremoniesResponse>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            let all = vault.list_ceremonies(&right).await?;
            Ok(all.map(|all| ListCeremoniesResponse { ceremonies: all.iter().map(ceremony).collect() }))
        };
        self.0.serve(action::ListCeremonies, request, work).await
    }

    async fn approve(&self, request: Request<ApproveRequest>) -> Result<Response<proto::Ceremony>, Status> {
        let work = |asked: ApproveRequest, vault: Arc<Vault>, right| async move {
            let custodian = CustodianId::new(&asked.custodian)?;
            vault.approve(&right, &custodian, &asked.signature).await
        };
        let go_on = |gate: &Arc<Gate>, info: CeremonyInfo| {
            if info.record.state == State::Executing {
                go_on_with_ceremony(gate, info.id);
            }
            ceremony(&info)
        };
        self.0.serve_then(action::CeremonyApprove, request, work, go_on).await
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<proto::Ceremony>, Status> {
        let work = |asked: CancelRequest, vault: Arc<Vault>, right| async move {
            check_reason(&asked.reason)?;
            Ok(vault.cancel_ceremony(&right, &asked.reason).await?.map(|info| ceremony(&info)))
        };
        self.0.serve(action::CeremonyCancel, request, work).await
    }

    type WatchStream = Answers<proto::Ceremony>;

    async fn watch(
        &self,
        request: Request<GetCeremonyRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let ending = Ending::new(&self.0, &self.0.caller(&request));
        let work = |_, vault: Arc<Vault>, right| async move { vault.show_ceremony(&right).await };
        let first = |gate: &Arc<Gate>, first| {
            let shown = gate.clone();
            answers::made_by(gate, ending, QUEUE, |seen| show_changes(shown, first, seen))
        };
        self.0.serve_then(action::WatchCeremony, request, work, first).await
    }

    async fn get_roster(
        &self,
        request: Request<GetRosterRequest>,
    ) -> Result<Response<proto::Roster>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            let found = vault.show_roster(&right).await?;
            Ok(found.map(|found| found.map(roster).unwrap_or_default()))
        };
        self.0.serve(action::GetRoster, request, work).await
    }

    async fn get_transcript(
        &self,
        request: Request<GetCeremonyRequest>,
    ) -> Result<Response<Transcript>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            Ok(vault.transcript(&right).await?.map(|json| Transcript { json }))
        };
        self.0.serve(action::GetTranscript, request, work).await
    }

    async fn get_escrow(
        &self,
        request: Request<GetEscrowRequest>,
    ) -> Result<Response<proto::Escrow>, Status> {
        let work = |_, vault: Arc<Vault>, right| async move {
            Ok(vault.escrow_file(&right).await?.map(|text| proto::Escrow { text }))
        };
        self.0.serve(action::GetEscrow, request, work).await
    }
}

/// Tells the ceremony whenever it has changed, until its end, the daemon's, or the watcher's.
async fn show_changes(
    gate: Arc<Gate>,
    first: CeremonyInfo,
    mut seen: Replies<proto::Ceremony>,
) -> Result<(), Status> {
    let (id, mut stop) = (first.id, gate.shutdown());
    let mut last = ceremony(&first);
    let mut tick = tokio::time::interval(LOOK);
    seen.send(last.clone()).await.map_err(End::status)?;
    while !matches!(last.state(), proto::ceremony::State::Done | proto::ceremony::State::Failed)
        && !matches!(last.state(), proto::ceremony::State::Expired | proto::ceremony::State::Cancelled)
    {
        tokio::select! {
            _ = tick.tick() => {}
            // A watcher that is told nothing would take the last state for the end.
            () = stopped(&mut stop) => return Err(status(&Error::ShuttingDown)),
            ended = seen.ended() => return Err(ended.status()),
        }
        let Some(vault) = gate.vault.get() else { return Ok(()) };
        // What cannot be read now is looked at again.
        let Ok(now) = vault.peek_ceremony(id).await else { continue };
        let now = ceremony(&now);
        if now != last {
            seen.send(now.clone()).await.map_err(End::status)?;
        }
        last = now;
    }
    Ok(())
}

fn check_reason(reason: &str) -> Result<(), Error> {
    match reason.trim().is_empty() || reason.len() > MAX_REASON {
        true => Err(Error::Argument(format!("reason: say why, in 1 to {MAX_REASON} bytes"))),
        false => Ok(()),
    }
}

fn proposal(asked: Asked) -> Result<Proposal, Error> {
    Ok(match asked {
        Asked::Found(found) => Proposal::Found { quorum: found.quorum, cards: found.cards },
        Asked::RotateRoot(_) => Proposal::RotateRoot,
        Asked::ChangeRoster(change) => {
            let remove = change.remove.iter().map(|name| CustodianId::new(name)).collect::<Result<_, _>>()?;
            let quorum = (change.quorum > 0).then_some(change.quorum);
            Proposal::ChangeRoster { quorum, add: change.add, remove }
        }
        Asked::RotateTenant(name) => {
            Proposal::Other(CeremonyAction::RotateTenant(TenantName::parse(&name)?.0))
        }
        Asked::Destroy(name) => Proposal::Other(CeremonyAction::Destroy(name)),
        Asked::Unfreeze(name) => Proposal::Other(CeremonyAction::Unfreeze(name)),
        Asked::SetMinVersion(set) => {
            Proposal::SetMinVersion { key: KeyName::parse(&set.name)?, version: set.version }
        }
        Asked::MakeAdministrator(to) => {
            let credential = to.credential[..]
                .try_into()
                .map_err(|_| Error::Argument("credential has 32 bytes".into()))?;
            Proposal::Other(CeremonyAction::MakeAdministrator {
                account: AccountName::parse(&to.account)?.0,
                credential: CredentialId(credential),
            })
        }
        Asked::ForgetErasureRoot(id) => {
            Proposal::Other(CeremonyAction::ForgetErasureRoot(erasure_root(&id)?))
        }
        Asked::MoveTenant(to) => Proposal::Other(CeremonyAction::MoveTenant {
            tenant: TenantName::parse(&to.name)?.0,
            resident: to.resident,
        }),
    })
}

fn ceremony(info: &CeremonyInfo) -> proto::Ceremony {
    let record = &info.record;
    let approvals = record.approvals.iter().map(|approval| proto::Approval {
        custodian: approval.custodian.to_string(),
        time: Some(timestamp(approval.date)),
    });
    let missing = if record.state.is_open() { record.missing(&info.members) } else { Vec::new() };
    proto::Ceremony {
        name: format!("ceremonies/{}", info.id),
        action: record.action.as_str().to_owned(),
        state: state(record.state).into(),
        statement: record.statement.clone(),
        proposer: record.proposer.clone(),
        create_time: Some(timestamp(record.created)),
        expire_time: Some(timestamp(record.expires)),
        deployment: info.deployment.0.to_vec().into(),
        roster_digest: record.roster_digest.to_vec().into(),
        needed: u32::try_from(record.needed(&info.members)).unwrap_or(u32::MAX),
        approvals: approvals.collect(),
        missing: missing.into_iter().map(ToString::to_string).collect(),
        custodians: info.members.custodians().iter().map(custodian).collect(),
        step: record.progress.step.clone(),
        done: record.progress.done,
        total: record.progress.total,
        finish_time: record.finished.map(timestamp),
        outcome: record.outcome.clone().unwrap_or_default(),
        waiting_for: info.waiting_for.clone().unwrap_or_default(),
    }
}

fn state(state: State) -> proto::ceremony::State {
    match state {
        State::Proposed => proto::ceremony::State::Proposed,
        State::Collecting => proto::ceremony::State::Collecting,
        State::Executing => proto::ceremony::State::Executing,
        State::Done => proto::ceremony::State::Done,
        State::Expired => proto::ceremony::State::Expired,
        State::Cancelled => proto::ceremony::State::Cancelled,
        State::Failed => proto::ceremony::State::Failed,
    }
}

fn custodian(custodian: &Custodian) -> proto::Custodian {
    proto::Custodian {
        name: custodian.name().to_string(),
        kind: custodian.signing().kind().as_str().to_owned(),
        algorithm: custodian.signing().algorithm().as_str().to_owned(),
        signing_key: custodian.signing().spki().to_vec().into(),
        agreement_key: custodian.agreement().spki().to_vec().into(),
        certificate: custodian.certificate().map(|found| found.der().to_vec().into()).unwrap_or_default(),
    }
}

fn roster((version, roster): (RosterVersion, Roster)) -> proto::Roster {
    proto::Roster {
        name: format!("rosters/{version}"),
        quorum: roster.members.quorum().get().into(),
        custodians: roster.members.custodians().iter().map(custodian).collect(),
        digest: roster.members.digest().to_vec().into(),
        ceremony: format!("ceremonies/{}", roster.ceremony),
        create_time: Some(timestamp(roster.created)),
    }
}

/// Executes an approved ceremony in the background, and records its end.
pub fn go_on_with_ceremony(gate: &Arc<Gate>, id: CeremonyId) {
    let Some(vault) = gate.vault.get().cloned() else { return };
    let audit = gate.audit.clone();
    let mut stop = gate.shutdown();
    gate.spawn(async move {
        tokio::select! {
            // What is not finished now is found again at the next start.
            () = stopped(&mut stop) => {}
            ended = vault.resume_ceremony(id) => if let Some((info, change)) = ended {
                let mut record = Pending::begin(audit, None, Action::CeremonyEnd, format!("ceremonies/{id}"), 0);
                record.change(change);
                let outcome = info.record.outcome.unwrap_or_default();
                record.detail(outcome.clone());
                let ended = match info.record.state {
                    State::Done => Outcome::Ok,
                    _ => Outcome::Failed("CEREMONY_FAILED".to_owned()),
                };
                match record.finish(ended) {
                    Ok(_) => tracing::info!(ceremony = %id, outcome, "ceremony ended"),
                    Err(error) => tracing::error!(ceremony = %id, %error, "ceremony ended, not recorded"),
                }
            }
        }
    });
}
