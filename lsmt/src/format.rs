//! The numbers of the format and nothing else: no offset, magic or limit appears anywhere else.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

// Units.

/// Bytes in a sector, the unit of every position in an index. Always 512, whatever the guest is told.
pub const SECTOR_LEN_BYTES: u64 = 512;

// Header and trailer.

/// Room that the header takes at the start of a layer, and the trailer at its end.
pub const HEADER_LEN_BYTES: usize = 4096;
/// The same as a position in the file.
pub(crate) const HEADER_END: u64 = 4096;
/// "LSMT" and three format bytes.
pub(crate) const MAGIC0: [u8; 8] = *b"LSMT\x00\x01\x02\x00";
/// A UUID in its binary form.
pub(crate) const MAGIC1: [u8; 16] = [
    0x65, 0x7E, 0x63, 0xD2, 0x94, 0x44, 0x08, 0x4C, 0xA2, 0xD2, 0xC8, 0xEC, 0x4F, 0xCF, 0xAE, 0x8A,
];
/// What a writer puts into the `size` field; no reader looks at it.
pub(crate) const HEADER_SIZE_FIELD: u32 = 390;
/// Version and sub-version that this crate reads and writes.
pub(crate) const VERSION: (u8, u8) = (1, 1);

/// Set in a header, clear in a trailer.
pub(crate) const FLAG_HEADER: u32 = 1 << 0;
/// Set in a file that holds data, clear in the index file of a read-write layer.
pub(crate) const FLAG_DATA_FILE: u32 = 1 << 1;
/// Set once the layer can no longer change. The header of a layer sealed in place does not have it.
pub(crate) const FLAG_SEALED: u32 = 1 << 2;
/// Named "gc layer" by the format; nothing is known to write it.
pub(crate) const FLAG_GC: u32 = 1 << 3;
/// The layer was a sparse read-write file before it was sealed.
pub(crate) const FLAG_SPARSE: u32 = 1 << 4;
/// A private read-write layout of one implementation.
pub(crate) const FLAG_HYBRID: u32 = 1 << 5;
/// No meaning is known for these.
pub(crate) const FLAGS_RESERVED: u32 = !0 << 6;

/// Header or trailer as stored.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) magic0: [u8; 8],
    pub(crate) magic1: [u8; 16],
    pub(crate) size: U32,
    pub(crate) flags: U32,
    /// Bytes from the start of the layer; 0 in a header.
    pub(crate) index_offset: U64,
    /// Records, padding included; 0 in a header.
    pub(crate) index_size: U64,
    /// Bytes; 0 means "whatever the layers below say".
    pub(crate) virtual_size: U64,
    pub(crate) uuid: [u8; UUID_LEN_BYTES],
    pub(crate) parent_uuid: [u8; UUID_LEN_BYTES],
    /// Level numbers of ancient writers.
    pub(crate) reserved: [u8; 2],
    pub(crate) version: u8,
    pub(crate) sub_version: u8,
    pub(crate) user_tag: [u8; USER_TAG_LEN_BYTES],
}

/// 36 characters, normally followed by a NUL.
pub(crate) const UUID_LEN_BYTES: usize = 37;
/// Free text, padded with NULs, not necessarily ended by one.
pub(crate) const USER_TAG_LEN_BYTES: usize = 256;

// Index.

/// One record of an index as stored.
///
/// ```text
/// word0:  bit 63 ... 50 | 49 ................................ 0
///         length        | first disk sector
/// word1:  bit 63 ... 56 | 55     | 54 ....................... 0
///         tag           | zeroed | first sector in the layer
/// ```
///
/// Aligned as a [`Segment`](crate::segment::Segment) is, so that a list of the one can become one of the other where
/// it is.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(8))]
pub(crate) struct RawRecord {
    pub(crate) word0: U64,
    pub(crate) word1: U64,
}

/// Bytes of a record.
pub(crate) const RECORD_LEN_BYTES: u64 = 16;
/// Position of the length in word 0.
pub(crate) const LEN_SHIFT: u32 = 50;
/// The first disk sector in word 0.
pub(crate) const OFFSET_MASK: u64 = (1 << LEN_SHIFT) - 1;
/// A first sector that means "no record": padding, or a slot that was never used.
pub(crate) const INVALID_OFFSET: u64 = OFFSET_MASK;
/// Disk sectors that records can speak of: a record ends here at the latest.
pub(crate) const MAX_END_SECTOR: u64 = INVALID_OFFSET;
/// Longest record, in sectors: 8 MiB less one sector.
pub(crate) const MAX_RECORD_SECTORS: u64 = (1 << (64 - LEN_SHIFT)) - 1;
/// The zeroed bit in word 1.
pub(crate) const ZEROED_BIT: u64 = 1 << 55;
/// The first sector in the layer in word 1.
pub(crate) const MAPPED_MASK: u64 = ZEROED_BIT - 1;
/// Position of the tag in word 1.
pub(crate) const TAG_SHIFT: u32 = 56;
/// First sector of a layer that can hold data: the one after the header.
pub(crate) const FIRST_DATA_SECTOR: u64 = HEADER_END / SECTOR_LEN_BYTES;

// Limits.

/// Layers of a disk. The ordinal of a layer takes 8 bits, and the reference keeps one value for itself.
pub const MAX_LAYERS: usize = 255;
/// Records in the index of one layer, padding included: 16 MB. The reference has the same limit.
pub const MAX_INDEX_RECORDS: u64 = 1_000_000;
/// Length of a disk: 64 TiB, 2^37 sectors. Keeps every byte position far below 2^63.
pub const MAX_VIRTUAL_SIZE_BYTES: u64 = 64 << 40;
/// Segments of a merged index, 16 bytes each: 256 MiB.
pub const MAX_SEGMENTS: usize = 16 << 20;

// What committers do.

/// Records of an index are padded to a multiple of this: 4096 bytes.
pub(crate) const INDEX_PADDING_RECORDS: usize = 256;
/// Records, padding included, that a writer may produce without breaking [`MAX_INDEX_RECORDS`].
pub(crate) const MAX_WRITTEN_RECORDS: usize = 999_936;
/// Committers copy data in pieces of 32 KiB, which decides where they cut long runs.
pub(crate) const COPY_PIECE_SECTORS: u64 = 64;
/// Two records are merged only into one shorter than this.
pub(crate) const MERGE_LIMIT_SECTORS: u64 = MAX_RECORD_SECTORS;

const _: () = {
    use std::mem::{align_of, offset_of, size_of};
    assert!(size_of::<RawHeader>() == 390 && align_of::<RawHeader>() == 1);
    assert!(offset_of!(RawHeader, flags) == 28);
    assert!(offset_of!(RawHeader, index_offset) == 32);
    assert!(offset_of!(RawHeader, index_size) == 40);
    assert!(offset_of!(RawHeader, virtual_size) == 48);
    assert!(offset_of!(RawHeader, uuid) == 56);
    assert!(offset_of!(RawHeader, parent_uuid) == 93);
    assert!(offset_of!(RawHeader, version) == 132);
    assert!(offset_of!(RawHeader, user_tag) == 134);
    assert!(size_of::<RawRecord>() == 16 && align_of::<RawRecord>() == 8);
    assert!(size_of::<RawRecord>() as u64 == RECORD_LEN_BYTES);
    assert!(HEADER_LEN_BYTES as u64 == HEADER_END);
    assert!(MAX_RECORD_SECTORS == 16_383 && FIRST_DATA_SECTOR == 8);
    assert!(MAX_VIRTUAL_SIZE_BYTES.is_multiple_of(SECTOR_LEN_BYTES));
    // No record of a disk that passes the limit can collide with the sentinel.
    assert!(MAX_VIRTUAL_SIZE_BYTES / SECTOR_LEN_BYTES < MAX_END_SECTOR);
    assert!(MAX_WRITTEN_RECORDS as u64 <= MAX_INDEX_RECORDS);
    assert!(MAX_WRITTEN_RECORDS.is_multiple_of(INDEX_PADDING_RECORDS));
};
