//! What is seen of each layer in the disk, and what has been hidden.

use std::ops::Range;

use image::{Image, LayerError};
use lsmt::{SECTOR_LEN_BYTES, Segment};
use serde::Serialize;

use super::DiskSurvey;

/// What the disk takes from a layer, and what the layer holds in vain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Share {
    /// Segments of the merged index that are of this layer.
    pub segment_count: usize,
    /// Bytes of the disk that are data of this layer.
    pub data_bytes: u64,
    /// Bytes of the disk that this layer says are zero.
    pub zeroed_bytes: u64,
    /// Stored bytes of data that the disk needs. Less than `data_bytes` where records share data.
    pub live_bytes: u64,
    /// Stored bytes of data that only records speak of which higher layers hide, or which lie beyond the end of the
    /// disk.
    pub hidden_bytes: u64,
    /// Stored bytes that no record speaks of.
    pub unused_bytes: u64,
    /// Records of which nothing is seen.
    pub hidden_records: usize,
}

impl Share {
    /// Stored bytes of the layer that the disk does not need.
    #[must_use]
    pub fn dead_bytes(&self) -> u64 {
        self.hidden_bytes + self.unused_bytes
    }
}

/// The disk, and the share of each layer. A share is missing when the index of its layer can no longer be read.
pub(super) fn shares(image: &Image) -> (DiskSurvey, Vec<Result<Share, LayerError>>) {
    let disk = image.disk();
    // A stable sort: the segments of each layer stay in the order of the disk.
    let mut by_layer = disk.segments().to_vec();
    by_layer.sort_by_key(|segment| segment.layer());
    let mut rest = by_layer.as_mut_slice();
    let mut shares = Vec::new();
    let (mut data_bytes, mut zeroed_bytes, mut jump_table_memory_bytes) = (0, 0, 0);
    for (ordinal, layer) in (0..=u8::MAX).zip(disk.layers()) {
        let own = rest.partition_point(|segment| segment.layer() <= ordinal);
        let (segments, others) = std::mem::take(&mut rest).split_at_mut(own);
        rest = others;
        let opened = layer.source().layer();
        let share =
            opened.map(|layer| share(segments, layer.segments(), layer.info().index_offset));
        if let Ok(share) = &share {
            data_bytes += share.data_bytes;
            zeroed_bytes += share.zeroed_bytes;
        }
        let zfile = layer.source().zfile();
        jump_table_memory_bytes += zfile.map_or(0, |zfile| zfile.index_len_bytes() as u64);
        shares.push(share);
    }
    let disk = DiskSurvey {
        len_bytes: disk.len_bytes(),
        segment_count: disk.segment_count(),
        data_bytes,
        zeroed_bytes,
        hole_bytes: disk.len_bytes().saturating_sub(data_bytes + zeroed_bytes),
        index_memory_bytes: disk.index_len_bytes() as u64,
        jump_table_memory_bytes,
        fingerprint: disk.fingerprint(),
    };
    (disk, shares)
}

/// `seen` are the segments of the layer in the merged index, `records` those of its own; both in the order of the disk.
/// Leaves `seen` in another order.
fn share(seen: &mut [Segment], records: &[Segment], index_offset: u64) -> Share {
    let mut share = Share {
        segment_count: seen.len(),
        hidden_records: records.len() - seen_records(seen, records),
        ..Share::default()
    };
    for segment in &*seen {
        let sectors = segment.disk_sectors();
        let len_bytes = (sectors.end - sectors.start) * SECTOR_LEN_BYTES;
        match segment.layer_sectors() {
            Some(_) => share.data_bytes += len_bytes,
            None => share.zeroed_bytes += len_bytes,
        }
    }
    let by_place = |segment: &Segment| segment.layer_sectors().map(|sectors| sectors.start);
    seen.sort_unstable_by_key(by_place);
    share.live_bytes = covered_bytes(seen);
    let mut records = records.to_vec();
    records.sort_unstable_by_key(by_place);
    let spoken_of = covered_bytes(&records);
    let room = index_offset.saturating_sub(lsmt::HEADER_LEN_BYTES as u64);
    share.hidden_bytes = spoken_of.saturating_sub(share.live_bytes);
    share.unused_bytes = room.saturating_sub(spoken_of);
    share
}

/// How many records something is seen of.
fn seen_records(seen: &[Segment], records: &[Segment]) -> usize {
    let mut records = records.iter().map(|record| record.disk_sectors());
    let mut record = records.next();
    let (mut count, mut is_counted) = (0, false);
    for segment in seen {
        let first = segment.disk_sectors().start;
        while record.as_ref().is_some_and(|record| record.end <= first) {
            record = records.next();
            is_counted = false;
        }
        if record.is_some() && !is_counted {
            count += 1;
            is_counted = true;
        }
    }
    count
}

/// Stored bytes that segments speak of, each byte counted once. They come in the order of their places.
fn covered_bytes(segments: &[Segment]) -> u64 {
    let (mut covered, mut end) = (0, 0);
    for Range { start, end: next } in segments.iter().filter_map(|it| it.layer_sectors()) {
        covered += next.saturating_sub(start.max(end));
        end = end.max(next);
    }
    covered * SECTOR_LEN_BYTES
}
