//! Promise: cloud-hypervisor's vhost-user client, which fails on a refused feature more readily than
//! QEMU's, gives its guest exactly the disk that was put in.

use anyhow::ensure;
use vm_tests::daemon::Backend;
use vm_tests::requirement::or_skip;
use vm_tests::vgx::{Report, digest};
use vm_tests::{cloud_hypervisor, stack};

#[test]
fn two_guests_of_cloud_hypervisor_read_the_whole_disk() -> anyhow::Result<()> {
    or_skip(|| {
        vm_tests::requirement::program("cloud-hypervisor")?;
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let disk = stack.bytes()?;
        let mut backend = Backend::start(&stack)?;
        let at = stack::telling_sector(&disk).unwrap_or_default();
        for options in [format!("at={at}"), format!("at={at},msix")] {
            let report =
                Report::collect(cloud_hypervisor::bare_metal(backend.socket(), &options)?)?;
            ensure!(
                report.number("digest")? == digest(&disk),
                "{options}: the disk differs"
            );
            ensure!(report.number("bad")? == 0, "{options}: failed reads");
            ensure!(
                report.serial == backend.serial(),
                "serial {:?}",
                report.serial
            );
            report.check_framings()?;
            backend.still_runs()?;
        }
        backend.stop()
    })
}
