//! What the two threads of a session share.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::PipeWriter;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Notice, Options, Step};
use crate::entry::{Chain, Offset, PeerId};
use crate::error::{Error, Result};
use crate::heads::{FeedKey, FeedMap};
use crate::proto::{Difference, Hello, Link, Mode, Remote, put_digest};
use crate::store::Log;

/// What the outward thread waits for before it sends.
pub enum Greet {
    /// The session is on the original's wire: these are our heads as its handshake has them.
    Original(Vec<u8>),
    /// The other side's handshake has come, with this mode.
    Handshake(Mode),
    /// The session is on the native wire.
    Native,
}

/// Our heads when we announced them, and the last offset of that moment.
#[derive(Default)]
pub struct Announced {
    pub heads: FeedMap,
    pub last_offset: Offset,
}

pub struct Shared<'a> {
    pub log: &'a Log,
    pub options: Options<'a>,
    pub notify: &'a (dyn Fn(Notice) + Sync),
    /// On the original's wire.
    pub announced: OnceLock<Announced>,
    pub remote: Mutex<Remote>,
    /// On the native wire.
    link: Mutex<Link>,
    /// The last offset of the moment of which our HELLO tells the root.
    pub hello_offset: Offset,
    /// Says "look again" to the outward thread on the native wire; carries no data.
    pub wake: EventFd,
    /// The user knows that there are ids which the original cannot hold.
    told_left_out: AtomicBool,
    /// The inward thread has ended, or the other side's stream has: send the rest and end.
    pub in_ended: AtomicBool,
    /// … and with an error or a stop: do not even send the rest.
    pub abandoned: AtomicBool,
    /// The outward thread has ended with an error.
    pub out_failed: AtomicBool,
}

impl<'a> Shared<'a> {
    pub fn new(log: &'a Log, options: Options<'a>, notify: &'a (dyn Fn(Notice) + Sync)) -> Result<Self> {
        let (root, hello_offset) = log.state()?;
        let hello = Hello {
            id: log.own_id_now()?,
            mode: options.mode,
            live: !options.once,
            root,
            entry_bytes_max: options.entry_bytes_max as u64,
            // Whose keys the system has made.
            nonce: RandomState::new().build_hasher().finish(),
        };
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK);
        Ok(Self {
            log,
            options,
            notify,
            announced: OnceLock::new(),
            remote: Mutex::default(),
            link: Mutex::new(Link::new(hello)),
            hello_offset,
            wake: wake.map_err(|err| Error::io("no eventfd can be made", err.into()))?,
            told_left_out: AtomicBool::new(false),
            in_ended: AtomicBool::new(false),
            abandoned: AtomicBool::new(false),
            out_failed: AtomicBool::new(false),
        })
    }

    pub fn remote(&self) -> MutexGuard<'_, Remote> {
        self.remote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the outward thread.
    pub fn wake(&self) {
        // It fails when it is full of wake-ups, which is one, too.
        self.wake.write(1).ok();
    }

    /// Tells how far the session is.
    pub fn step(&self, step: Step) {
        if let Some(progress) = self.options.progress {
            progress(step);
        }
    }

    /// Forgets the wake-ups so far.
    pub fn hush(&self) {
        // It fails when there was none.
        self.wake.read().ok();
    }

    /// Reads our heads for the original's wire, and gives them as its handshake has them.
    pub fn prepare_original(&self) -> Result<Vec<u8>> {
        let (mut heads, mut digests, mut left_out) = (Vec::new(), Vec::new(), None);
        let last_offset = self.log.each_head(|peer, seq| {
            if !original_holds(peer) {
                left_out.get_or_insert_with(|| peer.to_owned());
                return;
            }
            heads.push((FeedKey::of(peer), seq));
            put_digest(&mut digests, peer, seq);
        })?;
        self.announced.set(Announced { heads: FeedMap::from(heads), last_offset }).ok();
        self.leave_out(left_out.and_then(|peer| PeerId::new(&peer).ok()));
        Ok(digests)
    }

    /// Feeds like this one, if there is one, are not sent; told once.
    pub fn leave_out(&self, peer: Option<PeerId>) {
        if let Some(peer) = peer
            && !self.told_left_out.swap(true, Ordering::SeqCst)
        {
            (self.notify)(Notice::IdLeftOut(peer));
        }
    }

    /// Our chain of a feed after an entry, for the state machine.
    pub fn chain_of(&self) -> impl FnMut(&str, u32) -> Result<Option<Chain>> {
        let reader = self.log.reader();
        move |peer, seq| reader.chain_at(peer, seq)
    }

    /// These feeds are stopped: tells the user, and the log of those that have forked. If our own has, takes a new id.
    pub fn tell_differences(&self, found: Vec<Difference>) -> Result<()> {
        let (holes, forks): (Vec<_>, Vec<_>) = found.into_iter().partition(|difference| difference.is_hole);
        let mut new_id = None;
        if !forks.is_empty() {
            // One commit for all of them.
            let mut writer = self.log.writer()?;
            let own = writer.own_id()?;
            for Difference { peer, seq, .. } in &forks {
                writer.mark_fork(peer, *seq)?;
            }
            if forks.iter().any(|fork| fork.peer == own) {
                new_id = Some(writer.renew_id()?);
            }
            writer.commit()?;
        }
        holes.into_iter().for_each(|Difference { peer, seq, .. }| (self.notify)(Notice::Hole(peer, seq)));
        forks.into_iter().for_each(|Difference { peer, seq, .. }| (self.notify)(Notice::Fork(peer, seq)));
        new_id.into_iter().for_each(|id| (self.notify)(Notice::NewId(id)));
        Ok(())
    }
}

/// Whether the original can hold a feed of this id: it keeps ids as keys of a plain object, and as Latin-1 up to U+00FE
/// with U+00FF as the end of a range.
pub fn original_holds(peer: &str) -> bool {
    const OBJECT: [&str; 12] = [
        "__proto__",
        "constructor",
        "hasOwnProperty",
        "isPrototypeOf",
        "propertyIsEnumerable",
        "toLocaleString",
        "toString",
        "valueOf",
        "__defineGetter__",
        "__defineSetter__",
        "__lookupGetter__",
        "__lookupSetter__",
    ];
    peer.chars().all(|c| c < '\u{ff}') && !OBJECT.contains(&peer)
}

/// Tells the outward thread that the inward one is past its end, by dropping the pipe.
pub struct InEnds<'a> {
    pub shared: &'a Shared<'a>,
    pub pipe: Option<PipeWriter>,
}

impl InEnds<'_> {
    pub fn tell(&mut self, abandoned: bool) {
        self.shared.abandoned.fetch_or(abandoned, Ordering::SeqCst);
        self.shared.in_ended.store(true, Ordering::SeqCst);
        self.pipe = None;
    }
}

impl Drop for InEnds<'_> {
    /// Whoever leaves without a word leaves with an error.
    fn drop(&mut self) {
        if self.pipe.is_some() {
            self.tell(true);
        }
    }
}
