//! Diagnostics: one line each on stderr, with no control character in it.

use std::io::Write;

/// What may be said.
#[derive(Clone, Copy)]
pub struct Messages {
    quiet: bool,
}

impl Messages {
    /// With `quiet`, only errors.
    pub fn new(quiet: bool) -> Self {
        Self { quiet }
    }

    pub fn is_quiet(self) -> bool {
        self.quiet
    }

    /// Something good to know.
    pub fn note(self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }
}

/// Something that went wrong.
pub fn error(text: &str) {
    say(text);
}

fn say(text: &str) {
    let mut line = String::from("scuttleup: ");
    for c in text.chars() {
        if c.is_control() { line.extend(c.escape_default()) } else { line.push(c) }
    }
    line.push('\n');
    // Nobody can be told that stderr is gone.
    std::io::stderr().write_all(line.as_bytes()).ok();
}

/// A line for programs, which is all of it already.
pub fn raw(line: &[u8]) {
    std::io::stderr().write_all(line).ok();
}
