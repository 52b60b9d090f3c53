//! Trees from disks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use ext4_view::{Ext4, FileType};
use image::{Image, Reader};
use lsmt::Extent;

use crate::model::Node;
use oci::test_util::{Bytes, What, join};

/// The disk that layers make, in a sparse file.
pub(crate) fn flatten(layers: &[PathBuf], to: &Path) {
    const PIECE: usize = 1 << 20;
    let image = Arc::new(Image::open(layers).unwrap());
    let len = image.len_bytes();
    let file = File::create(to).unwrap();
    file.set_len(len).unwrap();
    let mut extents = Vec::new();
    image.disk().resolve(0, len, &mut extents).unwrap();
    let mut reader = Reader::new(image);
    let mut piece = vec![0; PIECE];
    for extent in extents {
        let Extent::Data {
            disk_offset,
            len_bytes,
            ..
        } = extent
        else {
            continue;
        };
        for offset in (0..len_bytes).step_by(PIECE) {
            let now = usize::try_from(len_bytes - offset).unwrap().min(PIECE);
            let piece = &mut piece[..now];
            reader.read_exact_at(piece, disk_offset + offset).unwrap();
            file.write_all_at(piece, disk_offset + offset).unwrap();
        }
    }
}

/// Whether e2fsprogs are there.
pub(crate) fn has_e2fsprogs() -> bool {
    let there =
        tool("e2fsck").arg("-V").output().is_ok() && tool("debugfs").arg("-V").output().is_ok();
    if !there {
        eprintln!(
            "SKIPPED: no e2fsprogs: file systems are not checked by e2fsck, nor links, devices and attributes"
        );
    }
    there
}

fn tool(name: &str) -> Command {
    let sbin = Path::new("/usr/sbin").join(name);
    Command::new(if sbin.exists() { sbin } else { name.into() })
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

pub(crate) fn fsck(disk: &Path) {
    let output = run(tool("e2fsck").args(["-f", "-n"]).arg(disk));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// All paths and what stands there, as far as `ext4-view` tells: without links, devices and attributes.
pub(crate) fn tree(disk: &Path) -> BTreeMap<Bytes, Node> {
    let system = Ext4::load_from_path(disk).unwrap();
    let mut tree = BTreeMap::new();
    let mut next = vec![Bytes::new()];
    while let Some(path) = next.pop() {
        let full = [b"/", path.as_slice()].concat();
        let full = ext4_view::Path::try_from(full.as_slice()).unwrap();
        let metadata = system.symlink_metadata(full).unwrap();
        let what = match metadata.file_type() {
            FileType::Directory => {
                for entry in system.read_dir(full).unwrap() {
                    let entry = entry.unwrap();
                    let name = entry.file_name();
                    let name: &[u8] = name.as_ref();
                    if name != b"." && name != b".." {
                        next.push(join(&path, name));
                    }
                }
                What::Dir
            }
            FileType::Regular => What::File(system.read(full).unwrap()),
            FileType::Symlink => What::Symlink(system.read_link(full).unwrap().as_ref().to_vec()),
            FileType::CharacterDevice => What::Char(0, 0),
            FileType::BlockDevice => What::Block(0, 0),
            FileType::Fifo => What::Fifo,
            FileType::Socket => panic!("a socket"),
        };
        let time = metadata.modified();
        tree.insert(
            path,
            Node {
                what,
                mode: u32::from(metadata.mode() & 0o7777),
                uid: metadata.uid(),
                gid: metadata.gid(),
                mtime: (time.seconds(), time.nanoseconds()),
                xattrs: BTreeMap::new(),
                links: 0,
            },
        );
    }
    tree
}

/// What `ext4-view` does not tell, from `debugfs`: fills it in. Gives the sets of paths that are one file.
pub(crate) fn complete(
    tree: &mut BTreeMap<Bytes, Node>,
    disk: &Path,
    dir: &Path,
) -> BTreeSet<BTreeSet<Bytes>> {
    let inodes = inodes(tree, disk);
    let script: String = inodes
        .values()
        .map(|inode| format!("stat <{inode}>\n"))
        .collect();
    let said = debugfs(disk, dir, &script);
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut wanted = Vec::new();
    let blocks = said.split("debugfs: stat <").skip(1);
    for ((path, inode), block) in inodes.iter().zip(blocks) {
        assert!(block.starts_with(&format!("{inode}>")), "{block}");
        let node = tree.get_mut(path).unwrap();
        let after = |text: &str| block.split_once(text).map(|(_, rest)| rest);
        let links = after("\nLinks: ")
            .unwrap()
            .split_whitespace()
            .next()
            .unwrap();
        node.links = links.parse().unwrap();
        if let Some(device) = after("Device major/minor number: ") {
            let (major, minor) = device
                .split_whitespace()
                .next()
                .unwrap()
                .split_once(':')
                .unwrap();
            let device = (major.parse().unwrap(), minor.parse().unwrap());
            match &mut node.what {
                What::Char(major, minor) | What::Block(major, minor) => (*major, *minor) = device,
                other => panic!("{other:?} with a device number"),
            }
        }
        let attributes = after("\nExtended attributes:\n").unwrap_or_default();
        for line in attributes.lines().take_while(|line| line.starts_with("  ")) {
            let name = line.trim_start().split(" (").next().unwrap().to_owned();
            wanted.push((path.clone(), *inode, name));
        }
    }
    read_attributes(tree, disk, dir, &wanted);
    let mut sets: BTreeMap<u32, BTreeSet<Bytes>> = BTreeMap::new();
    for (path, inode) in inodes {
        sets.entry(inode).or_default().insert(path);
    }
    sets.into_values().filter(|set| set.len() > 1).collect()
}

fn read_attributes(
    tree: &mut BTreeMap<Bytes, Node>,
    disk: &Path,
    dir: &Path,
    wanted: &[(Bytes, u32, String)],
) {
    let place = |at: usize| dir.join(format!("xattr-{at}"));
    let mut script = String::new();
    for (at, (_, inode, name)) in wanted.iter().enumerate() {
        script += &format!("ea_get -f {} <{inode}> {name}\n", place(at).display());
    }
    debugfs(disk, dir, &script);
    for (at, (path, _, name)) in wanted.iter().enumerate() {
        let value = fs::read(place(at)).unwrap();
        fs::remove_file(place(at)).unwrap();
        let node = tree.get_mut(path).unwrap();
        node.xattrs.insert(name.clone().into(), value);
    }
}

/// The number of the inode of every path.
fn inodes(tree: &BTreeMap<Bytes, Node>, disk: &Path) -> BTreeMap<Bytes, u32> {
    let mut found = BTreeMap::from([(Bytes::new(), 2)]);
    let mut level = vec![(Bytes::new(), 2)];
    let dir = disk.parent().unwrap();
    while !level.is_empty() {
        let script: String = level
            .iter()
            .map(|(_, inode)| format!("ls -p -r <{inode}>\n"))
            .collect();
        let said = debugfs(disk, dir, &script);
        let mut rest = said.as_slice();
        let mut below = Vec::new();
        for (path, inode) in level {
            rest = rest
                .strip_prefix(format!("debugfs: ls -p -r <{inode}>\n").as_bytes())
                .unwrap();
            // Numbers, a name in which anything may stand but a slash, and the size.
            while let Some(record) = rest.strip_prefix(b"/") {
                let mut fields = record.splitn(7, |byte| *byte == b'/');
                let mut field = || fields.next().unwrap();
                let (inode, mode) = (field(), field());
                let (_uid, _gid, name, _size) = (field(), field(), field(), field());
                rest = fields.next().unwrap().strip_prefix(b"\n").unwrap();
                let inode: u32 = std::str::from_utf8(inode).unwrap().parse().unwrap();
                if inode == 0 || name == b"." || name == b".." {
                    continue;
                }
                let full = join(&path, name);
                if mode.starts_with(b"04") {
                    below.push((full.clone(), inode));
                }
                assert_eq!(found.insert(full, inode), None, "a name stands twice");
            }
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        level = below;
    }
    let (found_paths, paths): (Vec<_>, Vec<_>) = (found.keys().collect(), tree.keys().collect());
    assert_eq!(
        found_paths, paths,
        "debugfs and ext4-view see the same names"
    );
    found
}

pub(crate) fn debugfs(disk: &Path, dir: &Path, script: &str) -> Bytes {
    let path = dir.join("script");
    fs::write(&path, script).unwrap();
    let output = run(tool("debugfs")
        .arg("-f")
        .arg(&path)
        .arg(disk)
        .env("DEBUGFS_PAGER", "cat"));
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(complaints.lines().count(), 1, "{complaints}");
    output.stdout
}
