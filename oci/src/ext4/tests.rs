//! Promise: what is written is what was asked for, and e2fsck has nothing to say about it.

use std::process::Command;

use super::*;

const MIB: u64 = 1 << 20;

fn fsck(system: &FileSystem) {
    let path = format!(
        "/proc/{}/fd/{}",
        std::process::id(),
        std::os::fd::AsRawFd::as_raw_fd(system.file())
    );
    let Ok(output) = Command::new("/usr/sbin/e2fsck")
        .args(["-f", "-n"])
        .arg(path)
        .output()
    else {
        eprintln!("SKIPPED: no e2fsck");
        return;
    };
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn empty(size: u64) -> FileSystem {
    let mut system = FileSystem::new(tempfile::tempfile().unwrap(), size).unwrap();
    system.flush().unwrap();
    fsck(&system);
    system.next_step();
    system
}

#[test]
fn empty_file_systems_of_all_sizes_are_sound() {
    for size in [
        2 * MIB,
        5 * MIB,
        64 * MIB,
        128 * MIB,
        129 * MIB,
        600 * MIB,
        2100 * MIB,
        (4 << 30) + 4096 * 77,
        20 << 30,
    ] {
        empty(size);
    }
}
