//! How fast is `vbd-vhost`, and what does a read cost? Run by `scripts/bench`; `--help` says what can be asked, and
//! docs/performance.md what the columns mean.
#![forbid(unsafe_code)]

mod args;
mod cold;
mod content;
mod disks;
mod groups;
mod guest;
mod idle;
mod limits;
mod machine;
mod measure;
mod pin;
mod replay;
mod report;
mod rounds;
mod scale;
mod server;
mod slow;
mod svg;
mod syscalls;
mod table;
mod usage;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use clap::Parser;
use signal_hook::consts::TERM_SIGNALS;
use vm_tests::artifacts;

use crate::args::{Args, Group};
use crate::disks::Disks;
use crate::measure::Settings;
use crate::pin::Pin;
use crate::report::Report;
use crate::rounds::Bench;
use crate::server::Programs;
use crate::syscalls::Counter;

/// A line of progress, on standard error.
#[macro_export]
macro_rules! say {
    ($($word:tt)*) => { $crate::progress(format_args!($($word)*)) };
}

pub(crate) fn progress(text: std::fmt::Arguments<'_>) {
    // Who closes it does not want to hear.
    let _ok = writeln!(std::io::stderr(), "bench: {text}");
}

fn main() -> Result<()> {
    let args = Args::parse();
    let programs = Programs::find(args.vbd.clone(), args.baseline.clone(), !args.no_peers)?;
    let parent = match &args.dir {
        Some(dir) => dir.clone(),
        None => artifacts::target_dir()?,
    };
    let disks = Disks::new(&parent, args.disk_bytes(), args.keep)?;
    let mut report = Report {
        machine: machine::describe(&programs),
        reference: rounds::reference(&args, &programs),
        ..Report::default()
    };
    report.machine.push(("settings".into(), args.summary()));
    if let Some(reference) = &report.reference {
        let pair = ("reference (/ref)".into(), reference.clone());
        report.machine.push(pair);
    }
    let settings = settings(&args, &mut report);
    let bench = Bench {
        args: &args,
        programs: &programs,
        disks: &disks,
        settings: &settings,
        pin: args.pin.then(Pin::new).transpose()?,
        interrupted: interruptible()?,
    };
    let mut failed = None;
    for group in args.groups() {
        // What has been measured is worth showing, whatever comes then.
        if let Err(error) = bench.group(group, &mut report) {
            report
                .notes
                .push(format!("{} failed: {error:#}", group.name()));
            if bench.go_on().is_err() {
                failed = Some(error);
                break;
            }
            failed = Some(error.context(format!("{} failed", group.name())));
        }
    }
    std::io::stdout().write_all(table::text(&report).as_bytes())?;
    if let Some(path) = &args.json {
        write(path, &serde_json::to_string_pretty(&report.json())?)?;
    }
    if let Some(path) = &args.svg {
        write(path, &svg::chart(&report))?;
    }
    failed.map_or(Ok(()), Err)
}

impl Bench<'_> {
    fn group(&self, group: Group, report: &mut Report) -> Result<()> {
        match group {
            Group::Limits => self.limits(report),
            Group::Scale => self.scale(report),
            Group::Cold => self.cold(report),
            Group::Slow => self.slow(report),
            Group::Guest => self.guests_of_all_kinds(report),
            Group::Latency => {
                self.rounds(group, report)?;
                if self.args.wants_workload("idle") {
                    self.idle(report)?;
                }
                if self.args.wants_workload("start") {
                    self.start_times(report)?;
                }
                Ok(())
            }
            Group::Depth => {
                self.rounds(group, report)?;
                self.limits_of_group(group, report)
            }
            Group::Random | Group::Sequential | Group::Blocks => self.rounds(group, report),
        }
    }
}

/// A flag that the first SIGINT or SIGTERM sets; the second one ends the program at once.
fn interruptible() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in TERM_SIGNALS {
        signal_hook::flag::register_conditional_shutdown(*signal, 130, flag.clone())?;
        signal_hook::flag::register(*signal, flag.clone())?;
    }
    Ok(flag)
}

fn settings(args: &Args, report: &mut Report) -> Settings {
    let counter = if args.no_syscalls {
        None
    } else {
        Counter::find()
            .map_err(|why| report.notes.push(format!("no system calls counted: {why}")))
            .ok()
    };
    Settings {
        seconds: args.seconds(),
        seed: args.seed,
        segment_bytes: args.segment_bytes,
        inflight: !args.no_inflight,
        counter,
    }
}

fn write(path: &PathBuf, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}
