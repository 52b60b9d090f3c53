//! Promise: User-mode Linux, whose vhost-user client lives in the Linux kernel and shares no code with
//! QEMU's, sees exactly the disk that was put in, and can run from it.

use vm_tests::daemon::{Backend, QUEUES};
use vm_tests::linux::{Boot, Report, Task};
use vm_tests::requirement::or_skip;
use vm_tests::{stack, uml};

/// It takes no number of queues; the kernel uses one per processor, and has one processor.
const BOOT: Boot = Boot {
    queues: QUEUES,
    task: Task::Check,
};

#[test]
fn user_mode_linux_reads_the_disk_twice_on_one_backend() -> anyhow::Result<()> {
    or_skip(|| {
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let mut backend = Backend::start(&stack)?;
        for _boot in 0..2 {
            let guest = uml::linux(backend.socket(), &BOOT, dir.path())?;
            Report::collect(guest)?.check(&stack, backend.serial(), 1, 1)?;
            backend.still_runs()?;
        }
        backend.stop()
    })
}

#[test]
fn user_mode_linux_runs_the_init_program_of_the_disk() -> anyhow::Result<()> {
    or_skip(|| {
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let backend = Backend::start(&stack)?;
        let boot = Boot {
            task: Task::Root,
            ..BOOT
        };
        let report = Report::collect(uml::linux(backend.socket(), &boot, dir.path())?)?;
        anyhow::ensure!(report.fact("root")? == "/dev/vda ext4 ro", "{report:?}");
        report.check_files(&stack)?;
        backend.stop()
    })
}
