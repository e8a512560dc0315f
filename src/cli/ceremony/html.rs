//! A transcript as one page that prints well: no script, nothing from elsewhere.

use std::fmt::Write;

use crate::cli::view::{date, text};
use crate::clock::Date;
use crate::ops::ceremony::transcript::Verified;

const STYLE: &str = "body{font:12pt/1.5 Georgia,serif;max-width:44em;margin:3em auto;padding:0 1em;color:#111}\
h1{font-size:1.5em;border-bottom:2px solid #111;padding-bottom:.3em}h2{font-size:1.1em;margin-top:1.6em}\
pre{font:10pt/1.45 ui-monospace,monospace;background:#f4f4f1;border:1px solid #bbb;padding:1em;white-space:pre-wrap;overflow-wrap:anywhere}\
table{border-collapse:collapse;width:100%}td,th{border:1px solid #bbb;padding:.35em .6em;text-align:left;vertical-align:top}\
td{overflow-wrap:anywhere}th{width:11em;font-weight:normal;color:#444}footer{margin-top:2em;font-size:.85em;color:#444}\
@media print{body{margin:0;max-width:none}pre{background:none}tr{break-inside:avoid}}";

/// The page.
pub(super) fn page(verified: &Verified) -> String {
    let transcript = &verified.transcript;
    let decision = &transcript.decision;
    let title = format!("Ceremony {}: {}", short(&decision.ceremony), decision.action);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <title>{0}</title><style>{STYLE}</style>\n<h1>{0}</h1>\n",
        escape(&title)
    );
    let when = |millis| text(&date(Date(millis)));
    rows(
        &mut page,
        &[
            ("State", transcript.state.clone()),
            ("Outcome", transcript.outcome.clone()),
            ("Proposed", when(decision.created)),
            ("Ended", when(transcript.finished)),
            ("Deployment", transcript.deployment.clone()),
            ("Ceremony", decision.ceremony.clone()),
        ],
    );
    put(&mut page, format_args!("<h2>What was signed</h2>\n<pre>{}</pre>\n", escape(&decision.statement)));
    put(
        &mut page,
        format_args!(
            "<h2>Who signed it</h2>\n<p>{} signatures, {} were needed; all were verified.</p>\n",
            decision.approvals.len(),
            verified.needed
        ),
    );
    let signed: Vec<_> =
        decision.approvals.iter().map(|signed| (signed.custodian.as_str(), when(signed.time))).collect();
    rows(&mut page, &signed);
    put(&mut page, format_args!("<h2>What it rests on</h2>\n"));
    let mut chain: Vec<_> = transcript
        .chain
        .iter()
        .map(|link| {
            (link.action.as_str(), format!("ceremony {}, proposed {}", link.ceremony, when(link.created)))
        })
        .collect();
    chain.push(("founding roster", verified.founding_roster.clone()));
    rows(&mut page, &chain);
    if let Some(attested) = &verified.attested {
        put(&mut page, format_args!("<h2>The daemon's word for it</h2>\n"));
        rows(
            &mut page,
            &[("Audit record", attested.sequence.to_string()), ("HSM key", attested.key.clone())],
        );
    }
    page.push_str(
        "<footer>This page shows a transcript; it proves nothing by itself. The file does: \
         <code>keyward ceremony verify FILE --anchor FOUNDING</code>.</footer>\n</html>\n",
    );
    page
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn rows(page: &mut String, rows: &[(&str, String)]) {
    page.push_str("<table>\n");
    for (name, value) in rows {
        put(page, format_args!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(value)));
    }
    page.push_str("</table>\n");
}

fn put(page: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing into memory cannot fail.
    page.write_fmt(text).unwrap_or_default();
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(escape("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
    }
}
