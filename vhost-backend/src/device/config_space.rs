//! The virtio-blk configuration space (virtio 1.2, 5.2.4).

use std::ops::Range;

use crate::limits::DeviceLimits;

/// Length in bytes of the space a front-end may ask for: vhost-user's own limit. What lies behind the fields a
/// front-end knows reads as zeroes.
pub const CONFIG_SPACE_LEN_BYTES: usize = 256;

const CAPACITY: Range<usize> = 0..8;
const SEG_MAX: Range<usize> = 12..16;
const BLK_SIZE: Range<usize> = 20..24;
const MIN_IO_SIZE: Range<usize> = 26..28;
const OPT_IO_SIZE: Range<usize> = 28..32;
const NUM_QUEUES: Range<usize> = 34..36;

/// Logical block size told to the guest, in bytes: layers map single sectors.
const LOGICAL_BLOCK_BYTES: u32 = 512;
/// Below a page, a guest's read only costs it a second one. In logical blocks.
const MIN_IO_BLOCKS: u16 = 8;
/// A request has a header and a status descriptor besides its data.
const DESCRIPTORS_BESIDES_DATA: u16 = 2;

/// The bytes a front-end reads with GET_CONFIG.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSpace {
    bytes: [u8; CONFIG_SPACE_LEN_BYTES],
}

impl ConfigSpace {
    /// The space of a disk of `disk_len_bytes`; `largest_block_bytes` is the largest compression unit of its
    /// layers, 0 for none, and becomes the optimal I/O size.
    #[must_use]
    pub fn new(disk_len_bytes: u64, limits: &DeviceLimits, largest_block_bytes: u32) -> Self {
        let mut bytes = [0; CONFIG_SPACE_LEN_BYTES];
        let mut put = |field: Range<usize>, value: &[u8]| bytes[field].copy_from_slice(value);
        let seg_max = limits
            .queue_size
            .saturating_sub(DESCRIPTORS_BESIDES_DATA)
            .max(1);
        put(
            CAPACITY,
            &(disk_len_bytes / u64::from(LOGICAL_BLOCK_BYTES)).to_le_bytes(),
        );
        put(SEG_MAX, &u32::from(seg_max).to_le_bytes());
        put(BLK_SIZE, &LOGICAL_BLOCK_BYTES.to_le_bytes());
        put(MIN_IO_SIZE, &MIN_IO_BLOCKS.to_le_bytes());
        put(
            OPT_IO_SIZE,
            &(largest_block_bytes / LOGICAL_BLOCK_BYTES).to_le_bytes(),
        );
        put(NUM_QUEUES, &limits.num_queues.to_le_bytes());
        Self { bytes }
    }

    /// The `size` bytes at `offset`, or `None` when they leave the space.
    #[must_use]
    pub fn read(&self, offset: u32, size: u32) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        let end = start.checked_add(usize::try_from(size).ok()?)?;
        self.bytes.get(start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space() -> ConfigSpace {
        ConfigSpace::new(
            (3 << 40) + 512,
            &DeviceLimits {
                num_queues: 7,
                queue_size: 128,
                ..DeviceLimits::default()
            },
            65_536,
        )
    }

    #[test]
    fn fields_are_where_drivers_look() {
        let space = space();
        let expected: [(u32, &[u8]); 8] = [
            (0, &((3_u64 << 31) + 1).to_le_bytes()),
            (8, &[0; 4]),
            (12, &126_u32.to_le_bytes()),
            (20, &512_u32.to_le_bytes()),
            (24, &[0, 0, 8, 0]),
            (28, &128_u32.to_le_bytes()),
            (32, &[0, 0, 7, 0]),
            (36, &[0; 220]),
        ];
        for (offset, bytes) in expected {
            assert_eq!(
                space.read(offset, u32::try_from(bytes.len()).unwrap()),
                Some(bytes),
                "{offset}"
            );
        }
    }

    #[test]
    fn every_range_up_to_256_bytes_has_exactly_its_length() {
        let space = space();
        for offset in 0..=256 {
            for size in 0..=256 {
                let read = space.read(offset, size);
                let inside = offset + size <= 256;
                assert_eq!(
                    read.map(<[u8]>::len),
                    inside.then_some(size as usize),
                    "{offset} {size}"
                );
            }
        }
        assert_eq!(space.read(u32::MAX, u32::MAX), None);
        assert_eq!(space.read(1, 256), None);
    }

    #[test]
    fn seg_max_is_never_zero() {
        for (queue_size, seg_max) in [(1, 1_u32), (2, 1), (4, 2), (1024, 1022)] {
            let space = ConfigSpace::new(
                512,
                &DeviceLimits {
                    num_queues: 1,
                    queue_size,
                    ..DeviceLimits::default()
                },
                0,
            );
            assert_eq!(space.read(12, 4), Some(&seg_max.to_le_bytes()[..]));
        }
    }
}
