//! The two steps of a login, and logging out.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Form, State as Shared};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use keyward::client::{self, Error, SessionKey};
use keyward::rpc::proto::{
    BeginLoginRequest, CompleteLoginResponse, EndAssertionRequest, IntrospectAssertionRequest,
};
use serde::Deserialize;

use crate::visits::{Begun, Staff, State, Visit};
use crate::{App, helper, pages};

type AppState = Shared<Arc<App>>;

/// Every failure, whatever was wrong: the daemon does not say either.
const FAILED: &str = "The login failed. Begin again, with the right token and a new one-time password.";

/// When the daemon does not answer.
pub(crate) const AWAY: &str = "The login service does not answer. Try again in a moment.";

/// The first page: who are you? Or, for whoever is logged in, what they are.
pub(crate) async fn home(Shared(app): AppState, headers: HeaderMap) -> Response {
    match app.visits.of(&headers) {
        Some((id, visit)) => match &visit.state {
            State::Staff(staff) => match is_good(&app, staff).await {
                Some(true) => pages::home(&visit, staff).into_response(),
                Some(false) => begin_anew(&app, Some(&id), None, StatusCode::OK),
                None => unavailable(AWAY),
            },
            _ => begin_anew(&app, Some(&id), None, StatusCode::OK),
        },
        None => begin_anew(&app, None, None, StatusCode::OK),
    }
}

/// A logout elsewhere, a lost token, a suspended account: the daemon knows. `None` when it does not answer, which ends
/// nobody's session.
pub(crate) async fn is_good(app: &App, staff: &Staff) -> Option<bool> {
    let request = IntrospectAssertionRequest { assertion: staff.assertion.clone() };
    let logins = || app.client.logins();
    app.client
        .call(async { logins().introspect_assertion(request).await })
        .await
        .ok()
        .map(|found| found.active)
}

fn begin_anew(app: &App, old: Option<&str>, said: Option<&str>, status: StatusCode) -> Response {
    match app.visits.open(old, State::Nobody, None) {
        Some((cookie, visit)) => {
            (status, [(header::SET_COOKIE, cookie)], pages::who(&visit, said)).into_response()
        }
        None => unavailable("Too many people are here at the moment."),
    }
}

pub(crate) fn unavailable(said: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, pages::message("Not now", said)).into_response()
}

/// Another site's form, or one of a visit that is over.
pub(crate) fn stale() -> Response {
    (StatusCode::FORBIDDEN, pages::message("This form is over", "Go to the first page and begin again."))
        .into_response()
}

/// The visit of a form, if it is one of our own.
pub(crate) fn visit_of_form(app: &App, headers: &HeaderMap, form: &str) -> Option<(String, Visit)> {
    app.visits.of(headers).filter(|(_, visit)| visit.form == form)
}

#[derive(Deserialize)]
pub(crate) struct Who {
    form: String,
    account: String,
}

/// Asks the daemon for a challenge. The application's own password would be checked here first.
pub(crate) async fn begin(
    Shared(app): AppState,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Form(who): Form<Who>,
) -> Response {
    let Some((id, visit)) = visit_of_form(&app, &headers, &who.form) else { return stale() };
    if matches!(visit.state, State::Staff(_)) {
        return Redirect::to("/").into_response();
    }
    let account = format!("accounts/{}", who.account.trim());
    let request = BeginLoginRequest { account, client_address: peer.ip().to_string() };
    let logins = || app.client.logins();
    let begun = app.client.call(async { logins().begin_login(request).await }).await;
    match (begun, SessionKey::generate()) {
        (Ok(challenge), Ok(key)) => {
            let begun = Arc::new(Begun { challenge, key: Arc::new(key) });
            match app.visits.open(Some(&id), State::Begun(begun.clone()), None) {
                Some((cookie, visit)) => {
                    ([(header::SET_COOKIE, cookie)], pages::sign(&visit, &helper::request(&begun)))
                        .into_response()
                }
                None => unavailable("Too many people are here at the moment."),
            }
        }
        (Err(error), _) => refused(&app, &id, &error),
        (_, Err(error)) => unavailable(&error.message),
    }
}

/// What the daemon refused. Of a name that is none it says as much as of a login that fails.
fn refused(app: &App, id: &str, error: &Error) -> Response {
    match error.reason() {
        "LOGIN_LIMIT" => {
            let said = "Too many logins are open. Wait a little, then begin again.";
            begin_anew(app, Some(id), Some(said), StatusCode::TOO_MANY_REQUESTS)
        }
        "LOGIN_FAILED" | "NAME_INVALID" => begin_anew(app, Some(id), Some(FAILED), StatusCode::UNAUTHORIZED),
        _ => {
            // People cannot help it; whoever runs this can.
            writeln!(std::io::stderr(), "web-login: {}: {}", error.reason(), error.message).ok();
            unavailable(AWAY)
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Answer {
    form: String,
    otp: String,
    answer: String,
}

/// Hands one-time password and signature to the daemon. Every try needs a challenge of its own.
pub(crate) async fn complete(
    Shared(app): AppState,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Form(given): Form<Answer>,
) -> Response {
    let Some((id, _)) = visit_of_form(&app, &headers, &given.form) else { return stale() };
    let Some(begun) = app.visits.take_begun(&id) else { return stale() };
    let request = match helper::completion(&begun, &given.otp, &given.answer) {
        Ok(request) => request,
        // The helper's words are for the person in front of it.
        Err(said) => {
            let said = said.unwrap_or_else(|| FAILED.to_owned());
            return begin_anew(&app, Some(&id), Some(&said), StatusCode::UNAUTHORIZED);
        }
    };
    let logins = || app.client.logins();
    let completed = app.client.call(async { logins().complete_login(request).await }).await;
    match completed.and_then(|done| logged_in(&app, done, &begun, peer)) {
        Ok((staff, lasts)) => match app.visits.open(Some(&id), State::Staff(Arc::new(staff)), Some(lasts)) {
            Some((cookie, _)) => ([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response(),
            None => unavailable("Too many people are here at the moment."),
        },
        Err(error) => refused(&app, &id, &error),
    }
}

fn logged_in(
    app: &App,
    done: CompleteLoginResponse,
    begun: &Begun,
    peer: SocketAddr,
) -> Result<(Staff, Duration), Error> {
    let acts = as_staff(&done.assertion, begun.key.clone(), peer);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let ends = done.expire_time.and_then(|time| u64::try_from(time.seconds).ok()).unwrap_or_default();
    let lasts = Duration::from_secs(ends).saturating_sub(now);
    let CompleteLoginResponse { assertion, account, level, .. } = done;
    Ok((Staff { account, level, client: app.client.for_staff(acts)?, assertion }, lasts))
}

/// How calls show whom they are made for: the assertion, and a proof by the session's key with each.
fn as_staff(assertion: &str, key: Arc<SessionKey>, peer: SocketAddr) -> client::Staff {
    let client_address = Some(peer.ip().to_string());
    client::Staff { assertion: assertion.to_owned(), session: Some(key), client_address }
}

#[derive(Deserialize)]
pub(crate) struct Out {
    form: String,
}

/// Ends the assertion, also for whoever may have copied it.
pub(crate) async fn end(Shared(app): AppState, headers: HeaderMap, Form(out): Form<Out>) -> Response {
    let Some((id, visit)) = visit_of_form(&app, &headers, &out.form) else { return stale() };
    if let State::Staff(staff) = &visit.state {
        let request = EndAssertionRequest { assertion: staff.assertion.clone() };
        let logins = || app.client.logins();
        if app.client.call(async { logins().end_assertion(request).await }).await.is_err() {
            return unavailable(
                "You are still logged in: the login service does not answer. Try again in a moment.",
            );
        }
    }
    app.visits.forget(&id);
    Redirect::to("/").into_response()
}
