//! For the tests of the rooms above: one conformance suite, faults on demand, and reproducible noise.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "a conformance suite fails by panicking, like any test"
)]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::{ReadAt, ReadError, ReadErrorKind};

/// Checks everything [`ReadAt`] promises against the `expected` content.
///
/// # Panics
///
/// When the source breaks a promise.
pub fn conformance(source: &impl ReadAt, expected: &[u8]) {
    let len = expected.len() as u64;
    assert_eq!(source.len_bytes(), len, "length");
    let mut whole = vec![0xA5; expected.len()];
    source
        .read_exact_at(&mut whole, 0)
        .expect("the whole source must be readable");
    assert!(whole == expected, "the whole content differs");

    let spots = [0, 1, len / 3, len / 2, len.saturating_sub(1), len];
    let lengths = [0, 1, 511, 512, 513, 4096, expected.len()];
    let mut inside = 0;
    for offset in spots {
        for length in lengths {
            let mut buf = vec![0xA5; length];
            let result = source.read_exact_at(&mut buf, offset);
            let start = usize::try_from(offset).expect("a test source fits in memory");
            match expected.get(start..start + length) {
                Some(bytes) => {
                    result.unwrap_or_else(|e| panic!("{length} bytes at {offset}: {e}"));
                    assert!(buf == bytes, "{length} bytes at {offset} differ");
                    inside += 1;
                }
                None => assert_out_of_range(result, offset),
            }
        }
    }
    assert!(
        inside > spots.len() / 2,
        "a source that rejects everything must not pass"
    );
    for offset in [len + 1, u64::MAX - 1, u64::MAX, 1 << 63] {
        assert_out_of_range(source.read_exact_at(&mut [0; 1], offset), offset);
    }
}

fn assert_out_of_range(result: Result<(), ReadError>, offset: u64) {
    let error = result.expect_err("a range outside the source must fail");
    assert_eq!(
        error.kind(),
        ReadErrorKind::OutOfRange,
        "kind of the error at {offset}"
    );
}

/// What a [`FaultyBlob`] does to the read it is told to spoil.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The read fails with EIO.
    Io,
    /// The read succeeds, with one bit of its first byte flipped.
    BitFlip,
    /// The read fails with EINTR, as if nobody below had tried again.
    Interrupted,
    /// The read fails like one of a file that has become shorter: part of the buffer is filled already.
    Short,
}

/// A source whose n-th read goes wrong; all others pass through.
#[derive(Debug)]
pub struct FaultyBlob<S> {
    source: S,
    fault: Fault,
    fail_at: AtomicU64,
    reads: AtomicU64,
}

impl<S: ReadAt> FaultyBlob<S> {
    /// Spoils read number `fail_at`, counted from 0. `u64::MAX` spoils none.
    pub fn new(source: S, fault: Fault, fail_at: u64) -> Self {
        Self {
            source,
            fault,
            fail_at: AtomicU64::new(fail_at),
            reads: AtomicU64::new(0),
        }
    }

    /// How many reads there have been.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Spoils the read that is `after` reads away from now.
    pub fn arm(&self, after: u64) {
        self.fail_at.store(self.reads() + after, Ordering::Relaxed);
    }
}

impl<S: ReadAt> ReadAt for FaultyBlob<S> {
    fn len_bytes(&self) -> u64 {
        self.source.len_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let read = self.reads.fetch_add(1, Ordering::Relaxed);
        let spoiled = read == self.fail_at.load(Ordering::Relaxed);
        if spoiled && self.fault == Fault::Io {
            let cause = io::Error::other("injected fault");
            return Err(ReadError::new(ReadErrorKind::Io, offset).with_source(cause));
        }
        if spoiled && self.fault == Fault::Interrupted {
            let cause = io::Error::from(io::ErrorKind::Interrupted);
            return Err(ReadError::new(ReadErrorKind::Io, offset).with_source(cause));
        }
        if spoiled && self.fault == Fault::Short {
            let half = buf.len() / 2;
            self.source.read_exact_at(&mut buf[..half], offset)?;
            let cause = io::Error::from(io::ErrorKind::UnexpectedEof);
            return Err(ReadError::new(ReadErrorKind::Io, offset).with_source(cause));
        }
        self.source.read_exact_at(buf, offset)?;
        if let Some(first) = buf.first_mut().filter(|_| spoiled) {
            *first ^= 0x10;
        }
        Ok(())
    }
}

/// Stops reads of a [`StallingBlob`] and lets them go again.
#[derive(Debug, Default)]
pub struct Stall {
    state: Mutex<StallState>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct StallState {
    closed: bool,
    /// Reads that may still pass before it closes.
    closes_in: Option<u64>,
    waiting: usize,
}

impl Stall {
    fn state(&self) -> MutexGuard<'_, StallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on reads do not come back.
    pub fn close(&self) {
        self.state().closed = true;
    }

    /// `reads` more reads come back, and then none.
    pub fn close_after(&self, reads: u64) {
        self.state().closes_in = Some(reads);
    }

    /// All reads that wait, and all others, go on.
    pub fn open(&self) {
        let mut state = self.state();
        state.closed = false;
        state.closes_in = None;
        drop(state);
        self.changed.notify_all();
    }

    /// How many reads wait.
    pub fn waiting(&self) -> usize {
        self.state().waiting
    }

    fn pass(&self) {
        let mut state = self.state();
        match state.closes_in {
            Some(0) => state.closed = true,
            Some(left) => state.closes_in = Some(left - 1),
            None => {}
        }
        state.waiting += 1;
        while state.closed {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }
}

/// A source that hangs for as long as its [`Stall`] is closed.
#[derive(Debug)]
pub struct StallingBlob<S> {
    source: S,
    stall: Arc<Stall>,
}

impl<S: ReadAt> StallingBlob<S> {
    /// `source`, behind `stall`.
    pub fn new(source: S, stall: Arc<Stall>) -> Self {
        Self { source, stall }
    }
}

impl<S: ReadAt> ReadAt for StallingBlob<S> {
    fn len_bytes(&self) -> u64 {
        self.source.len_bytes()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        self.stall.pass();
        self.source.read_exact_at(buf, offset)
    }
}

/// `len` reproducible bytes without pattern, from the SplitMix64 generator.
#[must_use]
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let words = std::iter::repeat_with(|| {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (word ^ (word >> 31)).to_le_bytes()
    });
    words.flatten().take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryBlob, Window};

    #[test]
    fn memory_blob_and_window_conform() {
        let bytes = noise(9000, 1);
        let blob = MemoryBlob::new(bytes.clone());
        conformance(&blob, &bytes);
        conformance(&Window::whole(&blob), &bytes);
        conformance(&Window::new(&blob, 100, 8000).unwrap(), &bytes[100..8100]);
    }

    #[test]
    fn window_outside_its_source_is_refused() {
        let blob = MemoryBlob::new(vec![0; 100]);
        for (start, len_bytes) in [(0, 101), (100, 1), (101, 0), (u64::MAX, 2), (1, u64::MAX)] {
            assert!(
                Window::new(&blob, start, len_bytes).is_err(),
                "{start} {len_bytes}"
            );
        }
        assert!(Window::new(&blob, 100, 0).is_ok());
    }

    #[test]
    fn faulty_blob_spoils_exactly_one_read() {
        let blob = FaultyBlob::new(MemoryBlob::new(vec![0; 10]), Fault::Io, 1);
        let mut buf = [0; 4];
        assert!(blob.read_exact_at(&mut buf, 0).is_ok());
        assert!(blob.read_exact_at(&mut buf, 0).is_err());
        assert!(blob.read_exact_at(&mut buf, 0).is_ok());
        assert_eq!(blob.reads(), 3);
        let blob = FaultyBlob::new(MemoryBlob::new(vec![0; 10]), Fault::BitFlip, 0);
        blob.read_exact_at(&mut buf, 0).unwrap();
        assert_eq!(buf, [0x10, 0, 0, 0]);
    }
}
