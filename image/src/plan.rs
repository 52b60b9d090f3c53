//! Where the bytes of a read come from, step by step. No I/O.

use std::ops::Range;

use blob::{ReadAt, ReadError, ReadErrorKind, Window};
use lsmt::{Extent, Layer};
use zfile::BlockRun;

use crate::source::{Bytes, Source};
use crate::{Image, ReadFailure};

/// Most bytes of the disk in one plan. Bounds what a reader holds at a time: the bytes, and the stored blocks they
/// are made of.
pub const MAX_PLAN_LEN_BYTES: usize = 1 << 20;

/// Most reads for which [`Image::warm`] does anything: further ones would push the first out again.
pub const MAX_WARMED: usize = 16;

/// A piece of a read that comes from one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where on the disk it starts.
    pub disk_offset: u64,
    /// Its length in bytes, at least 1.
    pub len: usize,
    /// Where its bytes come from.
    pub origin: Origin,
}

/// Where the bytes of a [`Step`] come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// From nowhere: they are zero.
    Zero,
    /// From a layer that is stored as it is.
    Plain {
        /// The layer; 0 is the lowest.
        ordinal: usize,
        /// The bytes of its blob, as [`Image::stored`] counts them.
        stored: Range<u64>,
    },
    /// From compressed blocks.
    Blocks {
        /// The layer; 0 is the lowest.
        ordinal: usize,
        /// Its blocks, whose stored bytes are counted as [`Image::stored`] does.
        run: BlockRun,
    },
}

impl Step {
    /// Behind its last byte on the disk.
    pub(crate) fn end(&self) -> u64 {
        self.disk_offset.saturating_add(self.len as u64)
    }

    /// What has to be fetched for it: the layer, and bytes of its blob; `None` when there is nothing to fetch.
    #[must_use]
    pub fn stored(&self) -> Option<(usize, Range<u64>)> {
        match &self.origin {
            Origin::Zero => None,
            Origin::Plain { ordinal, stored } => Some((*ordinal, stored.clone())),
            Origin::Blocks { ordinal, run } => Some((*ordinal, run.stored())),
        }
    }

    /// The same step without its first `len` bytes. It is longer than that.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::OutOfRange`] when it is not.
    pub fn without_first(&self, image: &Image, len: usize) -> Result<Self, ReadFailure> {
        self.narrowed(image, len, 0)
            .map_err(|source| self.failure(source))
    }

    /// The beginning of the same step: `len` bytes, and what else of it is in the block they end in. All of it, if that is
    /// no more.
    ///
    /// # Errors
    ///
    /// [`ReadErrorKind::OutOfRange`] when it is not one of this image.
    pub fn first(&self, image: &Image, len: usize) -> Result<Self, ReadFailure> {
        let len = match &self.origin {
            Origin::Blocks { ordinal, run } => image
                .zfile(*ordinal)
                .map_or(len, |zfile| zfile.whole_blocks(run, len)),
            Origin::Zero | Origin::Plain { .. } => len,
        };
        let dropped = self.len.saturating_sub(len);
        self.narrowed(image, 0, dropped)
            .map_err(|source| self.failure(source))
    }

    /// How many bytes of the step, from its beginning on, are made of the first `stored_bytes` of its stored bytes.
    #[must_use]
    pub fn len_within(&self, image: &Image, stored_bytes: usize) -> usize {
        match &self.origin {
            Origin::Zero => self.len,
            Origin::Plain { .. } => stored_bytes.min(self.len),
            Origin::Blocks { ordinal, run } => image
                .zfile(*ordinal)
                .map_or(0, |zfile| zfile.content_within(run, stored_bytes)),
        }
    }

    fn failure(&self, source: ReadError) -> ReadFailure {
        ReadFailure {
            disk_offset: self.disk_offset,
            layer: None,
            source,
        }
    }

    /// The same step without its first `skipped` and its last `dropped` bytes, of which something is left.
    pub(crate) fn narrowed(
        &self,
        image: &Image,
        skipped: usize,
        dropped: usize,
    ) -> Result<Self, ReadError> {
        let out_of_range = || ReadError::new(ReadErrorKind::OutOfRange, self.disk_offset);
        let len = self
            .len
            .checked_sub(skipped)
            .and_then(|len| len.checked_sub(dropped))
            .ok_or_else(out_of_range)?;
        let origin = match &self.origin {
            Origin::Zero => Origin::Zero,
            Origin::Plain { ordinal, stored } => {
                let start = stored.start + skipped as u64;
                Origin::Plain {
                    ordinal: *ordinal,
                    stored: start..start + len as u64,
                }
            }
            Origin::Blocks { ordinal, run } => {
                let zfile = image.zfile(*ordinal).ok_or_else(out_of_range)?;
                Origin::Blocks {
                    ordinal: *ordinal,
                    run: zfile.plan(run.content().start + skipped as u64, len)?,
                }
            }
        };
        Ok(Self {
            disk_offset: self.disk_offset + skipped as u64,
            len,
            origin,
        })
    }
}

/// The steps of a read. Reused from read to read, so that a plan allocates nothing once warm.
#[derive(Debug, Default)]
pub struct Plan {
    extents: Vec<Extent>,
    steps: Vec<Step>,
}

impl Plan {
    /// The steps, in the order of the disk, without gaps.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }
}

impl Image {
    /// Says where the `len` bytes of the disk from `offset` on come from.
    ///
    /// # Errors
    ///
    /// When the range leaves the disk or is longer than [`MAX_PLAN_LEN_BYTES`], or when the index of a layer speaks
    /// of bytes that its blob does not have. The plan is then empty.
    pub fn plan(&self, offset: u64, len: usize, plan: &mut Plan) -> Result<(), ReadFailure> {
        plan.steps.clear();
        let failure = |disk_offset, source| ReadFailure {
            disk_offset,
            layer: None,
            source,
        };
        if len > MAX_PLAN_LEN_BYTES {
            let source = ReadError::new(ReadErrorKind::OutOfRange, offset);
            return Err(failure(offset, source));
        }
        self.disk()
            .resolve(offset, len as u64, &mut plan.extents)
            .map_err(|source| failure(offset, source))?;
        for extent in &plan.extents {
            match self.step(extent) {
                Ok(step) => plan.steps.push(step),
                Err(failure) => {
                    plan.steps.clear();
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Looks at what plans for reads at these offsets of the disk are going to look at, up to [`MAX_WARMED`] of them: of
    /// large indexes, little is in the processor's caches. A look-up here depends on no other, so the processor waits for
    /// all of them together; a whole plan is too long for that.
    pub fn warm(&self, offsets: impl Iterator<Item = u64>) {
        let mut places = [None; MAX_WARMED];
        for (place, offset) in places.iter_mut().zip(offsets) {
            *place = self.disk().locate(offset);
        }
        for (layer, layer_offset) in places.into_iter().flatten() {
            let layer = self.disk().layers().get(usize::from(layer));
            if let Some(Source::Compressed(zfile)) = layer.map(Layer::source) {
                std::hint::black_box(zfile.locate(layer_offset));
            }
        }
    }

    fn step(&self, extent: &Extent) -> Result<Step, ReadFailure> {
        let out_of_range = |offset| ReadError::new(ReadErrorKind::OutOfRange, offset);
        let disk_offset = extent.disk_offset();
        // No longer than the plan, so it fits.
        let len = usize::try_from(extent.len_bytes()).unwrap_or(usize::MAX);
        let origin = match *extent {
            Extent::Zero { .. } => Origin::Zero,
            Extent::Data {
                layer,
                layer_offset,
                len_bytes,
                ..
            } => {
                let ordinal = usize::from(layer);
                match self.disk().layers().get(ordinal).map(Layer::source) {
                    Some(Source::Plain(_)) => Origin::Plain {
                        ordinal,
                        stored: layer_offset..layer_offset.saturating_add(len_bytes),
                    },
                    Some(Source::Compressed(zfile)) => Origin::Blocks {
                        ordinal,
                        run: zfile
                            .plan(layer_offset, len)
                            .map_err(|error| self.failure(disk_offset, ordinal, error))?,
                    },
                    None => {
                        let error = out_of_range(disk_offset);
                        return Err(self.failure(disk_offset, ordinal, error));
                    }
                }
            }
        };
        Ok(Step {
            disk_offset,
            len,
            origin,
        })
    }

    /// The blob of a layer, or the part of it that is not a tar header: what the ranges of a [`Step`] count in.
    #[must_use]
    pub fn stored(&self, ordinal: usize) -> Option<&Window<Bytes>> {
        Some(self.disk().layers().get(ordinal)?.source().stored())
    }

    /// Reads stored bytes of a layer, however long that takes.
    ///
    /// # Errors
    ///
    /// When the blob cannot deliver all of them.
    pub fn read_stored(
        &self,
        ordinal: usize,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), ReadError> {
        self.stored(ordinal)
            .ok_or_else(|| ReadError::new(ReadErrorKind::OutOfRange, offset))?
            .read_exact_at(buf, offset)
    }

    /// Lets the layers fetch what these bytes of the disk are made of ahead of their being asked for, where they can. May
    /// wait. What lies side by side in a layer is fetched at once, however it is scattered over the disk.
    pub fn will_need(&self, range: Range<u64>) {
        let mut plan = Plan::default();
        let mut wanted = Vec::new();
        let mut offset = range.start;
        while offset < range.end {
            let left = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
            let len = left.min(MAX_PLAN_LEN_BYTES);
            if self.plan(offset, len, &mut plan).is_err() {
                break;
            }
            wanted.extend(plan.steps().iter().filter_map(Step::stored));
            offset += len as u64;
        }
        wanted.sort_unstable_by_key(|(ordinal, stored)| (*ordinal, stored.start));
        let touch = |before: &(usize, Range<u64>), next: &(usize, Range<u64>)| {
            before.0 == next.0 && next.1.start <= before.1.end
        };
        for run in wanted.chunk_by(touch) {
            if let [(ordinal, first), ..] = run
                && let Some(source) = self.stored(*ordinal)
            {
                let end = run.iter().map(|(_, stored)| stored.end).max();
                let len = end.unwrap_or(first.end) - first.start;
                source.will_need(first.start, len);
            }
        }
    }

    /// Tells the kernel whether a layer is going to be read in order, if it is in a file.
    pub fn expect_order(&self, ordinal: usize, in_order: bool) {
        if let Some((file, _)) = self.stored(ordinal).and_then(ReadAt::file_range) {
            file.expect_order(in_order);
        }
    }

    /// What a read that failed with `source` means for the disk.
    #[must_use]
    pub fn failure(&self, disk_offset: u64, ordinal: usize, source: ReadError) -> ReadFailure {
        ReadFailure {
            disk_offset,
            layer: Some((ordinal, self.path(ordinal).to_owned())),
            source,
        }
    }
}
