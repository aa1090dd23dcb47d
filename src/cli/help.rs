//! The first steps, and the end of the help text of every command.

/// The commands that a new user needs.
pub const FIRST_STEPS: &str = "\
First steps:
  echo '{\"msg\":\"hello\"}' | scuttleup append                   add an entry
  scuttleup watch                                             see entries arrive
  scuttleup replicate --once -- ssh host scuttleup replicate  sync with a host
  scuttleup compare -- ssh host scuttleup replicate           are both equal?";

/// The help text of the program. The first steps come first, because few users read a list of 19 commands to its end.
pub fn of_program() -> String {
    format!("{{about}}\n\n{{usage-heading}} {{usage}}\n\n{FIRST_STEPS}\n\n{{all-args}}{{after-help}}")
}

/// The answer to a command line without arguments: short, so that it fits on every terminal.
pub fn without_arguments(about: &str) -> String {
    format!("{about}\n\n{FIRST_STEPS}\n\nAll commands: scuttleup --help\nManual: man scuttleup\n")
}

/// The end of the help text of a command: one example, the environment variables and the manual page.
pub fn epilogue(manual_page: &str, example: &str) -> String {
    format!("Example:\n  {example}\n\n{}", environment(manual_page))
}

/// The end of each help text: the environment variables and the manual page.
pub fn environment(manual_page: &str) -> String {
    format!(
        "\
Environment variables:
  SCUTTLEUP_LOG  The directory of the log, if --log is not given
  XDG_DATA_HOME  The default log is `scuttleup` in this directory [default: ~/.local/share]

Manual: man {manual_page}"
    )
}
