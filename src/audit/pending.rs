//! One call that is being recorded.

use std::sync::Arc;

use super::{AuditError, AuditLog, Caller, Items, Outcome, Receipt, Record, Refusal, StoreChange};
use crate::access::Action;
use crate::clock::{Date, Moment};

/// A call whose record is not written yet. Every call leaves one: when it is
/// dropped before its end, because the caller went away, as cancelled. A refusal
/// beyond its caller's budget is counted in a record of several instead.
pub struct Pending {
    log: Arc<dyn AuditLog>,
    begun: Moment,
    finished: bool,
    time: Date,
    request_id: u64,
    action: Action,
    resource: String,
    caller: Option<Caller>,
    policy: String,
    items: Option<Items>,
    change: Option<StoreChange>,
    detail: Option<String>,
}

impl Pending {
    /// Begins the record of a call that arrives now; no caller means the daemon itself.
    pub fn begin(
        log: Arc<dyn AuditLog>,
        caller: Option<Caller>,
        action: Action,
        resource: impl Into<String>,
        request_id: u64,
    ) -> Self {
        Self {
            log,
            begun: Moment::now(),
            finished: false,
            time: Date::now(),
            request_id,
            action,
            resource: resource.into(),
            caller,
            policy: String::new(),
            items: None,
            change: None,
            detail: None,
        }
    }

    /// Notes who is calling, when more is known of that than at the beginning.
    pub fn caller(&mut self, caller: Caller) {
        self.caller = Some(caller);
    }

    /// Notes the rule that allowed or refused the call.
    pub fn policy(&mut self, policy: impl Into<String>) {
        self.policy = policy.into();
    }

    /// Notes what was worked on.
    pub fn items(&mut self, items: Items) {
        self.items = Some(items);
    }

    /// Notes what changed in the store.
    pub fn change(&mut self, change: StoreChange) {
        self.change = Some(change);
    }

    /// Notes more about the call, in words; never plaintext.
    pub fn detail(&mut self, detail: impl Into<String>) {
        self.detail = Some(detail.into());
    }

    /// Queues the record.
    ///
    /// # Errors
    /// [`AuditError`] when the log cannot be written now.
    pub fn finish(mut self, outcome: Outcome) -> Result<Receipt, AuditError> {
        self.submit(outcome)
    }

    /// Leaves no record: the call is refused, and to be counted among others.
    pub fn counted(mut self, reason: &'static str, items: u32) -> Refusal {
        self.finished = true;
        let (caller, resource) = (self.caller.take(), std::mem::take(&mut self.resource));
        Refusal { caller, operation: self.action.word(), resource, reason, items }
    }

    /// Leaves no record: what it was to tell the end of was not begun, and that stands in another record.
    pub fn forgo(mut self) {
        self.finished = true;
    }

    fn submit(&mut self, outcome: Outcome) -> Result<Receipt, AuditError> {
        self.finished = true;
        self.log.submit(Record {
            time: self.time,
            request_id: self.request_id,
            caller: self.caller.take(),
            operation: self.action.word().into(),
            resource: std::mem::take(&mut self.resource),
            outcome,
            policy: std::mem::take(&mut self.policy),
            latency_us: u64::try_from(Moment::now().since(self.begun).as_micros()).unwrap_or(u64::MAX),
            items: self.items.take(),
            change: self.change.take(),
            detail: self.detail.take(),
        })
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // Nobody waits for the receipt; the record is written all the same.
        if let Err(error) = self.submit(Outcome::Cancelled).map(drop) {
            tracing::warn!(%error, request_id = self.request_id, "a cancelled call could not be recorded");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tempfile::TempDir;

    use super::*;
    use crate::audit::file::tests::{open, settings, wait};
    use crate::audit::verify;

    fn records(dir: &Path) -> Vec<Record> {
        verify::read(dir).unwrap().map(|item| item.unwrap().1).collect()
    }

    #[test]
    fn every_call_leaves_one_record() {
        let temp = TempDir::new().unwrap();
        let settings = settings(temp.path());
        let (log, _) = open(&settings);
        let caller = Caller {
            principal: Some("app".into()),
            uid: 7,
            gid: 8,
            pid: None,
            staff: None,
            assertion: None,
            client: None,
        };
        let begin =
            |id| Pending::begin(log.clone(), Some(caller.clone()), Action::Encrypt, "tenants/a/keys/b", id);
        let items = Items { done: 1, refused: 0, root: [1; 32], digests: None };

        let mut done = begin(1);
        done.policy("grant");
        done.items(items.clone());
        done.change(StoreChange { revision: 2, digest: [3; 32] });
        done.detail("words");
        assert_eq!(wait(done.finish(Outcome::Ok).unwrap()).unwrap().sequence(), 1);
        let mut cancelled = begin(2);
        cancelled.policy("grant");
        drop(cancelled);
        begin(4).forgo();
        let counted = begin(5).counted("PERMISSION_DENIED", 2);
        assert_eq!((counted.operation, counted.resource.as_str()), ("encrypt", "tenants/a/keys/b"));
        assert_eq!(
            (counted.caller.as_ref(), counted.reason, counted.items),
            (Some(&caller), "PERMISSION_DENIED", 2)
        );
        log.close().unwrap();
        drop(begin(3));

        let [done, cancelled] = records(&settings.dir).try_into().unwrap();
        assert_eq!((done.outcome, done.items), (Outcome::Ok, Some(items)));
        assert_eq!((done.policy.as_str(), done.detail.as_deref()), ("grant", Some("words")));
        assert_eq!(done.change, Some(StoreChange { revision: 2, digest: [3; 32] }));
        assert_eq!((cancelled.request_id, cancelled.outcome), (2, Outcome::Cancelled));
        assert_eq!((cancelled.policy.as_str(), cancelled.caller), ("grant", Some(caller)));
    }

    #[test]
    fn a_cancelled_future_leaves_its_record() {
        let temp = TempDir::new().unwrap();
        let settings = settings(temp.path());
        let (log, _) = open(&settings);
        let call = {
            let log = log.clone();
            async move {
                let pending = Pending::begin(log, None, Action::Decrypt, "", 9);
                std::future::pending::<()>().await;
                pending.finish(Outcome::Ok)
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let task = tokio::spawn(call);
            tokio::task::yield_now().await;
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        });
        log.close().unwrap();
        assert_eq!(records(&settings.dir)[0].outcome, Outcome::Cancelled);
    }
}
