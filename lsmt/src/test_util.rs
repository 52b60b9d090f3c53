//! For tests, here and in the rooms above: layers as live systems leave them behind. For benchmarks: the steps of
//! opening and reading, each by itself.

mod steps;

pub use steps::{Index, Records, Search};

use blob::test_util::noise;
use zerocopy::IntoBytes;

use crate::format::{
    FLAG_DATA_FILE, FLAG_HEADER, FLAG_SEALED, FLAG_SPARSE, HEADER_LEN_BYTES, HEADER_SIZE_FIELD,
    INVALID_OFFSET, LEN_SHIFT, MAGIC0, MAGIC1, RawHeader, RawRecord, SECTOR_LEN_BYTES, TAG_SHIFT,
    USER_TAG_LEN_BYTES, VERSION, ZEROED_BIT,
};
use crate::header::Uuid;

/// A run of sectors of a test layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// First disk sector.
    pub first_sector: u64,
    /// Sectors, 1 to 16383.
    pub len_sectors: u64,
    /// The bytes, or `None` for zeroed.
    pub data: Option<Vec<u8>>,
}

/// A layer sealed in place with everything that readers have to put up with: data in an order of its own with
/// garbage in between, an index without padding but with invalid records and tags, garbage up to the trailer.
///
/// `runs` are sorted and do not overlap. `seed` decides order, garbage and odd bits, reproducibly.
#[must_use]
pub fn sealed_in_place(runs: &[Run], virtual_size_bytes: u64, seed: u64) -> Vec<u8> {
    let mut dice = Dice { seed, rolls: 0 };
    let sparse = if dice.roll(2) == 0 { 0 } else { FLAG_SPARSE };
    let header = RawHeader {
        magic0: MAGIC0,
        magic1: MAGIC1,
        size: HEADER_SIZE_FIELD.into(),
        flags: (FLAG_HEADER | FLAG_DATA_FILE | sparse).into(),
        index_offset: 0.into(),
        index_size: 0.into(),
        virtual_size: virtual_size_bytes.into(),
        uuid: *Uuid::NIL.as_bytes(),
        parent_uuid: *Uuid::NIL.as_bytes(),
        reserved: [0; 2],
        version: VERSION.0,
        sub_version: VERSION.1,
        user_tag: [0; USER_TAG_LEN_BYTES],
    };
    let mut bytes = padded(&header);
    let mapped = append_data(&mut bytes, runs, &mut dice);
    let index_offset = bytes.len() as u64;

    let mut records = Vec::new();
    for (run, mapped) in runs.iter().zip(mapped) {
        while dice.roll(4) == 0 {
            // What an invalid record holds besides its mark is of no meaning.
            records.push(RawRecord {
                word0: (INVALID_OFFSET | (dice.roll(1 << 14) << LEN_SHIFT)).into(),
                word1: dice.roll(u64::MAX).into(),
            });
        }
        let zeroed = if run.data.is_none() { ZEROED_BIT } else { 0 };
        let tag = dice.roll(3) << TAG_SHIFT;
        records.push(RawRecord {
            word0: (run.first_sector | (run.len_sectors << LEN_SHIFT)).into(),
            word1: (mapped | zeroed | tag).into(),
        });
    }
    bytes.extend_from_slice(records.as_bytes());
    let gap = bytes.len().next_multiple_of(512) - bytes.len();
    bytes.extend(noise(gap, dice.roll(u64::MAX)));
    bytes.extend(padded(&RawHeader {
        flags: (FLAG_DATA_FILE | FLAG_SEALED | sparse).into(),
        index_offset: index_offset.into(),
        index_size: (records.len() as u64).into(),
        ..header
    }));
    bytes
}

/// The data file and the index file that a live system leaves behind which has made these writes, one after another. They
/// may overlap. `seed` decides where the index has slots that were never used.
#[must_use]
pub fn unsealed(writes: &[Run], virtual_size_bytes: u64, seed: u64) -> (Vec<u8>, Vec<u8>) {
    let mut dice = Dice { seed, rolls: 0 };
    let header = |flags: u32, index_offset: u64| {
        padded(&RawHeader {
            magic0: MAGIC0,
            magic1: MAGIC1,
            size: HEADER_SIZE_FIELD.into(),
            flags: (FLAG_HEADER | flags).into(),
            index_offset: index_offset.into(),
            index_size: 0.into(),
            virtual_size: virtual_size_bytes.into(),
            uuid: *Uuid::NIL.as_bytes(),
            parent_uuid: *Uuid::NIL.as_bytes(),
            reserved: [0; 2],
            version: VERSION.0,
            sub_version: VERSION.1,
            user_tag: [0; USER_TAG_LEN_BYTES],
        })
    };
    let (mut data, mut index) = (
        header(FLAG_DATA_FILE, 0),
        header(0, HEADER_LEN_BYTES as u64),
    );
    for write in writes {
        let mut put = |first: u64, word1: u64| {
            let record = RawRecord {
                word0: (first | (write.len_sectors << LEN_SHIFT)).into(),
                word1: word1.into(),
            };
            index.extend_from_slice(record.as_bytes());
        };
        while dice.roll(4) == 0 {
            put(INVALID_OFFSET, dice.roll(u64::MAX));
        }
        let zeroed = if write.data.is_none() { ZEROED_BIT } else { 0 };
        put(
            write.first_sector,
            (data.len() as u64 / SECTOR_LEN_BYTES) | zeroed,
        );
        data.extend(write.data.iter().flatten());
    }
    (data, index)
}

/// Appends the data of all runs in an arbitrary order; returns where each run's data is, in sectors.
fn append_data(bytes: &mut Vec<u8>, runs: &[Run], dice: &mut Dice) -> Vec<u64> {
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_cached_key(|_| dice.roll(u64::MAX));
    let mut mapped = vec![0; runs.len()];
    for number in order {
        let garbage = usize::try_from(dice.roll(3)).unwrap_or_default() * 512;
        bytes.extend(noise(garbage, dice.roll(u64::MAX)));
        mapped[number] = bytes.len() as u64 / SECTOR_LEN_BYTES;
        bytes.extend(runs[number].data.iter().flatten());
    }
    mapped
}

fn padded(header: &RawHeader) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(HEADER_LEN_BYTES, 0);
    bytes
}

/// Reproducible decisions.
struct Dice {
    seed: u64,
    rolls: u64,
}

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.rolls += 1;
        let bytes = noise(8, self.seed ^ (self.rolls << 32));
        bytes
            .iter()
            .fold(0, |word, byte| (word << 8) | u64::from(*byte))
            % sides
    }
}
