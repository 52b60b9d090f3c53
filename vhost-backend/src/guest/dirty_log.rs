//! The log of guest pages that were written, for live migration (vhost-user, "Migration").
//!
//! One bit for each page of 4 KiB of guest address space: page n is bit n % 8 of byte n / 8. The front-end clears
//! bits and copies the pages while we go on, so a bit is set only after the bytes it speaks of are in memory, and
//! by an atomic operation that also orders the two: a copy that misses the bytes comes before the bit.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use vm_memory::VolatileMemory;
use vm_memory::bitmap::{Bitmap, BitmapSlice, WithBitmapSlice};

use crate::guest::{MapError, map_file};
use crate::system::{Alarm, SharedMapping};

/// Pages of the log, whatever the host's are (VHOST_LOG_PAGE).
const PAGE_LEN_BYTES: u64 = 4096;
/// Longest log: guest addresses up to 2^47, which is more than a process can map.
const MAX_LOG_LEN_BYTES: u64 = (1 << 47) / PAGE_LEN_BYTES / 8;

/// A log, shared with the front-end.
#[derive(Debug)]
pub struct DirtyLog {
    mapping: SharedMapping,
}

impl DirtyLog {
    /// Maps a log of `len_bytes` at `offset` of `file`.
    ///
    /// # Errors
    ///
    /// When the file is not that long, or the log is longer than guest memory can be.
    pub fn map(
        file: File,
        offset: u64,
        len_bytes: u64,
        alarm: &Arc<Alarm>,
    ) -> Result<Self, MapError> {
        if len_bytes > MAX_LOG_LEN_BYTES {
            return Err(MapError::Bounds { offset, len_bytes });
        }
        let mapping = map_file(file, offset, len_bytes, (), alarm)?;
        Ok(Self { mapping })
    }

    /// Whether there is a bit for each page of these bytes.
    #[must_use]
    pub fn covers(&self, address: u64, len_bytes: u64) -> bool {
        let pages = (self.mapping.region().size() as u64) * 8;
        address
            .checked_add(len_bytes)
            .is_some_and(|end| end.div_ceil(PAGE_LEN_BYTES) <= pages)
    }

    /// Sets the bit of each page of these bytes, which have just been written. Memory is refused where the log
    /// does not cover it, so there is a bit for all of them.
    pub fn mark(&self, address: u64, len_bytes: u64) {
        let Some(last) = len_bytes
            .checked_sub(1)
            .and_then(|rest| address.checked_add(rest))
        else {
            return;
        };
        for page in address / PAGE_LEN_BYTES..=last / PAGE_LEN_BYTES {
            let byte = usize::try_from(page / 8).unwrap_or(usize::MAX);
            if let Ok(bits) = self.mapping.region().get_atomic_ref::<AtomicU8>(byte) {
                // Also where the bit is set already: only a write of ours orders the data before the next clearing.
                bits.fetch_or(1 << (page % 8), Ordering::SeqCst);
            }
        }
    }
}

/// The part of the log that belongs to one region of guest memory; without a log, nothing.
#[derive(Debug, Default)]
pub struct DirtyPages {
    log: Option<Arc<DirtyLog>>,
    region_start: u64,
}

impl DirtyPages {
    /// The pages of a region that begins at guest address `region_start`.
    #[must_use]
    pub fn new(log: Option<Arc<DirtyLog>>, region_start: u64) -> Self {
        Self { log, region_start }
    }
}

/// A view of [`DirtyPages`] from some address on.
#[derive(Clone, Copy, Debug)]
pub struct DirtySlice<'a> {
    log: Option<&'a DirtyLog>,
    start: u64,
}

impl<'a> WithBitmapSlice<'a> for DirtyPages {
    type S = DirtySlice<'a>;
}

impl Bitmap for DirtyPages {
    fn mark_dirty(&self, offset: usize, len: usize) {
        self.slice_at(0).mark_dirty(offset, len);
    }

    fn dirty_at(&self, offset: usize) -> bool {
        self.slice_at(0).dirty_at(offset)
    }

    fn slice_at(&self, offset: usize) -> DirtySlice<'_> {
        DirtySlice {
            log: self.log.as_deref(),
            start: self.region_start,
        }
        .slice_at(offset)
    }
}

impl WithBitmapSlice<'_> for DirtySlice<'_> {
    type S = Self;
}

impl BitmapSlice for DirtySlice<'_> {}

impl Bitmap for DirtySlice<'_> {
    fn mark_dirty(&self, offset: usize, len: usize) {
        if let Some(log) = self.log {
            log.mark(self.start.saturating_add(offset as u64), len as u64);
        }
    }

    /// Bits are the front-end's to read; this side only sets them.
    fn dirty_at(&self, _offset: usize) -> bool {
        false
    }

    fn slice_at(&self, offset: usize) -> Self {
        Self {
            log: self.log,
            start: self.start.saturating_add(offset as u64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn log(len: u64) -> (File, DirtyLog) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096 + len).unwrap();
        let alarm = Arc::new(Alarm::new().unwrap());
        let log = DirtyLog::map(file.try_clone().unwrap(), 4096, len, &alarm).unwrap();
        (file, log)
    }

    fn bits(file: &File, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        file.read_exact_at(&mut bytes, 4096).unwrap();
        bytes
    }

    #[test]
    fn bits_are_those_of_the_pages_touched() {
        for (address, len, expected) in [
            (0, 1, [0b1, 0]),
            (4095, 1, [0b1, 0]),
            (4095, 2, [0b11, 0]),
            (4096, 4096, [0b10, 0]),
            (7 * 4096 + 1, 4096, [0x80, 1]),
            (15 * 4096, 1, [0, 0x80]),
            (0, 16 * 4096, [0xff, 0xff]),
            (8192, 0, [0, 0]),
            // Beyond the end there is nothing to mark, and nothing else is touched.
            (16 * 4096, 1, [0, 0]),
            (u64::MAX, 1, [0, 0]),
            (u64::MAX, 2, [0, 0]),
        ] {
            let (file, log) = log(2);
            log.mark(address, len);
            assert_eq!(bits(&file, 2), expected, "{address:#x} {len}");
        }
    }

    #[test]
    fn coverage_is_exact() {
        let (_file, log) = log(2);
        assert!(log.covers(0, 16 * 4096));
        assert!(log.covers(15 * 4096, 4096));
        assert!(!log.covers(15 * 4096, 4097));
        assert!(!log.covers(16 * 4096, 1));
        assert!(!log.covers(u64::MAX, 2));
    }

    #[test]
    fn writes_to_guest_memory_are_logged_by_guest_address() {
        use crate::guest::{GuestMemory, GuestRegion};
        use vm_memory::{Bytes, GuestAddress};
        let (file, log) = log(8);
        let memory_file = tempfile::tempfile().unwrap();
        memory_file.set_len(32 * 4096).unwrap();
        let alarm = Arc::new(Alarm::new().unwrap());
        let pages = DirtyPages::new(Some(Arc::new(log)), 16 * 4096);
        let mapping = map_file(memory_file, 0, 32 * 4096, pages, &alarm).unwrap();
        let region = GuestRegion::new(mapping, 16 * 4096).unwrap();
        let memory = GuestMemory::from_regions(vec![region]).unwrap();
        memory
            .write_slice(&[1; 4097], GuestAddress(17 * 4096))
            .unwrap();
        memory
            .store(1_u16, GuestAddress(24 * 4096), Ordering::Release)
            .unwrap();
        memory.write_obj(1_u8, GuestAddress(48 * 4096 - 1)).unwrap();
        let mut unread = [0; 16];
        memory
            .read_slice(&mut unread, GuestAddress(30 * 4096))
            .unwrap();
        assert_eq!(bits(&file, 8), [0, 0, 0b110, 1, 0, 0x80, 0, 0]);
    }

    #[test]
    fn log_that_is_not_there_or_too_long_is_refused() {
        let alarm = Arc::new(Alarm::new().unwrap());
        let file = || {
            let file = tempfile::tempfile().unwrap();
            file.set_len(8192).unwrap();
            file
        };
        assert!(matches!(
            DirtyLog::map(file(), 4096, 4097, &alarm),
            Err(MapError::FileTooShort { .. })
        ));
        for (offset, len) in [(0, 0), (u64::MAX, 1), (0, MAX_LOG_LEN_BYTES + 1)] {
            assert!(matches!(
                DirtyLog::map(file(), offset, len, &alarm),
                Err(MapError::Bounds { .. })
            ));
        }
        assert!(matches!(
            DirtyLog::map(file(), 1, 1, &alarm),
            Err(MapError::System(_))
        ));
    }
}
