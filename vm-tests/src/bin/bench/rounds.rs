//! Groups measured in rounds: each round measures every backend once.

use std::fs::File;

use anyhow::Result;

use crate::args::{Args, Group};
use crate::disks::{Disks, make_cached};
use crate::groups;
use crate::measure::{Case, Settings, count_syscalls, measure, verify};
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
}

impl Bench<'_> {
    /// Those of the group that are there and wanted.
    pub(crate) fn subjects(&self, group: Group) -> Vec<Subject> {
        let (subjects, _) = groups::plan(group);
        subjects
            .into_iter()
            .filter(|subject| subject.is_possible(self.programs))
            .filter(|subject| self.args.wants(&subject.name()))
            .collect()
    }

    pub(crate) fn start(&self, subject: Subject) -> Result<Server> {
        Server::start(subject, self.programs, self.disks)
    }

    /// Measures the group.
    pub(crate) fn rounds(&self, group: Group, report: &mut Report) -> Result<()> {
        let (_, cases) = groups::plan(group);
        let cases: Vec<Case> = cases
            .into_iter()
            .filter(|case| self.args.wants_workload(&case.name))
            .collect();
        let mut servers = Vec::new();
        for subject in self.subjects(group) {
            servers.push(self.start(subject)?);
        }
        let reference = File::open(self.disks.flat()?)?;
        for case in &cases {
            say!("{}: {}", group.name(), case.name);
            let mut rows = self.case(group, case, &servers, &reference)?;
            compare(&mut rows, &servers, report.reference.as_deref());
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
            .map(|server| Row {
                group,
                case: case.clone(),
                subject: server.subject.name(),
                samples: Vec::new(),
                syscalls: None,
                ratio: None,
                baseline_ratio: None,
            })
            .collect();
        for server in servers {
            make_cached(&server.files)?;
            verify(server, case, self.settings, reference)?;
        }
        for _round in 0..self.args.rounds() {
            for (server, row) in servers.iter().zip(&mut rows) {
                make_cached(&server.files)?;
                row.samples.push(measure(server, case, self.settings)?);
            }
        }
        for (server, row) in servers.iter().zip(&mut rows) {
            row.syscalls = count_syscalls(server, case, self.settings)?;
        }
        Ok(rows)
    }
}

/// Sets the ratios of rows that were measured together.
fn compare(rows: &mut [Row], servers: &[Server], reference: Option<&str>) {
    let position = |name: &str| rows.iter().position(|row| row.subject == name);
    let reference = reference.and_then(position);
    let ratios: Vec<_> = rows
        .iter()
        .zip(servers)
        .map(|(row, server)| {
            let base = match server.subject {
                Subject::Vbd(stack) => position(&Subject::Base(stack).name()),
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
