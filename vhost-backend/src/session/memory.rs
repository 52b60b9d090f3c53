//! The guest's memory as the front-end describes it.
//!
//! Each region is a piece of a file. It is mapped only when the file really has those bytes and, while writes are
//! logged, only where the log has a bit for each of its pages.

use std::fs::File;
use std::sync::Arc;

use vhost::vhost_user::message::VhostUserMemoryRegion;
use vm_memory::GuestMemoryRegion;

use crate::guest::{DirtyLog, DirtyPages, GuestMemory, GuestRegion, MapError, map_file};
use crate::limits::MAX_MEMORY_REGIONS;
use crate::system::Alarm;

/// Why a memory region is refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// Its addresses overflow.
    #[error("region at {guest_address:#x}: size {len_bytes:#x} overflows an address")]
    Bounds {
        /// Guest physical address.
        guest_address: u64,
        /// Length.
        len_bytes: u64,
    },
    /// Its file does not have it, or cannot be mapped.
    #[error("region at {guest_address:#x}")]
    Map {
        /// Guest physical address.
        guest_address: u64,
        /// Why.
        source: MapError,
    },
    /// The file cannot be mapped once more.
    #[error("region at {guest_address:#x} cannot be mapped anew: its file cannot be had")]
    NoFile {
        /// Guest physical address.
        guest_address: u64,
    },
    /// There are pages that the log of written pages has no bit for.
    #[error("region at {guest_address:#x} is beyond the end of the dirty log")]
    LogTooShort {
        /// Guest physical address.
        guest_address: u64,
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
    mapping: Arc<GuestRegion>,
    user_address: u64,
}

/// What every mapping of a session has in common.
#[derive(Clone, Debug)]
pub(crate) struct MappingOptions {
    /// Raised when the file of a mapping is cut short.
    pub(crate) alarm: Arc<Alarm>,
    /// Where written pages are marked.
    pub(crate) log: Option<Arc<DirtyLog>>,
}

/// All regions, sorted by guest address.
#[derive(Clone, Debug, Default)]
pub(crate) struct MemoryTable {
    regions: Vec<Region>,
    memory: Arc<GuestMemory>,
}

impl MemoryTable {
    /// A table of these regions, in whatever order they came.
    pub(crate) fn new(
        regions: &[VhostUserMemoryRegion],
        files: Vec<File>,
        options: &MappingOptions,
    ) -> Result<Self, MemoryError> {
        let pairs = regions.iter().zip(files);
        Self::build(
            pairs
                .map(|(region, file)| Region::map(region, file, options))
                .collect::<Result<_, _>>()?,
        )
    }

    /// The table with one region more.
    pub(crate) fn with(
        &self,
        region: &VhostUserMemoryRegion,
        file: File,
        options: &MappingOptions,
    ) -> Result<Self, MemoryError> {
        let mut regions = self.regions.clone();
        regions.push(Region::map(region, file, options)?);
        Self::build(regions)
    }

    /// The same regions, mapped anew with other options.
    pub(crate) fn mapped_anew(&self, options: &MappingOptions) -> Result<Self, MemoryError> {
        let regions = self.regions.iter();
        Self::build(
            regions
                .map(|region| region.mapped_anew(options))
                .collect::<Result<_, _>>()?,
        )
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
        let memory = GuestMemory::from_arc_regions(mappings).unwrap_or_default();
        Ok(Self {
            regions,
            memory: Arc::new(memory),
        })
    }

    /// The memory itself. Whoever holds it keeps its mappings alive.
    pub(crate) fn memory(&self) -> &Arc<GuestMemory> {
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
    fn map(
        region: &VhostUserMemoryRegion,
        file: File,
        options: &MappingOptions,
    ) -> Result<Self, MemoryError> {
        let (guest_address, len_bytes) = (region.guest_phys_addr, region.memory_size);
        let overflows = [guest_address, region.user_addr]
            .iter()
            .any(|start| start.checked_add(len_bytes).is_none());
        let bounds = MemoryError::Bounds {
            guest_address,
            len_bytes,
        };
        if overflows {
            return Err(bounds);
        }
        let unlogged = |log: &&Arc<DirtyLog>| !log.covers(guest_address, len_bytes);
        if options.log.as_ref().filter(unlogged).is_some() {
            return Err(MemoryError::LogTooShort { guest_address });
        }
        let pages = DirtyPages::new(options.log.clone(), guest_address);
        let mapping = map_file(file, region.mmap_offset, len_bytes, pages, &options.alarm)
            .map_err(|source| MemoryError::Map {
                guest_address,
                source,
            })?;
        let mapping = GuestRegion::new(mapping, guest_address).ok_or(bounds)?;
        Ok(Self {
            mapping: Arc::new(mapping),
            user_address: region.user_addr,
        })
    }

    fn mapped_anew(&self, options: &MappingOptions) -> Result<Self, MemoryError> {
        let guest_address = self.mapping.start_addr().0;
        let no_file = MemoryError::NoFile { guest_address };
        let Some((file, offset)) = self
            .mapping
            .file()
            .and_then(|piece| Some((piece.file().try_clone().ok()?, piece.start())))
        else {
            return Err(no_file);
        };
        let region = VhostUserMemoryRegion::new(
            guest_address,
            self.mapping.len(),
            self.user_address,
            offset,
        );
        Self::map(&region, file, options)
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

    fn options() -> MappingOptions {
        MappingOptions {
            alarm: Arc::new(Alarm::new().unwrap()),
            log: None,
        }
    }

    fn region(guest: u64, len: u64, user: u64, offset: u64) -> VhostUserMemoryRegion {
        VhostUserMemoryRegion::new(guest, len, user, offset)
    }

    #[test]
    fn regions_come_in_any_order_and_go_by_all_their_numbers() {
        let high = region(0x10_0000, 0x2000, 0x7000_0000, 0x1000);
        let low = region(0, 0x1000, 0x6000_0000, 0);
        let files = vec![file(0x3000), file(0x1000)];
        let table = MemoryTable::new(&[high, low], files, &options()).unwrap();
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
            none.with(&low, file(0x1000), &options())
                .unwrap()
                .memory()
                .num_regions(),
            1
        );
    }

    #[test]
    fn impossible_regions_are_refused() {
        let refuse = |region: VhostUserMemoryRegion, len| {
            MemoryTable::default()
                .with(&region, file(len), &options())
                .unwrap_err()
        };
        assert!(matches!(
            refuse(region(0, 0x2000, 0, 0), 0x1fff),
            MemoryError::Map {
                source: MapError::FileTooShort { .. },
                ..
            }
        ));
        assert!(matches!(
            refuse(region(0, 0x1000, 0, 0x1000), 0x1000),
            MemoryError::Map {
                source: MapError::FileTooShort { .. },
                ..
            }
        ));
        assert!(matches!(
            refuse(region(0, 0, 0, 0), 0x1000),
            MemoryError::Map {
                source: MapError::Bounds { .. },
                ..
            }
        ));
        for at_the_end in [region(u64::MAX, 2, 0, 0), region(0, 2, u64::MAX, 0)] {
            assert!(matches!(
                refuse(at_the_end, 0x1000),
                MemoryError::Bounds { .. }
            ));
        }
        assert!(matches!(
            refuse(region(0, 0x1000, 0, 0x10), 0x2000),
            MemoryError::Map {
                source: MapError::System(_),
                ..
            }
        ));
        assert!(matches!(
            refuse(region(0, 2, 0, u64::MAX), 0x1000),
            MemoryError::Map {
                source: MapError::Bounds { .. },
                ..
            }
        ));
        let table = MemoryTable::default()
            .with(&region(0, 0x2000, 0, 0), file(0x2000), &options())
            .unwrap();
        let overlap = table
            .with(
                &region(0x1000, 0x1000, 0x9000_0000, 0),
                file(0x1000),
                &options(),
            )
            .unwrap_err();
        assert!(matches!(
            overlap,
            MemoryError::Overlap {
                guest_address: 0x1000
            }
        ));
    }

    #[test]
    fn memory_that_the_log_has_no_bits_for_is_refused() {
        let log_file = file(0x1000);
        let alarm = Arc::new(Alarm::new().unwrap());
        let log = DirtyLog::map(log_file, 0, 2, &alarm).unwrap();
        let logged = MappingOptions {
            alarm,
            log: Some(Arc::new(log)),
        };
        let table = MemoryTable::default();
        let beyond = region(0xf000, 0x2000, 0, 0);
        assert!(matches!(
            table.with(&beyond, file(0x2000), &logged),
            Err(MemoryError::LogTooShort {
                guest_address: 0xf000
            })
        ));
        let unlogged = table.with(&beyond, file(0x2000), &options()).unwrap();
        assert!(unlogged.mapped_anew(&logged).is_err());
        assert!(unlogged.mapped_anew(&options()).is_ok());
        let inside = region(0xe000, 0x2000, 0, 0);
        assert!(table.with(&inside, file(0x2000), &logged).is_ok());
    }
}
