//! The way of every call that has one answer: who calls, what they may, the work, its record, the answer.

use std::borrow::Cow;
use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::call::{Call, Gate};
use crate::access::action::{Course, Method};
use crate::access::{Authorized, Permission};
use crate::ops::{Done, Error, Vault};

/// A request, and what it says it is about.
pub(super) trait About {
    /// What that is.
    type Resource;

    /// As the record has it, whatever the caller wrote.
    fn text(&self) -> Cow<'_, str>;

    /// What is decided on; and what has to be right in the request before anything is decided.
    ///
    /// # Errors
    /// [`Error::Argument`] and the like, when it names no such thing.
    fn resource(&self) -> Result<Self::Resource, Error>;
}

/// The part of the daemon that work is done with.
pub(super) trait Part: Sized + Send {
    /// The part behind the gate.
    ///
    /// # Errors
    /// When it does not serve now.
    fn behind(gate: &Arc<Gate>) -> Result<Self, Error>;
}

impl Part for Arc<Vault> {
    fn behind(gate: &Arc<Gate>) -> Result<Self, Error> {
        gate.vault().cloned()
    }
}

/// What is done while the vault is closed, too.
impl Part for Arc<Gate> {
    fn behind(gate: &Arc<Gate>) -> Result<Self, Error> {
        Ok(gate.clone())
    }
}

/// What the permission of a method is about.
type ResourceOf<A> = <<A as Method>::Permission as Permission>::Resource;

impl Gate {
    /// Serves a call: `gate.serve(action::GetTenant, request, |message, vault: Arc<Vault>, right| async move { … })`.
    pub(super) async fn serve<A, M, P, F, T>(
        self: &Arc<Self>,
        action: A,
        request: Request<M>,
        work: impl FnOnce(M, P, Authorized<A::Permission>) -> F + Send + 'static,
    ) -> Result<Response<T>, Status>
    where
        A: Method,
        M: About<Resource = ResourceOf<A>> + Send + Sync + 'static,
        P: Part,
        F: Future<Output = Result<Done<T>, Error>> + Send,
        T: Send + 'static,
    {
        self.serve_then(action, request, work, |_, answer| answer).await
    }

    /// The same, with what follows a call that is on record, whoever still waits for it.
    pub(super) async fn serve_then<A, M, P, F, T, U>(
        self: &Arc<Self>,
        _: A,
        request: Request<M>,
        work: impl FnOnce(M, P, Authorized<A::Permission>) -> F + Send + 'static,
        then: impl FnOnce(&Arc<Self>, T) -> U + Send + 'static,
    ) -> Result<Response<U>, Status>
    where
        A: Method,
        M: About<Resource = ResourceOf<A>> + Send + Sync + 'static,
        P: Part,
        F: Future<Output = Result<Done<T>, Error>> + Send,
        T: Send + 'static,
        U: Send + 'static,
    {
        let call = self.call(&request, A::ACTION, &request.get_ref().text());
        let (message, gate) = (request.into_inner(), self.clone());
        let served = async move { Ok(then(&gate, worked::<A, M, P, F, T>(call, message, work).await?)) };
        let answer = match A::COURSE {
            Course::GivenUp => served.await,
            Course::Finished => self.detached(served).await,
        };
        answer.map(Response::new)
    }
}

async fn worked<A, M, P, F, T>(
    mut call: Call,
    message: M,
    work: impl FnOnce(M, P, Authorized<A::Permission>) -> F,
) -> Result<T, Status>
where
    A: Method,
    M: About<Resource = ResourceOf<A>>,
    P: Part,
    F: Future<Output = Result<Done<T>, Error>>,
{
    let acting = call.acting();
    let outcome = acting.work(async {
        let resource = message.resource()?;
        if A::ACTION.kind().is_data() {
            call.identify().await?;
        }
        let right = call.decide::<A::Permission>(resource)?;
        work(message, P::behind(call.gate())?, right).await
    });
    let outcome = outcome.await;
    call.settle(outcome).await
}
