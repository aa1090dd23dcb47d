//! Arguments that several commands share.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::num::{IntErrorKind, ParseIntError};

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use scuttleup::ndjson::PayloadKeys;
use scuttleup::{ENTRY_BYTES_MAX, Error, PeerId, Seq, is_invisible};

use crate::cli::exit::Usage;

/// An option without a value.
pub fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

/// An argument whose value is a number. A negative number is its value, too, so that the message names the argument.
pub fn number(arg: Arg) -> Arg {
    arg.value_parser(parse_number).allow_negative_numbers(true)
}

/// As [`number`], but the number is at least 1.
pub fn positive_number(arg: Arg) -> Arg {
    let parse = |text: &str| match parse_number(text)? {
        0 => Err("0 is too small"),
        number => Ok(number),
    };
    arg.value_parser(parse).allow_negative_numbers(true)
}

/// An option whose value is a size.
pub fn size(option: Arg) -> Arg {
    option.value_parser(parse_size).allow_hyphen_values(true)
}

/// Parses a number of the command line.
///
/// # Errors
/// The reason, which clap prints after the value and the name of the argument.
pub fn parse_number(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|err: ParseIntError| match err.kind() {
        IntErrorKind::PosOverflow => "the number is too large",
        _ if text.starts_with('-') => "the number is negative",
        _ => "not a number",
    })
}

/// COMMAND and its arguments, for the commands that speak with another log.
pub fn command_arg(help: &'static str) -> Arg {
    let words = Arg::new("command").value_name("COMMAND").num_args(1..).last(true);
    words.value_parser(value_parser!(OsString)).help(help)
}

/// The value of [`command_arg`]. Without it, the session is over stdin and stdout, which must not be a terminal.
pub fn command_words(args: &ArgMatches) -> Result<Option<Vec<OsString>>> {
    let command: Option<Vec<OsString>> = args.get_many("command").map(|words| words.cloned().collect());
    if command.is_none() && std::env::args_os().next_back().is_some_and(|last| last == "--") {
        return Err(Usage("no COMMAND after --: name the program to run".into()).into());
    }
    if command.is_none() && (io::stdin().is_terminal() || io::stdout().is_terminal()) {
        return Err(
            Usage("stdin or stdout is a terminal: connect both to another replicate, or name a COMMAND after --".into()).into()
        );
    }
    Ok(command)
}

/// --json, for the commands that print a table on a terminal.
pub fn json_arg() -> Arg {
    flag("json", "Print lines of JSON, also on a terminal")
}

/// PEER and SEQ, for the commands that name one entry.
pub fn peer_and_seq_args() -> [Arg; 2] {
    [
        Arg::new("peer").value_name("PEER").required(true).help("The peer id of the feed"),
        number(Arg::new("seq").value_name("SEQ").required(true)).help("The number of the entry in the feed"),
    ]
}

/// The values of [`peer_and_seq_args`].
pub fn peer_and_seq(args: &ArgMatches) -> Result<(&str, Seq)> {
    let (peer, seq): (&String, u64) = (args.get_one("peer").expect("required"), *args.get_one("seq").expect("required"));
    let seq = Seq::new(seq).ok_or_else(|| Usage(format!("invalid seq {seq}: entries are numbered 1 to 4294967295")))?;
    Ok((peer, seq))
}

/// The maximum of --entry-bytes-max.
const ENTRY_BYTES_LIMIT: u64 = 1 << 30;

/// --entry-bytes-max, for the commands that store entries.
pub fn entry_bytes_arg() -> Arg {
    Arg::new("entry-bytes-max")
        .long("entry-bytes-max")
        .value_name("N")
        .allow_negative_numbers(true)
        .value_parser(|text: &str| match parse_number(text)? {
            bytes @ 1..=ENTRY_BYTES_LIMIT => Ok(bytes),
            _ => Err("not a number from 1 to 1073741824"),
        })
        .help("The maximum length of an entry in bytes, up to 1 GiB [default: 67108864]")
}

/// The value of [`entry_bytes_arg`].
pub fn entry_bytes(args: &ArgMatches) -> usize {
    args.get_one("entry-bytes-max").map_or(ENTRY_BYTES_MAX, |&bytes: &u64| bytes as usize)
}

/// --json, for the commands that store stdin.
pub fn input_json_arg() -> Arg {
    flag("json", "Print how much of stdin is stored, as one JSON object on stderr")
}

/// Parses a size: a number of bytes, or a number with a unit such as 500MiB or 10G. Units with and without `iB` are powers of
/// 1024.
///
/// # Errors
/// The reason, which clap prints after the value and the name of the argument.
fn parse_size(text: &str) -> Result<u64, &'static str> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let power = match unit.to_ascii_uppercase().trim_end_matches("IB") {
        "" if !unit.is_empty() => return Err("not a size, such as 500MiB or 10G"),
        "" | "B" => 0,
        "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => return Err("not a size, such as 500MiB or 10G"),
    };
    parse_number(number)?.checked_mul(1 << (10 * power)).ok_or("the number is too large")
}

/// The options that set the fields of change lines.
pub fn payload_args() -> [Arg; 4] {
    [
        flag("at", "Print the time of arrival, in UTC, as \"at\""),
        flag("no-entry", "Omit the payload"),
        flag("text", "Print every UTF-8 entry as \"text\""),
        flag("raw", "Print every entry as \"base64\"").conflicts_with("text"),
    ]
}

/// Whether [`payload_args`] ask for times of arrival.
pub fn has_times(args: &ArgMatches) -> bool {
    args.get_flag("at")
}

/// The payload of [`payload_args`].
pub fn payload(args: &ArgMatches) -> PayloadKeys {
    match (args.get_flag("no-entry"), args.get_flag("text"), args.get_flag("raw")) {
        (true, _, _) => PayloadKeys::Omitted,
        (_, true, _) => PayloadKeys::Text,
        (_, _, true) => PayloadKeys::Base64,
        _ => PayloadKeys::Auto,
    }
}

/// The peer id that a user gives to a log. Ids of other logs may also hold invisible characters.
pub fn new_peer_id(id: &str) -> Result<PeerId> {
    let id = PeerId::new(id).map_err(|err| invalid_peer_id(&err))?;
    if id.as_str().contains(is_invisible) {
        return Err(Usage("invalid peer id: it contains a control character or an invisible format control".into()).into());
    }
    Ok(id)
}

/// The error for a peer id of the command line that the library rejects.
pub fn invalid_peer_id(err: &Error) -> anyhow::Error {
    Usage(err.to_string()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("2k", 2048),
            ("500MiB", 500 << 20),
            ("10G", 10 << 30),
            ("10g", 10 << 30),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1.5G", "-1", "1X", "1iB", "1 G", "1GB", "18446744073709551616", "99999999999G"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
