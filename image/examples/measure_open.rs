//! Measures opening: `cargo run --release -p image --example measure_open [LAYER…]`.
//!
//! Time is the median of nine runs with the files in the page cache. Memory is how far the resident memory of the
//! process rises above where it stood, at its peak during the first open and with the image open. Arguments are
//! the layers of a stack, lowest first, to be measured instead of those this program makes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a program for the terminal, run by hand"
)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use image::Image;

/// As many records as a layer can have.
const MOST: u64 = 999_936;

/// A file with a layer of `count` one-sector records, one every `step` sectors from `first` on, in LZ4 blocks.
fn layer(dir: &Path, name: &str, count: u64, first: u64, step: u64) -> PathBuf {
    let options = lsmt::WriterOptions {
        virtual_size_bytes: 1 << 30,
        ..lsmt::WriterOptions::default()
    };
    let mut writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
    writer
        .data(first, &blob::test_util::noise(512, first))
        .unwrap();
    for k in 1..count {
        writer.zeroed(first + k * step, 1).unwrap();
    }
    let mut zfile = zfile::Writer::new(Vec::new(), zfile::WriterOptions::default()).unwrap();
    zfile.append(&writer.finish().unwrap()).unwrap();
    let path = dir.join(name);
    std::fs::write(&path, zfile.finish_overwriting().unwrap()).unwrap();
    path
}

/// A line of the process's own account, in KiB.
fn memory_kib(key: &str) -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

fn measure(paths: &[PathBuf]) {
    // Forgets the peak so far.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = memory_kib("VmRSS:");
    let image = Image::open(paths).unwrap();
    let (peak, open) = (memory_kib("VmHWM:") - before, memory_kib("VmRSS:") - before);
    let (segments, index) = (image.disk().segment_count(), image.disk().index_len_bytes());
    drop(image);

    let mut times: Vec<_> = (0..9)
        .map(|_| {
            let start = Instant::now();
            let image = Image::open(paths).unwrap();
            let time = start.elapsed();
            drop(image);
            time
        })
        .collect();
    times.sort();
    println!(
        "  {:.2?}; {segments} segments in {} KiB; memory {peak} KiB at the peak, {open} KiB when open",
        times[times.len() / 2],
        index / 1024,
    );
}

/// Runs this program on one stack: a process that has made no layers has no memory left over from that.
fn measure_apart(what: &str, paths: &[PathBuf]) {
    println!("{what}:");
    let program = std::env::current_exe().unwrap();
    assert!(
        Command::new(program)
            .args(paths)
            .status()
            .unwrap()
            .success()
    );
}

fn main() {
    let given: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    if !given.is_empty() {
        return measure(&given);
    }
    let dir = tempfile::tempdir().unwrap();
    let small: Vec<PathBuf> = (0..255)
        .map(|k| layer(dir.path(), &k.to_string(), 20, k * 3, 255 * 3))
        .collect();
    let even = layer(dir.path(), "even", MOST, 0, 2);
    let odd = layer(dir.path(), "odd", MOST, 1, 2);
    measure_apart("7 small layers", &small[..7]);
    measure_apart("255 small layers", &small);
    measure_apart("1 layer of 1 M records", std::slice::from_ref(&even));
    measure_apart("2 layers of 1 M records", &[even, odd]);
}
