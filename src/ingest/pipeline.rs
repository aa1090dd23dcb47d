//! Two threads that work on batches: the filling thread and the completing thread. `append`, `write` and a session fill
//! batches from input, and complete them by storing them. `read` fills batches with lines, and completes them by writing them.
//!
//! Group commit without timers: the filling thread passes a batch on when it is full, or when its input would block while
//! the completing thread is idle. Entries that arrive during a commit go into the next commit. At most two batches are in the
//! pipeline, which limits the memory. Their memory is used again. The second thread is started with the first batch that is
//! passed on, so short input does not need it.

use std::collections::VecDeque;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::model::{Error, Result};

const BATCHES_MAX: usize = 2;

type Complete<'scope, B, R, E> = Box<dyn FnMut(&mut B) -> Result<R, E> + Send + 'scope>;

/// The pipeline, for the filling thread.
pub struct Pipeline<'scope, 'env, B, R, E> {
    scope: &'scope Scope<'scope, 'env>,
    /// Moves to the completing thread when it starts.
    complete: Option<Complete<'scope, B, R, E>>,
    worker: Option<Worker<'scope, B, R, E>>,
    /// The error if the thread could not be started.
    failed: Option<E>,
    spare: Vec<B>,
    results: VecDeque<R>,
}

/// The completing thread, for the filling thread.
struct Worker<'scope, B, R, E> {
    thread: ScopedJoinHandle<'scope, Result<(), E>>,
    send: SyncSender<B>,
    returned: Receiver<(B, R)>,
    /// A pipe with one byte for each completed batch. It is closed when the thread has ended.
    done: PipeReader,
    in_flight: usize,
}

/// The completing thread has ended early. [`Pipeline::finish`] returns its error.
#[derive(Debug)]
pub struct WorkerEnded;

impl<'scope, 'env, B, R, E> Pipeline<'scope, 'env, B, R, E>
where
    B: Default + Send + 'scope,
    R: Send + 'scope,
    E: From<Error> + Send + 'scope,
{
    /// A pipeline that calls `complete` for each batch. `complete` must leave the batch empty.
    pub fn new(scope: &'scope Scope<'scope, 'env>, complete: impl FnMut(&mut B) -> Result<R, E> + Send + 'scope) -> Self {
        let (spare, results) = (Vec::new(), VecDeque::new());
        Self { scope, complete: Some(Box::new(complete)), worker: None, failed: None, spare, results }
    }

    /// Passes a batch on and returns an empty one. Waits while two batches are in the pipeline.
    ///
    /// # Errors
    /// [`WorkerEnded`].
    pub fn pass(&mut self, batch: B) -> Result<B, WorkerEnded> {
        if let Some(complete) = self.complete.take() {
            match start(self.scope, complete) {
                Ok(worker) => self.worker = Some(worker),
                Err(err) => {
                    self.failed = Some(err.into());
                    return Err(WorkerEnded);
                }
            }
        }
        while self.worker.as_ref().is_some_and(|worker| worker.in_flight >= BATCHES_MAX) {
            self.take_back()?;
        }
        let worker = self.worker.as_mut().ok_or(WorkerEnded)?;
        worker.send.send(batch).map_err(|_| WorkerEnded)?;
        worker.in_flight += 1;
        Ok(self.spare.pop().unwrap_or_default())
    }

    /// Waits for one completed batch, and takes it and its result back. Call this when [`Pipeline::ready`] is readable.
    ///
    /// # Errors
    /// [`WorkerEnded`].
    pub fn take_back(&mut self) -> Result<(), WorkerEnded> {
        let worker = self.worker.as_mut().ok_or(WorkerEnded)?;
        match worker.done.read(&mut [0]) {
            Ok(1) => {}
            _ => return Err(WorkerEnded),
        }
        let (batch, result) = worker.returned.recv().map_err(|_| WorkerEnded)?;
        worker.in_flight -= 1;
        self.spare.push(batch);
        self.results.push_back(result);
        Ok(())
    }

    /// Waits until every batch is completed. Call this after a large batch to limit the memory.
    ///
    /// # Errors
    /// [`WorkerEnded`].
    pub fn settle(&mut self) -> Result<(), WorkerEnded> {
        while !self.is_idle() {
            self.take_back()?;
        }
        Ok(())
    }

    /// Whether every batch that was passed on is completed and taken back.
    pub fn is_idle(&self) -> bool {
        self.worker.as_ref().is_none_or(|worker| worker.in_flight == 0)
    }

    /// A descriptor that is readable when a batch is completed, or when the completing thread has ended.
    pub fn ready(&self) -> Option<BorrowedFd<'_>> {
        self.worker.as_ref().map(|worker| worker.done.as_fd())
    }

    /// Takes the oldest result.
    pub fn result(&mut self) -> Option<R> {
        self.results.pop_front()
    }

    /// Completes the last batch, if any, and waits until all batches are completed. Returns the results that were not taken
    /// yet, also after an error.
    pub fn finish(&mut self, last: Option<B>) -> (VecDeque<R>, Result<(), E>) {
        match (&mut self.complete, last) {
            (Some(complete), Some(mut last)) => {
                let completed = complete(&mut last).map(|result| self.results.push_back(result));
                return (std::mem::take(&mut self.results), completed);
            }
            // If the thread has ended, `join` returns its error below.
            (None, Some(last)) => drop(self.pass(last)),
            (_, None) => {}
        }
        let mut results = std::mem::take(&mut self.results);
        let Some(Worker { thread, send, returned, .. }) = self.worker.take() else {
            return (results, self.failed.take().map_or(Ok(()), Err));
        };
        drop(send);
        let ended = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        results.extend(returned.try_iter().map(|(_, result)| result));
        (results, ended)
    }
}

fn start<'scope, B, R, E>(
    scope: &'scope Scope<'scope, '_>,
    mut complete: Complete<'scope, B, R, E>,
) -> Result<Worker<'scope, B, R, E>>
where
    B: Send + 'scope,
    R: Send + 'scope,
    E: Send + 'scope,
{
    let pipe: std::io::Result<(PipeReader, PipeWriter)> = std::io::pipe();
    let (done, mut completed) = pipe.map_err(|err| Error::io("cannot create a pipe", err))?;
    let (send, batches) = sync_channel::<B>(BATCHES_MAX);
    let (give_back, returned) = sync_channel(BATCHES_MAX);
    let thread = Builder::new().spawn_scoped(scope, move || {
        for mut batch in batches {
            let result = complete(&mut batch)?;
            // The filling thread may have ended. The batch is completed in any case.
            give_back.send((batch, result)).ok();
            completed.write_all(b".").ok();
        }
        Ok(())
    });
    let thread = thread.map_err(|err| Error::io("cannot start a thread", err))?;
    Ok(Worker { thread, send, returned, done, in_flight: 0 })
}
