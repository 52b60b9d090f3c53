//! Promise: a guest that is moved from one QEMU to another while it reads, and from one backend to another with it,
//! finds every byte that was read before, during and after where it was put, and every request answered.
//!
//! `VBD_MIGRATIONS` asks for more moves than a normal run makes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_tests::daemon::{Backend, Kind};
use vm_tests::process::Process;
use vm_tests::qemu;
use vm_tests::qmp::Monitor;
use vm_tests::requirement::{Missing, or_skip};
use vm_tests::stack;

const MIGRATIONS: usize = 3;
/// More rounds than any run lasts: the guest is ended from outside.
const ROUNDS: u64 = 1 << 40;
const REPORT_LIMIT: Duration = Duration::from_secs(60);

/// One QEMU with the guest in it, or waiting for it.
struct Host {
    guest: Process,
    monitor: Monitor,
}

impl Host {
    /// Starts the guest, or with `incoming` a machine that waits there for one.
    fn start(
        backend: &Backend,
        dir: &Path,
        number: usize,
        incoming: Option<&Path>,
    ) -> Result<Self> {
        let monitor = dir.join(format!("monitor-{number}"));
        let options = format!("nohash,queues=2,carry={ROUNDS}");
        let guest = qemu::bare_metal_migrating(backend.socket(), &options, &monitor, incoming)?;
        let monitor = Monitor::connect(&monitor).with_context(|| guest.text())?;
        Ok(Self { guest, monitor })
    }

    /// Waits for `count` more reports of the guest on this host; none may speak of anything bad.
    fn expect_reports(&self, count: usize) -> Result<()> {
        let before = reports(&self.guest.text()).len();
        let deadline = Instant::now() + REPORT_LIMIT;
        loop {
            let text = self.guest.text();
            let reports = reports(&text);
            let bad = reports.iter().find(|line| !line.ends_with(" bad=0"));
            ensure!(bad.is_none(), "{bad:?}\n{text}");
            ensure!(!text.contains("VGX: error"), "{text}");
            if reports.len() >= before + count {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "the guest is silent: {text}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn reports(text: &str) -> Vec<&str> {
    let complete = text.rfind('\n').map_or("", |end| &text[..end]);
    let lines = complete.lines().map(str::trim_end);
    lines
        .filter(|line| line.contains("VGX: carry round="))
        .collect()
}

fn migrate(migrations: usize, log: impl Fn(String)) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let stack = stack::build(dir.path())?;
    // The one the guest is on, and the one it goes to next: both serve the same layers.
    let mut backends = [Backend::start(&stack)?, Backend::start(&stack)?];
    if backends[0].kind == Kind::QemuStorageDaemon {
        return Err(Missing::new("the control backend is not asked to migrate").into());
    }
    let mut host = Host::start(&backends[0], dir.path(), 0, None)?;
    host.expect_reports(2)?;
    for number in 1..=migrations {
        let door: PathBuf = dir.path().join(format!("door-{number}"));
        let to = &backends[number % 2];
        let next = Host::start(to, dir.path(), number, Some(&door))?;
        let outcome = host
            .monitor
            .migrate_to(&door)
            .with_context(|| format!("migration {number}: {}", host.guest.text()))?;
        log(format!(
            "migration {number}: downtime {} ms, {} passes, total {} ms",
            outcome["downtime"], outcome["ram"]["dirty-sync-count"], outcome["total-time"]
        ));
        host.guest.kill()?;
        host = next;
        // Two reports are more than one whole turn through the buffers: everything carried along is looked at.
        host.expect_reports(2)
            .with_context(|| format!("after migration {number}"))?;
    }
    drop(host);
    for backend in &mut backends {
        backend.still_runs()?;
    }
    backends.into_iter().try_for_each(Backend::stop)
}

#[test]
fn guest_reads_on_over_live_migrations() -> Result<()> {
    or_skip(|| {
        let migrations = std::env::var("VBD_MIGRATIONS").map_or(Ok(MIGRATIONS), |n| n.parse())?;
        migrate(migrations, |line| println!("{line}"))
    })
}
