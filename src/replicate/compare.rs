//! Compares two logs: a session in which nothing moves. The receiving thread compares the heads of the remote with the log, asks
//! about the feeds that differ, and gives each of them to the caller.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Context, Outcome};
use crate::model::{Chain, Error, FeedKey, PeerId, Result};
use crate::store::Reader;
use crate::wire::{Chains, Incoming, NamedHead, Question, RemoteHeads, Wire};

/// The number of feeds that wait for an answer at once. A remote that answers leaves far less of them open.
const OPEN_MAX: usize = 1 << 20;
/// The number of local feeds that are looked at in one snapshot.
const FEEDS_AT_ONCE: usize = 4096;

/// A feed that differs in the two logs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedDifference {
    /// The author of the feed.
    pub peer: PeerId,
    /// The head in the local log, 0 if it does not hold the feed.
    pub local: u32,
    /// The head in the remote log, 0 if it does not hold the feed.
    pub remote: u32,
    /// The floor in the local log, 0 if there is none.
    pub local_floor: u32,
    /// The floor in the remote log, 0 if there is none or if it is not known.
    pub remote_floor: u32,
    /// Whether the entries are equal up to the lower one of the two heads.
    pub common: Common,
}

/// The relation of the entries that both logs hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Common {
    /// They are equal.
    Equal,
    /// They differ: the feed has forked, at the lower head or before it.
    Forked,
    /// They cannot be compared: they were pruned in one of the logs, or the wire has no chains.
    Unknown,
}

impl FeedDifference {
    /// The lower one of the two heads.
    pub fn lower(&self) -> u32 {
        self.local.min(self.remote)
    }
}

/// The result of a comparison, in feeds and in entries.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Comparison {
    /// The number of feeds in either log.
    pub feeds: u64,
    /// The number of feeds that differ.
    pub different: u64,
    /// The number of these that have forked.
    pub forks: u64,
    /// The number of these of which it is not known whether they have forked.
    pub unknown: u64,
    /// The number of entries above the heads of the remote, in feeds that have not forked.
    pub ahead: u64,
    /// The number of entries of the remote above the local heads, in feeds that have not forked.
    pub behind: u64,
    /// Only the heads were compared: the original wire has no chains.
    pub heads_only: bool,
    /// The remote only receives: it says whether the logs are equal, and nothing else.
    pub is_silent: bool,
    /// The remote shows only a part of its feeds. Feeds that it does not show were not compared.
    pub is_partial: bool,
    /// Whether the logs are equal; on the original wire, whether the heads are.
    pub equal: bool,
}

/// A feed that differs, until the remote has answered the questions about it.
struct Open {
    feed: FeedDifference,
    is_answered: bool,
    /// The remote was asked for the chain at the local head.
    is_asked: bool,
}

/// The comparison, as far as it has come.
pub struct Comparing<'a> {
    each: &'a (dyn Fn(FeedDifference) + Sync),
    open: VecDeque<Open>,
    counts: Comparison,
    /// All heads of the remote; `None` if they are not known, or the roots are equal.
    heads: Option<Arc<RemoteHeads>>,
    reader: Reader<'a>,
}

impl<'a> Comparing<'a> {
    pub fn new(context: &Context<'a>, each: &'a (dyn Fn(FeedDifference) + Sync)) -> Self {
        Self { each, open: VecDeque::new(), counts: Comparison::default(), heads: None, reader: context.log.reader() }
    }

    /// Compares some heads of the remote with the log, and asks about those that differ.
    ///
    /// # Errors
    /// When the log cannot be read. [`Error::Wire`] if the remote does not answer.
    pub fn compare(&mut self, context: &Context<'_>, incoming: &mut Incoming, heads: &[NamedHead], last: bool) -> Result<()> {
        self.counts.heads_only = incoming.wire() == Some(Wire::Original);
        let rows: Vec<(&str, u32, Chain)> = heads.iter().map(|head| (head.peer.as_str(), head.seq, head.chain)).collect();
        let compared = self.reader.compare(&rows)?;
        let mut questions = Vec::new();
        for (head, compared) in heads.iter().zip(&compared).filter(|(head, _)| head.seq > 0) {
            self.counts.feeds += 1;
            let has_chain = !self.counts.heads_only && compared.is_known;
            if compared.head == head.seq && !(has_chain && compared.differs) {
                continue;
            }
            let is_ahead = head.seq > compared.head;
            let local_chain = if is_ahead && compared.head > 0 && !self.counts.heads_only {
                self.reader.chain_at(head.peer.as_str(), compared.head)?
            } else {
                None
            };
            let common = match () {
                () if compared.head == 0 => Common::Equal,
                () if has_chain && compared.differs => Common::Forked,
                () if has_chain => Common::Equal,
                () => Common::Unknown,
            };
            let feed = FeedDifference {
                local_floor: context.log.floor(head.peer.as_str())?,
                peer: head.peer.clone(),
                local: compared.head,
                remote: head.seq,
                remote_floor: 0,
                common,
            };
            self.open.push_back(Open { feed, is_answered: false, is_asked: local_chain.is_some() });
            let local = local_chain.map(|chain| (compared.head, chain));
            questions.push(Question { head: head.clone(), local });
        }
        incoming.ask(heads, &questions, last)?;
        if self.counts.heads_only {
            self.close_all();
        }
        if self.open.len() > OPEN_MAX {
            return Err(Error::Wire(format!("the remote does not answer: {OPEN_MAX} feeds that differ wait for an answer")));
        }
        Ok(())
    }

    /// Takes an answer of the remote.
    pub fn answer(&mut self, answer: &Chains<'_>) {
        // The answers come in the order of the questions. The last answer about a feed is not known as such before the next feed.
        if self.open.get(1).is_some_and(|next| next.feed.peer.as_str() == answer.peer)
            && self.open[0].is_answered
            && let Some(closed) = self.open.pop_front()
        {
            self.close(closed);
        }
        let Some(first) = self.open.front_mut().filter(|first| first.feed.peer.as_str() == answer.peer) else { return };
        first.is_answered = true;
        first.feed.remote_floor = answer.floor.min(first.feed.remote);
        if first.is_asked && answer.equal.contains(&first.feed.local) {
            first.feed.common = Common::Equal;
        }
    }

    /// These are all heads of the remote.
    pub fn end(&mut self, heads: Arc<RemoteHeads>) {
        self.heads = Some(heads);
    }

    /// No more answers come.
    fn close_all(&mut self) {
        while let Some(closed) = self.open.pop_front() {
            self.close(closed);
        }
    }

    fn close(&mut self, Open { mut feed, is_answered, is_asked }: Open) {
        // The remote does not know its chain below its floor.
        if is_asked && is_answered && feed.common == Common::Unknown && feed.local >= feed.remote_floor {
            feed.common = Common::Forked;
        }
        self.add(feed);
    }

    fn add(&mut self, feed: FeedDifference) {
        self.counts.different += 1;
        match feed.common {
            Common::Forked => self.counts.forks += 1,
            Common::Unknown => self.counts.unknown += 1,
            Common::Equal => {}
        }
        if feed.common != Common::Forked {
            self.counts.ahead += u64::from(feed.local.saturating_sub(feed.remote));
            self.counts.behind += u64::from(feed.remote.saturating_sub(feed.local));
        }
        (self.each)(feed);
    }

    /// The session has ended in order: adds the feeds that the remote does not hold.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn finish(mut self, context: &Context<'_>, outcome: &Outcome) -> Result<Comparison> {
        self.close_all();
        self.counts.is_silent = outcome.missing_by_mode.is_none();
        let Some(heads) = self.heads.take() else {
            let feeds = context.log.info()?.feeds;
            return Ok(Comparison { feeds, equal: true, ..self.counts });
        };
        if self.counts.is_silent {
            return Ok(Comparison { is_silent: true, ..Comparison::default() });
        }
        if outcome.remote_is_partial {
            return Ok(Comparison { is_partial: true, ..self.counts });
        }
        let mut after = None::<String>;
        loop {
            let (mut lacking, mut last) = (Vec::new(), None);
            let (given, _) = context.log.feeds_after(after.as_deref(), FEEDS_AT_ONCE, |peer, head, _| {
                if heads.get(FeedKey::of(peer)) == 0 {
                    lacking.push((peer.to_owned(), head));
                }
                last = Some(peer.to_owned());
            })?;
            for (peer, local) in lacking {
                self.counts.feeds += 1;
                let local_floor = context.log.floor(&peer)?;
                let peer = PeerId::new(&peer)?;
                self.add(FeedDifference { peer, local, remote: 0, local_floor, remote_floor: 0, common: Common::Equal });
            }
            if given < FEEDS_AT_ONCE {
                let equal = self.counts.different == 0;
                return Ok(Comparison { equal, ..self.counts });
            }
            after = last;
        }
    }
}
