//! Text that a person reads before a token signs it.
//!
//! What is signed must be what was seen. So a [`Statement`] has no character that
//! hides, moves or imitates the end of a line, and user text gets into one through
//! [`quote`] only, which shows such characters as what they are.

use std::fmt;

use unicode_normalization::char::is_combining_mark;

/// Letters of scripts that run from right to left (Unicode blocks with a right-to-left default):
/// one of them reorders the digits and signs around it.
const RIGHT_TO_LEFT: [(char, char); 5] = [
    ('\u{590}', '\u{8ff}'),
    ('\u{fb1d}', '\u{fdff}'),
    ('\u{fe70}', '\u{feff}'),
    ('\u{10800}', '\u{10fff}'),
    ('\u{1e800}', '\u{1efff}'),
];

/// Letters and signs that show nothing, besides those that Unicode counts as format characters.
const BLANK: [(char, char); 7] = [
    ('\u{115f}', '\u{1160}'),
    ('\u{2800}', '\u{2800}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{ffff}'),
    ('\u{1d159}', '\u{1d159}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Whether a character shows itself, alone and in its place: no control, format, unassigned, private
/// or combining character, no white space but U+0020, nothing blank, nothing that runs from right to left.
pub fn is_printable(character: char) -> bool {
    if character.is_ascii() {
        return character == ' ' || character.is_ascii_graphic();
    }
    let within = |ranges: &[(char, char)]| ranges.iter().any(|(a, b)| (*a..=*b).contains(&character));
    // The standard library escapes what Unicode calls Cc, Cf, Cn, Co, Zl, Zp and Zs.
    let shown = character.escape_debug().len() == 1;
    shown && !is_combining_mark(character) && !within(&RIGHT_TO_LEFT) && !within(&BLANK)
}

/// User text in double quotes, with everything escaped that does not show itself.
///
/// `\\` and `\"` stand for a backslash and a double quote, `\u{2e}` for any other
/// character by its number, in hexadecimal without leading zeros. A space stays a
/// space only between two other characters. Different texts never look the same.
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    let mut characters = text.chars().peekable();
    let mut after_space = true;
    while let Some(character) = characters.next() {
        match character {
            '\\' | '"' => quoted.extend(['\\', character]),
            ' ' if !after_space && characters.peek().is_some() => quoted.push(' '),
            other if other != ' ' && is_printable(other) => quoted.push(other),
            other => quoted.extend(other.escape_unicode()),
        }
        after_space = character == ' ';
    }
    quoted.push('"');
    quoted
}

/// Why a text is no statement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// It has no text.
    #[error("the statement is empty")]
    Empty,
    /// It has too much.
    #[error("the statement has more than {} bytes", Statement::LONGEST)]
    TooLong,
    /// A character that does not show itself.
    #[error("line {line} of the statement has a character that does not show itself: {}", character.escape_unicode())]
    Character {
        /// The line, from 1.
        line: usize,
        /// The character.
        character: char,
    },
    /// A line that begins or ends with a space, or an empty line at the end.
    #[error("line {0} of the statement ends with white space, or with nothing")]
    Space(usize),
}

/// A text that is signed: lines of printable characters, separated by U+000A.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Statement(String);

impl Statement {
    /// Most bytes of a statement.
    pub const LONGEST: usize = 16 << 10;

    /// Checks and takes a text. A last line end is not part of it.
    ///
    /// # Errors
    /// [`StatementError`] says which line hides something.
    pub fn new(text: &str) -> Result<Self, StatementError> {
        let text = text.strip_suffix('\n').unwrap_or(text);
        match text.len() {
            0 => return Err(StatementError::Empty),
            length if length > Self::LONGEST => return Err(StatementError::TooLong),
            _ => {}
        }
        let lines: Vec<&str> = text.split('\n').collect();
        for (line, content) in (1..).zip(&lines) {
            if let Some(character) = content.chars().find(|character| !is_printable(*character)) {
                return Err(StatementError::Character { line, character });
            }
            if content.ends_with(' ') || (content.is_empty() && line == lines.len()) {
                return Err(StatementError::Space(line));
            }
        }
        Ok(Self(text.to_owned()))
    }

    /// The text, without a line end behind the last line.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Statement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads what [`quote`] wrote; `None` for anything else.
pub fn unquote(quoted: &str) -> Option<String> {
    let mut rest = quoted.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        text.push(match character {
            '\\' if rest.starts_with("u{") => {
                let (number, more) = rest[2..].split_once('}')?;
                rest = more;
                char::from_u32(u32::from_str_radix(number, 16).ok()?)?
            }
            '\\' => {
                let escaped = rest.chars().next().filter(|next| "\\\"".contains(*next))?;
                rest = &rest[1..];
                escaped
            }
            '"' => return None,
            other => other,
        });
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_shows_itself_stays() {
        for text in ["Unfreeze acme, please", "客户数据", "Grüße, naïve", "a-b_c:d (1) 50 %", "日本語 ok"]
        {
            assert_eq!(quote(text), format!("\"{text}\""));
        }
    }

    #[test]
    fn what_hides_or_moves_is_shown() {
        for (text, quoted) in [
            ("a\nb", r#""a\u{a}b""#),
            ("\u{1b}[2K", r#""\u{1b}[2K""#),
            ("a\\n\"", r#""a\\n\"""#),
            ("x\u{202e}y", r#""x\u{202e}y""#),
            ("x\u{2066}y\u{2069}", r#""x\u{2066}y\u{2069}""#),
            ("a\u{200b}\u{feff}\u{ad}b", r#""a\u{200b}\u{feff}\u{ad}b""#),
            ("e\u{301}", r#""e\u{301}""#),
            ("\u{5d0}1", r#""\u{5d0}1""#),
            ("\u{3164}\u{2800}\u{3000}\u{a0}", r#""\u{3164}\u{2800}\u{3000}\u{a0}""#),
            ("\u{e000}\u{fffd}\u{e0041}", r#""\u{e000}\u{fffd}\u{e0041}""#),
            (" a  b ", r#""\u{20}a \u{20}b\u{20}""#),
            ("", r#""""#),
        ] {
            assert_eq!(quote(text), quoted);
        }
    }

    #[test]
    fn a_statement_hides_nothing() {
        let text = "Destroy key tenants/acme/keys/pii\nreason: \"customer 7 left\"\n\nfor ever";
        assert_eq!(Statement::new(text).unwrap().as_str(), text);
        assert_eq!(Statement::new(&format!("{text}\n")).unwrap().as_str(), text);
        assert_eq!(Statement::new(""), Err(StatementError::Empty));
        assert_eq!(Statement::new("\n"), Err(StatementError::Empty));
        for (text, line) in [("a\n\n", 2), ("a \nb", 1), ("a\n ", 2)] {
            assert_eq!(Statement::new(text), Err(StatementError::Space(line)), "{text:?}");
        }
        for (text, line) in [("a\r\nb", 1), ("a\n\tb", 2), ("a\nb\u{202e}", 2), ("a\u{2028}b", 1)] {
            let refused = Statement::new(text);
            assert!(
                matches!(refused, Err(StatementError::Character { line: at, .. }) if at == line),
                "{text:?}"
            );
        }
        assert!(Statement::new(&"a".repeat(Statement::LONGEST)).is_ok());
        assert_eq!(Statement::new(&"a".repeat(Statement::LONGEST + 1)), Err(StatementError::TooLong));
    }

    proptest! {
        #[test]
        fn quoted_text_fits_into_a_statement_and_is_not_ambiguous(text: String) {
            let quoted = quote(&text);
            prop_assert!(quoted.chars().all(is_printable));
            prop_assert!(!quoted.contains("  "));
            prop_assert_eq!(Statement::new(&quoted).unwrap().to_string(), quoted.clone());
            prop_assert_eq!(unquote(&quoted), Some(text));
        }

        #[test]
        fn every_character_is_shown_or_escaped(character: char) {
            let quoted = quote(&character.to_string());
            let stays = quoted == format!("\"{character}\"");
            prop_assert_eq!(stays, is_printable(character) && !" \\\"".contains(character));
            let bidi = matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            prop_assert!(!stays || !(bidi || character.is_control()));
        }
    }

    #[test]
    fn no_character_of_unicode_hides() {
        for character in ('\u{0}'..=char::MAX).filter(|character| is_printable(*character)) {
            assert!(!character.is_control() && (!character.is_whitespace() || character == ' '));
            assert!(!is_combining_mark(character), "{}", character.escape_unicode());
        }
    }
}
