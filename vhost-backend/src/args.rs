//! The command line, as it is typed.

use std::path::PathBuf;

use clap::{ArgGroup, Parser, ValueEnum};

use crate::device::Serial;
use crate::limits::{
    DEFAULT_POLL_US, DEFAULT_QUEUES, DEFAULT_RING_SIZE, MAX_CACHE_LEN_BYTES, MAX_POLL_US,
    MAX_QUEUES, MAX_RING_SIZE,
};

/// Serve a stack of overlaybd layers to a virtual machine as a read-only virtio disk.
///
/// The layers are merged in this process and reach the guest over a vhost-user socket: no kernel module, no
/// root, no host block device. The socket appears when every layer has been checked, so whoever sees it can
/// connect. Front-ends are served one after another until SIGTERM or SIGINT.
#[derive(Clone, Debug, Parser)]
#[command(name = "vbd-vhost", version, max_term_width = 100, after_long_help = AFTER_HELP)]
#[command(group = ArgGroup::new("image").args(["layers", "config", "blk_file"]))]
#[command(group = ArgGroup::new("door").args(["socket", "fd"]))]
pub struct Args {
    /// Listen on this Unix socket. It is created with mode 0600 and removed at the end; a socket left behind by
    /// a process that is gone is replaced.
    #[arg(long, visible_alias = "socket-path", value_name = "PATH")]
    pub socket: Option<PathBuf>,

    /// Take front-ends from this inherited socket: a listening one serves many, a connected one a single
    /// front-end. Without --socket and --fd, the socket comes from systemd (LISTEN_FDS).
    #[arg(long, value_name = "FD")]
    pub fd: Option<i32>,

    /// Layers of the image, bottom to top, separated by commas; may be repeated. Each is a file or a block
    /// device: LSMT, plain or in a ZFile, with or without a tar header. A path with a comma in it goes into a
    /// --config file.
    #[arg(long, value_name = "LAYER,…", value_delimiter = ',')]
    pub layers: Vec<PathBuf>,

    /// Read the layers from an image configuration (config.v1.json) as containerd's overlaybd snapshotter
    /// writes it. Relative paths in it count from its directory.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// An image configuration or a single layer, told apart by content. For management software that follows
    /// QEMU's conventions.
    #[arg(long, value_name = "FILE")]
    pub blk_file: Option<PathBuf>,

    /// Accepted for QEMU's conventions. The disk is always read-only.
    #[arg(long)]
    pub read_only: bool,

    /// Serial number the guest sees: 1 to 20 printable ASCII characters without
    /// spaces. By default it is derived from the
    /// layers, so the same stack has the same serial everywhere.
    #[arg(long, value_name = "TEXT")]
    pub serial: Option<Serial>,

    /// Most queues a front-end may use. Each started queue has a thread of its own; one that is not started
    /// costs nothing. QEMU asks for one per vCPU.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_QUEUES,
          value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_QUEUES)))]
    pub num_queues: u16,

    /// Ring size the front-end uses, a power of two. It decides how many pieces a request may have (seg_max);
    /// larger rings are used as they come, up to 1024 entries.
    #[arg(long, value_name = "N", default_value_t = DEFAULT_RING_SIZE, value_parser = parse_queue_size)]
    pub queue_size: u16,

    /// Memory for decoded blocks of which a guest has read only a part, as bytes or with K, M or G. It spares
    /// decoding a block again for each of its neighbours; layers in blocks of 4 KiB hardly need it. 0 keeps
    /// nothing, and decodes nothing before it is asked for.
    #[arg(long, value_name = "SIZE", default_value = "16M", value_parser = parse_cache_size)]
    pub cache_size: u64,

    /// How to wait for the disk where a read is not in the page cache.
    #[arg(long, value_enum, default_value_t = IoEngine::Auto, value_name = "ENGINE")]
    pub io_engine: IoEngine,

    /// How many microseconds at most a queue looks for the next request before it sleeps. A guest that waits for
    /// one read after another is answered several times faster, at the price of a processor that is busy between
    /// them; where no requests come soon, it stops looking by itself. 0 sleeps at once.
    #[arg(long, value_name = "N", default_value_t = u64::from(DEFAULT_POLL_US),
          value_parser = clap::value_parser!(u64).range(0..=MAX_POLL_US))]
    pub poll_us: u64,

    /// What to log to standard error.
    #[arg(long, value_enum, default_value_t = LogLevel::Info, value_name = "LEVEL")]
    pub log_level: LogLevel,

    /// How to log: lines for people, or one JSON object a line.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,

    /// Print what this program can do as JSON (QEMU's backend conventions) and exit.
    #[arg(long)]
    pub print_capabilities: bool,

    /// Print what a shell needs to complete the options of this program, and exit.
    #[arg(long, value_enum, value_name = "SHELL")]
    pub print_completions: Option<clap_complete::Shell>,
}

const AFTER_HELP: &str = "\
Example:
  vbd-vhost --socket /tmp/vbd.sock --layers base.lsmt,app.zfile,top.tar
  qemu-system-x86_64 -object memory-backend-memfd,id=mem,size=512M,share=on \\
      -machine q35,memory-backend=mem … \\
      -chardev socket,id=c0,path=/tmp/vbd.sock -device vhost-user-blk-pci,chardev=c0
  guest# mount -o ro /dev/vda /mnt

Exit status:
  0  ended by a signal, or the only front-end has gone
  1  failed while serving
  2  wrong command line
  3  the image cannot be opened; the message names layer and place
  4  the environment is not as needed: socket, descriptor, system limits";

/// How much to log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Only what lost a request.
    Error,
    /// Also what was refused.
    Warn,
    /// Also front-ends coming and going.
    Info,
    /// Also what helps to find out why: messages, rings starting and stopping.
    Debug,
    /// Everything the libraries below say as well.
    Trace,
}

/// Who waits for the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IoEngine {
    /// The kernel (io_uring), or threads where io_uring is forbidden or would not help.
    Auto,
    /// Threads.
    Threads,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

fn parse_cache_size(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.trim_end_matches(['k', 'K', 'm', 'M', 'g', 'G']) {
        digits if digits.len() == text.len() => (digits, 0),
        digits if digits.len() + 1 == text.len() => match text.as_bytes().last() {
            Some(b'k' | b'K') => (digits, 10),
            Some(b'm' | b'M') => (digits, 20),
            _ => (digits, 30),
        },
        _ => (text, 0),
    };
    let bytes = digits.parse::<u64>().ok();
    bytes
        .and_then(|number| number.checked_mul(1 << shift))
        .filter(|bytes| *bytes <= MAX_CACHE_LEN_BYTES)
        .ok_or_else(|| "expected a number of bytes, or one with K, M or G, up to 1024G".to_owned())
}

fn parse_queue_size(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(size) if size.is_power_of_two() && (4..=MAX_RING_SIZE).contains(&size) => Ok(size),
        _ => Err(format!("expected a power of two from 4 to {MAX_RING_SIZE}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(args: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(std::iter::once("vbd-vhost").chain(args.iter().copied()))
    }

    #[test]
    fn definition_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn layers_take_commas_and_repetition_in_order() {
        let args = parse(&["--socket-path", "/s", "--layers", "a,b", "--layers", "c"]).unwrap();
        assert_eq!(args.layers, ["a", "b", "c"].map(PathBuf::from));
        assert_eq!(args.socket, Some(PathBuf::from("/s")));
    }

    #[test]
    fn sizes_are_bytes_or_have_a_unit() {
        use crate::limits::DEFAULT_CACHE_LEN_BYTES;
        let size =
            |text| parse(&["--layers", "a", "--cache-size", text]).map(|args| args.cache_size);
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("64k", 64 << 10),
            ("16M", 16 << 20),
            ("1024G", 1 << 40),
        ] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for text in [
            "",
            "K",
            "1KK",
            "1MK",
            "-1",
            "1.5M",
            "1025G",
            "99999999999999G",
            "1T",
        ] {
            assert!(size(text).is_err(), "{text}");
        }
        let default = parse(&["--layers", "a"]).unwrap();
        assert_eq!(default.cache_size, DEFAULT_CACHE_LEN_BYTES);
        assert_eq!(default.poll_us, u64::from(DEFAULT_POLL_US));
    }

    #[test]
    fn contradictions_are_usage_errors() {
        for args in [
            &["--socket", "/s", "--socket", "/t", "--layers", "a"][..],
            &["--socket", "/s", "--socket-path", "/t", "--layers", "a"],
            &["--socket", "/s", "--fd", "3", "--layers", "a"],
            &["--socket", "/s", "--layers", "a", "--config", "c"],
            &["--socket", "/s", "--config", "c", "--config", "d"],
            &["--socket", "/s", "--layers", "a", "--num-queues", "0"],
            &["--socket", "/s", "--layers", "a", "--num-queues", "257"],
            &["--socket", "/s", "--layers", "a", "--queue-size", "100"],
            &["--socket", "/s", "--layers", "a", "--queue-size", "2048"],
            &[
                "--socket",
                "/s",
                "--layers",
                "a",
                "--serial",
                "123456789012345678901",
            ],
            &["--socket", "/s", "--layers", "a", "--no-such"],
        ] {
            assert_eq!(
                parse(args).expect_err("must be refused").exit_code(),
                2,
                "{args:?}"
            );
        }
    }
}
