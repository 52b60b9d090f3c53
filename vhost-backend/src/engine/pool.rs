//! Threads that wait for the disk: as many as there are reads to wait for, up to a limit, and none when there are none.

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use blob::{ReadError, ReadErrorKind};

use crate::engine::{Fetch, Fetched, Lease};
use crate::limits::MAX_READ_THREADS;

/// How long a thread waits for work before it ends.
const IDLE_LIMIT: Duration = Duration::from_secs(2);

/// Shared by all queues of a device.
#[derive(Debug, Default)]
pub struct ReadPool {
    state: Mutex<State>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    idle_threads: usize,
}

#[derive(Debug)]
enum Job {
    Fetch(Fetch, Asker),
    /// Bytes of the disk that will be asked for.
    ReadAhead(Range<u64>, Arc<Lease>),
}

/// Whom to tell.
#[derive(Debug)]
pub(super) struct Asker {
    pub(super) lease: Arc<Lease>,
    pub(super) tell: Sender<Fetched>,
    pub(super) wake: Arc<OwnedFd>,
}

impl Asker {
    fn tell(self, fetched: Fetched) {
        // Nobody listens any more where the queue could not wait.
        if self.tell.send(fetched).is_ok() {
            let _woken = rustix::io::write(&self.wake, &1_u64.to_le_bytes());
        }
    }
}

impl ReadPool {
    /// Has a thread read it.
    pub(super) fn submit(self: &Arc<Self>, fetch: Fetch, asker: Asker) {
        self.add(Job::Fetch(fetch, asker));
    }

    /// Has a thread see to it that these bytes of the disk are in memory soon, if any thread has the time.
    pub(super) fn read_ahead(self: &Arc<Self>, range: Range<u64>, lease: Arc<Lease>) {
        if self.lock().jobs.is_empty() {
            self.add(Job::ReadAhead(range, lease));
        }
    }

    fn add(self: &Arc<Self>, job: Job) {
        let mut state = self.lock();
        state.jobs.push_back(job);
        if state.jobs.len() <= state.idle_threads {
            drop(state);
            self.arrived.notify_one();
            return;
        }
        if state.threads >= MAX_READ_THREADS {
            return;
        }
        state.threads += 1;
        drop(state);
        let pool = Arc::clone(self);
        let started = thread::Builder::new()
            .name("read".to_owned())
            .spawn(move || pool.work());
        if let Err(error) = started {
            let mut state = self.lock();
            state.threads -= 1;
            // Others will come to it, unless there are none.
            let orphan = if state.threads == 0 {
                state.jobs.pop_back()
            } else {
                None
            };
            drop(state);
            if let Some(Job::Fetch(fetch, asker)) = orphan {
                let kind = ReadErrorKind::Io;
                asker.tell(Fetched {
                    id: fetch.id,
                    buffer: fetch.buffer,
                    result: Err(ReadError::new(kind, fetch.offset).with_source(error)),
                });
            }
        }
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            match job {
                Job::Fetch(fetch, asker) => perform(fetch, asker),
                Job::ReadAhead(range, lease) => {
                    if !lease.is_abandoned() {
                        lease.device.image().will_need(range);
                    }
                }
            }
        }
    }

    /// The next job; `None` when there was none for a while.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            state.idle_threads += 1;
            let waited = self.arrived.wait_timeout(state, IDLE_LIMIT);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = again;
            state.idle_threads -= 1;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.threads -= 1;
                return None;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn perform(fetch: Fetch, asker: Asker) {
    if asker.lease.is_abandoned() {
        return;
    }
    let Fetch {
        id,
        ordinal,
        offset,
        mut buffer,
    } = fetch;
    let image = asker.lease.device.image();
    let result = image.read_stored(ordinal, offset, &mut buffer);
    asker.tell(Fetched { id, buffer, result });
}
