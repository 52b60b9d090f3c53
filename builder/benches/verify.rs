//! How fast layers are verified, and how fast they could be: `cargo bench -p builder --bench verify`.
//!
//! `limit` decodes all blocks on one thread, out of memory: what `verify` takes on one thread is to come near it, and
//! on all processors to a fraction of it. Bytes are those of the layer.
#![expect(
    clippy::unwrap_used,
    reason = "a program for the terminal, run by hand"
)]

use std::fmt;
use std::path::PathBuf;

use blob::test_util::noise;
use blob::{MemoryBlob, ReadAt};
use builder::{Verdict, VerifyOptions};
use divan::Bencher;
use divan::counter::BytesCount;
use zfile::{Algorithm, Scratch, ZFile};

fn main() {
    divan::main();
}

const CONTENT_BYTES: usize = 128 << 20;
const CHUNK_BYTES: usize = 1 << 20;

/// How a layer is stored.
#[derive(Clone, Copy)]
struct Stored {
    algorithm: Option<Algorithm>,
    block_size_bytes: u32,
}

impl fmt::Display for Stored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.algorithm {
            Some(algorithm) => write!(f, "{algorithm} in {} KiB", self.block_size_bytes >> 10),
            None => write!(f, "plain"),
        }
    }
}

const STORED: [Stored; 4] = [
    Stored {
        algorithm: None,
        block_size_bytes: 0,
    },
    Stored {
        algorithm: Some(Algorithm::Lz4),
        block_size_bytes: 4096,
    },
    Stored {
        algorithm: Some(Algorithm::Lz4),
        block_size_bytes: 65_536,
    },
    Stored {
        algorithm: Some(Algorithm::Zstd),
        block_size_bytes: 4096,
    },
];

/// A layer of words out of a small vocabulary, which is what documents and programs are for a decoder.
fn layer() -> Vec<u8> {
    let letters = noise(1 << 14, 1);
    let mut state = 88_172_645_463_325_252_u64;
    let mut below = move |limit: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 16).unwrap() % limit
    };
    let mut text = Vec::with_capacity(CONTENT_BYTES + 16);
    while text.len() < CONTENT_BYTES {
        let range = 1 + below(1024);
        let word = below(range);
        text.extend_from_slice(letters.get(word * 12..word * 12 + 3 + word % 9).unwrap());
    }
    text.truncate(CONTENT_BYTES);
    let options = lsmt::WriterOptions {
        virtual_size_bytes: CONTENT_BYTES as u64,
        ..lsmt::WriterOptions::default()
    };
    let mut writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
    writer.data(0, &text).unwrap();
    writer.finish().unwrap()
}

fn blob(stored: Stored) -> Vec<u8> {
    let Some(algorithm) = stored.algorithm else {
        return layer();
    };
    let options = zfile::WriterOptions {
        algorithm,
        block_size_bytes: stored.block_size_bytes,
        ..zfile::WriterOptions::default()
    };
    let mut writer = zfile::Writer::new(Vec::new(), options).unwrap();
    writer.append(&layer()).unwrap();
    writer.finish_overwriting().unwrap()
}

fn file(stored: Stored) -> (tempfile::TempDir, Vec<PathBuf>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer");
    std::fs::write(&path, blob(stored)).unwrap();
    (dir, vec![path])
}

fn verify(bencher: Bencher<'_, '_>, stored: Stored, threads: usize) {
    let (_dir, paths) = file(stored);
    let options = VerifyOptions {
        threads,
        ..VerifyOptions::default()
    };
    bencher
        .counter(BytesCount::new(CONTENT_BYTES))
        .bench_local(|| {
            let found = builder::verify(&paths, &options, &());
            assert!(found.verdict == Verdict::Good);
        });
}

#[divan::bench(args = STORED, sample_count = 10)]
fn on_one_thread(bencher: Bencher<'_, '_>, stored: Stored) {
    verify(bencher, stored, 1);
}

#[divan::bench(args = STORED, sample_count = 10)]
fn on_all_processors(bencher: Bencher<'_, '_>, stored: Stored) {
    verify(bencher, stored, 0);
}

#[divan::bench(args = STORED, sample_count = 10)]
fn limit(bencher: Bencher<'_, '_>, stored: Stored) {
    let bytes = blob(stored);
    let mut content = vec![0; CHUNK_BYTES];
    let mut scratch = Scratch::default();
    let bencher = bencher.counter(BytesCount::new(CONTENT_BYTES));
    if stored.algorithm.is_none() {
        // Nothing is to be decoded: the limit is the copy out of the page cache.
        bencher.bench_local(|| {
            for chunk in bytes.chunks_exact(CHUNK_BYTES) {
                content.copy_from_slice(divan::black_box(chunk));
            }
        });
        return;
    }
    let zfile = ZFile::open(MemoryBlob::new(bytes.clone())).unwrap();
    bencher.bench_local(|| {
        let mut offset = 0;
        while offset < zfile.len_bytes() {
            let left = usize::try_from(zfile.len_bytes() - offset).unwrap();
            let out = content.get_mut(..left.min(CHUNK_BYTES)).unwrap();
            let run = zfile.plan(offset, out.len()).unwrap();
            let range = run.stored();
            let stored = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            zfile
                .decode(&run, bytes.get(stored).unwrap(), &mut scratch, out)
                .unwrap();
            offset += out.len() as u64;
        }
    });
}
