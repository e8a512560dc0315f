//! On whose word the work of a call is done: it goes with each change of the store, so that the change is on
//! record even when the call cannot make its record any more.

use std::sync::Weak;

use crate::access::Action;
use crate::store::Cause;

/// The call whose work a task does.
#[derive(Debug, Clone)]
pub struct Acting {
    /// What is done.
    pub action: Action,
    /// Who asked for it, when it is known.
    pub principal: Option<String>,
    /// The user id of who asked.
    pub uid: u32,
    /// Lives until the record of the call is durable, or nobody makes it any more: a caller may go away in between.
    pub call: Weak<()>,
}

tokio::task_local! {
    static ACTING: Acting;
}

impl Acting {
    /// Does the work of the call.
    pub async fn work<T>(self, work: impl Future<Output = T>) -> T {
        ACTING.scope(self, work).await
    }

    /// The cause of a change that is made now; the daemon itself where no call is worked on.
    pub(super) fn cause(resource: String) -> Cause {
        let of = |acting: &Self| Cause {
            principal: acting.principal.clone(),
            uid: Some(acting.uid),
            call: Some(acting.call.clone()),
            ..Cause::own(acting.action.word(), resource.clone())
        };
        ACTING.try_with(of).unwrap_or_else(|_| Cause::own("own", resource.clone()))
    }

    /// The cause of a change that the daemon makes by itself, in a call perhaps, which its caller may cut short.
    pub(super) fn own(action: Action, resource: &str) -> Cause {
        let call = ACTING.try_with(|acting| acting.call.clone()).ok();
        Cause { call, ..Cause::own(action.word(), resource) }
    }
}
