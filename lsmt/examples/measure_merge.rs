//! Measures opening, merging and looking up: `cargo run --release -p lsmt --example measure_merge`.
//!
//! Every number is the best of several runs; layers are in memory, so no disk takes part.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for the terminal, run by hand"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use blob::{MemoryBlob, ReadAt};
use lsmt::{Disk, Extent, Layer, Writer, WriterOptions};

/// As many records as a layer can have.
const MOST: u64 = 999_936;

/// A layer of `count` one-sector data records, one every `step` sectors from `first` on, on a disk of 1 GiB.
///
/// All of them share one sector of data, which the format permits and which keeps the layer small.
fn comb(count: u64, first: u64, step: u64) -> MemoryBlob {
    let options = WriterOptions {
        virtual_size_bytes: 1 << 30,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    writer.data(first, &[7; 512]).unwrap();
    for k in 1..count {
        writer.zeroed(first + k * step, 1).unwrap();
    }
    let mut bytes = writer.finish().unwrap();
    let records = bytes.get_mut(4096 + 512..).unwrap().chunks_exact_mut(16);
    for record in records.take(usize::try_from(count).unwrap()) {
        record[8..].copy_from_slice(&8_u64.to_le_bytes());
    }
    MemoryBlob::new(bytes)
}

fn best<T>(runs: u32, mut prepare: impl FnMut() -> T, mut run: impl FnMut(T)) -> Duration {
    (0..runs)
        .map(|_| {
            let input = prepare();
            let start = Instant::now();
            run(input);
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}

fn report(what: &str, count: u64, time: Duration) {
    let nanoseconds = time.as_secs_f64() * 1e9 / f64::from(u32::try_from(count).unwrap());
    let rate = 1e3 / nanoseconds;
    println!("{what:<44} {time:>10.1?} {nanoseconds:>8.2} ns each {rate:>8.1} M/s");
}

fn open_all(blobs: &[MemoryBlob]) -> Vec<Layer<&MemoryBlob>> {
    blobs
        .iter()
        .map(|blob| Layer::open(blob).unwrap())
        .collect()
}

fn measure_stack(what: &str, blobs: &[MemoryBlob], records: u64) {
    let merge = best(
        9,
        || open_all(blobs),
        |layers| {
            black_box(Disk::new(layers).unwrap());
        },
    );
    report(what, records, merge);
}

fn main() {
    let whole = comb(MOST, 0, 2);
    let open = best(
        15,
        || (),
        |()| drop(black_box(open_all(std::slice::from_ref(&whole)))),
    );
    report("open: read, check, checksum 1 M records", MOST, open);
    let copy = best(
        15,
        || (),
        |()| {
            let mut bytes = vec![0; usize::try_from(MOST * 16).unwrap()];
            whole.read_exact_at(&mut bytes, 4096).unwrap();
            black_box(bytes);
        },
    );
    report("  of which reading 16 MB into fresh memory", MOST, copy);

    measure_stack(
        "stack 1 layer of 1 M records",
        std::slice::from_ref(&whole),
        MOST,
    );
    let pair = [whole, comb(MOST, 1, 2)];
    measure_stack("merge 2 x 1 M records, interleaved", &pair, 2 * MOST);
    let many: Vec<_> = (0..255).map(|k| comb(256, k * 3, 255 * 3)).collect();
    measure_stack("merge 255 x 256 records, interleaved", &many, 255 * 256);
    let shadowing: Vec<_> = (0..255).map(|k| comb(4000, k % 3, 2)).collect();
    measure_stack(
        "merge 255 x 4000 records, shadowing",
        &shadowing,
        255 * 4000,
    );

    for segments in [1_000, 10_000, 100_000, MOST] {
        let blob = comb(segments, 0, 2);
        let disk = Disk::new(open_all(std::slice::from_ref(&blob))).unwrap();
        measure_lookups(&disk, segments);
    }
}

/// Random single-sector lookups over the part of the disk that has records.
fn measure_lookups(disk: &Disk<&MemoryBlob>, segments: u64) {
    const LOOKUPS: u64 = 50_000;
    let mut state = 1_u64;
    let offsets: Vec<u64> = (0..LOOKUPS)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % (segments * 2) * 512
        })
        .collect();
    let mut extents: Vec<Extent> = Vec::new();
    let time = best(
        100,
        || (),
        |()| {
            for offset in &offsets {
                disk.resolve(*offset, 512, &mut extents).unwrap();
                black_box(&extents);
            }
        },
    );
    report(&format!("lookup among {segments} segments"), LOOKUPS, time);
}
