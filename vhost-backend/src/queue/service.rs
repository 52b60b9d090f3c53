//! The thread of one started queue, from the inside: kick, take, parse, read, publish, wait.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use vhost_user_backend::VringT;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use crate::guest::GuestMemory;
use crate::killpoint::{self, Point};
use crate::limits::{
    FETCHED_BATCH, FETCHED_BATCH_LEN_BYTES, MAX_GATHERED, MAX_UNASKED, SHOWN_LEN_BYTES,
    SHOWN_TOGETHER, STOP_DEADLINE,
};
use crate::queue::batch::Batch;
use crate::queue::poll::Poll;
use crate::queue::worker::{QueueSetup, Stop, Stopped};
use crate::queue::{RingError, SplitRing, Ticket};
use crate::request::{Asked, Ended, Gathered, Outcome, Plan, Reading, Reads, Room, Verdict};

/// What can wake the thread.
pub(crate) const KICK: u64 = 0;
pub(crate) const STOP: u64 = 1;
pub(crate) const FETCHED: u64 = 2;

/// Why the thread ends.
#[derive(Debug)]
enum End {
    /// The session asked for it.
    Stopped,
    /// The ring cannot be served any more.
    Broken(RingError),
}

impl From<RingError> for End {
    fn from(error: RingError) -> Self {
        Self::Broken(error)
    }
}

/// The thread's side of a worker.
pub(crate) struct Service {
    setup: Setup,
    ring: SplitRing,
    epoll: Epoll,
    /// Whether each kick is an event of its own, and need not be read.
    kick_counts: bool,
    stop: Arc<Stop>,
    reads: Reads,
    gathered: Gathered,
    poll: Poll,
    batch: Batch,
    /// Kept from one look to the next.
    ended: Vec<Ended>,
    /// Bytes delivered that the driver has not been told of.
    untold_bytes: u64,
    /// Requests that were begun since what they miss was asked for.
    unasked: usize,
}

/// [`QueueSetup`] without the ring.
struct Setup {
    index: u16,
    indirect: bool,
    device: Arc<crate::device::Device>,
    stats: Arc<crate::stats::QueueStats>,
    log: Arc<crate::rate_limit::RateLimit>,
    error_notifier: Option<Arc<std::fs::File>>,
}

impl Service {
    pub(crate) fn new(
        setup: QueueSetup,
        epoll: Epoll,
        kick_counts: bool,
        stop: Arc<Stop>,
        reads: Reads,
    ) -> Self {
        let poll = Poll::new(setup.device.limits().poll);
        Self {
            ring: setup.ring,
            setup: Setup {
                index: setup.index,
                indirect: setup.indirect,
                device: setup.device,
                stats: setup.stats,
                log: setup.log,
                error_notifier: setup.error_notifier,
            },
            epoll,
            kick_counts,
            stop,
            reads,
            gathered: Gathered::default(),
            poll,
            batch: Batch::default(),
            ended: Vec::new(),
            untold_bytes: 0,
            unasked: 0,
        }
    }

    /// Serves until the session or the driver puts an end to it.
    pub(crate) fn run(mut self) -> Stopped {
        let end = self.serve_until_stopped();
        // Also where the driver broke the ring: what it asked for before is answered.
        let drained = self.drain();
        let end = match (end, drained) {
            (End::Stopped, Err(error)) => error.into(),
            (end, _) => end,
        };
        let broken = match end {
            End::Stopped => false,
            End::Broken(error) => {
                self.report(&self.ring.cause(error));
                true
            }
        };
        let next_avail = self.ring.position();
        self.reads.abandon();
        Stopped { next_avail, broken }
    }

    fn serve_until_stopped(&mut self) -> End {
        if let Err(error) = self.ring.begin() {
            return error.into();
        }
        loop {
            // Before the first wait too: the driver may have kicked while nobody listened.
            if let Err(end) = self.serve() {
                return end;
            }
            self.wait();
        }
    }

    /// Takes requests until the ring is empty and the driver has been told to kick for the next one.
    fn serve(&mut self) -> Result<(), End> {
        loop {
            self.heed_stop()?;
            self.ring.disable_notification()?;
            while self.serve_batch()? {}
            if !self.reads.are_waiting() && (self.look() || self.decode_ahead()) {
                continue;
            }
            // What is under way wakes the thread when it has come, and there is room again.
            if !self.may_take() || !self.ring.enable_notification()? {
                return Ok(());
            }
        }
    }

    /// Decodes what the driver is going to ask for until there is a request; `false` when there is nothing to decode.
    fn decode_ahead(&mut self) -> bool {
        while self.reads.decode_ahead() {
            if self.ring.has_more() || self.stop.is_requested() {
                return true;
            }
        }
        false
    }

    /// Looks at the ring for a while, if that was asked for.
    fn look(&mut self) -> bool {
        let (ring, stop) = (&self.ring, &self.stop);
        self.poll.look(|| ring.has_more() || stop.is_requested())
    }

    /// Takes a few requests and gives back what is done. `false` when there was none to take.
    ///
    /// What is done is shown to a driver that looks by itself long before one that sleeps is told.
    ///
    /// What has to be fetched is asked for when all that waits has been looked at, or much of it: neighbours are fetched
    /// together.
    fn serve_batch(&mut self) -> Result<bool, End> {
        let more = self.reap()?;
        let memory = Arc::clone(self.ring.memory());
        let mut taken = 0;
        let mut most = self.batch.begin(self.waiting().saturating_sub(1));
        while most > 0 {
            // What was taken is performed, whatever comes of taking more.
            let gathered = self.gather(&memory, most.min(MAX_GATHERED));
            let count = self.gathered.len();
            let performed = self.perform_gathered(&memory);
            gathered?;
            performed?;
            taken += count;
            if count == 0 {
                break;
            }
            most = self.batch.more(taken, || self.waiting());
        }
        self.batch.end(taken);
        self.unasked += taken;
        if self.unasked >= MAX_UNASKED || taken == 0 || self.waiting() == 0 {
            self.reads.submit();
            self.unasked = 0;
        }
        self.untold_bytes = 0;
        self.give_back()?;
        Ok(taken > 0 || more)
    }

    /// Takes requests, so many at most.
    fn gather(&mut self, memory: &GuestMemory, most: usize) -> Result<(), End> {
        let reading = Reading {
            memory,
            table: self.ring.table(),
            indirect: self.setup.indirect,
            disk_len_bytes: self.setup.device.image().len_bytes(),
        };
        while self.gathered.len() < most
            && self.gathered.len_bytes() < SHOWN_LEN_BYTES
            && self.may_take()
            && let Some((ticket, head)) = self.next()?
        {
            self.gathered.push(reading, ticket, head);
        }
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.ring.waiting().into()
    }

    /// Performs what was taken. Even when the ring breaks meanwhile, all of it.
    fn perform_gathered(&mut self, memory: &GuestMemory) -> Result<(), RingError> {
        let mut gathered = std::mem::take(&mut self.gathered);
        if gathered.len() > 1 {
            self.setup.device.image().warm(gathered.disk_offsets());
        }
        let mut shown = Ok(());
        for (count, asked) in (1..).zip(gathered.take()) {
            self.perform(memory, asked);
            let enough = count % SHOWN_TOGETHER == 0 || self.untold_bytes >= SHOWN_LEN_BYTES;
            if enough && shown.is_ok() {
                shown = self.ring.publish();
            }
        }
        self.gathered = gathered;
        shown
    }

    /// Whether there is room for another request.
    fn may_take(&self) -> bool {
        !self.reads.are_too_many() && !self.ring.is_exhausted()
    }

    fn next(&mut self) -> Result<Option<(Ticket, u16)>, End> {
        // What a predecessor had taken is under way, so it belongs to what a stop waits for: who takes over on another
        // machine has no map that speaks of it.
        if !self.ring.has_left_over() && self.stop.is_requested() {
            return Err(End::Stopped);
        }
        Ok(self.ring.take()?)
    }

    fn heed_stop(&self) -> Result<(), End> {
        if self.stop.is_requested() && !self.ring.has_left_over() {
            Err(End::Stopped)
        } else {
            Ok(())
        }
    }

    /// Performs a request, as far as that goes without waiting.
    fn perform(&mut self, memory: &GuestMemory, asked: &mut Asked) {
        let mut outcome = Outcome {
            verdict: Verdict::Done,
            status_address: asked.status_address,
            delivered_bytes: 0,
        };
        let writable = &mut asked.chain.writable;
        match std::mem::replace(&mut asked.plan, Ok(Plan::Nothing)) {
            Err(verdict) => outcome.verdict = *verdict,
            Ok(Plan::Nothing) => {}
            Ok(Plan::TellSerial) => {
                let serial = self.setup.device.serial().as_bytes();
                let room = Room {
                    memory,
                    buffers: writable,
                };
                match room.write_some(serial) {
                    Ok(delivered_bytes) => outcome.delivered_bytes = delivered_bytes,
                    Err(error) => outcome.verdict = Verdict::Failed(error),
                }
            }
            Ok(Plan::Read(span)) => {
                let status_address = asked.status_address;
                let ended = self
                    .reads
                    .begin(memory, asked.ticket, span, status_address, writable);
                let Some(ended) = ended else {
                    return;
                };
                outcome = ended.into_outcome();
            }
        }
        self.end(asked.ticket, outcome);
    }

    fn end(&mut self, ticket: Ticket, outcome: Outcome) {
        killpoint::reached(Point::AfterData);
        self.untold_bytes += u64::from(outcome.delivered_bytes);
        let used_len = outcome.finish(self.ring.memory(), &self.setup.stats, &self.setup.log);
        self.ring.done(ticket, used_len);
    }

    /// Goes on with some of what was fetched; `true` when there may be more.
    fn reap(&mut self) -> Result<bool, RingError> {
        let most = (self.reads.waiting() / 2).clamp(SHOWN_TOGETHER, FETCHED_BATCH);
        let mut ended = std::mem::take(&mut self.ended);
        let (mut count, mut len_bytes, mut more) = (0, 0, self.reads.are_waiting());
        let mut shown = Ok(());
        while more && count < most && len_bytes < FETCHED_BATCH_LEN_BYTES {
            let memory = self.ring.memory();
            more = self.reads.reap(memory, &mut ended, SHOWN_TOGETHER);
            count += ended.len();
            for one in ended.drain(..) {
                len_bytes += u64::from(one.delivered_bytes);
                self.end(one.ticket, one.into_outcome());
            }
            shown = shown.and_then(|()| self.ring.publish());
        }
        self.ended = ended;
        shown.map(|()| more)
    }

    /// Waits for what is under way, but not for ever: what the disk does not answer in time is put back.
    fn drain(&mut self) -> Result<(), RingError> {
        let deadline = Instant::now() + STOP_DEADLINE;
        loop {
            let more = self.reap()?;
            self.give_back()?;
            if more {
                continue;
            }
            if !self.reads.are_waiting() {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.wait_for_fetches(left);
        }
        let index = self.setup.index;
        tracing::warn!(
            "queue {index}: a read of the disk does not come back; its request is put back"
        );
        for ticket in self.ring.put_back() {
            if let Some(ended) = self.reads.give_up(ticket) {
                self.end(ticket, ended.into_outcome());
            }
        }
        self.give_back()
    }

    /// Shows the driver what is done, and tells it.
    fn give_back(&mut self) -> Result<(), RingError> {
        self.ring.publish()?;
        self.ring.tell()
    }

    /// Sleeps until something is fetched, but no longer than this.
    fn wait_for_fetches(&self, timeout: Duration) {
        let mut fds = [PollFd::from_borrowed_fd(
            self.reads.wake_fd(),
            PollFlags::IN,
        )];
        // A timeout that cannot be expressed is far beyond what a stop waits.
        let timeout = Timespec::try_from(timeout).unwrap_or_default();
        let _ready = rustix::event::poll(&mut fds, Some(&timeout));
        self.reads.heed_wake();
    }

    /// Sleeps until the driver kicks, something is fetched, or the session stops the queue.
    fn wait(&mut self) {
        let mut events = [EpollEvent::default(); 3];
        self.poll.falls_asleep();
        let Ok(count) = self.epoll.wait(-1, &mut events) else {
            return;
        };
        for event in events.iter().take(count) {
            match event.data() {
                KICK => {
                    self.poll.is_woken();
                    if !self.kick_counts {
                        self.consume_kick(event.event_set());
                    }
                }
                FETCHED => self.reads.heed_wake(),
                _ => {}
            }
        }
    }

    fn consume_kick(&self, events: EventSet) {
        let vring = self.ring.vring().get_ref();
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

    fn report(&self, error: &RingError) {
        let queue = self.setup.index;
        if let Some(suppressed) = self.setup.log.admit() {
            let cause = crate::request::chain_text(error);
            match error {
                RingError::MemoryLost => {
                    tracing::warn!(suppressed, "queue {queue} ends: {cause}");
                }
                _ => tracing::error!(
                    suppressed,
                    "queue {queue}: the driver broke its ring: {cause}; it needs a reset"
                ),
            }
        }
        if let Some(notifier) = &self.setup.error_notifier {
            let _told = rustix::io::write(notifier, &1_u64.to_le_bytes());
        }
    }
}
