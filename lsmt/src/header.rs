//! Header and trailer: bytes in, checked facts about the layer out.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::fmt;

use zerocopy::FromBytes;

use crate::error::{Corruption, Feature, OpenError, Part};
use crate::format::{
    FLAG_DATA_FILE, FLAG_GC, FLAG_HEADER, FLAG_HYBRID, FLAG_SEALED, FLAG_SPARSE, FLAGS_RESERVED,
    HEADER_END, MAGIC0, MAGIC1, MAX_INDEX_RECORDS, MAX_VIRTUAL_SIZE_BYTES, RECORD_LEN_BYTES,
    RawHeader, SECTOR_LEN_BYTES, UUID_LEN_BYTES, VERSION,
};

/// What the first bytes of a source announce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file with data: a read-only layer, or the data file of a read-write layer. [`Layer::open`] tells.
    ///
    /// [`Layer::open`]: crate::Layer::open
    ReadOnlyOrData,
    /// The index file of a read-write layer, which holds no data.
    IndexFile,
}

/// Says what a source is that starts with `head`, or `None` if its first bytes are not those of an LSMT file.
///
/// 32 bytes are enough; fewer are never recognised. The answer is no promise that the rest is sound.
#[must_use]
pub fn probe(head: &[u8]) -> Option<Kind> {
    let (magic0, rest) = <[u8; 8]>::read_from_prefix(head).ok()?;
    let (magic1, rest) = <[u8; 16]>::read_from_prefix(rest).ok()?;
    let (size_and_flags, _) = <[zerocopy::little_endian::U32; 2]>::read_from_prefix(rest).ok()?;
    let [_, flags] = size_and_flags;
    (magic0 == MAGIC0 && magic1 == MAGIC1).then_some(if flags.get() & FLAG_DATA_FILE != 0 {
        Kind::ReadOnlyOrData
    } else {
        Kind::IndexFile
    })
}

/// The name of a layer as stored: by custom 36 characters of a UUID and a NUL, but any 37 bytes are possible.
///
/// Informational only: writers fill it with hashes, with the nil UUID, or with nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uuid([u8; UUID_LEN_BYTES]);

impl Uuid {
    /// The nil UUID, by which the reference says "none".
    pub const NIL: Self = Self(*b"00000000-0000-0000-0000-000000000000\0");

    /// A UUID from its 36 characters, which are not checked.
    #[must_use]
    pub fn from_text(text: [u8; 36]) -> Self {
        let mut bytes = [0; UUID_LEN_BYTES];
        for (to, from) in bytes.iter_mut().zip(text) {
            *to = from;
        }
        Self(bytes)
    }

    pub(crate) fn from_bytes(bytes: [u8; UUID_LEN_BYTES]) -> Self {
        Self(bytes)
    }

    /// The bytes as stored.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; UUID_LEN_BYTES] {
        &self.0
    }

    /// Whether this means "none": the nil UUID, or no characters at all.
    #[must_use]
    pub fn is_nil(&self) -> bool {
        *self == Self::NIL || self.0.first() == Some(&0)
    }
}

/// The characters up to the first NUL, with everything unprintable escaped.
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.split(|byte| *byte == 0).next().unwrap_or_default();
        write!(f, "{}", text.escape_ascii())
    }
}

/// How a layer came to be, as far as its header shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderForm {
    /// Written in one go: no unused data.
    Committed,
    /// A read-write data file that was sealed where it was; it may hold data that no record refers to.
    SealedInPlace,
    /// The same from a sparse read-write file.
    SealedSparse,
}

/// Something odd that does not keep a layer from being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Header and trailer disagree; the trailer counts.
    HeaderDiffers {
        /// The field they disagree about.
        field: &'static str,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeaderDiffers { field } => {
                write!(
                    f,
                    "header and trailer differ in {field}; the trailer counts"
                )
            }
        }
    }
}

/// Checks a header. An error names what the file is, if it is of the family.
pub(crate) fn check_header(raw: &RawHeader) -> Result<HeaderForm, OpenError> {
    if !has_magic(raw) {
        return Err(OpenError::Corrupt(Corruption::HeaderMagic));
    }
    let flags = raw.flags.get();
    if flags & FLAG_HEADER == 0 {
        return Err(OpenError::Corrupt(Corruption::HeaderFlags { flags }));
    }
    if flags & FLAG_DATA_FILE == 0 {
        return Err(OpenError::Unsupported(Feature::IndexFile));
    }
    check_common(raw, Part::Header)?;
    Ok(if flags & FLAG_SPARSE != 0 {
        HeaderForm::SealedSparse
    } else if flags & FLAG_SEALED != 0 {
        HeaderForm::Committed
    } else {
        HeaderForm::SealedInPlace
    })
}

/// What a layer is whose header is sound but which does not end with a trailer.
pub(crate) fn without_trailer(header: &RawHeader) -> OpenError {
    if header.flags.get() & FLAG_SEALED != 0 {
        OpenError::Corrupt(Corruption::TrailerMissing)
    } else {
        OpenError::Unsupported(Feature::Unsealed)
    }
}

/// Where the index is and how long the disk; what a sound trailer says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) virtual_size_bytes: u64,
    pub(crate) index_offset: u64,
    /// At most [`MAX_INDEX_RECORDS`].
    pub(crate) record_count: usize,
}

/// Checks a trailer at byte `trailer_offset`, which is at least 4096.
pub(crate) fn check_trailer(
    header: &RawHeader,
    trailer: &RawHeader,
    trailer_offset: u64,
) -> Result<Geometry, OpenError> {
    if !has_magic(trailer) {
        return Err(without_trailer(header));
    }
    let flags = trailer.flags.get();
    if flags & (FLAG_HEADER | FLAG_DATA_FILE | FLAG_SEALED) != FLAG_DATA_FILE | FLAG_SEALED {
        return Err(OpenError::Corrupt(Corruption::TrailerFlags { flags }));
    }
    check_common(trailer, Part::Trailer)?;

    let virtual_size_bytes = trailer.virtual_size.get();
    check_virtual_size(virtual_size_bytes)?;
    let (index_offset, record_count) = check_index_place(trailer, trailer_offset)?;
    Ok(Geometry {
        virtual_size_bytes,
        index_offset,
        record_count,
    })
}

/// The rules for the size of a disk, which may be 0.
pub(crate) fn check_virtual_size(virtual_size_bytes: u64) -> Result<(), OpenError> {
    if virtual_size_bytes > MAX_VIRTUAL_SIZE_BYTES {
        return Err(OpenError::Limit {
            what: "virtual size in bytes",
            value: virtual_size_bytes,
            max: MAX_VIRTUAL_SIZE_BYTES,
        });
    }
    if !virtual_size_bytes.is_multiple_of(SECTOR_LEN_BYTES) {
        return Err(OpenError::Corrupt(Corruption::VirtualSizeUnaligned {
            virtual_size_bytes,
        }));
    }
    Ok(())
}

fn check_index_place(trailer: &RawHeader, trailer_offset: u64) -> Result<(u64, usize), OpenError> {
    let stored_count = trailer.index_size.get();
    let record_count = usize::try_from(stored_count)
        .ok()
        .filter(|_| stored_count <= MAX_INDEX_RECORDS)
        .ok_or(OpenError::Limit {
            what: "number of index records",
            value: stored_count,
            max: MAX_INDEX_RECORDS,
        })?;
    let index_offset = trailer.index_offset.get();
    if index_offset < HEADER_END {
        return Err(OpenError::Corrupt(Corruption::IndexInHeader {
            index_offset,
        }));
    }
    if !index_offset.is_multiple_of(SECTOR_LEN_BYTES) {
        return Err(OpenError::Corrupt(Corruption::IndexUnaligned {
            index_offset,
        }));
    }
    stored_count
        .checked_mul(RECORD_LEN_BYTES)
        .and_then(|len_bytes| index_offset.checked_add(len_bytes))
        .filter(|end| *end <= trailer_offset)
        .ok_or(OpenError::Corrupt(Corruption::IndexBeyondTrailer {
            index_offset,
            record_count: stored_count,
            trailer_offset,
        }))?;
    Ok((index_offset, record_count))
}

/// Where header and trailer disagree.
pub(crate) fn compare(header: &RawHeader, trailer: &RawHeader) -> Vec<Warning> {
    [
        ("virtual size", header.virtual_size != trailer.virtual_size),
        ("UUID", header.uuid != trailer.uuid),
        ("parent UUID", header.parent_uuid != trailer.parent_uuid),
        ("user tag", header.user_tag != trailer.user_tag),
    ]
    .into_iter()
    .filter(|(_, differs)| *differs)
    .map(|(field, _)| Warning::HeaderDiffers { field })
    .collect()
}

pub(crate) fn has_magic(raw: &RawHeader) -> bool {
    raw.magic0 == MAGIC0 && raw.magic1 == MAGIC1
}

/// The rules that header and trailer share.
pub(crate) fn check_common(raw: &RawHeader, part: Part) -> Result<(), OpenError> {
    let flags = raw.flags.get();
    if flags & FLAG_HYBRID != 0 {
        return Err(OpenError::Unsupported(Feature::Hybrid));
    }
    if flags & FLAG_GC != 0 {
        return Err(OpenError::Unsupported(Feature::GarbageCollection));
    }
    if flags & FLAGS_RESERVED != 0 {
        return Err(OpenError::Corrupt(Corruption::ReservedFlags {
            part,
            flags,
        }));
    }
    let (major, minor) = (raw.version, raw.sub_version);
    if (major, minor) != VERSION {
        return Err(OpenError::Unsupported(Feature::Version {
            part,
            major,
            minor,
        }));
    }
    Ok(())
}
