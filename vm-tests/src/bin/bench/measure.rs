//! One measurement of one backend.

use std::fs::File;

use anyhow::{Context, Result};
use vm_tests::load::{Disk, Limit, Mode, Options, Outcome, Pattern, Workload};

use crate::server::Server;
use crate::syscalls::Counter;
use crate::usage::{MemoryUse, Usage};

/// Not measured: page faults of the first touch, clocks that speed up.
pub(crate) const WARM_UP_SECONDS: f64 = 0.15;
/// Bytes compared with the flat image before anything is timed.
const VERIFIED_BYTES: u64 = 32 << 20;
/// Requests of the pass that counts system calls.
const COUNTED_BYTES: u64 = 256 << 20;
const COUNTED_REQUESTS: u64 = 5_000;

/// A workload with a name.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) pattern: Pattern,
    pub(crate) block_bytes: usize,
    pub(crate) depth: usize,
    pub(crate) queues: usize,
    pub(crate) mode: Mode,
}

impl Case {
    /// On one queue, sleeping.
    pub(crate) fn new(pattern: Pattern, block_bytes: usize, depth: usize) -> Self {
        let order = if pattern.is_random() {
            "random"
        } else {
            "sequential"
        };
        let size = match block_bytes {
            bytes if bytes >= 1 << 20 => format!("{} MiB", bytes >> 20),
            bytes => format!("{} KiB", bytes >> 10),
        };
        Self {
            name: format!("{size} {order} QD{depth}"),
            pattern,
            block_bytes,
            depth,
            queues: 1,
            mode: Mode::Event,
        }
    }

    pub(crate) fn spinning(mut self) -> Self {
        self.mode = Mode::Spin;
        self.name.push_str(" spin");
        self
    }

    pub(crate) fn on_queues(mut self, queues: usize) -> Self {
        self.queues = queues;
        self.name = format!("{} x {queues} queues", self.name);
        self
    }

    /// Whether bytes per second tell more than requests per second.
    pub(crate) fn counts_bytes(&self) -> bool {
        self.block_bytes >= 64 << 10 || !self.pattern.is_random()
    }
}

/// What holds for all measurements.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) seconds: f64,
    pub(crate) seed: u64,
    pub(crate) segment_bytes: Option<usize>,
    pub(crate) inflight: bool,
    pub(crate) counter: Option<Counter>,
}

impl Settings {
    pub(crate) fn workload(&self, case: &Case) -> Workload {
        let whole = Workload::new(case.pattern, case.block_bytes, case.depth);
        Workload {
            mode: case.mode,
            seed: self.seed,
            segment_bytes: self.segment_bytes.unwrap_or(whole.segment_bytes).max(512),
            ..whole
        }
    }

    pub(crate) fn options(&self, case: &Case) -> Options {
        Options {
            inflight: self.inflight,
            ..Options::for_workload(&self.workload(case), case.queues)
        }
    }
}

/// What one measurement found. Times and counts are those of the backend, for each request.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sample {
    pub(crate) requests_per_second: f64,
    pub(crate) bytes_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) cpu_us: f64,
    pub(crate) voluntary: f64,
    pub(crate) involuntary: f64,
    pub(crate) kicks: f64,
    pub(crate) interrupts: f64,
    pub(crate) rss_bytes: f64,
}

impl Sample {
    pub(crate) fn new(outcome: &Outcome, used: Usage, rss_bytes: u64) -> Self {
        let each = |count: u64| count as f64 / outcome.requests.max(1) as f64;
        Self {
            requests_per_second: outcome.requests_per_second(),
            bytes_per_second: outcome.bytes_per_second(),
            p50_us: outcome.latency.quantile_us(0.5),
            p99_us: outcome.latency.quantile_us(0.99),
            p999_us: outcome.latency.quantile_us(0.999),
            cpu_us: used.cpu.as_secs_f64() * 1e6 / outcome.requests.max(1) as f64,
            voluntary: each(used.voluntary),
            involuntary: each(used.involuntary),
            kicks: each(outcome.kicks),
            interrupts: each(outcome.interrupts),
            rss_bytes: rss_bytes as f64,
        }
    }
}

/// Attaches a disk of its own and measures it.
pub(crate) fn measure(server: &Server, case: &Case, settings: &Settings) -> Result<Sample> {
    let workload = settings.workload(case);
    with_disk(server, case, settings, |disk| {
        disk.run(&workload, Limit::seconds(WARM_UP_SECONDS), None)?;
        let before = Usage::of(server.pid())?;
        let outcome = disk.run(&workload, Limit::seconds(settings.seconds), None)?;
        let used = Usage::of(server.pid())?.since(before);
        let memory = MemoryUse::of(server.pid())?;
        Ok(Sample::new(&outcome, used, memory.rss_bytes))
    })
}

/// Compares what the backend serves with the flat image, asking as the case does.
pub(crate) fn verify(
    server: &Server,
    case: &Case,
    settings: &Settings,
    reference: &File,
) -> Result<()> {
    let requests = (VERIFIED_BYTES / case.block_bytes as u64).clamp(32, 4096);
    let workload = settings.workload(case);
    with_disk(server, case, settings, |disk| {
        disk.run(&workload, Limit::requests(requests), Some(reference))
            .map(|_outcome| ())
    })
}

/// System calls for each request, if they can be counted.
pub(crate) fn count_syscalls(
    server: &Server,
    case: &Case,
    settings: &Settings,
) -> Result<Option<f64>> {
    let Some(counter) = &settings.counter else {
        return Ok(None);
    };
    let workload = settings.workload(case);
    let requests = (COUNTED_BYTES / case.block_bytes as u64).min(COUNTED_REQUESTS);
    with_disk(server, case, settings, |disk| {
        disk.run(&workload, Limit::seconds(WARM_UP_SECONDS / 4.0), None)?;
        let (calls, outcome) = counter.count(server.pid(), || {
            disk.run(&workload, Limit::requests(requests), None)
        })?;
        Ok(Some(calls as f64 / outcome.requests.max(1) as f64))
    })
}

pub(crate) fn with_disk<T>(
    server: &Server,
    case: &Case,
    settings: &Settings,
    body: impl FnOnce(&mut Disk) -> Result<T>,
) -> Result<T> {
    let context = || format!("{}: {}", case.name, server.text());
    let mut disk = server.attach(&settings.options(case))?;
    let result = body(&mut disk).with_context(context)?;
    disk.detach().with_context(context)?;
    Ok(result)
}
