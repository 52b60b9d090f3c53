//! Reads of what is not in the page cache.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, ensure};
use vm_tests::load::{Limit, Pattern};
use vm_tests::requirement::{Missing, program};

use crate::args::Group;
use crate::disks::{drop_cached, drop_settled, make_cached};
use crate::measure::{Case, Sample, Settings, verify, with_disk};
use crate::replay::Replay;
use crate::report::{Facts, Report, Row};
use crate::rounds::{Bench, compare};
use crate::say;
use crate::server::Server;
use crate::slow::SlowDisk;
use crate::usage::{MemoryUse, Usage, bytes_from_disk};

/// Of what is needed: less came from the disk only if something was in the page cache after all.
const LEAST_FROM_DISK: f64 = 0.9;

/// How a group reads what is not in the page cache.
struct Setting {
    group: Group,
    /// What limits the disk, if not the disk itself. It ends after the backends that are in it.
    slow: Option<SlowDisk>,
    fio: Option<PathBuf>,
    /// What is right.
    reference: File,
}

/// One backend under one workload: what is measured beside the usual, a value for each round.
struct Subject<'a> {
    server: &'a Server,
    row: Row,
    from_disk: Vec<f64>,
    fio: Vec<f64>,
    pread: Vec<f64>,
}

impl Bench<'_> {
    /// Measures the group `cold`.
    pub(crate) fn cold(&self, report: &mut Report) -> Result<()> {
        self.uncached(Group::Cold, None, report)
    }

    /// Measures the group `slow`, if this machine has a way to slow a disk down.
    pub(crate) fn slow(&self, report: &mut Report) -> Result<()> {
        match SlowDisk::new(&self.disks.flat()?) {
            Ok(slow) => self.uncached(Group::Slow, Some(slow), report),
            Err(error) if error.is::<Missing>() => {
                say!("SKIPPED slow: {error}");
                report.note(format!("slow: {error}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn uncached(&self, group: Group, slow: Option<SlowDisk>, report: &mut Report) -> Result<()> {
        let flat = self.disks.flat()?;
        let setting = Setting {
            group,
            slow,
            fio: program("fio").ok(),
            reference: File::open(&flat)?,
        };
        if setting.fio.is_none() {
            report.note("without fio, cold reads have no yardstick but pread");
        }
        let mut servers = Vec::new();
        for subject in self.subjects(group) {
            let server = self.start(subject)?;
            if let Some(slow) = &setting.slow {
                slow.enter(server.pid())?;
            }
            servers.push(server);
        }
        for case in cases(group) {
            if self.args.wants_workload(&case.name) {
                say!("{}: {}", group.name(), case.name);
                self.case_uncached(&case, &servers, &setting, report)?;
            }
        }
        // What comes back in random order comes back in small pages.
        for server in &servers {
            drop_cached(&server.files)?;
        }
        drop_cached(&[flat])
    }

    fn case_uncached(
        &self,
        case: &Case,
        servers: &[Server],
        setting: &Setting,
        report: &mut Report,
    ) -> Result<()> {
        let mut subjects = Vec::new();
        for server in servers {
            // Also for whoever caches below this machine: nobody finds there what others do not.
            make_cached(&server.files)?;
            verify(server, case, self.settings, &setting.reference)?;
            subjects.push(Subject {
                server,
                row: Row::new(setting.group, case, server.subject.name()),
                from_disk: Vec::new(),
                fio: Vec::new(),
                pread: Vec::new(),
            });
        }
        for _round in 0..self.args.rounds() {
            for subject in &mut subjects {
                self.go_on()?;
                self.round_uncached(case, subject, setting)?;
            }
        }
        tell(setting.group, case, &subjects, report);
        let kinds: Vec<_> = servers.iter().map(|server| server.subject).collect();
        let mut rows: Vec<Row> = subjects.into_iter().map(|subject| subject.row).collect();
        compare(&mut rows, &kinds, report.reference.as_deref());
        report.rows.append(&mut rows);
        Ok(())
    }

    /// The backend, then the same reads without it.
    fn round_uncached(
        &self,
        case: &Case,
        subject: &mut Subject<'_>,
        setting: &Setting,
    ) -> Result<()> {
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
        if let Some(fio) = &setting.fio {
            drop_settled(&server.files)?;
            let command = match &setting.slow {
                Some(slow) => slow.command(fio),
                None => Command::new(fio),
            };
            subject.fio.push(replay.fio(command, case.depth)?);
        }
        // This process has the disk as it is.
        if case.depth == 1 && setting.slow.is_none() {
            drop_settled(&server.files)?;
            subject.pread.push(replay.pread()?);
        }
        Ok(())
    }
}

/// Adds what is not in the rows.
fn tell(group: Group, case: &Case, subjects: &[Subject<'_>], report: &mut Report) {
    let mut tell = |what: &str, unit, of: &dyn Fn(&Subject<'_>) -> Vec<f64>| {
        let rounds = subjects
            .iter()
            .map(|subject| (subject.row.subject.clone(), of(subject)))
            .filter(|(_, rounds)| !rounds.is_empty());
        let facts = Facts {
            group,
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

/// What a slow disk makes of one random read at a time is no question.
fn cases(group: Group) -> Vec<Case> {
    let cases = [
        Case::new(Pattern::RandomApart, 4 << 10, 1),
        // `fio` is never woken by another process either.
        Case::new(Pattern::RandomApart, 4 << 10, 32).spinning(),
        Case::new(Pattern::RandomApart, 4 << 10, 32),
        Case::new(Pattern::RandomApart, 16 << 10, 32),
        Case::new(Pattern::SequentialOnce, 4 << 10, 1),
        // What a guest's kernel asks for when a program in it reads a file.
        Case::new(Pattern::SequentialOnce, 128 << 10, 2),
        Case::new(Pattern::SequentialOnce, 1 << 20, 8),
    ];
    // Next to a slow disk, who wakes whom is nothing.
    let skipped = if group == Group::Slow { 2 } else { 0 };
    let cases = cases.into_iter().skip(skipped).map(|mut case| {
        case.name = format!("{} {}", case.name, group.name());
        case
    });
    cases.collect()
}

/// Without a warm-up, which would make it warm. Returns the number of requests and the bytes read from disk as well.
fn measure_cold(server: &Server, case: &Case, settings: &Settings) -> Result<(Sample, usize, u64)> {
    let workload = settings.workload(case);
    with_disk(server, case, settings, |disk| {
        drop_settled(&server.files)?;
        let before = (Usage::of(server.pid())?, bytes_from_disk(server.pid())?);
        let outcome = disk.run(&workload, Limit::seconds(settings.seconds), None)?;
        let used = Usage::of(server.pid())?.since(before.0);
        let from_disk = bytes_from_disk(server.pid())?.saturating_sub(before.1);
        let memory = MemoryUse::of(server.pid())?;
        let sample = Sample::new(&outcome, used, memory.rss_bytes);
        Ok((sample, usize::try_from(outcome.requests)?, from_disk))
    })
}
