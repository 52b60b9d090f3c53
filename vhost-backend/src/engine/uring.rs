//! The kernel waits for the disk: one system call for as many reads as there are, and no thread.

use std::os::fd::BorrowedFd;

use blob::{FileBlob, PageBuffer, ReadAt, ReadError, ReadErrorKind};
use image::Image;
use slab::Slab;

use crate::engine::{Fetch, Fetched};
use crate::limits::MAX_FETCHES;
use crate::system::{Completed, Uring};

/// Longest read that is left to the kernel. It copies from the page cache with the thread that asked, which is kept from
/// the ring for as long as that takes; a thread of its own does it beside.
const MAX_LEN_BYTES: usize = 128 << 10;

/// Reads of a queue that the kernel goes on with.
#[derive(Debug)]
pub(super) struct UringReads {
    uring: Uring,
    under_way: Slab<UnderWay>,
    /// Whether there is anything the kernel has not been given yet.
    prepared: bool,
}

/// What is not in the buffer.
#[derive(Debug)]
struct UnderWay {
    id: usize,
    ordinal: usize,
    offset: u64,
    done: usize,
}

/// The file a layer is in, and where in it its stored bytes start, if the kernel can wait for it by itself.
fn file_of(image: &Image, ordinal: usize) -> Option<(&FileBlob, u64)> {
    let (file, start) = image.stored(ordinal)?.file_range()?;
    // The kernel has few threads for files that it can only wait for with one.
    file.waits_without_thread().then_some((file, start))
}

impl UringReads {
    /// None under way. `None` where there is no io_uring for this process.
    pub(super) fn new(wake: BorrowedFd<'_>) -> Option<Self> {
        let entries = u32::try_from(MAX_FETCHES).ok()?;
        match Uring::new(entries, wake) {
            Ok(uring) => Some(Self {
                uring,
                under_way: Slab::new(),
                prepared: false,
            }),
            Err(error) => {
                tracing::debug!("no io_uring here, threads wait for the disk: {error}");
                None
            }
        }
    }

    /// Takes over a fetch, or gives it back if this is not the way to read it.
    pub(super) fn submit(&mut self, image: &Image, fetch: Fetch) -> Result<(), Fetch> {
        let file = file_of(image, fetch.ordinal);
        let Some((file, start)) = file.filter(|_| fetch.buffer.len() <= MAX_LEN_BYTES) else {
            return Err(fetch);
        };
        let key = self.under_way.insert(UnderWay {
            id: fetch.id,
            ordinal: fetch.ordinal,
            offset: fetch.offset,
            done: 0,
        });
        let offset = start.saturating_add(fetch.offset);
        let pushed = self.uring.read(key, file.file(), offset, fetch.buffer, 0);
        self.prepared = true;
        pushed.map_err(|buffer| {
            self.under_way.remove(key);
            Fetch { buffer, ..fetch }
        })
    }

    /// Hands over to the kernel what it has not been given yet. `false` when it takes nothing for now, so that this has
    /// to be tried again.
    pub(super) fn flush(&mut self) -> bool {
        if self.prepared {
            self.prepared = self.uring.submit().is_err();
        }
        !self.prepared
    }

    /// Something that is fetched, if there is anything.
    pub(super) fn take(&mut self, image: &Image) -> Option<Fetched> {
        if self.under_way.is_empty() {
            return None;
        }
        loop {
            let Completed { id, buffer, result } = self.uring.completed()?;
            let one = self.under_way.get_mut(id)?;
            let result = match result {
                Ok(0) => Err(FileBlob::shortened(one.offset)),
                Ok(len) => {
                    one.done += len;
                    if one.done < buffer.len() {
                        match self.go_on(image, id, buffer) {
                            None => continue,
                            fetched => return fetched,
                        }
                    }
                    Ok(())
                }
                Err(error) => Err(ReadError::new(ReadErrorKind::Io, one.offset).with_source(error)),
            };
            let id = self.under_way.remove(id).id;
            return Some(Fetched { id, buffer, result });
        }
    }

    /// Asks for the rest of a read that came short.
    fn go_on(&mut self, image: &Image, key: usize, buffer: PageBuffer) -> Option<Fetched> {
        let one = self.under_way.get(key)?;
        let (done, at) = (one.done, one.offset.saturating_add(one.done as u64));
        let failed = match file_of(image, one.ordinal) {
            Some((file, start)) => {
                let offset = start.saturating_add(at);
                let pushed = self.uring.read(key, file.file(), offset, buffer, done);
                self.prepared = true;
                pushed.err()?
            }
            None => buffer,
        };
        let id = self.under_way.remove(key).id;
        Some(Fetched {
            id,
            buffer: failed,
            result: Err(ReadError::new(ReadErrorKind::Io, at)),
        })
    }

    /// Whether the kernel has any buffer.
    pub(super) fn is_idle(&self) -> bool {
        self.uring.lent() == 0
    }

    /// Waits until the kernel has let go of all buffers, however long that takes.
    pub(super) fn wait_for_all(mut self) {
        while !self.is_idle() {
            if self.uring.completed().is_none() && self.uring.wait().is_err() {
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
        }
    }
}
