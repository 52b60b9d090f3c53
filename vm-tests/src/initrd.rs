//! Writes an initrd: a cpio archive in the "newc" format. No root and no tool is needed, and device nodes
//! can be in it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::artifacts;
use crate::requirement::Missing;

const DIRECTORY: u32 = 0o04_0755;
const PROGRAM: u32 = 0o10_0755;
const CHARACTER_DEVICE: u32 = 0o02_0600;
const CONSOLE: (u32, u32) = (5, 1);

/// The modules a cloud kernel needs for a virtio disk on PCI, in loading order: what a module imports
/// comes before it.
pub const QEMU_MODULES: &[&str] = &[
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "virtio_blk",
];

/// User-mode Linux has all of virtio built in except the disk.
pub const UML_MODULES: &[&str] = &["virtio_blk"];

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) -> Result<()> {
        self.inode += 1;
        let size = u32::try_from(content.len()).context("too large for an initrd")?;
        let name_size = u32::try_from(name.len() + 1)?;
        let mut header = String::from("070701");
        let (owner, group, links, modified, on, check) = (0, 0, 1, 0, (0, 0), 0);
        for field in [
            self.inode, mode, owner, group, links, modified, size, on.0, on.1, device.0, device.1,
            name_size, check,
        ] {
            write!(header, "{field:08x}")?;
        }
        self.bytes.extend_from_slice(header.as_bytes());
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
        Ok(())
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Builds the initrd of the Linux guests into `output`: busybox, the init script of `guest/`, the reader of
/// random places where there is a compiler to make it, and the named modules out of `module_dir`.
///
/// # Errors
///
/// [`Missing`] if an artifact is not there; otherwise an I/O error.
pub fn write(output: &Path, module_dir: &str, modules: &[&str]) -> Result<PathBuf> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "mnt", "modules"] {
        archive.add(directory, DIRECTORY, (0, 0), &[])?;
    }
    // The kernel opens it before anything can be mounted; without it init would be mute.
    archive.add("dev/console", CHARACTER_DEVICE, CONSOLE, &[])?;
    archive.add(
        "init",
        PROGRAM,
        (0, 0),
        &std::fs::read(artifacts::guest_sources().join("init"))?,
    )?;
    archive.add(
        "bin/busybox",
        PROGRAM,
        (0, 0),
        &std::fs::read(artifacts::provided("busybox")?)?,
    )?;
    match artifacts::random_reader() {
        Ok(path) => archive.add("bin/reads", PROGRAM, (0, 0), &std::fs::read(path)?)?,
        Err(error) if error.is::<Missing>() => {}
        Err(error) => return Err(error),
    }
    for module in modules {
        let file = format!("{module}.ko");
        let content = std::fs::read(artifacts::provided(&format!("{module_dir}/{file}"))?)?;
        archive.add(&format!("modules/{file}"), PROGRAM, (0, 0), &content)?;
    }
    archive.add(
        "modules/order",
        PROGRAM,
        (0, 0),
        modules.join("\n").as_bytes(),
    )?;
    archive.add("TRAILER!!!", 0, (0, 0), &[])?;
    std::fs::write(output, &archive.bytes)?;
    Ok(output.to_owned())
}
