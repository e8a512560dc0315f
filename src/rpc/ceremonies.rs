//! CeremonyService. What changes something outlives a caller who goes away.

use std::sync::Arc;
use std::time::Duration;

use tonic::{Request, Response, Status};

use super::answers::{self, Answers, End, Replies};
use super::call::{Call, Gate, settled, stopped};
use super::convert::{erasure_root, required, timestamp};
use super::proto::ceremony_service_server::CeremonyService;
use super::proto::propose_request::Action as Asked;
use super::proto::{
    self, ApproveRequest, CancelRequest, GetCeremonyRequest, GetEscrowRequest, GetRosterRequest,
    ListCeremoniesRequest, ListCeremoniesResponse, ProposeRequest, Transcript,
};
use super::status::status;
use crate::access::permission;
use crate::audit::{Outcome, Pending};
use crate::id::{AccountName, CeremonyId, CustodianId, KeyName, RosterVersion, TenantName};
use crate::keyring::ceremony::{Action, State};
use crate::keyring::credential::CredentialId;
use crate::keyring::custodian::Custodian;
use crate::keyring::roster::Roster;
use crate::ops::Error;
use crate::ops::ceremony::{CeremonyInfo, Proposal};

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
        let mut call = self.0.call(&request, "ceremony-propose", "ceremonies");
        let ProposeRequest { reason, lasts, action } = request.into_inner();
        let work = async move {
            settled!(call, {
                let (vault, right) = call.authorize::<permission::ProposeCeremony>(())?;
                check_reason(&reason)?;
                let lasts = lasts.map(Duration::try_from).transpose();
                let lasts = lasts.map_err(|_| Error::Argument("lasts: no length of time".into()))?;
                let proposal = proposal(required(action, "an action")?)?;
                let info = vault.propose(&right, proposal, &reason, lasts.unwrap_or(LASTS)).await?;
                Ok(info.map(|info| ceremony(&info)))
            })
        };
        self.0.detached(work).await.map(Response::new)
    }

    async fn get_ceremony(
        &self,
        request: Request<GetCeremonyRequest>,
    ) -> Result<Response<proto::Ceremony>, Status> {
        let mut call = self.0.call(&request, "get-ceremony", &request.get_ref().name);
        let name = request.into_inner().name;
        Ok(Response::new(ceremony(&settled!(call, { look(&mut call, &name).await })?)))
    }

    async fn list_ceremonies(
        &self,
        request: Request<ListCeremoniesRequest>,
    ) -> Result<Response<ListCeremoniesResponse>, Status> {
        let mut call = self.0.call(&request, "list-ceremonies", "ceremonies");
        let all = settled!(call, {
            let (vault, right) = call.authorize::<permission::ViewCeremonies>(())?;
            vault.list_ceremonies(&right).await
        })?;
        Ok(Response::new(ListCeremoniesResponse { ceremonies: all.iter().map(ceremony).collect() }))
    }

    async fn approve(&self, request: Request<ApproveRequest>) -> Result<Response<proto::Ceremony>, Status> {
        let mut call = self.0.call(&request, "ceremony-approve", &request.get_ref().name);
        let (message, gate) = (request.into_inner(), self.0.clone());
        let work = async move {
            let info = settled!(call, {
                let id = CeremonyId::parse_name(&message.name)?;
                let (vault, right) = call.authorize::<permission::ApproveCeremony>(())?;
                let custodian = CustodianId::new(&message.custodian)?;
                vault.approve(&right, id, &custodian, &message.signature).await
            })?;
            if info.record.state == State::Executing {
                go_on_with_ceremony(&gate, info.id);
            }
            Ok(Response::new(ceremony(&info)))
        };
        self.0.detached(work).await
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<proto::Ceremony>, Status> {
        let mut call = self.0.call(&request, "ceremony-cancel", &request.get_ref().name);
        let CancelRequest { name, reason } = request.into_inner();
        let work = async move {
            settled!(call, {
                let id = CeremonyId::parse_name(&name)?;
                let (vault, right) = call.authorize::<permission::ProposeCeremony>(())?;
                check_reason(&reason)?;
                Ok(vault.cancel_ceremony(&right, id, &reason).await?.map(|info| ceremony(&info)))
            })
        };
        self.0.detached(work).await.map(Response::new)
    }

    type WatchStream = Answers<proto::Ceremony>;

    async fn watch(
        &self,
        request: Request<GetCeremonyRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut call = self.0.call(&request, "watch-ceremony", &request.get_ref().name);
        let name = request.into_inner().name;
        let ending = call.ending();
        let first = settled!(call, { look(&mut call, &name).await })?;
        let gate = self.0.clone();
        let work = |seen| show_changes(gate, first, seen);
        Ok(Response::new(answers::made_by(&self.0, ending, QUEUE, work)))
    }

    async fn get_roster(
        &self,
        request: Request<GetRosterRequest>,
    ) -> Result<Response<proto::Roster>, Status> {
        let mut call = self.0.call(&request, "get-roster", "rosters");
        let found = settled!(call, {
            let (vault, right) = call.authorize::<permission::ViewCeremonies>(())?;
            vault.show_roster(&right).await
        })?;
        Ok(Response::new(found.map(roster).unwrap_or_default()))
    }

    async fn get_transcript(
        &self,
        request: Request<GetCeremonyRequest>,
    ) -> Result<Response<Transcript>, Status> {
        let mut call = self.0.call(&request, "get-transcript", &request.get_ref().name);
        let name = request.into_inner().name;
        let json = settled!(call, {
            let id = CeremonyId::parse_name(&name)?;
            let (vault, right) = call.authorize::<permission::ViewCeremonies>(())?;
            vault.transcript(&right, id).await
        })?;
        Ok(Response::new(Transcript { json }))
    }

    async fn get_escrow(
        &self,
        request: Request<GetEscrowRequest>,
    ) -> Result<Response<proto::Escrow>, Status> {
        let mut call = self.0.call(&request, "get-escrow", "roots");
        let text = settled!(call, {
            let (vault, right) = call.authorize::<permission::ProposeCeremony>(())?;
            vault.escrow_file(&right).await
        })?;
        Ok(Response::new(proto::Escrow { text }))
    }
}

async fn look(call: &mut Call, name: &str) -> Result<crate::ops::Done<CeremonyInfo>, Error> {
    let id = CeremonyId::parse_name(name)?;
    let (vault, right) = call.authorize::<permission::ViewCeremonies>(())?;
    vault.show_ceremony(&right, id).await
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
        Asked::RotateTenant(name) => Proposal::Other(Action::RotateTenant(TenantName::parse(&name)?.0)),
        Asked::Destroy(name) => Proposal::Other(Action::Destroy(name)),
        Asked::Unfreeze(name) => Proposal::Other(Action::Unfreeze(name)),
        Asked::SetMinVersion(set) => {
            Proposal::SetMinVersion { key: KeyName::parse(&set.name)?, version: set.version }
        }
        Asked::MakeAdministrator(to) => {
            let credential = to.credential[..]
                .try_into()
                .map_err(|_| Error::Argument("credential has 32 bytes".into()))?;
            Proposal::Other(Action::MakeAdministrator {
                account: AccountName::parse(&to.account)?.0,
                credential: CredentialId(credential),
            })
        }
        Asked::ForgetErasureRoot(id) => Proposal::Other(Action::ForgetErasureRoot(erasure_root(&id)?)),
        Asked::MoveTenant(to) => Proposal::Other(Action::MoveTenant {
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
                let mut record = Pending::begin(audit, None, "ceremony-end", format!("ceremonies/{id}"), 0);
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
