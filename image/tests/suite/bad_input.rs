//! Promise: whatever is passed for a layer, opening returns, says which layer it was and what is wrong with it in one
//! readable line, and a layer that was cut short is never a wrong byte.

use std::error::Error;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Image, Reader};

use crate::support::{
    LZ4, Packing, Range, Wrapper, chain, disk_bytes, file, layer, open, packings, read_all,
    skipped, tar_header,
};

const SECTORS: u64 = 40;

fn sound_layer() -> Vec<u8> {
    layer(&ranges(), SECTORS)
}

fn ranges() -> [Range; 2] {
    [Range::data(0, 9, 1), Range::zeroed(9, 4)]
}

/// What is said about `path` as the second of two layers.
fn refusal(sound: &Path, path: &Path) -> String {
    let error = Image::open(&[sound, path]).unwrap_err();
    let text = chain(&error);
    let place = format!("layer 1 ({}): ", path.display());
    assert!(text.starts_with(&place), "{text}");
    assert!(
        !text.contains('\n') && !text.contains(": :") && !text.ends_with(':'),
        "{text}"
    );
    text[place.len()..].to_owned()
}

#[test]
fn path_that_leads_to_no_blob_is_named_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let sound = file(dir, "sound", &sound_layer());
    let fifo = dir.join("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
    let socket = dir.join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let loop_to_itself = dir.join("loop");
    std::os::unix::fs::symlink(&loop_to_itself, &loop_to_itself).unwrap();
    let other = "expected a regular file or a block device";
    for (path, expected) in [
        (
            dir.join("missing"),
            "cannot open: No such file or directory (os error 2)".to_owned(),
        ),
        (dir.to_owned(), format!("is a directory, {other}")),
        (fifo, format!("is a pipe, {other}")),
        (
            PathBuf::from("/dev/null"),
            format!("is a character device, {other}"),
        ),
        (
            socket,
            "cannot open: No such device or address (os error 6)".to_owned(),
        ),
        (
            loop_to_itself,
            "cannot open: Too many levels of symbolic links (os error 40)".to_owned(),
        ),
        (file(dir, "empty", b""), "is empty".to_owned()),
        (
            sound.join("below"),
            "cannot open: Not a directory (os error 20)".to_owned(),
        ),
        (
            PathBuf::new(),
            "cannot open: No such file or directory (os error 2)".to_owned(),
        ),
    ] {
        assert_eq!(refusal(&sound, &path), expected);
    }
}

#[test]
fn unreadable_file_is_named_with_the_reason() {
    if rustix::process::geteuid().is_root() {
        skipped("a file of mode 000 is readable for root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let sound = file(dir.path(), "sound", &sound_layer());
    let locked = file(dir.path(), "locked", &sound_layer());
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(
        refusal(&sound, &locked),
        "cannot open: Permission denied (os error 13)"
    );
}

#[test]
fn link_to_a_layer_is_a_layer() {
    let dir = tempfile::tempdir().unwrap();
    let target = file(dir.path(), "target", &sound_layer());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(target, &link).unwrap();
    let image = Arc::new(Image::open(&[link]).unwrap());
    assert!(read_all(&image).unwrap() == disk_bytes(&ranges(), SECTORS));
}

#[test]
fn message_is_one_readable_line() {
    let dir = tempfile::tempdir().unwrap();
    let sound = file(dir.path(), "sound", &sound_layer());
    let zfile = Packing {
        wrapper: Wrapper::Bare,
        zip: Some(LZ4),
    }
    .pack(&sound_layer());
    let tar = Wrapper::Pax.wrap(&zfile);
    let mut bad_checksum = tar.clone();
    bad_checksum[3] ^= 1;
    let mut two_members = tar.clone();
    let end = two_members.len();
    two_members[end - 1024..end - 512].copy_from_slice(&tar_header("x", b'0', 0));
    let mut damaged_table = zfile.clone();
    let table = damaged_table.len() - 512 - 4;
    damaged_table[table] ^= 1;
    for (name, bytes, expected) in [
        (
            "unsealed",
            sound_layer()[..4096].to_vec(),
            "LSMT: damaged layer: a sealed layer, but no trailer in its last 4096 bytes: truncated, or extended"
                .to_owned(),
        ),
        (
            "checksum",
            bad_checksum,
            format!(
                "tar wrapper: tar header at byte 0: checksum field says {0}, the bytes add up to {1}",
                u32::from_str_radix(std::str::from_utf8(&tar[148..154]).unwrap(), 8).unwrap(),
                u32::from_str_radix(std::str::from_utf8(&tar[148..154]).unwrap(), 8).unwrap()
                    + u32::from(tar[3] ^ 1)
                    - u32::from(tar[3]),
            ),
        ),
        (
            "members",
            two_members,
            format!(
                "tar wrapper: tar holds more than one member (data at byte {}): a layer is wrapped alone",
                end - 1024
            ),
        ),
        (
            "shell-script",
            b"#!/bin/sh\n".to_vec(),
            "is not a layer: expected an LSMT, ZFile or ustar magic, found the bytes 23 21 2f 62 69 6e 2f 73 \
             at the start of the blob"
                .to_owned(),
        ),
    ] {
        assert_eq!(refusal(&sound, &file(dir.path(), name, &bytes)), expected);
    }
    let text = refusal(&sound, &file(dir.path(), "table", &damaged_table));
    assert!(
        text.starts_with("ZFile: damaged ZFile: jump table checksum 0x"),
        "{text}"
    );
}

#[test]
fn layers_that_make_no_disk_are_refused_as_a_stack() {
    let dir = tempfile::tempdir().unwrap();
    let sound = file(dir.path(), "sound", &sound_layer());
    let sizeless = file(dir.path(), "sizeless", &layer(&[Range::data(0, 1, 1)], 0));
    let text = |paths: &[PathBuf]| chain(&Image::open(paths).unwrap_err());
    assert_eq!(text(&[]), "cannot stack 0 layers: no layers");
    assert_eq!(
        text(&[sizeless.clone(), sizeless.clone()]),
        "cannot stack 2 layers: no layer states a virtual size"
    );
    // None of them is opened: none of them exists.
    assert_eq!(
        text(&vec![dir.path().join("missing"); 256]),
        "cannot stack 256 layers: 256 layers are more than the limit of 255"
    );
    let most = Image::open(&vec![sound.clone(); 255]).unwrap();
    assert_eq!(most.disk().layers().len(), 255);
    assert_eq!(most.path(254), sound);
    let image = Image::open(&[sound, sizeless]).unwrap();
    assert_eq!(image.len_bytes(), SECTORS * 512);
}

#[test]
fn error_keeps_its_causes_one_by_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), "short", &sound_layer()[..5000]);
    let error = Image::open(&[&path]).unwrap_err();
    let mut causes = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        causes.push(error.to_string());
        cause = error.source();
    }
    assert_eq!(causes[0], format!("layer 0 ({})", path.display()));
    assert_eq!(causes[1], "LSMT");
    for pair in causes.windows(2) {
        assert!(
            !pair[0].contains(&pair[1]),
            "said twice in one line: {causes:?}"
        );
    }
}

/// Refused by name, or right: only padding and a trailer that is not needed may be missing.
#[test]
fn layer_cut_at_any_sector_is_refused_or_right() {
    let dir = tempfile::tempdir().unwrap();
    let (sound, expected) = (sound_layer(), disk_bytes(&ranges(), SECTORS));
    for packing in packings() {
        let bytes = packing.pack(&sound);
        let path = file(dir.path(), "cut", &bytes);
        let cut = std::fs::File::options().write(true).open(&path).unwrap();
        let mut right = 0;
        for len in (0..bytes.len()).step_by(512).rev() {
            cut.set_len(len as u64).unwrap();
            match Image::open(&[&path]) {
                Ok(image) => {
                    let image = Arc::new(image);
                    assert!(
                        read_all(&image).unwrap() == expected,
                        "{packing:?}, {len} bytes"
                    );
                    right += 1;
                }
                Err(error) => {
                    let text = chain(&error);
                    let place = format!("layer 0 ({}): ", path.display());
                    assert!(text.starts_with(&place), "{packing:?}, {len} bytes: {text}");
                }
            }
        }
        // The two blocks and the padding at the end of a tar; and, of a ZFile whose header says all, the trailer.
        let final_header = packing.zip.is_some_and(|zip| zip.overwritten);
        let spare = match (packing.wrapper, final_header) {
            (Wrapper::Bare, false) => 0,
            (Wrapper::Bare, true) => 1,
            (_, _) => 3,
        };
        assert!(right <= spare, "{packing:?}: {right} cuts went unnoticed");
    }
}

/// What is odd but legal opens, and is told apart by layer.
#[test]
fn warnings_name_the_layer() {
    let mut resized = sound_layer();
    resized[48] ^= 2;
    let mut without_trailer = LZ4.pack(&sound_layer());
    without_trailer.truncate(without_trailer.len() - 512);
    let image = open(vec![sound_layer(), resized, without_trailer]).unwrap();
    assert_eq!(
        image.warnings(),
        [
            "layer 1 (/layers/1): header and trailer differ in virtual size; the trailer counts",
            "layer 2 (/layers/2): the trailer is missing",
        ]
    );
    assert!(read_all(&image).unwrap() == disk_bytes(&ranges(), SECTORS));
}

#[test]
fn order_of_layers_is_the_order_of_paths() {
    let whole = |seed| layer(&[Range::data(0, SECTORS, seed)], SECTORS);
    let image = open(vec![whole(1), whole(2), whole(3)]).unwrap();
    let mut sector = [0; 512];
    Reader::new(Arc::clone(&image))
        .read_exact_at(&mut sector, 512)
        .unwrap();
    assert_eq!(sector, Range::data(0, SECTORS, 3).bytes()[512..1024]);
    assert_eq!(image.path(1), Path::new("/layers/1"));
    assert_eq!(image.path(3), Path::new("?"));
}
