//! The thread of one started queue, seen from the session: start it, stop it, and never wait for ever.
//!
//! The session gives the ring and the memory it lies in to the thread and gets the ring's position back. What
//! crosses this seam is [`QueueSetup`] in one direction and [`Stopped`] in the other: numbers, descriptors and shared
//! memory, so it could as well be the border of a process.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::EventfdFlags;
use vhost_user_backend::VringT;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::device::Device;
use crate::queue::service::{FETCHED, KICK, STOP, Service};
use crate::queue::{RingError, SplitRing};
use crate::rate_limit::RateLimit;
use crate::request::Reads;
use crate::stats::QueueStats;

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
    /// Too many queues have left reads behind.
    #[error("the reads of {stuck} queues wait for a disk that does not answer")]
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
    thread: Option<JoinHandle<Stopped>>,
    stop: Arc<Stop>,
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
        let reads = Reads::new(&setup.device).map_err(StartError::System)?;
        let epoll = Epoll::new().map_err(StartError::System)?;
        let level = EventSet::IN;
        watch(&epoll, stop.wake.as_raw_fd(), level, STOP).map_err(StartError::System)?;
        watch(&epoll, reads.wake_fd().as_raw_fd(), level, FETCHED).map_err(StartError::System)?;
        let mut kick_counts = false;
        if let Some(kick) = setup.ring.vring().get_ref().get_kick() {
            let fd = kick.as_raw_fd();
            kick_counts = is_eventfd(fd);
            let events = if kick_counts {
                level | EventSet::EDGE_TRIGGERED
            } else {
                level
            };
            watch(&epoll, fd, events, KICK).map_err(StartError::Kick)?;
        }
        let name = format!("queue-{}", setup.index);
        let service = Service::new(setup, epoll, kick_counts, Arc::clone(&stop), reads);
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || service.run())
            .map_err(StartError::System)?;
        Ok(Self {
            thread: Some(thread),
            stop,
        })
    }

    /// Asks the queue to stop after what is under way. To be followed by [`Worker::finish`].
    pub fn request_stop(&self) {
        self.stop.request();
    }

    /// Waits until what is under way is finished, but not much longer than
    /// [`STOP_DEADLINE`](crate::limits::STOP_DEADLINE): then it is put back, to be taken anew when the ring is started
    /// again. When this returns, nothing of the queue will ever touch the guest again.
    pub fn finish(mut self) -> Stopped {
        self.request_stop();
        self.join()
    }

    fn join(&mut self) -> Stopped {
        let stopped = self.thread.take().map(JoinHandle::join);
        // The thread panicked: a defect, which the panic hook has reported. The ring position is lost, and a ring that
        // says broken is not resumed as if nothing had happened.
        stopped.and_then(Result::ok).unwrap_or(Stopped {
            next_avail: 0,
            broken: true,
        })
    }
}

impl Drop for Worker {
    /// Whoever forgets to stop a queue waits for it here: a thread that outlives its session could touch a guest.
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop.request();
            let _stopped = self.join();
        }
    }
}

fn watch(epoll: &Epoll, fd: i32, events: EventSet, data: u64) -> io::Result<()> {
    epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(events, data))
}

/// Whether the descriptor is an eventfd: it counts and never fills up, so a kick can be heeded without being read. That
/// saves a system call for each. Of anything else, or where nobody can tell, kicks are read.
fn is_eventfd(fd: i32) -> bool {
    let link = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    link.is_ok_and(|name| name.as_os_str() == "anon_inode:[eventfd]")
}
