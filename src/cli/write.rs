//! `write`: change lines become entries of their feeds.

use std::collections::HashSet;
use std::ops::Range;

use anyhow::Result;
use clap::{ArgMatches, Command};
use scuttleup::ndjson::{Content, parse_change};
use scuttleup::{Entry, Error, Kind, Log, PeerId, Put, Seq, Tomb};

use super::exit::Exit;
use super::input::{self, Batch, Cut, Limits, Line, pump};
use super::progress::Progress;
use super::signals::Stop;
use super::{Context, entry_bytes, entry_bytes_arg};

/// What a change line has beside its payload, at the most; payloads can grow sixfold by their escapes.
const LINE_EXTRA_BYTES_MAX: usize = 4096;

pub fn command() -> Command {
    Command::new("write")
        .about("Store the change lines of stdin: what is new is stored, what is known is checked")
        .arg(entry_bytes_arg())
}

/// A checked change: its bytes lie in its batch, or were unpacked.
struct Item {
    number: u64,
    peer: PeerId,
    seq: Seq,
    payload: Payload,
    tomb: Tomb,
}

enum Payload {
    Here(Range<usize>, Kind),
    Unpacked(Vec<u8>, Kind),
    Deleted,
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    let stop = Stop::on_signal()?;
    let log = Log::open_or_create(&context.dir)?;
    let bytes_max = entry_bytes(args);
    let mut stopped = Stopped::default();
    let check = |line: Line<'_>| check(&line, bytes_max);
    let progress = input::progress(context.messages, &stop);
    let store = |batch: &Batch<Item>| store(&log, batch, &mut stopped, &progress);
    let limits = Limits { line_bytes_max: bytes_max * 6 + LINE_EXTRA_BYTES_MAX, entry_bytes_max: bytes_max };
    pump(Cut::Lines, limits, &stop, &progress, check, store)?;
    let exit = match stopped {
        Stopped { forks: 1.., .. } => Exit::Fork,
        Stopped { gaps: 1.., .. } => Exit::Incomplete,
        Stopped { .. } => Exit::Done,
    };
    Ok(stop.exit().unwrap_or(exit))
}

fn check(line: &Line<'_>, bytes_max: usize) -> Result<Option<Item>, Error> {
    let text =
        std::str::from_utf8(line.bytes).map_err(|err| Error::BadInput(format!("not UTF-8 at byte {}", err.valid_up_to() + 1)))?;
    if text.trim_matches([' ', '\t', '\r']).is_empty() {
        return Ok(None);
    }
    let change = parse_change(text)?;
    let (payload, tomb) = match change.content {
        Content::Deleted(tomb) => (Payload::Deleted, tomb),
        Content::Bytes(bytes) => {
            if bytes.len() > bytes_max {
                return Err(Error::EntryTooLong(bytes.len() as u64, bytes_max));
            }
            let kind = Kind::of(&bytes);
            let tomb = Entry::Bytes(&bytes, kind).tomb();
            let payload = match bytes {
                std::borrow::Cow::Borrowed(part) => {
                    let at = line.at + (part.as_ptr() as usize - text.as_ptr() as usize);
                    Payload::Here(at..at + part.len(), kind)
                }
                std::borrow::Cow::Owned(bytes) => Payload::Unpacked(bytes, kind),
            };
            (payload, tomb)
        }
    };
    Ok(Some(Item { number: line.number, peer: change.peer, seq: change.seq, payload, tomb }))
}

/// Feeds that cannot go on, and why.
#[derive(Default)]
struct Stopped {
    feeds: HashSet<PeerId>,
    forks: u64,
    gaps: u64,
}

/// One batch, one commit.
fn store(log: &Log, batch: &Batch<Item>, stopped: &mut Stopped, progress: &Progress<'_>) -> Result<()> {
    let (mut writer, mut messages) = (log.writer()?, Vec::new());
    for item in batch.items() {
        if stopped.feeds.contains(&item.peer) {
            continue;
        }
        let entry = match &item.payload {
            Payload::Here(range, kind) => Entry::Bytes(batch.bytes(range.clone()), *kind),
            Payload::Unpacked(bytes, kind) => Entry::Bytes(bytes, *kind),
            Payload::Deleted => Entry::Deleted(item.tomb),
        };
        let Item { number, peer, seq, .. } = item;
        let put = writer.put(peer, *seq, entry, item.tomb)?;
        match put {
            Put::New | Put::Known => continue,
            Put::Fork => {
                writer.mark_fork(peer, *seq)?;
                stopped.forks += 1;
                messages.push(format!(
                    "line {number}: fork: entry {seq} of {peer} has other bytes here; that feed is stopped, both versions stay where they are"
                ));
            }
            Put::Gap(head) => {
                stopped.gaps += 1;
                messages.push(format!(
                    "line {number}: gap: entry {seq} of {peer} cannot follow {head}; that feed is stopped: write what is between them first"
                ));
            }
        }
        stopped.feeds.insert(item.peer.clone());
    }
    writer.commit()?;
    // Said only now: a stderr that nobody reads must not hold up other writers.
    messages.iter().for_each(|text| progress.error(text));
    Ok(())
}
