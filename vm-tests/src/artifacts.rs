//! Things guests are made of: the kernel and busybox put in place by `scripts/guest-artifacts`, and the
//! small guests and programs compiled here from `guest/`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};

use crate::requirement::{Missing, program};

/// The sources of everything that runs inside a guest.
#[must_use]
pub fn guest_sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("guest")
}

/// A file that `scripts/guest-artifacts` provides; `VBD_GUEST_ARTIFACTS` says where, if not at its default.
///
/// # Errors
///
/// [`Missing`] if it is not there.
pub fn provided(name: &str) -> Result<PathBuf> {
    let dir = std::env::var_os("VBD_GUEST_ARTIFACTS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/guest-artifacts"),
        PathBuf::from,
    );
    let path = dir.join(name);
    if !path.exists() {
        let reason = format!("guest artifact {name} missing (run scripts/guest-artifacts)");
        return Err(Missing::new(reason).into());
    }
    Ok(path)
}

/// The bare-metal guest: an ELF file with a PVH entry.
///
/// # Errors
///
/// [`Missing`] without a C compiler; otherwise the compiler's complaint.
pub fn bare_metal_guest() -> Result<PathBuf> {
    let script = guest_sources().join("vgx.ld");
    let flags = [
        "-m64",
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-ffreestanding",
        "-fno-stack-protector",
        "-fno-pic",
        "-fcf-protection=none",
        "-fno-asynchronous-unwind-tables",
        "-fno-tree-loop-distribute-patterns",
        "-fno-strict-aliasing",
        "-mno-red-zone",
        "-mgeneral-regs-only",
        "-Wl,--no-warn-rwx-segments",
        "-Wl,-T",
    ];
    let mut flags: Vec<&str> = flags.to_vec();
    flags.push(script.to_str().context("path is not text")?);
    compile("vgx.elf", &["vgx.S", "vgx.c"], &flags)
}

/// The boot sector: 512 bytes that make a BIOS read the whole disk.
///
/// # Errors
///
/// [`Missing`] without a C compiler; otherwise the compiler's complaint.
pub fn boot_sector() -> Result<PathBuf> {
    let flags = [
        "-m32",
        "-Wl,-Ttext=0x7c00",
        "-Wl,-e,entry",
        "-Wl,--oformat=binary",
    ];
    compile("boot.bin", &["boot.S"], &flags)
}

/// The program that reads at random places of a disk, for a Linux guest.
///
/// # Errors
///
/// [`Missing`] without a C compiler; otherwise the compiler's complaint.
pub fn random_reader() -> Result<PathBuf> {
    let flags = [
        "-m64",
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-ffreestanding",
        "-fno-stack-protector",
        "-fcf-protection=none",
    ];
    compile("reads", &["reads.c"], &flags)
}

/// Compiles `sources` into the target directory, unless what is there is newer than every source.
fn compile(output: &str, sources: &[&str], flags: &[&str]) -> Result<PathBuf> {
    let compiler = program("cc").or_else(|_| program("gcc"))?;
    let dir = target_dir()?.join("vm-tests");
    std::fs::create_dir_all(&dir)?;
    let output = dir.join(output);
    if modified(&output) > newest_source()? {
        return Ok(output);
    }
    // Tests run at the same time: each compiles under its own name, the last rename wins, all are equal.
    let scratch = tempfile::Builder::new()
        .prefix("compile")
        .tempdir_in(&dir)?;
    let result = scratch.path().join("output");
    let done = Command::new(compiler)
        .args([
            "-nostdlib",
            "-static",
            "-no-pie",
            "-Wl,--build-id=none",
            "-o",
        ])
        .arg(&result)
        .args(flags)
        .args(sources)
        .current_dir(guest_sources())
        .output()?;
    ensure!(
        done.status.success(),
        "cc: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    std::fs::rename(&result, &output)?;
    Ok(output)
}

fn newest_source() -> Result<Option<SystemTime>> {
    let mut newest = None;
    for entry in std::fs::read_dir(guest_sources())? {
        newest = newest.max(modified(&entry?.path()));
    }
    Ok(newest)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.metadata().and_then(|data| data.modified()).ok()
}

/// The cargo target directory this program was built into.
///
/// # Errors
///
/// If the running program does not lie in one.
pub fn target_dir() -> Result<PathBuf> {
    Ok(profile_dir()?
        .parent()
        .context("no target directory")?
        .to_owned())
}

/// The directory of the running program's own profile (`target/debug`), where its binaries lie.
///
/// # Errors
///
/// If the running program does not lie in one.
pub fn profile_dir() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    let dir = program.parent().context("no directory")?;
    let profile = if dir.ends_with("deps") {
        dir.parent()
    } else {
        Some(dir)
    };
    Ok(profile.context("no profile directory")?.to_owned())
}
