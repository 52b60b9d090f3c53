//! The layer that makes one disk of another.

use std::ops::Range;

use blob::PageBuffer;

use crate::content::{Content, ContentError, Empty};
use crate::error::BuildError;
use crate::layer::{self, LayerOptions, LayerWriter, Written};
use crate::parallel::{Buffers, in_order, threads};
use crate::walk::{PIECE_LEN_BYTES, Piece, Walk};
use crate::zeroes::is_zero;
use crate::{Output, Progress};

/// The largest granularity: that of the pieces in which disks are compared.
pub const MAX_GRANULARITY_BYTES: u32 = 1 << 20;
const _: () = assert!(MAX_GRANULARITY_BYTES as u64 == PIECE_LEN_BYTES);

/// Writes the layer that holds all of `new` that is not zero, looked at in units of `granularity_bytes`.
///
/// # Errors
///
/// When `new` cannot be read, or the layer not be written.
pub fn create(
    new: &dyn Content,
    granularity_bytes: u32,
    output: Output,
    options: &LayerOptions,
    progress: &dyn Progress,
) -> Result<Written, BuildError> {
    let nothing = Empty::new(new.len_bytes());
    diff(
        [&nothing, new],
        granularity_bytes,
        output,
        options,
        progress,
    )
}

/// Writes the layer that makes the second of two disks of one length of the first: no unit of `granularity_bytes` more
/// than differ. What is zero in the second only becomes a zeroed range, which takes no room.
///
/// The first must be what lies below the layer as it is seen below a layer of this size, which may be less or more than
/// the layers there state.
///
/// # Errors
///
/// When a disk cannot be read, or the layer not be written.
pub fn diff(
    sides: [&dyn Content; 2],
    granularity_bytes: u32,
    output: Output,
    options: &LayerOptions,
    progress: &dyn Progress,
) -> Result<Written, BuildError> {
    if !granularity_bytes.is_power_of_two()
        || !(512..=MAX_GRANULARITY_BYTES).contains(&granularity_bytes)
    {
        return Err(BuildError::Granularity {
            granularity_bytes,
            max: MAX_GRANULARITY_BYTES,
        });
    }
    let [_, new] = sides;
    let threads = match sides.iter().any(|side| side.is_stream()) {
        true => 1,
        false => threads(options.packing.threads),
    };
    let path = output.path().to_owned();
    let failed = |source| match source {
        lsmt::WriteError::TooManyRecords { max } => BuildError::TooManyRecords {
            max,
            granularity_bytes,
        },
        source => BuildError::Layer {
            path: path.clone(),
            source,
        },
    };
    progress.begin("comparing", Some(new.len_bytes()));
    let pieces = Walk::new(sides, 0..new.len_bytes(), granularity_bytes);
    let buffers = Buffers::default();
    layer::write(output, options, |writer| {
        in_order(
            threads,
            pieces.map(|piece| piece.map_err(BuildError::from)),
            |piece| Ok(compare(sides, piece, granularity_bytes, &buffers)?),
            |compared: Compared| {
                progress.advance(compared.piece.skipped_bytes + compared.piece.len_bytes as u64);
                compared.write(writer).map_err(failed)?;
                compared
                    .bytes
                    .into_iter()
                    .for_each(|buffer| buffers.give(buffer));
                Ok(())
            },
        )
    })
}

/// A piece of both disks, compared.
struct Compared {
    piece: Piece,
    /// The piece of the second disk; `None` where it is zero.
    bytes: Option<PageBuffer>,
    /// Where it differs from the first: by data, or, where `true`, by being zero. In bytes from the start of the piece.
    changes: Vec<(Range<usize>, bool)>,
}

impl Compared {
    fn write(&self, writer: &mut LayerWriter<'_>) -> Result<(), lsmt::WriteError> {
        for (range, is_zeroed) in &self.changes {
            let first_sector = (self.piece.offset + range.start as u64) / lsmt::SECTOR_LEN_BYTES;
            match (is_zeroed, &self.bytes) {
                (false, Some(bytes)) => {
                    let bytes = bytes.get(range.clone()).unwrap_or_default();
                    writer.data(first_sector, bytes)?;
                }
                _ => writer.zeroed(first_sector, range.len() as u64 / lsmt::SECTOR_LEN_BYTES)?,
            }
        }
        Ok(())
    }
}

fn compare(
    sides: [&dyn Content; 2],
    piece: Piece,
    granularity_bytes: u32,
    buffers: &Buffers,
) -> Result<Compared, ContentError> {
    let read = |side: &dyn Content, is_data: bool| {
        if !is_data {
            return Ok(None);
        }
        let mut bytes = buffers.take(piece.len_bytes);
        side.read_exact_at(&mut bytes, piece.offset)?;
        Ok::<_, ContentError>(Some(bytes))
    };
    let [base, new] = sides;
    let [base_is_data, new_is_data] = piece.is_data;
    let bytes = read(new, new_is_data)?;
    let base = read(base, base_is_data)?;
    let unit = usize::try_from(granularity_bytes).unwrap_or(usize::MAX);
    let mut changes: Vec<(Range<usize>, bool)> = Vec::new();
    for start in (0..piece.len_bytes).step_by(unit) {
        let range = start..start.saturating_add(unit).min(piece.len_bytes);
        let Some(is_zeroed) = change(base.as_deref(), bytes.as_deref(), range.clone()) else {
            continue;
        };
        match changes.last_mut() {
            Some((last, kind)) if last.end == range.start && *kind == is_zeroed => {
                last.end = range.end;
            }
            _ => changes.push((range, is_zeroed)),
        }
    }
    base.into_iter().for_each(|buffer| buffers.give(buffer));
    Ok(Compared {
        piece,
        bytes,
        changes,
    })
}

/// Whether a unit has changed, and if so, whether it has become zero. No bytes are zeroes.
fn change(base: Option<&[u8]>, new: Option<&[u8]>, range: Range<usize>) -> Option<bool> {
    let base = base.and_then(|bytes| bytes.get(range.clone()));
    let new = new.and_then(|bytes| bytes.get(range));
    match (base, new) {
        (Some(base), Some(new)) if base == new => None,
        (base, new) => {
            let is_zeroed = new.is_none_or(is_zero);
            let was_zero_too = is_zeroed && base.is_none_or(is_zero);
            (!was_zero_too).then_some(is_zeroed)
        }
    }
}
