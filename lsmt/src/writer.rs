//! Writing a committed layer, from its first byte to its last without ever going back.

use std::io::Write;

use zerocopy::IntoBytes;

use crate::error::WriteError;
use crate::format::{
    COPY_PIECE_SECTORS, FIRST_DATA_SECTOR, FLAG_DATA_FILE, FLAG_HEADER, FLAG_SEALED,
    HEADER_LEN_BYTES, HEADER_SIZE_FIELD, INDEX_PADDING_RECORDS, INVALID_OFFSET, MAGIC0, MAGIC1,
    MAX_END_SECTOR, MAX_RECORD_SECTORS, MAX_VIRTUAL_SIZE_BYTES, MAX_WRITTEN_RECORDS,
    MERGE_LIMIT_SECTORS, RawHeader, RawRecord, SECTOR_LEN_BYTES, USER_TAG_LEN_BYTES, VERSION,
};
use crate::header::Uuid;
use crate::segment::Segment;

const EMPTY_SECTOR: [u8; 512] = [0; 512];

/// What a layer is to say about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// Length of the disk in bytes: a multiple of 512 up to 64 TiB. 0 leaves it to the layers below; some readers
    /// want it in every layer.
    pub virtual_size_bytes: u64,
    /// Name of the layer.
    pub uuid: Uuid,
    /// Name of the layer below.
    pub parent_uuid: Uuid,
    /// Free text of at most 255 bytes.
    pub user_tag: Vec<u8>,
    /// Gives a layer that says nothing one record all the same, because the kernel reader does not open an empty
    /// index. The record zeroes the last sector that the format can express, 2^50 - 2. That is 2^13 times beyond
    /// the largest disk, so the record hides nothing, whatever the disk is resized to.
    pub avoid_empty_index: bool,
    /// Fills the data with zeroes up to a multiple of 4096 bytes, so that index, trailer and end of the layer lie at
    /// multiples of it, too, which the kernel reader needs. No record speaks of the filling. The reference has none.
    pub pad_data: bool,
    /// Lets ranges lie beyond the virtual size, up to the largest disk: what is left from a disk that was longer
    /// once, and is seen again where a layer above makes it longer.
    pub beyond_virtual_size: bool,
}

impl Default for WriterOptions {
    /// No size, no names, no text; avoids an empty index; otherwise as the reference's commit.
    fn default() -> Self {
        Self {
            virtual_size_bytes: 0,
            uuid: Uuid::NIL,
            parent_uuid: Uuid::NIL,
            user_tag: Vec::new(),
            avoid_empty_index: true,
            pad_data: false,
            beyond_virtual_size: false,
        }
    }
}

/// Writes a committed layer, byte for byte as the reference's commit does unless its options say otherwise.
///
/// Ranges come in ascending order; data goes out at once, in that order, and only the index stays in memory
/// (16 bytes per record, at most 999,936 records). What touches is merged as committers do: into records of less
/// than 16383 sectors, data in steps of 64.
///
/// For layers that kernel readers also open, use the same virtual size, at most 2 TiB, in every layer, and ranges of
/// whole 4096-byte blocks or [`pad_data`](WriterOptions::pad_data).
#[derive(Debug)]
pub struct Writer<W> {
    output: W,
    trailer: RawHeader,
    records: Vec<Segment>,
    /// Where the next data goes, in sectors from the start of the layer.
    position: u64,
    /// Disk sector after the last range.
    end: u64,
    /// Disk sectors that ranges may cover.
    max_end: u64,
    data_sectors: u64,
    zeroed_sectors: u64,
    avoid_empty_index: bool,
    pad_data: bool,
}

impl<W: Write> Writer<W> {
    /// Starts a layer at the current position of `output` by writing its header.
    ///
    /// # Errors
    ///
    /// When an option is outside its limits, or when the output fails.
    pub fn new(mut output: W, options: &WriterOptions) -> Result<Self, WriteError> {
        let virtual_size_bytes = options.virtual_size_bytes;
        if virtual_size_bytes > MAX_VIRTUAL_SIZE_BYTES
            || !virtual_size_bytes.is_multiple_of(SECTOR_LEN_BYTES)
        {
            return Err(WriteError::VirtualSize {
                virtual_size_bytes,
                max: MAX_VIRTUAL_SIZE_BYTES,
            });
        }
        let mut user_tag = [0; USER_TAG_LEN_BYTES];
        let len_bytes = options.user_tag.len();
        // Other readers take the tag for a C string, so the last byte stays NUL.
        let max = USER_TAG_LEN_BYTES - 1;
        if len_bytes > max {
            return Err(WriteError::UserTagTooLong { len_bytes, max });
        }
        user_tag[..len_bytes].copy_from_slice(&options.user_tag);
        let header = RawHeader {
            magic0: MAGIC0,
            magic1: MAGIC1,
            size: HEADER_SIZE_FIELD.into(),
            flags: (FLAG_HEADER | FLAG_DATA_FILE | FLAG_SEALED).into(),
            index_offset: 0.into(),
            index_size: 0.into(),
            virtual_size: virtual_size_bytes.into(),
            uuid: *options.uuid.as_bytes(),
            parent_uuid: *options.parent_uuid.as_bytes(),
            reserved: [0; 2],
            version: VERSION.0,
            sub_version: VERSION.1,
            user_tag,
        };
        write_header(&mut output, &header)?;
        Ok(Self {
            output,
            trailer: RawHeader {
                flags: (FLAG_DATA_FILE | FLAG_SEALED).into(),
                ..header
            },
            records: Vec::new(),
            position: FIRST_DATA_SECTOR,
            end: 0,
            max_end: match virtual_size_bytes {
                size @ 1.. if !options.beyond_virtual_size => size / SECTOR_LEN_BYTES,
                _ => MAX_VIRTUAL_SIZE_BYTES / SECTOR_LEN_BYTES,
            },
            data_sectors: 0,
            zeroed_sectors: 0,
            avoid_empty_index: options.avoid_empty_index,
            pad_data: options.pad_data,
        })
    }

    /// Disk sectors decided by data so far.
    pub fn data_sectors(&self) -> u64 {
        self.data_sectors
    }

    /// Disk sectors decided to be zero so far.
    pub fn zeroed_sectors(&self) -> u64 {
        self.zeroed_sectors
    }

    /// Records of the index so far.
    pub fn record_count(&self) -> usize {
        self.records.len()
    }

    /// Decides the sectors from `first_sector` on: they hold `bytes`, which are whole sectors.
    ///
    /// # Errors
    ///
    /// When the range is not behind the one before it or leaves the disk, when the last sector is incomplete,
    /// when there are too many records, or when the output fails.
    pub fn data(&mut self, first_sector: u64, bytes: &[u8]) -> Result<(), WriteError> {
        let len_bytes = bytes.len() as u64;
        if !len_bytes.is_multiple_of(SECTOR_LEN_BYTES) {
            return Err(WriteError::PartialSector {
                len_bytes: bytes.len(),
            });
        }
        let end = self.check_range(first_sector, len_bytes / SECTOR_LEN_BYTES)?;
        self.output.write_all(bytes)?;
        let mut first = first_sector;
        while first < end {
            let len = (end - first).min(COPY_PIECE_SECTORS);
            self.record(Segment::new(first, len, self.position, false))?;
            self.position += len;
            first += len;
        }
        self.data_sectors += end - first_sector;
        self.end = end;
        Ok(())
    }

    /// Decides `len_sectors` sectors from `first_sector` on: they are zero, whatever the layers below hold.
    ///
    /// # Errors
    ///
    /// As for [`data`](Self::data).
    pub fn zeroed(&mut self, first_sector: u64, len_sectors: u64) -> Result<(), WriteError> {
        let end = self.check_range(first_sector, len_sectors)?;
        let mut first = first_sector;
        while first < end {
            let len = (end - first).min(MAX_RECORD_SECTORS);
            self.record(Segment::new(first, len, self.position, true))?;
            first += len;
        }
        self.zeroed_sectors += end - first_sector;
        self.end = end;
        Ok(())
    }

    /// Writes index and trailer, flushes, and gives the output back.
    ///
    /// # Errors
    ///
    /// When the output fails.
    pub fn finish(mut self) -> Result<W, WriteError> {
        if self.records.is_empty() && self.avoid_empty_index {
            let last_expressible = MAX_END_SECTOR - 1;
            self.record(Segment::new(last_expressible, 1, self.position, true))?;
        }
        if self.pad_data {
            let filled = self.position.next_multiple_of(FIRST_DATA_SECTOR);
            for _ in self.position..filled {
                self.output.write_all(&EMPTY_SECTOR)?;
            }
            self.position = filled;
        }
        let padded = self.records.len().next_multiple_of(INDEX_PADDING_RECORDS);
        let padding = RawRecord {
            word0: INVALID_OFFSET.into(),
            word1: 0.into(),
        };
        let mut index: Vec<RawRecord> = self.records.iter().map(|r| r.to_record()).collect();
        index.resize(padded, padding);
        self.output.write_all(index.as_bytes())?;
        self.trailer.index_offset = (self.position * SECTOR_LEN_BYTES).into();
        self.trailer.index_size = (padded as u64).into();
        write_header(&mut self.output, &self.trailer)?;
        self.output.flush()?;
        Ok(self.output)
    }

    /// The end of a range, if the range may come next.
    fn check_range(&self, first_sector: u64, len_sectors: u64) -> Result<u64, WriteError> {
        if first_sector < self.end {
            return Err(WriteError::OutOfOrder {
                first_sector,
                previous_end_sector: self.end,
            });
        }
        first_sector
            .checked_add(len_sectors)
            .filter(|end| *end <= self.max_end)
            .ok_or(WriteError::BeyondEnd {
                first_sector,
                len_sectors,
                max_sector: self.max_end,
            })
    }

    /// Appends a record, to the last one if committers would.
    fn record(&mut self, next: Segment) -> Result<(), WriteError> {
        if let Some(last) = self
            .records
            .last_mut()
            .filter(|last| continues(**last, next))
        {
            let len = last.len() + next.len();
            *last = Segment::new(last.first(), len, last.mapped(), last.is_zeroed());
            return Ok(());
        }
        if self.records.len() >= MAX_WRITTEN_RECORDS {
            return Err(WriteError::TooManyRecords {
                max: MAX_WRITTEN_RECORDS,
            });
        }
        self.records.push(next);
        Ok(())
    }
}

/// Whether committers store `last` and `next` as one record.
fn continues(last: Segment, next: Segment) -> bool {
    let mapped_end = match last.is_zeroed() {
        true => last.mapped(),
        false => last.mapped() + last.len(),
    };
    last.end() == next.first()
        && mapped_end == next.mapped()
        && last.is_zeroed() == next.is_zeroed()
        && last.len() + next.len() < MERGE_LIMIT_SECTORS
}

fn write_header(output: &mut impl Write, header: &RawHeader) -> Result<(), WriteError> {
    let mut room = [0; HEADER_LEN_BYTES];
    room[..size_of::<RawHeader>()].copy_from_slice(header.as_bytes());
    output.write_all(&room)?;
    Ok(())
}
