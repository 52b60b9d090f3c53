//! Promise: firmware can boot from the disk. A BIOS negotiates without the read-only feature, uses one
//! queue by polling and knows nothing of multiple queues; its boot sector then reads the whole disk.

use std::time::Duration;

use vm_tests::daemon::Backend;
use vm_tests::requirement::{Missing, or_skip};
use vm_tests::{artifacts, qemu, stack};

const LIMIT: Duration = Duration::from_secs(60);

/// What the boot sector computes: rotate left by one, then add, over 32-bit words.
fn sum(disk: &[u8]) -> u32 {
    let words = disk
        .as_chunks()
        .0
        .iter()
        .map(|word| u32::from_le_bytes(*word));
    words.fold(0_u32, |sum, word| sum.rotate_left(1).wrapping_add(word))
}

#[test]
fn the_bios_boots_from_the_disk_and_reads_all_of_it_twice_on_one_backend() -> anyhow::Result<()> {
    or_skip(|| {
        if artifacts::boot_sector().is_err_and(|error| error.is::<Missing>()) {
            return Err(Missing::new("no C compiler for the boot sector").into());
        }
        let dir = tempfile::tempdir()?;
        let stack = stack::build(dir.path())?;
        let disk = stack.bytes()?;
        let expected = format!(
            "BOOT: sectors=0x{:08X} sum=0x{:08X}",
            disk.len() / 512,
            sum(&disk)
        );
        let mut backend = Backend::start(&stack)?;
        for _boot in 0..2 {
            let mut guest = qemu::firmware(backend.socket())?;
            // SeaBIOS clears the screen first, on the serial line too.
            let text = guest.wait_for_line(LIMIT, |line| line.contains("BOOT: "))?;
            anyhow::ensure!(text.contains(&expected), "wanted {expected}\n{text}");
            guest.wait(LIMIT)?;
            backend.still_runs()?;
        }
        backend.stop()
    })
}
