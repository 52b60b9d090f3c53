//! Promise: what the tools that made the format have written is good and is counted as they count it; what has been
//! damaged is found.
//!
//! The sets are not part of the repository. They are looked for in the directory `VBD_GOLDENS`, else in
//! `shared/goldens` beside the checkout; where there are none, the tests say so and pass.
#![expect(
    clippy::unwrap_used,
    reason = "tests fail by panicking, and so do their helpers"
)]

use std::io::Write;
use std::path::{Path, PathBuf};

use builder::{Survey, Verdict, VerifyOptions, verify};
use serde_json::Value;

fn goldens() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens");
    let dir = std::env::var_os("VBD_GOLDENS").map_or(beside, PathBuf::from);
    if dir.is_dir() {
        return Some(dir);
    }
    let skipped = format!("SKIPPED: no golden files in {}\n", dir.display());
    std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    None
}

fn manifest(set: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(set.join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn sound_stacks_are_good_and_their_numbers_are_those_of_the_reference() {
    let Some(goldens) = goldens() else { return };
    let mut stacks = 0;
    for set in std::fs::read_dir(goldens).unwrap() {
        let set = set.unwrap().path();
        if !set.join("manifest.json").is_file() {
            continue;
        }
        let manifest = manifest(&set);
        let Some(layers) = manifest["layers"].as_array() else {
            continue;
        };
        let file = |layer: &Value| set.join(layer["file"].as_str().unwrap());
        let paths: Vec<_> = layers.iter().map(file).collect();
        let found = verify(&paths, &VerifyOptions::default(), &());
        assert_eq!(found.verdict, Verdict::Good, "{}: {found:?}", set.display());
        assert_eq!(found.stack_error, None);

        let survey = Survey::of(&paths);
        assert!(survey.is_sound());
        let disk = survey.disk.unwrap();
        if let Some(entries) = manifest["oracle"]["merged_index_entries"].as_u64() {
            let size = |layer: &Value| layer["virtual_size"].as_u64();
            let differ = layers
                .windows(2)
                .any(|pair| size(&pair[0]) != size(&pair[1]));
            // What lies beyond the end of the disk, the reference keeps and we do not.
            let is_right = match differ {
                true => disk.segment_count as u64 <= entries,
                false => disk.segment_count as u64 == entries,
            };
            assert!(
                is_right,
                "{}: {} segments",
                set.display(),
                disk.segment_count
            );
        }
        for (layer, expected) in survey.layers.iter().zip(layers) {
            let facts = layer.facts.as_ref().unwrap();
            assert_eq!(facts.file_len_bytes, expected["size"].as_u64().unwrap());
            assert_eq!(
                facts.lsmt.segment_count as u64,
                expected["index_entries_valid"].as_u64().unwrap()
            );
            let block_size = facts
                .zfile
                .as_ref()
                .map(|it| u64::from(it.block_size_bytes));
            assert_eq!(block_size, expected["zfile_block_size"].as_u64());
        }
        stacks += 1;
    }
    assert!(stacks > 5, "{stacks} stacks");
}

/// What reads right although something about it is odd, or is protected by nothing.
const GOOD: [&str; 14] = [
    "good-lsmt",
    "good-zfile",
    "good-zfile-traileronly",
    "good-zfile-nocrc",
    "good-tar-zfile",
    // Nothing guards these bytes.
    "znv-block-bitflip",
    // The size of the disk is to come from a layer below.
    "l-vsize-0",
    "l-header-vsize-differs",
    "l-entry-beyond-vsize",
    "l-tag-77",
    "l-index-size-0",
    "l-size-field-0",
    "t-trunc-eof-blocks",
    "t-ustar-raw",
];

#[test]
fn every_damaged_layer_is_found() {
    let Some(goldens) = goldens() else { return };
    let set = goldens.join("H-corrupted");
    let manifest = manifest(&set);
    let cases = manifest["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 90);
    for case in cases {
        let name = case["case"].as_str().unwrap();
        let path = set.join(case["file"].as_str().unwrap());
        let found = verify(&[path], &VerifyOptions::default(), &());
        let expected = match GOOD.contains(&name) {
            true => Verdict::Good,
            false => Verdict::Damaged,
        };
        assert_eq!(found.verdict, expected, "{name}: {found:?}");
        let suggested = case["suggested"].as_str().unwrap();
        if found.verdict == Verdict::Good && name != "l-vsize-0" {
            assert!(!suggested.starts_with("reject at"), "{name}: {suggested}");
        }
    }
}
