//! A read of the disk on its way to the guest: step by step, with whatever is at hand at once, and with what had to be
//! fetched when it is there.

use std::sync::Arc;

use blob::{PageBuffer, ReadAt, ReadError};
use image::{Decoder, Image, Origin, Plan, ReadFailure, Step};

use crate::guest::GuestMemory;
use crate::queue::Buffer;
use crate::request::decode_ahead::DecodeAhead;
use crate::request::room::{Room, Writer};
use crate::request::{ExecuteError, Span};

/// What is fetched at a time of reads that are in order: what comes with it is looked for then, and needs no copy.
const MAX_IN_ORDER_LEN_BYTES: usize = 16 << 10;

/// A read that was begun.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// Where its data go.
    pub(crate) buffers: Vec<Buffer>,
    span: Span,
    /// Where in its data the next piece begins.
    position: u32,
    /// Parts of the piece at hand that are being fetched.
    waiting: usize,
    /// Whether nothing is looked for behind what has to be fetched, until that is there.
    is_in_order: bool,
    failure: Option<ExecuteError>,
}

/// How far a read has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// To its end, whatever that is.
    Done,
    /// Something has to be fetched for it.
    Waiting,
}

/// What is looked for before it has to be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// Everything.
    Everywhere,
    /// What the kernel cannot wait for without a thread.
    BeforeThreads,
    /// Nothing: the disk is not to be touched.
    Nowhere,
}

impl Look {
    /// Whether bytes of this layer are looked for.
    fn is_for(self, source: &dyn ReadAt) -> bool {
        let waits_without_thread = || {
            let file = source.file_range();
            file.is_some_and(|(file, _)| file.waits_without_thread())
        };
        match self {
            Self::Everywhere => true,
            Self::BeforeThreads => !waits_without_thread(),
            Self::Nowhere => false,
        }
    }
}

/// A part of a read that has to be fetched.
#[derive(Debug)]
pub(crate) struct Missing {
    pub(crate) step: Step,
    /// Where in the data of the read it goes.
    pub(crate) position: u32,
}

/// One queue thread's buffers for performing reads.
#[derive(Debug)]
pub(crate) struct Performer {
    image: Arc<Image>,
    plan: Plan,
    decoder: Decoder,
    /// Stored bytes of compressed blocks.
    stored: PageBuffer,
    look: Look,
    ahead: DecodeAhead,
}

impl Read {
    /// Begins a read anew, with the buffers of `writable`, which gets those of the read before.
    pub(crate) fn begin(&mut self, span: Span, writable: &mut Vec<Buffer>, is_in_order: bool) {
        std::mem::swap(&mut self.buffers, writable);
        self.span = span;
        self.position = 0;
        self.waiting = 0;
        self.is_in_order = is_in_order;
        self.failure = None;
    }

    /// How it ended, and how many bytes of data count as written. Of a read that failed, parts may be there that cannot
    /// be told apart, so nothing counts.
    pub(crate) fn end(&mut self) -> (Result<(), ExecuteError>, u32) {
        match self.failure.take() {
            None => (Ok(()), self.position),
            Some(error) => (Err(error), 0),
        }
    }

    /// Leaves for later what of the piece at hand lies behind `part`, among which are its last `left` bytes.
    fn put_off_behind(&mut self, part: &Missing, left: usize) {
        let len = u32::try_from(part.step.len).unwrap_or(u32::MAX);
        let end = part.position.saturating_add(len);
        let behind = self.position.saturating_sub(end);
        self.position = end;
        self.span.put_off(left + behind as usize);
    }

    fn room<'a>(&'a self, memory: &'a GuestMemory) -> Room<'a> {
        Room {
            memory,
            buffers: &self.buffers,
        }
    }
}

impl Performer {
    /// With cold buffers.
    pub(crate) fn new(image: Arc<Image>) -> Self {
        let ahead = DecodeAhead::new(Arc::clone(&image));
        Self {
            ahead,
            image,
            plan: Plan::default(),
            decoder: Decoder::new(),
            stored: PageBuffer::default(),
            look: Look::Everywhere,
        }
    }

    /// What to look for from now on. Everything else has to be fetched.
    pub(crate) fn set_look(&mut self, look: Look) {
        self.look = look;
    }

    /// Goes on with a read until its end, or until something of a piece has to be fetched, which is added to `missing`.
    pub(crate) fn proceed(
        &mut self,
        memory: &GuestMemory,
        read: &mut Read,
        missing: &mut Vec<Missing>,
    ) -> Progress {
        while read.waiting == 0 && read.failure.is_none() {
            let Some((offset, len)) = read.span.next_piece() else {
                return Progress::Done;
            };
            if let Err(error) = self.begin_piece(memory, read, (offset, len), missing) {
                read.failure = Some(error);
            }
        }
        if read.waiting == 0 {
            Progress::Done
        } else {
            Progress::Waiting
        }
    }

    fn begin_piece(
        &mut self,
        memory: &GuestMemory,
        read: &mut Read,
        (offset, len): (u64, usize),
        missing: &mut Vec<Missing>,
    ) -> Result<(), ExecuteError> {
        read.room(memory).populate(read.position, len);
        let done = self.deliver_ahead(read.room(memory), read.position, (offset, len))?;
        read.position += u32::try_from(done).unwrap_or(u32::MAX);
        if done == len {
            return Ok(());
        }
        let (offset, len) = (offset + done as u64, len - done);
        let mut plan = std::mem::take(&mut self.plan);
        let result = self.image.plan(offset, len, &mut plan);
        let result = result
            .map_err(ExecuteError::from)
            .and_then(|()| self.perform_steps(memory, read, plan.steps(), missing));
        self.plan = plan;
        result
    }

    fn perform_steps(
        &mut self,
        memory: &GuestMemory,
        read: &mut Read,
        steps: &[Step],
        missing: &mut Vec<Missing>,
    ) -> Result<(), ExecuteError> {
        let mut left: usize = steps.iter().map(|step| step.len).sum();
        for step in steps {
            let part = self.perform(read.room(memory), step, read.position)?;
            // A request is no longer than 32 bits can say.
            read.position += u32::try_from(step.len).unwrap_or(u32::MAX);
            left -= step.len;
            let Some(mut part) = part else {
                continue;
            };
            if read.is_in_order {
                part.step = part.step.first(&self.image, MAX_IN_ORDER_LEN_BYTES)?;
                read.put_off_behind(&part, left);
            }
            missing.push(part);
            read.waiting += 1;
            if read.is_in_order {
                break;
            }
        }
        Ok(())
    }

    /// Delivers the first bytes of a piece if they were decoded before they were asked for, and returns how many these
    /// are.
    fn deliver_ahead(
        &mut self,
        room: Room<'_>,
        position: u32,
        (offset, len): (u64, usize),
    ) -> Result<usize, ExecuteError> {
        let mut to = room.writer(position);
        let mut done = 0;
        while done < len
            && let Some(content) = self.ahead.find(offset + done as u64)
        {
            let now = content.get(..len - done).unwrap_or(content);
            to.write(now)?;
            done += now.len();
        }
        Ok(done)
    }

    /// What lies ahead of a read that belongs to a row of reads, and may be decoded already.
    pub(crate) fn ahead(&mut self) -> &mut DecodeAhead {
        &mut self.ahead
    }

    /// Delivers what is at hand of a step, and says what is not.
    fn perform(
        &mut self,
        room: Room<'_>,
        step: &Step,
        position: u32,
    ) -> Result<Option<Missing>, ExecuteError> {
        match &step.origin {
            Origin::Zero => {
                room.clear(position, step.len)?;
                Ok(None)
            }
            Origin::Plain { ordinal, stored } => {
                let source = self.image.stored(*ordinal);
                let source = source.filter(|source| self.look.is_for(*source));
                let file = source.and_then(ReadAt::file_range);
                let read = file.map_or(0, |(file, start)| {
                    let offset = start.saturating_add(stored.start);
                    room.read_ready(position, step.len, file, offset)
                });
                self.rest(step, position, read)
            }
            Origin::Blocks { .. } => self.perform_blocks(room, step, position),
        }
    }

    /// What is missing of a step whose first `done` bytes are delivered.
    fn rest(
        &self,
        step: &Step,
        position: u32,
        done: usize,
    ) -> Result<Option<Missing>, ExecuteError> {
        if done >= step.len {
            return Ok(None);
        }
        let position = position.saturating_add(u32::try_from(done).unwrap_or(u32::MAX));
        let step = step.without_first(&self.image, done)?;
        Ok(Some(Missing { step, position }))
    }

    fn perform_blocks(
        &mut self,
        room: Room<'_>,
        step: &Step,
        position: u32,
    ) -> Result<Option<Missing>, ExecuteError> {
        let at =
            |skipped: usize| position.saturating_add(u32::try_from(skipped).unwrap_or(u32::MAX));
        let start = step.disk_offset;
        let left = self.decoder.recall(&self.image, step, |skipped, bytes| {
            room.write(at(skipped), bytes)
        })?;
        let Some(step) = left else {
            return Ok(None);
        };
        let skipped = step.disk_offset.saturating_sub(start);
        let position = at(usize::try_from(skipped).unwrap_or(usize::MAX));
        if let Some((ordinal, range)) = step.stored()
            && let Some(source) = self.image.stored(ordinal)
            && self.look.is_for(source)
        {
            let stored = self.stored.resized(stored_len(&step));
            let read = source.read_ready_at(stored, range.start);
            let to = room.writer(position);
            // All or nothing is what most reads find, and then there is nothing to be cut.
            if read == stored.len() {
                deliver(&mut self.decoder, &self.image, &step, stored, to)?;
                return Ok(None);
            }
            let done = step.len_within(&self.image, read);
            if done > 0 {
                let ready = step.first(&self.image, done)?;
                let stored = stored.get(..stored_len(&ready)).unwrap_or_default();
                deliver(&mut self.decoder, &self.image, &ready, stored, to)?;
                return self.rest(&step, position, done);
            }
        }
        Ok(Some(Missing { step, position }))
    }

    /// What was missing of a read is there, or cannot be had.
    pub(crate) fn arrived(
        &mut self,
        memory: &GuestMemory,
        read: &mut Read,
        missing: &Missing,
        stored: Result<&[u8], ReadError>,
    ) {
        read.waiting = read.waiting.saturating_sub(1);
        if read.failure.is_some() {
            return;
        }
        if let Err(error) = self.deliver(read.room(memory), missing, stored) {
            read.failure = Some(error);
        }
    }

    fn deliver(
        &mut self,
        room: Room<'_>,
        missing: &Missing,
        stored: Result<&[u8], ReadError>,
    ) -> Result<(), ExecuteError> {
        let step = &missing.step;
        let stored = stored.map_err(|error| self.failure(step, error))?;
        let to = room.writer(missing.position);
        deliver(&mut self.decoder, &self.image, step, stored, to)
    }

    fn failure(&self, step: &Step, source: ReadError) -> ReadFailure {
        let ordinal = step
            .stored()
            .map(|(ordinal, _)| ordinal)
            .unwrap_or_default();
        self.image.failure(step.disk_offset, ordinal, source)
    }
}

/// Makes the bytes of a step out of what is stored for it, and copies them to the guest. A block is never made in guest
/// memory itself: while it is being decoded, its beginning is read again, and a guest could have changed it.
fn deliver(
    decoder: &mut Decoder,
    image: &Image,
    step: &Step,
    stored: &[u8],
    mut to: Writer<'_>,
) -> Result<(), ExecuteError> {
    let mut pieces = decoder.decode(image, step, stored)?;
    while let Some(piece) = pieces.next()? {
        to.write(piece)?;
    }
    Ok(())
}

/// How many bytes are stored for a step.
fn stored_len(step: &Step) -> usize {
    let range = step.stored().map_or(0..0, |(_, range)| range);
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}
