//! The selection of changes: the entries of a log that a command uses, and the offset at which it starts.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use scuttleup::ndjson::parse_head;
use scuttleup::{Bounds, Change, Error, Heads, Log, Offset, PeerId, Reader, Seq};

use crate::cli::args::{flag, invalid_peer_id, number};
use crate::cli::exit::BadInput;
use crate::cli::report::diagnostics::Diagnostics;
use crate::cli::report::missing::no_feed;

/// The maximum length of a line of heads in bytes. It has room for a peer id of 255 bytes, all of them escaped, and the other
/// fields.
const HEAD_BYTES_MAX: u64 = 4096;

/// The options that select changes.
pub fn options() -> [Arg; 6] {
    [
        flag("live", "Continue with new entries as they arrive").short('f'),
        flag("tail", "Only entries that arrive from now on (implies --live)"),
        number(Arg::new("last").short('n').value_name("N")).help("Only the last N existing entries"),
        number(Arg::new("after").long("after").value_name("OFFSET")).help("Only entries after this offset"),
        Arg::new("since-heads")
            .long("since-heads")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Only entries above these heads, as `scuttleup heads` prints them (-: stdin)"),
        Arg::new("peer").long("peer").value_name("ID").action(ArgAction::Append).help("Only this feed; may be repeated"),
    ]
}

/// The heads that --since-heads names.
struct HeadsFile {
    /// The file as messages name it.
    name: String,
    heads: Heads,
}

/// The changes that a command uses.
pub struct Selection {
    pub live: bool,
    /// The number of existing entries, counted from the end.
    pub last: Option<u64>,
    tail: bool,
    after: Option<Offset>,
    since: Option<HeadsFile>,
    /// All feeds if this is empty.
    peers: Vec<PeerId>,
}

impl Selection {
    /// The selection that [`options`] describe.
    pub fn new(args: &ArgMatches) -> Result<Self> {
        let peers = args.get_many::<String>("peer").unwrap_or_default().map(|peer| PeerId::new(peer));
        let tail = args.get_flag("tail");
        Ok(Self {
            live: args.get_flag("live") || tail,
            last: args.get_one("last").copied(),
            tail,
            after: args.get_one("after").copied().map(Offset),
            since: args.get_one("since-heads").map(|path: &PathBuf| read_heads(path)).transpose()?,
            peers: peers.collect::<Result<_, _>>().map_err(|err| invalid_peer_id(&err))?,
        })
    }

    /// Whether an option sets the start.
    pub fn has_start(&self) -> bool {
        self.tail || self.last.is_some() || self.after.is_some() || self.since.is_some()
    }

    /// Whether a change after the start belongs to the selection.
    pub fn includes(&self, change: &Change<'_>) -> bool {
        (self.peers.is_empty() || self.peers.contains(change.peer))
            && self.since.as_ref().is_none_or(|since| change.seq.get() > since.heads.get(change.peer.as_str()))
    }

    /// Reports options that select less than their user may expect, or are not for this log.
    pub fn report_doubts(&self, log: &Log, diagnostics: Diagnostics) -> Result<()> {
        if self.tail {
            let starts =
                [(self.last.is_some(), "-n"), (self.after.is_some(), "--after"), (self.since.is_some(), "--since-heads")];
            let starts: Vec<_> = starts.iter().filter(|(is_given, _)| *is_given).map(|&(_, name)| name).collect();
            if !starts.is_empty() {
                diagnostics.note(&format!(
                    "--tail leaves out all existing entries, {} cannot select any of them: use --live without --tail to print them",
                    starts.join(" and ")
                ));
            }
        }
        for peer in &self.peers {
            if let Some(text) = no_feed(log, peer.as_str())? {
                diagnostics.note(&text);
            }
        }
        let doubt = self.since.as_ref().map(|since| since.doubt(log)).transpose()?.flatten();
        if let Some(text) = doubt {
            diagnostics.note(&text);
        }
        Ok(())
    }

    /// Whether the floors of feeds come before the changes after `start`, in a log that has pruned the changes up to `pruned`: the
    /// reader of the selection may have no later entry of these feeds.
    pub fn has_floors(&self, start: Offset, pruned: Offset) -> bool {
        !self.tail && self.last.is_none() && (self.since.is_some() || start <= pruned)
    }

    /// Whether the floor `seq` of a feed belongs to the selection.
    pub fn includes_floor(&self, peer: &PeerId, seq: Seq) -> bool {
        (self.peers.is_empty() || self.peers.contains(peer))
            && self.since.as_ref().is_none_or(|since| seq.get() > since.heads.get(peer.as_str()))
    }

    /// The offset after which the selection starts, in a log whose last offset is `end`.
    pub fn start(&self, log: &Log, end: Offset) -> Result<Offset> {
        if let Some(after) = self.after {
            log.check_offset(after)?;
        }
        if self.tail {
            return Ok(end);
        }
        let mut reader = log.reader();
        let mut start = self.after.unwrap_or_default();
        if let Some(since) = &self.since {
            start = start.max(reader.start_above(|peer| since.heads.get(peer))?);
        }
        match self.last {
            None => Ok(start),
            Some(last) if self.peers.is_empty() && self.since.is_none() => {
                Ok(start.max(Offset(end.0.saturating_sub(last))).max(log.pruned()?))
            }
            Some(last) => self.start_of_last(&mut reader, start.max(log.pruned()?), end, last),
        }
    }

    /// The offset after which the last `last` changes of the selection start. It counts all of them first.
    fn start_of_last(&self, reader: &mut Reader<'_>, start: Offset, end: Offset, last: u64) -> Result<Offset> {
        let mut count = 0u64;
        each_up_to(reader, start, end, |change| {
            count += u64::from(self.includes(change));
            ControlFlow::Continue(())
        })?;
        let mut skip = count.saturating_sub(last);
        let mut from = start;
        if skip > 0 {
            each_up_to(reader, start, end, |change| {
                skip -= u64::from(self.includes(change));
                from = change.offset;
                if skip == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })?;
        }
        Ok(from)
    }
}

impl HeadsFile {
    /// The text for heads that do not fit to this log, if there is a reason to doubt them. Heads of other feeds can be above
    /// those of this log. The head of the local feed cannot, because its entries come from this log.
    fn doubt(&self, log: &Log) -> Result<Option<String>> {
        let Self { name, heads } = self;
        let local = log.local_id()?;
        let (named, head) = (heads.get(local.as_str()), log.head(local.as_str())?);
        if named > head {
            return Ok(Some(format!(
                "{name} has entry {named} of {local}, which is the local feed, but this log has only {head}: this log has lost \
                 entries or was restored: do not append before a sync with a remote that may send, otherwise the feed forks"
            )));
        }
        if heads.is_empty() || log.last_offset()? == Offset::ZERO {
            return Ok(None);
        }
        for (peer, _) in heads.iter() {
            if log.head(peer.as_str())? > 0 {
                return Ok(None);
            }
        }
        // Right at the first exchange of two logs, and wrong later.
        Ok(Some(format!(
            "{name} names no feed of this log, all entries are selected: check the file and --log, unless this is the first \
             exchange with another log"
        )))
    }
}

/// Calls `each` with the changes after `start` up to `end`, until it breaks.
fn each_up_to(
    reader: &mut Reader<'_>,
    start: Offset,
    end: Offset,
    mut each: impl FnMut(&Change<'_>) -> ControlFlow<()>,
) -> Result<()> {
    let (mut after, mut is_done) = (start, false);
    while !is_done && after < end {
        let last = reader.scan(after, Bounds::default(), |change| {
            is_done = change.offset > end || each(&change).is_break();
            Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        })?;
        if last == after {
            break;
        }
        after = last;
    }
    Ok(())
}

/// The heads in a file, or in stdin if the path is `-`.
fn read_heads(path: &Path) -> Result<HeadsFile> {
    let is_stdin = path.as_os_str() == "-";
    let name = if is_stdin { "stdin".into() } else { path.display().to_string() };
    let cannot_read = |err| Error::io(format!("cannot read {name}"), err);
    let input: Box<dyn Read> = if is_stdin { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(cannot_read)?) };
    let mut input = BufReader::new(input);
    let mut heads = Heads::new();
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        let count = input.by_ref().take(HEAD_BYTES_MAX + 1).read_until(b'\n', &mut line).map_err(cannot_read)?;
        if count == 0 {
            break;
        }
        let bad = |reason: String| BadInput { location: format!("{name}, line {number}"), reason };
        if count as u64 > HEAD_BYTES_MAX {
            let reason = format!("longer than {HEAD_BYTES_MAX} bytes, the maximum for a head: see `scuttleup heads`");
            return Err(bad(reason).into());
        }
        let line = std::str::from_utf8(&line).map_err(|_| bad("not UTF-8".into()))?;
        if !line.trim().is_empty() {
            let (peer, seq) = parse_head(line.trim_end()).map_err(|err| bad(err.to_string()))?;
            heads.raise(&peer, seq);
        }
    }
    Ok(HeadsFile { name, heads })
}
