//! All reads of a queue: what is at hand is delivered at once, what is not is fetched, joined with its neighbours, while
//! other requests go on.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blob::PageBuffer;
use slab::Slab;
use vm_memory::GuestAddress;

use crate::device::Device;
use crate::engine::{Engine, Fetch, Fetched};
use crate::guest::GuestMemory;
use crate::limits::{
    MAX_FETCHES, MAX_PIECE_LEN_BYTES, MAX_QUEUE_FETCH_LEN_BYTES, MAX_QUEUED_FETCHES,
};
use crate::queue::{Buffer, Ticket};
use crate::request::chances::Chances;
use crate::request::join::{Joined, Want, join};
use crate::request::read_ahead::ReadAhead;
use crate::request::turns::Turns;
use crate::request::{Ended, ExecuteError, Look, Missing, Performer, Progress, Read, Span};

/// Most bytes of buffers that are kept for the next fetches while nothing is under way.
const MAX_SPARE_LEN_BYTES: usize = MAX_PIECE_LEN_BYTES;

/// A disk that is asked for no more bytes than this at a time has little to do.
const MAX_LITTLE_LEN_BYTES: usize = 256 << 10;

/// Longest read that is left to the engine without a look. A look makes the disk begin with this one read, while what is
/// handed over together is begun together: of longer ones, that gains more than it costs.
const MAX_UNSEEN_LEN_BYTES: u64 = 8 << 10;

/// How long a look takes at most that finds its bytes in the page cache; decoding a large block may take longer, and then
/// a look more or less is nothing.
const QUICK_FIND: Duration = Duration::from_micros(50);

/// How long a disk may take before it is held to be dead for the time being.
const SILENCE: Duration = Duration::from_millis(100);

/// The reads of one queue.
#[derive(Debug)]
pub(crate) struct Reads {
    device: Arc<Device>,
    performer: Performer,
    engine: Engine,
    flights: Slab<Flight>,
    fetches: Slab<Joined>,
    /// Not looked at yet.
    wants: Vec<Want>,
    /// Not asked for yet, oldest first: there was no room.
    queued: VecDeque<Joined>,
    asked_bytes: usize,
    /// When the disk last had nothing to do, or answered.
    last_news: Instant,
    /// The fetch that was asked for while there was no other, and when, unless much has been asked for since.
    lone: Option<(usize, Instant)>,
    chances: Chances,
    ahead: ReadAhead,
    turns: Turns<Flight>,
    /// What is kept from one read to the next.
    missing: Vec<Missing>,
    spare_reads: Vec<Read>,
    spare_buffers: Vec<PageBuffer>,
}

/// A read that waits for the disk.
#[derive(Debug)]
struct Flight {
    ticket: Ticket,
    status_address: Option<GuestAddress>,
    /// Whether it goes on where others have read.
    is_in_row: bool,
    read: Read,
}

impl Reads {
    /// No reads yet.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor left.
    pub(crate) fn new(device: &Arc<Device>) -> io::Result<Self> {
        Ok(Self {
            device: Arc::clone(device),
            performer: Performer::new(Arc::clone(device.image())),
            engine: Engine::new(device)?,
            flights: Slab::new(),
            fetches: Slab::new(),
            wants: Vec::new(),
            queued: VecDeque::new(),
            asked_bytes: 0,
            last_news: Instant::now(),
            lone: None,
            chances: Chances::default(),
            ahead: ReadAhead::default(),
            turns: Turns::default(),
            missing: Vec::new(),
            spare_reads: Vec::new(),
            spare_buffers: Vec::new(),
        })
    }

    /// Readable when [`Reads::reap`] has something to do.
    pub(crate) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.engine.wake_fd()
    }

    /// To be called when [`Reads::wake_fd`] is readable.
    pub(crate) fn heed_wake(&self) {
        self.engine.heed_wake();
    }

    /// Whether any read waits for the disk.
    pub(crate) fn are_waiting(&self) -> bool {
        self.waiting() > 0
    }

    /// How many reads wait for the disk.
    pub(crate) fn waiting(&self) -> usize {
        self.flights.len() + self.turns.held()
    }

    /// Whether so much waits for the disk that nothing should be added.
    pub(crate) fn are_too_many(&self) -> bool {
        self.queued.len() + self.turns.held() >= MAX_QUEUED_FETCHES
    }

    /// Begins a read into the buffers of `writable`. `None` when it waits for the disk.
    pub(crate) fn begin(
        &mut self,
        memory: &GuestMemory,
        ticket: Ticket,
        span: Span,
        status_address: Option<GuestAddress>,
        writable: &mut Vec<Buffer>,
    ) -> Option<Ended> {
        let range = span.range();
        let mut read = self.spare_reads.pop().unwrap_or_default();
        let is_in_row = self.ahead.goes_on(&range);
        if !is_in_row {
            self.turns.end_row(self.device.image());
        }
        let is_in_order = is_in_row && !self.ahead.disk_is_late();
        read.begin(span, writable, is_in_order);
        let mut flight = Flight {
            ticket,
            status_address,
            is_in_row,
            read,
        };
        if is_in_order && self.turns.are_others_first() {
            self.turns.hold(flight);
            self.notice(&range, true);
            return None;
        }
        let is_short = range.end.saturating_sub(range.start) <= MAX_UNSEEN_LEN_BYTES;
        let may_go_unseen = is_short && self.has_company();
        let look = self.look(may_go_unseen);
        let learns = may_go_unseen && look == Look::Everywhere;
        let begun = (learns && self.chances.is_cold()).then(Instant::now);
        self.performer.set_look(look);
        let read = &mut flight.read;
        let progress = self.performer.proceed(memory, read, &mut self.missing);
        if learns {
            // While looks are rare, what came late came from the disk, which was waited for all the same.
            let is_quick = begun.is_none_or(|begun| begun.elapsed() < QUICK_FIND);
            self.chances.learn(progress == Progress::Done && is_quick);
        }
        self.notice(&range, progress == Progress::Waiting);
        self.add(flight, progress)
    }

    /// Takes notice of where the guest reads.
    fn notice(&mut self, range: &Range<u64>, waited: bool) {
        if let Some(ahead) = self.ahead.notice(range, waited) {
            self.engine.read_ahead(ahead);
        }
        let (front, streak_bytes) = self.ahead.streak();
        self.performer.ahead().notice(front, streak_bytes);
    }

    /// Ends a read that is done; one that waits is among those that do.
    fn add(&mut self, flight: Flight, progress: Progress) -> Option<Ended> {
        if progress == Progress::Done {
            return Some(self.end(flight));
        }
        if flight.is_in_row {
            let stored = self.missing.iter().filter_map(|one| one.step.stored());
            let layers = stored.map(|(ordinal, _)| ordinal);
            self.turns.waits(self.device.image(), layers);
        }
        let id = self.flights.insert(flight);
        self.want(id);
        None
    }

    /// Goes on with the reads whose turn has come.
    fn take_turns(&mut self, memory: &GuestMemory, ended: &mut Vec<Ended>, most: usize) {
        while ended.len() < most
            && let Some(mut flight) = self.turns.next(self.ahead.disk_is_late())
        {
            let read = &mut flight.read;
            let progress = self.performer.proceed(memory, read, &mut self.missing);
            ended.extend(self.add(flight, progress));
        }
    }

    /// What the next read is to look for.
    fn look(&mut self, may_go_unseen: bool) -> Look {
        if self.disk_is_silent() {
            Look::Nowhere
        } else if may_go_unseen && !self.chances.are_good() {
            Look::BeforeThreads
        } else {
            Look::Everywhere
        }
    }

    /// Whether what the next read misses is likely to be asked for together with what others miss.
    fn has_company(&self) -> bool {
        !self.flights.is_empty() && self.engine.asks_together()
    }

    /// Whether something has been asked for and nothing has come for a while. Reads that are not to wait for the disk can
    /// come to wait all the same when its own queue is full; a disk that is dead is not touched from this thread.
    fn disk_is_silent(&self) -> bool {
        !self.fetches.is_empty() && self.last_news.elapsed() > SILENCE
    }

    /// Takes out a read that waits no longer.
    fn remove(&mut self, id: usize) -> Flight {
        let flight = self.flights.remove(id);
        if flight.is_in_row {
            self.turns.has_come();
        }
        flight
    }

    fn end(&mut self, mut flight: Flight) -> Ended {
        let (result, delivered_bytes) = flight.read.end();
        if self.spare_reads.len() <= self.flights.len() {
            self.spare_reads.push(flight.read);
        }
        Ended {
            ticket: flight.ticket,
            status_address: flight.status_address,
            result,
            delivered_bytes,
        }
    }

    /// Decodes a little of what will be asked for, if that seems clear and all of it is in memory. `false` when there is
    /// nothing to be decoded now.
    pub(crate) fn decode_ahead(&mut self) -> bool {
        self.fetches.is_empty() && self.performer.ahead().proceed()
    }

    /// Takes over what is missing of the read `flight`.
    fn want(&mut self, flight: usize) {
        let wants = self.missing.drain(..).filter_map(|missing| {
            let (ordinal, stored) = missing.step.stored()?;
            Some(Want {
                flight,
                missing,
                ordinal,
                stored,
                alone: false,
            })
        });
        self.wants.extend(wants);
    }

    /// Has fetched what is missing, as far as the limits allow.
    pub(crate) fn submit(&mut self) {
        while self.has_room()
            && let Some(fetch) = self.queued.pop_front()
        {
            self.fetch(fetch);
        }
        if !self.wants.is_empty() {
            self.submit_wants();
        }
        self.engine.flush();
    }

    fn submit_wants(&mut self) {
        let mut apart = Vec::new();
        for want in self.wants.drain(..) {
            let fetches = self.fetches.iter_mut().map(|(_, fetch)| fetch);
            let covers = |fetch: &&mut Joined| fetch.covers(&want);
            match fetches.chain(&mut self.queued).find(covers) {
                Some(fetch) => fetch.wants.push(want),
                None => apart.push(want),
            }
        }
        for fetch in join(apart) {
            if self.has_room() {
                self.fetch(fetch);
            } else {
                self.queued.push_back(fetch);
            }
        }
    }

    fn has_room(&self) -> bool {
        // One read is always under way, whatever the others do: when it has come, there is a next look.
        self.fetches.is_empty()
            || (self.fetches.len() < MAX_FETCHES
                && self.asked_bytes < MAX_QUEUE_FETCH_LEN_BYTES
                && self.device.fetch_budget().has_room())
    }

    fn fetch(&mut self, joined: Joined) {
        let len = usize::try_from(joined.len_bytes()).unwrap_or(usize::MAX);
        let mut buffer = self.spare_buffers.pop().unwrap_or_default();
        buffer.resized(len);
        self.asked_bytes += len;
        self.device.fetch_budget().take(len);
        let is_alone = self.fetches.is_empty();
        let (ordinal, offset) = (joined.ordinal, joined.stored.start);
        let id = self.fetches.insert(joined);
        if is_alone {
            self.last_news = Instant::now();
            self.lone = Some((id, self.last_news));
        }
        if self.asked_bytes > MAX_LITTLE_LEN_BYTES {
            self.lone = None;
        }
        self.engine.submit(Fetch {
            id,
            ordinal,
            offset,
            buffer,
        });
    }

    /// Goes on with the reads whose bytes have come, and adds those that have ended to `ended`, until these are `most`.
    /// `true` when there may be more of them.
    pub(crate) fn reap(
        &mut self,
        memory: &GuestMemory,
        ended: &mut Vec<Ended>,
        most: usize,
    ) -> bool {
        if self.fetches.is_empty() && self.turns.held() == 0 {
            return false;
        }
        let look = self.look(false);
        self.performer.set_look(look);
        while ended.len() < most
            && let Some(Fetched { id, buffer, result }) = self.engine.take()
        {
            let Some(joined) = self.fetches.try_remove(id) else {
                continue;
            };
            self.last_news = Instant::now();
            if let Some((_, asked)) = self.lone.take_if(|(lone, _)| *lone == id) {
                self.ahead.disk_took(self.last_news - asked);
            }
            self.asked_bytes -= buffer.len();
            self.device.fetch_budget().give_back(buffer.len());
            match result {
                // One of them may be to blame, and the others are not to suffer for it.
                Err(_) if !joined.is_for_one() => {
                    let alone = |want| Want {
                        alone: true,
                        ..want
                    };
                    self.wants.extend(joined.wants.into_iter().map(alone));
                }
                result => self.arrived(memory, joined, &buffer, result, ended),
            }
            self.keep(buffer);
        }
        self.take_turns(memory, ended, most);
        self.submit();
        ended.len() >= most
    }

    fn arrived(
        &mut self,
        memory: &GuestMemory,
        joined: Joined,
        buffer: &[u8],
        result: Result<(), blob::ReadError>,
        ended: &mut Vec<Ended>,
    ) {
        let mut error = result.err();
        for want in joined.wants {
            // After an error, no part of the buffer is used: all of it is for the one read that fails.
            let stored = match error.take() {
                Some(error) => Err(error),
                None => Ok(part_of(&joined.stored, buffer, &want.stored)),
            };
            let Some(flight) = self.flights.get_mut(want.flight) else {
                continue;
            };
            let read = &mut flight.read;
            self.performer.arrived(memory, read, &want.missing, stored);
            match self.performer.proceed(memory, read, &mut self.missing) {
                Progress::Waiting => self.want(want.flight),
                Progress::Done => {
                    let flight = self.remove(want.flight);
                    let end = self.end(flight);
                    ended.push(end);
                }
            }
        }
    }

    fn keep(&mut self, buffer: PageBuffer) {
        self.spare_buffers.push(buffer);
        if !self.fetches.is_empty() {
            return;
        }
        let mut kept_bytes = 0;
        self.spare_buffers.retain(|buffer| {
            kept_bytes += buffer.capacity_bytes();
            kept_bytes <= MAX_SPARE_LEN_BYTES
        });
    }

    /// Nobody waits any more for this read: it fails, and whatever comes for it goes nowhere.
    pub(crate) fn give_up(&mut self, ticket: Ticket) -> Option<Ended> {
        let is_it = |flight: &Flight| flight.ticket == ticket;
        let mut flights = self.flights.iter();
        let flight = match flights.find(|(_, flight)| is_it(flight)) {
            Some((id, _)) => self.remove(id),
            None => self.turns.take(is_it)?,
        };
        let ended = self.end(flight);
        Some(Ended {
            result: Err(ExecuteError::TooLate),
            ..ended
        })
    }

    /// Leaves to themselves the reads that wait. Whenever their bytes come, they go nowhere.
    pub(crate) fn abandon(mut self) {
        self.turns.end_row(self.device.image());
        self.device.fetch_budget().give_back(self.asked_bytes);
        if !self.fetches.is_empty() {
            self.engine.abandon();
        }
    }
}

/// The bytes `part` out of those of `whole`, which are in `buffer`. None if they are not there.
fn part_of<'b>(whole: &Range<u64>, buffer: &'b [u8], part: &Range<u64>) -> &'b [u8] {
    let skip = usize::try_from(part.start.saturating_sub(whole.start)).unwrap_or(usize::MAX);
    let len = usize::try_from(part.end.saturating_sub(part.start)).unwrap_or(usize::MAX);
    buffer
        .get(skip..)
        .and_then(|from| from.get(..len))
        .unwrap_or_default()
}
