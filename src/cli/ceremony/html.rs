//! A transcript as one page of HTML.

use crate::cli::html::{self, escaped, heading, push, table};
use crate::cli::view::{date, text};
use crate::clock::Date;
use crate::ops::ceremony::transcript::Verified;

/// The page.
pub(super) fn page(verified: &Verified) -> String {
    let transcript = &verified.transcript;
    let decision = &transcript.decision;
    let title = format!("Ceremony {}: {}", short(&decision.ceremony), decision.action);
    let mut page = html::begin(&title);
    push(&mut page, format_args!("<h1>{}</h1>\n", escaped(&title)));
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
    heading(&mut page, "What was signed");
    push(&mut page, format_args!("<pre class=\"text\">{}</pre>\n", escaped(&decision.statement)));
    heading(&mut page, "Who signed it");
    push(
        &mut page,
        format_args!(
            "<p>{} signatures, {} were needed; all were verified.</p>\n",
            decision.approvals.len(),
            verified.needed
        ),
    );
    let signed: Vec<_> =
        decision.approvals.iter().map(|signed| (signed.custodian.as_str(), when(signed.time))).collect();
    rows(&mut page, &signed);
    heading(&mut page, "What it rests on");
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
        heading(&mut page, "The daemon's word for it");
        rows(
            &mut page,
            &[("Audit record", attested.sequence.to_string()), ("HSM key", attested.key.clone())],
        );
    }
    page.push_str(
        "<footer>This page shows a transcript; it proves nothing by itself. The file does: \
         <code>keyward ceremony verify FILE --anchor FOUNDING</code>.</footer>\n",
    );
    page.push_str(html::END);
    page
}

fn short(id: &str) -> &str {
    id.get(..8).unwrap_or(id)
}

fn rows(page: &mut String, rows: &[(&str, String)]) {
    table(page, rows.iter().map(|(name, value)| (escaped(name), escaped(value))));
}
