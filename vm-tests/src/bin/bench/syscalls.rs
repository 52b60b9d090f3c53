//! Counting the system calls of a process, with perf or, where that is not there or not allowed, strace.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_tests::process::Process;
use vm_tests::requirement;

const ATTACH_LIMIT: Duration = Duration::from_secs(3);
const END_LIMIT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// A way to count.
#[derive(Debug)]
pub(crate) enum Counter {
    Perf(PathBuf),
    Strace(PathBuf),
}

impl Counter {
    /// The first that works on this machine, or why there is none.
    pub(crate) fn find() -> Result<Self, String> {
        let perf = requirement::program("perf").map_err(|error| error.to_string());
        let refused = match perf {
            Err(missing) => missing,
            Ok(perf) => {
                let mut trial = Command::new(&perf);
                trial.args(["stat", "-x;", "-e", "raw_syscalls:sys_enter", "true"]);
                match trial.output() {
                    Ok(output) if output.status.success() => return Ok(Self::Perf(perf)),
                    Ok(_) => "perf may not count system calls".into(),
                    Err(error) => format!("perf: {error}"),
                }
            }
        };
        match requirement::program("strace") {
            Ok(strace) => Ok(Self::Strace(strace)),
            Err(missing) => Err(format!("{refused}, {missing}")),
        }
    }

    /// How many system calls the process makes while `body` runs.
    pub(crate) fn count<T>(&self, pid: u32, body: impl FnOnce() -> Result<T>) -> Result<(u64, T)> {
        let mut command = match self {
            Self::Perf(perf) => {
                let mut command = Command::new(perf);
                command.args(["stat", "-x;", "-e", "raw_syscalls:sys_enter"]);
                command
            }
            Self::Strace(strace) => {
                let mut command = Command::new(strace);
                command.args(["-c", "-f"]);
                command
            }
        };
        let summary = tempfile::NamedTempFile::new()?;
        command.arg("-o").arg(summary.path());
        let mut process = Process::spawn("counter", command.arg("-p").arg(pid.to_string()))?;
        self.wait_until_attached(&process, pid)?;
        let result = body()?;
        process.interrupt()?;
        // Their exit status says that they were interrupted.
        let _status = process.wait(END_LIMIT)?;
        let text = std::fs::read_to_string(summary.path())?;
        let count = match self {
            Self::Perf(_) => perf_total(&text),
            Self::Strace(_) => strace_total(&text),
        };
        Ok((
            count.with_context(|| format!("no count in: {text}"))?,
            result,
        ))
    }

    fn wait_until_attached(&self, process: &Process, pid: u32) -> Result<()> {
        let deadline = Instant::now() + ATTACH_LIMIT;
        loop {
            let attached = match self {
                Self::Perf(_) => perf_events(process.id()) >= threads(pid),
                Self::Strace(_) => traced(pid),
            };
            if attached {
                // The last event is there; enabling it takes a moment more.
                std::thread::sleep(LOOK_INTERVAL * 4);
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "it does not attach: {}",
                process.text()
            );
            std::thread::sleep(LOOK_INTERVAL);
        }
    }
}

fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(usize::MAX, Iterator::count)
}

fn perf_events(perf: u32) -> usize {
    let Ok(fds) = std::fs::read_dir(format!("/proc/{perf}/fd")) else {
        return 0;
    };
    fds.flatten()
        .filter_map(|fd| std::fs::read_link(fd.path()).ok())
        .filter(|target| target.to_string_lossy().contains("perf_event"))
        .count()
}

fn traced(pid: u32) -> bool {
    let Ok(mut threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    threads.all(|thread| {
        let status =
            thread.and_then(|thread| std::fs::read_to_string(thread.path().join("status")));
        status.is_ok_and(|status| !status.contains("TracerPid:\t0\n"))
    })
}

fn perf_total(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.contains("raw_syscalls"))?;
    line.split(';').next()?.parse().ok()
}

fn strace_total(text: &str) -> Option<u64> {
    let line = text.lines().rev().find(|line| line.ends_with(" total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{perf_total, strace_total};

    #[test]
    fn both_summaries_are_understood() {
        let perf = "40123;;raw_syscalls:sys_enter;1000;100.00;;\n";
        assert_eq!(perf_total(perf), Some(40123));
        let strace = "% time     seconds  usecs/call     calls    errors syscall\n\
                      ------ ----------- ----------- --------- --------- ----------------\n\
                      100.00    0.008143           8       954        10 total\n";
        assert_eq!(strace_total(strace), Some(954));
    }
}
