//! `append`: appends stdin, or followed files, to the local feed.

use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use scuttleup::ingest::{Applied, Batch, Start, Tails};
use scuttleup::{Entry, Error, KEY_WINDOW_MAX, Key, Keys, Log, Pointer, canonical, ndjson};

use crate::cli::args::{entry_bytes, entry_bytes_arg, flag, input_json_arg, parse_number};
use crate::cli::context::Context;
use crate::cli::exit::{Exit, Usage};
use crate::cli::help::epilogue;
use crate::cli::input::{self, BadLines, Cut, Destination, Form, Input, Line, Lines, store_input};
use crate::cli::io::output::Output;
use crate::cli::io::signals::Stop;
use crate::cli::report::hint::json_hint;
use crate::cli::report::input::{Report, Tally};
use crate::cli::report::progress::Progress;

pub fn command() -> Command {
    Command::new("append").about("Append each line of stdin, one JSON value, to the local feed").defer(|command| {
        let nul = Arg::new("nul").short('0').action(ArgAction::SetTrue);
        let skip_bad = Arg::new("skip-bad").long("skip-bad").value_name("FILE").value_parser(value_parser!(PathBuf));
        command
            .arg(flag("text", "Each line is an entry, unchanged; it must be UTF-8").conflicts_with("raw"))
            .arg(flag("raw", "All of stdin is one entry, of any bytes, unless --lines or -0 is given"))
            .arg(flag("lines", "Each line is an entry, also with --raw").conflicts_with("nul"))
            .arg(nul.help("Entries end with a NUL instead of a newline"))
            .arg(flag("ack", "Print {\"peer\",\"seq\"} for each entry after it is on disk"))
            .arg(skip_bad.help("Add bad lines to this file as NDJSON, or print them with -, and store the others"))
            .args(dedupe_args())
            .args(follow_args())
            .arg(input_json_arg())
            .arg(entry_bytes_arg())
            .after_help(epilogue("scuttleup-append", "echo '{\"msg\":\"hello\"}' | scuttleup append"))
    })
}

fn follow_args() -> [Arg; 3] {
    let follow = Arg::new("follow").long("follow").value_name("FILE").action(ArgAction::Append);
    let follow = follow.value_parser(value_parser!(PathBuf));
    let from_end = flag("from-end", "Begin at the end of the file, if it is followed for the first time");
    [
        follow.help("Read this file as it grows, and not stdin; may be repeated"),
        flag("from-start", "Begin at the start of the file, if it is followed for the first time [default]").requires("follow"),
        from_end.requires("follow").conflicts_with("from-start"),
    ]
}

/// The keys of other commands, and of other processes, that count until a line is new: so many lines a source can print again when
/// it starts.
const OTHERS_KEYS: u32 = 1024;

fn dedupe_args() -> [Arg; 2] {
    let window = |text: &str| match parse_number(text)? {
        keys @ 1..=KEYS_MAX => Ok(keys as u32),
        _ => Err("not a number from 1 to 500000"),
    };
    let dedupe = Arg::new("dedupe").long("dedupe").value_name("POINTER").allow_hyphen_values(true).value_parser(Repeat::parse);
    let dedupe_window = Arg::new("dedupe-window").long("dedupe-window").value_name("N").value_parser(window).requires("dedupe");
    [
        dedupe.help("Leave out a line if its value at this JSON pointer repeats, or with `line` the whole line"),
        dedupe_window.help("The number of last lines that are compared [default: 1]"),
    ]
}

const KEYS_MAX: u64 = KEY_WINDOW_MAX as u64;

/// The part of a line that must not repeat, and its name.
#[derive(Clone)]
struct Repeat {
    name: String,
    /// `None`: the whole line.
    pointer: Option<Pointer>,
}

impl Repeat {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let pointer = if text == "line" { None } else { Some(Pointer::parse(text)?) };
        Ok(Self { name: text.to_owned(), pointer })
    }

    /// The key of an entry. `None`: it has no value at the pointer.
    fn key(&self, entry: &[u8]) -> Option<Key> {
        match &self.pointer {
            Some(pointer) => pointer.find(entry).map(|value| Key::of(&canonical(value))),
            None => Some(Key::of(entry)),
        }
    }

    /// The keys of this name. A source that prints its last lines again has a value that never repeats, but whole lines can repeat
    /// for other reasons.
    fn keys(&self, window: u32) -> Keys {
        Keys::new(&self.name, window, self.pointer.as_ref().map(|_| OTHERS_KEYS))
    }
}

/// The maximum white space around a line of JSON, in bytes. It is not part of the entry.
const WHITE_SPACE_BYTES_MAX: usize = 4096;

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let cut = match (args.get_flag("nul"), args.get_flag("raw") && !args.get_flag("lines")) {
        (true, _) => Cut::Nuls,
        (false, true) => Cut::Whole,
        (false, false) => Cut::Lines,
    };
    let bad_lines = args.get_one("skip-bad").map(PathBuf::as_path);
    check_skip_bad(bad_lines, cut, args.get_flag("ack"))?;
    let (json, diagnostics) = (args.get_flag("json"), context.diagnostics);
    let repeat: Option<&Repeat> = args.get_one("dedupe");
    if args.contains_id("follow") && cut == Cut::Whole {
        return Err(Usage("--follow needs lines: with --raw, also use --lines or -0".into()).into());
    }
    check_dedupe(repeat, cut, args.get_flag("text") || args.get_flag("raw"))?;
    let dedupe = repeat.map(|repeat| &repeat.name[..]);
    let report = Report { json, diagnostics, entries: ["entry", "entries"], bad_lines, dedupe };
    let mut tally = Tally::new(cut.unit());
    let outcome = append(context, args, cut, &stop, &mut tally);
    Ok(report.conclude(&tally, outcome, &stop))
}

fn check_skip_bad(path: Option<&Path>, cut: Cut, ack: bool) -> Result<()> {
    let why = match path {
        Some(_) if cut == Cut::Whole => "--skip-bad needs lines: with --raw, also use --lines or -0",
        Some(path) if ack && path.as_os_str() == "-" => {
            "--skip-bad - and --ack both print on stdout: name a file after --skip-bad"
        }
        _ => return Ok(()),
    };
    Err(Usage(why.into()).into())
}

fn check_dedupe(repeat: Option<&Repeat>, cut: Cut, is_text: bool) -> Result<()> {
    let why = match repeat {
        Some(_) if cut == Cut::Whole => "--dedupe needs lines: with --raw, also use --lines or -0",
        Some(repeat) if is_text && repeat.pointer.is_some() => {
            "--dedupe with a pointer needs JSON: with --text or --raw, use --dedupe line"
        }
        _ => return Ok(()),
    };
    Err(Usage(why.into()).into())
}

fn append(context: &Context, args: &ArgMatches, cut: Cut, stop: &Stop, tally: &mut Tally) -> Result<Exit> {
    // Before the log is created: a wrong path must not leave a new log.
    let bad_lines = args.get_one("skip-bad").map(|path: &PathBuf| BadLines::open(path, cut.unit())).transpose()?;
    let paths: Vec<PathBuf> = args.get_many("follow").into_iter().flatten().cloned().collect();
    paths.iter().try_for_each(|path| Tails::check(path))?;
    let log = context.open_or_create()?;
    let raw = args.get_flag("raw");
    let bytes_max = entry_bytes(args);
    let (check, line_bytes_max): (Check, _) = match (args.get_flag("text"), raw) {
        (true, _) => (add_text, bytes_max),
        (_, true) => (add_bytes, bytes_max),
        _ => (add_json, bytes_max + WHITE_SPACE_BYTES_MAX),
    };
    let repeat: Option<&Repeat> = args.get_one("dedupe");
    let check = |line: Line, batch: &mut Batch| {
        let before = batch.entries.len();
        check(line.range, batch, bytes_max)?;
        if let Some(repeat) = repeat
            && batch.entries.len() > before
        {
            let Entry::Bytes(bytes, _) = batch.entries.get(before).entry() else { return Ok(()) };
            batch.set_key(repeat.key(bytes));
        }
        Ok(())
    };
    let keys = repeat.map(|repeat| repeat.keys(args.get_one("dedupe-window").copied().unwrap_or(1)));
    let ack = args.get_flag("ack").then(Output::new);
    let progress = match &ack {
        _ if !paths.is_empty() => Progress::off(),
        Some(output) if !output.is_file() => Progress::off(),
        _ => input::progress(context.diagnostics, stop),
    };
    let form = Form { cut, is_text: !raw, line_bytes_max, entry_bytes_max: bytes_max, advice };
    let destination = Destination { log: &log, bad_lines, keys };
    let mut has_change_lines = false;
    let stored = |batch: &Batch, first, applied| {
        // Looking at one entry of each batch costs nothing, and finds the output of `read`.
        if !has_change_lines && first_is_change_line(batch) {
            has_change_lines = true;
            progress.note(context.diagnostics, &change_line(cut, first));
        }
        acknowledge(&applied, ack.as_ref(), stop)
    };
    let input = match paths.is_empty() {
        true => Input::Stdin,
        false => Input::Files(Box::new(follow(context, args, &log, &paths, cut)?), ack.as_ref()),
    };
    store_input(Lines { input, form }, destination, stop, &progress, tally, check, stored)?;
    Ok(Exit::Done)
}

fn follow(context: &Context, args: &ArgMatches, log: &Log, paths: &[PathBuf], cut: Cut) -> Result<Tails> {
    let start = if args.get_flag("from-end") { Start::End } else { Start::Start };
    let tails = Tails::new(log, paths, start, cut.separator())?;
    for path in tails.missing() {
        context.diagnostics.note(&format!("{} does not exist yet: waiting for it", path.display()));
    }
    Ok(tails)
}

/// Adds the entry of a line to the batch. Refuses an entry that is longer than the limit, in bytes.
type Check = fn(Range<usize>, &mut Batch, usize) -> Result<(), Error>;

fn add_json(line: Range<usize>, batch: &mut Batch, bytes_max: usize) -> Result<(), Error> {
    // In JSON, only these characters are white space.
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let bytes = &batch.entries.input()[line.clone()];
    let Some(first) = bytes.iter().position(|byte| !is_space(byte)) else { return Ok(()) };
    let after = bytes.iter().rposition(|byte| !is_space(byte)).map_or(first, |last| last + 1);
    check_length(after - first, bytes_max)?;
    batch.entries.push_json(line.start + first..line.start + after).map_err(|err| match err {
        Error::NotUtf8(at) => Error::NotUtf8(at + first),
        err => err,
    })
}

fn add_text(line: Range<usize>, batch: &mut Batch, bytes_max: usize) -> Result<(), Error> {
    std::str::from_utf8(&batch.entries.input()[line.clone()]).map_err(|err| Error::not_utf8(&err))?;
    add_bytes(line, batch, bytes_max)
}

fn add_bytes(line: Range<usize>, batch: &mut Batch, bytes_max: usize) -> Result<(), Error> {
    check_length(line.len(), bytes_max)?;
    batch.entries.push_input(line);
    Ok(())
}

fn check_length(bytes: usize, bytes_max: usize) -> Result<(), Error> {
    if bytes > bytes_max { Err(Error::EntryTooLong(bytes as u64, bytes_max)) } else { Ok(()) }
}

fn advice(err: &Error, line: &[u8], cut: Cut) -> Option<&'static str> {
    match err {
        Error::BadInput(_) => json_hint(line, cut == Cut::Lines),
        Error::NotUtf8(_) if UTF_16_MARKS.iter().any(|mark| line.starts_with(mark)) => {
            Some("this is UTF-16, `iconv -f UTF-16 -t UTF-8` converts it")
        }
        Error::NotUtf8(_) if cut == Cut::Lines => Some("use --raw --lines for lines of any bytes"),
        Error::NotUtf8(_) => Some("use --raw for entries of any bytes"),
        _ => None,
    }
}

/// The byte order marks of UTF-16.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

fn first_is_change_line(batch: &Batch) -> bool {
    let first = batch.entries.iter().next();
    first.is_some_and(|first| matches!(first.entry(), Entry::Bytes(bytes, _) if ndjson::is_change_line(bytes)))
}

/// The text for a change line on stdin. It is stored, because this can be meant.
fn change_line(cut: Cut, number: u64) -> String {
    format!(
        "{} {number} is a change line, it is stored as a whole in a new entry: `scuttleup write` stores the entries of change lines",
        cut.unit()
    )
}

/// Prints the acknowledgements of entries that are on the disk.
fn acknowledge(applied: &Applied, ack: Option<&Output>, stop: &Stop) -> Result<()> {
    if let (Some(output), Some((peer, first, last))) = (ack, &applied.local) {
        let mut lines = Vec::new();
        for seq in first.get()..=last.get() {
            ndjson::put_head(&mut lines, peer.as_str(), seq, false, false, 0);
        }
        output.write_unless(&lines, stop).1?;
    }
    Ok(())
}
