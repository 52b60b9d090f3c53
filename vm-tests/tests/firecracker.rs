//! Promise: Firecracker, which negotiates almost nothing (no multiple queues, no indirect descriptors) and
//! starts with an empty disk where another would complain, gives its guest the disk that was put in.

use anyhow::ensure;
use vm_tests::daemon::Backend;
use vm_tests::requirement::or_skip;
use vm_tests::vgx::{Report, digest};
use vm_tests::{firecracker, stack};

#[test]
fn two_guests_of_firecracker_read_the_whole_disk() -> anyhow::Result<()> {
    or_skip(|| {
        vm_tests::requirement::program("firecracker")?;
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let disk = stack.bytes()?;
        let mut backend = Backend::start(&stack)?;
        let at = stack::telling_sector(&disk).unwrap_or_default();
        for _guest in 0..2 {
            let options = format!("at={at}");
            let report = Report::collect(firecracker::bare_metal(
                backend.socket(),
                &options,
                dir.path(),
            )?)?;
            ensure!(
                report.number("capacity")? * 512 == stack::DISK_BYTES,
                "{:?}",
                report.facts
            );
            ensure!(
                report.number("digest")? == digest(&disk),
                "the disk differs"
            );
            report.check_framings()?;
            backend.still_runs()?;
        }
        backend.stop()
    })
}
