//! What a process has used, as the kernel counts it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Used so far by all threads that live. Those of queues live as long as their front-end.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    /// Context switches because there was nothing to do.
    pub(crate) voluntary: u64,
    /// Context switches because somebody else had something to do.
    pub(crate) involuntary: u64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let mut sum = Self::default();
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let dir = thread?.path();
            // A thread may end while we look.
            let Some(one) = thread_usage(&dir) else {
                continue;
            };
            sum.cpu += one.cpu;
            sum.voluntary += one.voluntary;
            sum.involuntary += one.involuntary;
        }
        Ok(sum)
    }

    /// Used so far by the thread that asks.
    pub(crate) fn of_this_thread() -> Result<Self> {
        thread_usage(Path::new("/proc/thread-self")).context("/proc/thread-self")
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(earlier.cpu),
            voluntary: self.voluntary.saturating_sub(earlier.voluntary),
            involuntary: self.involuntary.saturating_sub(earlier.involuntary),
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            voluntary: self.voluntary + other.voluntary,
            involuntary: self.involuntary + other.involuntary,
        }
    }
}

fn thread_usage(dir: &Path) -> Option<Usage> {
    let schedule = std::fs::read_to_string(dir.join("schedstat")).ok()?;
    let status = std::fs::read_to_string(dir.join("status")).ok()?;
    let nanoseconds = schedule.split(' ').next()?.parse().ok()?;
    Some(Usage {
        cpu: Duration::from_nanos(nanoseconds),
        voluntary: field(&status, "voluntary_ctxt_switches:")?,
        involuntary: field(&status, "nonvoluntary_ctxt_switches:")?,
    })
}

/// Memory of a process. That of the guest is shared and not counted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemoryUse {
    /// Its own, and of files it maps.
    pub(crate) rss_bytes: u64,
    /// The same, with what it shares divided among those who share it.
    pub(crate) pss_bytes: u64,
}

impl MemoryUse {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let sum = |text: &str, names: [&str; 2]| -> Result<u64> {
            let mut kib = 0;
            for name in names {
                kib += field(text, name).with_context(|| format!("no {name}"))?;
            }
            Ok(kib << 10)
        };
        Ok(Self {
            rss_bytes: sum(&status, ["RssAnon:", "RssFile:"])?,
            pss_bytes: sum(&rollup, ["Pss_Anon:", "Pss_File:"])?,
        })
    }
}

/// Bytes the process has had the kernel fetch from a disk.
pub(crate) fn bytes_from_disk(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/io"))?;
    field(&text, "read_bytes:").context("no read_bytes")
}

/// The number behind a name at the start of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{MemoryUse, Usage, field};

    #[test]
    fn fields_are_found_at_line_starts_only() {
        let text =
            "nonvoluntary_ctxt_switches:\t7\nvoluntary_ctxt_switches:\t12\nRssAnon:\t 34 kB\n";
        assert_eq!(field(text, "voluntary_ctxt_switches:"), Some(12));
        assert_eq!(field(text, "RssAnon:"), Some(34));
        assert_eq!(field(text, "RssFile:"), None);
    }

    #[test]
    fn this_process_uses_something() {
        let before = Usage::of(std::process::id()).unwrap();
        assert!(MemoryUse::of(std::process::id()).unwrap().rss_bytes > 0);
        let used = Usage::of(std::process::id()).unwrap().since(before);
        assert!(used.cpu.as_secs() < 60);
    }
}
