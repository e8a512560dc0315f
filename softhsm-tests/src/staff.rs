//! Staff whose token and session keys the test holds itself, for what the daemon makes of their logins.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use keyward::client::{Client, Error, SessionKey};
use keyward::clock::Date;
use keyward::id::{AccountId, DeploymentId, LoginId, Origin, TicketId, TokenName};
use keyward::keyring::credential::{CredentialId, TokenAlgorithm};
use keyward::keyring::custodian::AgreementKey;
use keyward::keyring::otp::{OtpHash, OtpKind, OtpScheme};
use keyward::rpc::proto::{
    Account, ApproveCredentialRequest, BeginLoginRequest, BeginLoginResponse, CompleteLoginRequest,
    CompleteLoginResponse, ConfirmOtpRequest, CreateAccountRequest, CreateOtpRequest, OpenEnrolmentRequest,
    SubmitEnrolmentRequest, Ticket,
};
use keyward::token::envelope::{Login, LoginEnrolment};
use keyward::token::verify;
use serde_json::{Value, json};

use crate::{World, text};

/// How staff know the application of the tests.
pub const ORIGIN: &str = "https://crm.example";
/// The address that logins come from.
pub const ADDRESS: &str = "192.0.2.7";

/// A P-256 key in memory.
pub struct MemoryKey(EcdsaKeyPair);

impl Default for MemoryKey {
    fn default() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key"))
    }
}

impl MemoryKey {
    /// One that is there already.
    pub fn of(pair: EcdsaKeyPair) -> Self {
        Self(pair)
    }

    /// The public key.
    pub fn public(&self) -> AgreementKey {
        AgreementKey::of_point(self.0.public_key().as_ref()).expect("a point")
    }

    /// Its name.
    pub fn credential(&self) -> CredentialId {
        CredentialId::of(self.public().spki())
    }

    /// A signature with either s.
    pub fn sign_raw(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).expect("a signature").as_ref().to_vec()
    }

    /// A signature in its one spelling.
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        verify::normalise(TokenAlgorithm::EcdsaP256Sha256, &self.sign_raw(message)).expect("a signature")
    }
}

/// Passwords by counter, from a seed that the test gives: each is there at once.
pub struct Passwords {
    scheme: OtpScheme,
    seed: [u8; 20],
    next: u64,
}

impl Passwords {
    /// The password of a counter.
    pub fn at(&self, counter: u64) -> String {
        self.scheme.password(&self.seed, counter)
    }

    /// The next one.
    pub fn take(&mut self) -> String {
        self.next += 1;
        self.at(self.next - 1)
    }

    /// The button is pressed until this counter.
    pub fn press_until(&mut self, counter: u64) {
        self.next = counter;
    }

    /// A password that is none of the next ones.
    pub fn wrong(&self) -> String {
        let near: Vec<_> = (0..self.next + 30).map(|counter| self.at(counter)).collect();
        let mut candidates = (0..).map(|number| format!("{number:06}"));
        candidates.find(|candidate| !near.contains(candidate)).expect("a password")
    }
}

/// A staff member with one token.
pub struct Staff {
    /// `accounts/{account}`
    pub account: String,
    /// The token's key.
    pub token: MemoryKey,
    /// The one-time passwords.
    pub passwords: Passwords,
}

impl Staff {
    /// Makes an account that can be logged in to.
    pub async fn new(client: &Client, name: &str) -> Self {
        let account = format!("accounts/{name}");
        let request = CreateAccountRequest { name: account.clone(), ..Default::default() };
        client.call(client.logins().create_account(request)).await.expect("an account");
        let passwords = one_time_passwords(client, &account).await;
        let token = MemoryKey::default();
        enroll(client, &account, &token).await.expect("a token on record");
        Self { account, token, passwords }
    }

    /// Makes an account with a token that waits for approval; answers its name, and the credential.
    pub async fn new_pending(client: &Client, name: &str) -> (String, Vec<u8>) {
        let account = format!("accounts/{name}");
        let request = CreateAccountRequest { name: account.clone(), ..Default::default() };
        client.call(client.logins().create_account(request)).await.expect("an account");
        let request = OpenEnrolmentRequest { name: account.clone(), ..Default::default() };
        let ticket = client.call(client.logins().open_enrolment(request)).await.expect("a ticket");
        let submitted = submission(&ticket, &MemoryKey::default());
        let enrolled = client.call(client.logins().submit_enrolment(submitted)).await.expect("an enrolment");
        (account, enrolled.id.to_vec())
    }

    /// Logs in as it should be done.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn log_in(&mut self, client: &Client) -> Result<CompleteLoginResponse, Error> {
        let begun = begin(client, &self.account).await?;
        let password = self.passwords.take();
        complete(client, self.answer(&begun, password)).await
    }

    /// What `keyward token agent` answers to a line, with the token that is held here.
    pub fn agent_answer(&self, line: &str) -> String {
        let request: Value = serde_json::from_str(line).expect("JSON");
        let params = &request["params"];
        let text = |name: &str| params[name].as_str().expect("a text").to_owned();
        let bytes = |name: &str| data_encoding::HEXLOWER.decode(text(name).as_bytes()).expect("hexadecimal");
        let number = |name: &str| Date(params[name].as_u64().expect("a number"));
        let signed = Login {
            origin: Origin::new(&text("origin")).expect("an origin"),
            login: LoginId(bytes("login_id").try_into().expect("16 bytes")),
            nonce: bytes("nonce").try_into().expect("32 bytes"),
            account: account_id(&text("account")),
            issued: number("issued"),
            expires: number("expires"),
            session: AgreementKey::new(bytes("session_public_key")).expect("a key"),
        };
        let envelope = signed.envelope(deployment(&bytes("deployment")), self.token.credential());
        let signature = data_encoding::HEXLOWER.encode(&self.token.sign(envelope.as_bytes()));
        let credential = self.token.credential().to_string();
        json!({ "id": 1, "result": { "credential": credential, "signature": signature } }).to_string()
    }

    /// Logs in with a session's key, as a client library does that acts for the staff member afterwards.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn log_in_as(
        &mut self,
        client: &Client,
        session: &SessionKey,
    ) -> Result<CompleteLoginResponse, Error> {
        let begun = begin(client, &self.account).await?;
        let session = AgreementKey::new(session.public_key()).expect("a session key");
        let password = self.passwords.take();
        complete(client, self.answer_for(&begun, password, session)).await
    }

    /// The right answer to a challenge.
    pub fn answer(&self, begun: &BeginLoginResponse, otp: String) -> CompleteLoginRequest {
        self.answer_for(begun, otp, MemoryKey::default().public())
    }

    fn answer_for(
        &self,
        begun: &BeginLoginResponse,
        otp: String,
        session: AgreementKey,
    ) -> CompleteLoginRequest {
        let envelope = login(begun, session.clone());
        let envelope = envelope.envelope(deployment(&begun.deployment), self.token.credential());
        CompleteLoginRequest {
            login_id: begun.login_id.clone(),
            otp,
            credential: self.token.credential().0.to_vec().into(),
            session_public_key: session.spki().to_vec().into(),
            signature: self.token.sign(envelope.as_bytes()).into(),
        }
    }
}

/// What is signed to answer a challenge.
pub fn login(begun: &BeginLoginResponse, session: AgreementKey) -> Login {
    Login {
        origin: Origin::new(&begun.origin).expect("an origin"),
        login: LoginId(begun.login_id.as_ref().try_into().expect("16 bytes")),
        nonce: begun.nonce.as_ref().try_into().expect("32 bytes"),
        account: account_id(&begun.account),
        issued: date(begun.issue_time),
        expires: date(begun.expire_time),
        session,
    }
}

/// A challenge as `keyward token agent` takes it.
pub fn challenge(begun: &BeginLoginResponse, session: &AgreementKey) -> Value {
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let credentials: Vec<_> = begun.credentials.iter().map(|one| hex(one)).collect();
    json!({
        "deployment": hex(&begun.deployment), "origin": begun.origin, "account": begun.account,
        "login_id": hex(&begun.login_id), "nonce": hex(&begun.nonce),
        "issued": date(begun.issue_time).millis(), "expires": date(begun.expire_time).millis(),
        "credentials": credentials, "session_public_key": hex(session.spki()),
    })
}

/// `keyward token agent`, driven as a browser's host does.
pub struct Agent {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().expect("keyward");
        let input = process.stdin.take().expect("piped");
        let output = BufReader::new(process.stdout.take().expect("piped"));
        Self { process, input, output }
    }

    /// The answer to one line.
    pub fn ask(&mut self, request: &Value) -> Value {
        self.send(format!("{request}\n").as_bytes())
    }

    /// The answer to bytes that may be no request.
    pub fn send(&mut self, bytes: &[u8]) -> Value {
        self.input.write_all(bytes).expect("a pipe");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a pipe");
        serde_json::from_str(&line).expect("JSON")
    }

    /// Has a challenge signed for a new session.
    pub fn sign(&mut self, begun: &BeginLoginResponse, otp: String) -> CompleteLoginRequest {
        let session = MemoryKey::default().public();
        let params = challenge(begun, &session);
        let answer = self.ask(&json!({ "id": 1, "method": "login", "params": params }));
        let bytes = |name: &str| {
            let text = answer["result"][name].as_str().unwrap_or_else(|| panic!("{answer}"));
            data_encoding::HEXLOWER.decode(text.as_bytes()).expect("hexadecimal")
        };
        CompleteLoginRequest {
            login_id: begun.login_id.clone(),
            otp,
            credential: bytes("credential").into(),
            session_public_key: session.spki().to_vec().into(),
            signature: bytes("signature").into(),
        }
    }

    /// Closes its input, upon which it ends.
    pub fn end(mut self) {
        drop(self.input);
        assert!(self.process.wait().expect("keyward").success());
    }
}

/// Begins a login.
///
/// # Errors
/// The daemon's refusal.
pub async fn begin(client: &Client, account: &str) -> Result<BeginLoginResponse, Error> {
    begin_from(client, account, ADDRESS).await
}

/// Begins a login from somewhere.
///
/// # Errors
/// The daemon's refusal.
pub async fn begin_from(client: &Client, account: &str, address: &str) -> Result<BeginLoginResponse, Error> {
    let request = BeginLoginRequest { account: account.to_owned(), client_address: address.to_owned() };
    client.call(client.logins().begin_login(request)).await
}

/// Completes a login.
///
/// # Errors
/// The daemon's refusal.
pub async fn complete(
    client: &Client,
    request: CompleteLoginRequest,
) -> Result<CompleteLoginResponse, Error> {
    client.call(client.logins().complete_login(request)).await
}

/// Gives an account passwords by counter, and uses the first up.
pub async fn one_time_passwords(client: &Client, account: &str) -> Passwords {
    let scheme = OtpScheme::new(OtpKind::Hotp, OtpHash::Sha1, 6).expect("a scheme");
    let mut passwords = Passwords { scheme, seed: *b"12345678901234567890", next: 0 };
    let seed = passwords.seed.to_vec().into();
    let request = CreateOtpRequest { name: account.to_owned(), hotp: true, seed, ..Default::default() };
    client.call(client.logins().create_otp(request)).await.expect("passwords");
    let password = passwords.take();
    let request = ConfirmOtpRequest { name: account.to_owned(), password, ..Default::default() };
    client.call(client.logins().confirm_otp(request)).await.expect("a first password");
    passwords
}

/// Puts a token on record, with its approval.
///
/// # Errors
/// The daemon's refusal.
pub async fn enroll(client: &Client, account: &str, token: &MemoryKey) -> Result<Account, Error> {
    let request = OpenEnrolmentRequest { name: account.to_owned(), ..Default::default() };
    let ticket = client.call(client.logins().open_enrolment(request)).await?;
    let submitted = submission(&ticket, token);
    let enrolled = client.call(client.logins().submit_enrolment(submitted)).await?;
    let request = ApproveCredentialRequest { name: account.to_owned(), credential: enrolled.id };
    client.call(client.logins().approve_credential(request)).await
}

/// Puts the login key of a real token on record, as an operator and a staff member do it: `token` says to `keyward
/// token` which one. Answers the credential.
pub fn enroll_by_hand(world: &World, account: &str, token: &[&str]) -> String {
    let run = |arguments: &[&str]| {
        let output = world.cli(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let [ticket, enrolment] =
        ["ticket", "enrolment"].map(|name| world.path(&format!("{account}.{name}")).display().to_string());
    run(&["account", "enroll", account, "--out", &ticket]);
    let enroll = ["token", "enroll", "--ticket", &ticket, "--name", "blue", "--out", &enrolment, "--json"];
    let enrolled: Value = serde_json::from_str(&run(&[&enroll[..], token].concat())).expect("JSON");
    let credential = enrolled["credential"].as_str().expect("a credential").to_owned();
    run(&["account", "submit", &enrolment]);
    run(&["account", "approve", account, &credential]);
    credential
}

/// What a workstation makes of a ticket.
pub fn submission(ticket: &Ticket, token: &MemoryKey) -> SubmitEnrolmentRequest {
    let name = TokenName::new("memory").expect("a name");
    let signed = LoginEnrolment {
        account: account_id(&ticket.account),
        ticket: TicketId(ticket.id.as_ref().try_into().expect("16 bytes")),
        nonce: ticket.nonce.as_ref().try_into().expect("32 bytes"),
        expires: date(ticket.expire_time),
        name: name.clone(),
    };
    let signed = signed.envelope(deployment(&ticket.deployment), token.credential());
    SubmitEnrolmentRequest {
        ticket: ticket.id.clone(),
        token: name.to_string(),
        kind: "pkcs11".to_owned(),
        algorithm: TokenAlgorithm::EcdsaP256Sha256.as_str().to_owned(),
        public_key: token.public().spki().to_vec().into(),
        signature: token.sign(signed.as_bytes()).into(),
        ..Default::default()
    }
}

fn account_id(name: &str) -> AccountId {
    AccountId::new(name.trim_start_matches("accounts/")).expect("an account")
}

/// The installation that a challenge or ticket is of.
pub fn deployment(bytes: &[u8]) -> DeploymentId {
    DeploymentId(bytes.try_into().expect("16 bytes"))
}

fn date(time: Option<prost_types::Timestamp>) -> Date {
    let time = time.expect("a time");
    let seconds = u64::try_from(time.seconds).expect("after 1970");
    Date(seconds * 1000 + u64::try_from(time.nanos).expect("after 1970") / 1_000_000)
}
