//! A certificate as one page of HTML: no script, nothing from elsewhere, prints on A4 or letter.

use std::fmt::Write;

use super::{Proved, authority};
use crate::cli::view::{date, text};

const STYLE: &str = "\
body{font:11pt/1.45 Georgia,'Times New Roman',serif;color:#111;max-width:44rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1rem;margin:1.4rem 0 .4rem;border-bottom:1px solid #999}\
p.sub{margin:0 0 1rem;color:#444}table{border-collapse:collapse;width:100%}\
th{text-align:left;font-weight:normal;color:#444;padding:.15rem 1rem .15rem 0;vertical-align:top;width:11rem}\
td{padding:.15rem 0;vertical-align:top;overflow-wrap:anywhere}code,pre{font:8.5pt/1.4 Consolas,Menlo,monospace}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0}.failed{font-weight:bold;color:#a00}\
.warn{border:2px solid #a00;padding:.5rem .8rem}tr,pre{break-inside:avoid}\
@page{margin:18mm}@media print{body{margin:0;max-width:none;padding:0;font-size:10pt}}";

/// The page.
pub(super) fn render(proved: &Proved) -> String {
    let certificate = &proved.certificate;
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>Certificate of destruction: {name}</title><style>{STYLE}</style></head><body>\n\
         <h1>Certificate of destruction</h1><p class=\"sub\">{what} <code>{name}</code></p>\n",
        name = escaped(&certificate.name),
        what = escaped(certificate.what.as_str()),
    );
    if !proved.trusted {
        page.push_str("<p class=\"warn\">Verified with the key that stands in the certificate itself. Whose key that is, this page does not know.</p>\n");
    }
    facts(&mut page, proved);
    checks(&mut page, proved);
    keys(&mut page, proved);
    proof(&mut page, proved);
    page.push_str("</body></html>\n");
    page
}

fn facts(page: &mut String, proved: &Proved) {
    let certificate = &proved.certificate;
    let backups = certificate.gone_from_backups.as_deref().unwrap_or("not known");
    let rows = [
        ("Destroyed", certificate.destroyed.as_str()),
        ("On the word of", &authority(&certificate.authority)),
        ("Gone from the live system", &certificate.gone_from_live_system),
        ("Gone from backups", backups),
        ("Installation", &certificate.deployment),
    ];
    table(page, rows.iter().map(|(name, value)| (escaped(name), escaped(value))));
    heading(page, "What could still bring it back until then");
    if certificate.could_bring_back.is_empty() {
        page.push_str("<p>Nothing that Keyward knows of.</p>\n");
    } else {
        let items: String =
            certificate.could_bring_back.iter().map(|item| format!("<li>{}</li>", escaped(item))).collect();
        push(page, format_args!("<ul>{items}</ul>\n"));
    }
}

fn checks(page: &mut String, proved: &Proved) {
    heading(page, "What was looked at afterwards");
    table(
        page,
        proved.certificate.checks.iter().map(|check| {
            let verdict = if check.passed { "passed" } else { "<span class=\"failed\">FAILED</span>" };
            (escaped(&check.what), format!("{verdict}: {}", escaped(&check.found)))
        }),
    );
}

fn keys(page: &mut String, proved: &Proved) {
    let certificate = &proved.certificate;
    if certificate.data_keys.is_empty() && certificate.keks.is_empty() {
        return;
    }
    heading(page, "Keys that are gone");
    let data_keys = certificate.data_keys.iter().map(|key| {
        (
            escaped(&key.version),
            format!(
                "data key <code>{}</code><br><code>SHA-256 {}</code>",
                escaped(&key.id),
                escaped(&key.fingerprint)
            ),
        )
    });
    let keks = certificate.keks.iter().map(|kek| {
        let place = if kek.resident { "object of the token" } else { "wrapped in the store" };
        (escaped(&kek.name), format!("KEK, {place}<br><code>SHA-256 {}</code>", escaped(&kek.fingerprint)))
    });
    table(page, data_keys.chain(keks));
}

fn proof(page: &mut String, proved: &Proved) {
    let verified = &proved.verified;
    heading(page, "Proof");
    let rows = [
        (
            "Audit record",
            format!("{} of {}, {}", verified.sequence, verified.head.size, text(&date(verified.record.time))),
        ),
        ("Operation", verified.record.operation.clone()),
        ("Signed by", verified.key.to_string()),
    ];
    table(page, rows.iter().map(|(name, value)| (escaped(name), format!("<code>{}</code>", escaped(value)))));
    page.push_str(
        "<p>This page is for reading. What proves anything is the file that it was made from: \
                   <code>keyward certificate verify FILE --key KEYS</code></p>\n",
    );
}

fn heading(page: &mut String, words: &str) {
    push(page, format_args!("<h2>{}</h2>\n", escaped(words)));
}

/// Rows of two cells that are HTML already.
fn table(page: &mut String, rows: impl Iterator<Item = (String, String)>) {
    page.push_str("<table>");
    rows.for_each(|(name, value)| push(page, format_args!("<tr><th>{name}</th><td>{value}</td></tr>\n")));
    page.push_str("</table>\n");
}

fn push(page: &mut String, words: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    page.write_fmt(words).unwrap_or_default();
}

/// Text that means nothing but itself in HTML.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            control if control.is_control() => safe.extend(control.escape_default()),
            plain => safe.push(plain),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::checkpoint::{NoteKey, TreeHead};
    use crate::audit::{Outcome, Record};
    use crate::clock::Date;
    use crate::id::DeploymentId;
    use crate::keyring::signing::tests::TestKey;
    use crate::ops::attest::Verified;
    use crate::ops::certificate::tests::sample;

    fn proved(trusted: bool) -> Proved {
        let record = Record {
            time: Date(1000),
            request_id: 1,
            caller: None,
            operation: "destroy-key".into(),
            resource: String::new(),
            outcome: Outcome::Ok,
            policy: String::new(),
            latency_us: 0,
            items: None,
            change: None,
            detail: None,
        };
        let verified = Verified {
            kind: "destruction-certificate".into(),
            body: serde_json::Value::Null,
            record,
            sequence: 7,
            head: TreeHead { size: 9, root: [1; 32] },
            key: NoteKey::new(DeploymentId([5; 16]), TestKey::fixed()),
        };
        Proved { certificate: sample(), verified, trusted }
    }

    #[test]
    fn the_page_says_everything_and_fetches_nothing() {
        let page = render(&proved(true));
        for words in [
            "tenants/acme/keys/pii/versions/3",
            "ceremony c-17",
            "2026-12-25",
            "an export",
            "FAILED",
            "7 of 9",
        ] {
            assert!(page.contains(words), "{words}");
        }
        for foreign in ["<script", "http://", "https://", "src=", "url(", "href"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(!page.contains("class=\"warn\""));
        assert!(render(&proved(false)).contains("class=\"warn\""));
    }

    #[test]
    fn nothing_in_a_certificate_is_markup() {
        let mut evil = proved(true);
        evil.certificate.name = "<script>alert('&')</script>\u{1b}".into();
        let page = render(&evil);
        assert!(!page.contains("<script>"));
        assert!(page.contains("&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;\\u{1b}"));
    }
}
