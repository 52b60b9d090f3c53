//! Reads of stored bytes that wait for a device, away from the thread that asks for them.
//!
//! A queue has an engine, hands it fetches, and finds them fetched in whatever order they get done. The
//! engine knows layers and bytes, and neither guests nor formats: a buffer of ours goes out and comes back filled, so
//! that nothing writes to guest memory behind anybody's back, however late. Who waits is either the kernel (`uring`) or a
//! thread (`pool`): where io_uring is forbidden, and for files that the kernel itself could only wait for with a thread.
//!
//! Its twin without any of this is [`image::Reader`].

mod pool;
mod uring;

pub use pool::ReadPool;

use std::cell::OnceCell;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use blob::{PageBuffer, ReadError};
use rustix::event::EventfdFlags;

use crate::device::Device;
use uring::UringReads;

/// Stored bytes to be read: as many as the buffer is long.
#[derive(Debug)]
pub(crate) struct Fetch {
    /// What the asker calls it.
    pub(crate) id: usize,
    /// The layer; 0 is the lowest.
    pub(crate) ordinal: usize,
    /// Where in its blob they start, as [`image::Image::stored`] counts.
    pub(crate) offset: u64,
    /// Where they go.
    pub(crate) buffer: PageBuffer,
}

/// A [`Fetch`] that has come to its end.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) id: usize,
    pub(crate) buffer: PageBuffer,
    pub(crate) result: Result<(), ReadError>,
}

/// Who waits for the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Waiter {
    /// The kernel where it can (io_uring), threads where it cannot.
    #[default]
    Kernel,
    /// Threads.
    Threads,
}

/// One queue's way to have bytes fetched.
#[derive(Debug)]
pub(crate) struct Engine {
    lease: Arc<Lease>,
    /// Made when it is first needed: most queues never wait for a disk.
    uring: OnceCell<Option<UringReads>>,
    tell: Sender<Fetched>,
    fetched: Receiver<Fetched>,
    wake: Arc<OwnedFd>,
}

/// Held by an engine and by each of its fetches that is under way.
#[derive(Debug)]
struct Lease {
    device: Arc<Device>,
    abandoned: AtomicBool,
}

impl Engine {
    /// An engine with nothing to do.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor left.
    pub(crate) fn new(device: &Arc<Device>) -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let (tell, fetched) = channel();
        Ok(Self {
            lease: Arc::new(Lease {
                device: Arc::clone(device),
                abandoned: AtomicBool::new(false),
            }),
            uring: match device.limits().waiter {
                Waiter::Kernel => OnceCell::new(),
                Waiter::Threads => OnceCell::from(None),
            },
            tell,
            fetched,
            wake: Arc::new(wake),
        })
    }

    /// Readable once something is fetched.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// To be called when [`Engine::wake_fd`] is readable, before [`Engine::take`].
    pub(crate) fn heed_wake(&self) {
        let mut count = [0; 8];
        let _empty = rustix::io::read(&self.wake, &mut count);
    }

    /// Has the bytes fetched, at the latest when [`Engine::flush`] is called. Returns at once.
    pub(crate) fn submit(&mut self, fetch: Fetch) {
        self.uring
            .get_or_init(|| UringReads::new(self.wake.as_fd()));
        let device = &self.lease.device;
        let left = match self.uring.get_mut() {
            Some(Some(uring)) => uring.submit(device.image(), fetch).err(),
            _ => Some(fetch),
        };
        if let Some(fetch) = left {
            let asker = pool::Asker {
                lease: Arc::clone(&self.lease),
                tell: self.tell.clone(),
                wake: Arc::clone(&self.wake),
            };
            device.read_pool().submit(fetch, asker);
        }
    }

    /// Whether what is submitted before a flush is asked of the disk together, and what is in memory costs little there.
    pub(crate) fn asks_together(&self) -> bool {
        matches!(self.uring.get(), Some(Some(_)))
    }

    /// Has these bytes of the disk brought into the page cache, if there is time for that.
    pub(crate) fn read_ahead(&self, range: Range<u64>) {
        let device = &self.lease.device;
        let range = range.start..range.end.min(device.image().len_bytes());
        if !range.is_empty() {
            device
                .read_pool()
                .read_ahead(range, Arc::clone(&self.lease));
        }
    }

    /// Lets nothing that was submitted wait any longer.
    pub(crate) fn flush(&mut self) {
        if let Some(Some(uring)) = self.uring.get_mut()
            && !uring.flush()
        {
            // Whoever sleeps until something is fetched would sleep for ever.
            let _woken = rustix::io::write(&self.wake, &1_u64.to_le_bytes());
        }
    }

    /// Something that is fetched, if there is anything.
    pub(crate) fn take(&mut self) -> Option<Fetched> {
        let image = self.lease.device.image();
        let uring = self.uring.get_mut().and_then(Option::as_mut);
        uring
            .and_then(|uring| uring.take(image))
            .or_else(|| self.fetched.try_recv().ok())
    }

    /// Nobody waits any more for what is under way. It is counted until it has come back.
    pub(crate) fn abandon(self) {
        self.lease.device.stuck_reads().add();
        self.lease.abandoned.store(true, Ordering::Release);
        let Some(uring) = self
            .uring
            .into_inner()
            .flatten()
            .filter(|uring| !uring.is_idle())
        else {
            return;
        };
        let lease = self.lease;
        // Without the thread, the buffers are leaked, which is what they would be for as long as the disk is silent.
        let _started = thread::Builder::new()
            .name("late-reads".to_owned())
            .spawn(move || {
                uring.wait_for_all();
                drop(lease);
            });
    }
}

impl Lease {
    fn is_abandoned(&self) -> bool {
        self.abandoned.load(Ordering::Acquire)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.is_abandoned() {
            self.device.stuck_reads().remove();
        }
    }
}
