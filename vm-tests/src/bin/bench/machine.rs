//! Where the numbers come from.

use std::path::Path;
use std::process::Command;

use crate::server::Programs;

/// Names and values that describe this machine and the programs.
pub(crate) fn describe(programs: &Programs) -> Vec<(String, String)> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = field(&read("/proc/cpuinfo"), "model name").unwrap_or_else(|| "unknown".into());
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal").unwrap_or_default();
    let mut facts = vec![
        ("CPU".into(), format!("{cpu}, {cores} cores")),
        ("memory".into(), memory),
        (
            "kernel".into(),
            read("/proc/sys/kernel/osrelease").trim().to_owned(),
        ),
        (
            "load at the start".into(),
            read("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
        ),
    ];
    let named = [
        ("vbd", Some(&programs.vbd)),
        ("base", programs.baseline.as_ref()),
        ("qsd", programs.qemu_storage_daemon.as_ref()),
        ("ch", programs.vhost_user_block.as_ref()),
    ];
    for (name, program) in named {
        let value = program.map_or("not there".into(), |program| version(program));
        facts.push((name.into(), value));
    }
    facts
}

fn version(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let first = text
        .ok()
        .and_then(|text| text.lines().next().map(str::to_owned));
    let size = program.metadata().map_or(0, |data| data.len());
    let first = first.unwrap_or_else(|| "unknown version".into());
    format!("{first} ({size} bytes)")
}

/// The value behind the first `name :`.
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
