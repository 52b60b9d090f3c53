//! Promise: inspecting shows what is there, and finds every wrong byte.

use std::fs;

use oci::{Digest, Selection, convert, inspect};

use crate::convert::options;
use oci::test_util::{Wrap, archive, file, write_image, write_index, write_layout};

#[test]
fn what_was_converted_is_shown_for_what_it_is() {
    let work = tempfile::tempdir().unwrap();
    let (from, to) = (work.path().join("from"), work.path().join("to"));
    let layers = [Wrap::Gzip, Wrap::Zstd, Wrap::Plain].map(|how| (archive(&[file("a", "a")]), how));
    write_layout(&from, &layers);
    let before = inspect(&from, &Selection::default(), &()).unwrap();
    let contents: Vec<_> = before.images[0]
        .layers
        .iter()
        .map(|layer| layer.content.as_str())
        .collect();
    assert_eq!(contents, ["tar+gzip", "tar+zstd", "tar"]);
    assert_eq!(before.problems, Vec::<String>::new());

    let converted = convert(&from, &to, &options(16 << 20), &()).unwrap();
    let after = inspect(&to, &Selection::default(), &()).unwrap();
    assert_eq!(after.problems, Vec::<String>::new());
    let image = &after.images[0];
    assert_eq!(image.reference.as_deref(), Some("latest"));
    assert_eq!(image.platform.as_deref(), Some("linux/amd64"));
    assert_eq!(image.digest, converted.manifest);
    assert_eq!(image.container, before.images[0].container);
    assert_eq!(image.layers.len(), 4);
    for layer in &image.layers {
        assert_eq!(layer.content, "overlaybd in LZ4, in tar");
        assert_eq!(layer.media_type, "application/vnd.oci.image.layer.v1.tar");
        assert_eq!(layer.diff_id.as_ref(), Some(&layer.digest));
        let annotation = |name: &str| {
            layer.annotations[&format!("containerd.io/snapshot/overlaybd/{name}")].clone()
        };
        assert_eq!(annotation("blob-digest"), layer.digest.to_string());
        assert_eq!(annotation("blob-size"), layer.len_bytes.to_string());
        assert_eq!(annotation("blob-fs-type"), "ext4");
        assert_eq!(annotation("version"), "0.1.0");
    }
    let config = image.config.as_ref().unwrap();
    let config = fs::read(to.join("blobs/sha256").join(config.hex())).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["history"].as_array().unwrap().len(), 4);
    assert_eq!(config["config"]["Cmd"][0], "/bin/sh");
    let manifest = fs::read(to.join("blobs/sha256").join(image.digest.hex())).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    assert_eq!(manifest["annotations"]["org.example.kept"], "yes");
    assert_eq!(
        manifest["mediaType"],
        "application/vnd.oci.image.manifest.v1+json"
    );

    let again = convert(&to, &work.path().join("again"), &options(16 << 20), &()).unwrap_err();
    assert!(format!("{:#}", anyhow(again)).contains("overlaybd layer already"));
}

fn anyhow(error: oci::ConvertError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

#[test]
fn layers_are_known_by_their_bytes() {
    // As the reference's convertor makes them: only the lowest layer states the size of the disk.
    let options = lsmt::WriterOptions::default();
    let mut layer = lsmt::Writer::new(Vec::new(), &options).unwrap();
    layer.data(8, &[7; 4096]).unwrap();
    let layer = layer.finish().unwrap();
    let mut packed = zfile::Writer::new(Vec::new(), zfile::WriterOptions::default()).unwrap();
    packed.append(&layer).unwrap();
    let packed = packed.finish().unwrap();
    let wrapped = |bytes: &[u8]| {
        let trailer = blob::tar::wrap_trailer_len_bytes(bytes.len() as u64);
        let trailer = vec![0; usize::try_from(trailer).unwrap()];
        [&blob::tar::wrap_header(bytes.len() as u64), bytes, &trailer].concat()
    };
    for (content, expected) in [
        (layer.clone(), "overlaybd"),
        (wrapped(&layer), "overlaybd, in tar"),
        (packed.clone(), "overlaybd in LZ4"),
        (wrapped(&packed), "overlaybd in LZ4, in tar"),
        (wrapped(b"text".repeat(200).as_slice()), "tar"),
        (b"text".repeat(200), "unknown"),
        (Vec::new(), "unknown"),
    ] {
        let work = tempfile::tempdir().unwrap();
        let from = work.path().join("from");
        write_layout(&from, &[(content, Wrap::Plain)]);
        let found = inspect(&from, &Selection::default(), &()).unwrap();
        assert_eq!(found.images[0].layers[0].content, expected);
    }
}

#[test]
fn a_flipped_byte_in_any_blob_is_found() {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    write_layout(
        &from,
        &[
            (archive(&[file("a", "a")]), Wrap::Gzip),
            (archive(&[]), Wrap::Plain),
        ],
    );
    let blobs = fs::read_dir(from.join("blobs/sha256")).unwrap();
    let blobs: Vec<_> = blobs.map(|blob| blob.unwrap().path()).collect();
    assert_eq!(blobs.len(), 4);
    for blob in blobs {
        let good = fs::read(&blob).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        fs::write(&blob, &bad).unwrap();
        let found = inspect(&from, &Selection::default(), &()).unwrap();
        assert_eq!(found.problems.len(), 1, "{found:?}");
        assert!(found.problems[0].contains("is damaged"), "{found:?}");
        assert!(convert(&from, &work.path().join("to"), &options(16 << 20), &()).is_err());
        bad.pop();
        fs::write(&blob, &bad).unwrap();
        let found = inspect(&from, &Selection::default(), &()).unwrap();
        assert!(found.problems[0].contains("are stated"), "{found:?}");
        fs::remove_file(&blob).unwrap();
        let found = inspect(&from, &Selection::default(), &()).unwrap();
        assert!(found.problems[0].contains("No such file"), "{found:?}");
        fs::write(&blob, &good).unwrap();
    }
    let found = inspect(&from, &Selection::default(), &()).unwrap();
    assert_eq!(found.problems, Vec::<String>::new());
}

#[test]
fn images_are_chosen_by_name_and_platform() {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("from");
    let image = |name, platform, content: &str| {
        let archives = [(archive(&[file("a", content)]), Wrap::Plain)];
        write_image(&from, &archives, name, platform)
    };
    let amd = image("one", ("linux", "amd64"), "amd");
    let arm = image("one", ("linux", "arm64"), "arm");
    let other = image("two", ("linux", "amd64"), "two");
    // The second name stands on an index, whose images have none.
    let mut inner = other.clone();
    inner.as_object_mut().unwrap().remove("annotations");
    let nested = serde_json::json!({ "schemaVersion": 2, "manifests": [inner] });
    let (digest, size) = oci::test_util::write_blob(&from, nested.to_string().as_bytes());
    let nested = serde_json::json!({
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest, "size": size,
        "annotations": { "org.opencontainers.image.ref.name": "two" },
    });
    write_index(&from, &[amd.clone(), arm.clone(), nested]);
    let select = |reference: Option<&str>, platform: Option<&str>| {
        let selection = Selection {
            reference: reference.map(str::to_owned),
            platform: platform.map(|platform| platform.parse().unwrap()),
        };
        let layout = oci::Layout::open(&from).unwrap();
        layout
            .select(&selection)
            .map(|found| found.descriptor.digest)
            .map_err(|error| error.to_string())
    };
    let digest = |image: &serde_json::Value| -> Digest {
        serde_json::from_value(image["digest"].clone()).unwrap()
    };
    assert_eq!(select(Some("two"), None), Ok(digest(&other)));
    assert_eq!(select(Some("one"), Some("linux/arm64")), Ok(digest(&arm)));
    assert_eq!(select(None, Some("linux/arm64")), Ok(digest(&arm)));
    assert!(
        select(Some("one"), None)
            .unwrap_err()
            .contains("several images")
    );
    assert!(
        select(Some("three"), None)
            .unwrap_err()
            .contains("no such image")
    );
    assert!(
        select(None, Some("linux/riscv64"))
            .unwrap_err()
            .contains("no such image")
    );
    assert_eq!(
        inspect(&from, &Selection::default(), &())
            .unwrap()
            .images
            .len(),
        3
    );
    for text in ["linux", "linux/", "/amd64", "a/b/c/d"] {
        assert!(text.parse::<oci::WantedPlatform>().is_err(), "{text}");
    }
}
