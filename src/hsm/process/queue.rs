//! The one queue in front of all slots.
//!
//! Whichever slot has a free session takes from its front, so work spreads by
//! itself, and what one slot lost is taken by the next.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::clock::Moment;
use crate::hsm::{HsmError, Operation, Reply};

/// Most operations that several lists together bring into one message.
const MERGED: usize = 64;

pub(super) type Answers = Vec<Result<Reply, HsmError>>;

/// A list of operations on its way.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) operations: Vec<Operation>,
    pub(super) reply: oneshot::Sender<Answers>,
    /// Nobody waits any longer.
    pub(super) deadline: Moment,
    /// It was in work when a connection was lost.
    pub(super) repeated: bool,
}

impl Job {
    pub(super) fn answer(self, answers: Answers) {
        // A caller that has gone away wants no answer.
        self.reply.send(answers).ok();
    }

    pub(super) fn unavailable(self, reason: &str) {
        let answers = all(self.operations.len(), &HsmError::Unavailable(reason.to_owned()));
        self.answer(answers);
    }

    fn abandoned(&self) -> bool {
        self.reply.is_closed() || Moment::now() >= self.deadline
    }
}

/// The same answer for each operation of a list.
pub(super) fn all(count: usize, error: &HsmError) -> Answers {
    std::iter::repeat_with(|| Err(error.clone())).take(count).collect()
}

pub(super) struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    capacity: usize,
    arrived: Notify,
}

impl Queue {
    pub(super) fn new(capacity: usize) -> Self {
        Self { jobs: Mutex::default(), capacity: capacity.max(1), arrived: Notify::new() }
    }

    /// Adds a job; hands it back when the queue is full.
    pub(super) fn push(&self, job: Job) -> Result<(), Job> {
        let mut jobs = self.lock();
        if jobs.len() >= self.capacity {
            jobs.retain(|job| !job.abandoned());
        }
        if jobs.len() >= self.capacity {
            return Err(job);
        }
        jobs.push_back(job);
        drop(jobs);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes jobs that a connection has lost: each is repeated once, before all others. Answers how many are.
    pub(super) fn repeat(&self, lost: Vec<Job>, reason: &str) -> u64 {
        let (spent, again): (Vec<_>, Vec<_>) = lost.into_iter().partition(|job| job.repeated);
        let repeated = again.len() as u64;
        let mut jobs = self.lock();
        for job in again.into_iter().rev() {
            jobs.push_front(Job { repeated: true, ..job });
        }
        drop(jobs);
        self.arrived.notify_one();
        spent.into_iter().for_each(|job| job.unavailable(reason));
        repeated
    }

    /// Waits for work and takes one session's share of it; `sessions` share the queue.
    pub(super) async fn take(&self, sessions: usize) -> Vec<Job> {
        loop {
            let share = self.share(sessions);
            if !share.is_empty() {
                return share;
            }
            self.arrived.notified().await;
        }
    }

    /// Takes everything.
    pub(super) fn drain(&self) -> Vec<Job> {
        self.lock().drain(..).collect()
    }

    /// The first job, and as many further ones as this session's part of the
    /// queue is. What was lost once goes alone: it may be what kills the module.
    fn share(&self, sessions: usize) -> Vec<Job> {
        let mut jobs = self.lock();
        jobs.retain(|job| !job.abandoned());
        let part = jobs.len().div_ceil(sessions.max(1));
        let mut share: Vec<Job> = Vec::new();
        let mut operations = 0;
        while share.len() < part {
            let Some(next) = jobs.pop_front_if(|next| {
                share.is_empty()
                    || !(next.repeated || share[0].repeated || operations + next.operations.len() > MERGED)
            }) else {
                break;
            };
            operations += next.operations.len();
            share.push(next);
        }
        if !jobs.is_empty() {
            self.arrived.notify_one();
        }
        share
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Job>> {
        // Nothing panics while the queue is locked.
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn job(operations: usize) -> (Job, oneshot::Receiver<Answers>) {
        let (reply, answer) = oneshot::channel();
        let operations = std::iter::repeat_with(|| Operation::Random { len: 1 }).take(operations).collect();
        let deadline = Moment::now().after(Duration::from_secs(60));
        (Job { operations, reply, deadline, repeated: false }, answer)
    }

    fn sizes(jobs: &[Job]) -> Vec<usize> {
        jobs.iter().map(|job| job.operations.len()).collect()
    }

    #[tokio::test]
    async fn a_session_takes_its_part() {
        let queue = Queue::new(10);
        let answers: Vec<_> = (1..=5)
            .map(|size| {
                let (job, answer) = job(size);
                queue.push(job).unwrap();
                answer
            })
            .collect();
        assert_eq!(sizes(&queue.take(2).await), [1, 2, 3]);
        assert_eq!(sizes(&queue.take(2).await), [4]);
        assert_eq!(sizes(&queue.take(2).await), [5]);
        drop(answers);
    }

    #[tokio::test]
    async fn long_lists_are_not_merged() {
        let queue = Queue::new(10);
        let (first, _first) = job(MERGED);
        let (second, _second) = job(1);
        queue.push(first).unwrap();
        queue.push(second).unwrap();
        assert_eq!(sizes(&queue.take(1).await), [MERGED]);
        assert_eq!(sizes(&queue.take(1).await), [1]);
    }

    #[tokio::test]
    async fn what_was_lost_goes_first_alone_and_once() {
        let queue = Queue::new(10);
        let ((first, _first), (second, mut second_answer), (third, _third)) = (job(1), job(2), job(3));
        queue.push(third).unwrap();
        queue.repeat(vec![first, second], "lost");
        assert_eq!(sizes(&queue.take(1).await), [1]);
        let again = queue.take(1).await;
        assert_eq!(sizes(&again), [2]);
        queue.repeat(again, "lost twice");
        let answers = second_answer.try_recv().unwrap();
        assert_eq!(answers.len(), 2);
        assert!(matches!(&answers[0], Err(HsmError::Unavailable(reason)) if reason == "lost twice"));
        assert_eq!(sizes(&queue.take(1).await), [3]);
    }

    #[tokio::test]
    async fn a_full_queue_takes_no_more_until_somebody_gives_up() {
        let queue = Queue::new(1);
        let ((first, first_answer), (second, _second)) = (job(1), job(2));
        queue.push(first).unwrap();
        let second = queue.push(second).unwrap_err();
        drop(first_answer);
        queue.push(second).unwrap();
        assert_eq!(sizes(&queue.take(1).await), [2]);
        assert!(queue.drain().is_empty());
    }

    #[tokio::test]
    async fn several_takers_wake_for_several_jobs() {
        let queue = std::sync::Arc::new(Queue::new(10));
        let takers: Vec<_> = (0..2)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.take(2).await.len() })
            })
            .collect();
        tokio::task::yield_now().await;
        let ((first, _first), (second, _second)) = (job(1), job(1));
        queue.push(first).unwrap();
        queue.push(second).unwrap();
        for taker in takers {
            assert_eq!(taker.await.unwrap(), 1);
        }
    }
}
