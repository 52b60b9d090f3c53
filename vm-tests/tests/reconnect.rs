//! Promise: a guest in QEMU with `reconnect=1` reads on, without an error or a wrong byte, while its backend is killed
//! and started again under 16 reads in flight.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use vm_tests::daemon::{Backend, Kind};
use vm_tests::qemu::{self, Machine};
use vm_tests::requirement::{Missing, or_skip};
use vm_tests::{stack, vgx};

/// Kills in a normal run; `VBD_GUEST_KILLS` asks for more. QEMU waits a second before each new connection.
const KILLS: usize = 4;
/// The guest reports every so many rounds, and is disturbed once after each report.
const ROUNDS_PER_REPORT: usize = 256;
const REPORT_LIMIT: Duration = Duration::from_secs(60);

fn reports(text: &str) -> usize {
    text.matches("VGX: soak round=").count()
}

#[test]
fn guest_reads_on_while_its_backend_is_killed() -> Result<()> {
    or_skip(|| {
        let kills = std::env::var("VBD_GUEST_KILLS").map_or(Ok(KILLS), |kills| kills.parse())?;
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let mut backend = Backend::start(&stack)?;
        if backend.kind == Kind::QemuStorageDaemon {
            return Err(
                Missing::new("qemu-storage-daemon loses requests when it is killed").into(),
            );
        }
        let at = stack::telling_sector(&stack.bytes()?).unwrap_or_default();
        let rounds = ROUNDS_PER_REPORT * (kills + 2);
        let options = format!("at={at},nohash,soak={rounds}");
        let guest = qemu::bare_metal_reconnecting(backend.socket(), Machine::Q35, &options)?;
        for kill in 1..=kills {
            let deadline = Instant::now() + REPORT_LIMIT;
            while reports(&guest.text()) < kill {
                ensure!(
                    Instant::now() < deadline,
                    "before kill {kill}: {}",
                    guest.text()
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            backend.kill_and_restart()?;
        }
        let report = vgx::Report::collect(guest)?;
        ensure!(report.number("bad")? == 0, "{:?}", report.facts);
        backend.stop()
    })
}
