//! Work with data as the staff member who is logged in. Ciphertexts are kept in memory here; an application
//! has them in its database.

use std::sync::{Arc, PoisonError};

use axum::extract::{Form, State as Shared};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use keyward::client::{Context, Error, context};
use serde::Deserialize;

use crate::login::{AWAY, is_good, stale, unavailable, visit_of_form};
use crate::visits::{Staff, State, Visit};
use crate::{App, pages};

/// Longest field in bytes.
const LONGEST: usize = 200;

/// A customer, as the application keeps them.
#[derive(Clone)]
pub(crate) struct Customer {
    name: String,
    phone: Vec<u8>,
}

/// What a ciphertext is about: it decrypts for this customer's phone number only.
fn about(name: &str) -> Context {
    context([("table", "customers"), ("column", "phone"), ("customer", name)])
}

fn staff(visit: &Visit) -> Option<Arc<Staff>> {
    match &visit.state {
        State::Staff(staff) => Some(staff.clone()),
        _ => None,
    }
}

/// Every customer; a field that the staff member may not see says so.
pub(crate) async fn list(Shared(app): Shared<Arc<App>>, headers: HeaderMap) -> Response {
    let Some((_, visit)) = app.visits.of(&headers) else { return Redirect::to("/").into_response() };
    let Some(staff) = staff(&visit) else { return Redirect::to("/").into_response() };
    match is_good(&app, &staff).await {
        Some(true) => {}
        Some(false) => return Redirect::to("/").into_response(),
        None => return unavailable(AWAY),
    }
    let all = app.customers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut rows = Vec::new();
    for Customer { name, phone } in all {
        let opened = staff.client.decrypt(&app.key, phone, &about(&name)).await;
        let shown = match opened {
            Ok(done) => String::from_utf8_lossy(done.plaintext.expose()).into_owned(),
            Err(error) if error.reason() == "ASSERTION_REFUSED" => return Redirect::to("/").into_response(),
            Err(error) => words(&error).to_owned(),
        };
        rows.push((name, shown));
    }
    pages::customers(&visit, &rows, None).into_response()
}

fn words(error: &Error) -> &'static str {
    match error.reason() {
        "STAFF_LEVEL" => "(not at your level)",
        "PERMISSION_DENIED" | "FROZEN" => "(not permitted)",
        _ => "(not available now)",
    }
}

#[derive(Deserialize)]
pub(crate) struct New {
    form: String,
    name: String,
    phone: String,
}

/// A new customer.
pub(crate) async fn add(Shared(app): Shared<Arc<App>>, headers: HeaderMap, Form(new): Form<New>) -> Response {
    let Some((_, visit)) = visit_of_form(&app, &headers, &new.form) else { return stale() };
    let Some(staff) = staff(&visit) else { return stale() };
    let (name, phone) = (new.name.trim().to_owned(), new.phone.trim().to_owned());
    if name.is_empty() || name.len() > LONGEST || phone.is_empty() || phone.len() > LONGEST {
        let page = pages::customers(&visit, &[], Some("Name and phone number have 1 to 200 bytes."));
        return (StatusCode::BAD_REQUEST, page).into_response();
    }
    match staff.client.encrypt(&app.key, phone, &about(&name)).await {
        Ok(done) => {
            let phone = done.ciphertext.to_vec();
            app.customers.lock().unwrap_or_else(PoisonError::into_inner).push(Customer { name, phone });
            Redirect::to("/customers").into_response()
        }
        Err(error) if error.reason() == "ASSERTION_REFUSED" => Redirect::to("/").into_response(),
        Err(error) => {
            let page = pages::customers(&visit, &[], Some(words(&error)));
            (StatusCode::FORBIDDEN, page).into_response()
        }
    }
}
