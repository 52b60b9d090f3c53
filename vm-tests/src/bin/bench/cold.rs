//! Reads of what is not in the page cache.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_tests::load::{Limit, Pattern};
use vm_tests::requirement::program;
use vm_tests::stack::Random;

use crate::args::Group;
use crate::disks::{drop_cached, is_cached};
use crate::measure::{Case, Sample, Settings, verify, with_disk};
use crate::report::{Report, Row, median};
use crate::rounds::{Bench, compare};
use crate::say;
use crate::server::Server;
use crate::usage::{MemoryUse, Usage, bytes_from_disk};

impl Bench<'_> {
    /// Measures the group.
    pub(crate) fn cold(&self, report: &mut Report) -> Result<()> {
        let mut servers = Vec::new();
        for subject in self.subjects(Group::Cold) {
            servers.push(self.start(subject)?);
        }
        let flat = self.disks.flat()?;
        let reference = File::open(&flat)?;
        for case in cases() {
            if !self.args.wants_workload(&case.name) {
                continue;
            }
            say!("cold: {}", case.name);
            self.case_cold(&case, &servers, &reference, report)?;
            self.plain(&case, &flat, report)?;
            self.fio(&case, &flat, report)?;
        }
        // What comes back in random order comes back in small pages.
        for server in &servers {
            drop_cached(&server.files)?;
        }
        drop_cached(&[flat])
    }

    fn case_cold(
        &self,
        case: &Case,
        servers: &[Server],
        reference: &File,
        report: &mut Report,
    ) -> Result<()> {
        let mut rows = Vec::new();
        let mut fetched = vec![Vec::new(); servers.len()];
        for server in servers {
            verify(server, case, self.settings, reference)?;
            rows.push(Row::new(Group::Cold, case, server.subject.name()));
        }
        for _round in 0..self.args.rounds() {
            for ((server, row), fetched) in servers.iter().zip(&mut rows).zip(&mut fetched) {
                self.go_on()?;
                let (sample, from_disk) = measure_cold(server, case, self.settings)?;
                row.samples.push(sample);
                fetched.push(from_disk);
            }
        }
        for (server, fetched) in servers.iter().zip(fetched) {
            let what = format!("{}: read from disk", case.name);
            let value = (median(fetched.into_iter()), "bytes for each asked for");
            report.fact(Group::Cold, what, server.subject.name(), value);
        }
        let subjects: Vec<_> = servers.iter().map(|server| server.subject).collect();
        compare(&mut rows, &subjects, report.reference.as_deref());
        report.rows.append(&mut rows);
        Ok(())
    }

    /// One thread with pread on the flat image: the file without a backend, one request at a time.
    fn plain(&self, case: &Case, flat: &Path, report: &mut Report) -> Result<()> {
        let file = File::open(flat)?;
        let blocks = usize::try_from(self.disks.size_bytes())? / case.block_bytes;
        let mut buffer = vec![0; case.block_bytes];
        let mut rates = Vec::new();
        for _round in 0..self.args.rounds() {
            drop_cached(&[flat.to_owned()])?;
            let mut random = Random::new(self.settings.seed);
            let time = Duration::from_secs_f64(self.settings.seconds);
            let start = Instant::now();
            let mut done = 0;
            while start.elapsed() < time && done < blocks {
                let block = match case.pattern {
                    Pattern::Random | Pattern::RandomOnce => random.below(blocks),
                    Pattern::Sequential | Pattern::SequentialOnce => done,
                };
                file.read_exact_at(&mut buffer, (block * case.block_bytes) as u64)?;
                done += 1;
            }
            rates.push(done as f64 / start.elapsed().as_secs_f64());
        }
        let what = format!("{}: pread, one at a time", case.name);
        let value = rate(case, median(rates.into_iter()));
        report.fact(Group::Cold, what, "flat", value);
        Ok(())
    }

    /// The same with fio, as many in flight as the guest has.
    fn fio(&self, case: &Case, flat: &Path, report: &mut Report) -> Result<()> {
        let Ok(fio) = program("fio") else {
            let note = "cold: fio is not there, so the file itself is measured with pread only";
            if !report.notes.iter().any(|known| known == note) {
                report.notes.push(note.into());
            }
            return Ok(());
        };
        let order = match case.pattern {
            Pattern::Random | Pattern::RandomOnce => "randread",
            Pattern::Sequential | Pattern::SequentialOnce => "read",
        };
        let mut rates = Vec::new();
        for _round in 0..self.args.rounds() {
            drop_cached(&[flat.to_owned()])?;
            let output = Command::new(&fio)
                .args(["--name=cold", "--readonly", "--ioengine=io_uring"])
                .args(["--direct=0", "--invalidate=1", "--output-format=json"])
                .arg(format!("--filename={}", flat.display()))
                .arg(format!("--rw={order}"))
                .arg(format!("--bs={}", case.block_bytes))
                .arg(format!("--iodepth={}", case.depth))
                .arg(format!("--runtime={}", self.settings.seconds.ceil()))
                .output()?;
            let text = String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.success(), "fio: {text}");
            let json: serde_json::Value = serde_json::from_str(&text)?;
            let iops = json["jobs"][0]["read"]["iops"].as_f64();
            rates.push(iops.context("fio tells no IOPS")?);
        }
        let what = format!("{}: fio, io_uring", case.name);
        let value = rate(case, median(rates.into_iter()));
        report.fact(Group::Cold, what, "flat", value);
        Ok(())
    }
}

fn cases() -> [Case; 3] {
    [
        Case::new(Pattern::RandomOnce, 4 << 10, 1),
        Case::new(Pattern::RandomOnce, 4 << 10, 32),
        Case::new(Pattern::SequentialOnce, 1 << 20, 8),
    ]
    .map(|mut case| {
        case.name.push_str(" cold");
        case
    })
}

fn rate(case: &Case, requests_per_second: f64) -> (f64, &'static str) {
    if case.counts_bytes() {
        let bytes = requests_per_second * case.block_bytes as f64;
        (bytes / 1e9, "GB/s")
    } else {
        (requests_per_second / 1e3, "kIOPS")
    }
}

/// Without a warm-up, which would make it warm. Returns the bytes read from disk for each that was asked for as well.
fn measure_cold(server: &Server, case: &Case, settings: &Settings) -> Result<(Sample, f64)> {
    let workload = settings.workload(case);
    with_disk(server, case, settings, |disk| {
        drop_cached(&server.files)?;
        let first = server.files.first().context("nothing is served")?;
        ensure!(
            !is_cached(&File::open(first)?)?,
            "{} stays in the page cache",
            first.display()
        );
        let before = (Usage::of(server.pid())?, bytes_from_disk(server.pid())?);
        let outcome = disk.run(&workload, Limit::seconds(settings.seconds), None)?;
        let used = Usage::of(server.pid())?.since(before.0);
        let from_disk = bytes_from_disk(server.pid())?.saturating_sub(before.1);
        let memory = MemoryUse::of(server.pid())?;
        let sample = Sample::new(&outcome, used, memory.rss_bytes);
        Ok((sample, from_disk as f64 / outcome.bytes.max(1) as f64))
    })
}
