//! A browser for pages on loopback: keeps one cookie, follows nothing by itself, reads forms.

use std::net::SocketAddr;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{CONTENT_TYPE, COOKIE, HOST, LOCATION, SET_COOKIE};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A browser with its cookie.
#[derive(Debug, Clone)]
pub struct Browser {
    server: SocketAddr,
    /// The cookie, as it is sent.
    pub cookie: Option<String>,
}

/// An answer.
#[derive(Debug)]
pub struct Page {
    /// The status.
    pub status: u16,
    /// Where it sends the browser.
    pub location: Option<String>,
    /// All headers, a line each.
    pub headers: String,
    /// The text.
    pub text: String,
}

impl Browser {
    /// A new one, without a cookie.
    pub fn new(server: SocketAddr) -> Self {
        Self { server, cookie: None }
    }

    /// Opens a page.
    pub async fn get(&mut self, path: &str) -> Page {
        self.ask(Method::GET, path, String::new()).await
    }

    /// Sends a form.
    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Page {
        let encoded: Vec<_> =
            fields.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
        self.ask(Method::POST, path, encoded.join("&")).await
    }

    async fn ask(&mut self, method: Method, path: &str, body: String) -> Page {
        let stream = TcpStream::connect(self.server).await.expect("a server");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("a server");
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, self.server.to_string());
        if let Some(cookie) = &self.cookie {
            request = request.header(COOKIE, cookie);
        }
        let request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let request = request.body(Full::new(Bytes::from(body))).expect("a request");
        let answer = sender.send_request(request).await.expect("an answer");
        drop(sender);
        let header =
            |name| answer.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        if let Some(cookie) = header(SET_COOKIE) {
            self.cookie = cookie.split(';').next().map(str::to_owned);
        }
        let (status, location) = (answer.status().as_u16(), header(LOCATION));
        let headers = answer.headers().iter().map(|(name, value)| format!("{name}: {value:?}\n")).collect();
        let text = answer.into_body().collect().await.expect("a page").to_bytes();
        connection.abort();
        Page { status, location, headers, text: String::from_utf8_lossy(&text).into_owned() }
    }
}

impl Page {
    /// The value of a hidden field.
    pub fn hidden(&self, name: &str) -> String {
        let begin = format!(r#"name="{name}" value=""#);
        let rest = self.text.split_once(&begin).unwrap_or_else(|| panic!("no {name} in {}", self.text)).1;
        rest.split('"').next().unwrap_or_default().to_owned()
    }

    /// The text of a text area.
    pub fn area(&self, id: &str) -> String {
        let begin = format!(r#"<textarea id="{id}""#);
        let rest = self.text.split_once(&begin).unwrap_or_else(|| panic!("no {id} in {}", self.text)).1;
        let text =
            rest.split_once('>').expect("an element").1.split("</textarea>").next().unwrap_or_default();
        text.replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    }
}

/// Everything but letters and digits (WHATWG URL, application/x-www-form-urlencoded).
fn encoded(text: &str) -> String {
    text.bytes()
        .map(
            |byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            },
        )
        .collect()
}
