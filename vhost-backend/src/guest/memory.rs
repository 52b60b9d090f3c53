//! The guest's memory: regions of a front-end's files at guest physical addresses.

use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryRegion,
    GuestMemoryRegionBytes, GuestRegionCollection, GuestUsize, MemoryRegionAddress, VolatileMemory,
    VolatileSlice,
};

use crate::guest::DirtyPages;
use crate::guest::populated::{MIN_POPULATED_LEN_BYTES, Populated};
use crate::system::SharedMapping;

/// All regions of a guest, sorted by address. Whoever holds it keeps its mappings alive.
pub type GuestMemory = GuestRegionCollection<GuestRegion>;

/// One region.
#[derive(Debug)]
pub struct GuestRegion {
    mapping: SharedMapping<DirtyPages>,
    start: GuestAddress,
    populated: Populated,
}

impl GuestRegion {
    /// The region that begins at guest address `start`; `None` if its end would overflow.
    #[must_use]
    pub fn new(mapping: SharedMapping<DirtyPages>, start: u64) -> Option<Self> {
        let len_bytes = mapping.region().size();
        start.checked_add(len_bytes as u64)?;
        Some(Self {
            mapping,
            start: GuestAddress(start),
            populated: Populated::none_of(len_bytes),
        })
    }

    /// Where its bytes lie in which file.
    #[must_use]
    pub fn file(&self) -> Option<&FileOffset> {
        self.mapping.region().file_offset()
    }
}

impl GuestMemoryRegion for GuestRegion {
    type B = DirtyPages;

    fn len(&self) -> GuestUsize {
        self.mapping.region().size() as GuestUsize
    }

    fn start_addr(&self) -> GuestAddress {
        self.start
    }

    fn bitmap(&self) -> BS<'_, DirtyPages> {
        self.mapping.region().bitmap().slice_at(0)
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, BS<'_, DirtyPages>>, GuestMemoryError> {
        let offset = usize::try_from(offset.raw_value())
            .map_err(|_overflow| GuestMemoryError::InvalidBackendAddress)?;
        Ok(self.mapping.region().get_slice(offset, count)?)
    }
}

impl GuestMemoryRegionBytes for GuestRegion {}

/// Prepares `len_bytes` of guest memory from `address` on for being written, if there are enough of them that it pays.
/// What is wrong with them, the write will find.
pub(crate) fn populate(memory: &GuestMemory, address: GuestAddress, len_bytes: usize) {
    if len_bytes >= MIN_POPULATED_LEN_BYTES
        && let Some((region, offset)) = memory.to_region_addr(address)
    {
        // The rest of a buffer that goes on in another region is left to faults.
        let room = region.len().saturating_sub(offset.raw_value());
        let len_bytes = len_bytes.min(usize::try_from(room).unwrap_or(usize::MAX));
        if let Ok(offset) = usize::try_from(offset.raw_value())
            && region.populated.is_news(offset, len_bytes)
        {
            region.mapping.populate(offset, len_bytes);
        }
    }
}

/// Memory for tests: `ranges` of guest address and length.
#[cfg(test)]
pub(crate) fn test_memory(ranges: &[(u64, u64)]) -> GuestMemory {
    use std::sync::Arc;
    let alarm = Arc::new(crate::system::Alarm::new().unwrap());
    let regions = ranges.iter().map(|(start, len)| {
        let file = tempfile::tempfile().unwrap();
        file.set_len(*len).unwrap();
        let pages = DirtyPages::default();
        let mapping = crate::guest::map_file(file, 0, *len, pages, &alarm).unwrap();
        Arc::new(GuestRegion::new(mapping, *start).unwrap())
    });
    GuestMemory::from_arc_regions(regions.collect()).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    /// Whether the pages that these bytes begin and end in were asked for.
    fn asked(memory: &GuestMemory, address: u64, len_bytes: usize) -> bool {
        let (region, offset) = memory.to_region_addr(GuestAddress(address)).unwrap();
        let offset = usize::try_from(offset.raw_value()).unwrap();
        !region.populated.is_news(offset, len_bytes)
    }

    #[test]
    fn long_buffers_are_populated_and_any_buffer_may_be_asked_for() {
        const MIB: u64 = 1 << 20;
        let memory = test_memory(&[(0, MIB), (MIB, MIB)]);
        populate(&memory, GuestAddress(8192), MIN_POPULATED_LEN_BYTES - 1);
        populate(&memory, GuestAddress(65536), MIN_POPULATED_LEN_BYTES);
        // As much of it as lies in the region that it begins in.
        populate(&memory, GuestAddress(MIB - 4096), 1 << 19);
        for nowhere in [2 * MIB, 5 * MIB, u64::MAX] {
            populate(&memory, GuestAddress(nowhere), 1 << 20);
        }
        populate(&memory, GuestAddress(2 * MIB - 4096), usize::MAX);
        assert!(!asked(&memory, 8192, 1));
        assert!(asked(&memory, 65536, MIN_POPULATED_LEN_BYTES));
        assert!(!asked(&memory, 65536 + MIN_POPULATED_LEN_BYTES as u64, 1));
        assert!(asked(&memory, MIB - 4096, 4096));
        assert!(!asked(&memory, MIB, 1));
        assert!(asked(&memory, 2 * MIB - 4096, 4096));
        let mut bytes = vec![1; 2 << 20];
        memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
        assert!(
            bytes.iter().all(|byte| *byte == 0),
            "populating writes nothing"
        );
    }
}
