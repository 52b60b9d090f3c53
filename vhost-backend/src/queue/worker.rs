//! The thread of one started queue, seen from the session: start it, stop it, and never wait for ever.
//!
//! The session gives the ring and the memory it lies in to the thread and gets the ring's position back. What
//! crosses this seam is [`QueueSetup`] in one direction and [`Stopped`] in the other: numbers, descriptors and shared
//! memory, so it could as well be the border of a process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::EventfdFlags;
use vhost_user_backend::VringT;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::device::Device;
use crate::queue::service::{KICK, STOP, Service};
use crate::queue::shelf::Shelf;
use crate::queue::{RingError, SplitRing};
use crate::rate_limit::RateLimit;
use crate::stats::QueueStats;

/// How long a thread that holds the guest at the deadline may go on copying before it is asked again.
const COPYING_POLL: Duration = Duration::from_millis(1);

/// Everything a queue needs to run.
#[derive(Debug)]
pub struct QueueSetup {
    /// Which queue.
    pub index: u16,
    /// The ring, with its descriptors and the memory it lies in.
    pub ring: SplitRing,
    /// The device to serve.
    pub device: Arc<Device>,
    /// Whether the driver may use indirect tables.
    pub indirect: bool,
    /// Where to count.
    pub stats: Arc<QueueStats>,
    /// Bounds what the driver can have written to the log.
    pub log: Arc<RateLimit>,
    /// Told when the ring breaks.
    pub error_notifier: Option<Arc<std::fs::File>>,
}

/// Why a queue could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The ring cannot be served.
    #[error("its ring")]
    Ring(#[from] RingError),
    /// The kick descriptor is of a kind that cannot be waited for.
    #[error("the kick descriptor cannot be polled")]
    Kick(#[source] io::Error),
    /// The system is out of threads or descriptors.
    #[error("cannot start a queue thread")]
    System(#[source] io::Error),
    /// Too many threads wait for a disk that does not answer.
    #[error("{stuck} reads wait for a disk that does not answer")]
    Stuck {
        /// How many.
        stuck: usize,
    },
}

/// Where a queue stood when it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The next available entry that was not served.
    pub next_avail: u16,
    /// Whether the driver broke the ring.
    pub broken: bool,
}

/// A running queue.
#[derive(Debug)]
pub struct Worker {
    thread: Option<JoinHandle<()>>,
    done: Receiver<Stopped>,
    stop: Arc<Stop>,
    shelf: Arc<Shelf>,
    device: Arc<Device>,
    index: u16,
}

/// Asks a worker to stop: a flag it looks at between requests, and a descriptor that wakes it.
#[derive(Debug)]
pub(crate) struct Stop {
    requested: AtomicBool,
    wake: OwnedFd,
}

impl Stop {
    fn new() -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            requested: AtomicBool::new(false),
            wake,
        })
    }

    fn request(&self) {
        self.requested.store(true, Ordering::Release);
        // The counter cannot be full: these are the only writes it ever gets.
        let _woken = rustix::io::write(&self.wake, &1_u64.to_le_bytes());
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.requested.load(Ordering::Acquire)
    }
}

impl Worker {
    /// Starts a thread that serves the queue until it is stopped.
    ///
    /// # Errors
    ///
    /// When the kick descriptor cannot be waited for, or the system has no room for a thread.
    pub fn start(setup: QueueSetup) -> Result<Self, StartError> {
        let stuck = setup.device.stuck_reads().count();
        if setup.device.stuck_reads().are_too_many() {
            return Err(StartError::Stuck { stuck });
        }
        let stop = Arc::new(Stop::new().map_err(StartError::System)?);
        let epoll = Epoll::new().map_err(StartError::System)?;
        watch(&epoll, stop.wake.as_raw_fd(), STOP).map_err(StartError::System)?;
        if let Some(kick) = setup.ring.vring().get_ref().get_kick() {
            watch(&epoll, kick.as_raw_fd(), KICK).map_err(StartError::Kick)?;
        }
        let shelf = Arc::new(Shelf::default());
        let (index, device) = (setup.index, Arc::clone(&setup.device));
        let service = Service::new(setup, epoll, Arc::clone(&stop), Arc::clone(&shelf));
        let (tell, done) = sync_channel(1);
        let thread = thread::Builder::new()
            .name(format!("queue-{index}"))
            .spawn(move || {
                if let Some(stopped) = service.run() {
                    // Nobody listens any more when the session did not want to wait.
                    let _told = tell.send(stopped);
                }
            })
            .map_err(StartError::System)?;
        Ok(Self {
            thread: Some(thread),
            done,
            stop,
            shelf,
            device,
            index,
        })
    }

    /// Asks the queue to stop after the request at hand. To be followed by [`Worker::finish`].
    pub fn request_stop(&self) {
        self.stop.request();
    }

    /// Waits until the request at hand is finished, but not longer than until `deadline`: then the request is put
    /// back, to be taken anew when the ring is started again. When this returns, nothing of the queue will ever touch
    /// the guest again.
    pub fn finish(mut self, deadline: Instant) -> Stopped {
        let mut wait = deadline.saturating_duration_since(Instant::now());
        loop {
            match self.done.recv_timeout(wait) {
                Ok(stopped) => {
                    self.join();
                    return stopped;
                }
                // The thread panicked: a defect, which the panic hook has reported. The ring position is lost, and a
                // ring that says broken is not resumed as if nothing had happened.
                Err(RecvTimeoutError::Disconnected) => {
                    self.join();
                    return Stopped {
                        next_avail: 0,
                        broken: true,
                    };
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            if let Some(stopped) = self.abandon() {
                return stopped;
            }
            // Not on the shelf: it copies to the guest, which takes as long as the copying does.
            wait = COPYING_POLL;
        }
    }

    /// Takes the ring away from a thread that waits for the disk, and leaves the thread to itself.
    fn abandon(&mut self) -> Option<Stopped> {
        // Counted first: the thread counts itself out as soon as it finds the shelf empty.
        self.device.stuck_reads().add();
        let Some(mut ring) = self.shelf.take() else {
            self.device.stuck_reads().remove();
            return None;
        };
        tracing::warn!(
            "queue {}: a read of the disk does not come back; its request is put back",
            self.index
        );
        ring.put_back();
        // Detached. It holds no more than its buffer, and ends when its read does.
        self.thread = None;
        Some(Stopped {
            next_avail: ring.position(),
            broken: false,
        })
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Drop for Worker {
    /// Whoever forgets to stop a queue waits for it here: a thread that outlives its session could touch a guest.
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop.request();
            self.join();
        }
    }
}

fn watch(epoll: &Epoll, fd: i32, data: u64) -> io::Result<()> {
    epoll.ctl(
        ControlOperation::Add,
        fd,
        EpollEvent::new(EventSet::IN, data),
    )
}
