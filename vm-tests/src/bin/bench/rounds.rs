//! Groups measured in rounds: each round measures every backend once.

use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};

use crate::args::{Args, Group};
use crate::disks::{Disks, make_cached};
use crate::groups;
use crate::measure::{Case, Settings, count_syscalls, measure, verify};
use crate::pin::Pin;
use crate::report::{Report, Row};
use crate::say;
use crate::server::{Aio, Programs, Server, Subject};

/// Everything a group needs.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) args: &'a Args,
    pub(crate) programs: &'a Programs,
    pub(crate) disks: &'a Disks,
    pub(crate) settings: &'a Settings,
    pub(crate) pin: Option<Pin>,
    /// Set by SIGINT and SIGTERM.
    pub(crate) interrupted: Arc<AtomicBool>,
}

impl Bench<'_> {
    /// Those of the group that are there and wanted.
    pub(crate) fn subjects(&self, group: Group) -> Vec<Subject> {
        self.possible(groups::plan(group).0)
    }

    /// Those that are there and wanted.
    pub(crate) fn possible(&self, subjects: impl IntoIterator<Item = Subject>) -> Vec<Subject> {
        subjects
            .into_iter()
            .filter(|subject| subject.is_possible(self.programs))
            .filter(|subject| self.args.wants(&subject.name()))
            .collect()
    }

    /// Fails once the user has had enough. Backends would survive a program that just dies.
    pub(crate) fn go_on(&self) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        Ok(())
    }

    pub(crate) fn start(&self, subject: Subject) -> Result<Server> {
        Server::start(subject, self.programs, self.disks, self.pin)
    }

    /// Starts those that can be started. An old build, or a small limit of the machine, need not take the others with it.
    pub(crate) fn start_all(
        &self,
        group: Group,
        subjects: Vec<Subject>,
        report: &mut Report,
    ) -> Vec<Server> {
        let mut servers = Vec::new();
        for subject in subjects {
            match self.start(subject) {
                Ok(server) => servers.push(server),
                Err(error) => report.note(format!("{}: {error:#}", group.name())),
            }
        }
        servers
    }

    /// Measures the group.
    pub(crate) fn rounds(&self, group: Group, report: &mut Report) -> Result<()> {
        let (_, cases) = groups::plan(group);
        let cases: Vec<Case> = cases
            .into_iter()
            .filter(|case| self.args.wants_workload(&case.name))
            .collect();
        let servers = self.start_all(group, self.subjects(group), report);
        let reference = File::open(self.disks.flat()?)?;
        for case in &cases {
            say!("{}: {}", group.name(), case.name);
            let mut rows = self.case(group, case, &servers, &reference)?;
            let subjects: Vec<_> = servers.iter().map(|server| server.subject).collect();
            compare(&mut rows, &subjects, report.reference.as_deref());
            report.rows.append(&mut rows);
        }
        Ok(())
    }

    fn case(
        &self,
        group: Group,
        case: &Case,
        servers: &[Server],
        reference: &File,
    ) -> Result<Vec<Row>> {
        let mut rows: Vec<Row> = servers
            .iter()
            .map(|server| Row::new(group, case, server.subject.name()))
            .collect();
        for server in servers {
            make_cached(&server.files)?;
            verify(server, case, self.settings, reference)?;
        }
        for _round in 0..self.args.rounds() {
            for (server, row) in servers.iter().zip(&mut rows) {
                self.go_on()?;
                make_cached(&server.files)?;
                row.samples.push(measure(server, case, self.settings)?);
            }
        }
        for (server, row) in servers.iter().zip(&mut rows) {
            // The tools that count are not what is measured: a row is good without.
            match count_syscalls(server, case, self.settings) {
                Ok(syscalls) => row.syscalls = syscalls,
                Err(error) => say!("system calls not counted: {error:#}"),
            }
        }
        Ok(rows)
    }
}

/// Sets the ratios of rows that were measured together.
pub(crate) fn compare(rows: &mut [Row], subjects: &[Subject], reference: Option<&str>) {
    let position = |name: &str| rows.iter().position(|row| row.subject == name);
    let reference = reference.and_then(position);
    let ratios: Vec<_> = rows
        .iter()
        .zip(subjects)
        .map(|(row, subject)| {
            let base = match subject {
                Subject::Vbd(stack) => position(&Subject::Base(*stack).name()),
                _ => None,
            };
            let to = |other: usize| row.ratio_to(&rows[other]);
            (reference.map(to), base.map(to))
        })
        .collect();
    for (row, (ratio, baseline_ratio)) in rows.iter_mut().zip(ratios) {
        (row.ratio, row.baseline_ratio) = (ratio, baseline_ratio);
    }
}

/// What everything is compared with: the simplest thing that qemu-storage-daemon does, else the base, else ourselves.
pub(crate) fn reference(args: &Args, programs: &Programs) -> Option<String> {
    let (subjects, _) = groups::plan(Group::Random);
    let flat = Subject::QemuRaw(Aio::IoUring);
    [flat]
        .into_iter()
        .chain(subjects)
        .filter(|subject| subject.is_possible(programs))
        .map(|subject| subject.name())
        .find(|name| args.wants(name))
}
