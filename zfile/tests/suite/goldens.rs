//! Promise: files made by the tools that made the format are read right, sound or damaged as they come.
//!
//! The files are not part of the repository. They are looked for in the directory `VBD_GOLDENS`, else in
//! `shared/goldens` beside the checkout; where there are none, the tests say so and pass.

use std::io::Write;
use std::path::{Path, PathBuf};

use blob::{FileBlob, ReadAt};
use zfile::{Algorithm, OpenError, Place, Scratch, Writer, WriterOptions, ZFile};

use crate::support::{chain, read_all};

fn goldens() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens");
    let dir = std::env::var_os("VBD_GOLDENS").map_or(beside, PathBuf::from);
    if dir.is_dir() {
        return Some(dir);
    }
    // Past the macros for printing, whose output the test harness swallows.
    let skipped = format!(
        "SKIPPED: no golden files in {}
",
        dir.display()
    );
    std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    None
}

fn open(path: &Path) -> Result<ZFile<FileBlob>, OpenError> {
    ZFile::open(FileBlob::open(path).unwrap())
}

fn read(path: &Path) -> Vec<u8> {
    let zfile = open(path).unwrap_or_else(|e| panic!("{}: {}", path.display(), chain(&e)));
    read_all(&zfile).unwrap_or_else(|e| panic!("{}: {}", path.display(), chain(&e)))
}

/// Whether the content is a whole layer: its header at the start, its trailer at the end.
fn is_layer(content: &[u8]) -> bool {
    let magic = b"LSMT\x00\x01\x02\x00";
    content.starts_with(magic) && content[content.len() - 4096..].starts_with(magic)
}

#[test]
fn every_sound_file_is_read_to_its_end() {
    let Some(goldens) = goldens() else { return };
    let mut files = 0;
    for set in std::fs::read_dir(goldens).unwrap() {
        for file in std::fs::read_dir(set.unwrap().path()).into_iter().flatten() {
            let path = file.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "zfile")
            {
                assert!(
                    open(&path).unwrap().info().warnings.is_empty(),
                    "{}",
                    path.display()
                );
                assert!(is_layer(&read(&path)), "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files > 0);
}

#[test]
fn blocks_that_the_reference_cannot_read_back_are_read() {
    let Some(goldens) = goldens() else { return };
    let set = goldens.join("X3-64k-expanding-blocks");
    let contents = ["0.zfile", "1.zfile", "2.zfile"].map(|name| read(&set.join(name)));
    assert!(contents.iter().all(|content| *content == contents[0]));
    assert_eq!(
        open(&set.join("0.zfile")).unwrap().info().block_size_bytes,
        65_536
    );
}

#[test]
fn base_layer_of_2021_is_read() {
    let Some(goldens) = goldens() else { return };
    let zfile = open(&goldens.join("X6-real-base-ext4_64-2021/0.zfile")).unwrap();
    let info = zfile.info();
    assert_eq!(info.algorithm, Algorithm::Lz4);
    assert_eq!(info.index_source, Place::Trailer);
    assert_eq!(info.original_len_bytes, 541_937_664);
    assert!(!info.has_digest);
    let mut scratch = Scratch::default();
    let mut tail = [0; 4096];
    zfile
        .read_exact_at_with(&mut scratch, &mut tail, info.original_len_bytes - 4096)
        .unwrap();
    assert!(tail.starts_with(b"LSMT"));
}

/// What a damaged file must do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Be read as if it were sound, with or without a warning.
    Right,
    /// Not be opened.
    Refused,
    /// Open, fail where the damage is, and be right everywhere else.
    Fails,
}

const DAMAGED: [(&str, Fate); 40] = [
    ("good-zfile", Fate::Right),
    ("good-zfile-traileronly", Fate::Right),
    ("good-zfile-nocrc", Fate::Right),
    ("z-trunc-1byte", Fate::Right),
    ("z-bad-trailer", Fate::Right),
    ("z-nodigest-flag", Fate::Right),
    ("z-trunc-index", Fate::Refused),
    ("z-trunc-half", Fate::Refused),
    ("z-trunc-300", Fate::Refused),
    ("z-empty", Fate::Refused),
    ("zt-trunc-1byte", Fate::Refused),
    ("z-bad-magic0", Fate::Refused),
    ("z-bad-magic1", Fate::Refused),
    ("z-bad-header-digest", Fate::Refused),
    ("z-bad-header-padding", Fate::Refused),
    ("zt-bad-trailer-digest", Fate::Refused),
    ("zt-bad-trailer-orig-size", Fate::Refused),
    ("z-index-bitflip", Fate::Refused),
    ("z-jump-zero", Fate::Refused),
    ("z-jump-four", Fate::Refused),
    ("z-jump-huge", Fate::Refused),
    ("z-jump-too-long", Fate::Refused),
    ("z-index-short", Fate::Refused),
    ("z-index-offset-eof", Fate::Refused),
    ("z-index-size-huge", Fate::Refused),
    ("z-bs-0", Fate::Refused),
    ("z-bs-1m", Fate::Refused),
    ("z-bs-odd", Fate::Refused),
    ("z-bs-double", Fate::Refused),
    ("z-algo-9", Fate::Refused),
    ("z-algo-0", Fate::Refused),
    ("z-orig-size-more", Fate::Refused),
    ("z-orig-size-less", Fate::Refused),
    ("z-dict-size", Fate::Refused),
    ("z-flag-index-compressed", Fate::Refused),
    ("z-jump-swapped", Fate::Fails),
    ("z-block-bitflip", Fate::Fails),
    ("z-block-crcfield", Fate::Fails),
    ("z-block-garbage-goodcrc", Fate::Fails),
    ("z-block-short-output", Fate::Fails),
];

#[test]
fn damaged_files_meet_their_fate() {
    let Some(goldens) = goldens() else { return };
    let set = goldens.join("H-corrupted");
    let content = std::fs::read(set.join("good-lsmt.blob")).unwrap();
    for (name, fate) in DAMAGED {
        let found = match open(&set.join(format!("{name}.blob"))) {
            Err(OpenError::Read(error)) => panic!("{name}: {error}"),
            Err(_) => Fate::Refused,
            Ok(zfile) => {
                assert_eq!(zfile.len_bytes(), content.len() as u64, "{name}");
                fate_of_open(name, &zfile, &content)
            }
        };
        assert!(found == fate, "{name}");
    }
}

fn fate_of_open(name: &str, zfile: &ZFile<FileBlob>, content: &[u8]) -> Fate {
    let mut fate = Fate::Right;
    for (block, expected) in content.chunks(4096).enumerate() {
        let mut found = vec![0; expected.len()];
        match zfile.read_exact_at(&mut found, (block * 4096) as u64) {
            Ok(()) => assert!(found == expected, "{name}, block {block}: wrong bytes"),
            Err(_) => fate = Fate::Fails,
        }
    }
    fate
}

/// Longest content that is compressed again here.
const AGAIN_MAX_BYTES: u64 = 32 << 20;

#[test]
fn blocks_are_not_longer_than_those_of_the_tools_that_made_the_format() {
    let Some(goldens) = goldens() else { return };
    let mut files = 0;
    for set in [
        "B-ext4-7layers",
        "X2-top-vsize-0",
        "X3-64k-expanding-blocks",
        "X5-merged",
    ] {
        for file in std::fs::read_dir(goldens.join(set)).unwrap() {
            let path = file.unwrap().path();
            if path
                .extension()
                .is_none_or(|extension| extension != "zfile")
            {
                continue;
            }
            let zfile = open(&path).unwrap();
            let info = zfile.info();
            if info.algorithm != Algorithm::Lz4 || info.original_len_bytes > AGAIN_MAX_BYTES {
                continue;
            }
            let options = WriterOptions {
                block_size_bytes: info.block_size_bytes,
                verify: info.verify,
                allow_oversized_blocks: true,
                ..WriterOptions::default()
            };
            let mut writer = Writer::new(Vec::new(), options).unwrap();
            writer.append(&read(&path)).unwrap();
            let ours = writer.finish().unwrap().len() as u64;
            let theirs = zfile.source().len_bytes();
            assert!(ours <= theirs, "{}: {ours} > {theirs}", path.display());
            files += 1;
        }
    }
    assert!(files > 0);
}
