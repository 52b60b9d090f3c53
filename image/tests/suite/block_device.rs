//! Promise: a layer on a block device reads like a layer in a file. A device holds whole sectors only, so of a blob whose
//! length is not a multiple of 512 its end is missing; a ZFile whose header says all does not need it.
//!
//! Needs root and loop devices; without them the test says so and passes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use image::Image;

use crate::support::{
    LZ4, Range, Wrapper, ZSTD, Zip, chain, disk_bytes, file, layer, packings, read_all, skipped,
};

const SECTORS: u64 = 300;

/// A loop device over a file, detached when it goes out of scope, by a panic too.
struct LoopDevice {
    path: PathBuf,
}

impl LoopDevice {
    fn attach(file: &Path) -> Result<Self, String> {
        let output = Command::new("losetup")
            .args(["--find", "--show", "--read-only"])
            .arg(file)
            .output()
            .map_err(|error| format!("losetup: {error}"))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let path = String::from_utf8(output.stdout).unwrap();
        Ok(Self {
            path: PathBuf::from(path.trim()),
        })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
        if !detached.is_ok_and(|status| status.success()) && !std::thread::panicking() {
            panic!("{} stays attached", self.path.display());
        }
    }
}

fn ranges() -> [Range; 3] {
    [
        Range::data(0, 100, 1),
        Range::zeroed(100, 20),
        Range::data(150, 150, 2),
    ]
}

/// The layer in a ZFile whose length is not whole sectors.
fn zfile_of_odd_length(zip: Zip) -> Vec<u8> {
    let zfile = zip.pack(&layer(&ranges(), SECTORS));
    assert!(
        !zfile.len().is_multiple_of(512),
        "{zip:?}: this one would not be cut"
    );
    zfile
}

#[test]
fn layer_on_a_block_device_reads_like_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let (layer, expected) = (layer(&ranges(), SECTORS), disk_bytes(&ranges(), SECTORS));
    let final_header = |zip: Zip| Zip {
        overwritten: true,
        ..zip
    };
    let whole = packings()
        .into_iter()
        .filter(|packing| packing.wrapper != Wrapper::Bare || packing.zip.is_none())
        .map(|packing| (format!("{packing:?}"), packing.pack(&layer), 0));
    let cut = [final_header(LZ4), final_header(ZSTD)]
        .map(|zip| (format!("{zip:?}, cut"), zfile_of_odd_length(zip), 1));
    let mut checked = 0;
    for (what, bytes, warnings) in whole.chain(cut) {
        let path = file(dir.path(), "layer", &bytes);
        let device = match LoopDevice::attach(&path) {
            Ok(device) => device,
            Err(why) if checked == 0 => return skipped(&format!("no loop device: {why}")),
            Err(why) => panic!("{what}: {why}"),
        };
        let image = Arc::new(Image::open(&[&device.path]).unwrap());
        assert!(read_all(&image).unwrap() == expected, "{what}");
        assert_eq!(
            image.warnings().len(),
            warnings,
            "{what}: {:?}",
            image.warnings()
        );
        checked += 1;
    }
    assert!(checked >= 12);
}

#[test]
fn zfile_that_needs_its_trailer_is_refused_where_a_device_cuts_it_off() {
    let dir = tempfile::tempdir().unwrap();
    let zip = Zip {
        overwritten: false,
        ..LZ4
    };
    let path = file(dir.path(), "layer", &zfile_of_odd_length(zip));
    assert!(Image::open(&[&path]).is_ok());
    let device = match LoopDevice::attach(&path) {
        Ok(device) => device,
        Err(why) => return skipped(&format!("no loop device: {why}")),
    };
    let error = Image::open(&[&device.path]).unwrap_err();
    let text = chain(&error);
    let expected = format!(
        "layer 0 ({}): ZFile: damaged ZFile: the trailer does not start with the ZFile magic",
        device.path.display()
    );
    assert_eq!(text, expected);
}
