//! Promise: whatever a driver may negotiate and however it cuts its requests, the disk reads the same; what
//! a read-only disk cannot do is refused with the right status; and nothing a driver does ends the backend.
//!
//! The bare-metal guest boots in a fraction of a second, so every test here is a boot of its own.

use anyhow::{Result, ensure};
use vm_tests::daemon::{Backend, Kind};
use vm_tests::qemu::{self, Machine};
use vm_tests::requirement::{Missing, or_skip};
use vm_tests::stack::{self, Stack};
use vm_tests::vgx::{Report, digest};

const MACHINES: [Machine; 2] = [Machine::MicroVm, Machine::Q35];

const OK: u64 = 0;
const IOERR: u64 = 1;
const UNSUPPORTED: u64 = 2;

/// How many framings there are for each of direct and indirect: plain, 15 header cuts, 7 odd ones.
const FRAMINGS: usize = 23;

struct Bench {
    dir: tempfile::TempDir,
    stack: Stack,
    backend: Backend,
    disk: Vec<u8>,
}

impl Bench {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let disk = stack.bytes()?;
        let backend = Backend::start(&stack)?;
        Ok(Self {
            dir,
            stack,
            backend,
            disk,
        })
    }

    fn run(&mut self, machine: Machine, options: &str) -> Result<Report> {
        let at = stack::telling_sector(&self.disk).unwrap_or_default();
        let options = format!("at={at},{options}");
        let guest = qemu::bare_metal(self.backend.socket(), machine, &options)?;
        let report = Report::collect(guest)?;
        self.backend.still_runs()?;
        Ok(report)
    }

    /// Runs with these options on both machines and checks the whole disk and every framing.
    fn check_reads(&mut self, options: &str, framings: usize) -> Result<()> {
        for machine in MACHINES {
            let report = self.run(machine, options)?;
            ensure!(
                report.number("bad")? == 0,
                "{machine:?} {options}: failed reads"
            );
            ensure!(
                report.number("digest")? == digest(&self.disk),
                "{machine:?} {options}: the disk differs"
            );
            let count = report.check_framings()?;
            ensure!(
                count == framings,
                "{machine:?} {options}: {count} framings, not {framings}"
            );
        }
        Ok(())
    }
}

fn reads_are_right_with(options: &str, framings: usize) -> Result<()> {
    or_skip(|| {
        let mut bench = Bench::new()?;
        bench.check_reads(options, framings)?;
        bench.backend.stop()
    })
}

#[test]
fn reads_are_right_with_everything_negotiated() -> Result<()> {
    reads_are_right_with("", 2 * FRAMINGS)
}

#[test]
fn reads_are_right_with_only_version_1_negotiated() -> Result<()> {
    reads_are_right_with("features=0", FRAMINGS)
}

#[test]
fn reads_are_right_without_event_index() -> Result<()> {
    reads_are_right_with("features=0xdfffffff", 2 * FRAMINGS)
}

#[test]
fn reads_are_right_without_indirect_descriptors() -> Result<()> {
    reads_are_right_with("features=0xefffffff", FRAMINGS)
}

#[test]
fn reads_are_right_when_the_driver_does_not_accept_read_only() -> Result<()> {
    reads_are_right_with("features=0xffffffdf", 2 * FRAMINGS)
}

#[test]
fn reads_are_right_on_four_queues() -> Result<()> {
    reads_are_right_with("queues=4", 2 * FRAMINGS)
}

#[test]
fn reads_are_right_on_four_queues_with_interrupts_masked() -> Result<()> {
    reads_are_right_with("queues=4,msix", 2 * FRAMINGS)
}

#[test]
fn reads_are_right_on_rings_too_small_for_the_longest_chains() -> Result<()> {
    // A direct chain longer than the ring cannot be asked, so here only the indirect framings are all there.
    or_skip(|| {
        let mut bench = Bench::new()?;
        for options in ["ringsize=16,queues=2", "ringsize=4", "ringsize=2"] {
            for machine in MACHINES {
                let report = bench.run(machine, options)?;
                ensure!(
                    report.number("digest")? == digest(&bench.disk),
                    "{machine:?} {options}: the disk differs"
                );
                let count = report.check_framings()?;
                ensure!(
                    (FRAMINGS..2 * FRAMINGS).contains(&count),
                    "{machine:?} {options}: {count} framings"
                );
            }
        }
        bench.backend.stop()
    })
}

#[test]
fn the_device_describes_itself() -> Result<()> {
    or_skip(|| {
        let mut bench = Bench::new()?;
        for machine in MACHINES {
            let report = bench.run(machine, "nohash")?;
            ensure!(
                report.number("capacity")? * 512 == stack::DISK_BYTES,
                "{:?}",
                report.facts
            );
            ensure!(report.number("num_queues")? > 1, "{:?}", report.facts);
            ensure!(report.number("blk_size")? == 512, "{:?}", report.facts);
            ensure!(
                report.number("offered")? >> 5 & 1 == 1,
                "read-only is not offered"
            );
            ensure!(
                report.serial == bench.backend.serial(),
                "serial {:?}",
                report.serial
            );
            report.expect_status("get_id", OK)?;
            ensure!(
                report.case("get_id")?.used == 21,
                "get_id: {:?}",
                report.case("get_id")?
            );
        }
        bench.backend.stop()
    })
}

#[test]
fn requests_that_a_read_only_disk_cannot_do_are_refused_and_change_nothing() -> Result<()> {
    or_skip(|| {
        let mut bench = Bench::new()?;
        let before = bench.disk.clone();
        // Without the feature of discard and its like on offer, an error and "unsupported" are both right.
        let unless_offered: &[u64] = &[IOERR, UNSUPPORTED];
        for machine in MACHINES {
            let report = bench.run(machine, "nohash")?;
            for name in ["out", "out_whole", "out_past_end"] {
                report.expect_status(name, IOERR)?;
            }
            for name in [
                "discard",
                "write_zeroes",
                "secure_erase",
                "discard_empty",
                "zone_report",
            ] {
                let answer = report.case(name)?;
                ensure!(
                    unless_offered.contains(&answer.status) && answer.data_ok,
                    "{name}: {answer:?}"
                );
            }
            for name in ["unknown_type", "huge_type"] {
                report.expect_status(name, UNSUPPORTED)?;
            }
            report.expect_status("flush", OK)?;
        }
        ensure!(bench.stack.bytes()? == before, "the flat image has changed");
        bench.backend.stop()
    })
}

#[test]
fn reads_outside_the_disk_are_errors_however_the_sector_is_chosen() -> Result<()> {
    or_skip(|| {
        let mut bench = Bench::new()?;
        for machine in MACHINES {
            let report = bench.run(machine, "nohash")?;
            report.expect_status("in_last", OK)?;
            for name in [
                "in_past_end",
                "in_straddling",
                "in_sector_max",
                "in_sector_wraps_bytes",
                "in_sector_wraps_to_start",
                "in_sector_negative",
                "in_half_sector",
            ] {
                report.expect_status(name, IOERR)?;
            }
            // What an empty read means is left open; that it is answered and harms nothing is not.
            for name in [
                "in_empty",
                "in_empty_past_end",
                "in_readable_data",
                "get_id_short",
                "get_id_long",
            ] {
                let answer = report.case(name)?;
                ensure!(
                    answer.status <= UNSUPPORTED && answer.data_ok,
                    "{name}: {answer:?}"
                );
            }
        }
        bench.backend.stop()
    })
}

#[test]
fn after_every_broken_ring_and_a_reset_the_disk_reads_as_before() -> Result<()> {
    or_skip(|| {
        let mut bench = Bench::new()?;
        if bench.backend.kind == Kind::QemuStorageDaemon {
            return Err(Missing::new(
                "qemu-storage-daemon gives up the connection at a broken ring",
            )
            .into());
        }
        for machine in MACHINES {
            let report = bench.run(machine, "nohash,hostile")?;
            ensure!(
                report.hostile.len() == 20,
                "{machine:?}: {:?}",
                report.hostile.keys()
            );
            for (name, outcome) in &report.hostile {
                ensure!(
                    !outcome.stray && outcome.after == "ok",
                    "{machine:?} {name}: {outcome:?}"
                );
            }
        }
        bench.backend.stop()
    })
}

#[test]
fn twelve_guests_in_a_row_find_the_same_disk() -> Result<()> {
    or_skip(|| {
        let mut bench = Bench::new()?;
        for _guest in 0..6 {
            bench.check_reads("", 2 * FRAMINGS)?;
        }
        ensure!(bench.dir.path().exists());
        bench.backend.stop()
    })
}
