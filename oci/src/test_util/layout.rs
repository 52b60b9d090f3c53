//! Layouts from entries.
#![expect(clippy::unwrap_used, reason = "a test that cannot write fails")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{Bytes, Entry, What};

/// How an archive is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrap {
    /// Not at all.
    Plain,
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
}

/// A digest as text.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("sha256:{hex}")
}

/// The archive of a layer.
///
/// # Panics
///
/// When there is no such archive.
#[must_use]
pub fn archive(entries: &[Entry]) -> Bytes {
    let mut builder = ::tar::Builder::new(Vec::new());
    for entry in entries {
        add(&mut builder, entry);
    }
    builder.into_inner().unwrap()
}

fn add(builder: &mut ::tar::Builder<Vec<u8>>, entry: &Entry) {
    let mut pax: BTreeMap<String, Bytes> = BTreeMap::new();
    for (name, value) in &entry.xattrs {
        let name = String::from_utf8(name.clone()).unwrap();
        pax.insert(format!("SCHILY.xattr.{name}"), value.clone());
    }
    let (seconds, nanos) = entry.mtime;
    if nanos != 0 || seconds < 0 {
        // Before 1970, the fraction counts backwards in text.
        let text = match (seconds < 0, nanos) {
            (false, _) | (true, 0) => format!("{seconds}.{nanos:09}"),
            (true, nanos) => format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos),
        };
        pax.insert("mtime".to_owned(), text.into());
    }
    let path = entry.archive_path();
    let empty = Vec::new();
    let (kind, content, link) = match &entry.what {
        What::Dir => (::tar::EntryType::Directory, &empty, &empty),
        What::File(content) => (::tar::EntryType::Regular, content, &empty),
        What::Symlink(target) => (::tar::EntryType::Symlink, &empty, target),
        What::HardLink(target) => (::tar::EntryType::Link, &empty, target),
        What::Char(..) => (::tar::EntryType::Char, &empty, &empty),
        What::Block(..) => (::tar::EntryType::Block, &empty, &empty),
        What::Fifo => (::tar::EntryType::Fifo, &empty, &empty),
        What::Whiteout | What::Opaque => (::tar::EntryType::Regular, &empty, &empty),
    };
    if path.len() > 100 {
        pax.insert("path".to_owned(), path.clone());
    }
    if link.len() > 100 {
        pax.insert("linkpath".to_owned(), link.clone());
    }
    builder
        .append_pax_extensions(
            pax.iter()
                .map(|(key, value)| (key.as_str(), value.as_slice())),
        )
        .unwrap();
    let mut header = ::tar::Header::new_ustar();
    let raw = header.as_old_mut();
    let put = |field: &mut [u8], bytes: &[u8]| {
        let len = bytes.len().min(field.len());
        field[..len].copy_from_slice(&bytes[..len]);
    };
    put(&mut raw.name, &path);
    put(&mut raw.linkname, link);
    header.set_entry_type(kind);
    header.set_mode(entry.mode);
    header.set_uid(entry.uid.into());
    header.set_gid(entry.gid.into());
    header.set_mtime(seconds.try_into().unwrap_or(0));
    header.set_size(content.len() as u64);
    if let What::Char(major, minor) | What::Block(major, minor) = entry.what {
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
    }
    header.set_cksum();
    builder.append(&header, content.as_slice()).unwrap();
}

fn wrap(archive: &[u8], wrap: Wrap) -> (Bytes, &'static str) {
    match wrap {
        Wrap::Plain => (archive.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
        Wrap::Gzip => {
            let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            writer.write_all(archive).unwrap();
            (
                writer.finish().unwrap(),
                "application/vnd.docker.image.rootfs.diff.tar.gzip",
            )
        }
        Wrap::Zstd => {
            let mut out = vec![0; zstd_safe::compress_bound(archive.len())];
            let len = zstd_safe::compress(out.as_mut_slice(), archive, 1).unwrap();
            out.truncate(len);
            (out, "application/vnd.oci.image.layer.v1.tar+zstd")
        }
    }
}

/// Writes a blob and gives its digest and length.
///
/// # Panics
///
/// When it cannot be written.
#[must_use]
pub fn write_blob(dir: &Path, bytes: &[u8]) -> (String, usize) {
    let digest = digest(bytes);
    let path = dir.join("blobs/sha256");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(&digest["sha256:".len()..]), bytes).unwrap();
    (digest, bytes.len())
}

/// Writes an image from archives and gives the descriptor of its manifest.
///
/// # Panics
///
/// When it cannot be written.
#[must_use]
pub fn write_image(
    dir: &Path,
    archives: &[(Bytes, Wrap)],
    name: &str,
    platform: (&str, &str),
) -> Value {
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for (archive, how) in archives {
        let (blob, media_type) = wrap(archive, *how);
        let (digest_of_blob, size) = write_blob(dir, &blob);
        layers.push(json!({ "mediaType": media_type, "digest": digest_of_blob, "size": size }));
        diff_ids.push(digest(archive));
    }
    let config = json!({
        "architecture": platform.1,
        "os": platform.0,
        "config": { "Cmd": ["/bin/sh"], "Env": ["A=b"] },
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": layers.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
    });
    let (config, config_size) = write_blob(dir, config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
        "layers": layers,
        "annotations": { "org.example.kept": "yes" },
    });
    let (manifest, size) = write_blob(dir, manifest.to_string().as_bytes());
    json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": manifest,
        "size": size,
        "annotations": { "org.opencontainers.image.ref.name": name },
    })
}

/// Writes the list of images and `oci-layout`.
///
/// # Panics
///
/// When they cannot be written.
pub fn write_index(dir: &Path, manifests: &[Value]) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let index = json!({ "schemaVersion": 2, "manifests": manifests });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
}

/// A layout with one image.
///
/// # Panics
///
/// When it cannot be written.
pub fn write_layout(dir: &Path, archives: &[(Bytes, Wrap)]) {
    let image = write_image(dir, archives, "latest", ("linux", "amd64"));
    write_index(dir, &[image]);
}
