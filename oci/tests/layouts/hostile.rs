//! Promise: what is wrong with a layout or a layer is refused by name, and nothing is left behind.

use std::fs;
use std::path::Path;

use oci::convert;
use serde_json::json;

use crate::convert::options;
use oci::test_util::{Bytes, Entry, What, dir, entry, file, hard_link, symlink, whiteout};
use oci::test_util::{Wrap, archive, write_blob, write_image, write_index, write_layout};

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

fn refused(from: &Path, size_bytes: u64) -> String {
    let above = from.parent().unwrap();
    let before = fs::read_dir(above).unwrap().count();
    let error = convert(from, &above.join("to"), &options(size_bytes), &()).unwrap_err();
    assert_eq!(
        fs::read_dir(above).unwrap().count(),
        before,
        "nothing is left behind"
    );
    chain(&error)
}

fn refused_archive(archive: Bytes, how: Wrap, size_bytes: u64) -> String {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    write_layout(&from, &[(archive, how)]);
    refused(&from, size_bytes)
}

fn refused_entries(entries: &[Entry]) -> String {
    refused_archive(archive(entries), Wrap::Gzip, 16 << 20)
}

/// Links that lead to each other, with a detour before each of them.
fn long_way() -> Vec<Entry> {
    let detour = "./x/../".repeat(300);
    let link = |at: u32| symlink(format!("l{at}"), format!("{detour}l{}", at + 1));
    let mut entries = vec![dir("x")];
    entries.extend((0..20).map(link));
    entries.push(file("l0/file", ""));
    entries
}

#[test]
fn members_that_mean_nothing_are_named() {
    for (entries, expected) in [
        (
            vec![hard_link("a", "missing")],
            "member \"a\": hard link to \"missing\", which does not exist",
        ),
        (
            vec![dir("d"), hard_link("a", "d")],
            "a hard link to a directory",
        ),
        (
            vec![file("f", ""), file("f/below", "")],
            "not a directory but a file: \"f\"",
        ),
        (
            vec![symlink("l", "l2"), symlink("l2", "l"), file("l/x", "")],
            "more than 255 symbolic links",
        ),
        (long_way(), "4096 names on the way"),
        (
            vec![symlink("l", "")],
            "a symbolic link to a path of 0 bytes",
        ),
        (
            vec![file("x".repeat(256), "")],
            "256 bytes are no file name",
        ),
        (vec![file("x/".repeat(2049), "")], "a path of 4098 bytes"),
        (
            vec![file(".wh.", "").spelled("d/.wh.")],
            "a whiteout of no name",
        ),
        (
            vec![file(".wh...", "").spelled("d/.wh...")],
            "a whiteout of no name",
        ),
        (vec![entry("c", What::Char(4096, 0))], "device 4096:0"),
        (
            vec![file("a", "").xattr("user.large", vec![1; 5000])],
            "more than 4 KiB",
        ),
        (
            vec![file("a", "").xattr("system.posix_acl_access", "x")],
            "no POSIX ACL",
        ),
        (
            vec![file("a", vec![1; 20 << 20])],
            "a file of 20971520 bytes in a file system",
        ),
        (
            vec![file("a", vec![1; 9 << 20]), file("b", vec![1; 9 << 20])],
            "is full; --size",
        ),
    ] {
        let said = refused_entries(&entries);
        assert!(said.contains(expected), "{said}");
        assert!(said.starts_with("layer 0 (sha256:"), "{said}");
    }
}

#[test]
fn attributes_without_a_place_are_left_out_with_a_remark() {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    let entries = [file("a", "")
        .xattr("com.apple.provenance", "x")
        .xattr("user.a", "b")];
    write_layout(&from, &[(archive(&entries), Wrap::Plain)]);
    let converted = convert(&from, &work.path().join("to"), &options(16 << 20), &()).unwrap();
    assert_eq!(converted.remarks.len(), 1);
    assert!(
        converted.remarks[0].contains("com.apple.provenance"),
        "{converted:?}"
    );
}

#[test]
fn damaged_archives_are_refused() {
    let good = archive(&[file("a", vec![7; 3000]), file("b", vec![8; 3000])]);
    let edited = |edit: &dyn Fn(&mut Bytes)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        refused_archive(bytes, Wrap::Plain, 16 << 20)
    };
    let cut = edited(&|bytes| bytes.truncate(2000));
    assert!(cut.contains("member \"a\": cannot copy"), "{cut}");
    let cut = edited(&|bytes| bytes.truncate(3584 + 100));
    assert!(cut.contains("cannot read at byte 3584"), "{cut}");
    let header = edited(&|bytes| bytes[3584] ^= 1);
    assert!(header.contains("byte 3584: no tar header"), "{header}");
    let unknown = edited(&|bytes| {
        bytes[156] = b'Z';
        let sum: u32 = bytes[..148]
            .iter()
            .chain(&bytes[156..512])
            .map(|byte| u32::from(*byte))
            .sum();
        bytes[148..156].copy_from_slice(format!("{:06o}\0 ", sum + 8 * 32).as_bytes());
    });
    assert!(unknown.contains("members of the type 'Z'"), "{unknown}");
    let text = refused_archive(b"no archive".repeat(100), Wrap::Gzip, 16 << 20);
    assert!(text.contains("byte 0: no tar header"), "{text}");
}

/// A header that states a length, with a type of its own.
fn header(kind: tar::EntryType, size: u64) -> Bytes {
    let mut header = tar::Header::new_gnu();
    header.set_path("x").unwrap();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.set_cksum();
    header.as_bytes().to_vec()
}

#[test]
fn lengths_without_end_take_no_memory() {
    for (kind, expected) in [
        (
            tar::EntryType::XHeader,
            "a PAX header of 1099511627776 bytes",
        ),
        (
            tar::EntryType::GNULongName,
            "a long path of 1099511627776 bytes",
        ),
        (
            tar::EntryType::GNULongLink,
            "a long path of 1099511627776 bytes",
        ),
        (tar::EntryType::Regular, "a file of 1099511627776 bytes"),
        (tar::EntryType::XGlobalHeader, "cannot read at byte 512"),
    ] {
        let said = refused_archive(header(kind, 1 << 40), Wrap::Plain, 16 << 20);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn a_layer_that_unpacks_without_end_is_stopped() {
    // Zeroes take no space on the disk, so only the limit of what is unpacked stops them.
    let size = 16 << 20;
    let files = 1 + (size + oci::MAX_TAR_OVERHEAD_BYTES) / size;
    let one = [header(tar::EntryType::Regular, size), vec![0; 16 << 20]].concat();
    let mut bomb = Vec::new();
    let mut writer = flate2::write::GzEncoder::new(&mut bomb, flate2::Compression::fast());
    for _ in 0..files {
        std::io::Write::write_all(&mut writer, &one).unwrap();
    }
    writer.finish().unwrap();
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    let (digest, len) = write_blob(&from, &bomb);
    let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": len });
    write_manifest(&from, &json!([layer]), &json!([digest]));
    let said = refused(&from, size);
    assert!(
        said.contains("unpacks to more than the file system"),
        "{said}"
    );
}

fn write_manifest(from: &Path, layers: &serde_json::Value, diff_ids: &serde_json::Value) {
    let config = json!({ "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": diff_ids } });
    let (config, config_size) = write_blob(from, config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
        "layers": layers,
    });
    let (digest, size) = write_blob(from, manifest.to_string().as_bytes());
    write_index(
        from,
        &[
            json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest, "size": size }),
        ],
    );
}

#[test]
fn documents_that_lie_are_refused() {
    let zeroes = format!("sha256:{}", "0".repeat(64));
    let layer = |digest: &str, media_type: &str| json!({ "mediaType": media_type, "digest": digest, "size": 1 });
    const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    for (layers, diff_ids, expected) in [
        (
            json!([layer("sha256:../../../../etc/passwd", LAYER)]),
            json!([zeroes]),
            "is no digest",
        ),
        (
            json!([layer(&format!("sha512:{}", "0".repeat(128)), LAYER)]),
            json!([zeroes]),
            "is no digest",
        ),
        (
            json!([layer(&zeroes, LAYER)]),
            json!([]),
            "1 layers, but 0 in its configuration",
        ),
        (
            json!([layer(&zeroes, LAYER)]),
            json!([zeroes]),
            "No such file",
        ),
        (
            json!([layer(&zeroes, "text/plain")]),
            json!([zeroes]),
            "media type \"text/plain\"",
        ),
        (
            json!([layer(&zeroes, &format!("{LAYER}+encrypted"))]),
            json!([zeroes]),
            "is not a layer that can be converted",
        ),
        (
            json!(vec![layer(&zeroes, LAYER); 255]),
            json!(vec![&zeroes; 255]),
            "255 layers, of at most 254",
        ),
        (
            json!(vec![layer(&zeroes, LAYER); 9999]),
            json!(vec![&zeroes; 9999]),
            "9999 layers, of at most 254",
        ),
    ] {
        let work = tempfile::tempdir().unwrap();
        let from = work.path().join("from");
        write_manifest(&from, &layers, &diff_ids);
        let said = refused(&from, 16 << 20);
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn layers_that_are_not_what_the_configuration_says_are_refused() {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    let (digest, size) = write_blob(&from, &archive(&[file("a", "a")]));
    let layer = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size });
    write_manifest(
        &from,
        &json!([layer]),
        &json!([format!("sha256:{}", "1".repeat(64))]),
    );
    let said = refused(&from, 16 << 20);
    assert!(
        said.contains("but the configuration says sha256:1111"),
        "{said}"
    );
}

fn empty_index(from: &Path) -> serde_json::Value {
    let (digest, size) = write_blob(from, br#"{"schemaVersion":2,"manifests":[]}"#);
    json!({ "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": size })
}

#[test]
fn indexes_without_end_are_refused() {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    let mut inner = write_image(&from, &[], "x", ("linux", "amd64"));
    for _ in 0..4 {
        let index = json!({ "schemaVersion": 2, "manifests": [inner] });
        let (digest, size) = write_blob(&from, index.to_string().as_bytes());
        inner = json!({ "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": size });
    }
    write_index(&from, &[inner.clone()]);
    let said = refused(&from, 16 << 20);
    assert!(
        said.contains("more than 4 indexes inside each other"),
        "{said}"
    );

    let image = write_image(&from, &[], "x", ("linux", "amd64"));
    write_index(&from, &vec![image; 1001]);
    assert!(refused(&from, 16 << 20).contains("more than 1000 images"));
    let wide = json!({ "schemaVersion": 2, "manifests": vec![empty_index(&from); 40] });
    let (digest, size) = write_blob(&from, wide.to_string().as_bytes());
    let wide = json!({ "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": size });
    write_index(&from, &vec![wide; 40]);
    assert!(refused(&from, 16 << 20).contains("more than 1000 images or indexes"));

    let padding = " ".repeat(4 << 20);
    fs::write(from.join("index.json"), format!("{{{padding}}}")).unwrap();
    assert!(refused(&from, 16 << 20).contains("bytes of JSON, of at most 4194304"));
}

#[test]
fn what_is_no_layout_is_said_to_be_none() {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    fs::create_dir(&from).unwrap();
    assert!(refused(&from, 16 << 20).contains("is no OCI image layout"));
    write_layout(&from, &[]);
    fs::write(from.join("oci-layout"), r#"{"imageLayoutVersion":"2.0.0"}"#).unwrap();
    assert!(refused(&from, 16 << 20).contains("layout version \"2.0.0\" is not supported"));
    write_layout(&from, &[(archive(&[whiteout("x")]), Wrap::Plain)]);
    for size in [0, 4096, (16 << 20) + 512, 3 << 40] {
        let said = refused(&from, size);
        assert!(said.contains("are possible, in steps of 4096"), "{said}");
    }
}
