//! A front-end in the test's own process: the crate `virtio-driver`, by the authors of QEMU's block layer.
//!
//! It shares no code with the other front-ends here, needs no guest, and is quick enough to read every byte of a disk
//! in every order and to measure a backend. It always uses direct descriptors, also where it has accepted indirect
//! ones, and asks every message to be answered.
//!
//! The memory the backend writes to is a file that this process never maps: the addresses the backend is told are
//! those of an allocation nobody touches, and buffers are looked at with `pread`. So nothing here is unsafe, however
//! wrong the backend is.

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use ::virtio_driver::{
    EventFd, QueueNotifier, VhostUser, VirtioBlkConfig, VirtioBlkQueue, VirtioBlkReqBuf,
    VirtioBlkTransport,
};
use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;

/// Descriptor tables outside the ring.
pub const INDIRECT_DESC: u64 = 1 << 28;
/// Notifications by index.
pub const EVENT_IDX: u64 = 1 << 29;
/// The only feature no driver may leave out.
pub const VERSION_1: u64 = 1 << 32;
/// Requests come back in the order they were made. The driver does not keep its side (it reuses descriptors in any
/// order), which matters only to a backend that guesses descriptors from it.
pub const IN_ORDER: u64 = 1 << 35;

/// Taken by the driver whatever it was told to accept; not a virtio feature.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// Long enough for any backend on any machine; who is silent for longer has lost a request or a notification.
const SILENCE_LIMIT: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// What buffers are filled with. The disk under test is mostly zero.
const POISON: u8 = 0xa5;

/// Bytes behind each buffer that must stay as they are.
const GUARD_BYTES: usize = 512;

/// How to attach a disk.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Features to accept where they are offered.
    pub features: u64,
    /// Queues to start.
    pub queues: usize,
    /// Entries of each ring, a power of two. A request takes three, at most.
    pub ring_entries: u16,
    /// Most requests in flight on each queue.
    pub depth: usize,
    /// Longest request.
    pub request_bytes: usize,
}

/// What to ask the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Fill the buffer from the disk.
    Read,
    /// Write the buffer, of whatever content, to the disk.
    Write,
    /// Make earlier writes durable; offset and length mean nothing.
    Flush,
    /// Forget this range.
    Discard,
    /// Zero this range.
    WriteZeroes,
}

/// One request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What to do.
    pub kind: Kind,
    /// Where on the disk, in bytes; a multiple of 512.
    pub offset: u64,
    /// How many bytes; a multiple of 512.
    pub bytes: usize,
}

/// A request that has come back.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The request.
    pub request: Request,
    /// `EIO` and `EOPNOTSUPP` are the two refusals of virtio-blk.
    pub result: Result<(), Errno>,
    slot: usize,
    memory: &'a Memory,
}

impl Answer<'_> {
    /// What is in the buffer; it is made unlike any disk content for the next request.
    ///
    /// # Errors
    ///
    /// If something was written behind the buffer.
    pub fn content(&self) -> Result<Vec<u8>> {
        let mut bytes = self.memory.take(self.slot)?;
        let behind = bytes.split_off(self.request.bytes);
        ensure!(
            behind.iter().all(|byte| *byte == POISON),
            "{:?} wrote behind its buffer",
            self.request
        );
        Ok(bytes)
    }
}

/// An attached disk. Dropping it hangs up, whatever is in flight.
pub struct Disk {
    queues: Vec<Queue>,
    memory: Memory,
    in_order: bool,
    /// Owns the memory of the rings; goes last.
    transport: Box<VirtioBlkTransport>,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk")
            .field("queues", &self.queues.len())
            .field("features", &self.features())
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Connects to the backend at `socket` and starts the queues.
    ///
    /// # Errors
    ///
    /// If there is no backend, it refuses a message, or it has fewer queues.
    pub fn attach(socket: &Path, options: &Options) -> Result<Self> {
        let path = socket.to_str().context("socket path is not text")?;
        let transport = VhostUser::<VirtioBlkConfig, VirtioBlkReqBuf>::new(path, options.features)?;
        let mut transport: Box<VirtioBlkTransport> = Box::new(transport);
        let rings =
            VirtioBlkQueue::setup_queues(&mut *transport, options.queues, options.ring_entries)?;
        let memory = Memory::new(options)?;
        transport.map_mem_region(
            memory.addresses.as_ptr().addr(),
            memory.addresses.len(),
            memory.file.as_raw_fd(),
            0,
        )?;
        let mut queues = Vec::new();
        for (index, mut ring) in rings.into_iter().enumerate() {
            // Without this, EVENT_IDX gives one notification and then none.
            ring.set_used_notif_enabled(true);
            let first_slot = index * options.depth;
            queues.push(Queue {
                ring,
                submitted: transport.get_submission_notifier(index),
                completed: transport.get_completion_fd(index),
                free: (first_slot..first_slot + options.depth).collect(),
                in_flight: VecDeque::new(),
            });
        }
        Ok(Self {
            queues,
            memory,
            in_order: transport.get_features() & IN_ORDER != 0,
            transport,
        })
    }

    /// The negotiated features, without the bit that is between the driver and the backend alone.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.transport.get_features() & !PROTOCOL_FEATURES
    }

    /// Size of the disk, as the backend says.
    ///
    /// # Errors
    ///
    /// If the backend does not tell.
    pub fn capacity_bytes(&self) -> Result<u64> {
        let config = self.transport.get_config()?;
        let sectors = config.capacity;
        Ok(sectors.to_native() * 512)
    }

    /// Keeps `depth` requests in flight on each queue until `next` has no more and all have come back. Each that has
    /// is given to `done`, whose first error ends it at once and leaves the others in flight.
    ///
    /// # Errors
    ///
    /// That of `done`; or if the backend is silent, or answers out of order where it has promised not to.
    pub fn drive(
        &mut self,
        depth: usize,
        mut next: impl FnMut() -> Option<Request>,
        mut done: impl FnMut(Answer<'_>) -> Result<()>,
    ) -> Result<()> {
        let mut completions = Vec::new();
        loop {
            for queue in &mut self.queues {
                queue.fill(depth, &mut next, &mut self.memory)?;
            }
            if self.queues.iter().all(|queue| queue.in_flight.is_empty()) {
                return Ok(());
            }
            wait(&self.queues)?;
            for queue in &mut self.queues {
                queue.reap(self.in_order, &mut completions)?;
                for (flight, result) in completions.drain(..) {
                    done(Answer {
                        request: flight.request,
                        result,
                        slot: flight.slot,
                        memory: &self.memory,
                    })?;
                }
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Flight {
    slot: usize,
    request: Request,
}

struct Queue {
    ring: VirtioBlkQueue<'static, Flight>,
    submitted: Box<dyn QueueNotifier>,
    completed: Arc<EventFd>,
    free: Vec<usize>,
    /// Slots, oldest first.
    in_flight: VecDeque<usize>,
}

impl Queue {
    fn fill(
        &mut self,
        depth: usize,
        next: &mut impl FnMut() -> Option<Request>,
        memory: &mut Memory,
    ) -> Result<()> {
        let mut news = false;
        while self.in_flight.len() < depth {
            let Some(request) = next() else { break };
            let slot = self.free.pop().context("deeper than Options::depth")?;
            self.submit(
                Flight { slot, request },
                memory.buffer(slot, request.bytes)?,
            )?;
            self.in_flight.push_back(slot);
            news = true;
        }
        // The driver lacks this fence where it looks at the flags: without it the look may come before the request
        // is visible, and a backend that is just about to sleep is not woken.
        fence(Ordering::SeqCst);
        if news && self.ring.avail_notif_needed() {
            self.submitted.notify()?;
        }
        Ok(())
    }

    fn submit(&mut self, flight: Flight, buffer: &mut [u8]) -> Result<()> {
        let Request { kind, offset, .. } = flight.request;
        let bytes = buffer.len() as u64;
        match kind {
            Kind::Read => self.ring.read(offset, buffer, flight)?,
            Kind::Write => self.ring.write(offset, buffer, flight)?,
            Kind::Flush => self.ring.flush(flight)?,
            Kind::Discard => self.ring.discard(offset, bytes, flight)?,
            Kind::WriteZeroes => self.ring.write_zeroes(offset, bytes, false, flight)?,
        }
        Ok(())
    }

    fn reap(&mut self, in_order: bool, into: &mut Vec<(Flight, Result<(), Errno>)>) -> Result<()> {
        for completion in self.ring.completions() {
            let flight = completion.context;
            let age = self
                .in_flight
                .iter()
                .position(|slot| *slot == flight.slot)
                .with_context(|| format!("{flight:?} is not in flight"))?;
            ensure!(age == 0 || !in_order, "{flight:?} overtook {age} others");
            self.in_flight.remove(age);
            self.free.push(flight.slot);
            let result = match completion.ret {
                0 => Ok(()),
                errno => Err(Errno::from_raw_os_error(-errno)),
            };
            into.push((flight, result));
        }
        Ok(())
    }
}

/// Waits until the backend has notified of a completion on some queue.
fn wait(queues: &[Queue]) -> Result<()> {
    let mut fds: Vec<_> = queues
        .iter()
        .map(|queue| PollFd::new(&*queue.completed, PollFlags::IN))
        .collect();
    let ready = loop {
        match poll(&mut fds, Some(&SILENCE_LIMIT)) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let in_flight: usize = queues.iter().map(|queue| queue.in_flight.len()).sum();
    ensure!(ready > 0, "no notification for {in_flight} requests");
    // Not before poll says so: qemu-storage-daemon makes them non-blocking.
    for (fd, queue) in fds.iter().zip(queues) {
        if !fd.revents().is_empty() {
            queue.completed.read()?;
        }
    }
    Ok(())
}

/// The buffers, one for each request that can be in flight: a file, and the addresses the backend knows it by.
#[derive(Debug)]
struct Memory {
    file: File,
    addresses: Vec<u8>,
    slot_bytes: usize,
}

impl Memory {
    fn new(options: &Options) -> Result<Self> {
        let slot_bytes = options.request_bytes + GUARD_BYTES;
        let slots = options.queues * options.depth;
        let file: File = rustix::fs::memfd_create("buffers", MemfdFlags::CLOEXEC)?.into();
        let memory = Self {
            file,
            addresses: vec![0; slots * slot_bytes],
            slot_bytes,
        };
        for slot in 0..slots {
            memory.poison(slot)?;
        }
        Ok(memory)
    }

    fn buffer(&mut self, slot: usize, bytes: usize) -> Result<&mut [u8]> {
        ensure!(
            bytes + GUARD_BYTES <= self.slot_bytes,
            "longer than Options::request_bytes"
        );
        let start = slot * self.slot_bytes;
        Ok(&mut self.addresses[start..start + bytes])
    }

    fn take(&self, slot: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; self.slot_bytes];
        let start = slot * self.slot_bytes;
        self.file.read_exact_at(&mut bytes, start as u64)?;
        self.poison(slot)?;
        Ok(bytes)
    }

    fn poison(&self, slot: usize) -> Result<()> {
        let start = slot * self.slot_bytes;
        let poison = vec![POISON; self.slot_bytes];
        Ok(self.file.write_all_at(&poison, start as u64)?)
    }
}
