//! Diagnostics: one line each on stderr, without control characters and format controls.

use std::io::Write;

use scuttleup::{Printable, ndjson};

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
            print("", text);
        }
    }

    /// As [`Diagnostics::note`], with a label: see [`labelled_error`].
    pub fn labelled_note(self, label: &str, text: &str) {
        if !self.quiet {
            print(label, text);
        }
    }
}

/// Prints an error, also with `quiet`.
pub fn error(text: &str) {
    print("", text);
}

/// As [`error`], with a label that names the process: its stderr may be shown together with that of its remote. An empty label is
/// none.
pub fn labelled_error(label: &str, text: &str) {
    print(label, text);
}

/// Prints one line of JSON, which ends with a newline. Invisible characters in its strings are escaped as in JSON.
pub fn print_json(line: &str) {
    print_verbatim(format!("{}\n", ndjson::escape_invisible(line.trim_end_matches('\n'))).as_bytes());
}

/// Prints lines without a prefix. They must end with a newline and have no other control characters.
pub fn print_verbatim(line: &[u8]) {
    // A failure to write to stderr cannot be reported.
    std::io::stderr().write_all(line).ok();
}

fn print(label: &str, text: &str) {
    print_verbatim(line(label, text).as_bytes());
}

/// A number and what it counts.
pub fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

/// The line of a diagnostic, with its prefix and its newline.
pub fn line(label: &str, text: &str) -> String {
    let text = Printable(text);
    if label.is_empty() { format!("scuttleup: {text}\n") } else { format!("scuttleup ({}): {text}\n", Printable(label)) }
}
