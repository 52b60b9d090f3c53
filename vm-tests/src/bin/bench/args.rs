//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measures vbd-vhost: random and sequential reads, stacks of any depth, block sizes, many guests, cold caches; beside
/// qemu-storage-daemon and cloud-hypervisor's vhost_user_block where they are there.
///
/// Every backend is a process with a socket, and this program is the guest: a virtio-blk driver that behaves as
/// Linux's does. Each round measures every backend once, because a machine in a minute is not the machine of now; what
/// is reported is the median of the rounds. Before anything is timed, a short pass compares every byte with the flat
/// image. The table goes to standard output, progress to standard error.
#[derive(Debug, Parser)]
#[command(name = "bench", max_term_width = 100)]
pub(crate) struct Args {
    /// Few rounds, short runs, a small disk and only the groups random and sequential, unless told otherwise.
    #[arg(long)]
    pub(crate) quick: bool,

    /// What to measure; everything by default.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "GROUP,…")]
    pub(crate) groups: Vec<Group>,

    /// Only backends whose name contains one of these texts, as in the table (vbd, base, qsd, lz4, raw-7, …).
    #[arg(long, value_delimiter = ',', value_name = "TEXT,…")]
    pub(crate) only: Vec<String>,

    /// Only workloads whose name contains one of these texts (QD32, spin, 1 MiB, …).
    #[arg(long, value_delimiter = ',', value_name = "TEXT,…")]
    pub(crate) workloads: Vec<String>,

    /// The vbd-vhost to measure. By default the one that was built beside this program.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) vbd: Option<PathBuf>,

    /// Another vbd-vhost, to compare with: it serves the same stacks in the same rounds, under the name base.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) baseline: Option<PathBuf>,

    /// Leave out other people's backends.
    #[arg(long)]
    pub(crate) no_peers: bool,

    /// How often each is measured [default: 5, quick: 3]
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<usize>,

    /// Length of each measurement [default: 1.0, quick: 0.4]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) seconds: Option<f64>,

    /// Size of the disk in MiB [default: 512, quick: 128]
    #[arg(long, value_name = "MIB")]
    pub(crate) size: Option<u64>,

    /// Where the disks are made, in a directory for each size. By default below cargo's target directory.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,

    /// Leave the disks for the next run, which takes those it finds.
    #[arg(long)]
    pub(crate) keep: bool,

    /// Buffers in pieces of this many bytes, as guests without huge pages have them [default: in one piece]
    #[arg(long, value_name = "BYTES")]
    pub(crate) segment_bytes: Option<usize>,

    /// Keep guests and backends on different processors, half of them each. Less like life, but the numbers differ
    /// less from run to run.
    #[arg(long)]
    pub(crate) pin: bool,

    /// Do not take the map of requests in flight (INFLIGHT_SHMFD) where it is offered.
    #[arg(long)]
    pub(crate) no_inflight: bool,

    /// Do not count system calls, which takes a pass of its own for each backend and workload.
    #[arg(long)]
    pub(crate) no_syscalls: bool,

    /// Chooses the random offsets.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) seed: u64,

    /// Write everything to this file as JSON, also the single rounds.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Draw the table as bars into this file.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Group {
    /// What this machine can do at best, in one thread without a backend.
    Limits,
    /// 4 KiB and 64 KiB at any place, few and many in flight, two queues.
    Random,
    /// 1 MiB and 4 KiB one after the other.
    Sequential,
    /// Stacks of 1, 7, 32 and 255 layers.
    Depth,
    /// Block sizes and algorithms of compressed layers.
    Blocks,
    /// 1, 4, 16 and 64 guests at once, each with a backend of its own on the same files.
    Scale,
    /// One request at a time; idle wake-ups, memory, time to start.
    Latency,
    /// Nothing in the page cache.
    Cold,
    /// The same on a disk that is made slow.
    Slow,
    /// Linux in QEMU and User-mode Linux: time to the first read, and how fast programs in the guest read.
    Guest,
}

impl Group {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Limits => "limits",
            Self::Random => "random",
            Self::Sequential => "sequential",
            Self::Depth => "depth",
            Self::Blocks => "blocks",
            Self::Scale => "scale",
            Self::Latency => "latency",
            Self::Cold => "cold",
            Self::Slow => "slow",
            Self::Guest => "guest",
        }
    }
}

impl Args {
    pub(crate) fn groups(&self) -> Vec<Group> {
        if !self.groups.is_empty() {
            self.groups.clone()
        } else if self.quick {
            vec![Group::Random, Group::Sequential]
        } else {
            Group::value_variants().to_vec()
        }
    }

    pub(crate) fn rounds(&self) -> usize {
        let default = if self.quick { 3 } else { 5 };
        self.rounds.unwrap_or(default).max(1)
    }

    pub(crate) fn seconds(&self) -> f64 {
        let default = if self.quick { 0.4 } else { 1.0 };
        self.seconds.unwrap_or(default).max(0.01)
    }

    pub(crate) fn disk_bytes(&self) -> u64 {
        let default = if self.quick { 128 } else { 512 };
        self.size.unwrap_or(default).max(16) << 20
    }

    /// What decides about the numbers.
    pub(crate) fn summary(&self) -> String {
        let pinned = if self.pin { ", pinned" } else { "" };
        let inflight = if self.no_inflight {
            ", no map of requests in flight"
        } else {
            ""
        };
        let segments = self.segment_bytes.map_or(String::new(), |bytes| {
            format!(", buffers in pieces of {bytes} bytes")
        });
        format!(
            "rounds: {}, of {} s, a disk of {} MiB, seed {}{pinned}{inflight}{segments}",
            self.rounds(),
            self.seconds(),
            self.disk_bytes() >> 20,
            self.seed
        )
    }

    pub(crate) fn wants(&self, subject: &str) -> bool {
        matches(&self.only, subject)
    }

    pub(crate) fn wants_workload(&self, name: &str) -> bool {
        matches(&self.workloads, name)
    }
}

fn matches(texts: &[String], name: &str) -> bool {
    texts.is_empty() || texts.iter().any(|text| name.contains(text))
}

#[cfg(test)]
mod tests {
    use super::{Args, Group};
    use clap::{CommandFactory, Parser};

    #[test]
    fn the_definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn quick_can_be_overruled() {
        let args = Args::parse_from(["bench", "--quick", "--rounds", "7", "--groups", "cold"]);
        assert_eq!((args.rounds(), args.groups()), (7, vec![Group::Cold]));
        assert_eq!(args.disk_bytes(), 128 << 20);
    }
}
