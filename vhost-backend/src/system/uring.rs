//! Reads that the kernel goes on with by itself (io_uring).
//!
//! What makes this unsafe is that the kernel writes to a buffer after the call that handed it over has returned. So a
//! buffer that is handed over belongs to [`Uring`] until the kernel has let go of it, whatever becomes of the caller.

use std::fs::File;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd};

use blob::PageBuffer;
use io_uring::{IoUring, opcode, types};
use slab::Slab;

/// A queue of reads.
pub(crate) struct Uring {
    /// Closed by hand, and only when no buffer is with the kernel.
    ring: ManuallyDrop<IoUring>,
    /// Buffers that are with the kernel.
    buffers: Slab<Lent>,
}

struct Lent {
    id: usize,
    /// Its memory stays where it is when this value moves.
    buffer: PageBuffer,
}

/// A read that the kernel has done with.
#[derive(Debug)]
pub(crate) struct Completed {
    /// What the asker called it.
    pub(crate) id: usize,
    /// The buffer it was asked with.
    pub(crate) buffer: PageBuffer,
    /// How many bytes were read.
    pub(crate) result: io::Result<usize>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("lent", &self.buffers.len())
            .finish_non_exhaustive()
    }
}

impl Uring {
    /// A queue with room for `entries` reads, which makes the eventfd `wake` readable whenever one is done.
    ///
    /// # Errors
    ///
    /// When there is no io_uring, or this process may not use it.
    pub(crate) fn new(entries: u32, wake: BorrowedFd<'_>) -> io::Result<Self> {
        // What comes waits for the next system call of this thread, of which there are many, instead of interrupting it;
        // one that sleeps is woken. Before Linux 5.19 there is no such choice.
        let ring = IoUring::builder()
            .setup_coop_taskrun()
            .build(entries)
            .or_else(|_unknown| IoUring::new(entries))?;
        ring.submitter().register_eventfd(wake.as_raw_fd())?;
        Ok(Self {
            ring: ManuallyDrop::new(ring),
            buffers: Slab::new(),
        })
    }

    /// Reads with the kernel, in any state.
    pub(crate) fn lent(&self) -> usize {
        self.buffers.len()
    }

    /// Has `file` read from byte `offset` on to the bytes of `buffer` from `start` on, as soon as
    /// [`Uring::submit`] is called.
    ///
    /// # Errors
    ///
    /// The buffer, when the queue is full.
    pub(crate) fn read(
        &mut self,
        id: usize,
        file: &File,
        offset: u64,
        buffer: PageBuffer,
        start: usize,
    ) -> Result<(), PageBuffer> {
        let entry = self.buffers.vacant_entry();
        let key = entry.key() as u64;
        let lent = entry.insert(Lent { id, buffer });
        let room = lent.buffer.get_mut(start..).unwrap_or_default();
        // A read may do less than it is asked for, so asking for less than everything is no loss.
        let len = u32::try_from(room.len()).unwrap_or(u32::MAX);
        let read = opcode::Read::new(types::Fd(file.as_raw_fd()), room.as_mut_ptr(), len)
            .offset(offset)
            .build()
            .user_data(key);
        #[expect(
            unsafe_code,
            reason = "the kernel is given a pointer that outlives the call"
        )]
        // SAFETY: The pointer and the length are those of a part of `lent.buffer`, which stays in `self.buffers`, and
        // is not touched there, until the completion of this very entry is taken from the ring; if `self` goes earlier,
        // the buffer is leaked. The descriptor is that of an open file; should the caller close it before the kernel
        // has looked at the entry, the read fails, or reads another file into the same buffer.
        let pushed = unsafe { self.ring.submission().push(&read) };
        match pushed {
            Ok(()) => Ok(()),
            Err(_full) => Err(self
                .buffers
                .remove(usize::try_from(key).unwrap_or_default())
                .buffer),
        }
    }

    /// Hands over to the kernel what was prepared.
    ///
    /// # Errors
    ///
    /// When the kernel takes no more for now; what was prepared stays prepared.
    pub(crate) fn submit(&mut self) -> io::Result<()> {
        self.ring.submit().map(drop)
    }

    /// A read that is done, if there is one.
    pub(crate) fn completed(&mut self) -> Option<Completed> {
        let entry = self.ring.completion().next()?;
        let key = usize::try_from(entry.user_data()).ok()?;
        let Lent { id, buffer } = self.buffers.try_remove(key)?;
        let result = match usize::try_from(entry.result()) {
            Ok(len) => Ok(len),
            Err(_negative) => Err(io::Error::from_raw_os_error(-entry.result())),
        };
        Some(Completed { id, buffer, result })
    }

    /// Waits until at least one read is done.
    ///
    /// # Errors
    ///
    /// When the kernel does not wait.
    pub(crate) fn wait(&mut self) -> io::Result<()> {
        self.ring.submit_and_wait(1).map(drop)
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        if self.buffers.is_empty() {
            #[expect(unsafe_code, reason = "the ring is closed by hand")]
            // SAFETY: Nothing uses the ring after this; it is dropped here and nowhere else.
            unsafe {
                ManuallyDrop::drop(&mut self.ring);
            }
            return;
        }
        // The kernel may still write to them, however the ring is closed. Memory that is lost is better than memory
        // that changes under somebody else's feet.
        for lent in self.buffers.drain() {
            lent.buffer.leak();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::EventfdFlags;
    use std::os::fd::AsFd;

    fn uring(entries: u32) -> Option<(Uring, std::os::fd::OwnedFd)> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        match Uring::new(entries, wake.as_fd()) {
            Ok(uring) => Some((uring, wake)),
            Err(error) => {
                eprintln!("skipped: no io_uring here: {error}");
                None
            }
        }
    }

    fn filled(byte: u8, len: usize) -> PageBuffer {
        let mut buffer = PageBuffer::zeroed(len);
        buffer.fill(byte);
        buffer
    }

    fn next(uring: &mut Uring) -> Completed {
        loop {
            if let Some(completed) = uring.completed() {
                return completed;
            }
            uring.wait().unwrap();
        }
    }

    #[test]
    fn reads_come_back_with_their_names_bytes_and_buffers() {
        let Some((mut uring, wake)) = uring(8) else {
            return;
        };
        let bytes = blob::test_util::noise(10_000, 5);
        let mut file = tempfile::tempfile().unwrap();
        io::Write::write_all(&mut file, &bytes).unwrap();
        for id in 0..8_usize {
            let buffer = filled(0xA5, 1000);
            uring
                .read(100 + id, &file, 1200 * id as u64, buffer, 10)
                .unwrap();
        }
        let full = uring.read(9, &file, 0, filled(1, 3), 0);
        assert_eq!(*full.unwrap_err(), [1; 3]);
        assert_eq!(uring.lent(), 8);
        uring.submit().unwrap();
        let mut count = [0; 8];
        rustix::io::read(&wake, &mut count).unwrap();
        let mut seen = Vec::new();
        for _ in 0..8 {
            let Completed { id, buffer, result } = next(&mut uring);
            let at = 1200 * (id - 100);
            assert_eq!(buffer[..10], [0xA5; 10]);
            assert_eq!(result.unwrap(), 990);
            assert_eq!(buffer[10..], bytes[at..at + 990]);
            seen.push(id);
        }
        seen.sort_unstable();
        assert_eq!(seen, (100..108).collect::<Vec<_>>());
        assert_eq!(uring.lent(), 0);
        // At the end of the file there is less, and then nothing.
        for (offset, expected) in [(9_990, 10), (10_000, 0)] {
            uring.read(0, &file, offset, filled(0, 100), 0).unwrap();
            uring.submit().unwrap();
            assert_eq!(next(&mut uring).result.unwrap(), expected);
        }
    }

    #[test]
    fn errors_are_those_of_the_system_and_a_late_answer_finds_its_buffer() {
        let Some((mut uring, _wake)) = uring(8) else {
            return;
        };
        let dir = File::open("/").unwrap();
        uring.read(1, &dir, 0, filled(0, 8), 0).unwrap();
        uring.submit().unwrap();
        let error = next(&mut uring).result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
        // A pipe with nothing in it answers when somebody writes, which may be after the ring has gone.
        let (out, into) = rustix::pipe::pipe().unwrap();
        let out = File::from(out);
        uring.read(2, &out, u64::MAX, filled(0, 8), 0).unwrap();
        uring.submit().unwrap();
        assert!(uring.completed().is_none());
        assert_eq!(uring.lent(), 1);
        drop(uring);
        rustix::io::write(&into, &[7; 8]).unwrap();
    }
}
