//! Ceremonies: what custodians decide, what does not count, and what a crash leaves.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use keyward::client::{Client, Code, Error, context};
use keyward::ops::ceremony::transcript::{self, TranscriptError};
use keyward::rpc::proto::ceremony::State;
use keyward::rpc::proto::propose_request::{Action, ChangeRoster, Found, RotateRoot};
use keyward::rpc::proto::status::Serving;
use keyward::rpc::proto::{
    CancelRequest, Ceremony, FreezeRequest, GetRosterRequest, ListCeremoniesRequest, ListKekVersionsRequest,
    ProposeRequest, UnfreezeRequest,
};
use keyward_softhsm_tests::custodians::{
    Person, approve_by, deployment, ended, found, hand_in, kill_until_done, killed, people, propose,
    propose_founding, transcript,
};
use keyward_softhsm_tests::{Daemon, KEY, PATIENCE, World, create_key, text};

fn reason(error: &Error) -> &str {
    error.reason()
}

async fn seal(client: &Client, key: &str, plaintext: &str) -> bytes::Bytes {
    client.encrypt(key, plaintext.to_owned(), &context([("a", "b")])).await.expect("a ciphertext").ciphertext
}

async fn opens(client: &Client, key: &str, sealed: &bytes::Bytes, plaintext: &str) {
    let opened = client.decrypt(key, sealed.clone(), &context([("a", "b")])).await.expect("a plaintext");
    assert_eq!(opened.plaintext.expose(), plaintext.as_bytes());
}

/// The root keys on the token.
fn roots(world: &World) -> usize {
    let report = world.cli(["hsm", "check", "--config", &world.config_file(), "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&report.stdout).expect("a report");
    report["roots"].as_str().expect("roots").split(", ").filter(|root| !root.is_empty()).count()
}

/// A founded daemon with a key, its custodians, and the transcript of the founding.
async fn founded() -> (World, Daemon, Client, [Person; 3], Ceremony) {
    founded_in(World::ready()).await
}

async fn founded_in(world: World) -> (World, Daemon, Client, [Person; 3], Ceremony) {
    let (daemon, client) = world.start_with_key().await;
    let custodians = people(["alice", "bob", "carol"]);
    let done = found(&client, 2, &custodians).await;
    (world, daemon, client, custodians, done)
}

async fn rotate(client: &Client) -> Ceremony {
    propose(client, Action::RotateRoot(RotateRoot {})).await.expect("a proposal")
}

#[tokio::test]
async fn a_founding_moves_everything_and_destroys_what_one_operator_held() {
    let mut world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    create_key(&client, "zeta", "other").await;
    let sealed = seal(&client, KEY, "before").await;
    let zeta = seal(&client, "tenants/zeta/keys/other", "zeta").await;
    let custodians = people(["alice", "bob", "carol"]);

    let proposed = propose_founding(&client, 2, &custodians).await.expect("a proposal");
    assert_eq!((proposed.state(), proposed.needed), (State::Proposed, 3));
    let [alice, bob, carol] = &custodians;
    let some = approve_by(&client, &proposed, &[carol, alice]).await;
    assert_eq!((some.state(), some.missing.as_slice()), (State::Collecting, &["bob".to_owned()][..]));
    bob.approve(&client, &proposed).await.expect("an approval");
    let done = ended(&client, &proposed.name).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    assert_eq!((done.done, done.total), (2, 2));

    let status = daemon.status().await.expect("a status").root.expect("a root");
    assert_eq!((status.generation, status.custody.as_str()), (2, "founded"));
    opens(&client, KEY, &sealed, "before").await;
    opens(&client, "tenants/zeta/keys/other", &zeta, "zeta").await;
    let after = seal(&client, KEY, "after").await;
    let roster = client.call(client.ceremonies().get_roster(GetRosterRequest {})).await.expect("a roster");
    assert_eq!((roster.quorum, roster.custodians.len()), (2, 3));
    daemon.stop().await;
    assert_eq!(roots(&world), 1);

    world.reconfigure("custody = \"operator\"", "custody = \"custodians\"");
    let daemon = world.start().await;
    let client = daemon.client().await;
    opens(&client, KEY, &sealed, "before").await;
    opens(&client, KEY, &after, "after").await;
    daemon.stop().await;
    let checked = world.cli(["store", "check", "--config", &world.config_file()]);
    assert!(checked.status.success(), "{}", text(&checked));
}

#[tokio::test]
async fn a_root_is_rotated_under_load() {
    let (world, daemon, client, custodians, _) = founded().await;
    for tenant in 0..20 {
        create_key(&client, &format!("t{tenant}"), "k").await;
    }
    let sealed = seal(&client, KEY, "before").await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = (0..4).map(|worker| {
        let (stop, client, sealed) = (stop.clone(), client.clone(), sealed.clone());
        tokio::spawn(async move {
            let mut count = 0;
            while !stop.load(Ordering::Relaxed) {
                opens(&client, KEY, &sealed, "before").await;
                let key = format!("tenants/t{}/keys/k", (count + worker) % 20);
                let own = seal(&client, &key, "x").await;
                opens(&client, &key, &own, "x").await;
                count += 1;
            }
            count
        })
    });
    let load: Vec<_> = load.collect();
    let proposed = rotate(&client).await;
    approve_by(&client, &proposed, &[&custodians[0], &custodians[2]]).await;
    let done = ended(&client, &proposed.name).await;
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        assert!(worker.await.expect("no failure") > 0);
    }
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    assert_eq!(daemon.status().await.expect("a status").root.expect("a root").generation, 3);
    let asked = ListKekVersionsRequest { parent: "tenants/t7".into() };
    let keks = client.call(client.keys().list_kek_versions(asked)).await.expect("KEKs").kek_versions;
    assert_eq!((keks[0].wrapped_count > 0, keks[1].wrapped_count), (true, 0));
    daemon.stop().await;
    assert_eq!(roots(&world), 1);
}

#[tokio::test]
async fn approvals_that_do_not_count_are_refused_with_their_reason() {
    let (world, _daemon, client, custodians, founding) = founded().await;
    let [alice, bob, carol] = &custodians;
    let stranger = Person::new("mallory");
    let first = rotate(&client).await;
    let cancel = CancelRequest { name: first.name.clone(), reason: "enough".into() };
    alice.approve(&client, &first).await.expect("an approval");
    client.call(client.ceremonies().cancel(cancel)).await.expect("cancelled");
    let open = rotate(&client).await;

    let by_stranger = stranger.approve(&client, &open).await.unwrap_err();
    assert!(by_stranger.message.contains("mallory is not a custodian"), "{by_stranger}");
    let in_anothers_name =
        hand_in(&client, &open, "bob", alice.sign(&alice.envelope(&open))).await.unwrap_err();
    assert!(in_anothers_name.message.contains("signature of bob does not verify"), "{in_anothers_name}");
    let mut altered = open.clone();
    altered.statement = altered.statement.replace("rotate-root", "unfreeze");
    let other_text = hand_in(&client, &open, "bob", bob.sign(&bob.envelope(&altered))).await.unwrap_err();
    assert!(other_text.message.contains("does not verify"), "{other_text}");
    let previous = hand_in(&client, &open, "alice", alice.sign(&alice.envelope(&first))).await.unwrap_err();
    assert!(previous.message.contains("does not verify"), "{previous}");
    let founding_again =
        hand_in(&client, &open, "alice", alice.sign(&alice.envelope(&founding))).await.unwrap_err();
    assert!(founding_again.message.contains("does not verify"), "{founding_again}");
    let empty = hand_in(&client, &open, "alice", Vec::new()).await.unwrap_err();
    assert!(empty.message.contains("does not verify"), "{empty}");
    let mut late = open.clone();
    late.expire_time.as_mut().expect("a time").seconds += 3600;
    let longer = hand_in(&client, &open, "alice", alice.sign(&alice.envelope(&late))).await.unwrap_err();
    assert!(longer.message.contains("does not verify"), "{longer}");
    alice.approve(&client, &open).await.expect("an approval");
    let twice = alice.approve(&client, &open).await.unwrap_err();
    assert!(twice.message.contains("alice has approved it already"), "{twice}");
    let cancelled = carol.approve(&client, &first).await.unwrap_err();
    assert!(cancelled.message.contains("the ceremony is cancelled"), "{cancelled}");
    let done = alice.approve(&client, &founding).await.unwrap_err();
    assert!(done.message.contains("the ceremony is done"), "{done}");
    let refused =
        [&by_stranger, &in_anothers_name, &other_text, &previous, &empty, &longer, &twice, &cancelled, &done];
    for error in refused {
        assert_eq!((reason(error), error.code), ("APPROVAL_REFUSED", Code::FailedPrecondition), "{error}");
    }

    // Each stands in the audit log, with its reason and its words.
    let records = world.audit();
    for error in refused {
        let recorded = records.iter().any(|record| {
            record.operation == "ceremony-approve"
                && record.outcome == keyward::audit::Outcome::Failed("APPROVAL_REFUSED".into())
                && record.detail.as_deref().is_some_and(|detail| error.message.contains(detail))
        });
        assert!(recorded, "{error}");
    }
    let nobody = ended(&client, &first.name).await;
    assert_eq!((nobody.state(), nobody.approvals.len()), (State::Cancelled, 1));
}

#[tokio::test]
async fn an_expired_ceremony_takes_no_approval() {
    let (world, _daemon, client, custodians, _) = founded().await;
    let propose = async |seconds| {
        let lasts = Some(prost_types::Duration { seconds, nanos: 0 });
        let action = Some(Action::RotateRoot(RotateRoot {}));
        let request = ProposeRequest { reason: "a test".into(), lasts, action };
        client.call(client.ceremonies().propose(request)).await
    };
    for seconds in [0, -1, 91 * 24 * 3600] {
        assert_eq!(reason(&propose(seconds).await.unwrap_err()), "ARGUMENT_INVALID");
    }
    let proposed = propose(1).await.expect("a proposal");
    custodians[0].approve(&client, &proposed).await.expect("an approval");
    assert_eq!(ended(&client, &proposed.name).await.state(), State::Expired);
    let late = custodians[1].approve(&client, &proposed).await.unwrap_err();
    assert_eq!(reason(&late), "APPROVAL_REFUSED");
    assert!(late.message.contains("the ceremony expired"), "{late}");
    let recorded = world.audit().into_iter().any(|record| {
        record.operation == "ceremony-approve"
            && record.detail.is_some_and(|detail| detail.contains("expired"))
    });
    assert!(recorded);
    // It is on record, so that no clock brings it back.
    let expired = world.audit().into_iter().filter(|record| record.operation == "ceremony-expired");
    assert_eq!(expired.map(|record| record.resource).collect::<Vec<_>>(), [proposed.name]);
    // It is in nobody's way.
    rotate(&client).await;
}

#[tokio::test]
async fn rosters_that_nobody_should_have_are_refused() {
    let world = World::ready();
    let (_daemon, client) = world.start_with_key().await;
    let custodians = people(["alice", "bob", "carol"]);
    let here = deployment(&client).await;
    let cards = |people: &[&Person]| people.iter().map(|person| person.card(here)).collect::<Vec<_>>();
    let [alice, bob, carol] = &custodians;
    let elsewhere = keyward::id::DeploymentId([7; 16]);
    let mut forged = alice.card(here).into_bytes();
    let middle = forged.len() / 2;
    forged[middle] = if forged[middle] == b'A' { b'B' } else { b'A' };
    for (quorum, cards, expected) in [
        (4, cards(&[alice, bob, carol]), "a quorum of 4 does not go with 3"),
        (1, cards(&[alice, bob, carol]), "a quorum of 1"),
        (2, cards(&[alice]), "does not go with 1 custodians"),
        (2, cards(&[alice, bob, alice]), "alice stands there twice"),
        (2, vec![alice.card(here), bob.card(elsewhere)], "the card is for deployment"),
        (2, vec![bob.card(here), String::from_utf8_lossy(&forged).into_owned()], "card"),
        (2, vec![bob.card(here), "nonsense".into()], "card 2"),
    ] {
        let refused = propose(&client, Action::Found(Found { quorum, cards })).await.unwrap_err();
        assert_eq!(reason(&refused), "ARGUMENT_INVALID", "{refused}");
        assert!(refused.message.contains(expected), "{refused}");
    }
    let early = propose(&client, Action::RotateRoot(RotateRoot {})).await.unwrap_err();
    assert!(early.message.contains("the root is unfounded"), "{early}");

    found(&client, 2, &custodians).await;
    let again = propose_founding(&client, 2, &custodians).await.unwrap_err();
    assert!(again.message.contains("founded already"), "{again}");
    let below = ChangeRoster { quorum: 0, add: vec![], remove: vec!["bob".into(), "carol".into()] };
    let below = propose(&client, Action::ChangeRoster(below)).await.unwrap_err();
    assert!(below.message.contains("a quorum of 2 does not go with 1"), "{below}");
    let stranger = ChangeRoster { quorum: 0, add: vec![], remove: vec!["zoe".into()] };
    let stranger = propose(&client, Action::ChangeRoster(stranger)).await.unwrap_err();
    assert!(stranger.message.contains("zoe is not on the roster"), "{stranger}");
    let same = propose(&client, Action::ChangeRoster(ChangeRoster::default())).await.unwrap_err();
    assert!(same.message.contains("would be the same"), "{same}");
    // However many propose it at the same moment, one ceremony at a time makes a root.
    let at_once = (0..16).map(|_| propose(&client, Action::RotateRoot(RotateRoot {})));
    let proposed = futures_util::future::join_all(at_once).await;
    let refused: Vec<_> = proposed.into_iter().filter_map(Result::err).collect();
    assert_eq!(refused.len(), 15);
    for refused in refused {
        assert!(refused.message.contains("is about to make a new root"), "{refused}");
    }
}

#[tokio::test]
async fn who_leaves_the_roster_decides_nothing_any_more() {
    let (_world, daemon, client, custodians, founding) = founded().await;
    let [alice, bob, carol] = &custodians;
    let open = propose(&client, Action::Unfreeze("tenants/acme".into())).await.expect("a proposal");
    alice.approve(&client, &open).await.expect("an approval");
    let dave = Person::new("dave");
    let change = ChangeRoster {
        quorum: 0,
        add: vec![dave.card(deployment(&client).await)],
        remove: vec!["carol".into()],
    };
    let change = propose(&client, Action::ChangeRoster(change)).await.expect("a proposal");
    assert!(dave.approve(&client, &change).await.is_err(), "the old roster decides");
    approve_by(&client, &change, &[bob, carol]).await;
    assert_eq!(ended(&client, &change.name).await.state(), State::Done);
    assert_eq!(daemon.status().await.expect("a status").root.expect("a root").generation, 3);

    let stale = bob.approve(&client, &open).await.unwrap_err();
    assert!(stale.message.contains("the roster has changed"), "{stale}");
    let next = rotate(&client).await;
    let gone = carol.approve(&client, &next).await.unwrap_err();
    assert!(gone.message.contains("carol is not a custodian"), "{gone}");
    approve_by(&client, &next, &[&dave, alice]).await;
    assert_eq!(ended(&client, &next.name).await.state(), State::Done);

    let anchor = transcript(&client, &founding.name).await.expect("a transcript");
    for (name, signers) in [(&founding.name, 3), (&change.name, 2), (&next.name, 2)] {
        let text = transcript(&client, name).await.expect("a transcript");
        let verified = transcript::verify(&text, Some(&anchor), None).expect("it verifies");
        assert_eq!(verified.signers.len(), signers, "{name}");
    }
    let text = transcript(&client, &next.name).await.expect("a transcript");
    let cut = text.replace("\"change-roster\"", "\"rotate-root\"");
    assert!(transcript::verify(&cut, Some(&anchor), None).is_err());
    let open_yet = transcript(&client, &open.name).await.unwrap_err();
    assert_eq!(reason(&open_yet), "NOT_ALLOWED");
}

#[tokio::test]
async fn a_transcript_that_was_changed_proves_nothing() {
    let (_world, _daemon, client, custodians, founding) = founded().await;
    let proposed = rotate(&client).await;
    approve_by(&client, &proposed, &[&custodians[0], &custodians[1]]).await;
    ended(&client, &proposed.name).await;
    let anchor = transcript(&client, &founding.name).await.expect("a transcript");
    let text = transcript(&client, &proposed.name).await.expect("a transcript");
    let good: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let verify = |value: &serde_json::Value| transcript::verify(&value.to_string(), Some(&anchor), None);
    assert!(verify(&good).is_ok());
    let mut changed = good.clone();
    changed["body"]["outcome"] = "nothing".into();
    assert!(matches!(verify(&changed), Err(TranscriptError::Attestation(_))));
    // Without the daemon's attestation the custodians' signatures must hold by themselves.
    let good = good["body"].clone();
    assert!(verify(&good).is_ok());
    type Change = fn(&mut serde_json::Value);
    let changes: [(&str, Change); 9] = [
        ("a signature less", |t| drop(t["decision"]["approvals"].as_array_mut().unwrap().pop())),
        ("the same one twice", |t| {
            let first = t["decision"]["approvals"][0].clone();
            t["decision"]["approvals"][1] = first;
        }),
        ("another signer", |t| t["decision"]["approvals"][0]["custodian"] = "carol".into()),
        ("a stranger", |t| t["decision"]["approvals"][0]["custodian"] = "mallory".into()),
        ("another time", |t| {
            t["decision"]["expires"] = (t["decision"]["expires"].as_u64().unwrap() + 1).into();
        }),
        ("another act", |t| t["decision"]["action"] = "unfreeze".into()),
        ("another installation", |t| t["deployment"] = "00".repeat(16).into()),
        ("no founding", |t| t["chain"] = serde_json::json!([])),
        ("another statement", |t| {
            let text = t["decision"]["statement"].as_str().unwrap().replace("a test", "a jest");
            t["decision"]["statement"] = text.into();
        }),
    ];
    for (what, change) in changes {
        let mut changed = good.clone();
        change(&mut changed);
        assert!(verify(&changed).is_err(), "{what}");
    }

    // Another installation's founding is no anchor.
    let (_world, _daemon, client, _, strange) = founded_in(World::another()).await;
    let strange = transcript(&client, &strange.name).await.expect("a transcript");
    let other = transcript::verify(&text, Some(&strange), None).unwrap_err();
    assert!(matches!(other, TranscriptError::Anchor { .. }), "{other}");
}

#[tokio::test]
async fn a_freeze_is_ended_by_custodians_once_there_are_some() {
    let (_world, _daemon, client, custodians, _) = founded().await;
    let sealed = seal(&client, KEY, "x").await;
    for name in ["tenants/acme", KEY, "principals/tester"] {
        let freeze = FreezeRequest { name: name.into(), reason: "case 17".into() };
        if name.starts_with("tenants") {
            client.call(client.access().freeze(freeze)).await.expect("frozen");
            assert!(client.decrypt(KEY, sealed.clone(), &context([("a", "b")])).await.is_err());
        }
        let unfreeze = UnfreezeRequest { name: name.into(), reason: "case 17".into() };
        let alone = client.call(client.access().unfreeze(unfreeze)).await.unwrap_err();
        assert_eq!(reason(&alone), "CEREMONY_REQUIRED", "{alone}");
        assert!(alone.message.contains(&format!("keyward ceremony propose unfreeze {name}")), "{alone}");
        let proposed = propose(&client, Action::Unfreeze(name.into())).await.expect("a proposal");
        approve_by(&client, &proposed, &[&custodians[2], &custodians[1]]).await;
        assert_eq!(ended(&client, &proposed.name).await.state(), State::Done, "{name}");
    }
    opens(&client, KEY, &sealed, "x").await;
    let missing = propose(&client, Action::Unfreeze("tenants/none".into())).await.unwrap_err();
    assert_eq!(reason(&missing), "NOT_FOUND");
}

/// What the daemon says at the steps of a change of root, in their order.
const STEPS: [&str; 7] = [
    "ceremony: making the root key",
    "root key: its shares are recorded",
    "root key: it is made on every token",
    "root key: it is in force",
    "ceremony: destroying the old root key",
    "root key: the old one is destroyed on every token",
    "root key: the old one is off the record",
];

#[tokio::test]
async fn a_rotation_of_the_root_survives_a_kill_at_each_step() {
    let (world, mut daemon, mut client, custodians, _) = founded().await;
    for tenant in 0..5 {
        create_key(&client, &format!("t{tenant}"), "k").await;
    }
    let sealed = seal(&client, KEY, "before").await;
    for (round, step) in STEPS.into_iter().enumerate() {
        let seen = world.log().matches(step).count();
        let proposed = rotate(&client).await;
        approve_by(&client, &proposed, &[&custodians[0], &custodians[1]]).await;
        let deadline = Instant::now() + PATIENCE;
        while world.log().matches(step).count() == seen {
            assert!(Instant::now() < deadline, "{step}: {}", world.log());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        daemon = world.sparing_tokens(killed(&world, daemon)).await;
        daemon.wait_for(|status| status.serving() == Serving::Ready).await.expect("a daemon that serves");
        client = daemon.client().await;
        let done = ended(&client, &proposed.name).await;
        assert_eq!(done.state(), State::Done, "{step}: {}", done.outcome);
        opens(&client, KEY, &sealed, "before").await;
        let root = daemon.status().await.expect("a status").root.expect("a root");
        assert_eq!(root.generation, u32::try_from(round).expect("small") + 3, "{step}");
        assert_eq!(roots(&world), 1, "{step}");
    }
    daemon.stop().await;
    let checked = world.cli(["store", "check", "--config", &world.config_file()]);
    assert!(checked.status.success(), "{}", text(&checked));
}

/// The daemon is killed at random moments of a founding and of a rotation, until they are done.
#[tokio::test]
async fn a_ceremony_survives_kills_at_any_moment() {
    let world = World::ready();
    let (daemon, client) = world.start_with_key().await;
    for tenant in 0..40 {
        create_key(&client, &format!("t{tenant}"), "k").await;
    }
    let sealed = seal(&client, KEY, "before").await;
    let custodians = people(["alice", "bob", "carol"]);
    let proposed = propose_founding(&client, 2, &custodians).await.expect("a proposal");
    approve_by(&client, &proposed, &custodians.iter().collect::<Vec<_>>()).await;
    let (mut daemon, kills) = kill_until_done(&world, daemon, &proposed.name).await;
    assert!(kills >= 5, "only {kills} kills: too few to say anything");
    let client = daemon.answering().await;
    opens(&client, KEY, &sealed, "before").await;
    let proposed = rotate(&client).await;
    approve_by(&client, &proposed, &[&custodians[0], &custodians[2]]).await;
    let (mut daemon, _) = kill_until_done(&world, daemon, &proposed.name).await;
    let client = daemon.answering().await;
    opens(&client, KEY, &sealed, "before").await;
    let root = daemon.status().await.expect("a status").root.expect("a root");
    assert_eq!((root.generation, root.custody.as_str()), (3, "founded"));
    let all = client.call(client.ceremonies().list_ceremonies(ListCeremoniesRequest {})).await;
    assert!(all.expect("ceremonies").ceremonies.iter().all(|ceremony| ceremony.state() == State::Done));
    daemon.stop().await;
    // No root that was being made when it was killed is left behind.
    assert_eq!(roots(&world), 1);
    let checked = world.cli(["store", "check", "--config", &world.config_file()]);
    assert!(checked.status.success(), "{}", text(&checked));
}
