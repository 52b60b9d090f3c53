//! Promise: after each layer, the disk holds what the layers so far make together, and the same input gives the same
//! bytes.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use builder::Packing;
use oci::{ConvertError, ConvertOptions, Converted, Selection, convert};
use proptest::prelude::*;

use crate::disk;
use crate::model::{Model, Node, noise};
use oci::test_util::{Bytes, Entry, What, dir, entry, file, hard_link, opaque, symlink, whiteout};
use oci::test_util::{Wrap, archive, write_layout};

pub(crate) fn options(size_bytes: u64) -> ConvertOptions {
    ConvertOptions {
        selection: Selection::default(),
        size_bytes,
        packing: Packing {
            zfile: Some(zfile::WriterOptions::default()),
            tar: true,
            threads: 1,
        },
        replace: false,
    }
}

fn blobs(out: &Path, converted: &Converted) -> Vec<PathBuf> {
    let blob = |layer: &oci::ConvertedLayer| out.join("blobs/sha256").join(layer.digest.hex());
    converted.layers.iter().map(blob).collect()
}

/// Converts layers and compares the disk after each of them with the model.
fn check(layers: &[(Vec<Entry>, Wrap)], size_bytes: u64) {
    let work = tempfile::tempdir().unwrap();
    let (from, to) = (work.path().join("from"), work.path().join("to"));
    let archives: Vec<_> = layers
        .iter()
        .map(|(entries, how)| (archive(entries), *how))
        .collect();
    write_layout(&from, &archives);
    let converted = convert(&from, &to, &options(size_bytes), &()).unwrap();
    assert_eq!(converted.layers.len(), layers.len() + 1);
    let blobs = blobs(&to, &converted);
    let flat = work.path().join("flat");
    let mut model = Model::new();
    let has_e2fsprogs = disk::has_e2fsprogs();
    for count in 0..=layers.len() {
        if let Some((entries, _)) = count.checked_sub(1).map(|at| &layers[at]) {
            model.apply(entries);
        }
        disk::flatten(&blobs[..=count], &flat);
        let (mut expected, mut found) = (model.tree(), disk::tree(&flat));
        if has_e2fsprogs {
            disk::fsck(&flat);
            let links = disk::complete(&mut found, &flat, work.path());
            assert_eq!(links, model.links(), "after {count} layers");
        } else {
            expected.values_mut().for_each(forget);
        }
        compare(&expected, &found, count);
    }
}

/// What `ext4-view` does not tell.
fn forget(node: &mut Node) {
    node.links = 0;
    node.xattrs.clear();
    if let What::Char(major, minor) | What::Block(major, minor) = &mut node.what {
        (*major, *minor) = (0, 0);
    }
}

fn compare(expected: &BTreeMap<Bytes, Node>, found: &BTreeMap<Bytes, Node>, count: usize) {
    let names = |tree: &BTreeMap<Bytes, Node>| -> Vec<String> {
        tree.keys()
            .map(|path| path.escape_ascii().to_string())
            .collect()
    };
    assert_eq!(names(expected), names(found), "after {count} layers");
    for (path, node) in expected {
        let found = &found[path];
        let is_same = node == found;
        assert!(
            is_same,
            "after {count} layers, {}: {node:?}, not {found:?}",
            path.escape_ascii()
        );
    }
}

/// As system calls pass it. Entries without an id have one all the same, and debugfs shows 0 there.
fn acl() -> Bytes {
    [
        &[2, 0, 0, 0][..],
        &[1, 0, 7, 0, 0, 0, 0, 0],
        &[2, 0, 5, 0, 232, 3, 0, 0],
        &[4, 0, 5, 0, 0, 0, 0, 0],
        &[16, 0, 7, 0, 0, 0, 0, 0],
        &[32, 0, 4, 0, 0, 0, 0, 0],
    ]
    .concat()
}

fn sparse_looking() -> Bytes {
    let mut content = noise(1, 3 << 20);
    content[70_000..1_500_000].fill(0);
    content[2_000_000..2_000_100].fill(0);
    content.resize((3 << 20) + (1 << 20) + 77, 0);
    content
}

/// Everything that can be in a layer.
fn everything() -> Vec<(Vec<Entry>, Wrap)> {
    vec![
        (first(), Wrap::Gzip),
        (second(), Wrap::Zstd),
        (third(), Wrap::Plain),
        (Vec::new(), Wrap::Gzip),
    ]
}

fn first() -> Vec<Entry> {
    let long = "n".repeat(255);
    let target = "t/".repeat(200);
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    vec![
        dir("").mode(0o711).owner(7, 8).time(5, 0),
        dir("bin"),
        file("bin/tool", noise(2, 123_456))
            .mode(0o4755)
            .owner(1000, 100_000),
        file("bin/ping", "x")
            .mode(0o755)
            .xattr("security.capability", capability),
        hard_link("bin/tool2", "bin/tool")
            .mode(0o4755)
            .owner(1000, 100_000),
        symlink("bin/sh", "tool"),
        symlink("far", &target).owner(u32::MAX - 1, 70_000),
        file("empty", ""),
        file("deep/er/and/deeper/file", "implied directories"),
        file("sparse", sparse_looking()),
        dir("dev").mode(0o1777),
        entry("dev/null", What::Char(1, 3)).mode(0o666),
        entry("dev/large", What::Block(259, 70_000)),
        entry("dev/fifo", What::Fifo).mode(0o600),
        file(format!("dir/{long}/{long}"), "long"),
        file(b"odd/new\nline \"quoted\" \xff\xfe", "no text"),
        file(b"odd/-p <12> ", "words of debugfs"),
        file("times/fraction", "").time(1_234_567_890, 123_456_789),
        file("xattrs/small", "")
            .xattr("user.a", "b")
            .xattr("trusted.t", ""),
        file("xattrs/large", "")
            .xattr("user.large", noise(3, 3000))
            .xattr("user.b", "c"),
        file("xattrs/acl", "").xattr("system.posix_acl_access", acl()),
        dir("xattrs/default").xattr("system.posix_acl_default", acl()),
        dir("removed"),
        file("removed/a", noise(4, 10_000)),
        file("removed/b/c", "c"),
        dir("opaque"),
        file("opaque/old", "old"),
        dir("opaque/sub"),
        file("opaque/sub/old", "old"),
        file("opaque/sub2/old", "old"),
        dir("becomes-file"),
        file("becomes-file/x", "x"),
        file("becomes-dir", "file"),
        file("becomes-link", "file"),
        file("kept/1", "1"),
        dir("lib"),
        file("lib/so", "so"),
    ]
}

fn second() -> Vec<Entry> {
    vec![
        whiteout("removed"),
        opaque("opaque"),
        dir("opaque").mode(0o700),
        file("opaque/new", "new"),
        file("opaque/sub/new", "new"),
        file("becomes-file", "now a file"),
        dir("becomes-dir"),
        file("becomes-dir/x", "x"),
        symlink("becomes-link", "kept"),
        hard_link("kept/also-tool", "bin/tool")
            .mode(0o755)
            .owner(1, 2),
        file("bin/ping", "another"),
        whiteout("bin/no-such-file"),
        whiteout("no/such/directory"),
        dir("xattrs/default").mode(0o711),
        file("twice", "first"),
        file("twice", noise(5, 200_000)),
        file("twice", "last"),
        file("plain", "clean").spelled("dotted/./../plain"),
        file("absolute", "inside").spelled("/absolute"),
        file("outside", "inside").spelled("../../outside"),
        symlink("link-to-lib", "/lib"),
        file("lib/through", "lands in lib").spelled("link-to-lib/through"),
        symlink("link-around", "deep/../../../lib/../link-to-lib"),
        file("lib/around", "lands in lib").spelled("link-around/around"),
        symlink("dangling", "made/on/the/way"),
        file("made/on/the/way/file", "x").spelled("dangling/file"),
    ]
}

fn third() -> Vec<Entry> {
    vec![
        whiteout("bin/tool"),
        whiteout("bin/tool2"),
        file("removed", "is back"),
        opaque("odd"),
        whiteout("kept"),
        dir("kept"),
        file("kept/2", "2"),
        dir("").mode(0o755).time(9, 0),
    ]
}

#[test]
fn every_kind_of_member_becomes_what_it_says() {
    check(&everything(), 64 << 20);
}

#[test]
fn ten_thousand_small_files_come_and_half_of_them_go() {
    let path = |at: u64| format!("d{}/some-file-{at}", at % 7);
    let first = (0..10_000).map(|at| file(path(at), noise(at, 1 + (at % 5000) as usize)));
    let second = (0..10_000).step_by(2).map(|at| whiteout(path(at)));
    let third = (0..10_000).step_by(3).map(|at| file(path(at), "new"));
    let layers =
        [first.collect(), second.collect(), third.collect()].map(|layer| (layer, Wrap::Plain));
    check(&layers, 128 << 20);
}

#[test]
fn sparse_files_of_gnu_tar_are_read_in_all_its_forms() {
    let work = tempfile::tempdir().unwrap();
    let tree = work.path().join("tree");
    fs::create_dir(&tree).unwrap();
    let mut contents = BTreeMap::new();
    for (name, len, pieces) in [
        ("few", 20_000_000, 2),
        ("many", 9_000_000, 60),
        ("hole", 5_000_000, 0),
    ] {
        let file = fs::File::create(tree.join(name)).unwrap();
        file.set_len(len).unwrap();
        for at in 0..pieces {
            let offset = len / pieces * at + 4096 * 5;
            file.write_all_at(&noise(at + 1, 3000), offset).unwrap();
        }
        contents.insert(Bytes::from(name), fs::read(tree.join(name)).unwrap());
    }
    for form in [
        "--format=gnu",
        "--sparse-version=0.0",
        "--sparse-version=0.1",
        "--sparse-version=1.0",
    ] {
        let tar = std::process::Command::new("tar")
            .args(["--create", "--sparse", form, "few", "many", "hole"])
            .current_dir(&tree)
            .output();
        let Some(archive) = tar.ok().filter(|tar| tar.status.success()) else {
            eprintln!("SKIPPED: no GNU tar");
            return;
        };
        assert!(
            archive.stdout.len() < 1_000_000,
            "{form}: the archive is sparse"
        );
        let (from, to) = (
            work.path().join(form),
            work.path().join(format!("{form}-out")),
        );
        write_layout(&from, &[(archive.stdout, Wrap::Plain)]);
        let converted = convert(&from, &to, &options(64 << 20), &()).unwrap();
        let flat = work.path().join("flat");
        disk::flatten(&blobs(&to, &converted), &flat);
        let tree = disk::tree(&flat).into_iter();
        let files = tree.filter_map(|(path, node)| match node.what {
            What::File(content) => Some((path, content)),
            _ => None,
        });
        assert!(files.collect::<BTreeMap<_, _>>() == contents, "{form}");
    }
}

#[test]
fn times_reach_from_1901_to_2446() {
    if !disk::has_e2fsprogs() {
        return;
    }
    // Field and extension: nanoseconds, and in the lowest two bits how often 32 bits have overflowed.
    let times = [
        (-5_000, 999_999_999, "0xffffec78:ee6b27fc"),
        (-1, 0, "0xffffffff:00000000"),
        (4_000_000_000, 123_456_789, "0xee6b2800:1d6f3455"),
        (15_032_385_535, 0, "0x7fffffff:00000003"),
        (99_000_000_000, 0, "0x7fffffff:00000003"),
        (-99_000_000_000, 0, "0x80000000:00000000"),
    ];
    let entries: Vec<_> = (0..)
        .zip(times)
        .map(|(at, (seconds, nanos, _))| file(format!("{at}"), "").time(seconds, nanos))
        .collect();
    let work = tempfile::tempdir().unwrap();
    let (from, to, flat) = (
        work.path().join("from"),
        work.path().join("to"),
        work.path().join("flat"),
    );
    write_layout(&from, &[(archive(&entries), Wrap::Plain)]);
    let converted = convert(&from, &to, &options(16 << 20), &()).unwrap();
    disk::flatten(&blobs(&to, &converted), &flat);
    for (at, (seconds, _, expected)) in times.into_iter().enumerate() {
        let said = disk::debugfs(&flat, work.path(), &format!("stat /{at}\n"));
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(
            said.contains(&format!("mtime: {expected}")),
            "{seconds}: {said}"
        );
    }
}

#[test]
fn space_is_used_again_and_again() {
    // Each layer replaces a third of the disk, so that the third one begins again at its start.
    let layer = |at: u32| {
        let bytes = |seed: u32, len: u32| noise(seed.into(), len as usize);
        let small = (0..20).map(|name| {
            let content = bytes(at * 100 + name, 3000 * name);
            file(format!("d/{name}"), content)
        });
        let mut entries = vec![
            file("large", bytes(at, 5_000_000 + 4096 * at)),
            whiteout("d"),
        ];
        entries.extend(small);
        (entries, Wrap::Plain)
    };
    check(&(1..9).map(layer).collect::<Vec<_>>(), 16 << 20);
}

#[test]
fn a_small_change_makes_a_small_layer() {
    let work = tempfile::tempdir().unwrap();
    let (from, to) = (work.path().join("from"), work.path().join("to"));
    let first: Vec<_> = (0..2000)
        .map(|at| file(format!("d/{at}"), noise(at, 9000)))
        .collect();
    let archives = [
        (archive(&first), Wrap::Plain),
        (archive(&[file("d/7", "changed")]), Wrap::Plain),
        (archive(&[whiteout("d/8")]), Wrap::Plain),
    ];
    write_layout(&from, &archives);
    let converted = convert(&from, &to, &options(1 << 30), &()).unwrap();
    let changed: Vec<u64> = converted
        .layers
        .iter()
        .map(|layer| layer.changed_len_bytes)
        .collect();
    // Data, inode, directory, two bitmaps, descriptors, superblock; and the inode table or the directory once more.
    assert!(changed[1] > 2000 * 9000, "{changed:?}");
    assert!(
        changed[2] <= 10 * 4096 && changed[3] <= 10 * 4096,
        "{changed:?}"
    );
}

#[test]
fn layers_of_large_disks_are_small_and_the_base_is_shared() {
    let work = tempfile::tempdir().unwrap();
    let mut bases = Vec::new();
    for name in ["one", "other"] {
        let (from, to) = (
            work.path().join(name),
            work.path().join(format!("{name}-out")),
        );
        write_layout(&from, &[(archive(&[file(name, name)]), Wrap::Gzip)]);
        let converted = convert(&from, &to, &options(64 << 30), &()).unwrap();
        assert!(converted.layers[0].len_bytes < 200_000, "{converted:?}");
        assert!(converted.layers[1].len_bytes < 20_000, "{converted:?}");
        bases.push(converted.layers[0].digest.clone());
        if disk::has_e2fsprogs() {
            let flat = work.path().join("flat");
            disk::flatten(&blobs(&to, &converted), &flat);
            disk::fsck(&flat);
        }
    }
    assert_eq!(bases[0], bases[1]);
}

fn bytes_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut next = vec![dir.to_owned()];
    while let Some(current) = next.pop() {
        for entry in fs::read_dir(&current).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => next.push(path),
                false => {
                    let name = path.strip_prefix(dir).unwrap().to_owned();
                    found.insert(name, fs::read(path).unwrap());
                }
            }
        }
    }
    found
}

#[test]
fn the_same_image_gives_the_same_bytes_on_any_number_of_threads() {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    let layers = everything();
    let archives: Vec<_> = layers
        .iter()
        .map(|(entries, how)| (archive(entries), *how))
        .collect();
    write_layout(&from, &archives);
    let outputs = [1, 1, 2, 5].map(|threads| {
        let to = work.path().join("to");
        let mut options = options(64 << 20);
        options.packing.threads = threads;
        options.replace = true;
        convert(&from, &to, &options, &()).unwrap();
        bytes_of(&to)
    });
    // What is written is what OCI wants, and nothing else: four layers, the base, configuration and manifest.
    assert_eq!(outputs[0].len(), 2 + 5 + 2);
    assert!(outputs.iter().all(|output| *output == outputs[0]));
}

#[test]
fn images_that_begin_alike_share_their_layers() {
    let work = tempfile::tempdir().unwrap();
    let digests = [vec![], vec![file("more", "more")]].map(|more| {
        let (from, to) = (work.path().join("from"), work.path().join("to"));
        let mut layers = everything();
        layers.truncate(2);
        layers.push((more, Wrap::Plain));
        let archives: Vec<_> = layers
            .iter()
            .map(|(entries, how)| (archive(entries), *how))
            .collect();
        write_layout(&from, &archives);
        let mut options = options(64 << 20);
        options.replace = true;
        let converted = convert(&from, &to, &options, &()).unwrap();
        fs::remove_dir_all(from).unwrap();
        let digests = converted.layers.into_iter().map(|layer| layer.digest);
        digests.collect::<Vec<_>>()
    });
    assert_eq!(digests[0][..3], digests[1][..3]);
    assert_ne!(digests[0][3], digests[1][3]);
}

#[test]
fn whiteouts_hide_only_what_is_below_whatever_their_place() {
    let first = vec![
        file("a/x", "1"),
        file("a/y", "1"),
        dir("b"),
        file("b/z", "1"),
    ];
    let second = vec![
        dir("a"),
        file("a/x", "2"),
        whiteout("a/x"),
        opaque("a"),
        file("b/new", "2"),
        dir("b"),
        whiteout("b"),
    ];
    let third = vec![file("only", "3"), opaque("")];
    let work = tempfile::tempdir().unwrap();
    let (from, to) = (work.path().join("from"), work.path().join("to"));
    let archives = [first, second, third].map(|layer| (archive(&layer), Wrap::Plain));
    write_layout(&from, &archives);
    let converted = convert(&from, &to, &options(16 << 20), &()).unwrap();
    let blobs = blobs(&to, &converted);
    let names = |count: usize| -> Vec<String> {
        let flat = work.path().join("flat");
        disk::flatten(&blobs[..=count], &flat);
        let paths = disk::tree(&flat).into_keys();
        paths.map(|path| String::from_utf8(path).unwrap()).collect()
    };
    assert_eq!(names(2), ["", "a", "a/x", "b", "b/new"]);
    assert_eq!(names(3), ["", "only"]);
}

#[test]
fn an_output_is_not_replaced_unless_asked_and_never_if_it_is_something_else() {
    let work = tempfile::tempdir().unwrap();
    let (from, to) = (work.path().join("from"), work.path().join("to"));
    write_layout(&from, &[(archive(&[file("a", "a")]), Wrap::Plain)]);
    let run = |to: &Path, replace| {
        let mut options = options(16 << 20);
        options.replace = replace;
        convert(&from, to, &options, &())
    };
    run(&to, false).unwrap();
    let exists = run(&to, false).unwrap_err();
    assert!(
        exists.to_string().contains("--force replaces it"),
        "{exists}"
    );
    run(&to, true).unwrap();
    let input = run(&from, true).unwrap_err();
    assert!(input.to_string().contains("is the input"), "{input}");
    let other = work.path().join("other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("precious"), "").unwrap();
    let refused = run(&other, true).unwrap_err();
    assert!(matches!(refused, ConvertError::NotOurs { .. }), "{refused}");
    assert!(other.join("precious").exists());
    assert_eq!(
        fs::read_dir(work.path()).unwrap().count(),
        3,
        "nothing is left behind"
    );
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let path = prop::collection::vec(name, 1..4).prop_map(|parts| parts.join("/"));
    let content = prop_oneof![
        Just(Vec::new()),
        (any::<u64>(), 1_usize..200_000).prop_map(|(seed, len)| noise(seed, len)),
        (1_usize..300_000).prop_map(|len| vec![0; len]),
    ];
    let what = prop_oneof![
        3 => Just(What::Dir),
        4 => content.prop_map(What::File),
        2 => Just(What::Whiteout),
        1 => Just(What::Opaque),
        1 => Just(What::Fifo),
        1 => (0_u32..4096, 0_u32..1 << 20).prop_map(|(major, minor)| What::Char(major, minor)),
        2 => Just(What::HardLink(Vec::new())),
    ];
    let one = (path, what, 0_u32..0o10000, any::<u16>(), 0_usize..5).prop_map(
        |(path, what, mode, id, attributes)| {
            let mut made = entry(path, what)
                .mode(mode)
                .owner(id.into(), u32::from(id) * 60_000);
            for at in 0..attributes {
                made = made.xattr(&format!("user.x{at}"), noise(at as u64, at * 13));
            }
            made
        },
    );
    prop::collection::vec(one, 0..25)
}

/// Takes out what means different things to different readers, and gives hard links targets that exist.
fn sensible(layers: Vec<Vec<Entry>>) -> Vec<(Vec<Entry>, Wrap)> {
    let mut model = Model::new();
    let mut kept = Vec::new();
    for layer in layers {
        // Whiteouts come first, as builders write them.
        let (hiding, giving): (Vec<_>, Vec<_>) = layer
            .into_iter()
            .partition(|entry| matches!(entry.what, What::Whiteout | What::Opaque));
        let mut layer = Vec::new();
        for mut entry in hiding.into_iter().chain(giving) {
            let mut now = model.clone();
            now.apply(&layer);
            let tree = now.tree();
            if let What::HardLink(target) = &mut entry.what {
                let is_file = |node: &Node| matches!(node.what, What::File(_) | What::Fifo);
                let other = tree.iter().find(|(path, node)| {
                    is_file(node) && !path.starts_with(&entry.path) && !entry.path.starts_with(path)
                });
                match other {
                    Some((path, _)) => *target = path.clone(),
                    None => continue,
                }
            }
            let mut above = oci::test_util::split(&entry.path).0;
            let mut fits = true;
            while !above.is_empty() {
                fits &= tree.get(above).is_none_or(|node| node.what == What::Dir);
                above = oci::test_util::split(above).0;
            }
            if fits {
                layer.push(entry);
            }
        }
        model.apply(&layer);
        kept.push((layer, Wrap::Plain));
    }
    kept
}

/// Takes bytes of an archive for others, and makes the checksums right again.
fn damage(archive: &mut [u8], changes: &[(usize, u8)]) {
    for (at, byte) in changes {
        let at = at % archive.len().max(1);
        if let Some(there) = archive.get_mut(at) {
            *there = *byte;
        }
    }
    for block in archive
        .chunks_exact_mut(512)
        .filter(|block| &block[257..262] == b"ustar")
    {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn damaged_archives_are_refused_or_make_sound_disks(
        layer in entries(),
        changes in prop::collection::vec((any::<usize>(), any::<u8>()), 1..20),
        in_headers in any::<bool>(),
    ) {
        let layers = sensible(vec![layer]);
        let mut bytes = archive(&layers[0].0);
        let mut changes = changes;
        if in_headers {
            // Most bytes are content; fields of headers are more telling.
            changes.iter_mut().for_each(|(at, _)| *at = *at / 512 * 512 + *at % 350);
        }
        damage(&mut bytes, &changes);
        let work = tempfile::tempdir().unwrap();
        let (from, to) = (work.path().join("from"), work.path().join("to"));
        write_layout(&from, &[(bytes, Wrap::Plain)]);
        if let Ok(converted) = convert(&from, &to, &options(16 << 20), &()) {
            let flat = work.path().join("flat");
            disk::flatten(&blobs(&to, &converted), &flat);
            if disk::has_e2fsprogs() {
                disk::fsck(&flat);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn any_layers_make_the_tree_of_the_model(layers in prop::collection::vec(entries(), 1..5)) {
        check(&sensible(layers), 32 << 20);
    }
}
