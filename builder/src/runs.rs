//! From what layers decide to one layer that decides the same.

use std::iter::Peekable;

use blob::{PageBuffer, ReadAt};
use lsmt::{SECTOR_LEN_BYTES, Segment};

use crate::content::{Content, Stack};
use crate::error::BuildError;
use crate::layer::LayerWriter;
use crate::parallel::{Buffers, in_order};
use crate::{Progress, layer};

/// Disk that is read at a time, in sectors: 1 MiB.
const SPAN_SECTORS: u64 = 2048;
/// Committers copy data in pieces of so many sectors from the start of a run, which decides where long runs are cut.
const COPY_PIECE_SECTORS: u64 = 64;
/// Runs that are copied at a time.
const MAX_RUNS: usize = 4096;

/// A run of disk sectors that a layer decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first_sector: u64,
    pub(crate) len_sectors: u64,
    /// Where its data is in the layer, in bytes; `None` when it is zero.
    layer_offset: Option<u64>,
}

impl Run {
    pub(crate) fn of(segment: &Segment) -> Self {
        let disk = segment.disk_sectors();
        let layer = segment.layer_sectors();
        Self {
            first_sector: disk.start,
            len_sectors: disk.end - disk.start,
            layer_offset: layer.map(|sectors| sectors.start * SECTOR_LEN_BYTES),
        }
    }

    pub(crate) fn is_zeroed(&self) -> bool {
        self.layer_offset.is_none()
    }

    fn end_sector(&self) -> u64 {
        self.first_sector + self.len_sectors
    }
}

/// Bytes of data that runs have.
pub(crate) fn data_bytes(runs: impl Iterator<Item = Run>) -> u64 {
    let data = runs.filter(|run| !run.is_zeroed());
    data.map(|run| run.len_sectors * SECTOR_LEN_BYTES).sum()
}

/// Where the data of runs is.
pub(crate) trait RunSource: Sync {
    /// Fills `bytes` with what the disk holds from sector `first_sector` on. `runs` are those that lie there; what lies
    /// between them does not matter.
    fn read(&self, first_sector: u64, runs: &[Run], bytes: &mut [u8]) -> Result<(), BuildError>;
}

impl RunSource for Stack {
    fn read(&self, first_sector: u64, _runs: &[Run], bytes: &mut [u8]) -> Result<(), BuildError> {
        Ok(self.read_exact_at(bytes, first_sector * SECTOR_LEN_BYTES)?)
    }
}

/// A read-write layer and the name of its data file.
pub(crate) struct UnsealedSource<'a, S> {
    pub(crate) layer: &'a lsmt::Unsealed<S>,
    pub(crate) path: &'a std::path::Path,
}

impl<S: ReadAt> RunSource for UnsealedSource<'_, S> {
    fn read(&self, first_sector: u64, runs: &[Run], bytes: &mut [u8]) -> Result<(), BuildError> {
        for run in runs {
            let Some(layer_offset) = run.layer_offset else {
                continue;
            };
            let room = part(bytes, first_sector, run).unwrap_or_default();
            self.layer
                .source()
                .read_exact_at(room, layer_offset)
                .map_err(|error| BuildError::Read {
                    path: self.path.to_owned(),
                    source: error.into(),
                })?;
        }
        Ok(())
    }
}

/// The bytes of a run, in those from `first_sector` on.
fn part<'a>(bytes: &'a mut [u8], first_sector: u64, run: &Run) -> Option<&'a mut [u8]> {
    let start = (run.first_sector - first_sector) * SECTOR_LEN_BYTES;
    let len = usize::try_from(run.len_sectors * SECTOR_LEN_BYTES).ok()?;
    bytes
        .get_mut(usize::try_from(start).ok()?..)?
        .get_mut(..len)
}

/// Copies `runs`, which are in order, to `writer`.
pub(crate) fn copy(
    runs: impl Iterator<Item = Run>,
    source: &dyn RunSource,
    writer: &mut LayerWriter<'_>,
    threads: usize,
    (path, progress): (&std::path::Path, &dyn Progress),
) -> Result<(), BuildError> {
    let buffers = Buffers::default();
    let batches = Batches {
        runs: runs.peekable(),
    };
    let read = |batch: Batch| {
        let len = usize::try_from(batch.len_sectors * SECTOR_LEN_BYTES).unwrap_or_default();
        let mut bytes = buffers.take(len);
        source.read(batch.first_sector, &batch.runs, &mut bytes)?;
        Ok((batch, bytes))
    };
    let write = |(batch, mut bytes): (Batch, PageBuffer)| {
        for run in &batch.runs {
            match run.is_zeroed() {
                true => writer.zeroed(run.first_sector, run.len_sectors),
                false => {
                    let bytes = part(&mut bytes, batch.first_sector, run).unwrap_or_default();
                    progress.advance(bytes.len() as u64);
                    writer.data(run.first_sector, bytes)
                }
            }
            .map_err(layer::failed(path))?;
        }
        buffers.give(bytes);
        Ok(())
    };
    in_order(threads, batches.map(Ok), read, write)
}

/// Runs that are copied together, and the part of the disk that has all their data.
struct Batch {
    first_sector: u64,
    len_sectors: u64,
    runs: Vec<Run>,
}

struct Batches<I: Iterator> {
    runs: Peekable<I>,
}

impl<I: Iterator<Item = Run>> Iterator for Batches<I> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let mut batch = Batch {
            first_sector: 0,
            len_sectors: 0,
            runs: Vec::new(),
        };
        while let Some(run) = self.runs.peek_mut().filter(|_| batch.runs.len() < MAX_RUNS) {
            let taken = match run.is_zeroed() {
                true => *run,
                false => {
                    if batch.len_sectors == 0 {
                        batch.first_sector = run.first_sector;
                    }
                    let room = (batch.first_sector + SPAN_SECTORS).saturating_sub(run.first_sector);
                    let Some(taken) = front(run, room) else {
                        break;
                    };
                    batch.len_sectors = taken.end_sector() - batch.first_sector;
                    taken
                }
            };
            batch.runs.push(taken);
            match taken.len_sectors == run.len_sectors {
                true => self.runs.next(),
                false => {
                    *run = behind(run, taken.len_sectors);
                    break;
                }
            };
        }
        Some(batch).filter(|batch| !batch.runs.is_empty())
    }
}

/// As much of the front of a run as fits into `room` sectors, if anything does: all of it, or whole pieces.
fn front(run: &Run, room: u64) -> Option<Run> {
    let len_sectors = match run.len_sectors <= room {
        true => run.len_sectors,
        false => room - room % COPY_PIECE_SECTORS,
    };
    (len_sectors > 0).then_some(Run {
        len_sectors,
        ..*run
    })
}

/// What of a run is left behind its first sectors.
fn behind(run: &Run, sectors: u64) -> Run {
    Run {
        first_sector: run.first_sector + sectors,
        len_sectors: run.len_sectors - sectors,
        layer_offset: run
            .layer_offset
            .map(|offset| offset + sectors * SECTOR_LEN_BYTES),
    }
}
