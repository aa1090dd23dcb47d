//! `append`: stdin becomes entries of the own feed.

use std::ops::Range;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command};
use scuttleup::{Entry, Error, Kind, Log, Tomb, check_json, ndjson};

use super::exit::Exit;
use super::input::{self, Batch, Cut, Limits, Line, pump};
use super::output::Output;
use super::progress::Progress;
use super::signals::Stop;
use super::{Context, entry_bytes, entry_bytes_arg};

pub fn command() -> Command {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    Command::new("append")
        .about("Append each line of stdin, which must be one JSON value, to the own feed")
        .arg(flag("text", "Each line is an entry, as it is; it must be UTF-8").conflicts_with("raw"))
        .arg(flag("raw", "All of stdin is one entry, whatever its bytes"))
        .arg(Arg::new("nul").short('0').action(ArgAction::SetTrue).help("Entries end with a NUL instead of a newline"))
        .arg(flag("ack", "Print {\"peer\",\"seq\"} for each entry once it is on disk"))
        .arg(entry_bytes_arg())
}

/// The most white space around a line of JSON.
const WHITE_SPACE_BYTES_MAX: usize = 4096;

/// A checked entry: where it lies in its batch.
struct Item {
    range: Range<usize>,
    kind: Kind,
    tomb: Tomb,
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let log = Log::open_or_create(&context.dir)?;
    let raw = args.get_flag("raw");
    let cut = match (args.get_flag("nul"), raw) {
        (true, _) => Cut::Nuls,
        (false, true) => Cut::Whole,
        (false, false) => Cut::Lines,
    };
    let bytes_max = entry_bytes(args);
    // The white space around JSON is no part of the entry.
    let (check, line_bytes_max): (Check, _) = match (args.get_flag("text"), raw) {
        (true, _) => (check_text, bytes_max),
        (_, true) => (check_raw, bytes_max),
        _ => (check_json_line, bytes_max + WHITE_SPACE_BYTES_MAX),
    };
    let check = |line: Line<'_>| match check(&line)? {
        Some(item) if item.range.len() > bytes_max => Err(Error::EntryTooLong(item.range.len() as u64, bytes_max)),
        item => Ok(item),
    };
    let ack = args.get_flag("ack").then(Output::new);
    let progress = match &ack {
        Some(output) if !output.is_file() => Progress::off(),
        _ => input::progress(context.messages, &stop),
    };
    let limits = Limits { line_bytes_max, entry_bytes_max: bytes_max };
    pump(cut, limits, &stop, &progress, check, |batch| store(&log, batch, ack.as_ref(), &stop))?;
    Ok(stop.exit().unwrap_or(Exit::Done))
}

fn item(at: usize, bytes: &[u8], kind: Kind) -> Item {
    Item { range: at..at + bytes.len(), kind, tomb: Entry::Bytes(bytes, kind).tomb() }
}

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes)
        .map_err(|err| Error::BadInput(format!("not UTF-8 at byte {}: use --raw for other bytes", err.valid_up_to() + 1)))
}

type Check = fn(&Line<'_>) -> Result<Option<Item>, Error>;

fn check_json_line(line: &Line<'_>) -> Result<Option<Item>, Error> {
    let text = utf8(line.bytes)?;
    // The white space of JSON only; what else Unicode calls white space is an error.
    let json = text.trim_matches([' ', '\t', '\r', '\n']);
    if json.is_empty() {
        return Ok(None);
    }
    check_json(json)?;
    let at = line.at + (json.as_ptr() as usize - text.as_ptr() as usize);
    Ok(Some(item(at, json.as_bytes(), Kind::of_json(json))))
}

fn check_text(line: &Line<'_>) -> Result<Option<Item>, Error> {
    utf8(line.bytes)?;
    Ok(Some(item(line.at, line.bytes, Kind::of(line.bytes))))
}

#[allow(clippy::unnecessary_wraps)]
fn check_raw(line: &Line<'_>) -> Result<Option<Item>, Error> {
    Ok(Some(item(line.at, line.bytes, Kind::of(line.bytes))))
}

/// One batch, one commit; then it is acknowledged.
fn store(log: &Log, batch: &Batch<Item>, ack: Option<&Output>, stop: &Stop) -> Result<()> {
    let mut writer = log.writer()?;
    let mut acks = Vec::new();
    let own = writer.own_id()?;
    for item in batch.items() {
        let entry = Entry::Bytes(batch.bytes(item.range.clone()), item.kind);
        let seq = writer.append(entry, item.tomb)?;
        if ack.is_some() {
            ndjson::put_head(&mut acks, &own, seq.get(), false, false);
        }
    }
    writer.commit()?;
    if let Some(output) = ack {
        output.write_unless(&acks, stop)?;
    }
    Ok(())
}
