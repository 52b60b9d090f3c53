//! Opening: read header, trailer and jump table, and decide which of them to believe.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use blob::ReadAt;

use crate::checksum::{METADATA_SEED, raw_crc32c};
use crate::codec::Algorithm;
use crate::error::{Corruption, OpenError, Place, Warning};
use crate::format::{FILE_LEN_MIN_BYTES, HEADER_LEN_BYTES, TRAILER_LEN_BYTES};
use crate::header::{Geometry, Metadata};
use crate::jump_table::{Builder, JumpTable};

/// How much of the jump table is read at once, in bytes.
const INDEX_CHUNK_BYTES: usize = 1 << 20;

/// What a ZFile says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// How the blocks are compressed.
    pub algorithm: Algorithm,
    /// Content bytes per block, except in the last one: 4, 8, 16, 32 or 64 KiB.
    pub block_size_bytes: u32,
    /// Whether each block has a checksum.
    pub verify: bool,
    /// Length of the content.
    pub original_len_bytes: u64,
    /// Number of blocks.
    pub block_count: u64,
    /// Which copy of the metadata was used.
    pub index_source: Place,
    /// Whether that copy and the jump table have checksums. Files from before 2023-09 have none.
    pub has_digest: bool,
    /// Oddities that do not keep the content from being read.
    pub warnings: Vec<Warning>,
}

/// Opens the ZFile in `source`.
pub(crate) fn open(source: &impl ReadAt) -> Result<(Info, JumpTable), OpenError> {
    check_len(source, FILE_LEN_MIN_BYTES)?;
    let header = read_metadata(source, 0, Place::Header)?;
    if !header.claims_overwritten() {
        return open_by_trailer(source, &header, Vec::new());
    }
    match open_by_header(source, &header) {
        Err(error) if !matches!(error, OpenError::Read(_)) && !header.has_digest() => {
            // Without a digest the claim may be a garbage bit. A trailer that fits settles it; where there is
            // none, what is wrong with the header is the better thing to report.
            match open_by_trailer(source, &header, vec![Warning::HeaderImplausible]) {
                Err(
                    OpenError::Corrupt(_) | OpenError::Unsupported(_) | OpenError::Limit { .. },
                ) => Err(error),
                settled => settled,
            }
        }
        result => result,
    }
}

fn open_by_header(source: &impl ReadAt, header: &Metadata) -> Result<(Info, JumpTable), OpenError> {
    let geometry = Geometry::check(header, source.len_bytes())?;
    let table = read_table(source, &geometry)?;
    let warnings = trailer_warning(source, header, &geometry)?;
    let info = info(&geometry, Place::Header, warnings.into_iter().collect());
    Ok((info, table))
}

fn open_by_trailer(
    source: &impl ReadAt,
    header: &Metadata,
    mut warnings: Vec<Warning>,
) -> Result<(Info, JumpTable), OpenError> {
    check_len(source, FILE_LEN_MIN_BYTES.saturating_add(TRAILER_LEN_BYTES))?;
    let trailer_offset = source.len_bytes().saturating_sub(TRAILER_LEN_BYTES);
    let trailer = read_metadata(source, trailer_offset, Place::Trailer)?;
    if trailer.has_digest() != header.has_digest() {
        // One program writes both. A digest that is in one of them only has lost the bit that vouches for the rest.
        warnings.push(Warning::TrailerDiffers { field: "flags" });
    }
    let geometry = Geometry::check(&trailer, trailer_offset)?;
    let table = read_table(source, &geometry)?;
    Ok((info(&geometry, Place::Trailer, warnings), table))
}

/// The trailer of a file whose header is final is not needed, so whatever is wrong with it is no more than odd.
fn trailer_warning(
    source: &impl ReadAt,
    header: &Metadata,
    geometry: &Geometry,
) -> Result<Option<Warning>, OpenError> {
    let trailer_offset = source.len_bytes().checked_sub(TRAILER_LEN_BYTES);
    let Some(trailer_offset) = trailer_offset.filter(|offset| *offset >= geometry.index_end) else {
        return Ok(Some(Warning::TrailerMissing));
    };
    match read_metadata(source, trailer_offset, Place::Trailer) {
        Ok(trailer) => Ok(header
            .first_difference(&trailer)
            .map(|field| Warning::TrailerDiffers { field })),
        Err(OpenError::Corrupt(Corruption::Magic { .. })) => Ok(Some(Warning::TrailerMissing)),
        Err(OpenError::Corrupt(corruption)) => Ok(Some(Warning::TrailerDamaged(corruption))),
        Err(error) => Err(error),
    }
}

fn check_len(source: &impl ReadAt, expected_bytes: u64) -> Result<(), OpenError> {
    let found_bytes = source.len_bytes();
    if found_bytes >= expected_bytes {
        return Ok(());
    }
    Err(OpenError::Corrupt(Corruption::TooShort {
        found_bytes,
        expected_bytes,
    }))
}

fn read_metadata(source: &impl ReadAt, offset: u64, place: Place) -> Result<Metadata, OpenError> {
    let mut bytes = [0; HEADER_LEN_BYTES];
    source
        .read_exact_at(&mut bytes, offset)
        .map_err(OpenError::Read)?;
    Metadata::parse(bytes, place).map_err(OpenError::Corrupt)
}

fn read_table(source: &impl ReadAt, geometry: &Geometry) -> Result<JumpTable, OpenError> {
    let mut builder = Builder::new(geometry);
    let mut fault = None;
    let mut checksum = METADATA_SEED;
    let mut chunk = Vec::new();
    let mut offset = geometry.index_offset;
    while offset < geometry.index_end {
        let left = geometry.index_end.saturating_sub(offset);
        let chunk_bytes =
            usize::try_from(left).map_or(INDEX_CHUNK_BYTES, |left| left.min(INDEX_CHUNK_BYTES));
        chunk.resize(chunk_bytes, 0);
        source
            .read_exact_at(&mut chunk, offset)
            .map_err(OpenError::Read)?;
        checksum = raw_crc32c(checksum, &chunk);
        let (entries, _) = chunk.as_chunks();
        for entry in entries {
            if fault.is_none() {
                fault = builder.push(u32::from_le_bytes(*entry)).err();
            }
        }
        offset = offset.saturating_add(u64::try_from(chunk_bytes).unwrap_or(left));
    }
    // A wrong checksum explains a wrong entry, so it is looked at first.
    if let Some(found) = geometry.index_crc.filter(|found| *found != checksum) {
        return Err(OpenError::Corrupt(Corruption::IndexChecksum {
            found,
            expected: checksum,
        }));
    }
    match fault {
        Some(corruption) => Err(OpenError::Corrupt(corruption)),
        None => builder.finish().map_err(OpenError::Corrupt),
    }
}

fn info(geometry: &Geometry, index_source: Place, warnings: Vec<Warning>) -> Info {
    Info {
        algorithm: geometry.algorithm,
        block_size_bytes: geometry.block_size_bytes,
        verify: geometry.verify,
        original_len_bytes: geometry.original_len_bytes,
        block_count: geometry.block_count,
        index_source,
        has_digest: geometry.index_crc.is_some(),
        warnings,
    }
}
