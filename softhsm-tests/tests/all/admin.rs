//! Administrators: what operators propose, and staff of level 3 approve with their tokens.
// A panic is how a test fails, in helper functions too.
#![allow(clippy::unwrap_used)]

use keyward::client::{Client, Error};
use keyward::clock::Date;
use keyward::id::{AccountId, DeploymentId, ProposalId};
use keyward::rpc::proto::ceremony::State;
use keyward::rpc::proto::propose_act_request::Act as Asked;
use keyward::rpc::proto::propose_request::{Action, MakeAdministrator};
use keyward::rpc::proto::{
    Account, Act, ApproveActRequest, ApproveCredentialRequest, CancelActRequest, CreateAccountRequest,
    CreateOtpRequest, CreateOtpResponse, GetAccountRequest, ListActsRequest, OpenEnrolmentRequest,
    ProposeActRequest, UnlockAccountRequest, UpdateAccountRequest,
};
use keyward::token::envelope::StepUp;
use keyward::token::printable::Statement;
use keyward_softhsm_tests::custodians::{
    approve_by, ended, found, people, propose as propose_ceremony, propose_founding,
};
use keyward_softhsm_tests::person::Person;
use keyward_softhsm_tests::staff::{MemoryKey, ORIGIN, Staff, begin, complete, enroll_by_hand, submission};
use keyward_softhsm_tests::{Daemon, World, softhsm_module, text};

async fn serving() -> (World, Daemon, Client) {
    let mut world = World::new();
    world.reconfigure("role = \"operator\"\n", &format!("role = \"operator\"\norigin = \"{ORIGIN}\"\n"));
    world.init();
    let daemon = world.start().await;
    let client = daemon.client().await;
    (world, daemon, client)
}

async fn set_level(client: &Client, name: &str, level: u32) -> Result<Account, Error> {
    let request = UpdateAccountRequest { name: name.to_owned(), level: Some(level), ..Default::default() };
    client.call(client.logins().update_account(request)).await
}

async fn suspend(client: &Client, name: &str, suspended: bool) -> Result<Account, Error> {
    let request =
        UpdateAccountRequest { name: name.to_owned(), suspended: Some(suspended), ..Default::default() };
    client.call(client.logins().update_account(request)).await
}

async fn new_otp(client: &Client, name: &str) -> Result<CreateOtpResponse, Error> {
    let request = CreateOtpRequest { name: name.to_owned(), ..Default::default() };
    client.call(client.logins().create_otp(request)).await
}

async fn account(client: &Client, name: &str) -> Account {
    client.call(client.logins().get_account(GetAccountRequest { name: name.to_owned() })).await.unwrap()
}

/// A token that waits for approval.
async fn pending(client: &Client, account: &str, token: &MemoryKey) -> Vec<u8> {
    let request = OpenEnrolmentRequest { name: account.to_owned(), ..Default::default() };
    let ticket = client.call(client.logins().open_enrolment(request)).await.unwrap();
    client.call(client.logins().submit_enrolment(submission(&ticket, token))).await.unwrap().id.to_vec()
}

async fn approve_alone(client: &Client, account: &str, credential: &[u8]) -> Result<Account, Error> {
    let request =
        ApproveCredentialRequest { name: account.to_owned(), credential: credential.to_vec().into() };
    client.call(client.logins().approve_credential(request)).await
}

async fn propose(client: &Client, account: &str, act: Asked) -> Result<Act, Error> {
    let request = ProposeActRequest { reason: "a test".into(), account: account.to_owned(), act: Some(act) };
    client.call(client.logins().propose_act(request)).await
}

/// What an administrator's token makes of an act.
fn signed(act: &Act, staff: &Staff, statement: &str) -> ApproveActRequest {
    let date = |time: Option<prost_types::Timestamp>| {
        let time = time.unwrap();
        Date(u64::try_from(time.seconds).unwrap() * 1000 + u64::try_from(time.nanos).unwrap() / 1_000_000)
    };
    let step_up = StepUp {
        proposal: ProposalId::parse(act.name.strip_prefix("acts/").unwrap()).unwrap(),
        account: AccountId::new(staff.account.trim_start_matches("accounts/")).unwrap(),
        created: date(act.create_time),
        expires: date(act.expire_time),
        statement: Statement::new(statement).unwrap(),
    };
    let deployment = DeploymentId(act.deployment[..].try_into().unwrap());
    let envelope = step_up.envelope(deployment, staff.token.credential());
    ApproveActRequest {
        name: act.name.clone(),
        administrator: staff.account.clone(),
        credential: staff.token.credential().0.to_vec().into(),
        signature: staff.token.sign(envelope.as_bytes()).into(),
    }
}

async fn approve(client: &Client, act: &Act, staff: &Staff) -> Result<Account, Error> {
    client.call(client.logins().approve_act(signed(act, staff, &act.statement))).await
}

fn is(error: &Error, reason: &str, word: &str) {
    assert!(error.reason() == reason && error.message.contains(word), "{word}: {} {error}", error.reason());
}

#[tokio::test]
async fn where_there_is_an_administrator_operators_propose() {
    let (_world, daemon, client) = serving().await;
    let (bob, alice) = (Staff::new(&client, "bob").await, Staff::new(&client, "alice").await);
    set_level(&client, &bob.account, 3).await.unwrap();
    let token = MemoryKey::default();
    let credential = pending(&client, &alice.account, &token).await;
    is(
        &approve_alone(&client, &alice.account, &credential).await.unwrap_err(),
        "ADMINISTRATOR_REQUIRED",
        "admin propose approve-token alice",
    );
    is(
        &set_level(&client, &alice.account, 2).await.unwrap_err(),
        "ADMINISTRATOR_REQUIRED",
        "set-level alice 2",
    );
    let request = CreateAccountRequest { name: "accounts/carol".into(), level: 2, ..Default::default() };
    is(
        &client.call(client.logins().create_account(request)).await.unwrap_err(),
        "ADMINISTRATOR_REQUIRED",
        "set-level carol 2",
    );

    let act = propose(&client, &alice.account, Asked::ApproveToken(credential.clone().into())).await.unwrap();
    for line in
        ["KEYWARD ADMINISTRATION", "Action: approve-token", "Account: accounts/alice", "Reason: \"a test\""]
    {
        assert!(act.statement.lines().any(|said| said == line), "{line}: {}", act.statement);
    }
    // By somebody who is none, for oneself, over another text, with another token.
    is(&approve(&client, &act, &alice).await.unwrap_err(), "APPROVAL_REFUSED", "their own account");
    let carol =
        Staff { account: "accounts/carol".into(), token: MemoryKey::default(), passwords: alice.passwords };
    is(&approve(&client, &act, &carol).await.unwrap_err(), "APPROVAL_REFUSED", "no administrator");
    let altered = act.statement.replace("alice", "mallory");
    let request = signed(&act, &bob, &altered);
    is(
        &client.call(client.logins().approve_act(request)).await.unwrap_err(),
        "APPROVAL_REFUSED",
        "the signature",
    );
    let mut request = signed(&act, &carol, &act.statement);
    request.administrator = bob.account.clone();
    is(
        &client.call(client.logins().approve_act(request)).await.unwrap_err(),
        "APPROVAL_REFUSED",
        "the token is none",
    );
    // It counts once.
    approve(&client, &act, &bob).await.unwrap();
    is(&approve(&client, &act, &bob).await.unwrap_err(), "APPROVAL_REFUSED", "no such act");
    let approved = account(&client, &alice.account).await;
    let found = approved.credentials.iter().find(|found| found.id == credential).unwrap();
    assert_eq!((found.state.as_str(), found.approved_by.as_str()), ("active", "accounts/bob"));

    // A level, and an act that is taken back.
    let act = propose(&client, &alice.account, Asked::SetLevel(2)).await.unwrap();
    let twin = propose(&client, &alice.account, Asked::SetLevel(2)).await.unwrap();
    assert_eq!(approve(&client, &act, &bob).await.unwrap().level, 2);
    is(&approve(&client, &twin, &bob).await.unwrap_err(), "NOT_ALLOWED", "has level 2 now");
    client.call(client.logins().cancel_act(CancelActRequest { name: twin.name.clone() })).await.unwrap();
    assert!(client.call(client.logins().list_acts(ListActsRequest {})).await.unwrap().acts.is_empty());
    is(
        &propose(&client, &alice.account, Asked::Unlock(true)).await.unwrap_err(),
        "NOT_ALLOWED",
        "is not locked",
    );
    // A level is lowered by an operator; a suspended administrator approves nothing.
    set_level(&client, &alice.account, 1).await.unwrap();
    let act = propose(&client, &alice.account, Asked::SetLevel(2)).await.unwrap();
    suspend(&client, &bob.account, true).await.unwrap();
    is(&approve(&client, &act, &bob).await.unwrap_err(), "APPROVAL_REFUSED", "no administrator");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn there_is_no_way_past_an_administrator() {
    let (_world, daemon, client) = serving().await;
    let (bob, alice) = (Staff::new(&client, "bob").await, Staff::new(&client, "alice").await);
    set_level(&client, &bob.account, 3).await.unwrap();
    // To be rid of the last one, another password, the end of a suspension.
    is(&set_level(&client, &bob.account, 1).await.unwrap_err(), "ADMINISTRATOR_REQUIRED", "set-level bob 1");
    is(&new_otp(&client, &alice.account).await.unwrap_err(), "ADMINISTRATOR_REQUIRED", "reset-otp alice");
    let act = propose(&client, &alice.account, Asked::ResetOtp(true)).await.unwrap();
    approve(&client, &act, &bob).await.unwrap();
    new_otp(&client, &alice.account).await.unwrap();
    suspend(&client, &alice.account, true).await.unwrap();
    is(
        &suspend(&client, &alice.account, false).await.unwrap_err(),
        "ADMINISTRATOR_REQUIRED",
        "admin propose resume alice",
    );
    let act = propose(&client, &alice.account, Asked::Resume(true)).await.unwrap();
    assert!(!approve(&client, &act, &bob).await.unwrap().suspended);
    is(&propose(&client, &alice.account, Asked::Resume(true)).await.unwrap_err(), "NOT_ALLOWED", "suspended");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn an_act_is_for_the_state_that_it_was_proposed_in() {
    let (_world, daemon, client) = serving().await;
    let (bob, alice) = (Staff::new(&client, "bob").await, Staff::new(&client, "alice").await);
    set_level(&client, &bob.account, 3).await.unwrap();
    suspend(&client, &alice.account, true).await.unwrap();
    let (act, kept) = (
        propose(&client, &alice.account, Asked::Resume(true)).await.unwrap(),
        propose(&client, &alice.account, Asked::Resume(true)).await.unwrap(),
    );
    approve(&client, &act, &bob).await.unwrap();
    suspend(&client, &alice.account, true).await.unwrap();
    is(&approve(&client, &kept, &bob).await.unwrap_err(), "APPROVAL_REFUSED", "changed since");
    let act = propose(&client, &alice.account, Asked::Resume(true)).await.unwrap();
    approve(&client, &act, &bob).await.unwrap();
    client.call(client.logins().cancel_act(CancelActRequest { name: kept.name })).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn an_administrator_unlocks() {
    let (_world, daemon, client) = serving().await;
    let bob = Staff::new(&client, "bob").await;
    let mut dora = Staff::new(&client, "dora").await;
    set_level(&client, &bob.account, 3).await.unwrap();
    // An operator alone is refused, an administrator's word counts.
    for _ in 0..3 {
        let begun = begin(&client, &dora.account).await.unwrap();
        complete(&client, dora.answer(&begun, dora.passwords.wrong())).await.unwrap_err();
    }
    let (name, reason) = (dora.account.clone(), "called back".to_owned());
    let alone = client.call(client.logins().unlock_account(UnlockAccountRequest { name, reason })).await;
    is(&alone.unwrap_err(), "ADMINISTRATOR_REQUIRED", "unlock dora");
    let act = propose(&client, &dora.account, Asked::Unlock(true)).await.unwrap();
    approve(&client, &act, &bob).await.unwrap();
    dora.log_in(&client).await.unwrap();
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn an_administrator_approves_with_a_real_token() {
    let (world, daemon, client) = serving().await;
    world.make_token("bob-token");
    let pin = world.path("pin").display().to_string();
    let module = softhsm_module();
    let token = ["--module", &module, "--token", "bob-token", "--pin-file", &pin];
    let run = |arguments: &[&str]| {
        let output = world.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    run(&["account", "create", "bob", "--level", "3"]);
    run(&[&["token", "generate", "--name", "bob", "--login"], &token[..]].concat());
    enroll_by_hand(&world, "bob", &token);
    run(&["account", "create", "alice"]);
    run(&["admin", "propose", "set-level", "alice", "2", "--reason", "new task"]);
    let act = client.call(client.logins().list_acts(ListActsRequest {})).await.unwrap().acts.remove(0);
    let id = act.name.trim_start_matches("acts/")[..8].to_owned();
    let shown = run(&["admin", "show", &id]);
    assert!(shown.lines().any(|line| line == "Level: 2 (today 1)"), "{shown}");
    let approved = world.cli([&["admin", "approve", &id, "--as", "bob"], &token[..]].concat());
    assert!(
        approved.status.success() && text(&approved).contains("KEYWARD ADMINISTRATION"),
        "{}",
        text(&approved)
    );
    assert_eq!(account(&client, "accounts/alice").await.level, 2);
    assert!(run(&["admin", "list", "--json"]).contains("[]"));
    // A window shows all of it or nothing.
    run(&["admin", "propose", "set-level", "alice", "1", "--reason", &"x".repeat(500)]);
    let act = client.call(client.logins().list_acts(ListActsRequest {})).await.unwrap().acts.remove(0);
    let person = Person::who_knows(&world.path("pin"), &world.path("desk"));
    let window = person.window.display().to_string();
    let id = act.name.trim_start_matches("acts/");
    let approve = ["admin", "approve", id, "--as", "bob", "--pinentry", &window];
    let refused = world.cli([&approve[..], &token[..4]].concat());
    assert!(text(&refused).contains("too long for a window"), "{}", text(&refused));
    assert!(person.has_read().is_empty());
    // A ticket that cannot be written replaces nothing.
    let credential = account(&client, "accounts/bob").await.credentials[0].clone();
    let hex = data_encoding::HEXLOWER.encode(&credential.id);
    let refused = world.cli(["account", "enroll", "bob", "--replaces", &hex, "--out", &pin]);
    assert!(text(&refused).contains("exists"), "{}", text(&refused));
    assert_eq!(account(&client, "accounts/bob").await.credentials[0].state, "active");
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn custodians_make_the_first_administrator() {
    let (_world, daemon, client) = serving().await;
    let bob = Staff::new(&client, "bob").await;
    let custodians = people(["c1", "c2", "c3"]);
    found(&client, 2, &custodians).await;
    is(&set_level(&client, &bob.account, 3).await.unwrap_err(), "NOT_ALLOWED", "make-administrator");
    let make = |account: &str, credential: &[u8]| {
        Action::MakeAdministrator(MakeAdministrator {
            account: account.to_owned(),
            credential: credential.to_vec().into(),
        })
    };
    let foreign = propose_ceremony(&client, make(&bob.account, &[7; 32])).await;
    assert!(foreign.is_err());
    // With a token that nobody has approved yet.
    let new = MemoryKey::default();
    let credential = pending(&client, &bob.account, &new).await;
    let proposed = propose_ceremony(&client, make(&bob.account, &credential)).await.unwrap();
    assert!(proposed.statement.contains("Account: accounts/bob"), "{}", proposed.statement);
    approve_by(&client, &proposed, &[&custodians[0], &custodians[1]]).await;
    let done = ended(&client, &proposed.name).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    let made = account(&client, &bob.account).await;
    let found = made.credentials.iter().find(|found| found.id == credential).unwrap();
    assert_eq!((made.level, found.state.as_str(), found.approved_by == proposed.name), (3, "active", true));
    // From then on operators propose.
    let alice = Staff::new_pending(&client, "alice").await;
    is(
        &approve_alone(&client, &alice.0, &alice.1).await.unwrap_err(),
        "ADMINISTRATOR_REQUIRED",
        "approve-token",
    );
    let act = propose(&client, &alice.0, Asked::ApproveToken(alice.1.clone().into())).await.unwrap();
    let bob = Staff { token: new, ..bob };
    approve(&client, &act, &bob).await.unwrap();
    assert_eq!(account(&client, &alice.0).await.credentials[0].state, "active");

    // The only one is suspended, and nobody can approve that it ends: custodians can.
    is(&set_level(&client, &bob.account, 2).await.unwrap_err(), "ADMINISTRATOR_REQUIRED", "set-level bob 2");
    suspend(&client, &bob.account, true).await.unwrap();
    is(&suspend(&client, &bob.account, false).await.unwrap_err(), "ADMINISTRATOR_REQUIRED", "resume bob");
    let again = propose_ceremony(&client, make(&bob.account, &credential)).await.unwrap();
    approve_by(&client, &again, &[&custodians[1], &custodians[2]]).await;
    let done = ended(&client, &again.name).await;
    assert_eq!(done.state(), State::Done, "{}", done.outcome);
    assert!(!account(&client, &bob.account).await.suspended);
    assert!(daemon.stop().await.success());
}

#[tokio::test]
async fn a_key_decides_or_logs_in() {
    let (_world, daemon, client) = serving().await;
    let custodians = people(["c1", "c2", "c3"]);
    let alice = Staff::new(&client, "alice").await;
    pending(&client, &alice.account, &custodians[1].login_key()).await;
    let refused = propose_founding(&client, 2, &custodians).await.unwrap_err();
    is(&refused, "NOT_ALLOWED", "a key of c2 is on record for logins");
    let custodians = people(["c1", "c2", "c3"]);
    found(&client, 2, &custodians).await;
    let request = OpenEnrolmentRequest { name: alice.account.clone(), ..Default::default() };
    let ticket = client.call(client.logins().open_enrolment(request)).await.unwrap();
    let submitted = submission(&ticket, &custodians[0].login_key());
    let refused = client.call(client.logins().submit_enrolment(submitted)).await.unwrap_err();
    is(&refused, "ENROLMENT_REFUSED", "the key is a custodian's");
    assert!(daemon.stop().await.success());
}
