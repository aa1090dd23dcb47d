//! The end of the help text of every command.

/// The end of the help text: one example, the environment variables and the manual page.
pub fn epilogue(manual_page: &str, example: &str) -> String {
    format!(
        "\
Example:
  {example}

Environment variables:
  SCUTTLEUP_LOG  The directory of the log, if --log is not given
  XDG_DATA_HOME  The default log is `scuttleup` in this directory [default: ~/.local/share]

Manual: man {manual_page}"
    )
}
