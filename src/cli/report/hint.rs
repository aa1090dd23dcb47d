//! Hints for errors of the library: the option or command that helps.

use scuttleup::Error;

/// The hint for this error, if there is one.
pub fn hint(err: &Error) -> Option<&'static str> {
    match err {
        Error::NoLog(_) => Some("create one with `scuttleup init`, or name the directory with --log"),
        Error::NotADirectory(_) => Some("name the directory of the log with --log"),
        Error::EntryTooLong(..) => Some("raise the limit with --entry-bytes-max, or split the entry"),
        Error::FrameTooLong(_) => Some("if it is an entry, raise the limit with --entry-bytes-max"),
        Error::PushOnly => Some("use --mode sync or pull"),
        Error::NoNativeWire => Some("use --wire auto, or install a newer scuttleup on the remote"),
        _ => None,
    }
}

/// The text of the error, followed by its hint.
pub fn with_hint(err: &Error) -> String {
    hint(err).map_or_else(|| err.to_string(), |hint| format!("{err}: {hint}"))
}
