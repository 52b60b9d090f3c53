//! A slow disk out of a fast one: a control group whose reads the kernel holds back. It needs no module, no device of its
//! own and no copy of the files, but root and a controller for block devices.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use vm_tests::requirement::Missing;

/// About what a cloud gives for a small volume.
pub(crate) const READS_PER_SECOND: u64 = 2_000;
pub(crate) const BYTES_PER_SECOND: u64 = 100_000_000;

/// The group, which is gone when this is, if all that was in it has ended.
#[derive(Debug)]
pub(crate) struct SlowDisk {
    dir: PathBuf,
}

impl SlowDisk {
    /// A group that is slow on the disk that this file is on.
    ///
    /// # Errors
    ///
    /// [`Missing`] where this machine has no such groups, or does not let us make one.
    pub(crate) fn new(file: &Path) -> Result<Self> {
        let device = device(file)?;
        let name = format!("vbd-bench-{}", std::process::id());
        let missing = |why: &str| Missing::new(format!("no slow disk: {why}"));
        let unified = Path::new("/sys/fs/cgroup");
        let older = unified.join("blkio");
        let enabled = std::fs::read_to_string(unified.join("cgroup.subtree_control"));
        let (dir, limits) = if older.is_dir() {
            let limits = vec![
                (
                    "blkio.throttle.read_iops_device",
                    READS_PER_SECOND.to_string(),
                ),
                (
                    "blkio.throttle.read_bps_device",
                    BYTES_PER_SECOND.to_string(),
                ),
            ];
            (older.join(name), limits)
        } else if enabled.is_ok_and(|names| names.split_whitespace().any(|name| name == "io")) {
            let limit = format!("riops={READS_PER_SECOND} rbps={BYTES_PER_SECOND}");
            (unified.join(name), vec![("io.max", limit)])
        } else {
            return Err(missing("no control groups with limits for block devices").into());
        };
        std::fs::create_dir(&dir).map_err(|error| missing(&format!("a control group: {error}")))?;
        let slow = Self { dir };
        for (file, limit) in limits {
            std::fs::write(slow.dir.join(file), format!("{device} {limit}"))
                .map_err(|error| missing(&format!("{file} for {device}: {error}")))?;
        }
        Ok(slow)
    }

    /// Lets a process and all its threads have the slow disk.
    pub(crate) fn enter(&self, pid: u32) -> Result<()> {
        let list = self.dir.join("cgroup.procs");
        std::fs::write(&list, pid.to_string()).with_context(|| list.display().to_string())
    }

    /// A command that has the slow disk from its first instruction on.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", r#"echo $$ >"$0" && exec "$@""#]);
        command.arg(self.dir.join("cgroup.procs")).arg(program);
        command
    }
}

impl Drop for SlowDisk {
    fn drop(&mut self) {
        // An empty group that stays does no harm.
        let _gone = std::fs::remove_dir(&self.dir);
    }
}

/// Numbers of the whole disk that a file is on. Limits are not for partitions.
fn device(file: &Path) -> Result<String> {
    let number = file.metadata()?.dev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let missing = || Missing::new("no slow disk: the file system is on no single block device");
    let entry = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
    let entry = entry.canonicalize().map_err(|_none| missing())?;
    let disk = match entry.parent() {
        Some(parent) if entry.join("partition").exists() => parent,
        _ => &entry,
    };
    let numbers = std::fs::read_to_string(disk.join("dev")).map_err(|_none| missing())?;
    Ok(numbers.trim().to_owned())
}
