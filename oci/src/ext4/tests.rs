//! Promise: what is written is what was asked for, and e2fsck has nothing to say about it.

use std::io::{empty as nothing, repeat};
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

fn formatted(size: u64) -> FileSystem {
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
        formatted(size);
    }
}

fn next(system: &mut FileSystem) {
    system.flush().unwrap();
    fsck(system);
    system.next_step();
}

#[test]
fn files_of_many_pieces_have_trees_of_three_levels_and_give_all_back() {
    let mut system = formatted(512 * MIB);
    let (free, before) = (system.free_blocks(1), system.allocated.bitmap(0));
    let root = system.root();
    // Each piece is in a place of its own, behind one that is empty.
    let pieces = 1500_u64;
    let segments: Vec<_> = (0..pieces)
        .map(|at| at * (128 << 10)..at * (128 << 10) + 1)
        .collect();
    let name = (root, &b"pieces"[..]);
    let attributes = Attributes::default;
    system
        .make_file(
            name,
            attributes(),
            pieces * (128 << 10),
            &segments,
            &mut repeat(7),
        )
        .unwrap();
    let file = system.look_up(root, b"pieces").unwrap().inode;
    next(&mut system);
    let inode = system.inode(file).unwrap();
    assert_eq!(inode.extents().len(), 1500);
    // Five leaves, and one node above them for which the inode has room.
    assert_eq!(inode.tree_blocks.len(), 6);
    system.remove(root, b"pieces");
    next(&mut system);
    // The block of the root directory stays.
    assert_eq!(system.allocated.bitmap(0), before);
    assert_eq!(system.free_blocks(1), free);
    assert!(system.inode(file).is_none());
}

#[test]
fn directories_of_more_subdirectories_than_can_be_counted_are_sound() {
    let mut system = formatted(1024 * MIB);
    let root = system.root();
    let above = system
        .make_directory(root, b"above", Attributes::default())
        .unwrap();
    for at in 0..65_010 {
        system
            .make_directory(above, format!("d{at}").as_bytes(), Attributes::default())
            .unwrap();
    }
    next(&mut system);
    for at in 0..100 {
        system.remove(above, format!("d{at}").as_bytes());
    }
    next(&mut system);
    system.remove(root, b"above");
    next(&mut system);
    assert_eq!(system.free_inodes.len(), 65_011);
}

#[test]
fn a_file_has_as_many_names_as_ext4_counts() {
    let mut system = formatted(64 * MIB);
    let root = system.root();
    let name = (root, &b"0"[..]);
    system
        .make_file(name, Attributes::default(), 0, &[], &mut nothing())
        .unwrap();
    let file = system.look_up(root, b"0").unwrap().inode;
    for at in 1..MAX_LINKS {
        system.link(root, at.to_string().as_bytes(), file).unwrap();
    }
    let refused = system.link(root, b"more", file);
    assert!(
        matches!(refused, Err(Ext4Error::TooManyLinks)),
        "{refused:?}"
    );
    next(&mut system);
}

#[test]
fn inodes_and_space_run_out_with_words() {
    let mut system = formatted(2 * MIB);
    let root = system.root();
    let mut made = 0_u32;
    let refused = loop {
        let name = made.to_string();
        match system.make_fifo(root, name.as_bytes(), Attributes::default()) {
            Ok(()) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(refused, Ext4Error::TooManyFiles { max: 512 }),
        "{refused}"
    );
    assert_eq!(made, 512 - 10);
    for at in 0..made {
        system.remove(root, at.to_string().as_bytes());
    }
    let len = 3 * MIB / 2;
    let name = (root, &b"large"[..]);
    let whole = &[Range { start: 0, end: len }];
    system
        .make_file(name, Attributes::default(), len, whole, &mut repeat(1))
        .unwrap();
    let refused = system.make_file(name, Attributes::default(), len, whole, &mut repeat(1));
    assert!(
        matches!(refused, Err(Ext4Error::Full { .. })),
        "{refused:?}"
    );
}

#[test]
fn texts_have_a_limit_and_removed_ones_do_not_count() {
    let mut system = formatted(64 * MIB);
    let root = system.root();
    system.max_held_bytes = 10_000;
    let attributes = Attributes {
        xattrs: vec![Xattr::new(b"user.a", &[7; 99]).unwrap()],
        ..Attributes::default()
    };
    // A name of 100 bytes, 100 of the attribute, and 300 of the target.
    let make = |system: &mut FileSystem, at: u32| {
        let (name, target) = (format!("{at:0100}"), [b'x'; 300]);
        system.make_symlink(root, name.as_bytes(), attributes.clone(), &target)
    };
    for at in 0..20 {
        make(&mut system, at).unwrap();
    }
    assert_eq!(system.held_bytes, 10_000);
    for at in 0..10 {
        system.remove(root, format!("{at:0100}").as_bytes());
    }
    assert_eq!(system.held_bytes, 5_000);
    let kept = system
        .look_up(root, format!("{:0100}", 15).as_bytes())
        .unwrap();
    system
        .set_attributes(kept.inode, Attributes::default())
        .unwrap();
    assert_eq!(system.held_bytes, 4_900);
    for at in 0..10 {
        make(&mut system, at).unwrap();
    }
    let refused = make(&mut system, 99);
    assert!(
        matches!(refused, Err(Ext4Error::TooMuchText { max_bytes: 10_000 })),
        "{refused:?}"
    );
}
