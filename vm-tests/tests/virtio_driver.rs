//! Promise: the driver that QEMU's block layer authors wrote as a library reads exactly the disk that was put in, with
//! whatever it negotiates, on several queues at once, one attachment after another; and what the disk refuses does not
//! disturb what it does not.

use std::path::Path;

use anyhow::{Result, bail, ensure};
use rustix::io::Errno;
use vm_tests::daemon::Backend;
use vm_tests::requirement::or_skip;
use vm_tests::stack::{self, DISK_BYTES, Random};
use vm_tests::virtio_driver::{
    Disk, EVENT_IDX, IN_ORDER, INDIRECT_DESC, Kind, Options, Request, VERSION_1,
};

const SMALL_BYTES: usize = 4096;
const LARGE_BYTES: usize = 128 << 10;

const OPTIONS: Options = Options {
    features: !0,
    queues: 1,
    ring_entries: 128,
    depth: 32,
    request_bytes: LARGE_BYTES,
};

/// Runs `body` on the socket and the whole content of a disk; the backend must survive and end well.
fn with_backend(body: impl FnOnce(&Path, &[u8]) -> Result<()>) -> Result<()> {
    or_skip(|| {
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let flat = stack.bytes()?;
        let mut backend = Backend::start(&stack)?;
        body(backend.socket(), &flat)?;
        backend.still_runs()?;
        backend.stop()
    })
}

/// Reads of `bytes` each that together cover the disk once, in ascending order.
fn sequential(bytes: usize) -> Vec<Request> {
    let offsets = (0..DISK_BYTES).step_by(bytes);
    let read = |offset| Request {
        kind: Kind::Read,
        offset,
        bytes,
    };
    offsets.map(read).collect()
}

/// The same in random order.
fn random(bytes: usize) -> Vec<Request> {
    let mut requests = sequential(bytes);
    let mut random = Random::new(7);
    for end in (1..=requests.len()).rev() {
        requests.swap(end - 1, random.below(end));
    }
    requests
}

/// Makes the reads and compares what each has brought.
fn check(disk: &mut Disk, flat: &[u8], depth: usize, requests: Vec<Request>) -> Result<()> {
    let expected = requests.len();
    let mut requests = requests.into_iter();
    let mut answers = 0;
    disk.drive(
        depth,
        || requests.next(),
        |answer| {
            let Request { offset, bytes, .. } = answer.request;
            ensure!(
                answer.result.is_ok(),
                "{:?}: {:?}",
                answer.request,
                answer.result
            );
            let at = usize::try_from(offset)?;
            ensure!(
                answer.content()? == flat[at..at + bytes],
                "{:?}: not what is on the disk",
                answer.request
            );
            answers += 1;
            Ok(())
        },
    )?;
    ensure!(answers == expected, "{answers} answers to {expected} reads");
    Ok(())
}

/// Every byte of the disk twice: in order and in large pieces, at random in small ones.
fn check_whole_disk(disk: &mut Disk, flat: &[u8]) -> Result<()> {
    ensure!(
        disk.capacity_bytes()? == DISK_BYTES,
        "size {}",
        disk.capacity_bytes()?
    );
    check(disk, flat, 8, sequential(LARGE_BYTES))?;
    check(disk, flat, 32, random(SMALL_BYTES))
}

fn every_byte_reads_right(queues: usize, left_out: &[u64]) -> Result<()> {
    with_backend(|socket, flat| {
        for &left_out in left_out {
            let options = Options {
                features: !left_out,
                queues,
                ..OPTIONS
            };
            let mut disk = Disk::attach(socket, &options)?;
            let wanted = VERSION_1 | EVENT_IDX | INDIRECT_DESC;
            ensure!(
                disk.features() & wanted == wanted & !left_out && disk.features() & left_out == 0,
                "left out {left_out:#x}: {disk:?}"
            );
            check_whole_disk(&mut disk, flat)?;
        }
        Ok(())
    })
}

const LEFT_OUT: [u64; 5] = [
    0,
    IN_ORDER,
    EVENT_IDX,
    INDIRECT_DESC,
    EVENT_IDX | INDIRECT_DESC,
];

#[test]
fn every_byte_reads_right_on_one_queue_with_any_features() -> Result<()> {
    every_byte_reads_right(1, &LEFT_OUT)
}

#[test]
fn every_byte_reads_right_on_two_queues_with_any_features() -> Result<()> {
    every_byte_reads_right(2, &LEFT_OUT)
}

#[test]
fn every_byte_reads_right_with_nothing_but_version_1() -> Result<()> {
    every_byte_reads_right(1, &[!VERSION_1])
}

#[test]
fn every_byte_reads_right_on_the_smallest_and_the_largest_ring() -> Result<()> {
    with_backend(|socket, flat| {
        for (ring_entries, depth) in [(4, 1), (1024, 340)] {
            let options = Options {
                ring_entries,
                depth,
                ..OPTIONS
            };
            let mut disk = Disk::attach(socket, &options)?;
            check(&mut disk, flat, depth, random(SMALL_BYTES))?;
        }
        Ok(())
    })
}

#[test]
fn a_disk_is_attached_again_and_again_also_after_a_driver_that_left_with_reads_in_flight()
-> Result<()> {
    with_backend(|socket, flat| {
        let options = Options {
            queues: 2,
            ..OPTIONS
        };
        for _attachment in 0..4 {
            let mut disk = Disk::attach(socket, &options)?;
            check_whole_disk(&mut disk, flat)?;
            let mut more = random(LARGE_BYTES).into_iter();
            let left = disk.drive(32, || more.next(), |_first| bail!("gone"));
            ensure!(left.is_err_and(|error| error.to_string() == "gone"));
        }
        Ok(())
    })
}

/// What must be refused, and how it may be.
fn refused() -> Vec<(Request, Vec<Errno>)> {
    let mut requests = Vec::new();
    // The last three: the highest byte, a sector that is right in 32 bits, a byte that is right in 63.
    let past_end = [
        DISK_BYTES - 512,
        DISK_BYTES,
        DISK_BYTES + (1 << 20),
        u64::MAX - 511,
        1 << 41,
        1 << 63,
    ];
    for offset in past_end {
        for kind in [Kind::Read, Kind::Write] {
            let request = Request {
                kind,
                offset,
                bytes: SMALL_BYTES,
            };
            requests.push((request, vec![Errno::IO]));
        }
    }
    for offset in [0, 2 << 20, DISK_BYTES - SMALL_BYTES as u64] {
        for kind in [Kind::Write, Kind::Discard, Kind::WriteZeroes] {
            let request = Request {
                kind,
                offset,
                bytes: SMALL_BYTES,
            };
            // Of features that are not offered, both are right.
            let how = match kind {
                Kind::Write => vec![Errno::IO],
                _ => vec![Errno::IO, Errno::OPNOTSUPP],
            };
            requests.push((request, how));
        }
    }
    requests
}

#[test]
fn reads_past_the_end_and_writes_are_refused_and_the_ring_goes_on() -> Result<()> {
    with_backend(|socket, flat| {
        for queues in [1, 2] {
            let options = Options { queues, ..OPTIONS };
            let mut disk = Disk::attach(socket, &options)?;
            let refused = refused();
            for depth in [1, 32] {
                check_refusals(&mut disk, flat, depth, &refused)?;
            }
            check_whole_disk(&mut disk, flat)?;
        }
        Ok(())
    })
}

/// Good reads and flushes with bad requests in between: each is answered for what it is.
fn check_refusals(
    disk: &mut Disk,
    flat: &[u8],
    depth: usize,
    refused: &[(Request, Vec<Errno>)],
) -> Result<()> {
    let mut requests = Vec::new();
    for (round, good) in random(SMALL_BYTES).into_iter().take(2000).enumerate() {
        requests.push(good);
        requests.push(refused[round % refused.len()].0);
        if round % 16 == 0 {
            let kind = Kind::Flush;
            requests.push(Request { kind, ..good });
        }
    }
    let expected = requests.len();
    let mut requests = requests.into_iter();
    let mut answers = 0;
    disk.drive(
        depth,
        || requests.next(),
        |answer| {
            answers += 1;
            let Request {
                kind,
                offset,
                bytes,
            } = answer.request;
            let content = answer.content()?;
            let how = refused.iter().find(|(bad, _)| *bad == answer.request);
            match (&answer.result, how) {
                (Ok(()), None) if kind == Kind::Flush => {}
                (Ok(()), None) => {
                    let at = usize::try_from(offset)?;
                    ensure!(content == flat[at..at + bytes], "{:?}", answer.request);
                }
                (Err(errno), Some((_, allowed))) if allowed.contains(errno) => {}
                (result, _) => bail!("{:?}: {result:?}", answer.request),
            }
            Ok(())
        },
    )?;
    ensure!(
        answers == expected,
        "{answers} answers to {expected} requests"
    );
    Ok(())
}
