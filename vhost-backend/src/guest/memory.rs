//! The guest's memory: regions of a front-end's files at guest physical addresses.

use vm_memory::bitmap::{BS, Bitmap};
use vm_memory::{
    Address, FileOffset, GuestAddress, GuestMemoryError, GuestMemoryRegion, GuestMemoryRegionBytes,
    GuestRegionCollection, GuestUsize, MemoryRegionAddress, VolatileMemory, VolatileSlice,
};

use crate::guest::DirtyPages;
use crate::system::SharedMapping;

/// All regions of a guest, sorted by address. Whoever holds it keeps its mappings alive.
pub type GuestMemory = GuestRegionCollection<GuestRegion>;

/// One region.
#[derive(Debug)]
pub struct GuestRegion {
    mapping: SharedMapping<DirtyPages>,
    start: GuestAddress,
}

impl GuestRegion {
    /// The region that begins at guest address `start`; `None` if its end would overflow.
    #[must_use]
    pub fn new(mapping: SharedMapping<DirtyPages>, start: u64) -> Option<Self> {
        start.checked_add(mapping.region().size() as u64)?;
        Some(Self {
            mapping,
            start: GuestAddress(start),
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
