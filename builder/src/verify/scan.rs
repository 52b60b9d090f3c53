//! Reading all of a layer, and decoding it where it is compressed, on several threads.

use std::error::Error;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use blob::{PageBuffer, ReadAt, ReadError, ReadErrorKind, Window};
use image::{Bytes, Source};
use zfile::{BlockError, Scratch, ZFile};

use super::fault::{Fault, FaultKind, Faults};
use super::length;
use crate::chain::chain;
use crate::digest::BlobDigest;
use crate::progress::Progress;

/// Bytes of a layer that a thread takes at a time: whole blocks of any size, and together with what they are stored as
/// no more than fits in the cache of a processor.
pub(super) const CHUNK_LEN_BYTES: usize = 1 << 18;

/// Where a chunk cannot be read, it is tried again in pieces of this length, to find those that can.
const PAGE_LEN_BYTES: u64 = 4096;

/// How many chunks ahead, for each thread, the disk is told what will be needed.
const CHUNKS_AHEAD: u64 = 16;

/// What a scan has found.
pub(super) struct Found {
    pub(super) faults: Faults,
    pub(super) checked_bytes: u64,
    pub(super) digest: Option<BlobDigest>,
}

/// Checks all bytes of `source`, and computes the digest of its blob if that is wanted.
pub(super) fn scan(
    source: &Source,
    threads: usize,
    with_digest: bool,
    progress: &dyn Progress,
) -> Found {
    let chunks = source.len_bytes().div_ceil(CHUNK_LEN_BYTES as u64);
    let scan = Scan {
        source,
        chunks,
        ahead: CHUNKS_AHEAD.saturating_mul(threads as u64),
        next: AtomicU64::new(0),
        checked_bytes: AtomicU64::new(0),
        faults: Mutex::default(),
        progress,
    };
    let hash = || BlobDigest::of(source.stored().source(), progress).ok();
    // The digest is one long chain of steps: one thread begins it at once and then helps the others.
    let digest = thread::scope(|scope| {
        let helpers = threads.min(usize::try_from(chunks).unwrap_or(usize::MAX));
        for _ in 1..helpers {
            // Without another thread, this one does it all.
            let _spawned = thread::Builder::new().spawn_scoped(scope, || scan.work());
        }
        let digest = if with_digest { hash() } else { None };
        scan.work();
        digest
    });
    Found {
        faults: scan
            .faults
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner),
        checked_bytes: scan.checked_bytes.into_inner(),
        digest,
    }
}

struct Scan<'a> {
    source: &'a Source,
    chunks: u64,
    ahead: u64,
    next: AtomicU64,
    checked_bytes: AtomicU64,
    faults: Mutex<Faults>,
    progress: &'a dyn Progress,
}

/// What a thread works with.
#[derive(Default)]
struct Buffers {
    stored: PageBuffer,
    content: PageBuffer,
    scratch: Scratch,
}

impl Scan<'_> {
    /// Takes chunk after chunk until there are none.
    fn work(&self) {
        let mut buffers = Buffers::default();
        loop {
            let chunk = self.next.fetch_add(1, Ordering::Relaxed);
            if chunk >= self.chunks {
                return;
            }
            let content = self.content_of(chunk);
            let good_bytes = match self.source {
                Source::Plain(window) => self.plain(window, &content, &mut buffers),
                Source::Compressed(zfile) => self.blocks(zfile, chunk, &content, &mut buffers),
            };
            self.checked_bytes.fetch_add(good_bytes, Ordering::Relaxed);
            self.progress.advance(self.stored_bytes(&content));
        }
    }

    /// How much of the blob a part of the layer takes.
    fn stored_bytes(&self, content: &Range<u64>) -> u64 {
        let run = self
            .source
            .zfile()
            .map(|zfile| zfile.plan(content.start, length(content)));
        let stored = match run {
            Some(Ok(run)) => run.stored(),
            _ => content.clone(),
        };
        stored.end - stored.start
    }

    fn content_of(&self, chunk: u64) -> Range<u64> {
        let start = chunk.saturating_mul(CHUNK_LEN_BYTES as u64);
        let end = start.saturating_add(CHUNK_LEN_BYTES as u64);
        start.min(self.source.len_bytes())..end.min(self.source.len_bytes())
    }

    /// Reads a chunk of a layer that is stored as it is. Returns how many of its bytes could be read.
    fn plain(&self, window: &Window<Bytes>, content: &Range<u64>, buffers: &mut Buffers) -> u64 {
        let buf = buffers.content.resized(length(content));
        if window.read_exact_at(buf, content.start).is_ok() {
            return content.end - content.start;
        }
        let mut good_bytes = 0;
        let mut start = content.start;
        while start < content.end {
            let page = start..content.end.min(start + PAGE_LEN_BYTES);
            let buf = buffers.content.resized(length(&page));
            match window.read_exact_at(buf, page.start) {
                Ok(()) => good_bytes += page.end - page.start,
                Err(error) => self.add(Fault {
                    stored: Some(page.start + window.start()..page.end + window.start()),
                    content: Some(page.clone()),
                    ..Fault::of(FaultKind::Unreadable, chain(&error))
                }),
            }
            start = page.end;
        }
        good_bytes
    }

    /// Reads and decodes the blocks of a chunk. Returns how many bytes they decode to as they should.
    fn blocks(
        &self,
        zfile: &ZFile<Window<Bytes>>,
        chunk: u64,
        content: &Range<u64>,
        buffers: &mut Buffers,
    ) -> u64 {
        let ahead = self.content_of(chunk.saturating_add(self.ahead));
        if let Ok(run) = zfile.plan(ahead.start, length(&ahead)) {
            let stored = run.stored();
            zfile
                .source()
                .will_need(stored.start, stored.end - stored.start);
        }
        if decode(zfile, content, buffers).is_ok() {
            return content.end - content.start;
        }
        let block_size = u64::from(zfile.info().block_size_bytes);
        let mut good_bytes = 0;
        let mut start = content.start;
        while start < content.end {
            let block = start..content.end.min(start + block_size);
            match decode(zfile, &block, buffers) {
                Ok(()) => good_bytes += block.end - block.start,
                Err(error) => self.add(block_fault(zfile, &block, &error)),
            }
            start = block.end;
        }
        good_bytes
    }

    fn add(&self, fault: Fault) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.add(fault);
    }
}

fn decode(
    zfile: &ZFile<Window<Bytes>>,
    content: &Range<u64>,
    buffers: &mut Buffers,
) -> Result<(), ReadError> {
    let run = zfile.plan(content.start, length(content))?;
    let range = run.stored();
    let stored = buffers.stored.resized(length(&range));
    zfile.source().read_exact_at(stored, range.start)?;
    let out = buffers.content.resized(length(content));
    zfile.decode(&run, stored, &mut buffers.scratch, out)
}

fn block_fault(zfile: &ZFile<Window<Bytes>>, content: &Range<u64>, error: &ReadError) -> Fault {
    let kind = match error.kind() {
        ReadErrorKind::Io => FaultKind::Unreadable,
        _ => FaultKind::Block,
    };
    // Which block it is, the fault says itself.
    let block_error = error
        .source()
        .and_then(|it| it.downcast_ref::<BlockError>());
    let cause = block_error.map_or_else(|| chain(error), |error| chain(&error.fault));
    let fault = Fault::of(kind, cause);
    let Ok(run) = zfile.plan(content.start, length(content)) else {
        return fault;
    };
    let (stored, start) = (run.stored(), zfile.source().start());
    Fault {
        blocks: Some(run.blocks()),
        stored: Some(stored.start + start..stored.end + start),
        content: Some(content.clone()),
        ..fault
    }
}
