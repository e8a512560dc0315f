//! Pages of HTML that print well: no script, nothing from elsewhere, A4 or letter.

use std::fmt::{Arguments, Write};

const STYLE: &str = "\
body{font:11pt/1.45 Georgia,'Times New Roman',serif;color:#111;max-width:44rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1rem;margin:1.4rem 0 .4rem;border-bottom:1px solid #999}\
p.sub{margin:0 0 1rem;color:#444}table{border-collapse:collapse;width:100%}\
th{text-align:left;font-weight:normal;color:#444;padding:.15rem 1rem .15rem 0;vertical-align:top;width:11rem}\
td{padding:.15rem 0;vertical-align:top;overflow-wrap:anywhere}code,pre{font:8.5pt/1.4 Consolas,Menlo,monospace}\
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0}pre.text{font-size:10pt;border:1px solid #bbb;padding:.6rem .8rem}\
footer{margin-top:2rem;font-size:.85em;color:#444}.failed{font-weight:bold;color:#a00}\
.warn{border:2px solid #a00;padding:.5rem .8rem}tr,pre{break-inside:avoid}\
@page{margin:18mm}@media print{body{margin:0;max-width:none;padding:0;font-size:10pt}}";

/// The beginning of a page, up to its content.
pub(super) fn begin(title: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n"
    )
}

/// The end of a page.
pub(super) const END: &str = "</body></html>\n";

/// A heading of a section.
pub(super) fn heading(page: &mut String, words: &str) {
    push(page, format_args!("<h2>{}</h2>\n", escaped(words)));
}

/// A table of names and values, which are HTML already.
pub(super) fn table(page: &mut String, rows: impl Iterator<Item = (String, String)>) {
    page.push_str("<table>");
    rows.for_each(|(name, value)| push(page, format_args!("<tr><th>{name}</th><td>{value}</td></tr>\n")));
    page.push_str("</table>\n");
}

/// Adds HTML.
pub(super) fn push(page: &mut String, words: Arguments<'_>) {
    // Writing to a string does not fail.
    page.write_fmt(words).unwrap_or_default();
}

/// Text that means nothing but itself in HTML.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\n' => safe.push('\n'),
            control if control.is_control() => safe.extend(control.escape_default()),
            plain => safe.push(plain),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_text_is_markup() {
        assert_eq!(escaped("<b a='\"'>&\u{7}\n"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;\\u{7}\n");
        assert!(begin("</title><b>").contains("<title>&lt;/title&gt;&lt;b&gt;</title>"));
    }
}
