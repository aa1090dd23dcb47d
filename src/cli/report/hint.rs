//! Hints for errors of the library and for exhausted limits: the option, command or setting that helps.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use scuttleup::{Error, InotifyLimit, RemoteText};
use serde::de::IgnoredAny;

/// The hint for a value that continues on the next line.
pub const ONE_LINE: &str = "a value must be on one line, `jq -c` does that";

/// The hint for this error, if there is one.
pub fn hint(err: &Error) -> Option<&'static str> {
    match err {
        Error::NoLog(_) => Some("check the directory (--log), or create a log in it with `scuttleup [--log DIR] init`"),
        Error::LogExists(..) => Some("`scuttleup [--log DIR] id --new ID` gives it another id"),
        Error::NotADirectory(_) => Some("name the directory of the log with --log"),
        Error::NotEmpty(..) => Some("name one with --log"),
        Error::UnknownOffset { .. } => Some("check --log, or read from the start with --after 0"),
        Error::ReaderWithoutLock(..) | Error::UntrustedOwner(..) => Some("see \"Sharing\" in scuttleup-store(5)"),
        Error::EntryTooLong(..) => Some("raise the limit with --entry-bytes-max, or split the entry"),
        Error::FrameTooLong(_) => Some("if it is an entry, raise the limit with --entry-bytes-max"),
        Error::HashMismatch(..) => Some(
            "jq and other programs rewrite numbers and white space, \
             pass the lines of `read` on unchanged, or use `read --raw`",
        ),
        Error::RemoteText(RemoteText::Terminal, _) => Some("use ssh -T, without RequestTTY in ssh_config"),
        Error::RemoteText(..) => Some(
            "stdout of the remote must carry nothing else than the protocol: \
             check COMMAND (for example `ssh host scuttleup replicate`), and what .bashrc prints",
        ),
        Error::PushOnly => Some("use --mode sync or pull"),
        Error::FeedsRefused(..) => Some("if you trust the remote, run it again with a higher --receive-feeds-max"),
        Error::BytesRefused(..) => Some("if you trust the remote, run it again with a higher --receive-bytes-max"),
        Error::PeerRefused(_) => Some("see --allow-peer"),
        Error::NoNativeWire => Some("use --wire auto, or install a newer scuttleup on the remote"),
        _ => None,
    }
}

/// The text for a live command that looks for new entries every second, because this limit is exhausted.
pub fn polling(limit: InotifyLimit) -> String {
    let (what, settings) = match limit {
        InotifyLimit::Instances => ("instance", "fs.inotify.max_user_instances (sysctl) or ulimit -n"),
        InotifyLimit::Watches => ("watch", "fs.inotify.max_user_watches (sysctl)"),
    };
    format!(
        "no inotify {what} is left, this command looks for new entries every second: \
         raise {settings} and run it again to get new entries at once"
    )
}

/// The text of the error, followed by its hint.
pub fn with_hint(err: &Error) -> String {
    hint(err).map_or_else(|| err.to_string(), |hint| format!("{err}: {hint}"))
}

/// The hint for a line that `append` refuses as JSON, if there is one. `can_continue` says whether a newline ends the line, so
/// that a value can continue on the next line.
pub fn json_hint(line: &[u8], can_continue: bool) -> Option<&'static str> {
    let err = serde_json::from_slice::<IgnoredAny>(line).err()?;
    match line.trim_ascii_start().first() {
        Some(b'{' | b'[') if err.is_eof() => can_continue.then_some(ONE_LINE),
        // This is meant to be JSON.
        Some(b'{') => None,
        _ => Some("use --text for lines that are not JSON"),
    }
}

/// The hint for a command line that the parser refuses, if there is one. `command` is the name of the command.
pub fn parsing_hint(answer: &clap::Error, command: Option<&str>) -> Option<&'static str> {
    if answer.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let is_option = matches!(answer.get(ContextKind::InvalidArg), Some(ContextValue::String(arg)) if arg.starts_with('-'));
    match command? {
        "append" if !is_option => {
            Some("entries come from stdin, such as `echo '{\"a\":1}' | scuttleup append` or `scuttleup append < FILE`")
        }
        "write" if !is_option => Some("change lines come from stdin, such as `scuttleup write < FILE`"),
        _ => None,
    }
}

/// The text if old entries could not be sealed, because of `err`. They are in the log nevertheless.
pub fn not_sealed(err: &str) -> String {
    format!("old entries cannot be sealed into packs, so data.mdb grows: {err}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_for_lines_that_are_not_json() {
        let text = Some("use --text for lines that are not JSON");
        let cases: [(&str, Option<&str>); 12] = [
            ("{", Some(ONE_LINE)),
            (" [ \r", Some(ONE_LINE)),
            ("{\"a\": [", Some(ONE_LINE)),
            ("{\"a\": \"b", Some(ONE_LINE)),
            ("{a: 1}", None),
            ("{} {}", None),
            ("not json", text),
            ("n", text),
            ("}", text),
            ("[info] started", text),
            ("12:30 started", text),
            ("[1]", None),
        ];
        for (line, hint) in cases {
            assert_eq!(json_hint(line.as_bytes(), true), hint, "{line}");
        }
        assert_eq!(json_hint(b"{", false), None);
    }
}
