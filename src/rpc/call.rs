//! One call from arrival to reply: caller, authorisation, work, record.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::{Request, Status};

use super::admission::Connection;
use super::reload::Reloads;
use super::staff::{self, Shown};
use super::status::status;
use super::tally::TurnedAway;
use crate::access::meter::Load;
use crate::access::{Action, Authorized, Caller, Denied, Peer, Permission, Policy, permission};
use crate::audit::refusals::Budget;
use crate::audit::{self, AuditLog, Committed, Outcome, Pending, Refusals};
use crate::clock::{Date, Moment};
use crate::hsm::Hsm;
use crate::id::PrincipalId;
use crate::ops::acting::Acting;
use crate::ops::done::Trace;
use crate::ops::error::Reason;
use crate::ops::{Done, Error, Vault};

/// The outcome of a batch of which nothing was done.
const REFUSED: &str = "REFUSED";
/// What a count calls calls whose caller went away before it had said what it wants.
const CANCELLED: &str = "CANCELLED";

/// What every service shares.
pub struct Gate {
    /// Who may do what.
    pub policy: Arc<Policy>,
    /// Where records go.
    pub audit: Arc<dyn AuditLog>,
    /// Who was turned away before being served.
    pub turned_away: TurnedAway,
    /// The HSM, for status.
    pub hsm: Arc<dyn Hsm>,
    /// The vault, once it is open.
    pub vault: OnceLock<Arc<Vault>>,
    /// Why the vault is not open yet.
    pub waiting_for: watch::Receiver<String>,
    /// When the daemon started.
    pub(super) started: Date,
    /// Asks for reloads of the configuration.
    pub(super) reloads: Reloads,
    next_request: AtomicU64,
    shutting_down: watch::Sender<bool>,
    cutting: watch::Sender<bool>,
    /// Calls, the tasks that work on them, and answers that are not read yet: shutdown waits for them.
    tasks: TaskTracker,
    /// What was refused, beyond what has a record of its own.
    refusals: Arc<Refusals>,
}

/// Characters of a resource that a record has: what a caller writes there goes to the log.
pub(super) const RESOURCE: usize = 200;

/// A resource as records have it.
pub(super) fn short(resource: &str) -> &str {
    // Nearly every one ends here: so many bytes are not more characters.
    if resource.len() <= RESOURCE {
        return resource;
    }
    let end = resource.char_indices().nth(RESOURCE).map_or(resource.len(), |(end, _)| end);
    resource.get(..end).unwrap_or_default()
}

/// One call.
pub(super) struct Call {
    gate: Arc<Gate>,
    caller: Caller,
    action: Action,
    /// What it shows of the staff member whom the caller acts for, until that is verified.
    shown: Result<Option<Shown>, Error>,
    pending: Pending,
    request_id: u64,
    /// Whoever waits for the record of this call sees by it that the call has ended.
    alive: Arc<()>,
    /// Shutdown waits until this is gone: until the call has its record.
    _working: TaskTrackerToken,
    /// What it has in flight, which counts until it is answered, even when its caller does not wait for that.
    _load: Option<Arc<Load>>,
}

impl Gate {
    /// A gate before a vault that is not open yet. `refusals` is how many of one principal have a record of their own.
    ///
    /// # Errors
    /// When the operating system has no randomness.
    pub fn new(
        policy: Arc<Policy>,
        audit: Arc<dyn AuditLog>,
        hsm: Arc<dyn Hsm>,
        waiting_for: watch::Receiver<String>,
        refusals: Budget,
        reloads: Reloads,
    ) -> Result<Arc<Self>, getrandom::Error> {
        let mut start = [0; 8];
        getrandom::fill(&mut start)?;
        let (tasks, shutting_down) = (TaskTracker::new(), watch::Sender::new(false));
        let refusals = Refusals::new(audit.clone(), refusals, tasks.clone(), shutting_down.subscribe());
        let gate = Self {
            policy,
            turned_away: TurnedAway::new(&audit),
            audit,
            hsm,
            vault: OnceLock::new(),
            waiting_for,
            started: Date::now(),
            reloads,
            // Random, so that ids of two runs are unlike; the low half counts.
            next_request: AtomicU64::new(u64::from_be_bytes(start) & 0xffff_ffff_0000_0000),
            shutting_down,
            cutting: watch::Sender::new(false),
            tasks,
            refusals,
        };
        Ok(Arc::new(gate))
    }

    /// How many refusals of one principal have a record of their own from now on.
    pub fn set_refusals(&self, budget: Budget) {
        self.refusals.set_budget(budget);
    }

    /// Refuses calls from now on.
    pub fn shut(&self) {
        self.shutting_down.send_replace(true);
        self.tasks.close();
    }

    /// Ends, after [`shut`](Self::shut), the streams that go on: each with its record and an error.
    pub fn cut(&self) {
        self.cutting.send_replace(true);
    }

    /// Waits, after [`shut`](Self::shut), until every call has its record and every stream was read.
    pub async fn idle(&self) {
        self.tasks.wait().await;
    }

    /// Turns true when the daemon stops: long-lived calls then come to their end.
    pub fn shutdown(&self) -> watch::Receiver<bool> {
        self.shutting_down.subscribe()
    }

    /// Turns true when a stop waits no longer: whatever goes on then ends with an error.
    pub(super) fn cutting(&self) -> watch::Receiver<bool> {
        self.cutting.subscribe()
    }

    /// Something that shutdown waits for.
    pub(super) fn token(&self) -> TaskTrackerToken {
        self.tasks.token()
    }

    /// Begins a call. `resource` is what it says it is about.
    pub(super) fn call<M>(self: &Arc<Self>, request: &Request<M>, action: Action, resource: &str) -> Call {
        let mut call = self.begin(self.caller(request), action, resource);
        call.shown = Shown::of(request.metadata());
        call._load = request.extensions().get().cloned();
        call
    }

    /// Begins a call of a caller who is known already, as the policy of now knows it.
    pub(super) fn call_by(self: &Arc<Self>, caller: Caller, action: Action, resource: &str) -> Call {
        self.begin(self.policy.again(&caller), action, resource)
    }

    fn begin(self: &Arc<Self>, caller: Caller, action: Action, resource: &str) -> Call {
        let request_id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (audit, resource) = (self.audit.clone(), short(resource));
        let pending = Pending::begin(audit, Some(recorded(&caller)), action, resource, request_id);
        let (gate, _working) = (self.clone(), self.token());
        let alive = Arc::default();
        Call { gate, caller, action, shown: Ok(None), pending, request_id, alive, _working, _load: None }
    }

    /// Who is calling.
    pub(super) fn caller<M>(&self, request: &Request<M>) -> Caller {
        Caller { client: staff::client(request.metadata()), ..self.policy.caller(peer(request)) }
    }

    /// Who opens a stream, and for whom. A record is left of one that is refused.
    pub(super) async fn stream_caller<M>(
        self: &Arc<Self>,
        request: &Request<M>,
        action: Action,
    ) -> Result<Caller, Status> {
        let mut caller = self.caller(request);
        let shown = Shown::of(request.metadata());
        match self.identify(&mut caller, shown, action).await {
            Ok(()) => Ok(caller),
            Err(error) => self.call_by(caller, action, "").settle(Err(error)).await,
        }
    }

    /// Verifies what a call shows of the staff member whom the caller acts for.
    async fn identify(
        &self,
        caller: &mut Caller,
        shown: Result<Option<Shown>, Error>,
        action: Action,
    ) -> Result<(), Error> {
        let shown = shown?;
        // An unknown caller is refused for that.
        let (Some(shown), Some(principal)) = (&shown, &caller.principal) else { return Ok(()) };
        if let Some(showing) = shown.showing(staff::method(action)) {
            caller.staff = Some(self.vault()?.staff(principal.name(), showing).await?);
        }
        Ok(())
    }

    /// The vault, unless it is not open or the daemon is stopping.
    pub(super) fn vault(&self) -> Result<&Arc<Vault>, Error> {
        if *self.shutting_down.borrow() {
            return Err(Error::ShuttingDown);
        }
        self.audit.check()?;
        self.vault.get().ok_or_else(|| Error::NotReady(self.waiting_for.borrow().clone()))
    }

    /// Runs work that must end even when the caller goes away.
    pub(super) async fn detached<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        match self.spawn(work).await {
            Ok(answer) => answer,
            Err(panicked) => Err(status(&Error::Internal(panicked.to_string()))),
        }
    }

    /// Begins work that shutdown waits for.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.tasks.spawn(work)
    }
}

impl Call {
    /// What ends a stream that goes on for whoever calls.
    pub(super) fn ending(&self) -> Ending {
        Ending::new(&self.gate, &self.caller)
    }

    /// On whose word the work of this call is done.
    pub(super) fn acting(&self) -> Acting {
        let principal = self.caller.principal.as_ref().map(|known| known.name().to_string());
        let call = Arc::downgrade(&self.alive);
        Acting { action: self.action, principal, uid: self.caller.peer.uid, call }
    }

    /// The gate that it came through.
    pub(super) fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Verifies what it shows of the staff member whom the caller acts for.
    pub(super) async fn identify(&mut self) -> Result<(), Error> {
        let shown = std::mem::replace(&mut self.shown, Ok(None));
        let gate = self.gate.clone();
        gate.identify(&mut self.caller, shown, self.action).await?;
        if self.caller.staff.is_some() {
            self.pending.caller(recorded(&self.caller));
        }
        Ok(())
    }

    /// Decides.
    pub(super) fn decide<P: Permission>(&mut self, resource: P::Resource) -> Result<Authorized<P>, Error> {
        let right = self.gate.policy.authorize::<P>(&self.caller, resource)?;
        self.pending.policy(right.rule());
        Ok(right)
    }

    /// Decides, and opens the gate: for calls that have more than one answer.
    pub(super) fn authorize<P: Permission>(
        &mut self,
        resource: P::Resource,
    ) -> Result<(Arc<Vault>, Authorized<P>), Error> {
        let right = self.decide(resource)?;
        Ok((self.gate.vault()?.clone(), right))
    }

    /// Notes the rule, for work on data that was authorised item by item.
    pub(super) fn allowed_by_grant(mut self) -> Self {
        self.pending.policy(permission::grant_rule(self.caller.staff.is_some()));
        self
    }

    /// Records the outcome and, once that is durable, releases the value. The
    /// record is queued before the first await: nothing can come in between.
    pub(super) async fn settle<T>(self, outcome: Result<Done<T>, Error>) -> Result<T, Status> {
        match outcome {
            Ok(done) => self.succeed(done, Outcome::Ok).await,
            Err(error) => Err(self.fail(error).await),
        }
    }

    /// Answers a failure that another record tells already: what was not begun has no end.
    pub(super) fn not_begun(self, failure: Status) -> Result<(), Status> {
        self.pending.forgo();
        Err(failure)
    }

    /// As [`settle`](Self::settle), for the record that opens a longer piece of work.
    pub(super) async fn started<T>(self, outcome: Result<Done<T>, Error>) -> Result<T, Status> {
        match outcome {
            Ok(done) => self.succeed(done, Outcome::Started).await,
            Err(error) => Err(self.fail(error).await),
        }
    }

    async fn succeed<T>(mut self, mut done: Done<T>, outcome: Outcome) -> Result<T, Status> {
        let trace = done.take_trace();
        let refused = trace.refused();
        // Every item of a batch was refused: the detail says why.
        let whole = refused > 0 && trace.items.as_ref().is_some_and(|items| items.done == 0);
        if whole && !trace.fault && !self.gate.refusals.admit(self.principal(), Moment::now()) {
            return match self.count(REFUSED, refused).await {
                Ok(committed) => Ok(done.release(committed)),
                Err(instead) => Err(status(&instead)),
            };
        }
        if whole || (refused > 0 && self.gate.refusals.admit_line(self.principal(), Moment::now())) {
            self.tell_refused(trace.detail.as_deref().unwrap_or_default());
        }
        let outcome = if whole { Outcome::Failed(REFUSED.to_owned()) } else { outcome };
        self.note(trace);
        let receipt = self.pending.finish(outcome).map_err(|error| status(&error.into()))?;
        match receipt.await {
            Ok(committed) => Ok(done.release(committed)),
            Err(error) => Err(status(&error.into())),
        }
    }

    fn note(&mut self, trace: Trace) {
        if let Some(items) = trace.items {
            self.pending.items(items);
        }
        if let Some(change) = trace.change {
            self.pending.change(change);
        }
        if let Some(detail) = trace.detail {
            self.pending.detail(detail);
        }
    }

    /// One log line for a refusal, tied to its record by the request id.
    fn tell_refused(&self, why: &str) {
        let who = self.principal().unwrap_or("nobody that is known");
        let (operation, uid) = (self.action.word(), self.caller.peer.uid);
        let request = format_args!("{:016x}", self.request_id);
        tracing::info!("refused: {operation} by {who} (uid {uid}): {why} (request {request})");
    }

    fn principal(&self) -> Option<&str> {
        self.caller.principal.as_ref().map(|known| known.name().as_str())
    }

    /// Counts a refusal beyond the budget of its principal, before the first await; answers when the record that
    /// counts it is durable, or what the caller is told instead.
    async fn count(self, reason: &'static str, items: u32) -> Result<Committed, Error> {
        let Self { gate, pending, .. } = self;
        match gate.refusals.count(pending.counted(reason, items), Moment::now()) {
            Some(waiting) => Ok(waiting.durable().await?),
            // This answer tells nothing of the call, and comes before the record that counts it.
            None => {
                gate.audit.check()?;
                Err(Error::RefusedTooOften)
            }
        }
    }

    /// The caller went away before it had said what it wants. That costs it as little as a refusal, so it is
    /// recorded as cancelled within the same budget, and counted beyond it.
    pub(super) fn gone(self) {
        if self.gate.refusals.admit(self.principal(), Moment::now()) {
            // A call that is dropped is recorded as cancelled.
            return drop(self);
        }
        let Self { gate, pending, .. } = self;
        // The count has its record, whether somebody waits for it or not.
        drop(gate.refusals.count(pending.counted(CANCELLED, 0), Moment::now()));
    }

    async fn fail(mut self, error: Error) -> Status {
        let reason = error.reason().as_str();
        if error.is_refusal() && !self.gate.refusals.admit(self.principal(), Moment::now()) {
            return status(self.count(reason, 0).await.as_ref().err().unwrap_or(&error));
        }
        match error.reason() {
            // Nobody's mistake in calling: an operator should see it without looking for it.
            Reason::StoreTampered => tracing::warn!(
                request = format_args!("{:016x}", self.request_id),
                "a call met a record that is not genuine: {error}"
            ),
            _ => self.tell_refused(&format!("{reason}: {error}")),
        }
        self.pending.detail(error.to_string());
        // An error of the log itself is answered instead: without a record there is no reply.
        match self.pending.finish(Outcome::Failed(reason.to_owned())) {
            Ok(receipt) => match receipt.await {
                Ok(_) => status(&error),
                Err(unwritable) => status(&unwritable.into()),
            },
            Err(unwritable) => status(&unwritable.into()),
        }
    }
}

/// Whether a caller is whom it was when it began something, with the rights that it had then.
pub(super) struct Rights(Option<Begun>);

struct Begun {
    policy: Arc<Policy>,
    caller: Caller,
    name: PrincipalId,
    replaced: watch::Receiver<()>,
}

impl Rights {
    pub(super) fn of(policy: &Arc<Policy>, caller: &Caller) -> Self {
        Self(caller.principal.as_ref().map(|known| Begun {
            policy: policy.clone(),
            caller: caller.clone(),
            name: known.name().clone(),
            replaced: policy.replaced(),
        }))
    }

    /// Returns when it has lost one, or is somebody else, with what it is told.
    pub(super) async fn lost(&mut self) -> Error {
        let Some(begun) = &mut self.0 else { return std::future::pending().await };
        // Looked at after each subscription or change: none is missed.
        while begun.policy.still_is(&begun.caller) {
            // An error means that the policy is gone, and the daemon with it.
            if begun.replaced.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
        Error::Denied(Denied::Withdrawn(begun.name.clone()))
    }
}

/// What ends a stream from outside: a stop that waits no longer, or that its caller lost a right.
pub(super) struct Ending {
    cut: watch::Receiver<bool>,
    rights: Rights,
}

impl Ending {
    /// Of what goes on for a caller.
    pub(super) fn new(gate: &Gate, caller: &Caller) -> Self {
        Self { cut: gate.cutting(), rights: Rights::of(&gate.policy, caller) }
    }

    /// Of what nobody's rights end.
    #[cfg(test)]
    pub(super) fn at(cut: watch::Receiver<bool>) -> Self {
        Self { cut, rights: Rights(None) }
    }

    /// Returns when it ends, with what its caller is told.
    pub(super) async fn came(&mut self) -> Error {
        tokio::select! {
            () = stopped(&mut self.cut) => Error::ShuttingDown,
            lost = self.rights.lost() => lost,
        }
    }
}

/// Returns when the daemon stops.
pub async fn stopped(shutdown: &mut watch::Receiver<bool>) {
    // An error means that the gate is gone, which is the same.
    shutdown.wait_for(|stop| *stop).await.map(drop).ok();
}

fn peer<M>(request: &Request<M>) -> Peer {
    let connection = request.extensions().get::<Arc<Connection>>();
    // No connection, no identity: these numbers are nobody's.
    let nobody = || Peer { uid: u32::MAX, gid: u32::MAX, groups: Arc::default(), pid: None };
    connection.map_or_else(nobody, |found| found.peer().clone())
}

fn recorded(caller: &Caller) -> audit::Caller {
    let staff = caller.staff.as_ref().map(|staff| &staff.member);
    audit::Caller {
        principal: caller.principal.as_ref().map(|known| known.name().to_string()),
        uid: caller.peer.uid,
        gid: caller.peer.gid,
        pid: caller.peer.pid,
        staff: staff.map(|staff| format!("accounts/{}", staff.account)),
        assertion: staff.map(|staff| staff.assertion.to_string()),
        client: caller.client.as_deref().map(str::to_owned),
    }
}
