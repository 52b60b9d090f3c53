//! Real guests: how long until they have read from their disk, and how fast programs in them read.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use vm_tests::linux::{Boot, Task};
use vm_tests::load::Pattern;
use vm_tests::process::Process;
use vm_tests::requirement::Missing;
use vm_tests::{qemu, uml};

use crate::args::Group;
use crate::disks::make_cached;
use crate::measure::{Case, verify};
use crate::report::{Facts, Report};
use crate::rounds::Bench;
use crate::say;
use crate::server::Server;
use crate::usage::Usage;

/// Several times what any of it takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);
/// What the guest reads at a time where it reads at random.
const RANDOM_BYTES: f64 = 4096.0;

/// A virtual machine that Linux runs in.
struct Machine {
    name: &'static str,
    start: fn(&Path, &Boot, &Path) -> Result<Process>,
}

/// QEMU emulates: there is no other way on a machine without KVM, and the numbers should mean the same everywhere.
const MACHINES: [Machine; 2] = [
    Machine {
        name: "qemu",
        start: qemu::linux,
    },
    Machine {
        name: "uml",
        start: uml::linux,
    },
];

/// One kind of reading, as guest/init does it.
struct Phase {
    /// What the guest calls it.
    key: &'static str,
    name: &'static str,
    random: bool,
}

const PHASES: [Phase; 4] = [
    Phase {
        key: "buffered",
        name: "whole disk, dd",
        random: false,
    },
    Phase {
        key: "direct",
        name: "whole disk, dd direct",
        random: false,
    },
    Phase {
        key: "random1",
        name: "4 KiB random, 1 process",
        random: true,
    },
    Phase {
        key: "random4",
        name: "4 KiB random, 4 processes",
        random: true,
    },
];

/// What came of one guest.
struct Run {
    first_read: Duration,
    phases: Vec<Measured>,
}

#[derive(Clone, Copy)]
struct Measured {
    bytes: f64,
    elapsed: Duration,
    /// Of the backend.
    cpu: Duration,
}

impl Bench<'_> {
    /// Measures the group. A kind of guest that this machine cannot have is left out, and said so.
    pub(crate) fn guests_of_all_kinds(&self, report: &mut Report) -> Result<()> {
        let mut servers = Vec::new();
        for subject in self.subjects(Group::Guest) {
            servers.push(self.start(subject)?);
        }
        let case = Case::new(Pattern::Sequential, 1 << 20, 8);
        let reference = File::open(self.disks.flat()?)?;
        for server in &servers {
            make_cached(&server.files)?;
            verify(server, &case, self.settings, &reference)?;
        }
        for machine in &MACHINES {
            if !self.args.wants_workload(machine.name) {
                continue;
            }
            match self.machine(machine, &servers, report) {
                Err(error) if error.is::<Missing>() => {
                    let why = format!("without {}: {}", machine.name, error.root_cause());
                    say!("SKIPPED guest: {why}");
                    report.note(format!("guest: {why}"));
                }
                result => result.with_context(|| machine.name)?,
            }
        }
        Ok(())
    }

    fn machine(&self, machine: &Machine, servers: &[Server], report: &mut Report) -> Result<()> {
        say!("guest: {}", machine.name);
        let mut runs: Vec<Vec<Run>> = servers.iter().map(|_server| Vec::new()).collect();
        for _round in 0..self.args.rounds() {
            for (server, runs) in servers.iter().zip(&mut runs) {
                self.go_on()?;
                make_cached(&server.files)?;
                runs.push(run(machine, server).with_context(|| server.text())?);
            }
        }
        let reference = report.reference.clone();
        let mut tell = |name: &str, unit, of: &dyn Fn(&Run) -> f64| {
            let rounds = servers.iter().zip(&runs).map(|(server, runs)| {
                let values = runs.iter().map(of).collect();
                (server.subject.name(), values)
            });
            let facts = Facts {
                group: Group::Guest,
                what: format!("{}: {name}", machine.name),
                unit,
                rounds: rounds.collect(),
            };
            report.facts(facts, reference.as_deref());
        };
        tell("start to first read", "s", &|run| {
            run.first_read.as_secs_f64()
        });
        let known = runs.iter().flatten().map(|run| run.phases.len()).min();
        for (position, phase) in PHASES.iter().enumerate().take(known.unwrap_or_default()) {
            let of = |run: &Run| run.phases[position];
            let cpu = format!("{}: CPU of the backend", phase.name);
            if phase.random {
                tell(phase.name, "kIOPS", &|run| of(run).reads_per_second() / 1e3);
                tell(&cpu, "us/read", &|run| of(run).cpu_us_each(RANDOM_BYTES));
            } else {
                tell(phase.name, "GB/s", &|run| of(run).bytes_per_second() / 1e9);
                tell(&cpu, "ms/GB", &|run| of(run).cpu_us_each(1e9) / 1e3);
            }
        }
        if known.is_some_and(|known| known < PHASES.len()) {
            report.note("guest: without 4 KiB random: no C compiler for the program that reads so");
        }
        Ok(())
    }
}

impl Measured {
    fn bytes_per_second(&self) -> f64 {
        self.bytes / self.elapsed.as_secs_f64()
    }

    fn reads_per_second(&self) -> f64 {
        self.bytes_per_second() / RANDOM_BYTES
    }

    fn cpu_us_each(&self, bytes: f64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 * bytes / self.bytes
    }
}

/// One guest from its start to its end.
fn run(machine: &Machine, server: &Server) -> Result<Run> {
    let scratch = scratch()?;
    let boot = Boot {
        queues: 1,
        task: Task::Read,
    };
    let started = Instant::now();
    let mut guest = (machine.start)(server.socket(), &boot, scratch.path())?;
    line(&guest, "end first")?;
    let first_read = started.elapsed();
    let mut phases = Vec::new();
    for phase in &PHASES {
        let begin = format!("begin {}", phase.key);
        if line(&guest, &begin)? == "done" {
            break;
        }
        let start = (Instant::now(), Usage::of(server.pid())?);
        let end = line(&guest, &format!("end {}", phase.key))?;
        let elapsed = start.0.elapsed();
        let bytes = end.rsplit(' ').next().unwrap_or_default().parse()?;
        phases.push(Measured {
            bytes,
            elapsed,
            cpu: Usage::of(server.pid())?.since(start.1).cpu,
        });
    }
    line(&guest, "done")?;
    guest.wait(LIMIT)?;
    Ok(Run { first_read, phases })
}

/// Waits until the guest says what begins like this and returns it, or "done" if that comes first.
fn line(guest: &Process, start: &str) -> Result<String> {
    fn said(line: &str) -> Option<&str> {
        line.trim_end().strip_prefix("VBD: ")
    }
    let text = guest.wait_for_line(LIMIT, |line| {
        said(line).is_some_and(|line| {
            line.starts_with(start) || line == "done" || line.starts_with("failed")
        })
    })?;
    // It may have gone on already.
    let mut lines = text.lines().filter_map(said);
    let found = lines.find(|line| line.starts_with(start) || *line == "done");
    let found = found.with_context(|| format!("the guest gave up:\n{text}"))?;
    Ok(found.to_owned())
}

/// User-mode Linux keeps its memory in a file here, which is not to be written to a disk meanwhile.
fn scratch() -> Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    Ok(tempfile::Builder::new()
        .prefix("bench")
        .tempdir_in(parent)?)
}
