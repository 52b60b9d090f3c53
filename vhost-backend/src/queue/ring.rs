//! The rules of a split ring: what is taken, what is given back, who is told (virtio 1.2, 2.7).
//!
//! Requests are taken in the order of the available ring and given back in batches: the used index moves once for each.
//! [`SplitRing::take`] and [`SplitRing::publish`] keep the map of requests in flight, if the front-end keeps one, in the
//! order that lets a successor know at every moment which requests it has to serve.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use vhost_user_backend::{VringMutex, VringT};
use virtio_queue::QueueT;

use crate::guest::{DirtyLog, GuestMemory, InflightQueue};
use crate::killpoint::{self, Point};
use crate::queue::Table;
use crate::queue::layout::{Layout, used_len_bytes};
use crate::system::Alarm;

/// A ring together with the guest memory it lies in.
pub type Vring = VringMutex<Arc<GuestMemory>>;

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

/// Names a request between its being taken and its being given back.
pub type Ticket = u64;

/// A request that was taken and not given back yet.
#[derive(Debug)]
struct Taken {
    ticket: Ticket,
    head: u16,
    /// Whether it came from the available ring, and not from a predecessor.
    from_avail: bool,
    /// Once it is done: bytes written into its buffers.
    used_len_bytes: Option<u32>,
}

/// A ring that is being served, and the memory it lies in.
pub struct SplitRing {
    vring: Vring,
    memory: Arc<GuestMemory>,
    alarm: Arc<Alarm>,
    inflight: Option<InflightQueue>,
    used_log: Option<UsedLog>,
    order: Order,
    /// Where its parts lie, and how long they are. The driver cannot change it while the ring runs.
    layout: Layout,
    next_avail: u16,
    /// The available index as it was last read.
    available: u16,
    next_used: u16,
    /// The used index when the driver was last considered for an interrupt.
    considered_used: u16,
    /// Requests that a predecessor had taken: they come first.
    left_over: VecDeque<u16>,
    /// In the order they were taken.
    taken: VecDeque<Taken>,
    next_ticket: Ticket,
    /// The youngest request that was given back.
    youngest_given_back: Option<Ticket>,
}

/// In which order requests are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they were taken. Without a map of requests in flight the used index is all that a successor has: it must
    /// say exactly which requests are answered.
    AsTaken,
    /// As they get done.
    AsDone,
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
        order: Order,
    ) -> Self {
        let next_avail = vring.get_ref().get_queue().next_avail();
        Self {
            vring,
            memory,
            alarm,
            inflight,
            used_log,
            order,
            layout: Layout::default(),
            next_avail,
            available: next_avail,
            next_used: 0,
            considered_used: 0,
            left_over: VecDeque::new(),
            taken: VecDeque::new(),
            next_ticket: 0,
            youngest_given_back: None,
        }
    }

    /// The memory the ring lies in, and its buffers.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// Access to the ring as the ring crates see it. The lock is the crate's; only the thread that has the ring
    /// takes it, and not for every request.
    pub(crate) fn vring(&self) -> &Vring {
        &self.vring
    }

    /// Finds out where to go on and interrupts the driver once.
    ///
    /// # Errors
    ///
    /// When the ring is not in guest memory.
    pub fn begin(&mut self) -> Result<(), RingError> {
        let vring = self.vring.get_ref();
        let queue = vring.get_queue();
        if !queue.is_valid(&*self.memory) {
            return Err(RingError::OutsideMemory);
        }
        self.layout = Layout::of(queue);
        // Used entries may be left from an earlier run of this ring; the index in memory is the truth.
        let used = queue.used_idx(&*self.memory, Ordering::Relaxed)?.0;
        drop(vring);
        (self.next_used, self.considered_used) = (used, used);
        let left_over = self.inflight.as_mut().map(|map| map.recover(used));
        self.left_over = left_over.unwrap_or_default().into();
        // There are at most as many as the ring has entries.
        let taken = u16::try_from(self.left_over.len()).unwrap_or(u16::MAX);
        self.next_avail = resume_at(self.next_avail, self.layout.size(), used, taken);
        self.available = self.next_avail;
        // A predecessor may have been killed between giving a request back and saying so; an interrupt too many is
        // legal, one too few leaves the driver waiting for ever.
        let _signalled = self.vring.signal_used_queue();
        Ok(())
    }

    /// The next entry of the available ring that was not served.
    #[must_use]
    pub fn position(&self) -> u16 {
        self.next_avail
    }

    /// Whether as many requests were taken and not given back as there are descriptors to begin one with. An honest
    /// driver has no more to ask for.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.taken.len() >= usize::from(self.layout.size())
    }

    /// Some of the requests that were taken will not be served by this thread: whoever starts the ring again takes
    /// them anew, as long as nothing younger was given back. The others stay in the map of requests in flight, where
    /// they are found again; where guest memory is about to move to another machine, which has no such map, they are
    /// returned, to be failed.
    pub fn put_back(&mut self) -> Vec<Ticket> {
        while let Some(last) = self.taken.pop_back_if(|last| {
            last.from_avail
                && self
                    .youngest_given_back
                    .is_none_or(|given| given < last.ticket)
        }) {
            if let Some(inflight) = &self.inflight {
                inflight.put_back(last.head);
            }
            self.next_avail = self.next_avail.wrapping_sub(1);
        }
        let migrating = self.used_log.is_some();
        let lost = self
            .taken
            .iter()
            .filter(|taken| migrating && taken.from_avail);
        lost.map(|taken| taken.ticket).collect()
    }

    /// Whether requests of a predecessor are still to be served.
    pub(crate) fn has_left_over(&self) -> bool {
        !self.left_over.is_empty()
    }

    /// Whether there is something to take, as far as a glance tells.
    pub(crate) fn has_more(&self) -> bool {
        !self.left_over.is_empty()
            || self.available != self.next_avail
            || self
                .layout
                .avail_index(&self.memory)
                .is_ok_and(|index| index != self.next_avail)
    }

    /// How many requests wait to be taken, as far as a glance tells.
    pub(crate) fn waiting(&self) -> u16 {
        let available = self.layout.avail_index(&self.memory);
        let waiting = available.map(|index| index.wrapping_sub(self.next_avail));
        waiting.unwrap_or_default().min(self.layout.size())
    }

    /// The next request, if there is one: how to call it, and its head.
    ///
    /// # Errors
    ///
    /// When the driver broke the ring.
    pub fn take(&mut self) -> Result<Option<(Ticket, u16)>, RingError> {
        if let Some(head) = self.left_over.pop_front() {
            return Ok(Some((self.note(head, false), head)));
        }
        let Some(head) = self.pop()? else {
            return Ok(None);
        };
        killpoint::reached(Point::AfterPop);
        if let Some(inflight) = &mut self.inflight {
            inflight.take(head);
        }
        killpoint::reached(Point::AfterMark);
        Ok(Some((self.note(head, true), head)))
    }

    fn note(&mut self, head: u16, from_avail: bool) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.taken.push_back(Taken {
            ticket,
            head,
            from_avail,
            used_len_bytes: None,
        });
        ticket
    }

    fn pop(&mut self) -> Result<Option<u16>, RingError> {
        let (position, size) = (self.next_avail, self.layout.size());
        if self.available == position {
            let available = self.layout.avail_index(&self.memory)?;
            if available.wrapping_sub(position) > size {
                return Err(RingError::Index {
                    position,
                    available,
                    size,
                });
            }
            self.available = available;
            if available == position {
                return Ok(None);
            }
        }
        let head = self.layout.avail_entry(&self.memory, position)?;
        if head >= size {
            return Err(RingError::Head {
                position,
                head,
                size,
            });
        }
        self.next_avail = position.wrapping_add(1);
        Ok(Some(head))
    }

    /// The request is done: `used_len_bytes` were written into its buffers. It is given back by the next
    /// [`SplitRing::publish`] that may.
    pub fn done(&mut self, ticket: Ticket, used_len_bytes: u32) {
        let found = match self.taken.back_mut() {
            // A request that is served at once is the youngest.
            Some(last) if last.ticket == ticket => Some(last),
            _ => {
                let found = self
                    .taken
                    .binary_search_by_key(&ticket, |taken| taken.ticket);
                found.ok().and_then(|position| self.taken.get_mut(position))
            }
        };
        if let Some(taken) = found {
            taken.used_len_bytes = Some(used_len_bytes);
        }
    }

    /// Gives back what is done, all at once. A driver that looks by itself sees it; others have to be [told](Self::tell).
    ///
    /// # Errors
    ///
    /// When the ring cannot be written, or guest memory is gone.
    pub fn publish(&mut self) -> Result<(), RingError> {
        let batch = match self.order {
            Order::AsTaken => {
                let done = |taken: &Taken| taken.used_len_bytes.is_some();
                self.taken.iter().take_while(|taken| done(taken)).count()
            }
            Order::AsDone => self.move_done_to_the_front(),
        };
        if batch == 0 {
            return Ok(());
        }
        // Zeroes that nobody wrote must not become a request, let alone an answered one.
        if self.alarm.is_raised() {
            return Err(RingError::MemoryLost);
        }
        let mut next_used = self.next_used;
        for taken in self.taken.iter().take(batch) {
            if let Some(inflight) = &self.inflight {
                inflight.announce(taken.head);
            }
            let len_bytes = taken.used_len_bytes.unwrap_or_default();
            self.layout
                .put_used(&self.memory, next_used, taken.head, len_bytes)?;
            next_used = next_used.wrapping_add(1);
            killpoint::reached(Point::AfterUsedElement);
        }
        // Before, for whoever sees the index; after, for whoever copied the page in between.
        self.log_used();
        self.layout.set_used_index(&self.memory, next_used)?;
        self.next_used = next_used;
        killpoint::reached(Point::AfterUsedIndex);
        for taken in self.taken.drain(..batch) {
            if let Some(inflight) = &self.inflight {
                inflight.settle(taken.head);
            }
            let youngest = self.youngest_given_back.get_or_insert(taken.ticket);
            *youngest = taken.ticket.max(*youngest);
        }
        if let Some(inflight) = &self.inflight {
            inflight.settled(next_used);
        }
        killpoint::reached(Point::AfterClear);
        self.log_used();
        Ok(())
    }

    /// Brings what is done before what is not, and returns how many that are. Both keep their order among themselves.
    fn move_done_to_the_front(&mut self) -> usize {
        let is_done = |taken: &Taken| taken.used_len_bytes.is_some();
        let done = self.taken.iter().filter(|taken| is_done(taken)).count();
        let leading = self.taken.iter().take_while(|taken| is_done(taken)).count();
        if leading < done {
            let key = |taken: &Taken| (taken.used_len_bytes.is_none(), taken.ticket);
            self.taken.make_contiguous().sort_unstable_by_key(key);
        }
        done
    }

    /// Interrupts the driver if anything was given back since the last time, and it wants to be (virtio 1.2, 2.7.7).
    ///
    /// # Errors
    ///
    /// When the ring cannot be read.
    pub fn tell(&mut self) -> Result<(), RingError> {
        if self.considered_used == self.next_used {
            return Ok(());
        }
        // The driver must see the index before we see what it wants: it writes one and reads the other.
        fence(Ordering::SeqCst);
        let (old, new) = (self.considered_used, self.next_used);
        let wanted = self.layout.wants_interrupt(&self.memory, old, new)?;
        self.considered_used = new;
        if wanted {
            // A full counter or pipe means that the driver has not taken the last one yet: it will look anyway.
            let _signalled = self.vring.signal_used_queue();
        }
        Ok(())
    }

    /// Asks the driver not to kick while requests are being taken anyway.
    ///
    /// # Errors
    ///
    /// When the ring cannot be written.
    pub fn disable_notification(&mut self) -> Result<(), RingError> {
        if self.layout.refuse_kicks(&self.memory)? {
            self.log_used();
        }
        Ok(())
    }

    /// Asks the driver to kick for the next request; `true` if one has arrived meanwhile.
    ///
    /// # Errors
    ///
    /// When the ring cannot be read or written.
    pub fn enable_notification(&mut self) -> Result<bool, RingError> {
        self.layout.ask_for_kicks(&self.memory, self.next_avail)?;
        self.log_used();
        // The driver must see what is asked for before we look for the last time: it writes one and reads the other.
        fence(Ordering::SeqCst);
        Ok(self.layout.avail_index(&self.memory)? != self.next_avail)
    }

    /// Logs all of the used ring: which of its bytes were written is not worth knowing for the length of a
    /// migration.
    fn log_used(&self) {
        let Some(UsedLog { log, addresses }) = &self.used_log else {
            return;
        };
        let len_bytes = used_len_bytes(self.layout.size());
        addresses
            .iter()
            .for_each(|address| log.mark(*address, len_bytes));
    }

    /// The ring's own table of descriptors.
    #[must_use]
    pub fn table(&self) -> Table {
        self.layout.table()
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

/// Where to go on in the available ring, when `used` requests have been given back and `taken` more were taken by a
/// predecessor that entered them in the map of requests in flight.
///
/// The used index in guest memory says exactly what has been answered, whatever a front-end states after a crash:
/// QEMU states the used index, cloud-hypervisor the available one, which would lose what lies between. Entries
/// between the two that no map speaks of were taken by a predecessor that was killed before it could say so, and
/// nobody else will ever answer them. A statement that cannot have come about like this is left as it is.
fn resume_at(stated: u16, size: u16, used: u16, taken: u16) -> u16 {
    if stated.wrapping_sub(used) <= size {
        used.wrapping_add(taken)
    } else {
        stated
    }
}
