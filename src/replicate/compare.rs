//! Compares two logs: a session in which nothing moves. The receiving thread compares the heads of the remote with the log, asks
//! about the feeds that differ, and gives each of them to the caller.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Context, Outcome};
use crate::model::{Chain, Error, FeedKey, PeerId, Result};
use crate::store::Reader;
use crate::wire::{Chains, Incoming, NamedHead, Question, RemoteHeads, Wire};

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

/// A feed that differs, until its first answer comes. It takes 16 bytes, because the remote may announce all its feeds before it
/// answers: the answer brings the peer id.
struct Waiting {
    /// The first bytes of the [`FeedKey`].
    key: [u8; 7],
    /// `None`: the remote was asked for the chain at the local head.
    common: Option<Common>,
    local: u32,
    remote: u32,
}

/// A feed that differs, and about which the remote has answered.
struct Answered {
    feed: FeedDifference,
    /// The remote was asked for the chain at the local head, and has not shown that it is equal.
    is_asked: bool,
}

/// The comparison, as far as it has come.
pub struct Comparing<'a> {
    each: &'a (dyn Fn(FeedDifference) + Sync),
    /// The feeds without an answer, in the order of the questions. [`RemoteHeads`] limits their number.
    waiting: VecDeque<Waiting>,
    /// The feed of the last answer. More answers about it can follow.
    answered: Option<Answered>,
    counts: Comparison,
    /// All heads of the remote; `None` if they are not known, or the roots are equal.
    heads: Option<Arc<RemoteHeads>>,
    reader: Reader<'a>,
}

impl<'a> Comparing<'a> {
    pub fn new(context: &Context<'a>, each: &'a (dyn Fn(FeedDifference) + Sync)) -> Self {
        let (waiting, counts) = (VecDeque::new(), Comparison::default());
        Self { each, waiting, answered: None, counts, heads: None, reader: context.log.reader() }
    }

    /// Compares some heads of the remote with the log, and asks about those that differ.
    ///
    /// # Errors
    /// When the log cannot be read. [`Error::Wire`] if the remote names too many feeds.
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
            if self.counts.heads_only {
                let local_floor = context.log.floor(head.peer.as_str())?;
                let (peer, local, remote) = (head.peer.clone(), compared.head, head.seq);
                self.add(FeedDifference { peer, local, remote, local_floor, remote_floor: 0, common });
                continue;
            }
            let common = Some(common).filter(|_| local_chain.is_none());
            let key = FeedKey::of(head.peer.as_str()).first_bytes();
            self.waiting.push_back(Waiting { key, common, local: compared.head, remote: head.seq });
            let local = local_chain.map(|chain| (compared.head, chain));
            questions.push(Question { head: head.clone(), local });
        }
        incoming.ask(heads, &questions, last)
    }

    /// Takes an answer of the remote.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn answer(&mut self, context: &Context<'_>, answer: &Chains<'_>) -> Result<()> {
        // The answers come in the order of the questions. The last answer about a feed is not known as such before the next feed.
        let key = FeedKey::of(answer.peer).first_bytes();
        if self.waiting.front().is_some_and(|next| next.key == key)
            && let Some(Waiting { common, local, remote, .. }) = self.waiting.pop_front()
        {
            self.close();
            let (peer, local_floor) = (PeerId::new(answer.peer)?, context.log.floor(answer.peer)?);
            let feed =
                FeedDifference { peer, local, remote, local_floor, remote_floor: 0, common: common.unwrap_or(Common::Unknown) };
            self.answered = Some(Answered { feed, is_asked: common.is_none() });
        }
        let Some(Answered { feed, is_asked }) = self.answered.as_mut().filter(|last| last.feed.peer.as_str() == answer.peer)
        else {
            return Ok(());
        };
        feed.remote_floor = answer.floor.min(feed.remote);
        if *is_asked && answer.equal.contains(&feed.local) {
            (feed.common, *is_asked) = (Common::Equal, false);
        }
        Ok(())
    }

    /// These are all heads of the remote.
    pub fn end(&mut self, heads: Arc<RemoteHeads>) {
        self.heads = Some(heads);
    }

    /// No more answers about the last feed come.
    fn close(&mut self) {
        let Some(Answered { mut feed, is_asked }) = self.answered.take() else { return };
        // The remote does not know its chain below its floor.
        if is_asked && feed.local >= feed.remote_floor {
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
    /// When the log cannot be read. [`Error::Wire`] if the remote has not answered all questions.
    pub fn finish(mut self, context: &Context<'_>, outcome: &Outcome) -> Result<Comparison> {
        self.close();
        if !self.waiting.is_empty() {
            let left = self.waiting.len();
            let reason = "the remote has ended the session before it has answered about all feeds that differ";
            return Err(Error::Wire(format!("{reason}: {left} without an answer")));
        }
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
