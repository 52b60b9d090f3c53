//! The guest's memory as the front-end describes it.
//!
//! Each region is a piece of a file. It is mapped only when the file really has those bytes: touching a mapping
//! beyond the end of its file would kill the process.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap, MmapRegion,
};

use crate::limits::MAX_MEMORY_REGIONS;

/// Why a memory region is refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Its numbers overflow or are empty.
    #[error("region at {guest_address:#x}: size {len_bytes:#x} is empty or overflows an address")]
    Bounds {
        /// Guest physical address.
        guest_address: u64,
        /// Length.
        len_bytes: u64,
    },
    /// The file ends before the region does.
    #[error(
        "region at {guest_address:#x} ends at byte {end:#x} of a file of {file_len_bytes:#x} bytes"
    )]
    FileTooShort {
        /// Guest physical address.
        guest_address: u64,
        /// Where the region ends in its file.
        end: u64,
        /// Length of the file.
        file_len_bytes: u64,
    },
    /// The file cannot be examined or mapped.
    #[error("region at {guest_address:#x} cannot be mapped: {cause}")]
    Map {
        /// Guest physical address.
        guest_address: u64,
        /// Why.
        cause: String,
    },
    /// It overlaps another region.
    #[error("region at {guest_address:#x} overlaps another one")]
    Overlap {
        /// Guest physical address.
        guest_address: u64,
    },
    /// There are too many.
    #[error("more than {max} regions")]
    TooMany {
        /// The limit.
        max: usize,
    },
    /// There is no such region to remove.
    #[error(
        "no region of {len_bytes:#x} bytes at {guest_address:#x}, user address {user_address:#x}"
    )]
    Unknown {
        /// Guest physical address.
        guest_address: u64,
        /// Front-end address.
        user_address: u64,
        /// Length.
        len_bytes: u64,
    },
}

/// One region: its mapping, and where the front-end sees it.
#[derive(Clone, Debug)]
struct Region {
    mapping: Arc<GuestRegionMmap>,
    user_address: u64,
}

/// All regions, sorted by guest address.
#[derive(Clone, Debug)]
pub(crate) struct MemoryTable {
    regions: Vec<Region>,
    memory: Arc<GuestMemoryMmap>,
}

impl Default for MemoryTable {
    fn default() -> Self {
        Self {
            regions: Vec::new(),
            memory: Arc::new(GuestMemoryMmap::new()),
        }
    }
}

impl MemoryTable {
    /// A table of these regions, in whatever order they came.
    pub(crate) fn new(
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
    ) -> Result<Self, MemoryError> {
        let pairs = regions.iter().zip(files);
        Self::build(
            pairs
                .map(|(region, file)| Region::map(region, file))
                .collect::<Result<_, _>>()?,
        )
    }

    /// The table with one region more.
    pub(crate) fn with(
        &self,
        region: &VhostUserMemoryRegion,
        file: File,
    ) -> Result<Self, MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(Region::map(region, file)?);
        Self::build(regions)
    }

    /// The table without this region, which is known by all three of its numbers.
    pub(crate) fn without(&self, region: &VhostUserMemoryRegion) -> Result<Self, MemoryError> {
        let is_it = |candidate: &&Region| {
            candidate.mapping.start_addr().0 == region.guest_phys_addr
                && candidate.mapping.len() == region.memory_size
                && candidate.user_address == region.user_addr
        };
        if !self.regions.iter().any(|candidate| is_it(&candidate)) {
            return Err(MemoryError::Unknown {
                guest_address: region.guest_phys_addr,
                user_address: region.user_addr,
                len_bytes: region.memory_size,
            });
        }
        Self::build(
            self.regions
                .iter()
                .filter(|candidate| !is_it(candidate))
                .cloned()
                .collect(),
        )
    }

    fn build(mut regions: Vec<Region>) -> Result<Self, MemoryError> {
        if regions.len() > MAX_MEMORY_REGIONS {
            return Err(MemoryError::TooMany {
                max: MAX_MEMORY_REGIONS,
            });
        }
        regions.sort_by_key(|region| region.mapping.start_addr());
        for pair in regions.windows(2) {
            if let [lower, upper] = pair
                && lower.mapping.last_addr() >= upper.mapping.start_addr()
            {
                return Err(MemoryError::Overlap {
                    guest_address: upper.mapping.start_addr().0,
                });
            }
        }
        let mappings: Vec<_> = regions
            .iter()
            .map(|region| Arc::clone(&region.mapping))
            .collect();
        // The crate has no table without regions except this one.
        let memory = GuestMemoryMmap::from_arc_regions(mappings).unwrap_or_default();
        Ok(Self {
            regions,
            memory: Arc::new(memory),
        })
    }

    /// The memory itself. Whoever holds it keeps its mappings alive.
    pub(crate) fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.memory
    }

    /// Ring addresses come in the front-end's own address space.
    pub(crate) fn guest_address(&self, user_address: u64) -> Option<u64> {
        self.regions.iter().find_map(|region| {
            let offset = user_address.checked_sub(region.user_address)?;
            let inside = offset < region.mapping.len();
            inside.then(|| region.mapping.start_addr().0.checked_add(offset))?
        })
    }
}

impl Region {
    fn map(region: &VhostUserMemoryRegion, file: File) -> Result<Self, MemoryError> {
        let (guest_address, len_bytes) = (region.guest_phys_addr, region.memory_size);
        let ends = [guest_address, region.user_addr, region.mmap_offset]
            .map(|start| start.checked_add(len_bytes));
        let ([Some(_), Some(_), Some(end)], Ok(size), true) =
            (ends, usize::try_from(len_bytes), len_bytes > 0)
        else {
            return Err(MemoryError::Bounds {
                guest_address,
                len_bytes,
            });
        };
        let cannot_map = |cause: String| MemoryError::Map {
            guest_address,
            cause,
        };
        let file_len_bytes = file
            .metadata()
            .map_err(|error| cannot_map(error.to_string()))?
            .len();
        if end > file_len_bytes {
            return Err(MemoryError::FileTooShort {
                guest_address,
                end,
                file_len_bytes,
            });
        }
        let mapping = MmapRegion::from_file(FileOffset::new(file, region.mmap_offset), size)
            .map_err(|error| cannot_map(error.to_string()))?;
        let mapping = GuestRegionMmap::new(mapping, GuestAddress(guest_address)).ok_or(
            MemoryError::Bounds {
                guest_address,
                len_bytes,
            },
        )?;
        Ok(Self {
            mapping: Arc::new(mapping),
            user_address: region.user_addr,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::GuestMemoryBackend;

    fn file(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    fn region(guest: u64, len: u64, user: u64, offset: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(guest, len, user, offset)
    }

    #[test]
    fn regions_come_in_any_order_and_go_by_all_their_numbers() {
        let high = region(0x10_0000, 0x2000, 0x7000_0000, 0x1000);
        let low = region(0, 0x1000, 0x6000_0000, 0);
        let table = MemoryTable::new(&[high, low], vec![file(0x3000), file(0x1000)]).unwrap();
        assert_eq!(table.memory().num_regions(), 2);
        assert_eq!(table.guest_address(0x7000_1fff), Some(0x10_1fff));
        assert_eq!(table.guest_address(0x7000_2000), None);
        assert_eq!(table.guest_address(0x6000_0000), Some(0));
        assert!(table.without(&region(0, 0x1000, 0x6000_1000, 0)).is_err());
        let rest = table.without(&low).unwrap();
        assert_eq!(rest.guest_address(0x6000_0000), None);
        let none = rest.without(&high).unwrap();
        assert_eq!(none.memory().num_regions(), 0);
        assert_eq!(
            none.with(&low, file(0x1000))
                .unwrap()
                .memory()
                .num_regions(),
            1
        );
    }

    #[test]
    fn impossible_regions_are_refused() {
        let refuse = |region: VhostUserMemoryRegion, len| {
            MemoryTable::default().with(&region, file(len)).unwrap_err()
        };
        assert!(matches!(
            refuse(region(0, 0x2000, 0, 0), 0x1fff),
            MemoryError::FileTooShort { .. }
        ));
        assert!(matches!(
            refuse(region(0, 0x1000, 0, 0x1000), 0x1000),
            MemoryError::FileTooShort { .. }
        ));
        assert!(matches!(
            refuse(region(0, 0, 0, 0), 0x1000),
            MemoryError::Bounds { .. }
        ));
        for at_the_end in [
            region(u64::MAX, 2, 0, 0),
            region(0, 2, u64::MAX, 0),
            region(0, 2, 0, u64::MAX),
        ] {
            assert!(matches!(
                refuse(at_the_end, 0x1000),
                MemoryError::Bounds { .. }
            ));
        }
        assert!(matches!(
            refuse(region(0, 0x1000, 0, 0x10), 0x2000),
            MemoryError::Map { .. }
        ));
        let table = MemoryTable::default()
            .with(&region(0, 0x2000, 0, 0), file(0x2000))
            .unwrap();
        let overlap = table
            .with(&region(0x1000, 0x1000, 0x9000_0000, 0), file(0x1000))
            .unwrap_err();
        assert!(matches!(
            overlap,
            MemoryError::Overlap {
                guest_address: 0x1000
            }
        ));
    }
}
