//! The selection of changes: the entries of a log that a command uses, and the offset at which it starts.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use clap::{Arg, ArgAction, ArgMatches, value_parser};
use jiff::ZonedDateTime;
use scuttleup::ndjson::{BYTE_ORDER_MARK, parse_head, put_head};
use scuttleup::{EntryFilter, Error, FEEDS_MAX, FeedKey, FeedMap, Finder, Heads, Log, Offset, PeerId, Seq};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::cli::args::{flag, invalid_peer_id, number};
use crate::cli::exit::BadInput;
use crate::cli::report::diagnostics::Diagnostics;
use crate::cli::report::missing::{no_feed, no_match};
use crate::cli::time::{moment, since_1970};

/// The maximum length of a line of heads in bytes. It has room for a peer id of 255 bytes, all of them escaped, and the other
/// fields.
const HEAD_BYTES_MAX: u64 = 4096;

/// The heads that --since-heads names.
struct HeadsFile {
    /// The file as messages name it.
    name: String,
    heads: FeedMap,
    hash: u64,
}

/// So many feeds of --since-heads are kept with their ids, for [`HeadsHash`]. Ids are long: more of them would take too much memory.
const NAMED_FEEDS_MAX: usize = 50_000;
/// The number of local feeds that are looked at in one snapshot.
const FEEDS_AT_ONCE: usize = 4096;

/// The hash of the heads of --since-heads, by which a batch in flight recognizes its selection. It is the hash of the lines that
/// [`put_head`] writes for them, in the order of the ids. In a file of more than [`NAMED_FEEDS_MAX`] feeds that is in another order, it
/// is the sum of the hashes of its lines.
#[derive(Default)]
struct HeadsHash {
    /// `None`: there are too many.
    named: Option<Heads>,
    last: Option<PeerId>,
    is_sorted: bool,
    sorted: Box<Xxh3>,
    sum: u64,
    line: Vec<u8>,
}

impl HeadsHash {
    fn new() -> Self {
        Self { named: Some(Heads::new()), is_sorted: true, ..Self::default() }
    }

    fn add(&mut self, peer: PeerId, seq: u32) {
        if seq == 0 {
            return;
        }
        self.line.clear();
        put_head(&mut self.line, peer.as_str(), seq, false, false, 0);
        self.sorted.update(&self.line);
        self.sum = self.sum.wrapping_add(xxh3_64(&self.line));
        self.is_sorted &= self.last.as_ref().is_none_or(|last| *last < peer);
        if let Some(named) = &mut self.named {
            named.raise(&peer, seq);
        }
        self.named.take_if(|named| named.len() > NAMED_FEEDS_MAX);
        self.last = Some(peer);
    }

    fn end(self) -> u64 {
        match self.named {
            _ if self.is_sorted => self.sorted.digest(),
            Some(named) => {
                let mut lines = Vec::new();
                named.iter().for_each(|(peer, seq)| put_head(&mut lines, peer.as_str(), seq, false, false, 0));
                xxh3_64(&lines)
            }
            None => self.sum,
        }
    }
}

/// The options that select changes, for commands that can go on with new ones.
pub fn options() -> [Arg; 9] {
    let time =
        |name, help| Arg::new(name).long(name).value_name("TIME").value_parser(parse_time).allow_hyphen_values(true).help(help);
    [
        flag("live", "Continue with new entries as they arrive").short('f'),
        flag("tail", "Only entries that arrive from now on (implies --live)"),
        number(Arg::new("last").short('n').value_name("N")).help("Only the last N existing entries"),
        number(Arg::new("limit").long("limit").value_name("N")).help("End after N entries"),
        number(Arg::new("after").long("after").value_name("OFFSET")).help("Only entries after this offset"),
        Arg::new("since-heads")
            .long("since-heads")
            .value_name("FILE")
            .value_parser(value_parser!(PathBuf))
            .help("Only entries above these heads, as `scuttleup heads` prints them (-: stdin)"),
        time("since", "Only entries that arrived at this time or later, such as -1h, 09:30 or 2026-11-26"),
        time("until", "Only entries that arrived before this time"),
        Arg::new("peer")
            .long("peer")
            .value_name("GLOB")
            .action(ArgAction::Append)
            .help("Only the feeds whose peer id is or matches GLOB, such as 'web-*'; may be repeated"),
    ]
}

/// The option for commands that print only existing entries.
pub fn reverse_option() -> Arg {
    flag("reverse", "The newest entry first").conflicts_with_all(["live", "tail"])
}

fn parse_time(text: &str) -> Result<u64, String> {
    moment(text, &ZonedDateTime::now())
}

/// The changes that a command uses.
pub struct Selection {
    pub live: bool,
    /// Whether the newest change comes first.
    pub reverse: bool,
    /// The number of existing entries, counted from the end.
    pub last: Option<u64>,
    /// The command ends after so many entries.
    pub limit: Option<u64>,
    /// The time before which the entries arrived, Unix time in milliseconds.
    pub until: Option<u64>,
    tail: bool,
    after: Option<Offset>,
    since: Option<u64>,
    /// The name of the file of --since-heads, whose heads are those of the filter, and their [`HeadsHash`].
    heads_file: Option<(String, u64)>,
    filter: EntryFilter,
}

impl Selection {
    /// The selection that [`options`] and [`reverse_option`] describe.
    pub fn new(args: &ArgMatches) -> Result<Self> {
        let tail = args.get_flag("tail");
        let heads = args.get_one("since-heads").map(|path: &PathBuf| read_heads(path)).transpose()?;
        let (heads_file, heads) =
            heads.map_or_else(Default::default, |HeadsFile { name, heads, hash }| (Some((name, hash)), heads));
        let peers = args.get_many::<String>("peer").unwrap_or_default().map(String::as_str);
        let is_reverse = args.try_get_one::<bool>("reverse").ok().flatten().copied();
        Ok(Self {
            live: args.get_flag("live") || tail,
            reverse: is_reverse.unwrap_or(false),
            last: args.get_one("last").copied(),
            limit: args.get_one("limit").copied(),
            until: args.get_one("until").copied(),
            tail,
            after: args.get_one("after").copied().map(Offset),
            since: args.get_one("since").copied(),
            heads_file,
            filter: EntryFilter::new(peers, heads).map_err(|err| invalid_peer_id(&err))?,
        })
    }

    /// Whether an option sets the start.
    pub fn has_start(&self) -> bool {
        self.tail || self.last.is_some() || self.after.is_some() || self.since.is_some() || self.heads_file.is_some()
    }

    /// The options that set nothing but the start.
    pub fn start_options(&self) -> Vec<&'static str> {
        let options = [
            (self.tail, "--tail"),
            (self.last.is_some(), "-n"),
            (self.after.is_some(), "--after"),
            (self.since.is_some(), "--since"),
        ];
        options.iter().filter(|(is_given, _)| *is_given).map(|&(_, name)| name).collect()
    }

    /// The time until the end of the selection, if --until sets one. A part of a millisecond is not waited for.
    pub fn time_left(&self) -> Option<Duration> {
        let left = Duration::from_millis(self.until?).saturating_sub(since_1970());
        Some(if left.is_zero() { left } else { left + Duration::from_millis(1) })
    }

    /// The options that select changes between the start and the end, as text: the same text selects the same changes. Each has a
    /// space before it.
    pub fn filters(&self) -> String {
        let peers = self.filter.ids().map(PeerId::as_str).chain(self.filter.globs()).collect::<BTreeSet<_>>();
        let mut text: String = peers.iter().map(|peer| format!(" --peer {peer}")).collect();
        if let Some((name, hash)) = &self.heads_file {
            text.push_str(&format!(" --since-heads {name} (hash {hash:016x})"));
        }
        text
    }

    /// Whether all existing entries are selected.
    pub fn is_all(&self) -> bool {
        !self.has_start() && self.filter.is_all() && self.until.is_none() && self.limit.is_none()
    }

    /// Finds the changes of the selection in a range of offsets, see [`Finder::scan`]: from [`Selection::start`] up to
    /// [`Selection::end`].
    pub fn finder<'l>(&self, log: &'l Log, has_times: bool) -> Finder<'l> {
        log.find(self.filter.clone(), has_times)
    }

    /// Reports options that select less than their user may expect, or are not for this log.
    pub fn report_doubts(&self, log: &Log, diagnostics: Diagnostics) -> Result<()> {
        if self.tail {
            let mut starts = self.start_options();
            starts.retain(|&name| name != "--tail");
            starts.extend(self.heads_file.is_some().then_some("--since-heads"));
            if !starts.is_empty() {
                diagnostics.note(&format!(
                    "--tail leaves out all existing entries, {} cannot select any of them: use --live without --tail to print them",
                    starts.join(" and ")
                ));
            }
        }
        if let Some(text) = self.doubt_of_times(log)? {
            diagnostics.note(text);
        }
        for peer in self.filter.ids() {
            if let Some(text) = no_feed(log, peer.as_str())? {
                diagnostics.note(&text);
            }
        }
        for glob in self.filter.globs() {
            if let Some(text) = no_match(log, glob)? {
                diagnostics.note(&text);
            }
        }
        let doubt =
            self.heads_file.as_ref().map(|(name, _)| doubt_of_heads(name, self.filter.heads(), log)).transpose()?.flatten();
        if let Some(text) = doubt {
            diagnostics.note(&text);
        }
        Ok(())
    }

    /// The text for times that select nothing, and are probably a mistake.
    fn doubt_of_times(&self, log: &Log) -> Result<Option<&'static str>> {
        let Some(since) = self.since else { return Ok(None) };
        if self.until.is_some_and(|until| since > until) {
            return Ok(Some("--since is later than --until: no entry is selected"));
        }
        // Entries can be of a later time, if the clock was set back since.
        let is_future = Duration::from_millis(since) > since_1970() && log.end_before(since)? >= log.last_offset()?;
        Ok((is_future && !self.live).then_some("--since is in the future: no entry is selected"))
    }

    /// Whether the floors of feeds come before the changes after `start`, in a log that has pruned the changes up to `pruned`: the
    /// reader of the selection may have no later entry of these feeds.
    pub fn has_floors(&self, start: Offset, pruned: Offset) -> bool {
        !self.tail
            && !self.reverse
            && self.last.is_none()
            && self.limit != Some(0)
            && (self.heads_file.is_some() || start <= pruned)
    }

    /// Whether the floor `seq` of a feed belongs to the selection.
    pub fn includes_floor(&self, peer: &PeerId, seq: Seq) -> bool {
        self.filter.above(peer.as_str()).is_some_and(|above| seq.get() > above)
    }

    /// The offset of the last change that can be selected, in a log whose last offset is `last`.
    pub fn end(&self, log: &Log, last: Offset) -> Result<Offset> {
        Ok(self.until.map(|until| log.end_before(until)).transpose()?.map_or(last, |end| end.min(last)))
    }

    /// The offset after which the selection starts. It ends at [`Selection::end`].
    pub fn start(&self, log: &Log, end: Offset) -> Result<Offset> {
        if let Some(after) = self.after {
            log.check_offset(after)?;
        }
        if self.tail {
            return log.last_offset().map_err(Into::into);
        }
        let mut start = self.after.unwrap_or_default();
        if let Some(since) = self.since {
            // The number of entries of this time that were pruned is not known.
            start = start.max(log.end_before(since)?.max(log.pruned()?));
        }
        if self.heads_file.is_some() {
            start = start.max(log.reader().start_above(|peer| self.filter.heads().get(FeedKey::of(peer)))?);
        }
        match self.last {
            None => Ok(start),
            Some(last) => Ok(self.finder(log, false).start_of_last(start.max(log.pruned()?), end, last)?),
        }
    }
}

/// The text for heads of the file `name` that do not fit to this log, if there is a reason to doubt them. Heads of other feeds can be above
/// those of this log. The head of the local feed cannot, because its entries come from this log.
fn doubt_of_heads(name: &str, heads: &FeedMap, log: &Log) -> Result<Option<String>> {
    let local = log.local_id()?;
    let (named, head) = (heads.get(FeedKey::of(local.as_str())), log.head(local.as_str())?);
    if named > head {
        return Ok(Some(format!(
            "{name} has entry {named} of {local}, which is the local feed, but this log has only {head}: this log has lost \
             entries or was restored: do not append before a sync with a remote that may send, otherwise the feed forks"
        )));
    }
    if heads.is_empty() || log.last_offset()? == Offset::ZERO {
        return Ok(None);
    }
    let mut after = None::<String>;
    loop {
        let (mut is_named, mut last) = (false, None);
        let (given, _) = log.feeds_after(after.as_deref(), FEEDS_AT_ONCE, |peer, _, _| {
            is_named |= heads.get(FeedKey::of(peer)) > 0;
            last = Some(peer.to_owned());
        })?;
        if is_named {
            return Ok(None);
        }
        if given < FEEDS_AT_ONCE {
            break;
        }
        after = last;
    }
    // Right at the first exchange of two logs, and wrong later.
    Ok(Some(format!(
        "{name} names no feed of this log, all entries are selected: check the file and --log, unless this is the first \
         exchange with another log"
    )))
}

/// The heads in a file, or in stdin if the path is `-`.
fn read_heads(path: &Path) -> Result<HeadsFile> {
    let is_stdin = path.as_os_str() == "-";
    let name = if is_stdin { "stdin".into() } else { path.display().to_string() };
    let cannot_read = |err| Error::io(format!("cannot read {name}"), err);
    let input: Box<dyn Read> = if is_stdin { Box::new(io::stdin()) } else { Box::new(File::open(path).map_err(cannot_read)?) };
    let mut input = BufReader::new(input);
    let (mut heads, mut hash) = (FeedMap::default(), HeadsHash::new());
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
        let line = if number == 1 { line.trim_start_matches(BYTE_ORDER_MARK) } else { line };
        if !line.trim().is_empty() {
            let (peer, seq) = parse_head(line.trim_end()).map_err(|err| bad(err.to_string()))?;
            heads.raise(FeedKey::of(peer.as_str()), seq);
            hash.add(peer, seq);
            // Stdin can be the remote of a restricted key.
            if heads.len() > FEEDS_MAX as usize {
                return Err(bad(format!("more than {FEEDS_MAX} feeds, the maximum of a log: see `scuttleup heads`")).into());
            }
        }
    }
    Ok(HeadsFile { name, heads, hash: hash.end() })
}
