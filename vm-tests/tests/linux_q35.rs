//! Promise: a Linux guest in QEMU sees exactly the disk that was put in, read-only, with the serial number
//! it was given, on every queue, guest after guest, and can run from it.

use vm_tests::daemon::Backend;
use vm_tests::linux::{Boot, Report, Task};
use vm_tests::requirement::or_skip;
use vm_tests::{qemu, stack};

#[test]
fn linux_reads_the_disk_on_one_queue_and_again_on_two_after_the_first_guest_has_gone()
-> anyhow::Result<()> {
    or_skip(|| {
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let mut backend = Backend::start(&stack)?;
        for queues in [1, 2] {
            let boot = Boot {
                queues,
                task: Task::Check,
            };
            let guest = qemu::linux(backend.socket(), &boot, dir.path())?;
            Report::collect(guest)?.check(&stack, backend.serial(), queues, queues)?;
            backend.still_runs()?;
        }
        backend.stop()
    })
}

#[test]
fn linux_runs_the_init_program_of_the_disk() -> anyhow::Result<()> {
    or_skip(|| {
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let backend = Backend::start(&stack)?;
        let boot = Boot {
            queues: 1,
            task: Task::Root,
        };
        let report = Report::collect(qemu::linux(backend.socket(), &boot, dir.path())?)?;
        anyhow::ensure!(report.fact("root")? == "/dev/vda ext4 ro", "{report:?}");
        report.check_files(&stack)?;
        backend.stop()
    })
}
