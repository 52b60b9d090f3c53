//! Many guests at once, each with a backend of its own on the same files.

use std::fs::File;

use anyhow::{Context, Result};
use vm_tests::load::{Disk, Limit, Outcome, Pattern};

use crate::args::Group;
use crate::disks::make_cached;
use crate::measure::{Case, Sample, WARM_UP_SECONDS, verify};
use crate::report::{Report, Row, median};
use crate::rounds::{Bench, compare};
use crate::say;
use crate::server::Server;
use crate::usage::{MemoryUse, Usage};

const GUESTS: [usize; 4] = [1, 4, 16, 64];

/// All guests of one kind of backend.
struct Crowd {
    servers: Vec<Server>,
    row: Row,
    /// Requests of the guest that got fewest, for each of the guest that got most.
    fairness: Vec<f64>,
}

impl Bench<'_> {
    /// Measures the group.
    pub(crate) fn scale(&self, report: &mut Report) -> Result<()> {
        let cases = [
            Case::new(Pattern::Random, 4 << 10, 8),
            Case::new(Pattern::Sequential, 1 << 20, 4),
        ];
        for case in cases {
            for guests in GUESTS {
                let mut case = case.clone();
                let plural = if guests == 1 { "" } else { "s" };
                case.name = format!("{} x {guests} guest{plural}", case.name);
                if self.args.wants_workload(&case.name) {
                    say!("scale: {}", case.name);
                    self.guests(&case, guests, report)?;
                }
            }
        }
        Ok(())
    }

    fn guests(&self, case: &Case, guests: usize, report: &mut Report) -> Result<()> {
        let reference = File::open(self.disks.flat()?)?;
        let mut crowds = Vec::new();
        for subject in self.subjects(Group::Scale) {
            let mut servers = Vec::new();
            for _guest in 0..guests {
                servers.push(self.start(subject)?);
            }
            let first = servers.first().context("no guests")?;
            verify(first, case, self.settings, &reference)?;
            crowds.push(Crowd {
                servers,
                row: Row::new(Group::Scale, case, subject.name()),
                fairness: Vec::new(),
            });
        }
        for _round in 0..self.args.rounds() {
            for crowd in &mut crowds {
                self.go_on()?;
                self.crowd(case, crowd)?;
            }
        }
        let subjects: Vec<_> = crowds
            .iter()
            .filter_map(|crowd| Some(crowd.servers.first()?.subject))
            .collect();
        for crowd in &crowds {
            if guests > 1 {
                let fairness = median(crowd.fairness.iter().copied());
                let what = format!("{}: slowest to fastest", case.name);
                report.fact(Group::Scale, what, &crowd.row.subject, (fairness, ""));
            }
        }
        let mut rows: Vec<Row> = crowds.into_iter().map(|crowd| crowd.row).collect();
        compare(&mut rows, &subjects, report.reference.as_deref());
        report.rows.append(&mut rows);
        Ok(())
    }

    fn crowd(&self, case: &Case, crowd: &mut Crowd) -> Result<()> {
        for server in crowd.servers.iter().take(1) {
            make_cached(&server.files)?;
        }
        let mut disks = Vec::new();
        for server in &crowd.servers {
            disks.push(server.attach(&self.settings.options(case))?);
        }
        self.all(case, &mut disks, WARM_UP_SECONDS)?;
        let used = |servers: &[Server]| -> Result<Usage> {
            servers.iter().try_fold(Usage::default(), |sum, server| {
                Ok(sum.plus(Usage::of(server.pid())?))
            })
        };
        let before = used(&crowd.servers)?;
        let outcomes = self.all(case, &mut disks, self.settings.seconds)?;
        let used = used(&crowd.servers)?.since(before);
        let mut pss_bytes = 0;
        for server in &crowd.servers {
            pss_bytes += MemoryUse::of(server.pid())?.pss_bytes;
        }
        let requests = || outcomes.iter().map(|outcome| outcome.requests);
        let most = requests().max().unwrap_or_default().max(1);
        let fewest = requests().min().unwrap_or_default();
        crowd.fairness.push(fewest as f64 / most as f64);
        let mut sum = Outcome::default();
        outcomes.iter().for_each(|outcome| sum.add(outcome));
        crowd.row.samples.push(Sample::new(&sum, used, pss_bytes));
        disks.into_iter().try_for_each(Disk::detach)
    }

    /// Runs all guests at once, each reading in an order of its own, until the same moment: where there are more of them
    /// than processors, some begin late.
    fn all(&self, case: &Case, disks: &mut [Disk], seconds: f64) -> Result<Vec<Outcome>> {
        let limit = Limit::seconds(seconds);
        std::thread::scope(|scope| {
            let threads: Vec<_> = disks
                .iter_mut()
                .zip(0..)
                .map(|(disk, guest)| {
                    let mut workload = self.settings.workload(case);
                    workload.seed = workload.seed.wrapping_add(guest << 16);
                    scope.spawn(move || disk.run(&workload, limit, None))
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| {
                    thread
                        .join()
                        .map_err(|_panic| anyhow::anyhow!("a guest's thread panicked"))?
                })
                .collect()
        })
    }
}
