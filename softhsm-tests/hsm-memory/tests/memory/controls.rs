//! The contract, and each control.

use std::sync::Arc;

use keyward::hsm::birth::{BackupPlan, NewRoot, Purpose};
use keyward::hsm::process::TaskError;
use keyward::hsm::{Hsm, HsmError, KeepNewborn, Kek, Operation, Reply, SlotState, Status};
use keyward::id::{DeploymentId, RootId};
use keyward_hsm_memory::{Controls, Kind, MemoryHsm, Token, conformance};

fn fresh() -> (Token, Arc<MemoryHsm>, Controls) {
    let token = Token::default();
    let hsm = MemoryHsm::open(&token, None);
    let controls = hsm.controls();
    (token, hsm, controls)
}

async fn create(hsm: &MemoryHsm, purpose: Purpose) -> Result<NewRoot, TaskError> {
    let keep: KeepNewborn<'_> = Box::new(|_| Box::pin(async { Ok(()) }));
    hsm.create_root(purpose, BackupPlan::Drop, keep).await
}

async fn one(hsm: &MemoryHsm, operation: Operation) -> Result<Reply, HsmError> {
    hsm.run(vec![operation]).await.pop().unwrap()
}

async fn new_kek(hsm: &MemoryHsm, root: RootId) -> Kek {
    match one(hsm, Operation::GenerateKek { root }).await {
        Ok(Reply::Wrapped(wrapped)) => Kek::Sealed { root, wrapped },
        other => panic!("{other:?}"),
    }
}

fn epoch(hsm: &MemoryHsm) -> Option<u64> {
    match &*hsm.status().borrow() {
        Status::Ready { epoch, .. } => Some(*epoch),
        _ => None,
    }
}

fn random() -> Operation {
    Operation::Random { len: 1 }
}

/// An error that no code of this crate makes.
fn told() -> HsmError {
    HsmError::Misbehaved("as it was told".to_owned())
}

#[tokio::test]
async fn it_keeps_the_contract() {
    let (_, hsm, _) = fresh();
    let shown = conformance::suite(hsm).await;
    assert_eq!(shown.len(), 15, "{shown:?}");
}

#[tokio::test]
async fn a_lost_connection_serves_nothing_until_the_next() {
    let (_, hsm, controls) = fresh();
    let root = create(&hsm, Purpose::Root).await.unwrap();
    new_kek(&hsm, root.id).await;
    assert_eq!((epoch(&hsm), hsm.keks().entries), (Some(1), 1));
    controls.lose_connection("the cable");
    assert!(matches!(&*hsm.status().borrow(), Status::Down { reason } if reason == "the cable"));
    assert!(matches!(hsm.slots()[0].state, SlotState::Down(_)));
    let away = HsmError::Unavailable("the cable".to_owned());
    assert_eq!(one(&hsm, random()).await.unwrap_err(), away);
    assert!(matches!(hsm.roots(Purpose::Root).await, Err(TaskError::Connect(_))));
    assert!(matches!(hsm.destroy_root(root.id).await, Err(TaskError::Connect(_))));
    assert!(matches!(create(&hsm, Purpose::Root).await, Err(TaskError::Connect(_))));
    // A canary is no connection.
    hsm.expect(root.born().canary.clone());
    assert_eq!(epoch(&hsm), None);
    controls.reconnect();
    assert_eq!((epoch(&hsm), hsm.keks().entries), (Some(2), 0));
    new_kek(&hsm, root.id).await;
    assert_eq!((hsm.figures().losses, hsm.figures().unanswered), (1, 1));
}

#[tokio::test]
async fn dead_handles_cost_one_connection_and_no_answer() {
    let (_, hsm, controls) = fresh();
    let root = create(&hsm, Purpose::Root).await.unwrap();
    controls.lose_handles();
    assert_eq!(epoch(&hsm), Some(1), "nobody has noticed");
    new_kek(&hsm, root.id).await;
    assert_eq!(epoch(&hsm), Some(2));
    let figures = hsm.figures();
    assert_eq!((figures.losses, figures.repeated, figures.unanswered), (1, 1, 0));
}

#[tokio::test]
async fn work_waits_at_its_gate_and_goes_on_without_its_caller() {
    let (token, hsm, controls) = fresh();
    let root = create(&hsm, Purpose::Root).await.unwrap();
    let gate = controls.hold(Kind::GenerateKek, 2);
    new_kek(&hsm, root.id).await;
    let waiting = tokio::spawn({
        let hsm = hsm.clone();
        async move { one(&hsm, Operation::GenerateKek { root: root.id }).await }
    });
    gate.reached().await;
    // Others are not held up.
    one(&hsm, random()).await.unwrap();
    gate.open();
    assert!(matches!(waiting.await.unwrap(), Ok(Reply::Wrapped(_))));

    let gate = controls.hold(Kind::DestroyRoot, 1);
    let dropped = tokio::spawn({
        let hsm = hsm.clone();
        async move { hsm.destroy_root(root.id).await }
    });
    gate.reached().await;
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    assert_eq!(token.objects().len(), 1);
    gate.open();
    while token.objects().len() == 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(token.destroyed(), [(root.id, Purpose::Root)]);
}

#[tokio::test]
async fn a_deadline_and_a_loss_reach_who_waits() {
    let (_, hsm, controls) = fresh();
    let ask = || {
        let hsm = hsm.clone();
        tokio::spawn(async move { one(&hsm, random()).await })
    };
    let gate = controls.hold(Kind::Random, 1);
    let waiting = ask();
    gate.reached().await;
    gate.give_up();
    assert!(matches!(waiting.await.unwrap(), Err(HsmError::Unavailable(_))));
    // The list that waited on the first connection is repeated on the second.
    let gate = controls.hold(Kind::Random, 1);
    let waiting = ask();
    gate.reached().await;
    controls.lose_connection("the cable");
    controls.reconnect();
    gate.open();
    waiting.await.unwrap().unwrap();
    assert_eq!((hsm.figures().repeated, controls.asked(Kind::Random)), (1, 3));
}

#[tokio::test]
async fn a_full_queue_is_busy_at_once() {
    let (_, hsm, controls) = fresh();
    controls.set_capacity(1);
    let gate = controls.hold(Kind::Random, 1);
    let waiting = tokio::spawn({
        let hsm = hsm.clone();
        async move { one(&hsm, random()).await }
    });
    gate.reached().await;
    assert!(matches!(one(&hsm, random()).await, Err(HsmError::Busy { .. })));
    gate.open();
    waiting.await.unwrap().unwrap();
    one(&hsm, random()).await.unwrap();
    controls.set_busy(true);
    let answers = hsm.run(vec![random(), random()]).await;
    assert!(answers.iter().all(|answer| matches!(answer, Err(HsmError::Busy { .. }))) && answers.len() == 2);
    controls.set_busy(false);
    one(&hsm, random()).await.unwrap();
}

#[tokio::test]
async fn the_nth_of_a_kind_fails_undone_or_done() {
    let (_, hsm, controls) = fresh();
    let root = create(&hsm, Purpose::Root).await.unwrap();
    controls.fail(Kind::Random, 2, told());
    let answers = hsm.run(vec![random(), Operation::GenerateKek { root: root.id }, random(), random()]).await;
    let failed: Vec<bool> = answers.iter().map(Result::is_err).collect();
    assert_eq!(failed, [false, false, true, false]);
    let before = hsm.figures().operations;
    controls.fail(Kind::Random, 1, told());
    assert_eq!(one(&hsm, random()).await.unwrap_err(), told());
    assert_eq!(hsm.figures().operations, before, "it was done");
    controls.fail_after(Kind::Random, 1, told());
    assert_eq!(one(&hsm, random()).await.unwrap_err(), told());
    assert_eq!(hsm.figures().operations, before + 1, "it was not done");
    assert!(controls.is_spent());
}

#[tokio::test]
async fn lies_are_wrong_in_one_bit() {
    let (_, hsm, controls) = fresh();
    let root = create(&hsm, Purpose::Root).await.unwrap();
    controls.lie(Kind::GenerateKek, 1);
    let kek = new_kek(&hsm, root.id).await;
    let made = one(&hsm, Operation::GenerateKey { kek, aad: Vec::new() }).await;
    assert_eq!(made.unwrap_err(), HsmError::Integrity);
    let kek = new_kek(&hsm, root.id).await;
    let made = one(&hsm, Operation::GenerateKey { kek: kek.clone(), aad: Vec::new() }).await;
    let Ok(Reply::NewKey { key, sealed }) = made else { panic!("no key") };
    controls.lie(Kind::OpenKey, 1);
    for right in [false, true] {
        let (kek, sealed) = (kek.clone(), sealed.clone());
        let opened = one(&hsm, Operation::OpenKey { kek, aad: Vec::new(), sealed }).await;
        let Ok(Reply::Key(opened)) = opened else { panic!("no key") };
        assert_eq!(opened.expose() == key.expose(), right);
    }
}

#[tokio::test]
async fn births_and_destructions_fail_at_each_step() {
    let (token, hsm, controls) = fresh();
    for kind in [Kind::CreateRoot, Kind::SettleRoot] {
        controls.fail(kind, 1, told());
        assert!(matches!(create(&hsm, Purpose::Root).await, Err(TaskError::Failed(_))), "{kind:?}");
        controls.lie(kind, 1);
        create(&hsm, Purpose::Root).await.unwrap();
        assert_eq!(token.objects(), [], "{kind:?}");
    }
    controls.fail(Kind::AnswerRoot, 1, told());
    let Err(TaskError::Half { id, .. }) = create(&hsm, Purpose::Root).await else { panic!("not half") };
    assert_eq!(token.roots(Purpose::Root), [id]);
    controls.fail(Kind::DestroyRoot, 1, told());
    hsm.destroy_root(id).await.unwrap_err();
    controls.lie(Kind::DestroyRoot, 1);
    hsm.destroy_root(id).await.unwrap();
    assert_eq!((token.roots(Purpose::Root), token.destroyed()), (vec![id], vec![]));
    controls.fail_after(Kind::DestroyRoot, 1, told());
    hsm.destroy_root(id).await.unwrap_err();
    assert_eq!((token.objects(), token.destroyed()), (vec![], vec![(id, Purpose::Root)]));
    token.set_max_objects(1);
    create(&hsm, Purpose::Resident).await.unwrap();
    assert!(matches!(create(&hsm, Purpose::Resident).await, Err(TaskError::Full(_))));
    create(&hsm, Purpose::Root).await.unwrap();
}

/// As when the daemon ends between the birth of a root and its record.
#[tokio::test]
async fn a_caller_that_is_gone_leaves_what_was_made() {
    let (token, hsm, controls) = fresh();
    for (kind, left) in [(Kind::CreateRoot, 0), (Kind::SettleRoot, 0), (Kind::AnswerRoot, 1)] {
        let gate = controls.hold(kind, 1);
        let birth = tokio::spawn({
            let hsm = hsm.clone();
            async move { create(&hsm, Purpose::Root).await.map(drop) }
        });
        gate.reached().await;
        birth.abort();
        assert!(birth.await.unwrap_err().is_cancelled());
        assert_eq!(token.objects().len(), left, "{kind:?}");
    }
}

#[tokio::test]
async fn a_token_outlives_its_hsm_and_is_changed_behind_its_back() {
    let (token, first, controls) = fresh();
    let mine = Purpose::Erasure(DeploymentId([1; 16]));
    let root = create(&first, mine).await.unwrap();
    let stray = token.plant(mine);
    controls.hide(stray);
    assert_eq!(first.roots(mine).await.unwrap(), [root.id]);
    controls.show_all();
    assert_eq!(first.roots(mine).await.unwrap().len(), 2);
    controls.lie(Kind::Roots, 1);
    assert_eq!(first.roots(mine).await.unwrap(), []);
    let second = MemoryHsm::open(&token, Some(root.born().canary.clone()));
    assert_eq!(epoch(&second), Some(1));
    new_kek(&second, stray).await;
    assert!(token.remove(root.id) && !token.remove(root.id));
    assert_eq!(token.destroyed(), []);
    let third = MemoryHsm::open(&token, Some(root.born().canary.clone()));
    assert!(matches!(&*third.status().borrow(), Status::Refused { .. }));
    assert!(matches!(one(&third, random()).await, Err(HsmError::Unavailable(_))));
}
