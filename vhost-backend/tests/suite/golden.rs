//! Promise: layer stacks made by the reference tools read through the socket with the digests the reference computed.
//!
//! The stacks are not part of this repository: they are looked for in `VBD_GOLDENS`, or in `shared/goldens` beside the
//! repository, and the test says aloud when they are not there.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::Image;
use serde_json::Value;
use sha2::{Digest, Sha256};
use vhost_backend::device::Device;
use vhost_backend::limits::DeviceLimits;
use vm_memory::{Bytes, GuestAddress};

use crate::support::driver::{Driver, OK, WRITE};
use crate::support::guest::BUFFERS;
use crate::support::serve;

/// Whole devices up to this size are read through the ring; of larger ones, the ranges the manifest names.
const WHOLE_MAX_BYTES: u64 = 512 << 20;
const PIECE: u32 = 4 << 20;
const DATA: u64 = BUFFERS + 0x1000;

fn goldens() -> Option<PathBuf> {
    let dir = std::env::var_os("VBD_GOLDENS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens"),
        PathBuf::from,
    );
    if dir.is_dir() {
        return Some(dir);
    }
    // Past the capture of the test runner, which would hide it.
    let mut terminal = std::io::stderr().lock();
    writeln!(
        terminal,
        "SKIPPED: golden layer stacks through the socket: {} is not there",
        dir.display()
    )
    .unwrap();
    None
}

fn read_into(driver: &mut Driver, sector: u64, len: u32) -> Vec<u8> {
    driver.header(BUFFERS, 0, sector);
    driver.chain(
        0,
        0,
        &[
            (BUFFERS, 16, 0),
            (DATA, len, WRITE),
            (BUFFERS + 0x100, 1, WRITE),
        ],
    );
    let done = driver.run(0, 0);
    assert_eq!(
        (driver.bytes(BUFFERS + 0x100, 1)[0], done.used_len),
        (OK, len + 1),
        "sector {sector}"
    );
    let mut bytes = vec![0; len as usize];
    driver
        .guest
        .memory
        .read_slice(&mut bytes, GuestAddress(DATA))
        .unwrap();
    bytes
}

fn digest(driver: &mut Driver, offset: u64, len: u64) -> String {
    let mut hash = Sha256::new();
    let (mut sector, end) = (offset / 512, (offset + len) / 512);
    while sector < end {
        let sectors = u64::min(end - sector, u64::from(PIECE) / 512);
        hash.update(read_into(
            driver,
            sector,
            u32::try_from(sectors * 512).unwrap(),
        ));
        sector += sectors;
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn check(dir: &Path, manifest: &Value, layers: &[PathBuf]) -> usize {
    let image = Image::open(layers).unwrap_or_else(|error| panic!("{}: {error}", dir.display()));
    let size = image.len_bytes();
    assert_eq!(
        Some(size),
        manifest["virtual_size"].as_u64(),
        "{}",
        dir.display()
    );
    let device = Arc::new(Device::new(Arc::new(image), None, DeviceLimits::default()));
    let (stream, _served) = serve(&device);
    let mut driver = Driver::start(stream, 1);
    let capacity = driver.client.config(0, 8, 0).unwrap();
    assert_eq!(capacity, (size / 512).to_le_bytes());
    let mut checks = 0;
    if let Some(expected) = manifest["oracle"]["device_sha256"]
        .as_str()
        .filter(|_| size <= WHOLE_MAX_BYTES)
    {
        assert_eq!(
            digest(&mut driver, 0, size),
            expected,
            "{}: whole device",
            dir.display()
        );
        checks += 1;
    }
    for range in manifest["ranges"].as_array().into_iter().flatten() {
        let (offset, len) = (
            range["offset"].as_u64().unwrap(),
            range["length"].as_u64().unwrap(),
        );
        let found = digest(&mut driver, offset, len);
        assert_eq!(
            Some(&*found),
            range["sha256"].as_str(),
            "{}: {len} bytes at {offset}",
            dir.display()
        );
        checks += 1;
    }
    checks
}

/// Sets of single-layer images: read with the set's digest, or, where they are of a kind that cannot be served,
/// refused.
fn check_images(dir: &Path, manifest: &Value, images: &[Value]) -> usize {
    for image in images {
        let path = dir.join(image["file"].as_str().unwrap());
        match Image::open(&[&path]) {
            Ok(_) => {
                let mut expected = manifest.clone();
                expected["oracle"]["device_sha256"] = manifest["device_sha256"].clone();
                check(dir, &expected, &[path]);
            }
            Err(error) => {
                let refused = format!("{:#}", anyhow::Error::from(error));
                assert!(
                    refused.contains("turboOCI"),
                    "{}: {refused}",
                    path.display()
                );
            }
        }
    }
    images.len()
}

/// Damaged layers: refused, or every sector is right or an error. Where nothing can protect the content, the manifest
/// says so.
fn check_damaged(dir: &Path, cases: &[Value]) -> usize {
    let size = 1 << 20;
    let good = Image::open(&[dir.join("good-lsmt.blob")]).unwrap();
    let mut expected = vec![0; size];
    image::Reader::new(Arc::new(good))
        .read_exact_at(&mut expected, 0)
        .unwrap();
    let (mut refused, mut failing) = (0, 0);
    for case in cases {
        let path = dir.join(case["file"].as_str().unwrap());
        let suggested = case["suggested"].as_str().unwrap();
        let Ok(image) = Image::open(&[&path]) else {
            assert!(
                !suggested.starts_with("accept"),
                "{}: {suggested}",
                path.display()
            );
            refused += 1;
            continue;
        };
        let unprotected = ["may be silent", "everything is a hole", "reject or ignore"];
        if unprotected.iter().any(|phrase| suggested.contains(phrase)) {
            continue;
        }
        let device = Arc::new(Device::new(Arc::new(image), None, DeviceLimits::default()));
        let (stream, _served) = serve(&device);
        let mut driver = Driver::start(stream, 1);
        let mut errors = 0;
        for (number, right) in expected.chunks(4096).enumerate() {
            let (status, _, data) = driver.request(0, 0, 8 * number as u64, 4096, WRITE);
            errors += usize::from(status != OK);
            assert!(
                status != OK || data == right,
                "{}: wrong bytes at {}",
                path.display(),
                4096 * number
            );
        }
        let may_fail = suggested.contains("reject");
        assert!(
            errors == 0 || may_fail,
            "{}: {errors} errors, {suggested}",
            path.display()
        );
        failing += usize::from(errors > 0);
    }
    assert!(
        refused > 0 && failing > 0,
        "a reader that takes everything must not pass"
    );
    cases.len()
}

#[test]
fn golden_stacks_read_through_the_socket() {
    let Some(goldens) = goldens() else {
        return;
    };
    let mut sets: Vec<PathBuf> = fs::read_dir(goldens)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    sets.sort();
    let mut checked = 0;
    for dir in sets {
        let Ok(text) = fs::read(dir.join("manifest.json")) else {
            continue;
        };
        let manifest: Value = serde_json::from_slice(&text).unwrap();
        let list = |key: &str| manifest[key].as_array();
        let checks = if let Some(layers) = list("layers") {
            let path = |layer: &Value| dir.join(layer["file"].as_str().unwrap());
            check(
                &dir,
                &manifest,
                &layers.iter().map(path).collect::<Vec<_>>(),
            )
        } else if let Some(images) = list("images") {
            check_images(&dir, &manifest, images)
        } else if let Some(cases) = list("cases") {
            check_damaged(&dir, cases)
        } else {
            continue;
        };
        println!("{}: {checks} checks", dir.display());
        checked += checks;
    }
    assert!(
        checked > 0,
        "golden sets without a single check prove nothing"
    );
}
