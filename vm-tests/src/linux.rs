//! What a Linux guest reports about its disk, and what it must report.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::Process;
use crate::stack::{DISK_BYTES, Stack, sha256};

/// Several times what a boot takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The virtio feature of a read-only disk.
const FEATURE_READ_ONLY: usize = 5;

/// What a Linux guest does once it is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// Examine the disk and report what it is and what is on it.
    Check,
    /// Run the init program of the disk.
    Root,
    /// Read, and say when each kind of reading begins and ends.
    Read,
}

/// How a Linux guest is to be started.
#[derive(Debug, Clone, Copy)]
pub struct Boot {
    /// Queues of the disk, and processors to use them.
    pub queues: u32,
    /// What the guest is for.
    pub task: Task,
}

impl Boot {
    /// The kernel arguments every kind of Linux guest gets. Only emergencies are printed by the kernel:
    /// its messages must not fall into the middle of a report line.
    #[must_use]
    pub(crate) fn arguments(&self) -> String {
        let mode = match self.task {
            Task::Check => "check",
            Task::Root => "root",
            Task::Read => "read",
        };
        format!("quiet loglevel=1 rdinit=/init vbd.mode={mode}")
    }
}

/// The lines `VBD: …` of one guest, sorted by kind.
#[derive(Debug, Default)]
pub struct Report {
    /// Properties of the device: size, ro, serial, queues, …
    pub facts: BTreeMap<String, String>,
    /// SHA-256 of every regular file by path.
    pub files: BTreeMap<String, String>,
    /// Target of every symbolic link by path.
    pub links: BTreeMap<String, String>,
    /// Type, permissions, owner, group, links, device and time of everything by path, as `stat` prints them.
    pub nodes: BTreeMap<String, String>,
    /// Attempts to write that were refused, with the complaint.
    pub refused: BTreeMap<String, String>,
    /// Attempts to write that went through. There must be none.
    pub allowed: Vec<String>,
}

impl Report {
    /// Waits for the guest's success line, then for its end, and reads the report.
    ///
    /// # Errors
    ///
    /// If the guest reports a failure, ends without success or takes too long.
    pub fn collect(mut guest: Process) -> Result<Self> {
        let verdict = |line: &str| line == "VBD: done" || line.starts_with("VBD: failed");
        let text = guest.wait_for_line(LIMIT, verdict)?;
        ensure!(
            text.lines().any(|line| line.trim_end() == "VBD: done"),
            "the guest gave up:\n{text}"
        );
        // The exit itself says nothing, but a guest that hangs in switching off holds the device.
        guest.wait(LIMIT)?;
        Self::parse(&text)
    }

    fn parse(text: &str) -> Result<Self> {
        let mut report = Self::default();
        for line in text
            .lines()
            .filter_map(|line| line.trim_end().strip_prefix("VBD: "))
        {
            let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
            let (first, second) = (first.to_owned(), second.to_owned());
            match kind {
                "fact" => drop(report.facts.insert(first, second)),
                "file" => drop(report.files.insert(second, first)),
                "link" => drop(report.links.insert(first, second)),
                "node" => drop(report.nodes.insert(first, second)),
                "refused" => drop(report.refused.insert(first, second)),
                "allowed" => report.allowed.push(first),
                _ => {}
            }
        }
        Ok(report)
    }

    /// One fact.
    ///
    /// # Errors
    ///
    /// If the guest did not state it.
    pub fn fact(&self, name: &str) -> Result<&str> {
        self.facts
            .get(name)
            .map(String::as_str)
            .with_context(|| format!("no fact {name}: {self:?}"))
    }

    fn expect_fact(&self, name: &str, expected: &str) -> Result<()> {
        let found = self.fact(name)?;
        ensure!(found == expected, "{name} is {found:?}, not {expected:?}");
        Ok(())
    }

    /// Checks everything an examining guest reports against the stack it was given.
    ///
    /// # Errors
    ///
    /// Names the first thing that is not as it must be.
    pub fn check(&self, stack: &Stack, serial: &str, queues: u32, processors: u32) -> Result<()> {
        self.expect_fact("size", &DISK_BYTES.to_string())?;
        self.expect_fact("ro", "1")?;
        self.expect_fact("sysfs_ro", "1")?;
        self.expect_fact("serial", serial)?;
        self.expect_fact("logical_block_size", "512")?;
        self.expect_fact("queues", &queues.to_string())?;
        let bit = self.fact("features")?.as_bytes().get(FEATURE_READ_ONLY);
        ensure!(
            bit == Some(&b'1'),
            "the read-only feature is not on: {:?}",
            self.facts
        );
        let whole = sha256(&stack.bytes()?);
        for cpu in 0..processors {
            self.expect_fact(&format!("device_sha256_cpu{cpu}"), &whole)?;
        }
        ensure!(
            self.allowed.is_empty(),
            "writing was allowed: {:?}",
            self.allowed
        );
        for (attempt, complaint) in [
            ("write_device", "Operation not permitted"),
            // Where discard is not offered the kernel says so before it looks at the read-only bit.
            ("discard_device", "not "),
            ("write_file", "Read-only file system"),
            ("remount", ""),
        ] {
            let said = self
                .refused
                .get(attempt)
                .with_context(|| format!("{attempt} was not tried"))?;
            ensure!(said.contains(complaint), "{attempt}: {said:?}");
        }
        self.check_files(stack)?;
        let links: BTreeMap<_, _> = stack.links.iter().cloned().collect();
        ensure!(self.links == links, "links differ: {:?}", self.links);
        Ok(())
    }

    /// Checks that the guest saw exactly the files of the stack.
    ///
    /// # Errors
    ///
    /// Names the first file that differs.
    pub fn check_files(&self, stack: &Stack) -> Result<()> {
        for (path, digest) in &stack.files {
            let seen = self.files.get(path);
            ensure!(seen == Some(digest), "{path} is {seen:?}, not {digest}");
        }
        let extra = self
            .files
            .keys()
            .find(|path| stack.files.iter().all(|(known, _)| known != *path));
        ensure!(extra.is_none(), "a file that was never written: {extra:?}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Report;

    #[test]
    fn lines_of_a_serial_line_are_sorted_by_kind() {
        let text = "noise\r\nVBD: fact size 512\r\nVBD: file abc /a b\r\nVBD: refused x not permitted\r\nVBD: allowed y\r\n";
        let report = Report::parse(text).unwrap();
        assert_eq!(report.fact("size").unwrap(), "512");
        assert_eq!(report.files["/a b"], "abc");
        assert_eq!(report.refused["x"], "not permitted");
        assert_eq!(report.allowed, ["y"]);
    }
}
