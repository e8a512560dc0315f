//! What one HSM process has in work.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::clock::Moment;
use crate::hsm::process::queue::{Answers, Job};

/// The lists that were sent and are not answered yet: at most one for each session.
pub(super) struct Flight {
    free: Semaphore,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    sent: HashMap<u64, Sent>,
    last: u64,
}

struct Sent {
    jobs: Vec<Job>,
    give_up: Moment,
}

impl Flight {
    pub(super) fn new(sessions: usize) -> Self {
        Self { free: Semaphore::new(sessions.max(1)), state: Mutex::default() }
    }

    /// Waits for a free session; the permit is given to [`send`](Self::send).
    pub(super) async fn session(&self) -> SemaphorePermit<'_> {
        // The semaphore is never closed.
        self.free.acquire().await.unwrap_or_else(|_| unreachable!())
    }

    /// Notes what is sent, before it is; answers its number.
    pub(super) fn send(&self, jobs: Vec<Job>, limit: Duration, session: SemaphorePermit<'_>) -> u64 {
        session.forget();
        let mut state = self.lock();
        state.last += 1;
        let number = state.last;
        state.sent.insert(number, Sent { jobs, give_up: Moment::now().after(limit) });
        number
    }

    /// Looks at what was sent under a number, to write it out.
    pub(super) fn with<T>(&self, number: u64, look: impl FnOnce(&[Job]) -> T) -> Option<T> {
        self.lock().sent.get(&number).map(|sent| look(&sent.jobs))
    }

    /// Hands out the answers of one list.
    ///
    /// # Errors
    /// When the process answers what it was not asked.
    pub(super) fn done(&self, number: u64, answers: Answers) -> Result<(), String> {
        let misfit = || Err("the HSM process answered something else than it was asked".to_owned());
        let mut state = self.lock();
        let Some(sent) = state.sent.get(&number) else { return misfit() };
        if sent.jobs.iter().map(|job| job.operations.len()).sum::<usize>() != answers.len() {
            return misfit();
        }
        let jobs = state.sent.remove(&number).map(|sent| sent.jobs).unwrap_or_default();
        drop(state);
        self.free.add_permits(1);
        let mut answers = answers.into_iter();
        for job in jobs {
            let own = answers.by_ref().take(job.operations.len()).collect();
            job.answer(own);
        }
        Ok(())
    }

    /// Whether some list should have been answered by now.
    pub(super) fn overdue(&self) -> bool {
        let now = Moment::now();
        self.lock().sent.values().any(|sent| sent.give_up <= now)
    }

    /// Takes everything that was not answered, in the order in which it was sent.
    pub(super) fn lost(&self) -> Vec<Job> {
        let mut sent: Vec<_> = self.lock().sent.drain().collect();
        sent.sort_by_key(|(number, _)| *number);
        sent.into_iter().flat_map(|(_, sent)| sent.jobs).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the state is locked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::{self, Receiver};

    use super::*;
    use crate::hsm::process::queue::all;
    use crate::hsm::{HsmError, Operation};

    fn job(operations: usize) -> (Job, Receiver<Answers>) {
        let (reply, answer) = oneshot::channel();
        let operations = std::iter::repeat_with(|| Operation::Random { len: 1 }).take(operations).collect();
        (Job { operations, reply, deadline: Moment::now(), repeated: false }, answer)
    }

    #[tokio::test]
    async fn each_caller_gets_its_own_part() {
        let flight = Flight::new(1);
        let ((first, first_answer), (second, second_answer)) = (job(1), job(2));
        let number = flight.send(vec![first, second], Duration::MAX, flight.session().await);
        assert_eq!(flight.free.available_permits(), 0);
        flight.done(number, all(3, &HsmError::Integrity)).unwrap();
        assert_eq!(flight.free.available_permits(), 1);
        assert_eq!((first_answer.await.unwrap().len(), second_answer.await.unwrap().len()), (1, 2));
    }

    #[tokio::test]
    async fn an_answer_that_does_not_fit_leaves_the_work_to_be_repeated() {
        let flight = Flight::new(1);
        let (first, _answer) = job(2);
        let number = flight.send(vec![first], Duration::MAX, flight.session().await);
        flight.done(number + 1, Vec::new()).unwrap_err();
        flight.done(number, all(3, &HsmError::Integrity)).unwrap_err();
        assert_eq!(flight.lost().len(), 1);
        assert!(flight.lost().is_empty());
    }

    #[tokio::test]
    async fn a_list_is_overdue_after_its_limit() {
        let flight = Flight::new(2);
        let ((first, _first), (second, _second)) = (job(1), job(1));
        flight.send(vec![first], Duration::MAX, flight.session().await);
        assert!(!flight.overdue());
        flight.send(vec![second], Duration::ZERO, flight.session().await);
        assert!(flight.overdue());
    }
}
