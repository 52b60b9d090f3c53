//! Promise: `vbd compress` and `vbd decompress` lose no byte, whatever the packing, verify what they read, and leave
//! nothing behind when they fail.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sha2::{Digest, Sha256};

fn vbd(dir: &Path, args: &[&str]) -> Output {
    with_input(dir, args, b"")
}

fn with_input(dir: &Path, args: &[&str], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_vbd"))
        .args(args)
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // A command that wants no input, or no more of it, closes the pipe.
            let _written = stdin.write_all(input);
        });
        child.wait_with_output().unwrap()
    })
}

/// Runs what must succeed; returns standard output.
fn good(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = vbd(dir, args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        text(&output.stderr)
    );
    output.stdout
}

/// Runs what must fail; returns the message.
fn refused(dir: &Path, args: &[&str], status: i32) -> String {
    let output = vbd(dir, args);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {message}");
    message
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

/// Bytes that nothing makes shorter.
fn noise(len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 32);
    for block in 0..len.div_ceil(32) as u64 {
        bytes.extend(Sha256::digest(block.to_le_bytes()));
    }
    bytes.truncate(len);
    bytes
}

/// A layer of text, noise and zeroes.
fn layer(noise_len: usize) -> Vec<u8> {
    let options = lsmt::WriterOptions {
        virtual_size_bytes: 1 << 30,
        ..lsmt::WriterOptions::default()
    };
    let mut writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
    writer
        .data(0, &b"one two three four ".repeat(1 << 16)[..1 << 20])
        .unwrap();
    writer.data(4096, &noise(noise_len)).unwrap();
    writer.data(20_000, &[0; 100 << 10]).unwrap();
    writer.zeroed(30_000, 77).unwrap();
    writer.finish().unwrap()
}

/// A directory with `app.lsmt` in it.
fn with_layer() -> (tempfile::TempDir, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let layer = layer(300 << 10);
    fs::write(dir.path().join("app.lsmt"), &layer).unwrap();
    (dir, layer)
}

/// What is in a directory, whatever its name.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn every_packing_is_unpacked_to_the_same_bytes() {
    let (dir, layer) = with_layer();
    let dir = dir.path();
    let packings: [&[&str]; 7] = [
        &[],
        &["--level", "1", "--threads", "3"],
        &["--level", "12", "--block-size", "32K"],
        &["--algorithm", "zstd"],
        &[
            "--algorithm",
            "zstd",
            "--level",
            "-5",
            "--block-size",
            "16K",
        ],
        &["--tar"],
        &["--tar", "--no-verify", "--block-size", "8K"],
    ];
    let mut last = "app.lsmt".to_owned();
    for (number, packing) in packings.iter().enumerate() {
        // Each is made of the one before, so that every packing is packed anew once.
        let name = format!("{number}.packed");
        let args = [&["compress", &last, &name], *packing].concat();
        good(dir, &args);
        let plain = good(dir, &["decompress", &name, "-"]);
        assert!(plain == layer, "{packing:?}");
        good(dir, &["decompress", &name, "plain", "--force"]);
        assert!(fs::read(dir.join("plain")).unwrap() == layer, "{packing:?}");
        // Directly or by way of another packing, the bytes are the same.
        good(
            dir,
            &[&["compress", "app.lsmt", "direct", "--force"], *packing].concat(),
        );
        let direct = fs::read(dir.join("direct")).unwrap();
        assert!(direct == fs::read(dir.join(&name)).unwrap(), "{packing:?}");
        last = name;
    }
    good(dir, &["decompress", "--tar", &last, "tar"]);
    let opened = image::Source::open(&dir.join("tar")).unwrap();
    assert!(opened.packing().tar && opened.packing().compression.is_none());
    assert!(good(dir, &["decompress", "tar", "-"]) == layer);
}

#[test]
fn report_says_what_was_done() {
    let (dir, layer) = with_layer();
    let dir = dir.path();
    let report = json(&good(
        dir,
        &[
            "--json",
            "compress",
            "app.lsmt",
            "app.zfile",
            "--block-size",
            "8K",
        ],
    ));
    let stored = fs::metadata(dir.join("app.zfile")).unwrap().len();
    assert_eq!(report["input"], "app.lsmt");
    assert_eq!(report["output"], "app.zfile");
    assert_eq!(report["input_bytes"], layer.len());
    assert_eq!(report["content_bytes"], layer.len());
    assert_eq!(report["output_bytes"], stored);
    assert_eq!(report["zfile"]["algorithm"], "lz4");
    assert_eq!(report["zfile"]["block_size_bytes"], 8192);
    assert_eq!(report["zfile"]["blocks"], layer.len().div_ceil(8192));
    assert_eq!(report["zfile"]["verify"], true);
    let ratio = report["ratio"].as_f64().unwrap();
    assert!((ratio - layer.len() as f64 / stored as f64).abs() < 1e-9);

    let report = json(&good(
        dir,
        &["--json", "decompress", "app.zfile", "plain", "--tar"],
    ));
    assert_eq!(report["input_bytes"], stored);
    assert_eq!(report["content_bytes"], layer.len());
    assert_eq!(report["tar"], true);
    assert_eq!(report["zfile"]["block_size_bytes"], 8192);
    assert!((report["ratio"].as_f64().unwrap() - ratio).abs() < 1e-9);
    let told = text(&good(dir, &["compress", "app.lsmt", "again"]));
    assert!(
        told.starts_with("again: ") && told.contains("lz4, ") && told.contains(" blocks of 4 KiB"),
        "{told}"
    );
}

#[test]
fn streams_are_compressed_as_they_come() {
    let (dir, layer) = with_layer();
    let dir = dir.path();
    let output = with_input(dir, &["compress", "-", "-"], &layer);
    assert!(output.status.success(), "{}", text(&output.stderr));
    fs::write(dir.join("stream.zfile"), &output.stdout).unwrap();
    assert!(good(dir, &["decompress", "stream.zfile", "-"]) == layer);
    // Read by the trailer, and otherwise the same as a file.
    good(dir, &["compress", "app.lsmt", "app.zfile"]);
    let file = fs::read(dir.join("app.zfile")).unwrap();
    assert!(output.stdout[512..] == file[512..] && output.stdout[32] == 0x13 && file[32] == 0x1B);

    for (bytes, told) in [
        (&file[..], "standard input: the input is a ZFile"),
        (b"no layer", "it does not begin with an LSMT header"),
        (&layer[..100_000], "without an LSMT trailer"),
        (b"", "it does not begin with an LSMT header"),
    ] {
        for name in ["-", "new"] {
            let output = with_input(dir, &["compress", "-", name], bytes);
            assert_eq!(output.status.code(), Some(1));
            assert!(
                text(&output.stderr).contains(told),
                "{}",
                text(&output.stderr)
            );
        }
    }
    assert_eq!(names(dir), ["app.lsmt", "app.zfile", "stream.zfile"]);
    let message = refused(dir, &["decompress", "-", "new"], 2);
    assert!(message.contains("give it as a file"), "{message}");
    let message = refused(dir, &["compress", "--tar", "app.lsmt", "-"], 1);
    assert!(message.contains("write a file"), "{message}");
}

#[test]
fn what_is_no_layer_is_refused_unless_anything_goes() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let text_file = b"not a layer, ".repeat(1000);
    fs::write(dir.join("text"), &text_file).unwrap();
    fs::write(dir.join("empty"), b"").unwrap();
    let half = &layer(100 << 10)[..600_000];
    fs::write(dir.join("half"), half).unwrap();
    for (name, told) in [
        ("text", "text: is not a layer"),
        ("empty", "empty"),
        ("half", "half: LSMT: "),
        ("missing", "missing"),
    ] {
        let message = refused(dir, &["compress", name, "out"], 1);
        assert!(message.contains(told), "{message}");
        let message = refused(dir, &["decompress", name, "out"], 1);
        assert!(message.contains(told), "{message}");
    }
    assert_eq!(names(dir), ["empty", "half", "text"]);

    good(dir, &["compress", "--any", "text", "out", "--tar"]);
    let message = refused(dir, &["decompress", "out", "back"], 1);
    assert!(message.contains("is not a layer"), "{message}");
    assert!(good(dir, &["decompress", "--any", "out", "-"]) == text_file);
    let stream = with_input(dir, &["compress", "--any", "-", "-"], &text_file);
    fs::write(dir.join("stream"), stream.stdout).unwrap();
    assert!(good(dir, &["decompress", "--any", "stream", "-"]) == text_file);
    let message = refused(dir, &["compress", "--any", "empty", "new"], 1);
    assert!(message.contains("empty"), "{message}");
}

#[test]
fn wrong_options_are_usage_errors_and_touch_nothing() {
    let (dir, _) = with_layer();
    let dir = dir.path();
    let wrong: [&[&str]; 6] = [
        &["--level", "13"],
        &["--level", "0"],
        &["--algorithm", "zstd", "--level", "23"],
        &["--algorithm", "none"],
        &["--block-size", "5K"],
        &["--block-size", "128K"],
    ];
    for options in wrong {
        refused(
            dir,
            &[&["compress", "app.lsmt", "new"], options].concat(),
            2,
        );
    }
    assert_eq!(names(dir), ["app.lsmt"]);
}

#[test]
fn outputs_are_replaced_only_when_asked_and_never_their_input() {
    let (dir, layer) = with_layer();
    let dir = dir.path();
    for command in ["compress", "decompress"] {
        fs::write(dir.join("there"), "mine").unwrap();
        let message = refused(dir, &[command, "app.lsmt", "there"], 1);
        assert!(message.contains("--force"), "{message}");
        assert_eq!(fs::read(dir.join("there")).unwrap(), b"mine");
        good(dir, &[command, "app.lsmt", "there", "--force"]);
        assert_ne!(fs::read(dir.join("there")).unwrap(), b"mine");
        let message = refused(dir, &[command, "app.lsmt", "./app.lsmt", "--force"], 1);
        assert!(message.contains("is the input"), "{message}");
        assert!(fs::read(dir.join("app.lsmt")).unwrap() == layer);
    }
}

#[test]
fn blocks_that_some_reader_cannot_read_are_refused_with_advice() {
    let (dir, _) = with_layer();
    let dir = dir.path();
    for algorithm in ["lz4", "zstd"] {
        let args = [
            "compress",
            "app.lsmt",
            "new",
            "--block-size",
            "64K",
            "--algorithm",
            algorithm,
        ];
        let message = refused(dir, &args, 1);
        assert!(
            message.contains("use blocks of 32 KiB or less"),
            "{message}"
        );
    }
    assert_eq!(names(dir), ["app.lsmt"]);
}

#[test]
fn damage_is_found_and_nothing_is_left() {
    let (dir, _) = with_layer();
    let dir = dir.path();
    good(dir, &["compress", "app.lsmt", "app.zfile"]);
    let mut bytes = fs::read(dir.join("app.zfile")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(dir.join("app.zfile"), &bytes).unwrap();
    for args in [
        ["decompress", "app.zfile", "new"],
        ["compress", "app.zfile", "new"],
        ["decompress", "app.zfile", "-"],
    ] {
        let message = refused(dir, &args, 1);
        assert!(
            message.contains("app.zfile: ") && message.contains("checksum"),
            "{message}"
        );
    }
    assert_eq!(names(dir), ["app.lsmt", "app.zfile"]);
}

#[test]
fn outputs_that_get_too_long_leave_nothing() {
    let (dir, _) = with_layer();
    let dir = dir.path();
    good(dir, &["compress", "app.lsmt", "app.zfile"]);
    let before = names(dir);
    for args in [
        "compress app.lsmt new",
        "compress --tar app.zfile new",
        "decompress app.zfile new",
    ] {
        // In units of 512 or 1024 bytes, by shell. Without the trap, the signal would end the program.
        let script = format!("trap '' XFSZ; ulimit -f 100; exec \"$0\" {args}");
        let output = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_vbd")])
            .current_dir(dir)
            .output()
            .unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args}: {message}");
        assert!(
            message.contains("cannot make new: ") && message.contains("File too large"),
            "{message}"
        );
        assert_eq!(names(dir), before, "{args}");
    }
}

#[test]
fn full_pipes_and_devices_are_errors() {
    let (dir, _) = with_layer();
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        return;
    };
    let output = Command::new(env!("CARGO_BIN_EXE_vbd"))
        .args(["compress", "app.lsmt", "-"])
        .current_dir(dir.path())
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("No space left on device"), "{message}");
}

fn goldens() -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens");
    let dir = std::env::var_os("VBD_GOLDENS").map_or(beside, PathBuf::from);
    if dir.is_dir() {
        return fs::canonicalize(dir).ok();
    }
    // Past the macros for printing, whose output the test harness swallows.
    let skipped = format!("SKIPPED: no golden files in {}\n", dir.display());
    std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    None
}

#[test]
fn layers_of_the_reference_are_packed_anew_and_not_larger() {
    let Some(goldens) = goldens() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let set = goldens.join("B-ext4-7layers");
    for layer in 0..7 {
        let golden = set.join(format!("{layer}.zfile"));
        let golden = golden.to_str().unwrap();
        let (ours, plain) = (format!("{layer}.zfile"), format!("{layer}.lsmt"));
        good(dir, &["decompress", golden, &plain]);
        good(dir, &["compress", golden, &ours]);
        let len = |path: &Path| fs::metadata(path).unwrap().len();
        assert!(len(&dir.join(&ours)) <= len(Path::new(golden)), "{layer}");
        assert!(good(dir, &["decompress", &ours, "-"]) == fs::read(dir.join(&plain)).unwrap());
    }
}
