//! QEMU as the front-end. Always the emulator (`tcg`): it runs everywhere and is what was found reliable;
//! Linux only on `q35`, because its early boot on `microvm` hangs now and then under emulation.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::artifacts;
use crate::initrd;
use crate::linux::Boot;
use crate::process::Process;
use crate::requirement::program;

/// The machine a bare-metal guest runs on, which decides how it finds the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// A PC: the disk is on PCI, and the BIOS has used it before the guest starts.
    Q35,
    /// A minimal machine: the disk is on virtio-mmio.
    MicroVm,
}

/// A command with all that every guest here has: shared memory, one serial line, the socket.
///
/// There is always room for one more processor than there are. The emulator of QEMU before 8.1 leaves out the
/// memory barriers of a guest that can never have more than one, although the backend is another process: now
/// and then the guest then misses that the backend has gone to sleep, does not kick it, and waits for ever.
fn command(socket: &Path, machine: &str, memory: &str, processors: u32) -> Result<Command> {
    command_over(
        &format!("path={}", socket.display()),
        machine,
        memory,
        processors,
    )
}

fn command_over(path: &str, machine: &str, memory: &str, processors: u32) -> Result<Command> {
    let mut command = Command::new(program("qemu-system-x86_64")?);
    command.args(["-accel", "tcg", "-cpu", "max", "-nodefaults", "-no-reboot"]);
    let room = processors + 1;
    command.args(["-smp", &format!("{processors},maxcpus={room}")]);
    command.args(["-display", "none", "-serial", "stdio", "-m", memory]);
    command.args([
        "-object",
        &format!("memory-backend-memfd,id=memory,size={memory},share=on"),
    ]);
    command.args(["-machine", &format!("{machine},memory-backend=memory")]);
    command.args(["-chardev", &format!("socket,id=disk,{path}")]);
    command.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]);
    Ok(command)
}

/// Boots Linux on `q35`, with one queue per processor.
///
/// # Errors
///
/// [`Missing`](crate::requirement::Missing) if QEMU or an artifact is not there; otherwise an I/O error.
pub fn linux(socket: &Path, boot: &Boot, scratch: &Path) -> Result<Process> {
    let initrd = initrd::write(&scratch.join("qemu.cpio"), "modules", initrd::QEMU_MODULES)?;
    let queues = boot.queues;
    let mut command = command(socket, "q35", "256M", queues)?;
    command.args([
        "-device",
        &format!("vhost-user-blk-pci,chardev=disk,num-queues={queues}"),
    ]);
    command.arg("-kernel").arg(artifacts::provided("vmlinuz")?);
    command.arg("-initrd").arg(initrd);
    command
        .arg("-append")
        .arg(format!("console=ttyS0 panic=-1 {}", boot.arguments()));
    Process::spawn("qemu (Linux)", &mut command)
}

/// Starts the bare-metal guest with these options.
///
/// # Errors
///
/// [`Missing`](crate::requirement::Missing) if QEMU or a compiler is not there; otherwise an I/O error.
pub fn bare_metal(socket: &Path, machine: Machine, options: &str) -> Result<Process> {
    bare_metal_over(&format!("path={}", socket.display()), machine, options)
}

/// The same, in a QEMU that connects again, a second later, when the backend has gone.
///
/// # Errors
///
/// As [`bare_metal`].
pub fn bare_metal_reconnecting(socket: &Path, machine: Machine, options: &str) -> Result<Process> {
    bare_metal_over(
        &format!("path={},reconnect=1", socket.display()),
        machine,
        options,
    )
}

/// Memory of a guest that migrates: 128 MiB and 8 KiB.
///
/// QEMU before 9.0 forgets writes of an emulated processor to pages that it has copied already, but only where it looks
/// at dirty pages by the word, which it does for memory that is a multiple of 256 KiB. Any disk is wrong then.
const MIGRATING_MEMORY: &str = "131080K";

/// The bare-metal guest on `q35`, with a monitor at `monitor`; with `incoming`, a machine that waits at that socket
/// for the guest of another one.
///
/// # Errors
///
/// As [`bare_metal`].
pub fn bare_metal_migrating(
    socket: &Path,
    options: &str,
    monitor: &Path,
    incoming: Option<&Path>,
) -> Result<Process> {
    let path = format!("path={}", socket.display());
    let mut command = bare_metal_command(&path, Machine::Q35, MIGRATING_MEMORY, options)?;
    command.arg("-qmp");
    command.arg(format!("unix:{},server=on,wait=off", monitor.display()));
    if let Some(door) = incoming {
        command.arg("-incoming");
        command.arg(format!("unix:{}", door.display()));
    }
    Process::spawn("qemu (vgx, migrating)", &mut command)
}

fn bare_metal_over(path: &str, machine: Machine, options: &str) -> Result<Process> {
    let mut command = bare_metal_command(path, machine, "64M", options)?;
    Process::spawn("qemu (vgx)", &mut command)
}

fn bare_metal_command(
    path: &str,
    machine: Machine,
    memory: &str,
    options: &str,
) -> Result<Command> {
    let (machine, device) = match machine {
        Machine::Q35 => ("q35", "vhost-user-blk-pci"),
        Machine::MicroVm => (
            "microvm,pic=off,pit=off,rtc=off,isa-serial=on",
            "vhost-user-blk",
        ),
    };
    let mut command = command_over(path, machine, memory, 1)?;
    // Where the device is on virtio-mmio: version 2 of it, not the legacy one.
    command.args(["-global", "virtio-mmio.force-legacy=false"]);
    command.args([
        "-device",
        &format!("{device},chardev=disk,num-queues={}", crate::daemon::QUEUES),
    ]);
    command.arg("-kernel").arg(artifacts::bare_metal_guest()?);
    command.args(["-append", &format!("vgx={options}")]);
    Ok(command)
}

/// Lets the BIOS (SeaBIOS) boot from the disk.
///
/// # Errors
///
/// [`Missing`](crate::requirement::Missing) if QEMU is not there; otherwise an I/O error.
pub fn firmware(socket: &Path) -> Result<Process> {
    let mut command = command(socket, "q35", "64M", 1)?;
    command.args([
        "-device",
        "vhost-user-blk-pci,chardev=disk,num-queues=1,bootindex=0",
    ]);
    Process::spawn("qemu (BIOS)", &mut command)
}
