//! `read`: change lines in the order of arrival.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use nix::poll::{PollFd, PollFlags};
use scuttleup::ndjson::{ChangeWriter, Payload, parse_head};
use scuttleup::stage::{Stage, StoringEnded};
use scuttleup::{Bounds, Change, Error, Heads, Log, Offset, PeerId, Reader};
use std::os::fd::AsFd;

use super::exit::{BadInput, Exit};
use super::output::{Output, WRITE_BYTES};
use super::progress::{self, Progress, Total};
use super::{Context, bad_peer, signals};

/// An entry can be large; more memory than this is not kept for the next one.
const KEPT_BYTES_MAX: usize = WRITE_BYTES * 4;

/// An id of 255 bytes, each escaped, and the rest of the line.
const HEAD_BYTES_MAX: u64 = 4096;

pub fn command() -> Command {
    Command::new("read").about("Print change lines in the order of arrival").args(options())
}

/// The options, which `watch` has, too.
pub fn options() -> Vec<Arg> {
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    vec![
        flag("live", "Go on as entries arrive").short('f'),
        flag("tail", "Only entries that arrive from now on (implies --live)"),
        Arg::new("last").short('n').value_name("N").value_parser(value_parser!(u64)).help("Only the last N of what is there"),
        Arg::new("after")
            .long("after")
            .value_name("OFFSET")
            .value_parser(value_parser!(u64))
            .help("Only entries after this offset"),
        Arg::new("since-heads")
            .long("since-heads")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Only entries above these heads, as `scuttleup heads` prints them (-: stdin)"),
        Arg::new("peer").long("peer").value_name("ID").action(ArgAction::Append).help("Only this feed; may be given again"),
        flag("no-entry", "Leave the payload out"),
        flag("text", "Payload as \"text\" for every UTF-8 entry"),
        flag("raw", "Payload as \"base64\" for every entry").conflicts_with("text"),
    ]
}

/// Which changes, and how.
pub struct Selection {
    pub live: bool,
    pub last: Option<u64>,
    tail: bool,
    after: Option<Offset>,
    since: Option<Heads>,
    peers: Vec<PeerId>,
    payload: Payload,
}

impl Selection {
    pub fn new(args: &ArgMatches) -> Result<Self> {
        let peers = args.get_many::<String>("peer").unwrap_or_default().map(|peer| PeerId::new(peer));
        let tail = args.get_flag("tail");
        Ok(Self {
            live: args.get_flag("live") || tail,
            last: args.get_one("last").copied(),
            tail,
            after: args.get_one("after").copied().map(Offset),
            since: args.get_one::<PathBuf>("since-heads").map(read_heads).transpose()?,
            peers: peers.collect::<Result<_, _>>().map_err(|err| bad_peer(&err))?,
            payload: match (args.get_flag("no-entry"), args.get_flag("text"), args.get_flag("raw")) {
                (true, _, _) => Payload::Omitted,
                (_, true, _) => Payload::Text,
                (_, _, true) => Payload::Base64,
                _ => Payload::Auto,
            },
        })
    }

    /// Whether an option says where to begin.
    pub fn has_start(&self) -> bool {
        self.tail || self.last.is_some() || self.after.is_some() || self.since.is_some()
    }

    fn takes(&self, change: &Change<'_>) -> bool {
        (self.peers.is_empty() || self.peers.contains(change.peer))
            && self.since.as_ref().is_none_or(|heads| change.seq.get() > heads.get(change.peer.as_str()))
    }

    /// The offset after which to begin, of those up to `end`, the last one.
    fn start(&self, log: &Log, end: Offset) -> Result<Offset> {
        if self.tail {
            return Ok(end);
        }
        let mut reader = log.reader();
        let mut start = self.after.unwrap_or_default();
        if let Some(heads) = &self.since {
            start = start.max(reader.start_above(|peer| heads.get(peer))?);
        }
        match self.last {
            None => Ok(start),
            Some(last) if self.peers.is_empty() && self.since.is_none() => Ok(start.max(Offset(end.0.saturating_sub(last)))),
            Some(last) => self.start_of_last(&mut reader, start, end, last),
        }
    }

    /// As [`Selection::start`], where only counting tells which the last ones are.
    fn start_of_last(&self, reader: &mut Reader<'_>, start: Offset, end: Offset, last: u64) -> Result<Offset> {
        let mut count = 0u64;
        each_up_to(reader, start, end, |change| {
            count += u64::from(self.takes(change));
            ControlFlow::Continue(())
        })?;
        let mut skip = count.saturating_sub(last);
        let mut from = start;
        if skip > 0 {
            each_up_to(reader, start, end, |change| {
                skip -= u64::from(self.takes(change));
                from = change.offset;
                if skip == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        Ok(from)
    }
}

fn each_up_to(
    reader: &mut Reader<'_>,
    start: Offset,
    end: Offset,
    mut each: impl FnMut(&Change<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let (mut after, mut go_on) = (start, true);
    while go_on && after < end {
        let last = reader.scan(after, Bounds::default(), |change| {
            go_on = change.offset <= end && each(&change).is_continue();
            Ok(if go_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        if last == after {
            break;
        }
        after = last;
    }
    Ok(())
}

fn read_heads(path: &PathBuf) -> Result<Heads> {
    let stdin = path.as_os_str() == "-";
    let shown = if stdin { "stdin".into() } else { path.display().to_string() };
    let fail = |err| Error::io(format!("{shown} cannot be read"), err);
    let mut input: Box<dyn BufRead> =
        if stdin { Box::new(BufReader::new(io::stdin())) } else { Box::new(BufReader::new(File::open(path).map_err(fail)?)) };
    let mut heads = Heads::new();
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let count = input.by_ref().take(HEAD_BYTES_MAX + 1).read_until(b'\n', &mut line).map_err(fail)?;
        let bad = |reason: String| BadInput { place: format!("{shown}, line {number}"), reason };
        if count as u64 > HEAD_BYTES_MAX {
            return Err(bad(format!("longer than the {HEAD_BYTES_MAX} bytes that a head takes: see `scuttleup heads`")).into());
        }
        if count == 0 {
            break;
        }
        let line = std::str::from_utf8(&line).map_err(|_| bad("not UTF-8".into()))?;
        if !line.trim().is_empty() {
            let (peer, seq) = parse_head(line.trim_end()).map_err(|err| bad(err.to_string()))?;
            heads.raise(&peer, seq);
        }
    }
    Ok(heads)
}

pub fn run(context: &Context, args: &ArgMatches) -> Result<Exit> {
    print(context, Selection::new(args)?)
}

/// Prints what is selected.
pub fn print(context: &Context, selection: Selection) -> Result<Exit> {
    let at_once = signals::exit_at_once()?;
    let log = Log::open_read_only(&context.dir)?;
    let output = Output::bulk();
    let printer = Printer { lines: ChangeWriter::new(selection.payload), buffer: Vec::with_capacity(WRITE_BYTES * 2), selection };
    if printer.selection.live {
        return printer.follow(&log, &output);
    }
    // What is appended meanwhile is for the next reader: a reader slower than the writers would never end.
    let end = log.last_offset()?;
    let start = printer.selection.start(&log, end)?;
    let drawn = progress::is_wanted(context.messages) && output.is_file();
    let stop = drawn.then(|| at_once.or_rather_stop()).transpose()?;
    let progress = stop.as_ref().map_or_else(Progress::off, |stop| Progress::new(context.messages, stop));
    printer.print(&log, &output, (start, end), &progress)
}

fn write(output: &Output, lines: &mut Vec<u8>) -> Result<()> {
    output.write(lines)?;
    lines.clear();
    lines.shrink_to(KEPT_BYTES_MAX);
    Ok(())
}

struct Printer {
    selection: Selection,
    lines: ChangeWriter,
    buffer: Vec<u8>,
}

impl Printer {
    fn add(&mut self, change: &Change<'_>) {
        if self.selection.takes(change) {
            self.lines.write(&mut self.buffer, change);
        }
    }

    /// What is there up to an end, in large writes by a second thread.
    fn print(mut self, log: &Log, output: &Output, (start, end): (Offset, Offset), progress: &Progress<'_>) -> Result<Exit> {
        progress.set_total(Total::Entries(end.0.saturating_sub(start.0)));
        std::thread::scope(|threads| {
            let mut stage = Stage::new(threads, |lines| write(output, lines));
            let read = self.read_up_to(end, &mut log.reader(), start, progress, &mut stage);
            // What lies before a damaged entry is good.
            stage.finish(Some(self.buffer)).and(read)
        })
    }

    fn read_up_to(
        &mut self,
        end: Offset,
        reader: &mut Reader<'_>,
        start: Offset,
        progress: &Progress<'_>,
        stage: &mut Stage<'_, '_, Vec<u8>, anyhow::Error>,
    ) -> Result<Exit> {
        let mut after = start;
        while after < end {
            if let Some(exit) = progress.stopped() {
                return Ok(exit);
            }
            let before = self.buffer.len();
            let last = reader.scan(after, Bounds::default(), |change| {
                if change.offset > end {
                    return Ok(ControlFlow::Break(()));
                }
                self.add(&change);
                Ok(ControlFlow::Continue(()))
            })?;
            if last == after {
                break;
            }
            progress.add(last.0 - after.0, (self.buffer.len() - before) as u64);
            after = last;
            if self.buffer.len() >= WRITE_BYTES && self.pass(stage).is_err() {
                // Why is for the stage to say.
                break;
            }
        }
        Ok(Exit::Done)
    }

    fn pass(&mut self, stage: &mut Stage<'_, '_, Vec<u8>, anyhow::Error>) -> Result<(), StoringEnded> {
        let is_large = self.buffer.len() > KEPT_BYTES_MAX;
        self.buffer = stage.pass(std::mem::take(&mut self.buffer))?;
        if is_large { stage.settle() } else { Ok(()) }
    }

    /// What is there, then what arrives, at once; until the reader of stdout goes away.
    fn follow(mut self, log: &Log, output: &Output) -> Result<Exit> {
        // Armed before the start is found, so that --tail misses nothing from this moment on.
        let mut follower = log.follow(Offset::ZERO)?;
        follower.go_to(self.selection.start(log, log.last_offset()?)?);
        loop {
            let any = follower.scan(Bounds::default(), |change| {
                self.add(&change);
                Ok(ControlFlow::Continue(()))
            });
            write(output, &mut self.buffer)?;
            if any? {
                continue;
            }
            let reader_gone = PollFd::new(output.as_fd(), PollFlags::empty());
            if follower.wait(&[reader_gone])?[0] {
                return Ok(Exit::Done);
            }
        }
    }
}
