//! The rules of a split ring: what is taken, what is given back, who is told (virtio 1.2, 2.7).
//!
//! Requests are taken in the order of the available ring and given back one by one. [`SplitRing::take`] and
//! [`SplitRing::give_back`] keep the map of requests in flight, if the front-end keeps one, in the order that lets a
//! successor know at every moment which requests it has to serve.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use vhost_user_backend::{VringMutex, VringState, VringT};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use crate::guest::{DirtyLog, GuestMemory, InflightQueue};
use crate::killpoint::{self, Point};
use crate::queue::Table;
use crate::system::Alarm;

/// A ring together with the guest memory it lies in.
pub type Vring = VringMutex<Arc<GuestMemory>>;

/// Set in the available ring's flags by a driver that wants no interrupts (virtio 1.2, 2.7.6).
const AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Where the entries of the available ring begin, behind its flags and index, in bytes.
const AVAIL_ENTRIES_OFFSET: u64 = 4;
/// Flags, index and the available event of a used ring, in bytes.
const USED_BESIDES_ENTRIES_LEN_BYTES: u64 = 6;
const USED_ENTRIES_OFFSET: u64 = 4;
const USED_ENTRY_LEN_BYTES: u64 = 8;

/// Why a ring cannot be served any more. Only a reset mends it.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// Part of it is nowhere.
    #[error("the ring is not wholly in guest memory")]
    OutsideMemory,
    /// The ring crate could not read or write it.
    #[error("ring access")]
    Access(#[from] virtio_queue::Error),
    /// The driver offers more than the ring holds.
    #[error("available index {available}, expected at most {size} more than {position}")]
    Index {
        /// Next entry to take.
        position: u16,
        /// What the driver says.
        available: u16,
        /// Size of the ring.
        size: u16,
    },
    /// An entry is nowhere.
    #[error("available entry {position} cannot be read")]
    Entry {
        /// Which.
        position: u16,
    },
    /// An entry names no descriptor.
    #[error("available entry {position} names descriptor {head}, the ring has {size}")]
    Head {
        /// Which entry.
        position: u16,
        /// What it names.
        head: u16,
        /// Size of the ring.
        size: u16,
    },
    /// The file of guest memory was cut short: what is read is not what the driver wrote.
    #[error("guest memory is gone")]
    MemoryLost,
}

/// Where the used ring is logged, whole and whenever it changes.
///
/// Writes to guest memory are logged after they are made, each where it lies. That is right for the migration, which
/// looks again when the ring has stopped, but a driver may see the used index before its bit is set, and a front-end
/// may want the ring logged elsewhere.
#[derive(Debug)]
pub struct UsedLog {
    /// The log.
    pub log: Arc<DirtyLog>,
    /// What the log calls the first byte of the used ring: its place in guest memory, and what SET_VRING_ADDR says
    /// with VHOST_VRING_F_LOG.
    pub addresses: Vec<u64>,
}

/// A ring that is being served, and the memory it lies in.
pub struct SplitRing {
    vring: Vring,
    memory: Arc<GuestMemory>,
    alarm: Arc<Alarm>,
    inflight: Option<InflightQueue>,
    used_log: Option<UsedLog>,
    /// Requests that a predecessor had taken: they come first.
    left_over: VecDeque<u16>,
    /// The request that is being served, if it came from the available ring.
    at_hand: Option<u16>,
}

impl std::fmt::Debug for SplitRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitRing").finish_non_exhaustive()
    }
}

impl SplitRing {
    /// A ring as the session describes it.
    #[must_use]
    pub fn new(
        vring: Vring,
        memory: Arc<GuestMemory>,
        alarm: Arc<Alarm>,
        inflight: Option<InflightQueue>,
        used_log: Option<UsedLog>,
    ) -> Self {
        Self {
            vring,
            memory,
            alarm,
            inflight,
            used_log,
            left_over: VecDeque::new(),
            at_hand: None,
        }
    }

    /// The memory the ring lies in, and its buffers.
    #[must_use]
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Access to the ring as the ring crates see it. The lock is the crate's; only the thread that has the ring
    /// takes it.
    pub(crate) fn vring(&self) -> &Vring {
        &self.vring
    }

    /// Finds out where to go on and interrupts the driver once.
    ///
    /// # Errors
    ///
    /// When the ring is not in guest memory.
    pub fn begin(&mut self) -> Result<(), RingError> {
        let mut vring = self.vring.get_mut();
        if !vring.get_queue().is_valid(&*self.memory) {
            return Err(RingError::OutsideMemory);
        }
        // Used entries may be left from an earlier run of this ring; the index in memory is the truth.
        let used = vring
            .get_queue()
            .used_idx(&*self.memory, Ordering::Relaxed)?;
        vring.get_queue_mut().set_next_used(used.0);
        let left_over = self.inflight.as_mut().map(|map| map.recover(used.0));
        self.left_over = left_over.unwrap_or_default().into();
        // There are at most as many as the ring has entries.
        let taken = u16::try_from(self.left_over.len()).unwrap_or(u16::MAX);
        let position = resume_at(vring.get_queue(), used.0, taken);
        vring.get_queue_mut().set_next_avail(position);
        // A predecessor may have been killed between giving a request back and saying so; an interrupt too many is
        // legal, one too few leaves the driver waiting for ever.
        let _signalled = vring.signal_used_queue();
        Ok(())
    }

    /// The next entry of the available ring that was not served.
    #[must_use]
    pub fn position(&self) -> u16 {
        self.vring.get_ref().get_queue().next_avail()
    }

    /// The request at hand will not be served by this thread: whoever starts the ring again takes it anew.
    pub fn put_back(&mut self) {
        // One that a predecessor had taken stays in the map of requests in flight, and is found there again.
        let Some(head) = self.at_hand.take() else {
            return;
        };
        if let Some(inflight) = &self.inflight {
            inflight.put_back(head);
        }
        let position = self.position().wrapping_sub(1);
        self.vring.set_queue_next_avail(position);
    }

    /// Whether requests of a predecessor are still to be served.
    pub(crate) fn has_left_over(&self) -> bool {
        !self.left_over.is_empty()
    }

    /// The head of the next request, if there is one.
    ///
    /// # Errors
    ///
    /// When the driver broke the ring.
    pub fn take(&mut self) -> Result<Option<u16>, RingError> {
        if let Some(head) = self.left_over.pop_front() {
            return Ok(Some(head));
        }
        let Some(head) = self.pop()? else {
            return Ok(None);
        };
        killpoint::reached(Point::AfterPop);
        self.at_hand = Some(head);
        if let Some(inflight) = &mut self.inflight {
            inflight.take(head);
        }
        killpoint::reached(Point::AfterMark);
        Ok(Some(head))
    }

    /// The ring crate's own iterator takes an unreadable entry for an empty ring, and would be asked again for ever.
    fn pop(&self) -> Result<Option<u16>, RingError> {
        let memory = &*self.memory;
        let mut vring = self.vring.get_mut();
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

    /// Gives the request at `head` back: `len_bytes` were written into its buffers. Interrupts the driver if it
    /// wants to be.
    ///
    /// # Errors
    ///
    /// When the ring cannot be written, or guest memory is gone.
    pub fn give_back(&mut self, head: u16, len_bytes: u32) -> Result<(), RingError> {
        // Zeroes that nobody wrote must not become a request, let alone an answered one.
        if self.alarm.is_raised() {
            return Err(RingError::MemoryLost);
        }
        let mut vring = self.vring.get_mut();
        let place = used_place(&vring);
        if killpoint::is_due(Point::AfterUsedElement) {
            let entry = u64::from(head) | u64::from(len_bytes) << 32;
            let _written = self.memory.write_obj(entry.to_le(), place);
            killpoint::die();
        }
        if let Some(inflight) = &self.inflight {
            inflight.announce(head);
        }
        // Before, for whoever sees the index; after, for whoever copied the page in between.
        self.log_used(&vring);
        vring
            .get_queue_mut()
            .add_used(&*self.memory, head, len_bytes)?;
        killpoint::reached(Point::AfterUsedIndex);
        if let Some(inflight) = &self.inflight {
            inflight.settle(head, vring.get_queue().next_used());
        }
        self.at_hand = None;
        killpoint::reached(Point::AfterClear);
        self.log_used(&vring);
        self.notify(&mut vring)
    }

    /// Interrupts the driver if it wants to be.
    fn notify(&self, vring: &mut VringState<Arc<GuestMemory>>) -> Result<(), RingError> {
        let wanted = vring.get_queue_mut().needs_notification(&*self.memory)?
            && (vring.get_queue().event_idx_enabled()
                || !interrupts_suppressed(vring, &self.memory));
        if wanted {
            // A full counter or pipe means that the driver has not taken the last one yet: it will look anyway.
            let _signalled = vring.signal_used_queue();
        }
        Ok(())
    }

    /// Asks the driver not to kick while requests are being taken anyway.
    ///
    /// # Errors
    ///
    /// When the ring cannot be written.
    pub fn disable_notification(&mut self) -> Result<(), RingError> {
        let mut vring = self.vring.get_mut();
        vring.get_queue_mut().disable_notification(&*self.memory)?;
        self.log_used(&vring);
        Ok(())
    }

    /// Asks the driver to kick for the next request; `true` if one has arrived meanwhile.
    ///
    /// # Errors
    ///
    /// When the ring cannot be read or written.
    pub fn enable_notification(&mut self) -> Result<bool, RingError> {
        let mut vring = self.vring.get_mut();
        let more = vring.get_queue_mut().enable_notification(&*self.memory)?;
        self.log_used(&vring);
        Ok(more)
    }

    /// Logs all of the used ring: which of its bytes were written is not worth knowing for the length of a
    /// migration.
    fn log_used(&self, vring: &VringState<Arc<GuestMemory>>) {
        let Some(UsedLog { log, addresses }) = &self.used_log else {
            return;
        };
        let len_bytes = used_len_bytes(vring.get_queue().size());
        addresses
            .iter()
            .for_each(|address| log.mark(*address, len_bytes));
    }

    /// The ring's own table of descriptors.
    #[must_use]
    pub fn table(&self) -> Table {
        let vring = self.vring.get_ref();
        let queue = vring.get_queue();
        Table {
            address: GuestAddress(queue.desc_table()),
            len: u32::from(queue.size()),
        }
    }

    /// The error, or that guest memory is gone: then nothing that was read means anything.
    pub(crate) fn cause(&self, error: RingError) -> RingError {
        if self.alarm.is_raised() {
            RingError::MemoryLost
        } else {
            error
        }
    }
}

/// Length of the used ring of a queue of `size` entries.
#[must_use]
pub fn used_len_bytes(size: u16) -> u64 {
    USED_BESIDES_ENTRIES_LEN_BYTES + USED_ENTRY_LEN_BYTES * u64::from(size)
}

/// Where the next used entry goes.
fn used_place(vring: &VringState<Arc<GuestMemory>>) -> GuestAddress {
    let queue = vring.get_queue();
    let slot = u64::from(queue.next_used() % queue.size());
    GuestAddress(
        queue
            .used_ring()
            .saturating_add(USED_ENTRIES_OFFSET + USED_ENTRY_LEN_BYTES * slot),
    )
}

/// Where to go on in the available ring, when `used` requests have been given back and `taken` more were taken by a
/// predecessor that entered them in the map of requests in flight.
///
/// The used index in guest memory says exactly what has been answered, whatever a front-end states after a crash:
/// QEMU states the used index, cloud-hypervisor the available one, which would lose what lies between. Entries
/// between the two that no map speaks of were taken by a predecessor that was killed before it could say so, and
/// nobody else will ever answer them. A statement that cannot have come about like this is left as it is.
fn resume_at(queue: &virtio_queue::Queue, used: u16, taken: u16) -> u16 {
    let stated = queue.next_avail();
    if stated.wrapping_sub(used) <= queue.size() {
        used.wrapping_add(taken)
    } else {
        stated
    }
}

/// The ring crate knows only the index form of suppression.
fn interrupts_suppressed(vring: &VringState<Arc<GuestMemory>>, memory: &GuestMemory) -> bool {
    let flags: Result<u16, _> = memory.load(
        GuestAddress(vring.get_queue().avail_ring()),
        Ordering::Relaxed,
    );
    flags.is_ok_and(|flags| u16::from_le(flags) & AVAIL_F_NO_INTERRUPT != 0)
}
