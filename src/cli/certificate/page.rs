//! A certificate as one page of HTML.

use super::{Proved, authority};
use crate::cli::html::{self, escaped, heading, push, table};
use crate::cli::view::{date, text};

/// The page.
pub(super) fn render(proved: &Proved) -> String {
    let certificate = &proved.certificate;
    let name = &certificate.name;
    let mut page = html::begin(&format!("Certificate of destruction: {name}"));
    push(
        &mut page,
        format_args!(
            "<h1>Certificate of destruction</h1><p class=\"sub\">{} <code>{}</code></p>\n",
            escaped(certificate.what.as_str()),
            escaped(name)
        ),
    );
    if !proved.trusted {
        page.push_str("<p class=\"warn\">Verified with the key that stands in the certificate itself. Whose key that is, this page does not know.</p>\n");
    }
    facts(&mut page, proved);
    checks(&mut page, proved);
    keys(&mut page, proved);
    proof(&mut page, proved);
    page.push_str(html::END);
    page
}

fn facts(page: &mut String, proved: &Proved) {
    let certificate = &proved.certificate;
    let backups = certificate.gone_from_backups.as_deref().unwrap_or("not known");
    let about = certificate.about.clone().unwrap_or_default();
    let class = about.data_class.map_or_else(String::new, |class| class.to_string());
    let made = format!("{}, {} days before", about.created, about.age_days);
    let known = [
        ("Name for people", about.display_name.unwrap_or_default()),
        ("Class of its data", class),
        ("Made", if certificate.about.is_some() { made } else { String::new() }),
        ("Reason", certificate.reason.clone().unwrap_or_default()),
        ("Signed by custodians", certificate.signers.join(", ")),
    ];
    let known = known.iter().filter(|(_, value)| !value.is_empty());
    let rows = [
        ("Destroyed", certificate.destroyed.as_str()),
        ("On the word of", &authority(&certificate.authority)),
        ("Gone from the live system", &certificate.gone_from_live_system),
        ("Gone from backups", backups),
        ("Installation", &certificate.deployment),
    ];
    let known = known.map(|(name, value)| (*name, value.as_str()));
    table(page, known.chain(rows).map(|(name, value)| (escaped(name), escaped(value))));
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
    if certificate.data_keys.is_empty() && certificate.index_keys.is_empty() && certificate.keks.is_empty() {
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
    let index_keys = certificate.index_keys.iter().map(|key| {
        let fingerprint = escaped(&key.fingerprint);
        (escaped(&key.name), format!("blind index key<br><code>SHA-256 {fingerprint}</code>"))
    });
    table(page, data_keys.chain(index_keys).chain(keks));
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
            "tenants/acme/keys/pii/fields/phone/versions/1",
            "ceremony c-17",
            "the contract ended",
            "alice, carol",
            "Acme Ltd",
            "365 days before",
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
