//! Work on several threads, whose results come back in the order in which it was handed out.
//!
//! ```text
//! job 0, 1, 2, 3, … ──▶ lane 0: job 0, 2, 4 … ──▶ result 0, 2, 4 … ──▶ result 0, 1, 2, 3, …
//!                  └──▶ lane 1: job 1, 3, 5 … ──▶ result 1, 3, 5 … ──┘
//! ```
//!
//! Job n goes to lane n modulo the number of lanes and comes back from there. So the order needs no numbers and no
//! locks, and does not depend on how fast a thread is. A lane has room for all the jobs and results it can be given
//! before one is taken back, so neither side ever waits for the other in a circle.

use std::any::Any;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

/// Jobs that a lane has at a time: one under way, and one to go on with.
const MAX_JOBS_PER_LANE: usize = 2;

/// Lanes at most. Each has its jobs in memory, and what its worker needs.
pub(crate) const MAX_LANES: usize = 256;

/// What a thread does. Each has a clone.
pub(crate) trait Worker: Clone + Send + 'static {
    /// What it is given.
    type Job: Send + 'static;
    /// What it makes of it.
    type Done: Send + 'static;

    /// Does it.
    fn work(&mut self, job: Self::Job) -> Self::Done;
}

/// Threads that fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThreadError {
    /// The system has no thread to spare, not even one.
    #[error("cannot start a thread")]
    Start(#[source] io::Error),
    /// A thread has ended where it should not.
    #[error("a thread has failed: {reason}")]
    Panicked {
        /// Its last words.
        reason: String,
    },
}

/// Threads that work. They end when this is dropped, after what they have begun.
pub(crate) struct Lanes<W: Worker> {
    worker: W,
    count: usize,
    /// Those that have been needed so far.
    lanes: Vec<Lane<W>>,
    begun: usize,
    taken: usize,
}

struct Lane<W: Worker> {
    jobs: SyncSender<W::Job>,
    results: Receiver<W::Done>,
    thread: JoinHandle<()>,
}

impl<W: Worker> Lanes<W> {
    /// So many threads, each with a clone of `worker`; 0 means one for each processor. They start when they are needed.
    pub(crate) fn new(worker: W, threads: usize) -> Self {
        let count = match threads {
            0 => thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        Self {
            worker,
            count: count.min(MAX_LANES),
            lanes: Vec::new(),
            begun: 0,
            taken: 0,
        }
    }

    /// Whether a result has to be taken before the next job is begun.
    pub(crate) fn is_full(&self) -> bool {
        self.begun - self.taken >= self.count * MAX_JOBS_PER_LANE
    }

    /// Hands out a job. Waits for nothing, as long as the lanes are not full.
    ///
    /// # Errors
    ///
    /// When no thread can be started, or one has panicked. Fewer than wanted are enough.
    pub(crate) fn begin(&mut self, job: W::Job) -> Result<(), ThreadError> {
        let mut number = self.begun % self.count;
        if number == self.lanes.len() {
            match Lane::start(self.worker.clone()) {
                Ok(lane) => self.lanes.push(lane),
                Err(error) if number == 0 => return Err(ThreadError::Start(error)),
                Err(_fewer_are_enough) => {
                    self.keep_to(number);
                    number = 0;
                }
            }
        }
        let sent = self.lanes.get(number).map(|lane| lane.jobs.send(job));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.panicked(number));
        }
        self.begun += 1;
        Ok(())
    }

    /// Goes on with the `count` lanes there are. Until now, each of them has had one job, so job n is still in lane n
    /// modulo the number of lanes.
    fn keep_to(&mut self, count: usize) {
        self.count = count;
    }

    /// Waits for the result of the oldest job; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the thread has panicked over it.
    pub(crate) fn take(&mut self) -> Result<Option<W::Done>, ThreadError> {
        if self.taken == self.begun {
            return Ok(None);
        }
        let number = self.taken % self.count;
        let done = self.lanes.get(number).map(|lane| lane.results.recv());
        let Some(Ok(done)) = done else {
            return Err(self.panicked(number));
        };
        self.taken += 1;
        Ok(Some(done))
    }

    /// What became of a thread that no longer answers. No lane is of use afterwards.
    fn panicked(&mut self, number: usize) -> ThreadError {
        let mut reason = None;
        for (other, lane) in self.lanes.drain(..).enumerate() {
            let end = lane.end();
            if other == number {
                reason = end.err();
            }
        }
        ThreadError::Panicked {
            reason: reason.map_or_else(|| "it is gone".to_owned(), |reason| last_words(&*reason)),
        }
    }
}

impl<W: Worker> Drop for Lanes<W> {
    fn drop(&mut self) {
        for lane in self.lanes.drain(..) {
            // Whoever wanted its results would have asked for them.
            let _ended = lane.end();
        }
    }
}

impl<W: Worker> Lane<W> {
    fn start(mut worker: W) -> io::Result<Self> {
        let (jobs, inbox) = sync_channel(MAX_JOBS_PER_LANE);
        let (outbox, results) = sync_channel(MAX_JOBS_PER_LANE);
        let thread = thread::Builder::new()
            .name("worker".to_owned())
            .spawn(move || {
                while let Ok(job) = inbox.recv() {
                    if outbox.send(worker.work(job)).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            jobs,
            results,
            thread,
        })
    }

    fn end(self) -> thread::Result<()> {
        drop((self.jobs, self.results));
        self.thread.join()
    }
}

fn last_words(panic: &(dyn Any + Send)) -> String {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(words), _) => (*words).to_owned(),
        (None, Some(words)) => words.clone(),
        (None, None) => "it said nothing".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Doubles numbers, some slower than others; panics over 666. Counts its clones that live.
    struct Doubling(Arc<AtomicUsize>);

    impl Clone for Doubling {
        fn clone(&self) -> Self {
            self.0.fetch_add(1, Ordering::SeqCst);
            Self(self.0.clone())
        }
    }

    impl Drop for Doubling {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::SeqCst);
        }
    }

    impl Worker for Doubling {
        type Job = usize;
        type Done = usize;

        fn work(&mut self, job: usize) -> usize {
            assert!(job != 666, "not this one");
            for _ in 0..job * 7919 % 13 {
                thread::yield_now();
            }
            job * 2
        }
    }

    fn lanes(threads: usize) -> (Lanes<Doubling>, Arc<AtomicUsize>) {
        let alive = Arc::new(AtomicUsize::new(1));
        (Lanes::new(Doubling(alive.clone()), threads), alive)
    }

    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        for threads in [0, 1, 2, 3, 8] {
            let (mut lanes, alive) = lanes(threads);
            let mut results = Vec::new();
            for job in 1000..1100 {
                if lanes.is_full() {
                    results.extend(lanes.take().unwrap());
                }
                lanes.begin(job).unwrap();
            }
            while let Some(result) = lanes.take().unwrap() {
                results.push(result);
            }
            assert!(results.into_iter().eq((1000..1100).map(|job| job * 2)));
            assert!(!lanes.is_full());
            drop(lanes);
            assert_eq!(alive.load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn no_more_threads_start_than_there_are_jobs() {
        let (mut lanes, alive) = lanes(100);
        lanes.begin(1).unwrap();
        lanes.begin(2).unwrap();
        assert_eq!(alive.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn fewer_threads_than_wanted_are_enough() {
        for taken_before in 0..3 {
            let (mut lanes, alive) = lanes(100);
            let mut results = Vec::new();
            for job in 0..3 {
                lanes.begin(job).unwrap();
            }
            for _ in 0..taken_before {
                results.extend(lanes.take().unwrap());
            }
            lanes.keep_to(3);
            for job in 3..50 {
                if lanes.is_full() {
                    results.extend(lanes.take().unwrap());
                }
                lanes.begin(job).unwrap();
            }
            assert_eq!(alive.load(Ordering::SeqCst), 4);
            while let Some(result) = lanes.take().unwrap() {
                results.push(result);
            }
            assert!(results.into_iter().eq((0..50).map(|job| job * 2)));
        }
    }

    #[test]
    fn threads_end_with_jobs_and_results_that_nobody_takes() {
        let (mut lanes, alive) = lanes(3);
        for job in 0.. {
            if lanes.is_full() {
                break;
            }
            lanes.begin(job).unwrap();
        }
        drop(lanes);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let (mut lanes, alive) = lanes(2);
        lanes.begin(1).unwrap();
        lanes.begin(666).unwrap();
        lanes.begin(3).unwrap();
        assert_eq!(lanes.take().unwrap(), Some(2));
        let error = lanes.take().unwrap_err();
        assert_eq!(error.to_string(), "a thread has failed: not this one");
        // It stays so, without waiting for anything.
        assert!(lanes.take().is_err());
        drop(lanes);
        assert_eq!(alive.load(Ordering::SeqCst), 0);
    }
}
