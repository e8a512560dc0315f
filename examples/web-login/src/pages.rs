//! What people see. Everything that comes from outside is escaped where it enters a page.

use std::time::Duration;

use axum::http::header;
use axum::response::{Html, IntoResponse};
use serde_json::Value;

use crate::visits::{Staff, Visit};

/// Text for HTML, inside elements and double-quoted attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

fn page(title: &str, body: &str) -> Html<String> {
    Html(format!(
        r#"<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="stylesheet" href="/style.css"></head>
<body><main><h1>{title}</h1>
{body}
</main></body>
</html>
"#
    ))
}

fn hidden(visit: &Visit) -> String {
    format!(r#"<input type="hidden" name="form" value="{}">"#, visit.form)
}

fn alert(said: Option<&str>) -> String {
    said.map(|said| format!(r#"<p class="alert" role="alert">{}</p>"#, escaped(said))).unwrap_or_default()
}

/// A message, and the way back.
pub(crate) fn message(title: &str, said: &str) -> Html<String> {
    page(title, &format!(r#"<p>{}</p><p><a href="/">To the first page</a></p>"#, escaped(said)))
}

/// Step 1: the account.
pub(crate) fn who(visit: &Visit, said: Option<&str>) -> Html<String> {
    let body = format!(
        r#"{}<form method="post" action="/login">{}
<label for="account">Account</label>
<input id="account" name="account" autocomplete="username" autocapitalize="none" required maxlength="100" autofocus>
<button>Continue</button></form>
<p class="hint">You need your one-time password and your USB token.</p>"#,
        alert(said),
        hidden(visit)
    );
    page("Log in", &body)
}

/// Step 2: the one-time password, and the token's signature by the helper.
pub(crate) fn sign(visit: &Visit, request: &Value) -> Html<String> {
    let params = &request["params"];
    let text = |name: &str| params[name].as_str().unwrap_or_default();
    let (account, origin) = (escaped(short(text("account"))), escaped(text("origin")));
    let line = escaped(&request.to_string());
    let time = |name: &str| params[name].as_u64().unwrap_or_default();
    let lasts = Duration::from_millis(time("expires").saturating_sub(time("issued")));
    let body = format!(
        r#"<p>Your token signs that <strong>{account}</strong> logs in to <strong>{origin}</strong>. The helper shows the same before it
asks for the PIN: compare. It is good for {} seconds and one try.</p>
<form id="login" method="post" action="/login/complete">{}
<p id="state" class="hint" role="status"></p>
<button id="again" type="button" hidden>Try the token again</button>
<label for="otp">One-time password</label>
<input id="otp" name="otp" inputmode="numeric" autocomplete="one-time-code" required maxlength="12" autofocus>
<details id="by-hand" open><summary>Without the browser extension</summary>
<label for="request">Give this line to <code>keyward token agent</code></label>
<textarea id="request" readonly rows="5" spellcheck="false">{line}</textarea>
<label for="answer">and its answer back</label>
<textarea id="answer" name="answer" rows="3" spellcheck="false"></textarea>
</details>
<button id="send">Log in</button></form>
<script src="/helper.js"></script>"#,
        lasts.as_secs(),
        hidden(visit)
    );
    page("Log in with your token", &body)
}

/// An account's name as people say it.
fn short(account: &str) -> &str {
    account.trim_start_matches("accounts/")
}

/// Who is logged in.
pub(crate) fn home(visit: &Visit, staff: &Staff) -> Html<String> {
    let body = format!(
        r#"<p>You are <strong>{}</strong>, level {}.</p>
<p><a href="/customers">Customers</a></p>
<form method="post" action="/logout">{}<button>Log out</button></form>"#,
        escaped(short(&staff.account)),
        staff.level,
        hidden(visit)
    );
    page("Welcome", &body)
}

/// The customers, as far as the staff member may see them.
pub(crate) fn customers(visit: &Visit, rows: &[(String, String)], said: Option<&str>) -> Html<String> {
    let rows: String = rows
        .iter()
        .map(|(name, phone)| format!("<tr><td>{}</td><td>{}</td></tr>", escaped(name), escaped(phone)))
        .collect();
    let body = format!(
        r#"{}<table><thead><tr><th>Name</th><th>Phone</th></tr></thead><tbody>{rows}</tbody></table>
<h2>New customer</h2>
<form method="post" action="/customers">{}
<label for="name">Name</label><input id="name" name="name" required maxlength="200">
<label for="phone">Phone</label><input id="phone" name="phone" required maxlength="200">
<button>Add</button></form>
<p><a href="/">Back</a></p>"#,
        alert(said),
        hidden(visit)
    );
    page("Customers", &body)
}

pub(crate) async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("../static/style.css"))
}

pub(crate) async fn script() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], include_str!("../static/helper.js"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_outside_becomes_markup() {
        assert_eq!(escaped(r#"<a href="x">&'</a>"#), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;&lt;/a&gt;");
    }
}
