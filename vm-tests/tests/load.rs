//! Promise: the front-end that measures reads exactly the disk that was put in, whatever it negotiates and however it
//! waits, and says so where it does not; so its numbers are those of right answers.

use std::fs::File;
use std::path::Path;

use anyhow::{Result, ensure};
use vm_tests::daemon::Backend;
use vm_tests::layers;
use vm_tests::load::{Disk, Limit, Mode, Options, Pattern, Workload};
use vm_tests::requirement::or_skip;
use vm_tests::stack::Random;

const DISK_BYTES: usize = 4 << 20;

/// Noise, text and zeroes in turn.
fn content() -> Vec<u8> {
    let mut random = Random::new(3);
    let mut disk = Vec::new();
    while disk.len() < DISK_BYTES {
        disk.extend_from_slice(&random.bytes(10_000));
        let end = disk.len() + 9_000;
        while disk.len() < end {
            disk.extend_from_slice(format!("line {}\n", random.below(500)).as_bytes());
        }
        disk.resize(disk.len() + 20_000, 0);
    }
    disk.truncate(DISK_BYTES);
    disk
}

/// Every block of the disk once in each order and each mode.
fn read_everything(socket: &Path, flat: &Path, options: &Options) -> Result<()> {
    let reference = File::open(flat)?;
    let mut disk = Disk::attach(socket, options)?;
    ensure!(disk.capacity_bytes() == DISK_BYTES as u64);
    for mode in [Mode::Event, Mode::Spin] {
        for (pattern, block_bytes) in [
            (Pattern::RandomOnce, 4096_usize),
            (Pattern::SequentialOnce, 64 << 10),
            (Pattern::RandomOnce, 512),
        ] {
            let workload = Workload {
                mode,
                segment_bytes: block_bytes.div_ceil(options.segments),
                ..Workload::new(pattern, block_bytes, options.depth)
            };
            let outcome = disk.run(&workload, Limit::seconds(60.0), Some(&reference))?;
            ensure!(outcome.bytes == DISK_BYTES as u64, "{outcome:?}");
            ensure!(outcome.latency.count() == outcome.requests);
            ensure!(mode == Mode::Event || outcome.interrupts == 0);
        }
    }
    disk.detach()
}

fn all_agreements(socket: &Path, flat: &Path) -> Result<()> {
    let small = Options {
        depth: 16,
        ..Options::default()
    };
    let variants = [
        small,
        Options { queues: 2, ..small },
        Options { depth: 1, ..small },
        Options {
            segments: 5,
            ..small
        },
        Options {
            indirect: false,
            event_index: false,
            inflight: false,
            segments: 3,
            queues: 2,
            ..small
        },
    ];
    for options in &variants {
        read_everything(socket, flat, options)
            .map_err(|error| error.context(format!("{options:?}")))?;
    }
    Ok(())
}

#[test]
fn every_agreement_reads_the_disk_in_both_modes_and_on_two_queues() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let flat = dir.path().join("flat");
    std::fs::write(&flat, content())?;
    let layers = layers::write(&content(), dir.path())?;
    let mut backend = Backend::vbd_vhost(&layers)?;
    all_agreements(backend.socket(), &flat)?;
    backend.still_runs()?;
    backend.stop()
}

/// The control: a backend of somebody else.
#[test]
fn the_same_holds_for_qemu_storage_daemon() -> Result<()> {
    or_skip(|| {
        let dir = tempfile::tempdir()?;
        let flat = dir.path().join("flat");
        std::fs::write(&flat, content())?;
        let backend = Backend::qemu_storage_daemon(&flat)?;
        all_agreements(backend.socket(), &flat)?;
        backend.stop()
    })
}

#[test]
fn a_wrong_byte_is_noticed_and_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut bytes = content();
    let layers = layers::write(&bytes, dir.path())?;
    bytes[3_000_000] ^= 1;
    let flat = dir.path().join("flat");
    std::fs::write(&flat, &bytes)?;
    let backend = Backend::vbd_vhost(&layers)?;
    let mut disk = Disk::attach(backend.socket(), &Options::default())?;
    let workload = Workload::new(Pattern::SequentialOnce, 4096, 8);
    let error = disk
        .run(&workload, Limit::seconds(60.0), Some(&File::open(&flat)?))
        .unwrap_err();
    assert!(
        error.to_string().contains("wrong data at 3000000"),
        "{error:#}"
    );
    drop(disk);
    backend.stop()
}
