//! The coordination of the two threads of a session:
//!
//! 1. The receiver publishes news, which merges and stays bounded. The sender takes it before each step and in each snapshot.
//! 2. Before the sender writes entries, it publishes which ones, so that the receiver can check acknowledgements.
//! 3. The receiver orders the end, once: finish (send the rest) or abandon (end at once). An eventfd wakes the sender for both.
//! 4. The sender closes a pipe when it ends. The receiver waits for that as it waits for its input.
//! 5. The caller's stop wakes both threads.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::model::{Error, PeerId, Result};
use crate::wire::{Incoming, News, Outgoing};

/// The longest wait of the storing thread for the local heads.
const HEADS_WAIT: Duration = Duration::from_secs(1);

/// The number of bytes of questions and answers that may wait for the sender of a comparison.
const QUESTIONS_BYTES_MAX: usize = 4 << 20;
/// The longest wait for the sender of a comparison, for each read.
const SENDER_WAIT: Duration = Duration::from_secs(1);

/// The state that the threads share. The lock is held only to move values, never during I/O or access to the log.
pub struct Coordination {
    shared: Mutex<Shared>,
    wake: EventFd,
    heads_read: Condvar,
    news_taken: Condvar,
}

/// The reason why the session ends at once.
#[derive(Clone)]
pub struct Abandon {
    pub why: String,
    /// This side refuses what the remote sent.
    pub refused: bool,
}

impl From<&str> for Abandon {
    fn from(why: &str) -> Self {
        Self { why: why.into(), refused: false }
    }
}

#[derive(Default)]
struct Shared {
    news: News,
    has_news: bool,
    /// The last seq that was sent, by the local handle of the feed.
    sent: HashMap<u32, u32>,
    /// If set, the sender must end at once and report this reason to the remote.
    abandon: Option<Abandon>,
    has_sent_fin: bool,
    is_over: bool,
    sender_failed: bool,
    /// The id of the remote log, and whether all entries that it announced have come.
    remote: Option<(PeerId, bool)>,
    sender_timed_out: bool,
    /// The heads for the handshake of the original wire were read: received entries may change the log now.
    may_store: bool,
}

impl Coordination {
    /// The shared state of one session.
    ///
    /// # Errors
    /// When an eventfd cannot be created.
    pub fn new() -> Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        let wake = wake.map_err(|err| Error::io("cannot create an eventfd", err.into()))?;
        Ok(Self { shared: Mutex::default(), wake, heads_read: Condvar::new(), news_taken: Condvar::new() })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        // This fails only if the counter of wake-ups is full. Then the sender wakes as well.
        self.wake.write(1).ok();
    }

    /// Storing thread: waits until the local heads were read, so that the announced heads do not contain received entries. The
    /// time is limited: the sender may be blocked before it reads them, and newer heads are harmless.
    pub fn wait_for_heads(&self) {
        let shared = self.shared();
        let waited = self.heads_read.wait_timeout_while(shared, HEADS_WAIT, |shared| !shared.may_store);
        waited.unwrap_or_else(PoisonError::into_inner).0.may_store = true;
    }

    /// Both: received entries may be stored from now on.
    pub fn allow_storing(&self) {
        self.shared().may_store = true;
        self.heads_read.notify_all();
    }

    /// Receiver: publishes news. Returns the number of bytes of answers that wait for the sender.
    pub fn publish(&self, news: News) -> usize {
        // A wake-up for each read of the receiver would cost more than the rest of the sender's work.
        let mut is_urgent = news.is_urgent();
        let mut shared = self.shared();
        shared.news.merge(news);
        is_urgent |= shared.news.has_many_held();
        shared.has_news = true;
        let backlog = shared.news.backlog_bytes();
        drop(shared);
        if is_urgent {
            self.wake();
        }
        backlog
    }

    /// Receiver: waits while too many questions wait for the sender, so that they take little memory. The time is limited: a remote
    /// may read nothing before it has sent all its heads.
    pub fn wait_for_sender(&self) {
        let is_behind = |shared: &mut Shared| shared.news.backlog_bytes() > QUESTIONS_BYTES_MAX && !shared.sender_failed;
        drop(self.news_taken.wait_timeout_while(self.shared(), SENDER_WAIT, is_behind));
    }

    /// Receiver: the remote has ended its stream. The sender must send the rest and end.
    pub fn finish(&self) {
        self.publish(News::input_ended());
    }

    /// Receiver: the sender must end at once. Only the first reason is reported to the remote.
    pub fn abandon(&self, why: Abandon) {
        self.shared().abandon.get_or_insert(why);
        self.wake();
    }

    /// Receiver: the id of the remote log, and whether all entries that it announced have come.
    pub fn set_remote(&self, peer: &PeerId, has_all: bool) {
        let mut shared = self.shared();
        if shared.remote.as_ref().is_none_or(|(_, had_all)| *had_all != has_all) {
            shared.remote = Some((peer.clone(), has_all));
            drop(shared);
            self.wake();
        }
    }

    /// Sender: what the receiver has set with [`Coordination::set_remote`].
    pub fn remote(&self) -> Option<(PeerId, bool)> {
        self.shared().remote.clone()
    }

    /// Receiver: whether the sender has sent FIN.
    pub fn has_sent_fin(&self) -> bool {
        self.shared().has_sent_fin
    }

    /// Receiver: whether the sender has sent FIN and has learned that the remote has sent FIN.
    pub fn is_over(&self) -> bool {
        self.shared().is_over
    }

    /// Receiver: whether the sender has ended with an error.
    pub fn sender_failed(&self) -> bool {
        self.shared().sender_failed
    }

    /// Receiver: whether the sender has ended because the remote does not read.
    pub fn sender_timed_out(&self) -> bool {
        self.shared().sender_timed_out
    }

    /// Receiver: passes the seqs that were sent to `incoming`. Call this after a read from the remote: then the seqs include every
    /// entry that the read data can acknowledge.
    pub fn learn_sent(&self, incoming: &mut Incoming) {
        let sent = std::mem::take(&mut self.shared().sent);
        if !sent.is_empty() {
            incoming.set_sent(sent);
        }
    }

    /// Sender: publishes the seqs of the entries that it will write next.
    pub fn publish_sent(&self, outgoing: &mut Outgoing) {
        let sent = outgoing.take_sent();
        if !sent.is_empty() {
            self.shared().sent.extend(sent);
        }
    }

    /// Sender: passes the news so far to `outgoing`.
    pub fn learn(&self, outgoing: &mut Outgoing) {
        let mut shared = self.shared();
        if std::mem::take(&mut shared.has_news) {
            let news = std::mem::take(&mut shared.news);
            drop(shared);
            self.news_taken.notify_all();
            outgoing.learn(news);
        }
    }

    /// Sender: the reason why it must end at once, if it must.
    pub fn abandoned(&self) -> Option<Abandon> {
        self.shared().abandon.clone()
    }

    /// Sender: whether there is news, or it must end at once.
    pub fn has_work(&self) -> bool {
        let shared = self.shared();
        shared.has_news || shared.abandon.is_some()
    }

    /// Sender: discards the wake-ups so far. The caller must check the shared state afterwards.
    pub fn clear_wake(&self) {
        // This fails if there was no wake-up.
        self.wake.read().ok();
    }

    /// Sender: it has sent FIN. `is_over`: it has also learned that the remote has sent FIN.
    pub fn set_sent_fin(&self, is_over: bool) {
        let mut shared = self.shared();
        (shared.has_sent_fin, shared.is_over) = (true, is_over);
    }

    /// Sender: it has ended because the remote does not read.
    pub fn set_sender_timed_out(&self) {
        self.shared().sender_timed_out = true;
    }

    /// Sender: it has ended with an error.
    pub fn set_sender_failed(&self) {
        self.shared().sender_failed = true;
    }
}

impl AsFd for Coordination {
    /// Readable when the sender must check the shared state.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout};

    use super::*;
    use crate::follow::poll_until;

    fn is_awake(coordination: &Coordination) -> bool {
        poll_until(&mut [PollFd::new(coordination.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap()
    }

    /// A write that waits for room clears the wake-ups. What they stood for must not be slept through.
    #[test]
    fn news_and_orders_are_work_after_their_wake_up_was_cleared() {
        let coordination = Coordination::new().unwrap();
        assert!(!coordination.has_work() && !is_awake(&coordination));
        coordination.publish(News::default());
        assert!(coordination.has_work() && !is_awake(&coordination), "no news is not urgent");
        coordination.finish();
        assert!(is_awake(&coordination));
        coordination.clear_wake();
        assert!(coordination.has_work() && !is_awake(&coordination));
        let coordination = Coordination::new().unwrap();
        coordination.abandon("first".into());
        coordination.abandon("second".into());
        coordination.clear_wake();
        assert!(coordination.has_work());
        assert_eq!(coordination.abandoned().map(|abandon| abandon.why).as_deref(), Some("first"));
    }
}
