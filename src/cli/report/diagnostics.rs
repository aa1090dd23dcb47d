//! Diagnostics: one line each on stderr, without control characters.

use std::io::Write;

/// Prints diagnostics that are not errors, unless the user asked for errors only.
#[derive(Clone, Copy)]
pub struct Diagnostics {
    quiet: bool,
}

impl Diagnostics {
    /// With `quiet`, only errors are printed.
    pub fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    pub fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Prints a diagnostic that is not an error.
    pub fn note(self, text: &str) {
        if !self.quiet {
            print(text);
        }
    }
}

/// Prints an error, also with `quiet`.
pub fn error(text: &str) {
    print(text);
}

/// Prints lines without a prefix. They must end with a newline and have no other control characters.
pub fn print_verbatim(line: &[u8]) {
    // A failure to write to stderr cannot be reported.
    std::io::stderr().write_all(line).ok();
}

fn print(text: &str) {
    print_verbatim(line(text).as_bytes());
}

/// The line of a diagnostic, with its prefix and its newline.
pub fn line(text: &str) -> String {
    let mut line = String::from("scuttleup: ");
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line.push('\n');
    line
}
