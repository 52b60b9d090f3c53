//! Reads of what is not in the page cache.

use std::fs::File;
use std::path::Path;

use anyhow::{Result, ensure};
use vm_tests::load::{Limit, Pattern};
use vm_tests::requirement::program;

use crate::args::Group;
use crate::disks::drop_cached;
use crate::measure::{Case, Sample, Settings, verify, with_disk};
use crate::replay::Replay;
use crate::report::{Facts, Report, Row};
use crate::rounds::{Bench, compare};
use crate::say;
use crate::server::Server;
use crate::usage::{MemoryUse, Usage, bytes_from_disk};

/// Of what is needed: less came from the disk only if something was in the page cache after all.
const LEAST_FROM_DISK: f64 = 0.9;

/// One backend under one workload: what is measured beside the usual, a value for each round.
struct Subject<'a> {
    server: &'a Server,
    row: Row,
    from_disk: Vec<f64>,
    fio: Vec<f64>,
    pread: Vec<f64>,
}

impl Bench<'_> {
    /// Measures the group.
    pub(crate) fn cold(&self, report: &mut Report) -> Result<()> {
        let mut servers = Vec::new();
        for subject in self.subjects(Group::Cold) {
            servers.push(self.start(subject)?);
        }
        let fio = program("fio").ok();
        if fio.is_none() {
            report.note("cold: fio is not there, so only one request at a time has a yardstick");
        }
        let flat = self.disks.flat()?;
        let reference = File::open(&flat)?;
        for case in cases() {
            if self.args.wants_workload(&case.name) {
                say!("cold: {}", case.name);
                self.case_cold(&case, &servers, (&reference, fio.as_deref()), report)?;
            }
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
        (reference, fio): (&File, Option<&Path>),
        report: &mut Report,
    ) -> Result<()> {
        let mut subjects = Vec::new();
        for server in servers {
            verify(server, case, self.settings, reference)?;
            subjects.push(Subject {
                server,
                row: Row::new(Group::Cold, case, server.subject.name()),
                from_disk: Vec::new(),
                fio: Vec::new(),
                pread: Vec::new(),
            });
        }
        for _round in 0..self.args.rounds() {
            for subject in &mut subjects {
                self.go_on()?;
                self.round_cold(case, subject, fio)?;
            }
        }
        tell(case, &subjects, report);
        let kinds: Vec<_> = servers.iter().map(|server| server.subject).collect();
        let mut rows: Vec<Row> = subjects.into_iter().map(|subject| subject.row).collect();
        compare(&mut rows, &kinds, report.reference.as_deref());
        report.rows.append(&mut rows);
        Ok(())
    }

    /// The backend, then the same reads without it.
    fn round_cold(&self, case: &Case, subject: &mut Subject<'_>, fio: Option<&Path>) -> Result<()> {
        let server = subject.server;
        let (sample, requests, from_disk) = measure_cold(server, case, self.settings)?;
        subject.row.samples.push(sample);
        let workload = self.settings.workload(case);
        let offsets = workload.offsets(self.disks.size_bytes())?.take(requests);
        let replay = Replay::new(server, offsets, case.block_bytes)?;
        let from_disk = from_disk as f64 / replay.page_bytes().max(1) as f64;
        ensure!(
            from_disk > LEAST_FROM_DISK,
            "{}: only {from_disk:.2} of what {} requests need came from the disk",
            server.subject.name(),
            replay.requests()
        );
        subject.from_disk.push(from_disk);
        if let Some(fio) = fio {
            drop_cached(&server.files)?;
            subject.fio.push(replay.fio(fio, case.depth)?);
        }
        if case.depth == 1 {
            drop_cached(&server.files)?;
            subject.pread.push(replay.pread()?);
        }
        Ok(())
    }
}

/// Adds what is not in the rows.
fn tell(case: &Case, subjects: &[Subject<'_>], report: &mut Report) {
    let mut tell = |what: &str, unit, of: &dyn Fn(&Subject<'_>) -> Vec<f64>| {
        let rounds = subjects
            .iter()
            .map(|subject| (subject.row.subject.clone(), of(subject)))
            .filter(|(_, rounds)| !rounds.is_empty());
        let facts = Facts {
            group: Group::Cold,
            what: format!("{}: {what}", case.name),
            unit,
            rounds: rounds.collect(),
        };
        report.facts(facts, None);
    };
    tell("from disk / pages needed", "", &|subject| {
        subject.from_disk.clone()
    });
    let (scale, unit) = if case.counts_bytes() {
        (case.block_bytes as f64 / 1e9, "GB/s")
    } else {
        (1e-3, "kIOPS")
    };
    let scaled = |rates: &[f64]| rates.iter().map(|rate| rate * scale).collect();
    let ratio = |row: &Row, rates: &[f64]| {
        let pairs = row.samples.iter().zip(rates);
        pairs
            .map(|(sample, rate)| sample.requests_per_second / rate)
            .collect()
    };
    tell("fio", unit, &|subject| scaled(&subject.fio));
    tell("backend / fio", "", &|subject| {
        ratio(&subject.row, &subject.fio)
    });
    tell("pread", unit, &|subject| scaled(&subject.pread));
    tell("backend / pread", "", &|subject| {
        ratio(&subject.row, &subject.pread)
    });
}

fn cases() -> [Case; 4] {
    [
        Case::new(Pattern::RandomApart, 4 << 10, 1),
        Case::new(Pattern::RandomApart, 4 << 10, 32),
        Case::new(Pattern::SequentialOnce, 4 << 10, 1),
        Case::new(Pattern::SequentialOnce, 1 << 20, 8),
    ]
    .map(|mut case| {
        case.name.push_str(" cold");
        case
    })
}

/// Without a warm-up, which would make it warm. Returns the number of requests and the bytes read from disk as well.
fn measure_cold(server: &Server, case: &Case, settings: &Settings) -> Result<(Sample, usize, u64)> {
    let workload = settings.workload(case);
    with_disk(server, case, settings, |disk| {
        drop_cached(&server.files)?;
        let before = (Usage::of(server.pid())?, bytes_from_disk(server.pid())?);
        let outcome = disk.run(&workload, Limit::seconds(settings.seconds), None)?;
        let used = Usage::of(server.pid())?.since(before.0);
        let from_disk = bytes_from_disk(server.pid())?.saturating_sub(before.1);
        let memory = MemoryUse::of(server.pid())?;
        let sample = Sample::new(&outcome, used, memory.rss_bytes);
        Ok((sample, usize::try_from(outcome.requests)?, from_disk))
    })
}
