//! Promise: layers of the reference tools merge and commit to layers that read as the reference reads them, and what the
//! reference has committed is committed to the same bytes.
//!
//! Needs the golden layer stacks: `VBD_GOLDENS`, else `../shared/goldens` beside the workspace. Without them every
//! test says so and passes.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use blob::ReadAt;
use builder::{Commit, LayerOptions, Merge, Packing};
use image::Image;
use lsmt::HeaderForm;
use sha2::{Digest, Sha256};

use super::support::{Files, read};

/// The folder of one set, if there is one, its layers, and the digest of the disk they make.
fn set(name: &str) -> Option<(Vec<PathBuf>, String)> {
    let folder = std::env::var_os("VBD_GOLDENS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens"),
        PathBuf::from,
    );
    let set = folder.join(name);
    if !set.is_dir() {
        let notice = format!("SKIPPED: no golden layers at {}\n", set.display());
        io::stderr().write_all(notice.as_bytes()).unwrap();
        return None;
    }
    let manifest = fs::read_to_string(set.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let digest = manifest.pointer("/oracle/device_sha256");
    let layers = manifest.get("layers").and_then(serde_json::Value::as_array);
    let file = |layer: &serde_json::Value| set.join(layer["file"].as_str().unwrap());
    let layers = layers.unwrap().iter().map(file).collect();
    Some((layers, digest.unwrap().as_str().unwrap().to_owned()))
}

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[test]
fn merged_stacks_read_like_the_reference() {
    for name in [
        "B-ext4-7layers",
        "D-uncompressed-mixed",
        "I-many-layers-100",
        "X5-merged",
        "X1-mixed-vsize",
    ] {
        let Some((layers, digest)) = set(name) else {
            return;
        };
        let files = Files::new();
        for packing in [None, Some(zfile::WriterOptions::default())] {
            let merge = Merge::open(&layers, 0..=layers.len() - 1).unwrap();
            let packing = Packing {
                zfile: packing,
                ..Packing::default()
            };
            let options = LayerOptions::new(packing, merge.virtual_size_bytes);
            merge.write(files.output("merged"), &options, &()).unwrap();
            assert_eq!(hex_sha256(&read(&[files.path("merged")])), digest, "{name}");
        }
        // The middle of the stack, in its place.
        if let [lowest, .., highest] = &*layers {
            let middle = 1..=layers.len() - 2;
            let merge = Merge::open(&layers, middle).unwrap();
            let options = LayerOptions::new(Packing::default(), merge.virtual_size_bytes);
            merge.write(files.output("middle"), &options, &()).unwrap();
            let stack = [lowest.clone(), files.path("middle"), highest.clone()];
            assert_eq!(hex_sha256(&read(&stack)), digest, "{name}");
        }
    }
}

/// The plain bytes of a layer, if it was committed.
fn committed(path: &Path) -> Option<Vec<u8>> {
    let image = Image::open_with_len(&[path], 1 << 40).unwrap();
    let layer = &image.disk().layers()[0];
    if layer.info().header_form != HeaderForm::Committed {
        return None;
    }
    let source = layer.source();
    let mut bytes = vec![0; usize::try_from(source.len_bytes()).unwrap()];
    source.read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}

#[test]
fn what_the_reference_has_committed_is_committed_to_the_same_bytes() {
    let sets = [
        "A-tiny-1",
        "B-ext4-7layers",
        "C-ext4-tar-mixed",
        "X4-empty-layers",
    ];
    let mut compared = 0;
    for name in sets {
        let Some((layers, _)) = set(name) else { return };
        for path in layers {
            let Some(before) = committed(&path) else {
                continue;
            };
            compared += 1;
            let commit = Commit::open_file(&path).unwrap();
            let mut options = LayerOptions::new(Packing::default(), commit.virtual_size_bytes);
            options.header = lsmt::WriterOptions {
                uuid: commit.uuid,
                parent_uuid: commit.parent_uuid,
                user_tag: commit.user_tag.clone(),
                pad_data: false,
                avoid_empty_index: false,
                ..options.header
            };
            let files = Files::new();
            commit.write(files.output("out"), &options, &()).unwrap();
            let after = fs::read(files.path("out")).unwrap();
            let differs = before.iter().zip(&after).position(|(a, b)| a != b);
            assert_eq!(differs, None, "{}", path.display());
            assert_eq!(before.len(), after.len(), "{}", path.display());
        }
    }
    assert!(compared > 10, "{compared} layers");
}
