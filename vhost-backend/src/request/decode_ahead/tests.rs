//! Promise: what is decoded ahead is what the disk holds, no more than promised, only for rows of reads, only where there is
//! something to decode and nothing to wait for, and seldom in vain.

use std::path::PathBuf;
use std::time::Duration;

use blob::test_util::noise;
use blob::{FileBlob, MemoryBlob, ReadAt};

use super::*;

const DISK_BYTES: usize = (6 << 20) + 512;
/// Where there is only a plain layer.
const PLAIN: Range<usize> = 4 << 20..5 << 20;
const ALL: Range<usize> = 0..DISK_BYTES;
const READ_BYTES: u64 = 64 << 10;
const MAX_BYTES: u64 = MAX_DECODED_AHEAD_LEN_BYTES + CHUNK_LEN_BYTES;

/// Content with a part that compresses.
fn content() -> Vec<u8> {
    let mut disk = noise(DISK_BYTES, 5);
    disk.chunks_mut(64).for_each(|chunk| chunk[..40].fill(b'x'));
    disk
}

/// Pieces of the disk, in whole sectors, as one layer.
fn layer(disk: &[u8], pieces: &[Range<usize>]) -> Vec<u8> {
    let options = lsmt::WriterOptions {
        virtual_size_bytes: disk.len() as u64,
        ..Default::default()
    };
    let mut writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
    for piece in pieces {
        let sector = piece.start as u64 / 512;
        writer.data(sector, &disk[piece.clone()]).unwrap();
    }
    writer.finish().unwrap()
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    let mut writer = zfile::Writer::new(Vec::new(), zfile::WriterOptions::default()).unwrap();
    writer.append(bytes).unwrap();
    writer.finish_overwriting().unwrap()
}

/// A plain layer, and one in LZ4 above it that has everything else, in files.
fn image(disk: &[u8], damage: Option<usize>) -> Arc<Image> {
    let plain = layer(disk, &[ALL]);
    let mut packed = compress(&layer(
        disk,
        &[0..1 << 20, 1 << 20..PLAIN.start, PLAIN.end..DISK_BYTES],
    ));
    if let Some(at) = damage {
        packed[at] ^= 1;
    }
    let blobs = [plain, packed].map(|bytes| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let blob = FileBlob::open(file.path()).unwrap();
        (file.path().to_owned(), Box::new(blob) as Box<dyn ReadAt>)
    });
    Arc::new(Image::from_blobs(blobs.into()).unwrap().with_cache(1 << 20))
}

/// Reads from `start` to `end` in a row, with time for everything behind each read. Returns how much was decoded ahead, and
/// how much of what was read was there before.
fn row(ahead: &mut DecodeAhead, disk: &[u8], range: Range<usize>) -> (u64, u64) {
    let (mut decoded, mut found) = (0, 0);
    let (mut offset, end) = (range.start as u64, range.end as u64);
    let start = offset;
    while offset < end {
        let read_end = (offset + READ_BYTES).min(end);
        while offset < read_end {
            let left = usize::try_from(read_end - offset).unwrap();
            let Some(bytes) = ahead.find(offset) else {
                break;
            };
            let bytes = &bytes[..bytes.len().min(left)];
            let at = usize::try_from(offset).unwrap();
            assert!(*bytes == disk[at..at + bytes.len()], "at {at}");
            offset += bytes.len() as u64;
            found += bytes.len() as u64;
        }
        offset = read_end;
        ahead.notice(offset, offset - start);
        let before = held(ahead);
        while ahead.proceed() {}
        decoded += held(ahead) - before;
        assert!(held(ahead) <= MAX_BYTES);
    }
    (decoded, found)
}

fn held(ahead: &DecodeAhead) -> u64 {
    let chunks = ahead.chunks.iter();
    chunks.map(|chunk| chunk.content.len() as u64).sum()
}

/// Time plays no part.
fn decode_ahead(image: Arc<Image>) -> DecodeAhead {
    let mut ahead = DecodeAhead::new(image);
    ahead.pace.chunk_time.learn(Duration::from_secs(3600));
    ahead
}

#[test]
fn row_of_reads_finds_nearly_all_decoded_and_right() {
    let disk = content();
    let mut ahead = decode_ahead(image(&disk, None));
    for start in [0, 512, 70_000 / 512 * 512] {
        let (decoded, found) = row(&mut ahead, &disk, start..DISK_BYTES);
        let missed = (DISK_BYTES - start - PLAIN.len()) as u64 - found;
        assert!(missed <= STREAK_MIN_BYTES + READ_BYTES, "{missed}");
        // Where chunks begin and end, a little of the plain layer is with them.
        assert!(decoded <= found + 2 * CHUNK_LEN_BYTES, "{decoded} {found}");
        ahead.notice(0, 0);
        assert_eq!(held(&ahead), 0);
    }
}

#[test]
fn plain_layers_are_read_when_they_are_asked_for() {
    let disk = content();
    let mut ahead = decode_ahead(image(&disk, None));
    let (decoded, _found) = row(&mut ahead, &disk, PLAIN.start..PLAIN.end - (1 << 18));
    assert_eq!(decoded, 0);
}

#[test]
fn nothing_is_kept_where_nothing_is_to_be_kept() {
    let disk = content();
    let image = Arc::into_inner(image(&disk, None)).unwrap().with_cache(0);
    let mut ahead = decode_ahead(Arc::new(image));
    assert_eq!(row(&mut ahead, &disk, ALL), (0, 0));
}

#[test]
fn what_is_not_in_memory_is_waited_for_by_whoever_needs_it() {
    let disk = content();
    let packed = compress(&layer(&disk, &[ALL]));
    let blob: Box<dyn ReadAt> = Box::new(MemoryBlob::new(packed));
    let image = Image::from_blobs(vec![(PathBuf::from("never ready"), blob)]);
    let mut ahead = decode_ahead(Arc::new(image.unwrap().with_cache(1 << 20)));
    assert_eq!(row(&mut ahead, &disk, 0..1 << 20), (0, 0));
    assert!(ahead.pauses && !ahead.proceed());
    ahead.notice(1 << 20, 1 << 20);
    assert!(!ahead.pauses, "the next read is a reason to look again");
}

#[test]
fn damage_is_left_to_whoever_asks_for_it() {
    let disk = content();
    let mut ahead = decode_ahead(image(&disk, Some(1_500_000)));
    let (_decoded, found) = row(&mut ahead, &disk, 0..PLAIN.start);
    let missed = PLAIN.start as u64 - found;
    assert!(missed <= STREAK_MIN_BYTES + READ_BYTES + CHUNK_LEN_BYTES);
    assert!(missed > STREAK_MIN_BYTES + CHUNK_LEN_BYTES / 2, "{missed}");
}

#[test]
fn rows_that_end_early_cost_less_and_less_until_one_does_not() {
    let disk = content();
    let mut ahead = decode_ahead(image(&disk, None));
    let mut wasted = Vec::new();
    for _ in 0..3 {
        let (decoded, found) = row(&mut ahead, &disk, 0..512 << 10);
        assert_eq!(found, 0);
        wasted.push(decoded);
        ahead.notice(0, 0);
    }
    assert_eq!(wasted, [WINDOW_MIN_BYTES, 0, 0]);
    assert_eq!(ahead.streak_needed_bytes, 2 * STREAK_MIN_BYTES);
    assert!(row(&mut ahead, &disk, 0..PLAIN.start).1 > 0);
    assert_eq!(ahead.streak_needed_bytes, STREAK_MIN_BYTES);
}

#[test]
fn what_somebody_else_reads_is_given_up() {
    let disk = content();
    let mut ahead = decode_ahead(image(&disk, None));
    let mut decoded = 0;
    for front in (0..PLAIN.start as u64).step_by(64 << 10) {
        ahead.notice(front, front);
        while ahead.proceed() {}
        decoded = decoded.max(held(&ahead));
    }
    assert!(decoded > 0 && decoded <= WINDOW_MIN_BYTES);
    assert_eq!(held(&ahead), 0);
    assert!(ahead.streak_needed_bytes > STREAK_MIN_BYTES);
}

#[test]
fn slow_guests_gain_nothing_and_quick_ones_much() {
    let mut now = Instant::now();
    let mut pace = Pace::new();
    pace.begin(now);
    let mut reads = |pace: &mut Pace, millis: u64| {
        // A MiB in eight reads.
        for _ in 0..8 {
            now += Duration::from_millis(millis) / 8;
            pace.add(128 << 10, || now);
        }
        pace.is_quick
    };
    assert!(reads(&mut pace, 10_000), "nobody knows what decoding takes");
    pace.chunk_time.learn(Duration::from_micros(50));
    // 16 chunks: 0.8 ms.
    assert!(reads(&mut pace, 1));
    assert!(reads(&mut pace, 6));
    assert!(!reads(&mut pace, 7));
    assert!(reads(&mut pace, 2));
    pace.chunk_time.learn(Duration::from_millis(50));
    assert!(!reads(&mut pace, 900), "one long chunk is an accident");
    pace.chunk_time.learn(Duration::from_micros(20));
    assert!(!reads(&mut pace, 3));
}
