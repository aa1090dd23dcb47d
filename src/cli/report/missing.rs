//! Messages about a feed or an entry that the log does not hold.

use anyhow::{Result, anyhow};
use scuttleup::{Log, Offset, PeerGlobs, PeerId, Printable, Seq};

use crate::cli::report::diagnostics::{Diagnostics, counted};
use crate::cli::report::nearest::nearest;

/// The number of feeds in which a similar id is searched. In a log with more feeds, the search would take long.
const FEEDS_SEARCHED_MAX: usize = 10_000;

/// A peer id of the command line as diagnostics show it.
pub fn display_peer(peer: &str) -> String {
    PeerId::new(peer).map_or_else(|_| peer.to_owned(), |peer| peer.to_string())
}

/// The text for a peer whose feed the log does not have, or `None` if it has it. The local feed is never missing, but it can be
/// empty.
pub fn no_feed(log: &Log, peer: &str) -> Result<Option<String>> {
    let local = log.local_id()?;
    if local.as_str() == peer || log.head(peer)? > 0 {
        return Ok(None);
    }
    let mut ids = vec![local.as_str().to_owned()];
    log.feeds_after(None, FEEDS_SEARCHED_MAX, |id, _, _| ids.push(id.to_owned()))?;
    let hint = match nearest(peer, ids.iter().map(String::as_str)) {
        Some(near) => format!("did you mean {}?", display_peer(near)),
        None => "`scuttleup heads` prints all feeds".to_owned(),
    };
    Ok(Some(format!("this log has no feed of {}: {hint}", display_peer(peer))))
}

/// The text for a pattern that matches no feed of the log, or `None` if it matches one.
pub fn no_match(log: &Log, pattern: &str) -> Result<Option<String>> {
    let globs = PeerGlobs::new([pattern])?;
    let (mut found, mut last) = (globs.matches(log.local_id()?.as_str()), None::<String>);
    while !found {
        let mut after = String::new();
        let (given, _) = log.feeds_after(last.as_deref(), FEEDS_SEARCHED_MAX, |id, _, _| {
            found |= globs.matches(id);
            id.clone_into(&mut after);
        })?;
        if given < FEEDS_SEARCHED_MAX {
            break;
        }
        last = Some(after);
    }
    let text = || format!("no feed of this log matches {}: `scuttleup heads` prints all feeds", Printable(pattern));
    Ok((!found).then(text))
}

/// The error for an entry that the log does not hold.
pub fn no_entry(log: &Log, peer: &str, seq: Seq) -> Result<anyhow::Error> {
    if seq.get() <= log.floor(peer)? {
        return Ok(anyhow!("entry {seq} of {} was pruned from this log", display_peer(peer)));
    }
    let why = match (no_feed(log, peer)?, log.head(peer)?) {
        (Some(no_feed), _) => no_feed,
        (None, 0) => "the local feed is empty".to_owned(),
        (None, head) => format!("the last entry of this feed is {head}"),
    };
    Ok(anyhow!("entry {seq} of {} is not in this log: {why}", display_peer(peer)))
}

/// Notes that `skipped` entries were pruned before a reader has read them, if there are any. It goes on behind `position`.
pub fn note_pruned(diagnostics: Diagnostics, skipped: u64, position: Offset) {
    if skipped > 0 {
        let entries = counted(skipped, "entry was", "entries were");
        diagnostics.note(&format!("{entries} pruned before they were read: continuing after offset {position}"));
    }
}
