//! Decodes what a guest that reads on and on is going to ask for, while its queue has nothing else to do: before the next
//! request, a processor would only wait for it.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use blob::PageBuffer;
use image::{Image, Origin, Plan, Reader};

use crate::limits::MAX_DECODED_AHEAD_LEN_BYTES;
use crate::usual_time::UsualTime;

/// How much is decoded between two looks at the ring, in bytes of the disk: about as long as a thread takes to be woken.
const CHUNK_LEN_BYTES: u64 = 64 << 10;
/// How far ahead to begin with.
const WINDOW_MIN_BYTES: u64 = 2 * CHUNK_LEN_BYTES;
/// How much has to be read in a row before anything is decoded ahead; twice as much after each time in vain.
const STREAK_MIN_BYTES: u64 = 512 << 10;
/// The same after many times in vain.
const STREAK_MAX_BYTES: u64 = 1 << 30;

/// How often the time that decoding takes goes into the time that the guest takes, at most: a guest that is slower gains
/// next to nothing, and what is decoded ahead is copied once more.
const MAX_SLOWNESS: u32 = 8;

/// What a queue has decoded ahead.
#[derive(Debug)]
pub(crate) struct DecodeAhead {
    image: Arc<Image>,
    reader: Option<Reader>,
    plan: Plan,
    /// Without gaps between them but for what is not worth it, in the order of the disk.
    chunks: VecDeque<Chunk>,
    spare: Vec<PageBuffer>,
    /// Behind the last byte of the foremost read.
    front: u64,
    /// What lies before this was looked at.
    until: u64,
    /// How far ahead; 0 where nothing is read in a row.
    window_bytes: u64,
    streak_needed_bytes: u64,
    /// Something is not at hand: not before the next read.
    pauses: bool,
    pace: Pace,
}

/// Whether the guest is quick enough that decoding is what it waits for.
#[derive(Debug)]
struct Pace {
    since: Instant,
    read_bytes: u64,
    /// Of decoding a chunk.
    chunk_time: UsualTime,
    is_quick: bool,
}

#[derive(Debug)]
struct Chunk {
    range: Range<u64>,
    content: PageBuffer,
    is_used: bool,
}

impl DecodeAhead {
    /// Nothing yet.
    pub(crate) fn new(image: Arc<Image>) -> Self {
        Self {
            image,
            reader: None,
            plan: Plan::default(),
            chunks: VecDeque::new(),
            spare: Vec::new(),
            front: 0,
            until: 0,
            window_bytes: 0,
            streak_needed_bytes: STREAK_MIN_BYTES,
            pauses: false,
            pace: Pace::new(),
        }
    }

    /// Takes notice of a read that ends at `front`, with which `streak_bytes` have been read in a row.
    pub(crate) fn notice(&mut self, front: u64, streak_bytes: u64) {
        if streak_bytes < self.streak_needed_bytes || !self.image.keeps_blocks() {
            if self.window_bytes > 0 {
                self.forget();
            }
            return;
        }
        if self.window_bytes == 0 {
            self.window_bytes = WINDOW_MIN_BYTES;
            self.until = front;
            self.front = front;
            self.pace.begin(Instant::now());
        }
        self.pauses = false;
        self.pace
            .add(front.saturating_sub(self.front), Instant::now);
        self.front = front;
        self.until = self.until.max(front);
        while let Some(chunk) = self.chunks.pop_front_if(|chunk| chunk.range.end <= front) {
            if chunk.is_used {
                self.streak_needed_bytes = STREAK_MIN_BYTES;
                self.window_bytes = (2 * self.window_bytes).min(MAX_DECODED_AHEAD_LEN_BYTES);
            } else {
                // Another queue may have read it.
                self.window_bytes /= 2;
            }
            self.spare.push(chunk.content);
        }
        if self.window_bytes < CHUNK_LEN_BYTES {
            self.give_up(streak_bytes);
        }
    }

    /// It was in vain: not before twice as much has been read in a row.
    fn give_up(&mut self, streak_bytes: u64) {
        let needed = streak_bytes.max(self.streak_needed_bytes);
        self.streak_needed_bytes = needed.saturating_mul(2).min(STREAK_MAX_BYTES);
        self.clear();
    }

    /// The row of reads has ended.
    fn forget(&mut self) {
        if self.chunks.iter().any(|chunk| !chunk.is_used) {
            self.give_up(0);
        } else {
            self.clear();
        }
    }

    fn clear(&mut self) {
        self.chunks.clear();
        self.spare.clear();
        self.window_bytes = 0;
    }

    /// What has been decoded from byte `offset` of the disk on.
    pub(crate) fn find(&mut self, offset: u64) -> Option<&[u8]> {
        let mut chunks = self.chunks.iter_mut();
        let chunk = chunks.find(|chunk| chunk.range.contains(&offset))?;
        chunk.is_used = true;
        let skip = usize::try_from(offset - chunk.range.start).ok()?;
        chunk.content.get(skip..)
    }

    /// Decodes a little, without waiting for anything. `false` when there is nothing to be decoded now.
    pub(crate) fn proceed(&mut self) -> bool {
        let Some(range) = self.next() else {
            return false;
        };
        if self.is_worth_it(&range) {
            let mut content = self.spare.pop().unwrap_or_default();
            let len = usize::try_from(range.end - range.start).unwrap_or_default();
            content.resized(len);
            let image = &self.image;
            let reader = self
                .reader
                .get_or_insert_with(|| Reader::new(Arc::clone(image)));
            let begun = Instant::now();
            match reader.read_ready_at(&mut content, range.start) {
                Ok(true) => {
                    self.pace.chunk_time.learn(begun.elapsed());
                    self.chunks.push_back(Chunk {
                        range: range.clone(),
                        content,
                        is_used: false,
                    });
                }
                Ok(false) => {
                    self.spare.push(content);
                    self.pauses = true;
                    return false;
                }
                // Whoever asks for it will be told.
                Err(_damage) => self.spare.push(content),
            }
        }
        self.until = range.end;
        true
    }

    fn next(&self) -> Option<Range<u64>> {
        if self.pauses || self.window_bytes == 0 || !self.pace.is_quick {
            return None;
        }
        let window_end = self.front.saturating_add(self.window_bytes);
        let start = self.until;
        let end = start
            .saturating_add(1)
            .checked_next_multiple_of(CHUNK_LEN_BYTES)?
            .min(self.image.len_bytes());
        (start < window_end && start < end).then_some(start..end)
    }

    /// Whether there is anything to be decoded: from plain layers it is quicker to read when it is asked for.
    fn is_worth_it(&mut self, range: &Range<u64>) -> bool {
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.image
            .plan(range.start, len, &mut self.plan)
            .is_ok_and(|()| {
                let mut steps = self.plan.steps().iter();
                steps.any(|step| matches!(step.origin, Origin::Blocks { .. }))
            })
    }
}

impl Pace {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            read_bytes: 0,
            chunk_time: UsualTime::default(),
            is_quick: true,
        }
    }

    /// A row of reads begins.
    fn begin(&mut self, now: Instant) {
        self.since = now;
        self.read_bytes = 0;
        self.is_quick = true;
    }

    /// So much more was read. Looked at from time to time, over many reads: some of them come together.
    fn add(&mut self, bytes: u64, now: impl FnOnce() -> Instant) {
        self.read_bytes = self.read_bytes.saturating_add(bytes);
        if self.read_bytes < MAX_DECODED_AHEAD_LEN_BYTES {
            return;
        }
        let now = now();
        let chunks = u32::try_from(self.read_bytes / CHUNK_LEN_BYTES).unwrap_or(u32::MAX);
        let elapsed = now.saturating_duration_since(self.since);
        self.is_quick = self.chunk_time.get().is_none_or(|time| {
            let decoding = time.saturating_mul(chunks);
            elapsed < decoding.saturating_mul(MAX_SLOWNESS)
        });
        (self.since, self.read_bytes) = (now, 0);
    }
}

#[cfg(test)]
mod tests;
