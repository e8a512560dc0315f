//! What the helper on the workstation is asked, and what it answers: docs/login.md, "The helper".

use keyward::rpc::proto::{BeginLoginResponse, CompleteLoginRequest};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::visits::Begun;

/// The line for `keyward token agent`.
pub(crate) fn request(begun: &Begun) -> Value {
    let BeginLoginResponse {
        login_id,
        nonce,
        deployment,
        origin,
        account,
        issue_time,
        expire_time,
        credentials,
    } = &begun.challenge;
    let credentials: Vec<_> = credentials.iter().map(hex::encode).collect();
    json!({ "id": 1, "method": "login", "params": {
        "deployment": hex::encode(deployment), "origin": origin, "account": account,
        "login_id": hex::encode(login_id), "nonce": hex::encode(nonce),
        "issued": millis(issue_time.as_ref()), "expires": millis(expire_time.as_ref()),
        "credentials": credentials, "session_public_key": hex::encode(begun.key.public_key()),
    } })
}

fn millis(time: Option<&prost_types::Timestamp>) -> i64 {
    time.map(|time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000).unwrap_or_default()
}

/// What it answers; more may stand beside it.
#[derive(Deserialize)]
struct Answer {
    result: Option<Signed>,
    error: Option<Failed>,
}

#[derive(Deserialize)]
struct Failed {
    message: String,
}

#[derive(Deserialize)]
struct Signed {
    credential: String,
    signature: String,
}

/// The completion of a login. Without a signature, what the helper says of that, if it says something.
pub(crate) fn completion(
    begun: &Begun,
    otp: &str,
    answer: &str,
) -> Result<CompleteLoginRequest, Option<String>> {
    let Answer { result, error } = serde_json::from_str(answer.trim()).map_err(|_| None)?;
    let Signed { credential, signature } = result.ok_or_else(|| error.map(|failed| failed.message))?;
    Ok(CompleteLoginRequest {
        login_id: begun.challenge.login_id.clone(),
        otp: otp.trim().to_owned(),
        credential: hex::decode(credential).map_err(|_| None)?.into(),
        session_public_key: begun.key.public_key().into(),
        signature: hex::decode(signature).map_err(|_| None)?.into(),
    })
}
