//! The way from a thread that reads and checks to a thread that stores: group commit without timers.
//!
//! The reading thread fills a batch, and passes it on when it is full, or when its input would block while the storing
//! thread is idle. What arrives during a commit waits for the next one. Two batches are on the way at the most, so that
//! memory stays bounded; their memory is used again.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::error::{Error, Result};

const BATCHES_MAX: usize = 2;

/// The reading thread's end.
pub struct Stage<B> {
    send: SyncSender<B>,
    returned: Receiver<B>,
    /// One byte a stored batch; closed when the storing thread has ended.
    done: PipeReader,
    on_the_way: usize,
    spare: Vec<B>,
}

/// The storing thread's end.
pub struct Storing<B> {
    batches: Receiver<B>,
    give_back: SyncSender<B>,
    rings: PipeWriter,
}

/// The storing thread has ended before its time; its own result says why.
#[derive(Debug)]
pub struct StoringEnded;

/// The two ends.
///
/// # Errors
/// When the system has no pipe left.
pub fn stage<B>() -> Result<(Stage<B>, Storing<B>)> {
    let (done, rings) = std::io::pipe().map_err(|err| Error::io("no pipe can be made", err))?;
    let (send, batches) = sync_channel(BATCHES_MAX);
    let (give_back, returned) = sync_channel(BATCHES_MAX);
    Ok((Stage { send, returned, done, on_the_way: 0, spare: Vec::new() }, Storing { batches, give_back, rings }))
}

impl<B: Default> Stage<B> {
    /// Passes a batch on, and gives an empty one. Waits while two are on the way.
    ///
    /// # Errors
    /// [`StoringEnded`].
    pub fn pass(&mut self, batch: B) -> Result<B, StoringEnded> {
        while self.on_the_way >= BATCHES_MAX {
            self.take_back()?;
        }
        self.send.send(batch).map_err(|_| StoringEnded)?;
        self.on_the_way += 1;
        Ok(self.spare.pop().unwrap_or_default())
    }

    /// Takes one batch back that is stored; waits for it. Call it when the stage is readable.
    ///
    /// # Errors
    /// [`StoringEnded`].
    pub fn take_back(&mut self) -> Result<(), StoringEnded> {
        let mut ring = [0];
        match self.done.read(&mut ring) {
            Ok(1) => {}
            _ => return Err(StoringEnded),
        }
        let batch = self.returned.recv().map_err(|_| StoringEnded)?;
        self.on_the_way -= 1;
        self.spare.push(batch);
        Ok(())
    }

    /// Whether all that was passed on is stored.
    pub fn is_idle(&self) -> bool {
        self.on_the_way == 0
    }
}

impl<B> AsFd for Stage<B> {
    /// Readable when a batch is stored, or when the storing thread has ended.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.done.as_fd()
    }
}

impl<B> Storing<B> {
    /// Stores one batch after the other until the [`Stage`] is dropped. `store` leaves the batch empty.
    ///
    /// # Errors
    /// The first one of `store`.
    pub fn run<E>(mut self, mut store: impl FnMut(&mut B) -> Result<(), E>) -> Result<(), E> {
        for mut batch in &self.batches {
            store(&mut batch)?;
            // The reading thread may have ended; what is stored is stored.
            self.give_back.send(batch).ok();
            self.rings.write_all(b".").ok();
        }
        Ok(())
    }
}
