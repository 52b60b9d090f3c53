//! User-mode Linux as the front-end: a Linux kernel that is an ordinary process, with its own vhost-user
//! client in the kernel.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::artifacts;
use crate::initrd;
use crate::linux::Boot;
use crate::process::Process;

/// virtio device number of a block device.
const BLOCK: u32 = 2;

/// Boots User-mode Linux; it has one processor, whatever number of queues it is given.
///
/// # Errors
///
/// [`Missing`](crate::requirement::Missing) if an artifact is not there; otherwise an I/O error.
pub fn linux(socket: &Path, boot: &Boot, scratch: &Path) -> Result<Process> {
    let initrd = initrd::write(
        &scratch.join("uml.cpio"),
        "uml-modules",
        initrd::UML_MODULES,
    )?;
    let mut command = Command::new(artifacts::provided("linux.uml")?);
    command
        .arg("mem=256M")
        .arg(format!("initrd={}", initrd.display()));
    command.arg(format!("virtio_uml.device={}:{BLOCK}", socket.display()));
    command.args(["con=null", "con0=null,fd:1", "root=/dev/ram0"]);
    command.args(boot.arguments().split(' '));
    // It keeps a directory per machine; two tests at once must not share one.
    command.env("HOME", scratch).env("TMPDIR", scratch);
    Process::spawn("linux.uml", &mut command)
}
