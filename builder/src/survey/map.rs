//! The disk as a strip of cells, for drawings.

use image::Image;
use lsmt::{SECTOR_LEN_BYTES, Segment};
use serde::Serialize;

/// Most cells of a map, so that a drawing of any disk has a bounded size.
const MAX_CELLS: u64 = 1 << 16;

/// What a cell shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "from", content = "layer")]
pub enum Origin {
    /// No layer speaks of most of it, and there is no data.
    Hole,
    /// Layers say that most of it is zero, and there is no data.
    Zeroed,
    /// The layer that most of its data is of. Little data is shown all the same: a large disk is mostly holes.
    Data(u8),
}

/// A part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// What it shows.
    pub origin: Origin,
    /// Sectors of data, of whatever layer.
    pub data_sectors: u64,
    /// Sectors that a layer says are zero.
    pub zeroed_sectors: u64,
}

/// The whole disk in cells of one length, the last of which may be shorter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DiskMap {
    /// Length of a cell in sectors.
    pub cell_sectors: u64,
    /// Length of the disk in sectors.
    pub len_sectors: u64,
    /// The cells, in the order of the disk.
    pub cells: Vec<Cell>,
}

/// A map that would be too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a map of {cells} cells is larger than the limit of {MAX_CELLS}")]
pub struct MapError {
    /// Cells asked for.
    pub cells: u64,
}

impl DiskMap {
    /// A map of at most `max_cells` cells, each of a power of two of sectors, so that the edges of cells are round
    /// numbers. There is always one cell.
    ///
    /// # Errors
    ///
    /// When that are more cells than a map may have.
    pub fn new(image: &Image, max_cells: u64) -> Result<Self, MapError> {
        if max_cells > MAX_CELLS {
            return Err(MapError { cells: max_cells });
        }
        let len_sectors = image.disk().len_sectors();
        let least = len_sectors.div_ceil(max_cells.max(1));
        let cell_sectors = least.checked_next_power_of_two().unwrap_or(len_sectors);
        Ok(Self {
            cell_sectors,
            len_sectors,
            cells: cells(image.disk().segments(), len_sectors, cell_sectors),
        })
    }

    /// Sectors of the cell at `position`.
    #[must_use]
    pub fn sectors_of(&self, position: usize) -> u64 {
        let start = (position as u64).saturating_mul(self.cell_sectors);
        self.cell_sectors
            .min(self.len_sectors.saturating_sub(start))
    }

    /// Length of a cell in bytes.
    #[must_use]
    pub fn cell_len_bytes(&self) -> u64 {
        self.cell_sectors * SECTOR_LEN_BYTES
    }
}

fn cells(segments: &[Segment], len_sectors: u64, cell_sectors: u64) -> Vec<Cell> {
    let mut rest = segments.iter().peekable();
    let mut tally = Tally::default();
    let mut cells = Vec::new();
    let mut start = 0;
    while start < len_sectors {
        let end = (start + cell_sectors).min(len_sectors);
        while let Some(segment) = rest.peek() {
            let sectors = segment.disk_sectors();
            let inside = sectors
                .end
                .min(end)
                .saturating_sub(sectors.start.max(start));
            if inside > 0 {
                tally.add(segment, inside);
            }
            if sectors.end > end {
                break;
            }
            rest.next();
        }
        cells.push(tally.take(end - start));
        start = end;
    }
    cells
}

/// Sectors of one cell by what decides them.
struct Tally {
    by_layer: [u64; 256],
    layers: Vec<u8>,
    zeroed: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            by_layer: [0; 256],
            layers: Vec::new(),
            zeroed: 0,
        }
    }
}

impl Tally {
    fn add(&mut self, segment: &Segment, sectors: u64) {
        if segment.layer_sectors().is_none() {
            self.zeroed += sectors;
            return;
        }
        let layer = segment.layer();
        if let Some(count) = self.by_layer.get_mut(usize::from(layer)) {
            if *count == 0 {
                self.layers.push(layer);
            }
            *count += sectors;
        }
    }

    /// The cell of `len` sectors that has been counted; begins the next one.
    fn take(&mut self, len: u64) -> Cell {
        let (mut data_sectors, mut most) = (0, None);
        for layer in self.layers.drain(..) {
            let count = self.by_layer.get_mut(usize::from(layer));
            let count = count.map_or(0, std::mem::take);
            data_sectors += count;
            // Of equals the highest, whatever their order.
            most = most.max(Some((count, layer)));
        }
        let zeroed_sectors = std::mem::take(&mut self.zeroed);
        let origin = match most {
            Some((_, layer)) => Origin::Data(layer),
            None if zeroed_sectors * 2 >= len => Origin::Zeroed,
            None => Origin::Hole,
        };
        Cell {
            origin,
            data_sectors,
            zeroed_sectors,
        }
    }
}
