//! The thread of one started queue.
//!
//! A worker owns everything it touches: its ring, its buffers, its snapshot of guest memory. The session gives
//! all of it away when a queue starts and gets the ring's position back when it stops, so no lock is held or
//! shared while requests are served, and a stopped queue cannot write to the guest: its thread is gone.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::event::EventfdFlags;
use vhost_user_backend::{VringMutex, VringState, VringT};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::device::Device;
use crate::queue::{Chain, Table};
use crate::rate_limit::RateLimit;
use crate::request::{Executor, Outcome, Verdict, parse};
use crate::stats::QueueStats;

/// A ring together with the guest memory it lies in.
pub type Vring = VringMutex<Arc<GuestMemoryMmap>>;

/// Set in the available ring's flags by a driver that wants no interrupts (virtio 1.2, 2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Where the entries of the available ring begin, behind its flags and index, in bytes.
const AVAIL_ENTRIES_OFFSET: u64 = 4;

/// Everything a queue needs to run.
pub struct QueueSetup {
    /// Which queue.
    pub index: u16,
    /// The ring, configured, with its kick and call descriptors.
    pub vring: Vring,
    /// Guest memory as it is while the queue runs.
    pub memory: Arc<GuestMemoryMmap>,
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

impl std::fmt::Debug for QueueSetup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QueueSetup")
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// Why a queue could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kick descriptor is of a kind that cannot be waited for.
    #[error("the kick descriptor cannot be polled")]
    Kick(#[source] io::Error),
    /// The system is out of threads or descriptors.
    #[error("cannot start a queue thread")]
    System(#[source] io::Error),
}

/// Where a queue stood when it stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// The next available entry that was not taken.
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
struct Stop {
    requested: AtomicBool,
    wake: rustix::fd::OwnedFd,
}

/// What can wake a worker.
const KICK: u64 = 0;
const STOP: u64 = 1;

impl Worker {
    /// Starts a thread that serves the queue until it is stopped.
    ///
    /// # Errors
    ///
    /// When the kick descriptor cannot be waited for, or the system has no room for a thread.
    pub fn start(setup: QueueSetup) -> Result<Self, StartError> {
        let system = |error: rustix::io::Errno| StartError::System(error.into());
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(system)?;
        let stop = Arc::new(Stop {
            requested: AtomicBool::new(false),
            wake,
        });
        let epoll = Epoll::new().map_err(StartError::System)?;
        watch(&epoll, stop.wake.as_raw_fd(), STOP).map_err(StartError::System)?;
        if let Some(kick) = setup.vring.get_ref().get_kick() {
            watch(&epoll, kick.as_raw_fd(), KICK).map_err(StartError::Kick)?;
        }
        let name = format!("queue-{}", setup.index);
        let queue = Queue::new(setup, epoll, Arc::clone(&stop));
        let thread = thread::Builder::new()
            .name(name)
            .spawn(move || queue.run())
            .map_err(StartError::System)?;
        Ok(Self {
            thread: Some(thread),
            stop,
        })
    }

    /// Stops the queue and waits until the request at hand is finished. When this returns, the queue will never
    /// touch the guest again.
    pub fn stop(mut self) -> Stopped {
        self.request_stop();
        let joined = self.thread.take().map(JoinHandle::join);
        match joined {
            Some(Ok(stopped)) => stopped,
            // The thread panicked: a defect, which the panic hook has reported. The ring position is lost, and a
            // ring that says broken is not resumed as if nothing had happened.
            _ => Stopped {
                next_avail: 0,
                broken: true,
            },
        }
    }

    fn request_stop(&self) {
        self.stop.requested.store(true, Ordering::Release);
        // The counter cannot be full: this is the only write it ever gets.
        let _woken = rustix::io::write(&self.stop.wake, &1_u64.to_le_bytes());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.request_stop();
        if let Some(thread) = self.thread.take() {
            let _stopped = thread.join();
        }
    }
}

fn watch(epoll: &Epoll, fd: RawFd, data: u64) -> io::Result<()> {
    epoll.ctl(
        ControlOperation::Add,
        fd,
        EpollEvent::new(EventSet::IN, data),
    )
}

/// Why a ring cannot be served any more. The driver broke it; only a reset mends it.
#[derive(Debug, thiserror::Error)]
enum RingError {
    #[error("the ring is not wholly in guest memory")]
    OutsideMemory,
    #[error("ring access")]
    Access(#[from] virtio_queue::Error),
    #[error("available index {available}, expected at most {size} more than {position}")]
    Index {
        position: u16,
        available: u16,
        size: u16,
    },
    #[error("available entry {position} cannot be read")]
    Entry { position: u16 },
    #[error("available entry {position} names descriptor {head}, the ring has {size}")]
    Head { position: u16, head: u16, size: u16 },
}

/// Why [`Queue::serve`] came back.
enum Served {
    Empty,
    StopRequested,
}

/// The worker's side.
struct Queue {
    setup: QueueSetup,
    epoll: Epoll,
    stop: Arc<Stop>,
    executor: Executor,
    chain: Chain,
}

impl Queue {
    fn new(setup: QueueSetup, epoll: Epoll, stop: Arc<Stop>) -> Self {
        let executor = Executor::new(&setup.device);
        Self {
            setup,
            epoll,
            stop,
            executor,
            chain: Chain::default(),
        }
    }

    fn run(mut self) -> Stopped {
        // The session handed the ring over, so this lock is never waited for; it is taken once.
        let vring = self.setup.vring.clone();
        let mut vring = vring.get_mut();
        let result = self.run_until_stopped(&mut vring);
        let broken = match result {
            Ok(()) => false,
            Err(error) => {
                self.break_ring(&error);
                true
            }
        };
        Stopped {
            next_avail: vring.get_queue().next_avail(),
            broken,
        }
    }

    fn run_until_stopped(
        &mut self,
        vring: &mut VringState<Arc<GuestMemoryMmap>>,
    ) -> Result<(), RingError> {
        if !vring.get_queue().is_valid(&*self.setup.memory) {
            return Err(RingError::OutsideMemory);
        }
        // Used entries may be left from an earlier run of this ring; the index in memory is the truth.
        let next_used = vring
            .get_queue()
            .used_idx(&*self.setup.memory, Ordering::Relaxed)?;
        vring.get_queue_mut().set_next_used(next_used.0);
        let position = resume_at(vring.get_queue(), next_used.0);
        vring.get_queue_mut().set_next_avail(position);
        // A predecessor may have been killed between giving a request back and saying so; an interrupt too many is
        // legal, one too few leaves the driver waiting for ever.
        let _signalled = vring.signal_used_queue();
        loop {
            // Before the first wait too: the driver may have kicked while nobody listened.
            if let Served::StopRequested = self.serve(vring)? {
                return Ok(());
            }
            self.wait(vring);
        }
    }

    /// Sleeps until the driver kicks or the session stops the queue.
    fn wait(&mut self, vring: &VringState<Arc<GuestMemoryMmap>>) {
        let mut events = [EpollEvent::default(); 2];
        let Ok(count) = self.epoll.wait(-1, &mut events) else {
            return;
        };
        for event in events
            .iter()
            .take(count)
            .filter(|event| event.data() == KICK)
        {
            self.consume_kick(vring, event.event_set());
        }
    }

    fn consume_kick(&mut self, vring: &VringState<Arc<GuestMemoryMmap>>, events: EventSet) {
        let Some(kick) = vring.get_kick() else {
            return;
        };
        let dead = match kick.consume() {
            Ok(()) => false,
            // Somebody else was quicker, or the read was interrupted: a spurious wake-up.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                !events.contains(EventSet::IN)
            }
            Err(_) => true,
        };
        if dead {
            // A descriptor that is always ready and never delivers would keep this thread spinning.
            let _removed = self.epoll.ctl(
                ControlOperation::Delete,
                kick.as_raw_fd(),
                EpollEvent::default(),
            );
            if let Some(suppressed) = self.setup.log.admit() {
                let queue = self.setup.index;
                tracing::warn!(
                    suppressed,
                    "the kick descriptor is dead: queue {queue} sleeps until it is stopped"
                );
            }
        }
    }

    /// Takes requests until the ring is empty and the driver has been told to kick for the next one.
    fn serve(&mut self, vring: &mut VringState<Arc<GuestMemoryMmap>>) -> Result<Served, RingError> {
        let memory = Arc::clone(&self.setup.memory);
        loop {
            vring.get_queue_mut().disable_notification(&*memory)?;
            while let Some(head) = self.pop(vring)? {
                let table = ring_table(vring);
                let outcome = self.perform(&memory, table, head);
                let used_len = outcome.finish(&memory, &self.setup.stats, &self.setup.log);
                vring.get_queue_mut().add_used(&*memory, head, used_len)?;
                self.notify(vring)?;
                if self.stop.requested.load(Ordering::Acquire) {
                    return Ok(Served::StopRequested);
                }
            }
            if !vring.get_queue_mut().enable_notification(&*memory)? {
                let stop = self.stop.requested.load(Ordering::Acquire);
                return Ok(if stop {
                    Served::StopRequested
                } else {
                    Served::Empty
                });
            }
        }
    }

    /// The head of the next request, if there is one.
    ///
    /// The ring crate's own iterator takes an unreadable entry for an empty ring, and would be asked again for ever.
    fn pop(&self, vring: &mut VringState<Arc<GuestMemoryMmap>>) -> Result<Option<u16>, RingError> {
        let memory = &*self.setup.memory;
        let queue = vring.get_queue_mut();
        let (position, size) = (queue.next_avail(), queue.size());
        // Acquire: what the driver wrote before it moved the index is visible after this.
        let available = queue.avail_idx(memory, Ordering::Acquire)?.0;
        match available.wrapping_sub(position) {
            0 => return Ok(None),
            ahead if ahead > size => {
                return Err(RingError::Index {
                    position,
                    available,
                    size,
                });
            }
            _ => {}
        }
        let slot = AVAIL_ENTRIES_OFFSET + 2 * u64::from(position % size);
        let head = queue
            .avail_ring()
            .checked_add(slot)
            .and_then(|address| memory.load(GuestAddress(address), Ordering::Relaxed).ok())
            .map(u16::from_le)
            .ok_or(RingError::Entry { position })?;
        if head >= size {
            return Err(RingError::Head {
                position,
                head,
                size,
            });
        }
        queue.set_next_avail(position.wrapping_add(1));
        Ok(Some(head))
    }

    fn perform(&mut self, memory: &GuestMemoryMmap, table: Table, head: u16) -> Outcome {
        let mut delivered_bytes = 0;
        if let Err(error) = self.chain.collect(memory, table, head, self.setup.indirect) {
            return Outcome {
                verdict: Verdict::BadChain(error),
                status_address: None,
                delivered_bytes,
            };
        }
        let parsed = parse(memory, &mut self.chain);
        let verdict = match parsed.request {
            Err(error) => Verdict::BadRequest(error),
            Ok(request) => {
                let data = &self.chain.writable;
                let done = self.executor.execute(
                    &self.setup.device,
                    memory,
                    request,
                    data,
                    &mut delivered_bytes,
                );
                done.map_or_else(Verdict::Failed, |()| Verdict::Done)
            }
        };
        Outcome {
            verdict,
            status_address: parsed.status_address,
            delivered_bytes,
        }
    }

    /// Interrupts the driver if it wants to be.
    fn notify(&self, vring: &mut VringState<Arc<GuestMemoryMmap>>) -> Result<(), RingError> {
        let memory = &*self.setup.memory;
        let wanted = vring.get_queue_mut().needs_notification(memory)?
            && (vring.get_queue().event_idx_enabled() || !interrupts_suppressed(vring, memory));
        if wanted {
            // A full counter or pipe means that the driver has not taken the last one yet: it will look anyway.
            let _signalled = vring.signal_used_queue();
        }
        Ok(())
    }

    fn break_ring(&self, error: &RingError) {
        let cause = crate::request::chain_text(error);
        if let Some(suppressed) = self.setup.log.admit() {
            let queue = self.setup.index;
            tracing::error!(
                suppressed,
                "queue {queue}: the driver broke its ring: {cause}; it needs a reset"
            );
        }
        if let Some(notifier) = &self.setup.error_notifier {
            let _told = rustix::io::write(notifier, &1_u64.to_le_bytes());
        }
    }
}

/// Where to go on in the available ring.
///
/// Requests are given back in the order they were taken, and all of them before a ring stops. So entries between the
/// used index and the position that the front-end states were taken by a predecessor that was killed, and nobody else
/// will ever answer them: QEMU states the used index after a crash, cloud-hypervisor the available index. A statement
/// that cannot have come about like this is left as it is.
fn resume_at(queue: &virtio_queue::Queue, used: u16) -> u16 {
    let stated = queue.next_avail();
    if stated.wrapping_sub(used) <= queue.size() {
        used
    } else {
        stated
    }
}

fn ring_table(vring: &VringState<Arc<GuestMemoryMmap>>) -> Table {
    let queue = vring.get_queue();
    Table {
        address: GuestAddress(queue.desc_table()),
        len: u32::from(queue.size()),
    }
}

/// The ring crate knows only the index form of suppression.
fn interrupts_suppressed(
    vring: &VringState<Arc<GuestMemoryMmap>>,
    memory: &GuestMemoryMmap,
) -> bool {
    let flags: Result<u16, _> = memory.load(
        GuestAddress(vring.get_queue().avail_ring()),
        Ordering::Relaxed,
    );
    flags.is_ok_and(|flags| u16::from_le(flags) & AVAIL_F_NO_INTERRUPT != 0)
}
