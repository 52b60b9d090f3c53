//! What can be wrong with a ZFile, one variant per check.

use std::fmt;
use std::io;

use blob::ReadError;

use crate::codec::Algorithm;

/// Which of the two copies of the metadata is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The first 512 bytes.
    Header,
    /// The last 512 bytes.
    Trailer,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Trailer => "trailer",
        })
    }
}

/// Why a source cannot be opened as a ZFile.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The source failed to deliver header, trailer or jump table.
    #[error("cannot read the metadata of the ZFile")]
    Read(#[source] ReadError),
    /// The metadata contradicts itself or the length of the source.
    #[error("damaged ZFile")]
    Corrupt(#[source] Corruption),
    /// The file may be sound, but uses something this crate does not have.
    #[error("unsupported ZFile")]
    Unsupported(#[source] Feature),
    /// The file may be sound, but is larger than this crate is willing to open.
    #[error("{what} {value} exceeds the limit of {max}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much of it the file declares.
        value: u64,
        /// How much is accepted.
        max: u64,
    },
}

/// A failed check of the metadata. Positions and lengths are in bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// The source cannot hold a ZFile of this form.
    #[error("only {found_bytes} bytes long, expected at least {expected_bytes}")]
    TooShort {
        /// Length of the source.
        found_bytes: u64,
        /// Shortest ZFile with this form of header.
        expected_bytes: u64,
    },
    /// The magic is not there.
    #[error("the {place} does not start with the ZFile magic")]
    Magic {
        /// Where it should have been.
        place: Place,
    },
    /// The flags say that this is not the header or trailer of a finished data file.
    #[error("{place} flags {found:#x}, expected the lowest three bits to match {expected:#x}")]
    Flags {
        /// Whose flags.
        place: Place,
        /// The flags as stored.
        found: u64,
        /// Bits that must be set; of the lowest three, a trailer must have no others.
        expected: u64,
    },
    /// Flag bits without a meaning are set although the digest says that they are not garbage.
    #[error("{place} flags {found:#x} have bits set that mean nothing")]
    UnknownFlags {
        /// Whose flags.
        place: Place,
        /// The flags as stored.
        found: u64,
    },
    /// The digest does not match the 512 bytes it covers.
    #[error("{place} digest {found:#010x}, expected {expected:#010x}")]
    Digest {
        /// Whose digest.
        place: Place,
        /// The digest as stored.
        found: u32,
        /// The digest of the bytes that are there.
        expected: u32,
    },
    /// A reserved byte is not zero although the digest says that it is not garbage.
    #[error("reserved byte {offset} of the {place} is {found:#04x}, expected 0")]
    Reserved {
        /// Header or trailer.
        place: Place,
        /// Which byte of it.
        offset: usize,
        /// Its value.
        found: u8,
    },
    /// The block size is not a power of two from 4096 to 65536.
    #[error("block size {found}, expected a power of two from 4096 to 65536")]
    BlockSize {
        /// The block size as stored.
        found: u32,
    },
    /// The number of the compression algorithm is unknown.
    #[error("compression algorithm {found}, expected 1 (LZ4) or 2 (zstd)")]
    Algorithm {
        /// The number as stored.
        found: u8,
    },
    /// The field that says whether blocks have checksums is neither 0 nor 1.
    #[error("verify field {found}, expected 0 or 1")]
    Verify {
        /// The field as stored.
        found: u8,
    },
    /// The content has no bytes: not a finished file.
    #[error("the content is declared to have 0 bytes")]
    EmptyContent,
    /// The jump table does not have one entry per block.
    #[error("jump table of {found} entries, expected {expected} for the declared content")]
    BlockCount {
        /// Entries declared.
        found: u64,
        /// Blocks that the declared content makes.
        expected: u64,
    },
    /// The jump table does not lie between the header and the end of the file (or the trailer).
    #[error(
        "jump table of {entries} entries at byte {offset} does not lie between bytes 512 and {end}"
    )]
    IndexRange {
        /// Where it is declared to start.
        offset: u64,
        /// Entries declared.
        entries: u64,
        /// Where it must end at the latest.
        end: u64,
    },
    /// The checksum of the jump table does not match.
    #[error("jump table checksum {found:#010x}, expected {expected:#010x}")]
    IndexChecksum {
        /// The checksum as stored.
        found: u32,
        /// The checksum of the entries that are there.
        expected: u32,
    },
    /// A jump table entry declares a block that cannot be that long or short.
    #[error("jump table entry {entry} is {found} bytes, expected {min} to {max}")]
    EntryLength {
        /// Which entry, counted from 0.
        entry: u64,
        /// The length it declares.
        found: u32,
        /// Shortest possible stored block.
        min: u32,
        /// Longest possible stored block.
        max: u32,
    },
    /// The blocks do not end where the jump table starts.
    #[error("the blocks end at byte {expected}, but the jump table starts at byte {found}")]
    DataEnd {
        /// Where the jump table starts.
        found: u64,
        /// Where the entries say that the last block ends.
        expected: u64,
    },
}

/// Something that the format has, or reserves, and this crate does not support.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Feature {
    /// Algorithm 0, which no tool ever implemented.
    #[error("compression algorithm 0 (MiniLZO)")]
    MiniLzo,
    /// Blocks compressed with a dictionary, which no tool ever wrote.
    #[error("compression dictionary (use_dict {use_dict}, dict_size {dict_size})")]
    Dictionary {
        /// The field `use_dict` as stored.
        use_dict: u8,
        /// The field `dict_size` as stored, in bytes.
        dict_size: u32,
    },
    /// A compressed jump table, which no tool ever wrote.
    #[error("compressed jump table (flag bit 5)")]
    CompressedIndex,
}

/// Something odd that does not keep the content from being read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Warning {
    /// The header holds the final fields, but there is no trailer at the end of the file.
    #[error("the trailer is missing")]
    TrailerMissing,
    /// The header holds the final fields, and the trailer is damaged.
    #[error("the trailer is damaged")]
    TrailerDamaged(#[source] Corruption),
    /// The header holds the final fields, and the trailer says otherwise.
    #[error("the trailer differs from the header in {field}")]
    TrailerDiffers {
        /// The first field that differs, by its name in the format.
        field: &'static str,
    },
    /// The header, without a digest, claims to hold the final fields, but they are impossible; the trailer's
    /// were used.
    #[error("the header claims to be final, but is not")]
    HeaderImplausible,
}

/// A stored block that does not yield its content: the source of a [`ReadError`] of kind
/// [`Corrupt`](blob::ReadErrorKind::Corrupt).
#[derive(Debug, thiserror::Error)]
#[error("block {block}, stored at byte {stored_offset}")]
pub struct BlockError {
    /// Which block, counted from 0.
    pub block: u64,
    /// Where its stored bytes start, in bytes from the start of the ZFile.
    pub stored_offset: u64,
    /// What is wrong with it.
    #[source]
    pub fault: BlockFault,
}

/// What is wrong with a stored block.
#[derive(Debug, thiserror::Error)]
pub enum BlockFault {
    /// The checksum does not match the compressed bytes.
    #[error("checksum {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// The checksum as stored.
        found: u32,
        /// The checksum of the compressed bytes that are there.
        expected: u32,
    },
    /// The LZ4 decoder gave up: no LZ4 block, or one with more content than the block has.
    #[error("not an LZ4 block of the expected length")]
    Lz4(#[source] lz4_flex::block::DecompressError),
    /// The zstd decoder gave up: no zstd frame, or one with more content than the block has.
    #[error("not a zstd frame of the expected length: {reason}")]
    Zstd {
        /// The decoder's words.
        reason: &'static str,
    },
    /// The block does not begin with a standard zstd frame.
    #[error("not a standard zstd frame")]
    ZstdMagic,
    /// Something follows the zstd frame, where exactly one frame makes a block.
    #[error("zstd frame of {frame_bytes} bytes in a block of {payload_bytes}")]
    ZstdTrailing {
        /// Length of the first frame.
        frame_bytes: usize,
        /// Length of the block without its checksum.
        payload_bytes: usize,
    },
    /// The block decodes to less than it must.
    #[error("decodes to {found_bytes} bytes, expected {expected_bytes}")]
    Length {
        /// Bytes it decodes to.
        found_bytes: usize,
        /// Bytes that the position of the block in the content demands.
        expected_bytes: usize,
    },
    /// There was no memory for the decoder's state.
    #[error("out of memory for the decoder")]
    OutOfMemory,
}

/// Why a ZFile cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    /// The output failed.
    #[error("cannot write the ZFile")]
    Io(#[source] io::Error),
    /// The format has no such block size.
    #[error("block size {found}, expected a power of two from 4096 to 65536")]
    BlockSize {
        /// The block size asked for.
        found: u32,
    },
    /// The algorithm has no such level.
    #[error("{algorithm} level {found}, expected {min} to {max}")]
    Level {
        /// The algorithm.
        algorithm: Algorithm,
        /// The level asked for.
        found: i32,
        /// Lowest level.
        min: i32,
        /// Highest level.
        max: i32,
    },
    /// The compressor gave up.
    #[error("cannot compress block {block}: {reason}")]
    Compress {
        /// Which block, counted from 0.
        block: u64,
        /// The compressor's words.
        reason: String,
    },
    /// A block grew beyond what every known reader reads.
    #[error(
        "block {block} does not compress and takes {payload_bytes} bytes, more than the {max} that all readers \
         read; use blocks of 32 KiB or less"
    )]
    Oversized {
        /// Which block, counted from 0.
        block: u64,
        /// Its compressed length, without checksum.
        payload_bytes: usize,
        /// Longest payload that all readers read.
        max: usize,
    },
    /// More than a reader would open.
    #[error("{what} exceeds the limit of {max}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// How much a reader accepts.
        max: u64,
    },
    /// A block is not where the format has room for it: only the last one may be short, and none is empty or longer
    /// than the block size.
    #[error(
        "block {block} has {content_bytes} bytes, where only the last may have less than {block_size_bytes}"
    )]
    Misplaced {
        /// Which block, counted from 0.
        block: u64,
        /// Bytes of content in it, or in the one before it.
        content_bytes: usize,
        /// Bytes of content in a full block.
        block_size_bytes: u32,
    },
    /// No content was written; a ZFile holds at least one byte.
    #[error("a ZFile without content cannot be read by anyone")]
    Empty,
    /// An earlier write failed, so that what has been written is incomplete.
    #[error("an earlier write failed")]
    Broken,
    /// There was no memory for the compressor's state.
    #[error("out of memory for the compressor")]
    OutOfMemory,
}
