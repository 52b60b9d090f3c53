//! From the bytes of a header or trailer to a checked description of the file.
//!
//! Two steps: [`Metadata::parse`] decides whether 512 bytes are a header or trailer at all, and
//! [`Geometry::check`] whether what they declare can be. Which of the two copies to believe is decided by the
//! reader, for that takes I/O.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use zerocopy::IntoBytes;

use crate::checksum::{METADATA_SEED, raw_crc32c};
use crate::codec::Algorithm;
use crate::error::{Corruption, Feature, OpenError, Place};
use crate::format::{
    ALGORITHM_MINI_LZO, BLOCK_SIZE_MAX_BYTES, BLOCK_SIZE_MIN_BYTES, BLOCKS_MAX, CHECKSUM_LEN_BYTES,
    CONTENT_MAX_BYTES, DATA_START, ENTRY_LEN_BYTES, FLAG_COMPRESSED_INDEX, FLAG_DATA, FLAG_DIGEST,
    FLAG_HEADER, FLAG_OVERWRITTEN, FLAG_SEALED, HEADER_LEN_BYTES, KNOWN_FLAGS, MAGIC, RawFields,
    RawHeader,
};

/// Whether `head`, the first bytes of a blob, carries the ZFile magic (24 bytes).
///
/// Fewer than 24 bytes carry none. Whether the rest of the header makes sense is for
/// [`ZFile::open`](crate::ZFile::open) to say.
#[must_use]
pub fn is_zfile(head: &[u8]) -> bool {
    head.starts_with(&MAGIC)
}

/// The digest of a header or trailer: a checksum of all of it, with the digest itself taken as zero.
pub(crate) fn digest(raw: &RawHeader) -> u32 {
    let mut raw = *raw;
    raw.fields.digest.set(0);
    raw_crc32c(METADATA_SEED, raw.as_bytes())
}

/// A header or trailer that is one: magic, flags and (where there is one) digest are right. Its other fields
/// are as stored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Metadata {
    fields: RawFields,
}

impl Metadata {
    /// Checks that `bytes` are the header, or the trailer, of a data file.
    pub(crate) fn parse(bytes: [u8; HEADER_LEN_BYTES], place: Place) -> Result<Self, Corruption> {
        let raw: RawHeader = zerocopy::transmute!(bytes);
        let fields = raw.fields;
        if fields.magic != MAGIC {
            return Err(Corruption::Magic { place });
        }
        check_place(fields.flags.get(), place)?;
        if fields.flags.get() & FLAG_DIGEST != 0 {
            check_digest(&raw, place)?;
            check_reserved(&raw, place)?;
        }
        Ok(Self { fields })
    }

    /// Whether digest and jump table checksum mean something. Without it, only the lowest four flag bits do.
    pub(crate) fn has_digest(&self) -> bool {
        self.fields.flags.get() & FLAG_DIGEST != 0
    }

    /// Whether this header claims to hold the final fields. In a file from 2021 the claim can be garbage.
    pub(crate) fn claims_overwritten(&self) -> bool {
        self.fields.flags.get() & FLAG_OVERWRITTEN != 0
    }

    /// The name of the first field with a meaning that differs between header and trailer.
    pub(crate) fn first_difference(&self, other: &Self) -> Option<&'static str> {
        let (a, b) = (&self.fields, &other.fields);
        [
            ("flags", self.has_digest() != other.has_digest()),
            ("index_offset", a.index_offset != b.index_offset),
            ("index_size", a.index_size != b.index_size),
            (
                "original_file_size",
                a.original_file_size != b.original_file_size,
            ),
            ("index_crc", self.has_digest() && a.index_crc != b.index_crc),
            ("block_size", a.block_size != b.block_size),
            ("algo", a.algo != b.algo),
            ("use_dict", a.use_dict != b.use_dict),
            ("dict_size", a.dict_size != b.dict_size),
            ("verify", a.verify != b.verify),
        ]
        .into_iter()
        .find_map(|(field, differs)| differs.then_some(field))
    }
}

fn check_place(flags: u64, place: Place) -> Result<(), Corruption> {
    let (mask, expected) = match place {
        // Whether a header is sealed means nothing: an overwritten one is not, a plain one may be.
        Place::Header => (FLAG_HEADER | FLAG_DATA, FLAG_HEADER | FLAG_DATA),
        Place::Trailer => (
            FLAG_HEADER | FLAG_DATA | FLAG_SEALED,
            FLAG_DATA | FLAG_SEALED,
        ),
    };
    if flags & mask == expected {
        return Ok(());
    }
    Err(Corruption::Flags {
        place,
        found: flags,
        expected,
    })
}

fn check_digest(raw: &RawHeader, place: Place) -> Result<(), Corruption> {
    let (found, expected) = (raw.fields.digest.get(), digest(raw));
    if found == expected {
        return Ok(());
    }
    Err(Corruption::Digest {
        place,
        found,
        expected,
    })
}

/// Only where a digest vouches for the bytes: without one they are garbage in blobs that are in wide use.
fn check_reserved(raw: &RawHeader, place: Place) -> Result<(), Corruption> {
    let found = raw.fields.flags.get();
    if found & !KNOWN_FLAGS != 0 {
        return Err(Corruption::UnknownFlags { place, found });
    }
    for (offset, found) in (size_of::<RawFields>()..).zip(raw.tail) {
        if found != 0 {
            return Err(Corruption::Reserved {
                place,
                offset,
                found,
            });
        }
    }
    Ok(())
}

/// Where everything is, all of it checked against the length of the source.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    pub(crate) algorithm: Algorithm,
    pub(crate) block_size_bytes: u32,
    pub(crate) verify: bool,
    pub(crate) original_len_bytes: u64,
    pub(crate) block_count: u64,
    /// Where the jump table starts, which is where the last block ends.
    pub(crate) index_offset: u64,
    /// Where the jump table ends.
    pub(crate) index_end: u64,
    /// Checksum of the jump table, where it means something.
    pub(crate) index_crc: Option<u32>,
}

impl Geometry {
    /// Checks what `metadata` declares. The jump table must end at byte `index_limit` at the latest.
    pub(crate) fn check(metadata: &Metadata, index_limit: u64) -> Result<Self, OpenError> {
        let fields = &metadata.fields;
        if metadata.has_digest() && fields.flags.get() & FLAG_COMPRESSED_INDEX != 0 {
            return Err(OpenError::Unsupported(Feature::CompressedIndex));
        }
        let algorithm = check_compression(fields)?;
        let block_size_bytes = fields.block_size.get();
        let verify = match fields.verify {
            0 => false,
            1 => true,
            found => return Err(OpenError::Corrupt(Corruption::Verify { found })),
        };
        let original_len_bytes = fields.original_file_size.get();
        let block_count = check_counts(fields)?;
        let index_offset = fields.index_offset.get();
        let index_end = block_count
            .checked_mul(ENTRY_LEN_BYTES)
            .and_then(|index_bytes| index_bytes.checked_add(index_offset))
            .filter(|index_end| index_offset >= DATA_START && *index_end <= index_limit)
            .ok_or(OpenError::Corrupt(Corruption::IndexRange {
                offset: index_offset,
                entries: block_count,
                end: index_limit,
            }))?;
        Ok(Self {
            algorithm,
            block_size_bytes,
            verify,
            original_len_bytes,
            block_count,
            index_offset,
            index_end,
            index_crc: metadata.has_digest().then(|| fields.index_crc.get()),
        })
    }

    /// Bytes of a stored block that are not payload.
    pub(crate) fn overhead_bytes(&self) -> u32 {
        if self.verify { CHECKSUM_LEN_BYTES } else { 0 }
    }
}

/// Whether `size` is a block size that the format has.
pub(crate) fn is_block_size(size: u32) -> bool {
    size.is_power_of_two() && (BLOCK_SIZE_MIN_BYTES..=BLOCK_SIZE_MAX_BYTES).contains(&size)
}

fn check_compression(fields: &RawFields) -> Result<Algorithm, OpenError> {
    let block_size = fields.block_size.get();
    if !is_block_size(block_size) {
        return Err(OpenError::Corrupt(Corruption::BlockSize {
            found: block_size,
        }));
    }
    if fields.algo == ALGORITHM_MINI_LZO {
        return Err(OpenError::Unsupported(Feature::MiniLzo));
    }
    let (use_dict, dict_size) = (fields.use_dict, fields.dict_size.get());
    if use_dict != 0 || dict_size != 0 {
        return Err(OpenError::Unsupported(Feature::Dictionary {
            use_dict,
            dict_size,
        }));
    }
    Algorithm::from_number(fields.algo).ok_or(OpenError::Corrupt(Corruption::Algorithm {
        found: fields.algo,
    }))
}

/// The number of blocks, if content and jump table agree on it. The block size has been checked.
fn check_counts(fields: &RawFields) -> Result<u64, OpenError> {
    let content_bytes = fields.original_file_size.get();
    if content_bytes == 0 {
        return Err(OpenError::Corrupt(Corruption::EmptyContent));
    }
    check_limit("content length", content_bytes, CONTENT_MAX_BYTES)?;
    let expected = content_bytes.div_ceil(u64::from(fields.block_size.get()));
    let found = fields.index_size.get();
    if found != expected {
        return Err(OpenError::Corrupt(Corruption::BlockCount {
            found,
            expected,
        }));
    }
    check_limit("number of blocks", found, BLOCKS_MAX)?;
    Ok(found)
}

fn check_limit(what: &'static str, value: u64, max: u64) -> Result<(), OpenError> {
    if value <= max {
        return Ok(());
    }
    Err(OpenError::Limit { what, value, max })
}
