//! User-mode Linux as the front-end: a Linux kernel that is an ordinary process, with its own vhost-user
//! client in the kernel.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::artifacts;
use crate::initrd;
use crate::linux::Boot;
use crate::process::Process;

/// virtio device number of a block device.
const BLOCK: u32 = 2;

/// Memory of the guest.
const MEMORY_BYTES: u64 = 256 << 20;

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
        .arg(format!("mem={MEMORY_BYTES}"))
        .arg(format!("initrd={}", initrd.display()));
    command.arg(format!("virtio_uml.device={}:{BLOCK}", socket.display()));
    command.args(["con=null", "con0=null,fd:1", "root=/dev/ram0"]);
    command.args(boot.arguments().split(' '));
    // It keeps a directory per machine; two tests at once must not share one.
    command.env("HOME", scratch);
    command.env("TMPDIR", memory_directory().unwrap_or(scratch));
    Process::spawn("linux.uml", &mut command)
}

/// Where the guest's memory belongs: on a disk, the kernel writes it back. Containers often have little room there, and
/// several guests may run at a time.
fn memory_directory() -> Option<&'static Path> {
    let path = Path::new("/dev/shm");
    let room = rustix::fs::statvfs(path).ok()?;
    let free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
    (blob::is_in_memory(&File::open(path).ok()?) && free_bytes >= 4 * MEMORY_BYTES).then_some(path)
}
