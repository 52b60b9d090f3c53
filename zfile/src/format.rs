//! The ZFile on disk: structures, magics, flag bits, limits. All integers are little-endian.
//!
//! ```text
//! 0        512                      index_offset          end-512   end
//! | header | block 0 … block N-1    | jump table: N × u32 | trailer |
//! ```
//!
//! A stored block is its compressed bytes, followed by their checksum when `verify` is 1. A jump table entry
//! is the length of a stored block, the checksum included.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Length of the header and of the trailer, in bytes; the first block follows the header directly.
pub const HEADER_LEN_BYTES: usize = 512;
/// [`HEADER_LEN_BYTES`] as a position in the file.
pub(crate) const DATA_START: u64 = 512;
/// [`HEADER_LEN_BYTES`] as the distance of the trailer from the end of the file.
pub(crate) const TRAILER_LEN_BYTES: u64 = 512;
/// Length of both magics together.
pub(crate) const MAGIC_LEN_BYTES: usize = 24;
/// What every header and trailer starts with: "ZFile", NUL, 1, NUL, then a second, longer magic.
pub(crate) const MAGIC: [u8; MAGIC_LEN_BYTES] = *b"ZFile\x00\x01\x00tuji.yyf@Alibaba";
/// Value of the `size` field in everything written.
pub(crate) const FIELDS_LEN_BYTES: u32 = 96;

/// Set in a header, clear in a trailer.
pub(crate) const FLAG_HEADER: u64 = 0x01;
/// Set in a data file, the only kind there is.
pub(crate) const FLAG_DATA: u64 = 0x02;
/// Set in a trailer. An overwritten header does not have it.
pub(crate) const FLAG_SEALED: u64 = 0x04;
/// The header was written again at the end and holds the final fields.
pub(crate) const FLAG_OVERWRITTEN: u64 = 0x08;
/// `digest` and `index_crc` mean something. Files from before 2023-09 have it clear, and in those from 2021
/// all higher bits are garbage.
pub(crate) const FLAG_DIGEST: u64 = 0x10;
/// Reserved for a compressed jump table, which nobody ever wrote.
pub(crate) const FLAG_COMPRESSED_INDEX: u64 = 0x20;
/// Every bit with a meaning.
pub(crate) const KNOWN_FLAGS: u64 = 0x3F;

/// `algo`: announced by the format, never implemented by anyone.
pub(crate) const ALGORITHM_MINI_LZO: u8 = 0;
/// `algo`: bare LZ4 blocks.
pub(crate) const ALGORITHM_LZ4: u8 = 1;
/// `algo`: one standard zstd frame per block.
pub(crate) const ALGORITHM_ZSTD: u8 = 2;

/// Length of the checksum behind each block.
pub(crate) const CHECKSUM_LEN_BYTES: u32 = 4;
/// Length of a jump table entry.
pub(crate) const ENTRY_LEN_BYTES: u64 = 4;
/// Smallest block any tool offers.
pub(crate) const BLOCK_SIZE_MIN_BYTES: u32 = 4096;
/// Largest block any tool offers.
pub(crate) const BLOCK_SIZE_MAX_BYTES: u32 = 65_536;
/// Bytes that make a file with an overwritten header complete, at least: header, one block of one byte, one entry.
pub(crate) const FILE_LEN_MIN_BYTES: u64 = DATA_START + 1 + ENTRY_LEN_BYTES;

/// Longest content accepted: far beyond any layer in use, and small enough that no sum or product of
/// positions comes near 64 bits.
pub const CONTENT_MAX_BYTES: u64 = 16 << 40;
/// Most blocks accepted: 256 GiB of content in 4 KiB blocks, for which the jump table in memory takes 264 MiB.
pub const BLOCKS_MAX: u64 = 64 << 20;
/// Longest payload (checksum not counted) that every known reader reads: one of them has a buffer of 64 KiB
/// for payload and checksum together.
pub(crate) const PORTABLE_PAYLOAD_MAX_BYTES: usize = 65_532;

/// The first 96 bytes of header and trailer: those with a meaning.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawFields {
    pub(crate) magic: [u8; MAGIC_LEN_BYTES],
    /// 96 in everything written. Readers never looked at it, and nothing depends on it.
    pub(crate) size: U32,
    /// CRC over all 512 bytes, with this field zero.
    pub(crate) digest: U32,
    pub(crate) flags: U64,
    /// Where the jump table starts, in bytes from the start of the ZFile.
    pub(crate) index_offset: U64,
    /// Number of jump table entries, which is the number of blocks.
    pub(crate) index_size: U64,
    pub(crate) original_file_size: U64,
    pub(crate) index_crc: U32,
    pub(crate) reserved_68: U32,
    pub(crate) block_size: U32,
    pub(crate) algo: u8,
    /// 0 in everything written, and of no use to a decoder.
    pub(crate) level: u8,
    pub(crate) use_dict: u8,
    pub(crate) reserved_79: u8,
    pub(crate) reserved_80: U32,
    pub(crate) dict_size: U32,
    pub(crate) verify: u8,
    pub(crate) reserved_89: [u8; 7],
}

/// A whole header or trailer.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    pub(crate) fields: RawFields,
    /// Zero; stack garbage in files from 2021.
    pub(crate) tail: [u8; TAIL_LEN_BYTES],
}

/// Length of the part of header and trailer without meaning.
pub(crate) const TAIL_LEN_BYTES: usize = 416;

const _: () = {
    assert!(size_of::<RawFields>() == 96 && align_of::<RawFields>() == 1);
    assert!(size_of::<RawHeader>() == HEADER_LEN_BYTES && align_of::<RawHeader>() == 1);
    assert!(std::mem::offset_of!(RawFields, digest) == 28);
    assert!(std::mem::offset_of!(RawFields, flags) == 32);
    assert!(std::mem::offset_of!(RawFields, index_crc) == 64);
    assert!(std::mem::offset_of!(RawFields, block_size) == 72);
    assert!(std::mem::offset_of!(RawFields, dict_size) == 84);
    assert!(std::mem::offset_of!(RawFields, verify) == 88);
    assert!(DATA_START == 512 && TRAILER_LEN_BYTES == 512 && HEADER_LEN_BYTES == 512);
    assert!(BLOCK_SIZE_MIN_BYTES.is_power_of_two() && BLOCK_SIZE_MAX_BYTES.is_power_of_two());
};
