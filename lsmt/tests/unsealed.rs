//! Promise: a read-write layer reads as if its writes had been made one after another, whatever they overwrote; and
//! files that are none, do not belong together or were damaged are refused by name.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use blob::test_util::noise;
use blob::{MemoryBlob, ReadAt};
use lsmt::{Disk, Layer, Segment, Unsealed, UnsealedError, Writer, WriterOptions};
use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
use proptest::{prop_assert_eq, proptest};

const SECTOR: usize = 512;
const DISK_SECTORS: u64 = 400;

/// The two headers of a pair: a committed layer's header with the flags changed.
fn header(flags: u8, virtual_size_bytes: u64) -> Vec<u8> {
    let options = WriterOptions {
        virtual_size_bytes,
        user_tag: b"tag".to_vec(),
        ..WriterOptions::default()
    };
    let writer = Writer::new(Vec::new(), &options).unwrap();
    let mut bytes = writer.finish().unwrap();
    bytes.truncate(4096);
    bytes[28] = flags;
    bytes
}

const DATA: u8 = 0x03;
const INDEX: u8 = 0x01;
const SPARSE: u8 = 0x13;

fn record(first: u64, len: u64, mapped: u64, zeroed: bool) -> [u8; 16] {
    let word1 = mapped | (u64::from(zeroed) << 55);
    let words = u128::from(first | (len << 50)) | (u128::from(word1) << 64);
    words.to_le_bytes()
}

/// One write: where, how much, and whether it discards; or a slot that was never used.
type Write = Option<(u64, u64, bool)>;

fn writes() -> impl Strategy<Value = Vec<Write>> {
    let write = (0..DISK_SECTORS, 1..40_u64, any::<bool>())
        .prop_map(|(first, len, zeroed)| Some((first, len.min(DISK_SECTORS - first), zeroed)));
    let ascending = prop_oneof![4 => write, 1 => Just(None)];
    prop::collection::vec(ascending, 0..60)
}

/// The pair that a system leaves behind, and what the disk holds: `None` where nothing was written.
fn pair(writes: &[Write], seed: u64) -> (Vec<u8>, Vec<u8>, Vec<Option<[u8; SECTOR]>>) {
    let size = DISK_SECTORS * 512;
    let (mut data, mut index) = (header(DATA, size), header(INDEX, size));
    let mut disk = vec![None; usize::try_from(DISK_SECTORS).unwrap()];
    for (number, write) in writes.iter().enumerate() {
        let mapped = data.len() as u64 / 512;
        let Some((first, len, zeroed)) = *write else {
            index.extend(record((1 << 50) - 1, 5, 77, true));
            continue;
        };
        index.extend(record(first, len, mapped, zeroed));
        let len = usize::try_from(len).unwrap() * SECTOR;
        let bytes = match zeroed {
            true => vec![0; len],
            false => noise(len, seed ^ number as u64),
        };
        let first = usize::try_from(first).unwrap();
        for (sector, bytes) in disk[first..].iter_mut().zip(bytes.chunks(SECTOR)) {
            *sector = Some(bytes.try_into().unwrap());
        }
        if !zeroed {
            data.extend(bytes);
        }
    }
    (data, index, disk)
}

fn blob(bytes: &[u8]) -> MemoryBlob {
    MemoryBlob::new(bytes.to_vec())
}

/// What the segments say the disk holds.
fn read<S: ReadAt>(layer: &Unsealed<S>) -> Vec<Option<[u8; SECTOR]>> {
    let mut disk = vec![None; usize::try_from(DISK_SECTORS).unwrap()];
    let mut end = 0;
    for segment in layer.segments() {
        let sectors = segment.disk_sectors();
        assert!(sectors.start >= end, "in order and free of overlap");
        end = sectors.end;
        let start = segment.layer_sectors().map(|sectors| sectors.start);
        for (number, sector) in sectors.enumerate() {
            let mut bytes = [0; SECTOR];
            if let Some(start) = start {
                let offset = (start + number as u64) * 512;
                layer.source().read_exact_at(&mut bytes, offset).unwrap();
            }
            disk[usize::try_from(sector).unwrap()] = Some(bytes);
        }
    }
    disk
}

proptest! {
    #[test]
    fn later_writes_count(writes in writes(), seed in any::<u64>(), cut in 0..16_usize) {
        let (data, mut index, disk) = pair(&writes, seed);
        // Whoever wrote it may have died in the middle of a record.
        index.extend(&record(0, 1, 8, false)[..cut]);
        let layer = Unsealed::open(blob(&data), &blob(&index)).unwrap();
        prop_assert_eq!(layer.info().record_count, writes.len() as u64);
        prop_assert_eq!(read(&layer), disk);
    }

    /// Whatever an index file holds, the answer is an error or segments in bounds.
    #[test]
    fn any_records_are_refused_or_in_bounds(
        words in prop::collection::vec((any::<u64>(), any::<u64>(), 0..50_u32, 0..9_u32), 0..40),
    ) {
        let data = header(DATA, 1 << 20);
        let mut index = header(INDEX, 1 << 20);
        for (word0, word1, shift0, shift1) in words {
            index.extend((word0 >> shift0).to_le_bytes());
            index.extend((word1 >> (shift1 * 7)).to_le_bytes());
        }
        if let Ok(layer) = Unsealed::open(blob(&data), &blob(&index)) {
            let in_bounds = |segment: &Segment| segment.layer_sectors().is_none();
            assert!(layer.segments().iter().all(in_bounds), "there is no data");
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused_by_name() {
    let size = 1 << 20;
    let mut data = header(DATA, size);
    data.extend(noise(8 * SECTOR, 1));
    let index = header(INDEX, size);
    let with = |record: [u8; 16]| [index.clone(), record.to_vec()].concat();
    let error = |data: &[u8], index: &[u8]| {
        let error = Unsealed::open(blob(data), &blob(index)).unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string);
        format!("{error}: {}", source.unwrap_or_default())
    };
    for (record, fault) in [
        (
            record(0, 0, 8, false),
            "record 0 of the index file has length 0",
        ),
        (
            record((1 << 50) - 3, 5, 8, true),
            "record 0 of the index file ends beyond",
        ),
        (
            record(0, 1, 7, false),
            "record 0 of the index file has its data in the header",
        ),
        (
            record(0, 9, 8, false),
            "record 0 of the index file has its data beyond the end",
        ),
        (
            record(0, 1, 17, true),
            "record 0 of the index file has its data beyond the end",
        ),
    ] {
        let error = error(&data, &with(record));
        assert!(error.starts_with(fault), "{error}");
    }
    assert!(error(&index, &data).contains("index file of a read-write layer"));
    assert!(error(&data, &data).starts_with("not an index file: its flags are 0x3"));
    assert!(error(&header(0x07, size), &index).starts_with("the data file is sealed"));
    assert!(error(&header(SPARSE, size), &index).starts_with("the data file is sparse"));
    assert!(error(b"LSMT", &index).starts_with("data file: damaged layer: 4 bytes"));
    assert!(error(&data, &[0; 5000]).contains("no LSMT magic"));
    let mut other = index.clone();
    other[56..92].copy_from_slice(b"11111111-2222-4333-8444-AABBCCDDEEFF");
    let error = error(&data, &other);
    assert!(error.contains("of layer 00000000-") && error.contains("of layer 11111111-"));
}

#[test]
fn a_sparse_file_decides_what_is_no_hole() {
    let size = 100 * 512;
    let mut data = header(SPARSE, size);
    let disk = noise(100 * SECTOR, 3);
    data.extend(&disk);
    let end = data.len() as u64;
    // Up to 5000 from the header on, a hole, and the end, twice over and beyond.
    let written = [4096..4100, 5000..5001, 5100..5120, end - 1000..end + 7];
    let layer = Unsealed::open_sparse(blob(&data), &written).unwrap();
    assert!(layer.info().is_sparse && layer.info().user_tag == b"tag");
    let decided: Vec<_> = layer.segments().iter().map(|s| s.disk_sectors()).collect();
    assert_eq!(decided, [0..1, 1..2, 98..100]);
    for segment in layer.segments() {
        assert_eq!(
            segment.layer_sectors().unwrap().start,
            segment.disk_sectors().start + 8
        );
    }
    let error = Unsealed::open_sparse(blob(&header(DATA, size)), &[]).unwrap_err();
    assert!(matches!(error, UnsealedError::NotSparse));
}

/// The golden pair, committed, is the disk that the reference reads.
#[test]
fn golden_pair_reads_like_the_reference() {
    use sha2::{Digest, Sha256};
    let folder = std::env::var_os("VBD_GOLDENS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens"),
        PathBuf::from,
    );
    let set = folder.join("G2-rw-unsealed");
    if !set.is_dir() {
        let notice = format!("SKIPPED: no golden layers at {}\n", set.display());
        io::stderr().write_all(notice.as_bytes()).unwrap();
        return;
    }
    let open = |name: &str| MemoryBlob::new(fs::read(set.join(name)).unwrap());
    let layer = Unsealed::open(open("writable_data"), &open("writable_index")).unwrap();
    assert_eq!(layer.info().record_count, 60);
    let options = WriterOptions {
        virtual_size_bytes: layer.info().virtual_size_bytes,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    for segment in layer.segments() {
        let sectors = segment.disk_sectors();
        match segment.layer_sectors() {
            None => writer
                .zeroed(sectors.start, sectors.end - sectors.start)
                .unwrap(),
            Some(stored) => {
                let len = usize::try_from(stored.end - stored.start).unwrap() * SECTOR;
                let mut bytes = vec![0; len];
                layer
                    .source()
                    .read_exact_at(&mut bytes, stored.start * 512)
                    .unwrap();
                writer.data(sectors.start, &bytes).unwrap();
            }
        }
    }
    let layer = Layer::open(MemoryBlob::new(writer.finish().unwrap())).unwrap();
    let disk = Disk::new(vec![layer]).unwrap();
    let mut bytes = vec![0; usize::try_from(disk.len_bytes()).unwrap()];
    disk.read_exact_at(&mut bytes, 0).unwrap();
    let hex: String = Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        hex,
        "60b9996efc5970376fd60a3a82dac4e3ff5015ae43aeb03b1201c382d85e51aa"
    );
}
