//! A web login with one-time password and USB token, to be copied by whoever puts Keyward behind an
//! application: server-rendered, on loopback, without a framework for its pages.
//!
//! ```text
//! visits     who is there: cookies, and what belongs to them      pages    what they see
//! login      the two steps of a login, and logging out            helper   what the workstation signs
//! customers  work with data, as the staff member who is logged in
//! ```
//!
//! What is left to the application: its own password (factor 1), if accounts have one, in `login::begin`,
//! before Keyward is asked; TLS, and behind a proxy the client's address from the header that the proxy sets.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, header};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::routing::{get, post};
use clap::Parser;
use keyward::client::Client;
use tokio::net::TcpListener;

mod customers;
mod helper;
mod login;
mod pages;
mod visits;

/// Largest form in bytes.
const FORM: usize = 16 * 1024;

/// A web login with one-time password and USB token
#[derive(Debug, Parser)]
struct Options {
    /// Socket of keywardd
    #[arg(long, default_value = "/run/keyward/keyward.sock")]
    socket: PathBuf,
    /// Where to listen; anything but loopback needs TLS in front
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Key that customers' data is encrypted under
    #[arg(long, default_value = "tenants/acme/keys/customer-pii")]
    key: String,
    /// Cookies go over https only: say so when TLS is in front
    #[arg(long)]
    secure_cookies: bool,
}

/// What every page shares.
pub(crate) struct App {
    pub(crate) client: Client,
    pub(crate) key: String,
    pub(crate) visits: visits::Visits,
    pub(crate) customers: Mutex<Vec<customers::Customer>>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tell(&format!("web-login: error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Says something on stderr; nobody is left to be told when that is closed.
fn tell(line: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "{line}").ok();
}

async fn serve(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    if !options.listen.ip().is_loopback() && !options.secure_cookies {
        return Err("--listen beyond loopback takes TLS in front: say so with --secure-cookies".into());
    }
    let app = Arc::new(App {
        client: Client::connect(&options.socket).await?,
        key: options.key,
        visits: visits::Visits::new(options.secure_cookies),
        customers: Mutex::default(),
    });
    let listener = TcpListener::bind(options.listen).await?;
    tell(&format!("web-login: http://{}", listener.local_addr()?));
    let service = routes(app).into_make_service_with_connect_info::<SocketAddr>();
    let stop = async { tokio::signal::ctrl_c().await.map(drop).unwrap_or_default() };
    Ok(axum::serve(listener, service).with_graceful_shutdown(stop).await?)
}

fn routes(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(login::home))
        .route("/login", post(login::begin))
        .route("/login/complete", post(login::complete))
        .route("/logout", post(login::end))
        .route("/customers", get(customers::list).post(customers::add))
        .route("/style.css", get(pages::style))
        .route("/helper.js", get(pages::script))
        .layer(DefaultBodyLimit::max(FORM))
        .layer(from_fn(headers))
        .with_state(app)
}

/// Nothing from elsewhere, nothing in frames, nothing kept by the browser.
async fn headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    let policy = "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
