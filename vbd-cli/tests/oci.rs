//! What `vbd oci` promises: images become images of disks, what is damaged is found, and both can be read by programs.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use oci::test_util::{Wrap, archive, dir, file, write_image, write_index, write_layout};
use serde_json::Value;

fn vbd(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vbd"));
    command.current_dir(dir).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

fn layers() -> [(Vec<u8>, Wrap); 2] {
    let first = [dir("etc"), file("etc/motd", "hello")];
    let second = [file("etc/motd", "changed"), file("a", vec![7; 100_000])];
    [
        (archive(&first), Wrap::Gzip),
        (archive(&second), Wrap::Zstd),
    ]
}

#[test]
fn an_image_is_converted_inspected_and_opened() {
    let work = tempfile::tempdir().unwrap();
    write_layout(&work.path().join("in"), &layers());
    let convert = ["oci", "convert", "in", "out", "--size", "64M", "--json"];
    let done = vbd(work.path(), &convert);
    assert_eq!(done.status.code(), Some(0), "{}", text(&done.stderr));
    let done: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(done["reference"], "latest");
    assert_eq!(done["disk_len_bytes"], 64 << 20);
    let blobs: Vec<String> = done["layers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|layer| {
            layer["digest"]
                .as_str()
                .unwrap()
                .replace("sha256:", "out/blobs/sha256/")
        })
        .collect();
    assert_eq!(blobs.len(), 3);

    // The layers are a stack for every other command.
    let mut verify = vec!["verify"];
    verify.extend(blobs.iter().map(String::as_str));
    let verified = vbd(work.path(), &verify);
    assert_eq!(
        verified.status.code(),
        Some(0),
        "{}{}",
        text(&verified.stdout),
        text(&verified.stderr)
    );

    let shown = vbd(work.path(), &["oci", "inspect", "out"]);
    assert_eq!(shown.status.code(), Some(0));
    let shown = text(&shown.stdout);
    assert!(
        shown.contains("All digests and sizes are right."),
        "{shown}"
    );
    assert!(shown.contains("overlaybd in LZ4, in tar"), "{shown}");

    let again = vbd(
        work.path(),
        &["oci", "convert", "in", "out", "--size", "64M"],
    );
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("--force replaces it"));
    let forced = [
        "oci",
        "convert",
        "in",
        "out",
        "--size",
        "32M",
        "--force",
        "--algorithm",
        "zstd",
        "--level",
        "1",
    ];
    let forced = vbd(work.path(), &forced);
    assert_eq!(forced.status.code(), Some(0), "{}", text(&forced.stderr));
    assert!(text(&forced.stdout).contains("written to out"));
    assert_eq!(fs::read_dir(work.path()).unwrap().count(), 2);
}

#[test]
fn a_damaged_layout_is_found_out() {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("in");
    write_layout(&from, &layers());
    let blobs = fs::read_dir(from.join("blobs/sha256")).unwrap();
    let blobs = blobs.map(|blob| blob.unwrap().path());
    let largest = blobs
        .max_by_key(|blob| blob.metadata().unwrap().len())
        .unwrap();
    let mut bytes = fs::read(&largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&largest, bytes).unwrap();
    let shown = vbd(work.path(), &["oci", "inspect", "in", "--json"]);
    assert_eq!(shown.status.code(), Some(1));
    let shown: Value = serde_json::from_slice(&shown.stdout).unwrap();
    let problems = shown["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1);
    assert!(
        problems[0].as_str().unwrap().contains("is damaged"),
        "{problems:?}"
    );
    let converted = vbd(
        work.path(),
        &["oci", "convert", "in", "out", "--size", "64M"],
    );
    assert_eq!(converted.status.code(), Some(1));
    assert!(!work.path().join("out").exists());
}

#[test]
fn wrong_words_are_usage_errors_and_choices_are_listed() {
    let work = tempfile::tempdir().unwrap();
    let from = work.path().join("in");
    let images = ["one", "two"].map(|name| {
        let archives = [(archive(&[file(name, name)]), Wrap::Plain)];
        write_image(&from, &archives, name, ("linux", "arm64"))
    });
    write_index(&from, &images);
    for words in [
        &["oci"][..],
        &["oci", "convert", "in"],
        &["oci", "convert", "in", "out", "--size", "many"],
        &["oci", "convert", "in", "out", "--platform", "linux"],
    ] {
        assert_eq!(vbd(work.path(), words).status.code(), Some(2), "{words:?}");
    }
    let several = vbd(work.path(), &["oci", "convert", "in", "out"]);
    assert_eq!(several.status.code(), Some(1));
    let several = text(&several.stderr);
    assert!(
        several.contains("\"one\"") && several.contains("\"two\""),
        "{several}"
    );
    let one = [
        "oci",
        "convert",
        "in",
        "out",
        "--ref",
        "two",
        "--platform",
        "linux/arm64",
        "--size",
        "16M",
    ];
    let one = vbd(work.path(), &one);
    assert_eq!(one.status.code(), Some(0), "{}", text(&one.stderr));
    for size in ["1M", "3T", "16385K"] {
        let refused = vbd(
            work.path(),
            &["oci", "convert", "in", "no", "--ref", "one", "--size", size],
        );
        assert_eq!(refused.status.code(), Some(1), "{size}");
        assert!(
            text(&refused.stderr).contains("are possible"),
            "{}",
            text(&refused.stderr)
        );
    }
}
