//! LoginService: logins of staff, and what they log in with.

use std::sync::Arc;

use bytes::Bytes;
use tonic::{Request, Response, Status};

use super::access::check_reason;
use super::call::Gate;
use super::convert::timestamp;
use super::proto::login_service_server::LoginService;
use super::proto::propose_act_request::Act as Asked;
use super::proto::*;
use crate::access::action;
use crate::clock::Date;
use crate::id::{AccountName, ClientAddress, ProposalId, TokenName};
use crate::keyring::account::Level;
use crate::keyring::act;
use crate::keyring::credential::{Credential, CredentialId, TokenAlgorithm, TokenKind};
use crate::keyring::otp::{Lock, OtpHash, OtpKind, OtpScheme};
use crate::ops::login::accounts::{AccountChange, AccountInfo};
use crate::ops::login::admin::{ActApproval, ActInfo};
use crate::ops::login::enrol::{EnrolmentRequest, OpenTicket};
use crate::ops::login::evidence::Shown;
use crate::ops::login::{Begun, Completion, LoggedIn};
use crate::ops::{Error, Vault};
use crate::secret::{Key256, SecretBytes};

/// Shortest seed of a password token in bytes (RFC 4226, section 4, R6).
const SHORTEST_SEED: usize = 16;

/// The service.
pub(super) struct Logins(pub(super) Arc<Gate>);

#[tonic::async_trait]
impl LoginService for Logins {
    async fn begin_login(
        &self,
        request: Request<BeginLoginRequest>,
    ) -> Result<Response<BeginLoginResponse>, Status> {
        self.0
            .serve(action::BeginLogin, request, |message, vault: Arc<Vault>, right| async move {
                let client = ClientAddress::new(&message.client_address)?;
                Ok(vault.begin_login(&right, client).await?.map(begun))
            })
            .await
    }

    async fn complete_login(
        &self,
        request: Request<CompleteLoginRequest>,
    ) -> Result<Response<CompleteLoginResponse>, Status> {
        self.0
            .serve(action::CompleteLogin, request, |message, vault: Arc<Vault>, right| async move {
                let completion = Completion {
                    otp: message.otp,
                    credential: CredentialId(exact(&message.credential, "credential")?),
                    session: message.session_public_key.to_vec(),
                    signature: message.signature.to_vec(),
                };
                Ok(vault.complete_login(&right, &completion).await?.map(logged_in))
            })
            .await
    }

    async fn introspect_assertion(
        &self,
        request: Request<IntrospectAssertionRequest>,
    ) -> Result<Response<IntrospectAssertionResponse>, Status> {
        self.0
            .serve(action::IntrospectAssertion, request, |message, vault: Arc<Vault>, right| async move {
                let found = vault.introspect(&right, &message.assertion).await?;
                Ok(found.map(|claims| {
                    claims.map_or_else(IntrospectAssertionResponse::default, |claims| {
                        IntrospectAssertionResponse {
                            active: true,
                            account: claims.sub,
                            level: claims.level,
                            expire_time: Some(timestamp(Date(claims.exp.saturating_mul(1000)))),
                            session_thumbprint: claims.cnf.jkt,
                        }
                    })
                }))
            })
            .await
    }

    async fn end_assertion(
        &self,
        request: Request<EndAssertionRequest>,
    ) -> Result<Response<EndAssertionResponse>, Status> {
        self.0
            .serve(action::EndAssertion, request, |message, vault: Arc<Vault>, right| async move {
                Ok(vault.end_assertion(&right, &message.assertion).await?.map(|()| EndAssertionResponse {}))
            })
            .await
    }

    async fn get_jwks(&self, request: Request<GetJwksRequest>) -> Result<Response<GetJwksResponse>, Status> {
        self.0
            .serve(action::GetJwks, request, |_message, vault: Arc<Vault>, right| async move {
                Ok(vault.jwks(&right).await?.map(|json| GetJwksResponse { json }))
            })
            .await
    }

    async fn create_account(
        &self,
        request: Request<CreateAccountRequest>,
    ) -> Result<Response<Account>, Status> {
        self.0
            .serve(action::CreateAccount, request, |message, vault: Arc<Vault>, right| async move {
                let level = level(message.level.max(1))?;
                let display_name = super::keys::optional(message.display_name);
                Ok(vault.create_account(&right, level, display_name).await?.map(account))
            })
            .await
    }

    async fn get_account(&self, request: Request<GetAccountRequest>) -> Result<Response<Account>, Status> {
        self.0
            .serve(action::GetAccount, request, |_message, vault: Arc<Vault>, right| async move {
                Ok(vault.show_account(&right).await?.map(account))
            })
            .await
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Result<Response<ListAccountsResponse>, Status> {
        self.0
            .serve(action::ListAccounts, request, |_message, vault: Arc<Vault>, right| async move {
                let all = vault.list_accounts(&right).await?;
                Ok(all.map(|all| ListAccountsResponse { accounts: all.into_iter().map(account).collect() }))
            })
            .await
    }

    async fn update_account(
        &self,
        request: Request<UpdateAccountRequest>,
    ) -> Result<Response<Account>, Status> {
        self.0
            .serve(action::UpdateAccount, request, |message, vault: Arc<Vault>, right| async move {
                let change = AccountChange {
                    level: message.level.map(level).transpose()?,
                    suspended: message.suspended,
                    display_name: message.display_name,
                };
                Ok(vault.update_account(&right, change).await?.map(account))
            })
            .await
    }

    async fn unlock_account(
        &self,
        request: Request<UnlockAccountRequest>,
    ) -> Result<Response<Account>, Status> {
        self.0
            .serve(action::UnlockAccount, request, |message, vault: Arc<Vault>, right| async move {
                check_reason(&message.reason)?;
                Ok(vault.unlock_account(&right, &message.reason).await?.map(account))
            })
            .await
    }

    async fn create_otp(
        &self,
        request: Request<CreateOtpRequest>,
    ) -> Result<Response<CreateOtpResponse>, Status> {
        self.0
            .serve(action::CreateOtp, request, |message, vault: Arc<Vault>, right| async move {
                let name = AccountName::parse(&message.name)?;
                let scheme = scheme(&message)?;
                let given = given_seed(&message.seed)?;
                let own = given.is_some();
                let made = vault.create_otp(&right, scheme, given).await?;
                Ok(made.map(|seed| CreateOtpResponse {
                    uri: if own { Bytes::new() } else { uri(&name, scheme, &seed) },
                }))
            })
            .await
    }

    async fn confirm_otp(&self, request: Request<ConfirmOtpRequest>) -> Result<Response<Account>, Status> {
        self.0
            .serve(action::ConfirmOtp, request, |message, vault: Arc<Vault>, right| async move {
                let following = Some(&*message.following_password).filter(|given| !given.is_empty());
                Ok(vault.confirm_otp(&right, &message.password, following).await?.map(account))
            })
            .await
    }

    async fn open_enrolment(
        &self,
        request: Request<OpenEnrolmentRequest>,
    ) -> Result<Response<Ticket>, Status> {
        self.0
            .serve(action::OpenEnrolment, request, |message, vault: Arc<Vault>, right| async move {
                let replaces = match message.replaces.is_empty() {
                    true => None,
                    false => Some(CredentialId(exact(&message.replaces, "replaces")?)),
                };
                Ok(vault.open_enrolment(&right, replaces).await?.map(ticket))
            })
            .await
    }

    async fn submit_enrolment(
        &self,
        request: Request<SubmitEnrolmentRequest>,
    ) -> Result<Response<LoginCredential>, Status> {
        self.0
            .serve(action::SubmitEnrolment, request, |message, vault: Arc<Vault>, right| async move {
                let submitted = vault.submit_enrolment(&right, enrolment(message)?).await?;
                Ok(submitted.map(|(info, id)| {
                    let found = info.credentials.into_iter().find(|(known, _)| *known == id);
                    found.map(|(id, record)| credential(id, record)).unwrap_or_default()
                }))
            })
            .await
    }

    async fn approve_credential(
        &self,
        request: Request<ApproveCredentialRequest>,
    ) -> Result<Response<Account>, Status> {
        self.0
            .serve(action::ApproveCredential, request, |message, vault: Arc<Vault>, right| async move {
                let id = CredentialId(exact(&message.credential, "credential")?);
                Ok(vault.approve_credential(&right, id).await?.map(account))
            })
            .await
    }

    async fn revoke_credential(
        &self,
        request: Request<RevokeCredentialRequest>,
    ) -> Result<Response<Account>, Status> {
        self.0
            .serve(action::RevokeCredential, request, |message, vault: Arc<Vault>, right| async move {
                check_reason(&message.reason)?;
                let id = CredentialId(exact(&message.credential, "credential")?);
                Ok(vault.revoke_credential(&right, id, &message.reason).await?.map(account))
            })
            .await
    }

    async fn propose_act(&self, request: Request<ProposeActRequest>) -> Result<Response<Act>, Status> {
        self.0
            .serve(action::ProposeAct, request, |message, vault: Arc<Vault>, right| async move {
                let name = AccountName::parse(&message.account)?;
                let act = match message.act {
                    Some(Asked::ApproveToken(credential)) => {
                        let credential = CredentialId(exact(&credential, "approve_token")?);
                        act::Act::ApproveToken { account: name.0, credential }
                    }
                    Some(Asked::Unlock(true)) => act::Act::Unlock { account: name.0 },
                    Some(Asked::Resume(true)) => act::Act::Resume { account: name.0 },
                    Some(Asked::ResetOtp(true)) => act::Act::ResetOtp { account: name.0 },
                    Some(Asked::SetLevel(to)) => {
                        let today = vault.level_of(&right).await?;
                        act::Act::SetLevel { account: name.0, level: level(to)?, today }
                    }
                    Some(Asked::Unlock(false) | Asked::Resume(false) | Asked::ResetOtp(false)) | None => {
                        return Err(Error::Argument("act: say what".into()));
                    }
                };
                Ok(vault.propose_act(&right, act, &message.reason).await?.map(act_message))
            })
            .await
    }

    async fn list_acts(
        &self,
        request: Request<ListActsRequest>,
    ) -> Result<Response<ListActsResponse>, Status> {
        self.0
            .serve(action::ListActs, request, |_message, vault: Arc<Vault>, right| async move {
                let acts = vault.list_acts(&right).await?;
                Ok(acts.map(|acts| ListActsResponse { acts: acts.into_iter().map(act_message).collect() }))
            })
            .await
    }

    async fn approve_act(&self, request: Request<ApproveActRequest>) -> Result<Response<Account>, Status> {
        self.0
            .serve(action::ApproveAct, request, |message, vault: Arc<Vault>, right| async move {
                let approval = ActApproval {
                    administrator: AccountName::parse(&message.administrator)?.0,
                    credential: CredentialId(exact(&message.credential, "credential")?),
                    signature: message.signature.to_vec(),
                };
                Ok(vault.approve_act(&right, &approval).await?.map(account))
            })
            .await
    }

    async fn cancel_act(
        &self,
        request: Request<CancelActRequest>,
    ) -> Result<Response<CancelActResponse>, Status> {
        self.0
            .serve(action::CancelAct, request, |_message, vault: Arc<Vault>, right| async move {
                Ok(vault.cancel_act(&right).await?.map(|()| CancelActResponse {}))
            })
            .await
    }
}

pub(super) fn act_id(name: &str) -> Result<ProposalId, Error> {
    let id = name.strip_prefix("acts/").and_then(ProposalId::parse);
    id.ok_or_else(|| Error::Argument("name: expected acts/ and 32 hexadecimal digits".into()))
}

fn act_message(info: ActInfo) -> Act {
    let ActInfo { id, deployment, record } = info;
    Act {
        name: format!("acts/{id}"),
        action: record.act.as_str().to_owned(),
        account: format!("accounts/{}", record.act.account()),
        statement: record.statement,
        proposed_by: record.proposed_by.to_string(),
        create_time: Some(timestamp(record.created)),
        expire_time: Some(timestamp(record.expires)),
        deployment: deployment.0.to_vec().into(),
    }
}

pub(super) fn exact<const N: usize>(bytes: &[u8], field: &str) -> Result<[u8; N], Error> {
    bytes.try_into().map_err(|_| Error::Argument(format!("{field} has {} bytes, not {N}", bytes.len())))
}

fn level(number: u32) -> Result<Level, Error> {
    Level::new(number).ok_or_else(|| Error::Argument("level is 1, 2 or 3".into()))
}

pub(super) fn scheme(message: &CreateOtpRequest) -> Result<OtpScheme, Error> {
    let or = |given: u32, usual: u32| if given == 0 { usual } else { given };
    let kind = if message.hotp { OtpKind::Hotp } else { OtpKind::Totp(or(message.period, 30)) };
    let hash = if message.hash.is_empty() { Some(OtpHash::Sha1) } else { OtpHash::parse(&message.hash) };
    let hash = hash.ok_or_else(|| Error::Argument("hash is SHA1, SHA256 or SHA512".into()))?;
    let digits = u8::try_from(or(message.digits, 6)).unwrap_or(u8::MAX);
    OtpScheme::new(kind, hash, digits)
        .ok_or_else(|| Error::Argument("digits are 6 to 8, and a period has 15 to 120 seconds".into()))
}

/// A seed filled up with zeros, which leaves its HMAC what it was (RFC 2104, section 2).
fn given_seed(seed: &[u8]) -> Result<Option<Key256>, Error> {
    match seed.len() {
        0 => Ok(None),
        SHORTEST_SEED..=Key256::LEN => {
            Ok(Some(Key256::init_with(|key| key[..seed.len()].copy_from_slice(seed))))
        }
        other => Err(Error::Argument(format!("seed has {other} bytes, not {SHORTEST_SEED} to 32"))),
    }
}

/// The seed as authenticator programs read it. This buffer is wiped when the transport drops it; the copies
/// that the transport makes are not (docs/threat-model.md, "Root on the host").
fn uri(name: &AccountName, scheme: OtpScheme, seed: &Key256) -> Bytes {
    let kind = if matches!(scheme.kind, OtpKind::Hotp) { "hotp" } else { "totp" };
    let counted = match scheme.kind {
        OtpKind::Totp(period) => format!("period={period}"),
        OtpKind::Hotp => "counter=0".to_owned(),
    };
    let head = format!("otpauth://{kind}/Keyward:{}?secret=", name.0);
    let tail =
        format!("&issuer=Keyward&algorithm={}&digits={}&{counted}", scheme.hash.as_str(), scheme.digits);
    let encoding = data_encoding::BASE32_NOPAD;
    let length = encoding.encode_len(Key256::LEN);
    let mut text = Vec::with_capacity(head.len() + length + tail.len());
    text.extend_from_slice(head.as_bytes());
    let at = text.len();
    text.resize(at + length, 0);
    encoding.encode_mut(seed.expose(), &mut text[at..]);
    text.extend_from_slice(tail.as_bytes());
    Bytes::from_owner(SecretBytes::new(text))
}

fn enrolment(message: SubmitEnrolmentRequest) -> Result<EnrolmentRequest, Error> {
    let word = |what: &str, word: &str| Error::Argument(format!("there is no {what} {word:?}"));
    let kind = TokenKind::parse(&message.kind).ok_or_else(|| word("kind of token", &message.kind))?;
    let algorithm = TokenAlgorithm::parse(&message.algorithm);
    let algorithm = algorithm.ok_or_else(|| word("algorithm", &message.algorithm))?;
    let credential = Credential::new(kind, algorithm, message.public_key.to_vec())
        .map_err(|error| Error::Argument(format!("public_key: {error}")))?;
    Ok(EnrolmentRequest {
        name: TokenName::new(&message.token)?,
        credential,
        signature: message.signature.to_vec(),
        shown: Shown {
            attestation: message.attestation.iter().map(|certificate| certificate.to_vec()).collect(),
            certificates: message.certificates.iter().map(|certificate| certificate.to_vec()).collect(),
        },
    })
}

fn begun(begun: Begun) -> BeginLoginResponse {
    let Begun { login, deployment, challenge } = begun;
    let credentials = challenge.credentials.iter().map(|credential| credential.0.to_vec().into());
    BeginLoginResponse {
        login_id: login.0.to_vec().into(),
        nonce: challenge.nonce.to_vec().into(),
        deployment: deployment.0.to_vec().into(),
        origin: challenge.origin.to_string(),
        account: format!("accounts/{}", challenge.account),
        issue_time: Some(timestamp(challenge.issued)),
        expire_time: Some(timestamp(challenge.expires)),
        credentials: credentials.collect(),
    }
}

fn logged_in(found: LoggedIn) -> CompleteLoginResponse {
    CompleteLoginResponse {
        assertion: found.assertion,
        account: found.claims.sub,
        level: found.claims.level,
        expire_time: Some(timestamp(Date(found.claims.exp.saturating_mul(1000)))),
    }
}

fn account(info: AccountInfo) -> Account {
    let AccountInfo { id, record, otp, lock, credentials } = info;
    Account {
        name: format!("accounts/{id}"),
        display_name: record.display_name.unwrap_or_default(),
        level: record.level.get(),
        suspended: record.suspended,
        otp: match otp {
            None => "none",
            Some(otp) if otp.confirmed => "confirmed",
            Some(_) => "unconfirmed",
        }
        .to_owned(),
        lock: match lock {
            Lock::Open => "",
            Lock::Until(_) => "paused",
            Lock::Hard => "locked",
        }
        .to_owned(),
        credentials: credentials.into_iter().map(|(id, record)| credential(id, record)).collect(),
        create_time: Some(timestamp(record.created)),
    }
}

fn credential(id: CredentialId, record: crate::keyring::account::LoginCredential) -> LoginCredential {
    let evidence = record.evidence.unwrap_or_default();
    LoginCredential {
        id: id.0.to_vec().into(),
        token: record.name.to_string(),
        kind: record.credential.kind().as_str().to_owned(),
        algorithm: record.credential.algorithm().as_str().to_owned(),
        state: record.state.as_str().to_owned(),
        assurance: record.assurance.as_str().to_owned(),
        requested_by: record.requested_by.to_string(),
        approved_by: record
            .approver
            .map(|by| by.to_string())
            .or_else(|| record.approved_by.map(|by| by.to_string()))
            .unwrap_or_default(),
        enrol_time: Some(timestamp(record.enrolled)),
        last_use_time: record.last_used.map(timestamp),
        reason: record.reason.unwrap_or_default(),
        serial: evidence.serial.unwrap_or_default(),
        firmware: evidence.firmware.map(|firmware| firmware.to_string()).unwrap_or_default(),
        pin_policy: evidence.pin.map(|asked| asked.as_str().to_owned()).unwrap_or_default(),
        touch_policy: evidence.touch.map(|asked| asked.as_str().to_owned()).unwrap_or_default(),
        certificate_subject: evidence.subject.unwrap_or_default(),
        certificate_expire_time: evidence.expires.map(timestamp),
    }
}

fn ticket(ticket: OpenTicket) -> Ticket {
    Ticket {
        id: ticket.id.0.to_vec().into(),
        account: format!("accounts/{}", ticket.record.account),
        nonce: ticket.record.nonce.to_vec().into(),
        deployment: ticket.deployment.0.to_vec().into(),
        expire_time: Some(timestamp(ticket.record.expires)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uri_has_what_authenticators_read() {
        let name = AccountName::parse("accounts/alice").unwrap();
        let seed = Key256::init_with(|key| key.fill(0));
        let totp = scheme(&CreateOtpRequest::default()).unwrap();
        let zeros = "A".repeat(52);
        assert_eq!(
            uri(&name, totp, &seed),
            format!(
                "otpauth://totp/Keyward:alice?secret={zeros}&issuer=Keyward&algorithm=SHA1&digits=6&period=30"
            )
        );
        let hotp = scheme(&CreateOtpRequest { hotp: true, digits: 8, ..Default::default() }).unwrap();
        assert!(uri(&name, hotp, &seed).ends_with(b"&digits=8&counter=0"));
    }

    #[test]
    fn seeds_of_other_lengths_are_refused() {
        for (length, good) in
            [(0, true), (1, false), (15, false), (16, true), (20, true), (32, true), (33, false)]
        {
            assert_eq!(given_seed(&vec![7; length]).is_ok(), good, "{length}");
        }
    }
}
