//! The way from a thread that reads and checks to a thread that stores: group commit without timers. On the way out it
//! is from a thread that reads the log to one that writes the lines.
//!
//! The reading thread fills a batch, and passes it on when it is full, or when its input would block while the storing
//! thread is idle. What arrives during a commit waits for the next one. Two batches are on the way at the most, so that
//! memory stays bounded; their memory is used again. Input that is over at once is stored without a second thread.

use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::error::{Error, Result};

const BATCHES_MAX: usize = 2;

type Store<'scope, B, E> = Box<dyn FnMut(&mut B) -> Result<(), E> + Send + 'scope>;

/// The reading thread's end.
pub struct Stage<'scope, 'env, B, E> {
    scope: &'scope Scope<'scope, 'env>,
    /// Until there is a thread that has it.
    store: Option<Store<'scope, B, E>>,
    storing: Option<Storing<'scope, B, E>>,
    /// Why there is no thread.
    failed: Option<E>,
    spare: Vec<B>,
}

/// The storing thread, seen from the reading one.
struct Storing<'scope, B, E> {
    thread: ScopedJoinHandle<'scope, Result<(), E>>,
    send: SyncSender<B>,
    returned: Receiver<B>,
    /// One byte a stored batch; closed when the thread has ended.
    done: PipeReader,
    on_the_way: usize,
}

/// The storing thread has ended before its time; [`Stage::finish`] says why.
#[derive(Debug)]
pub struct StoringEnded;

impl<'scope, 'env, B, E> Stage<'scope, 'env, B, E>
where
    B: Default + Send + 'scope,
    E: From<Error> + Send + 'scope,
{
    /// Batches will be stored, durably, and emptied by `store`.
    pub fn new(scope: &'scope Scope<'scope, 'env>, store: impl FnMut(&mut B) -> Result<(), E> + Send + 'scope) -> Self {
        Self { scope, store: Some(Box::new(store)), storing: None, failed: None, spare: Vec::new() }
    }

    /// Passes a batch on, and gives an empty one. Waits while two are on the way.
    ///
    /// # Errors
    /// [`StoringEnded`].
    pub fn pass(&mut self, batch: B) -> Result<B, StoringEnded> {
        if let Some(store) = self.store.take() {
            match spawn(self.scope, store) {
                Ok(storing) => self.storing = Some(storing),
                Err(err) => {
                    self.failed = Some(err.into());
                    return Err(StoringEnded);
                }
            }
        }
        while self.storing.as_ref().is_some_and(|storing| storing.on_the_way >= BATCHES_MAX) {
            self.take_back()?;
        }
        let storing = self.storing.as_mut().ok_or(StoringEnded)?;
        storing.send.send(batch).map_err(|_| StoringEnded)?;
        storing.on_the_way += 1;
        Ok(self.spare.pop().unwrap_or_default())
    }

    /// Takes one batch back that is stored; waits for it. Call it when the stage is readable.
    ///
    /// # Errors
    /// [`StoringEnded`].
    pub fn take_back(&mut self) -> Result<(), StoringEnded> {
        let storing = self.storing.as_mut().ok_or(StoringEnded)?;
        let mut ring = [0];
        match storing.done.read(&mut ring) {
            Ok(1) => {}
            _ => return Err(StoringEnded),
        }
        self.spare.push(storing.returned.recv().map_err(|_| StoringEnded)?);
        storing.on_the_way -= 1;
        Ok(())
    }

    /// Waits until all that was passed on is stored: of batches that are large one is enough.
    ///
    /// # Errors
    /// [`StoringEnded`].
    pub fn settle(&mut self) -> Result<(), StoringEnded> {
        while !self.is_idle() {
            self.take_back()?;
        }
        Ok(())
    }

    /// Whether all that was passed on is stored.
    pub fn is_idle(&self) -> bool {
        self.storing.as_ref().is_none_or(|storing| storing.on_the_way == 0)
    }

    /// Readable when a batch is stored, or when the storing thread has ended.
    pub fn ready(&self) -> Option<BorrowedFd<'_>> {
        self.storing.as_ref().map(|storing| storing.done.as_fd())
    }

    /// Stores the last batch (`None`: there is none), and waits until all is stored.
    ///
    /// # Errors
    /// The first one of the storing.
    pub fn finish(mut self, last: Option<B>) -> Result<(), E> {
        match (&mut self.store, last) {
            (Some(store), Some(mut last)) => return store(&mut last),
            // If the thread has ended, its own error follows.
            (None, Some(last)) => drop(self.pass(last)),
            (_, None) => {}
        }
        let Some(Storing { thread, send, .. }) = self.storing else { return self.failed.map_or(Ok(()), Err) };
        drop(send);
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

fn spawn<'scope, B, E>(scope: &'scope Scope<'scope, '_>, mut store: Store<'scope, B, E>) -> Result<Storing<'scope, B, E>>
where
    B: Send + 'scope,
    E: Send + 'scope,
{
    let pipe: std::io::Result<(PipeReader, PipeWriter)> = std::io::pipe();
    let (done, mut rings) = pipe.map_err(|err| Error::io("no pipe can be made", err))?;
    let (send, batches) = sync_channel::<B>(BATCHES_MAX);
    let (give_back, returned) = sync_channel(BATCHES_MAX);
    let thread = Builder::new().spawn_scoped(scope, move || {
        for mut batch in batches {
            store(&mut batch)?;
            // The reading thread may have ended; what is stored is stored.
            give_back.send(batch).ok();
            rings.write_all(b".").ok();
        }
        Ok(())
    });
    let thread = thread.map_err(|err| Error::io("no thread can be made", err))?;
    Ok(Storing { thread, send, returned, done, on_the_way: 0 })
}
