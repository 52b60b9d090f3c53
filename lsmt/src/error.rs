//! Everything that can be wrong with a layer, a stack, or a read.

use std::fmt;

use blob::{ReadError, ReadErrorKind};

use crate::header::Uuid;

/// Why a source cannot be opened as a layer.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The source did not deliver the bytes.
    #[error("cannot read the layer")]
    Read(#[from] ReadError),
    /// The bytes break a rule of the format.
    #[error("damaged layer: {0}")]
    Corrupt(Corruption),
    /// The bytes are sound but something this crate does not read.
    #[error("not supported: {0}")]
    Unsupported(Feature),
    /// A number is larger than this crate accepts.
    #[error("{what} {value} is more than the limit of {max}")]
    Limit {
        /// What the number counts, with its unit.
        what: &'static str,
        /// The number found.
        value: u64,
        /// The largest number accepted.
        max: u64,
    },
}

/// The rule of the format that a layer breaks. One variant per check; positions are bytes unless named
/// otherwise, and records count from 0 as they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Corruption {
    /// The source is too short even for a header.
    #[error("{len_bytes} bytes are too short for a layer")]
    TooShort {
        /// Length of the source.
        len_bytes: u64,
    },
    /// The source does not start with the magic of a layer.
    #[error("the header has no LSMT magic")]
    HeaderMagic,
    /// The first header of the source does not call itself a header.
    #[error("the header's flags {flags:#x} say that it is none")]
    HeaderFlags {
        /// All flags of the header.
        flags: u32,
    },
    /// Flags that have no meaning are set.
    #[error("the {part} has reserved flags set: {flags:#x}")]
    ReservedFlags {
        /// Where they are.
        part: Part,
        /// All flags of that part.
        flags: u32,
    },
    /// The header says "sealed", but the source does not end with a trailer.
    #[error("a sealed layer, but no trailer in its last 4096 bytes: truncated, or extended")]
    TrailerMissing,
    /// There is a trailer whose flags do not say "trailer, data file, sealed".
    #[error("the trailer's flags are {flags:#x}, expected trailer, data file and sealed")]
    TrailerFlags {
        /// All flags of the trailer.
        flags: u32,
    },
    /// The disk would end within a sector.
    #[error("virtual size {virtual_size_bytes} is not a multiple of 512")]
    VirtualSizeUnaligned {
        /// The size found.
        virtual_size_bytes: u64,
    },
    /// The index would lie in the header.
    #[error("the index starts at byte {index_offset}, inside the header")]
    IndexInHeader {
        /// Start of the index.
        index_offset: u64,
    },
    /// The index does not start at a sector.
    #[error("the index starts at byte {index_offset}, not a multiple of 512")]
    IndexUnaligned {
        /// Start of the index.
        index_offset: u64,
    },
    /// The index reaches into the trailer or beyond the end.
    #[error(
        "an index of {record_count} records at byte {index_offset} does not end before the trailer at byte {trailer_offset}"
    )]
    IndexBeyondTrailer {
        /// Start of the index.
        index_offset: u64,
        /// Records in it.
        record_count: u64,
        /// Start of the trailer.
        trailer_offset: u64,
    },
    /// The layer ends within a sector.
    #[error("the length of {len_bytes} bytes is not a multiple of 512")]
    LengthUnaligned {
        /// Length of the source.
        len_bytes: u64,
    },
    /// A record of no sectors.
    #[error("record {record} has length 0")]
    RecordEmpty {
        /// Number of the record.
        record: usize,
    },
    /// A record ends beyond the last sector that the format can express.
    #[error("record {record} ends at sector {end_sector}, beyond what the format can express")]
    RecordTooFar {
        /// Number of the record.
        record: usize,
        /// Disk sector after its last.
        end_sector: u64,
    },
    /// A record starts before the end of the one before it.
    #[error(
        "record {record} starts at sector {first_sector}, before sector {previous_end_sector}, where the one before ends"
    )]
    RecordOrder {
        /// Number of the record.
        record: usize,
        /// Its first disk sector.
        first_sector: u64,
        /// Disk sector after the last of the record before.
        previous_end_sector: u64,
    },
    /// A record's data is not between the header and the index.
    #[error(
        "record {record} has its data at layer sectors {mapped_sector} + {len_sectors}, not between 8 and {index_sector}"
    )]
    DataOutOfBounds {
        /// Number of the record.
        record: usize,
        /// First sector of its data in the layer.
        mapped_sector: u64,
        /// Sectors of data.
        len_sectors: u64,
        /// Sector where the index starts, the end of all data.
        index_sector: u64,
    },
    /// A zeroed record notes a position that is not between the header and the index.
    #[error(
        "zeroed record {record} notes layer sector {mapped_sector}, not between 8 and {index_sector}"
    )]
    ZeroedOutOfBounds {
        /// Number of the record.
        record: usize,
        /// The sector it notes.
        mapped_sector: u64,
        /// Sector where the index starts, the end of all data.
        index_sector: u64,
    },
}

/// The two places where a layer describes itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The first 4096 bytes.
    Header,
    /// The last 4096 bytes.
    Trailer,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Trailer => "trailer",
        })
    }
}

/// A kind of file from the same family that this crate recognises and refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Feature {
    /// The index file of a read-write layer.
    #[error("index file of a read-write layer; commit or seal that layer first")]
    IndexFile,
    /// The data file of a read-write layer.
    #[error(
        "read-write data file that was never sealed; commit or seal it first, or a truncated layer"
    )]
    Unsealed,
    /// A private read-write layout of the AgentENV implementation.
    #[error("hybrid read-write layer (flag bit 5)")]
    Hybrid,
    /// A layer kind that the format names but does not describe.
    #[error("gc layer (flag bit 3)")]
    GarbageCollection,
    /// A layer whose records point into an external archive. Such a layer is told from an ordinary one only by
    /// records that make no sense in it; one whose records all happen to make sense is not recognised here, so
    /// the image configuration has to be asked, too.
    #[error(
        "looks like a turboOCI (warp) layer: records with a tag that point into an external tar"
    )]
    TurboOci,
    /// Another version of the format.
    #[error("version {major}.{minor} of the format in the {part}, expected 1.1")]
    Version {
        /// Where it is.
        part: Part,
        /// Version found.
        major: u8,
        /// Sub-version found.
        minor: u8,
    },
}

/// Why a read-write layer cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnsealedError {
    /// The data file cannot be used.
    #[error("data file")]
    Data(#[source] OpenError),
    /// The index file cannot be used.
    #[error("index file")]
    Index(#[source] OpenError),
    /// The data file is sealed: it has its index in itself.
    #[error("the data file is sealed: it has its index in itself, and needs no index file")]
    Sealed,
    /// The data file is the disk itself, with holes, and has no index file.
    #[error("the data file is sparse: its holes are its index, and it needs no index file")]
    Sparse,
    /// The data file is of the form that has an index file.
    #[error("the data file needs its index file (writable_index)")]
    NotSparse,
    /// What was given as the index file is something else.
    #[error("not an index file: its flags are {flags:#x}; are data and index file swapped?")]
    NotAnIndex {
        /// All flags of its header.
        flags: u32,
    },
    /// Data file and index file belong to different layers.
    #[error("the data file is of layer {data}, the index file of layer {index}")]
    OfAnother {
        /// Name in the data file.
        data: Uuid,
        /// Name in the index file.
        index: Uuid,
    },
    /// A record makes no sense.
    #[error("record {number} of the index file {fault}")]
    Record {
        /// Number of the record, from 0 as they are stored.
        number: u64,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The layer has more segments than [`MAX_SEGMENTS`](crate::MAX_SEGMENTS).
    #[error("the layer has more segments than the limit of {max}")]
    TooManySegments {
        /// Segments accepted.
        max: usize,
    },
}

/// Why layers, each good in itself, do not make a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StackError {
    /// A disk needs at least one layer.
    #[error("no layers")]
    NoLayers,
    /// More layers than [`MAX_LAYERS`](crate::MAX_LAYERS).
    #[error("{count} layers are more than the limit of {max}")]
    TooManyLayers {
        /// Layers given.
        count: usize,
        /// Layers accepted.
        max: usize,
    },
    /// Every layer has virtual size 0, so nobody knows how long the disk is.
    #[error("no layer states a virtual size")]
    NoVirtualSize,
    /// The merged index, or that of some neighbouring layers on the way to it, has more segments than
    /// [`MAX_SEGMENTS`](crate::MAX_SEGMENTS).
    #[error("the merged index has more segments than the limit of {max}")]
    TooManySegments {
        /// Segments accepted.
        max: usize,
    },
}

/// A read of one layer that failed while a disk was read; the source of the disk's [`ReadError`].
#[derive(Debug, thiserror::Error)]
#[error("layer {ordinal}, byte {layer_offset}")]
pub struct LayerReadError {
    /// Which layer; 0 is the lowest.
    pub ordinal: u8,
    /// First byte of the layer that was asked for.
    pub layer_offset: u64,
    /// What the layer's source said.
    pub source: ReadError,
}

impl LayerReadError {
    /// The same failure as an error of the disk, at the byte of the disk that was wanted.
    ///
    /// Keeps the kind, except that `OutOfRange` becomes `Io`: a layer that ends too early is no mistake of
    /// whoever reads the disk.
    #[must_use]
    pub fn at_disk_offset(self, disk_offset: u64) -> ReadError {
        let kind = match self.source.kind() {
            ReadErrorKind::OutOfRange => ReadErrorKind::Io,
            kind => kind,
        };
        ReadError::new(kind, disk_offset).with_source(self)
    }
}

/// Why a layer cannot be written. What was written so far is of no use.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output did not take the bytes.
    #[error("cannot write the layer")]
    Io(#[from] std::io::Error),
    /// A virtual size that [`Layer::open`](crate::Layer::open) would refuse.
    #[error("virtual size {virtual_size_bytes} is not a multiple of 512 up to {max}")]
    VirtualSize {
        /// The size given, in bytes.
        virtual_size_bytes: u64,
        /// The largest size, in bytes.
        max: u64,
    },
    /// A user tag that does not fit together with the NUL that ends it.
    #[error("a user tag of {len_bytes} bytes is longer than {max}")]
    UserTagTooLong {
        /// Length given.
        len_bytes: usize,
        /// Longest length.
        max: usize,
    },
    /// Data that is not whole sectors.
    #[error("{len_bytes} bytes of data are not whole sectors")]
    PartialSector {
        /// Length given.
        len_bytes: usize,
    },
    /// A range that does not follow the one before it.
    #[error(
        "sector {first_sector} comes before sector {previous_end_sector}, where the range before ends"
    )]
    OutOfOrder {
        /// First disk sector given.
        first_sector: u64,
        /// Disk sector after the last of the range before.
        previous_end_sector: u64,
    },
    /// A range that ends beyond the layer's virtual size.
    #[error("{len_sectors} sectors at sector {first_sector} end beyond sector {max_sector}")]
    BeyondEnd {
        /// First disk sector given.
        first_sector: u64,
        /// Sectors given.
        len_sectors: u64,
        /// Sectors that the layer can speak of.
        max_sector: u64,
    },
    /// More records than a layer may have.
    #[error("the layer needs more records than the limit of {max}")]
    TooManyRecords {
        /// Records accepted.
        max: usize,
    },
}
