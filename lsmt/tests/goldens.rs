//! Promise: what the reference tools wrote reads as the reference reads it, and what is no sound layer is refused.
//!
//! Needs the golden layer stacks: `VBD_GOLDENS`, else `../shared/goldens` beside the workspace. Without them every
//! test says so and passes.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use blob::{FileBlob, ReadAt};
use lsmt::{Disk, Feature, HeaderForm, Kind, Layer, OpenError, Uuid, Writer, WriterOptions, probe};
use sha2::{Digest, Sha256};

/// The folder of one set, if there is one.
fn set(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("VBD_GOLDENS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens"),
        PathBuf::from,
    );
    let set = folder.join(name);
    if !set.is_dir() {
        // Not by `eprintln`, which a passing test keeps to itself.
        let notice = format!(
            "SKIPPED: no golden layers at {}
",
            set.display()
        );
        io::stderr().write_all(notice.as_bytes()).unwrap();
        return None;
    }
    Some(set)
}

fn open(path: PathBuf) -> Result<Layer<FileBlob>, OpenError> {
    Layer::open(FileBlob::open(&path).unwrap())
}

fn sha256(source: &impl ReadAt, offset: u64, len: usize) -> String {
    let mut bytes = vec![0; len];
    source.read_exact_at(&mut bytes, offset).unwrap();
    Sha256::digest(&bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })
}

/// The first value of `key` in a manifest behind byte `from`: a string or a number, whose form is known here.
fn value<'a>(json: &'a str, key: &str) -> &'a str {
    let (_, rest) = json.split_once(&format!("\"{key}\":")).unwrap();
    rest.trim_start()
        .split([',', '\n', '}'])
        .next()
        .unwrap()
        .trim()
        .trim_matches('"')
}

fn number(json: &str, key: &str) -> u64 {
    value(json, key).parse().unwrap()
}

fn reads_like_the_reference(name: &str, form: HeaderForm) {
    let Some(set) = set(name) else { return };
    let manifest = fs::read_to_string(set.join("manifest.json")).unwrap();
    let layer = open(set.join("0.lsmt")).unwrap();
    let info = layer.info().clone();
    assert_eq!(info.header_form, form);
    assert_eq!(info.uuid.to_string(), value(&manifest, "uuid"));
    assert_eq!(info.warnings, []);
    let disk = Disk::new(vec![layer]).unwrap();
    let size = number(&manifest, "virtual_size");
    assert_eq!(disk.len_bytes(), size);
    assert_eq!(
        disk.segment_count() as u64,
        number(&manifest, "merged_index_entries")
    );
    let whole = sha256(&disk, 0, usize::try_from(size).unwrap());
    assert_eq!(whole, value(&manifest, "device_sha256"));

    let (_, ranges) = manifest.split_once("\"ranges\"").unwrap();
    let (ranges, _) = ranges.split_once(']').unwrap();
    let ranges: Vec<&str> = ranges.split('{').skip(1).collect();
    assert!(!ranges.is_empty());
    for range in ranges {
        let len = usize::try_from(number(range, "length")).unwrap();
        assert_eq!(
            sha256(&disk, number(range, "offset"), len),
            value(range, "sha256")
        );
    }
}

#[test]
fn layer_sealed_in_place_reads_like_the_reference() {
    reads_like_the_reference("A-tiny-1", HeaderForm::SealedInPlace);
}

#[test]
fn disk_of_odd_size_reads_like_the_reference() {
    reads_like_the_reference("A-tiny-2-odd-vsize", HeaderForm::Committed);
}

/// Writes the records of a committed layer again, one by one.
fn rewritten(bytes: &[u8], layer: &Layer<FileBlob>) -> Vec<u8> {
    let info = layer.info();
    let options = WriterOptions {
        virtual_size_bytes: info.virtual_size_bytes,
        uuid: Uuid::from_text(*info.uuid.as_bytes().first_chunk().unwrap()),
        parent_uuid: Uuid::from_text(*info.parent_uuid.as_bytes().first_chunk().unwrap()),
        user_tag: info.user_tag.clone(),
        avoid_empty_index: false,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    let index = &bytes[usize::try_from(info.index_offset).unwrap()..];
    for record in index.chunks_exact(16).take(info.segment_count) {
        let word = |at: usize| u64::from_le_bytes(*record[at..].first_chunk().unwrap());
        let (first, len) = (word(0) & ((1 << 50) - 1), word(0) >> 50);
        if word(8) >> 55 & 1 == 1 {
            writer.zeroed(first, len).unwrap();
        } else {
            let mapped = usize::try_from(word(8) & ((1 << 55) - 1)).unwrap() * 512;
            let data = &bytes[mapped..mapped + usize::try_from(len).unwrap() * 512];
            writer.data(first, data).unwrap();
        }
    }
    writer.finish().unwrap()
}

#[test]
fn committed_layers_are_written_again_byte_for_byte() {
    let mut same = 0;
    for name in [
        "A-tiny-2-odd-vsize",
        "D-uncompressed-mixed",
        "I-many-layers-255",
    ] {
        let Some(set) = set(name) else { return };
        for entry in fs::read_dir(set).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_none_or(|extension| extension != "lsmt") {
                continue;
            }
            let layer = open(path.clone()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            if layer.info().header_form == HeaderForm::Committed {
                let bytes = fs::read(&path).unwrap();
                assert!(rewritten(&bytes, &layer) == bytes, "{}", path.display());
                same += 1;
            }
        }
    }
    assert!(same > 3, "{same} committed layers");
}

#[test]
fn damaged_layers_are_refused_or_read_right() {
    let Some(set) = set("H-corrupted") else {
        return;
    };
    let manifest = fs::read_to_string(set.join("manifest.json")).unwrap();
    let good = value(&manifest, "good_device_sha256").to_owned();
    let (mut refused, mut right) = (0, 0);
    for case in manifest.split("\"case\":").skip(1) {
        let (file, suggested) = (value(case, "file"), value(case, "suggested"));
        if !file.starts_with("l-") && file != "good-lsmt.blob" {
            continue;
        }
        // The one layer of a set of size 0 is refused as a stack, not as a layer.
        let disk = open(set.join(file))
            .ok()
            .and_then(|layer| Disk::new(vec![layer]).ok());
        let Some(disk) = disk else {
            assert!(!suggested.starts_with("accept"), "{file}: {suggested}");
            refused += 1;
            continue;
        };
        assert!(
            !suggested.starts_with("reject at open"),
            "{file}: {suggested}"
        );
        let found = sha256(&disk, 0, 1 << 20);
        if file == "l-index-size-0.blob" {
            let zeroes = blob::MemoryBlob::new(vec![0; 1 << 20]);
            assert_eq!(found, sha256(&zeroes, 0, 1 << 20), "{file}");
        } else {
            assert_eq!(found, good, "{file}");
        }
        right += 1;
    }
    assert!(refused >= 20 && right >= 3);
}

#[test]
fn turbo_oci_layer_is_refused_by_name() {
    let Some(set) = set("G1-turboOCI") else {
        return;
    };
    let error = open(set.join("0.turbo")).unwrap_err();
    assert!(
        matches!(error, OpenError::Unsupported(Feature::TurboOci)),
        "{error}"
    );
    assert!(error.to_string().contains("turboOCI"), "{error}");
}

#[test]
fn read_write_files_are_refused_by_name() {
    let Some(set) = set("G2-rw-unsealed") else {
        return;
    };
    let error = open(set.join("writable_data")).unwrap_err();
    assert!(
        matches!(error, OpenError::Unsupported(Feature::Unsealed)),
        "{error}"
    );
    assert!(error.to_string().contains("never sealed"), "{error}");
    let error = open(set.join("writable_index")).unwrap_err();
    assert!(
        matches!(error, OpenError::Unsupported(Feature::IndexFile)),
        "{error}"
    );
    let head = fs::read(set.join("writable_index")).unwrap();
    assert_eq!(probe(&head), Some(Kind::IndexFile));
}
