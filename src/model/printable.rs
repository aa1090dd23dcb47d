//! Text of strangers on a terminal: characters that are not visible are escaped.

use std::fmt;

/// Displays a text without characters that could control a terminal or hide a part of the text. They are escaped as `\u{202e}`.
#[derive(Clone, Copy, Debug)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_invisible(c) { write!(f, "{}", c.escape_default())? } else { write!(f, "{c}")? }
        }
        Ok(())
    }
}

/// Whether a character has no shape of its own, but can change how a terminal shows other text: the controls C0 and C1, DEL, the
/// format controls of Unicode 16 (category Cf, such as U+202E, which reverses the text after it), and the two separators of
/// lines and paragraphs.
pub fn is_invisible(c: char) -> bool {
    // A user's text is mostly ASCII.
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    matches!(c,
        '\u{80}'..='\u{9f}'
        | '\u{ad}'
        | '\u{600}'..='\u{605}'
        | '\u{61c}'
        | '\u{6dd}'
        | '\u{70f}'
        | '\u{890}'..='\u{891}'
        | '\u{8e2}'
        | '\u{180e}'
        | '\u{200b}'..='\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}'
        | '\u{feff}'
        | '\u{fff9}'..='\u{fffb}'
        | '\u{110bd}'
        | '\u{110cd}'
        | '\u{13430}'..='\u{1343f}'
        | '\u{1bca0}'..='\u{1bca3}'
        | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0001}'
        | '\u{e0020}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_does_not_show_is_escaped_and_text_of_any_language_is_not() {
        for (text, shown) in [
            ("a\u{202e}b\u{2066}\u{200b}\u{ad}", "a\\u{202e}b\\u{2066}\\u{200b}\\u{ad}"),
            ("\0\n\x1b\x7f\u{9b}", "\\u{0}\\n\\u{1b}\\u{7f}\\u{9b}"),
            ("\u{feff}x\u{2028}\u{e0041}", "\\u{feff}x\\u{2028}\\u{e0041}"),
            (
                "J\u{f6}rg e\u{301} \u{939}\u{93f}\u{902} \u{1f600} \"q\" \\",
                "J\u{f6}rg e\u{301} \u{939}\u{93f}\u{902} \u{1f600} \"q\" \\",
            ),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }

    /// The standard library also escapes format controls: no category that it knows is missing in the list above.
    #[test]
    fn each_format_control_that_the_standard_library_escapes_is_invisible() {
        // The standard library also escapes code points without a meaning, private ones, other spaces, and marks at the start.
        let is_format = |c: char| matches!(u32::from(c), 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f | 0xfff9..=0xfffb);
        for c in (0..=0x10_ffff).filter_map(char::from_u32) {
            assert!(!c.is_control() || is_invisible(c), "{c:?}");
            assert!(!is_format(c) || is_invisible(c), "{c:?}");
            // Every character that is escaped here is escaped there.
            assert!(!is_invisible(c) || c.escape_debug().len() > 1, "{c:?}");
        }
    }
}
