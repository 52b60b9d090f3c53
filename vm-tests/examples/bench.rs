//! How fast are vhost-user-blk backends, and what does a read cost them? Measured with [`vm_tests::virtio_driver`],
//! side by side: each round measures every backend once, because this machine in a minute is not this machine now.
//!
//! ```text
//! cargo run --release -p vm-tests --example bench -- make /tmp/bench    # flat.img, raw-0…3, lz4-0…3: one disk
//! vbd-vhost --socket /tmp/bench/a --layers /tmp/bench/raw-0,/tmp/bench/raw-1,/tmp/bench/raw-2,/tmp/bench/raw-3 &
//! qemu-storage-daemon --blockdev driver=file,node-name=d,filename=/tmp/bench/flat.img,read-only=on \
//!     --export type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=/tmp/bench/b,writable=off &
//! cargo run --release -p vm-tests --example bench -- run vbd=/tmp/bench/a,PID qsd=/tmp/bench/b,PID
//! ```
//!
//! The driver sleeps until it is notified, as a guest does; it does not look at the data. CPU time is that of all
//! threads of the backend, from the scheduler's nanoseconds (`/proc/PID/task/*/schedstat`).
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a measurement is its output")]

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lsmt::{Writer, WriterOptions};
use vm_tests::layers::{Form, wrap};
use vm_tests::stack::Random;
use vm_tests::virtio_driver::{Disk, Kind, Options, Request};

/// Not measured: page faults of the first touch, clocks that speed up.
const WARM_UP: Duration = Duration::from_millis(200);

#[derive(Debug, Parser)]
#[command(
    about = "Measures vhost-user-blk backends side by side, and makes disks for them to serve"
)]
enum Command {
    /// Measures running backends.
    Run {
        /// NAME=SOCKET, or NAME=SOCKET,PID to learn the CPU time of each request as well. The first is what the others
        /// are compared with.
        #[arg(required = true)]
        backends: Vec<Target>,
        /// Length of each measurement.
        #[arg(long, default_value_t = 2.0)]
        seconds: f64,
        /// How often each is measured; what is reported is the median.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
    },
    /// Makes one disk as a flat image, as four raw layers and as four layers of LZ4 in 4 KiB blocks.
    Make {
        /// Where to.
        dir: PathBuf,
        /// Its size.
        #[arg(long, default_value_t = 256)]
        mebibytes: usize,
    },
}

#[derive(Debug, Clone)]
struct Target {
    name: String,
    socket: PathBuf,
    pid: Option<u32>,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').context("not NAME=SOCKET")?;
        let (socket, pid) = match rest.split_once(',') {
            Some((socket, pid)) => (socket, Some(pid.parse()?)),
            None => (rest, None),
        };
        Ok(Self {
            name: name.to_owned(),
            socket: socket.into(),
            pid,
        })
    }
}

struct Workload {
    name: &'static str,
    bytes: usize,
    depth: usize,
    random: bool,
}

const WORKLOADS: [Workload; 4] = [
    Workload {
        name: "4 KiB random QD1",
        bytes: 4096,
        depth: 1,
        random: true,
    },
    Workload {
        name: "4 KiB random QD32",
        bytes: 4096,
        depth: 32,
        random: true,
    },
    Workload {
        name: "4 KiB random QD128",
        bytes: 4096,
        depth: 128,
        random: true,
    },
    Workload {
        name: "1 MiB sequential QD8",
        bytes: 1 << 20,
        depth: 8,
        random: false,
    },
];

/// One measurement.
#[derive(Debug, Clone, Copy)]
struct Sample {
    requests_per_second: f64,
    cpu_microseconds_per_request: Option<f64>,
}

fn main() -> Result<()> {
    match Command::parse() {
        Command::Run {
            backends,
            seconds,
            rounds,
        } => run(&backends, Duration::try_from_secs_f64(seconds)?, rounds),
        Command::Make { dir, mebibytes } => make(&dir, mebibytes << 20),
    }
}

fn run(targets: &[Target], time: Duration, rounds: usize) -> Result<()> {
    for workload in &WORKLOADS {
        let mut samples = vec![Vec::new(); targets.len()];
        for _round in 0..rounds {
            for (target, samples) in targets.iter().zip(&mut samples) {
                samples.push(measure(target, workload, time).context(target.name.clone())?);
            }
        }
        println!("{}", workload.name);
        for (target, own) in targets.iter().zip(&samples) {
            println!("  {:12} {}", target.name, line(workload, own, &samples[0]));
        }
    }
    Ok(())
}

/// Median, lowest and highest; the median of the rounds' ratios to the first backend; CPU time.
fn line(workload: &Workload, own: &[Sample], first: &[Sample]) -> String {
    let (unit, factor) = if workload.random {
        ("IOPS", 1.0)
    } else {
        ("MB/s", f64::from(1 << 20) / 1e6)
    };
    let rates = sorted(own.iter().map(|one| one.requests_per_second * factor));
    let ratio =
        |(own, first): (&Sample, &Sample)| own.requests_per_second / first.requests_per_second;
    let ratios = sorted(own.iter().zip(first).map(ratio));
    let cpu = sorted(
        own.iter()
            .filter_map(|one| one.cpu_microseconds_per_request),
    );
    let cpu = median(&cpu).map_or(String::new(), |cpu| format!("  CPU {cpu:.2} us each"));
    format!(
        "{:8.0} {unit} ({:.0} to {:.0})  x{:.2}{cpu}",
        median(&rates).unwrap_or_default(),
        rates.first().unwrap_or(&0.0),
        rates.last().unwrap_or(&0.0),
        median(&ratios).unwrap_or_default(),
    )
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

fn measure(target: &Target, workload: &Workload, time: Duration) -> Result<Sample> {
    let options = Options {
        features: !0,
        queues: 1,
        ring_entries: 512,
        depth: workload.depth,
        request_bytes: workload.bytes,
    };
    let mut disk = Disk::attach(&target.socket, &options)?;
    read_for(&mut disk, workload, WARM_UP)?;
    let cpu_before = target.pid.map(cpu_time).transpose()?;
    let start = Instant::now();
    let requests = read_for(&mut disk, workload, time)?;
    let elapsed = start.elapsed();
    let cpu_after = target.pid.map(cpu_time).transpose()?;
    let cpu = cpu_after
        .zip(cpu_before)
        .map(|(after, before)| after.saturating_sub(before));
    Ok(Sample {
        requests_per_second: f64::from(requests) / elapsed.as_secs_f64(),
        cpu_microseconds_per_request: cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / f64::from(requests)),
    })
}

/// Reads until the time is over; returns how many reads that were.
fn read_for(disk: &mut Disk, workload: &Workload, time: Duration) -> Result<u32> {
    let blocks = usize::try_from(disk.capacity_bytes()?)? / workload.bytes;
    ensure!(blocks > 0, "the disk is too small");
    let deadline = Instant::now() + time;
    let mut random = Random::new(1);
    let mut following = (0..blocks).cycle();
    let mut requests = 0;
    disk.drive(
        workload.depth,
        || {
            let block = if workload.random {
                random.below(blocks)
            } else {
                following.next()?
            };
            let request = Request {
                kind: Kind::Read,
                offset: (block * workload.bytes) as u64,
                bytes: workload.bytes,
            };
            (Instant::now() < deadline).then_some(request)
        },
        |answer| {
            requests += 1;
            answer
                .result
                .with_context(|| format!("{:?}", answer.request))
        },
    )?;
    Ok(requests)
}

/// What the threads of the process have used so far. Those of queues live as long as their front-end.
fn cpu_time(pid: u32) -> Result<Duration> {
    let mut nanoseconds = 0;
    for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while we look.
        let Ok(text) = std::fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let used = text.split(' ').next().context("schedstat is empty")?;
        nanoseconds += used.parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// Half noise, half text: LZ4 makes about half of it. Each 64 KiB belongs to one layer, five in eight to the lowest.
fn make(dir: &Path, disk_bytes: usize) -> Result<()> {
    const CELL_BYTES: usize = 64 << 10;
    const OWNERS: [usize; 8] = [0, 0, 0, 0, 0, 1, 2, 3];
    std::fs::create_dir_all(dir)?;
    let text = "half of this block is text ".repeat(76);
    let mut random = Random::new(5);
    let mut disk = Vec::with_capacity(disk_bytes);
    while disk.len() < disk_bytes {
        disk.extend_from_slice(&random.bytes(2048));
        disk.extend_from_slice(&text.as_bytes()[..2048]);
    }
    std::fs::write(dir.join("flat.img"), &disk)?;
    let options = WriterOptions {
        virtual_size_bytes: disk.len() as u64,
        ..WriterOptions::default()
    };
    let mut writers = Vec::new();
    for _layer in 0..4 {
        writers.push(Writer::new(Vec::new(), &options)?);
    }
    for (cell, sector) in disk.chunks(CELL_BYTES).zip((0..).step_by(CELL_BYTES / 512)) {
        writers[OWNERS[random.below(OWNERS.len())]].data(sector, cell)?;
    }
    for (ordinal, writer) in writers.into_iter().enumerate() {
        let layer = writer.finish()?;
        let form = Form {
            zfile: Some((zfile::Algorithm::Lz4, 4096)),
            tar: false,
        };
        std::fs::write(dir.join(format!("raw-{ordinal}")), &layer)?;
        std::fs::write(dir.join(format!("lz4-{ordinal}")), wrap(layer, &form)?)?;
    }
    Ok(())
}
