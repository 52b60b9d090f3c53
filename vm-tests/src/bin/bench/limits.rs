//! What one thread of this machine can do without a backend, on the same files: no backend is faster.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blob::{FileBlob, ReadAt};
use vm_tests::stack::Random;
use zfile::{Algorithm, Scratch, ZFile};

use crate::args::Group;
use crate::disks::{Stack, make_cached};
use crate::report::{Report, median};
use crate::rounds::Bench;
use crate::say;

const BLOCK_BYTES: usize = 4096;
const LARGE_BYTES: usize = 1 << 20;
/// More than the caches of processors hold.
const COPIED_BYTES: usize = 64 << 20;
/// How many blocks are read between two looks at the clock.
const BATCH: usize = 64;

impl Bench<'_> {
    /// Measures the limits.
    pub(crate) fn limits(&self, report: &mut Report) -> Result<()> {
        say!("limits");
        let flat = self.disks.flat()?;
        make_cached(std::slice::from_ref(&flat))?;
        self.file(report, &flat)?;
        let zfiles = [
            Stack::lz4(1),
            Stack::compressed(Algorithm::Lz4, 64, 7),
            Stack::compressed(Algorithm::Zstd, 4, 7),
        ];
        for stack in zfiles {
            self.zfile(report, &stack)?;
        }
        let from = vec![1_u8; COPIED_BYTES];
        let mut to = vec![0_u8; COPIED_BYTES];
        let copies = self.rate(|| {
            to.copy_from_slice(&from);
            std::hint::black_box(&mut to);
            Ok(1)
        })?;
        let bytes = copies * COPIED_BYTES as f64 / 1e9;
        limit(report, "memory", "copy", (bytes, "GB/s"));
        Ok(())
    }

    fn file(&self, report: &mut Report, path: &Path) -> Result<()> {
        let file = File::open(path)?;
        let blocks = usize::try_from(file.metadata()?.len())? / BLOCK_BYTES;
        let mut random = Random::new(self.settings.seed);
        let mut block = vec![0; BLOCK_BYTES];
        let reads = self.rate(|| {
            for _read in 0..BATCH {
                let offset = random.below(blocks) * BLOCK_BYTES;
                file.read_exact_at(&mut block, offset as u64)?;
            }
            Ok(BATCH)
        })?;
        limit(report, "flat", "pread 4 KiB random", (reads / 1e3, "kIOPS"));
        let mut large = vec![0; LARGE_BYTES];
        let mut offsets = (0..blocks * BLOCK_BYTES / LARGE_BYTES).cycle();
        let reads = self.rate(|| {
            let number = offsets.next().context("an empty file")?;
            file.read_exact_at(&mut large, (number * LARGE_BYTES) as u64)?;
            Ok(1)
        })?;
        let bytes = reads * LARGE_BYTES as f64 / 1e9;
        limit(report, "flat", "pread 1 MiB sequential", (bytes, "GB/s"));
        Ok(())
    }

    /// The lowest layer, which is the longest.
    fn zfile(&self, report: &mut Report, stack: &Stack) -> Result<()> {
        let layers = self.disks.stack(stack)?;
        make_cached(&layers)?;
        let path = layers.first().context("a stack without layers")?;
        let zfile = ZFile::open(FileBlob::open(path)?)?;
        let mut scratch = Scratch::default();
        let size_bytes = usize::try_from(zfile.len_bytes())?;
        let mut random = Random::new(self.settings.seed);
        let mut block = vec![0; BLOCK_BYTES];
        let reads = self.rate(|| {
            for _read in 0..BATCH {
                let offset = random.below(size_bytes / BLOCK_BYTES) * BLOCK_BYTES;
                zfile.read_exact_at_with(&mut scratch, &mut block, offset as u64)?;
            }
            Ok(BATCH)
        })?;
        let what = "fetch, check, decode for 4 KiB random";
        limit(report, &stack.name(), what, (reads / 1e3, "kIOPS"));
        let mut large = vec![0; LARGE_BYTES];
        let mut offsets = (0..size_bytes / LARGE_BYTES).cycle();
        let reads = self.rate(|| {
            let number = offsets.next().context("less than 1 MiB")?;
            zfile.read_exact_at_with(&mut scratch, &mut large, (number * LARGE_BYTES) as u64)?;
            Ok(1)
        })?;
        let bytes = reads * LARGE_BYTES as f64 / 1e9;
        let what = "fetch, check, decode 1 MiB sequential";
        limit(report, &stack.name(), what, (bytes, "GB/s"));
        Ok(())
    }

    /// How often each second the body does what it counts; the median of the rounds.
    fn rate(&self, mut body: impl FnMut() -> Result<usize>) -> Result<f64> {
        let time = Duration::from_secs_f64(self.settings.seconds / 2.0);
        let mut rates = Vec::new();
        body()?;
        for _round in 0..self.args.rounds() {
            self.go_on()?;
            let start = Instant::now();
            let mut done = 0;
            while start.elapsed() < time {
                done += body()?;
            }
            rates.push(done as f64 / start.elapsed().as_secs_f64());
        }
        Ok(median(rates.into_iter()))
    }
}

fn limit(report: &mut Report, subject: &str, what: &str, value: (f64, &'static str)) {
    report.fact(Group::Limits, what, subject, value);
}
