//! Promise: an OCI image that was converted is, in a real Linux guest, the file system that its layers make together.

use std::collections::BTreeMap;

use builder::Packing;
use oci::test_util::{
    Entry, What, Wrap, archive, dir, entry, file, hard_link, opaque, symlink, whiteout,
    write_layout,
};
use oci::{ConvertOptions, Selection, convert};
use vm_tests::daemon::Backend;
use vm_tests::linux::{Boot, Report, Task};
use vm_tests::qemu;
use vm_tests::requirement::or_skip;
use vm_tests::stack::{DISK_BYTES, Random, Stack, sha256};

const TIME: i64 = 1_600_000_000;

/// Layers as builders make them, with something of everything.
fn layers() -> Vec<Vec<Entry>> {
    let noise = |seed, size| Random::new(seed).bytes(size);
    // A hole, and content behind it.
    let mut sparse = noise(3, 300_000);
    sparse[70_000..250_000].fill(0);
    let many = (0..400).map(|at| file(format!("many/file-{at}"), noise(at + 10, 100)));
    let mut first = vec![
        dir("").mode(0o755).time(TIME, 0),
        dir("bin"),
        file("bin/tool", noise(1, 1_000_003))
            .mode(0o4755)
            .owner(1000, 100_000),
        hard_link("bin/same", "bin/tool")
            .mode(0o4755)
            .owner(1000, 100_000),
        symlink("bin/link", "tool"),
        symlink("long-link", "t/".repeat(100)),
        file("sparse", sparse),
        dir("dev").mode(0o1777),
        entry("dev/zero", What::Char(1, 5)).mode(0o666),
        entry("dev/large", What::Block(259, 70_000)).mode(0o600),
        entry("dev/pipe", What::Fifo).mode(0o640),
        dir("gone"),
        file("gone/a", "a"),
        dir("veiled"),
        file("veiled/old", "old"),
        file("past", "").time(-1_000_000, 0),
        file("future", "").time(8_000_000_000, 0),
        dir("many"),
    ];
    first.extend(many);
    let second = vec![
        whiteout("gone"),
        opaque("veiled"),
        file("veiled/new", noise(4, 5000)),
        file("bin/tool", "replaced").mode(0o755),
        whiteout("many/file-7"),
        file("many/file-8", noise(5, 70_000)),
    ];
    let third = vec![
        file("gone", "a file now"),
        dir("veiled").mode(0o700).owner(7, 7),
    ];
    vec![first, second, third]
}

/// What `stat` prints of an entry.
fn node(entry: &Entry, links: u32) -> String {
    let (kind, device) = match entry.what {
        What::Dir => (0o040_000, (0, 0)),
        What::Symlink(_) => (0o120_000, (0, 0)),
        What::Char(major, minor) => (0o020_000, (major, minor)),
        What::Block(major, minor) => (0o060_000, (major, minor)),
        What::Fifo => (0o010_000, (0, 0)),
        _ => (0o100_000, (0, 0)),
    };
    let Entry { mode, uid, gid, .. } = entry;
    let (mode, seconds) = (kind | mode, entry.mtime.0);
    format!(
        "{mode:x} {uid} {gid} {links} {:x}:{:x} {seconds}",
        device.0, device.1
    )
}

/// What the guest must see: digests of files, targets of links, and what `stat` prints.
struct Expected {
    files: Vec<(String, String)>,
    links: BTreeMap<String, String>,
    nodes: BTreeMap<String, String>,
}

fn expected(layers: &[Vec<Entry>]) -> Expected {
    let gone = [
        "bin/tool",
        "gone",
        "gone/a",
        "veiled",
        "veiled/old",
        "many/file-7",
        "many/file-8",
    ];
    let is_gone = |entry: &&Entry| gone.iter().any(|path| entry.path == path.as_bytes());
    let is_there = |entry: &&Entry| !matches!(entry.what, What::Whiteout | What::Opaque);
    let first = layers[0].iter().filter(|entry| !is_gone(entry));
    let above = layers[1..].iter().flatten().filter(is_there);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let tool = layers[0].iter().find(|entry| entry.path == b"bin/tool");
    let mut expected = Expected {
        files: Vec::new(),
        links: BTreeMap::new(),
        nodes: BTreeMap::new(),
    };
    for entry in first.chain(above) {
        let path = format!("/{}", text(&entry.path));
        let subdirectories = match path.as_str() {
            "/" => 4,
            _ => 0,
        };
        let links = match &entry.what {
            What::Dir => 2 + subdirectories,
            _ => 1,
        };
        match &entry.what {
            What::File(content) => expected.files.push((path.clone(), sha256(content))),
            What::Symlink(target) => drop(expected.links.insert(path.clone(), text(target))),
            What::HardLink(_) => {
                if let Some(What::File(content)) = tool.map(|tool| &tool.what) {
                    expected.files.push((path.clone(), sha256(content)));
                }
            }
            _ => {}
        }
        expected.nodes.insert(path, node(entry, links));
    }
    expected
}

#[test]
fn linux_sees_the_files_of_a_converted_image() -> anyhow::Result<()> {
    or_skip(|| {
        let dir = tempfile::tempdir()?;
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        let layers = layers();
        let wraps = [Wrap::Gzip, Wrap::Zstd, Wrap::Plain];
        let archives: Vec<_> = layers
            .iter()
            .map(|layer| archive(layer))
            .zip(wraps)
            .collect();
        write_layout(&from, &archives);
        let options = ConvertOptions {
            selection: Selection::default(),
            size_bytes: DISK_BYTES,
            packing: Packing {
                zfile: Some(zfile::WriterOptions::default()),
                tar: true,
                threads: 0,
            },
            replace: false,
        };
        let converted = convert(&from, &to, &options, &())?;
        let blobs = to.join("blobs/sha256");
        let expected = expected(&layers);
        let stack = Stack {
            layers: converted
                .layers
                .iter()
                .map(|layer| blobs.join(layer.digest.hex()))
                .collect(),
            flat: dir.path().join("there is none"),
            files: expected.files,
            links: Vec::new(),
        };
        let backend = Backend::vbd_vhost(&stack.layers)?;
        let boot = Boot {
            queues: 1,
            task: Task::Check,
        };
        let report = Report::collect(qemu::linux(backend.socket(), &boot, dir.path())?)?;
        report.check_files(&stack)?;
        anyhow::ensure!(report.links == expected.links, "{:?}", report.links);
        for (path, node) in &expected.nodes {
            let seen = report.nodes.get(path);
            anyhow::ensure!(seen == Some(node), "{path} is {seen:?}, not {node}");
        }
        let extra = report
            .nodes
            .keys()
            .find(|path| !expected.nodes.contains_key(*path));
        anyhow::ensure!(extra.is_none(), "what is {extra:?}");
        backend.stop()
    })
}
