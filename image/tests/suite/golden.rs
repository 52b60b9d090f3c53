//! Promise: stacks made by the tools that made the format read byte for byte as those tools read them; what is
//! damaged or no read-only layer is refused, or fails where the damage is, and is never a wrong byte.
//!
//! The sets are not part of the repository. They are looked for in the directory `VBD_GOLDENS`, else in
//! `shared/goldens` beside the checkout; where there are none, the test says so and passes. Every directory with a
//! `manifest.json` is a set, so that a new one is tested without a change here.
//!
//! Disks of up to 4 GiB are read to their end, twice. Of larger ones only the data is read, and their digest is
//! computed as long as that takes less than `VBD_GOLDEN_SECONDS`, 20 if not given.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use image::{Image, Reader};
use lsmt::Extent;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{chain, read_all, skipped};

/// Disks of up to this length are read through without a look at the index.
const READ_WHOLE_MAX_BYTES: u64 = 4 << 30;
const MIB: usize = 1 << 20;
/// Lengths that fit no sector, no block and no record.
const ODD_LENGTHS: [usize; 6] = [1, 511, 4097, 65_535, 1_048_577, 777_777];

/// The directories of all sets, in order.
fn sets() -> Option<Vec<PathBuf>> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/goldens");
    let dir = std::env::var_os("VBD_GOLDENS").map_or(beside, PathBuf::from);
    let Ok(entries) = std::fs::read_dir(&dir) else {
        skipped(&format!("no golden sets in {}", dir.display()));
        return None;
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut sets: Vec<PathBuf> = paths
        .filter(|path| path.join("manifest.json").is_file())
        .collect();
    sets.sort();
    assert!(!sets.is_empty(), "no set in {}", dir.display());
    Some(sets)
}

fn manifest(set: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(set.join("manifest.json")).unwrap()).unwrap()
}

fn name(set: &Path) -> String {
    set.file_name().unwrap().to_string_lossy().into_owned()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn files(set: &Path, list: &[Value]) -> Vec<PathBuf> {
    list.iter()
        .map(|entry| set.join(entry["file"].as_str().unwrap()))
        .collect()
}

fn hex(digest: &[u8]) -> String {
    digest.iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").unwrap();
        hex
    })
}

fn open(what: &str, paths: &[PathBuf]) -> Arc<Image> {
    Arc::new(Image::open(paths).unwrap_or_else(|error| panic!("{what}: {}", chain(&error))))
}

/// Reads a range and hands it on in pieces of the given lengths, in turn.
fn read_in_pieces(
    reader: &mut Reader,
    (start, end): (u64, u64),
    lengths: &[usize],
    mut use_piece: impl FnMut(&[u8]),
) {
    let mut buf = vec![0xA5; lengths.iter().copied().max().unwrap()];
    let mut offset = start;
    for len in lengths.iter().cycle() {
        if offset == end {
            return;
        }
        let left = usize::try_from(end - offset).unwrap_or(usize::MAX);
        let piece = &mut buf[..left.min(*len)];
        if let Err(error) = reader.read_exact_at(piece, offset) {
            panic!("{}", chain(&error));
        }
        use_piece(piece);
        offset += piece.len() as u64;
    }
}

fn sha256(reader: &mut Reader, range: (u64, u64), lengths: &[usize]) -> String {
    let mut digest = Sha256::new();
    read_in_pieces(reader, range, lengths, |piece| digest.update(piece));
    hex(&digest.finalize())
}

/// The digest of the whole disk, its zeroes taken from the index and not read.
fn sha256_by_extents(reader: &mut Reader) -> String {
    let image = Arc::clone(reader.image());
    let mut extents = Vec::new();
    image
        .disk()
        .resolve(0, image.len_bytes(), &mut extents)
        .unwrap();
    let zeroes = vec![0; MIB];
    let mut digest = Sha256::new();
    for extent in extents {
        let (start, len) = (extent.disk_offset(), extent.len_bytes());
        match extent {
            Extent::Zero { .. } => {
                let mut left = len;
                while left > 0 {
                    let piece =
                        usize::try_from(left).map_or(zeroes.len(), |left| left.min(zeroes.len()));
                    digest.update(&zeroes[..piece]);
                    left -= piece as u64;
                }
            }
            Extent::Data { .. } => {
                read_in_pieces(reader, (start, start + len), &[MIB], |piece| {
                    digest.update(piece);
                });
            }
        }
    }
    hex(&digest.finalize())
}

/// How long it takes to hash so many bytes, by the example of 64 MiB.
fn hashing_time(len_bytes: u64) -> Duration {
    let zeroes = vec![0; MIB];
    let start = Instant::now();
    let mut digest = Sha256::new();
    (0..64).for_each(|_| digest.update(&zeroes));
    std::hint::black_box(digest.finalize());
    let sample = start.elapsed();
    let samples = u32::try_from(len_bytes >> 26).unwrap_or(u32::MAX);
    sample.saturating_mul(samples)
}

fn patience() -> Duration {
    let seconds = std::env::var("VBD_GOLDEN_SECONDS").ok();
    Duration::from_secs(seconds.map_or(20, |text| text.parse().unwrap()))
}

/// Checks the digest of the whole disk as far as that is known and reasonable; says how far it was.
fn check_whole(set: &str, reader: &mut Reader, expected: Option<&str>) -> &'static str {
    let len_bytes = reader.image().len_bytes();
    let Some(expected) = expected else {
        return "not known";
    };
    if len_bytes <= READ_WHOLE_MAX_BYTES {
        for lengths in [&[MIB][..], &ODD_LENGTHS] {
            assert_eq!(
                sha256(reader, (0, len_bytes), lengths),
                expected,
                "{set}, pieces of {lengths:?}"
            );
        }
        return "ok";
    }
    let time = hashing_time(len_bytes);
    if time > patience() {
        let seconds = time.as_secs();
        skipped(&format!(
            "{set}: a digest over {len_bytes} bytes would take {seconds} s, only ranges are checked \
             (VBD_GOLDEN_SECONDS sets the limit)"
        ));
        return "skipped";
    }
    assert_eq!(sha256_by_extents(reader), expected, "{set}, by extents");
    "ok, by extents"
}

/// Where a manifest lists all data there is, everything else must be zero.
fn check_nothing_else(set: &str, reader: &mut Reader, data: &[Value]) {
    let mut listed: Vec<(u64, u64)> = data.iter().map(range).collect();
    listed.sort_unstable();
    let image = Arc::clone(reader.image());
    let mut extents = Vec::new();
    let mut position = 0;
    for (start, end) in listed.into_iter().chain([(image.len_bytes(), u64::MAX)]) {
        if start > position {
            image
                .disk()
                .resolve(position, start - position, &mut extents)
                .unwrap();
            for extent in &extents {
                if let Extent::Data {
                    disk_offset,
                    len_bytes,
                    ..
                } = *extent
                {
                    let range = (disk_offset, disk_offset + len_bytes);
                    read_in_pieces(reader, range, &[MIB], |piece| {
                        assert!(
                            piece.iter().all(|byte| *byte == 0),
                            "{set}: data in {range:?}"
                        );
                    });
                }
            }
        }
        position = position.max(end);
    }
}

fn range(entry: &Value) -> (u64, u64) {
    let offset = entry["offset"].as_u64().unwrap();
    (offset, offset + entry["length"].as_u64().unwrap())
}

fn check_segments(set: &str, manifest: &Value, (len_bytes, found): (u64, usize)) {
    let Some(expected) = manifest["oracle"]["merged_index_entries"].as_u64() else {
        return;
    };
    let reaches_beyond = |layer: &Value| layer["virtual_size"].as_u64() > Some(len_bytes);
    if list(manifest, "layers").iter().any(reaches_beyond) {
        // The reference keeps what lies beyond the end of the disk and can never be read; we leave it out.
        assert!(found as u64 <= expected, "{set}: {found} segments");
    } else {
        assert_eq!(found as u64, expected, "{set}: segments");
    }
}

/// One set, read and compared; returns its line of the table.
fn check_stack(set: &str, manifest: &Value, paths: &[PathBuf], digest: Option<&str>) -> String {
    let start = Instant::now();
    let image = open(set, paths);
    let opened = start.elapsed();
    let (len_bytes, segments) = (image.len_bytes(), image.disk().segment_count());
    assert_eq!(
        Some(len_bytes),
        manifest["virtual_size"].as_u64(),
        "{set}: size"
    );
    check_segments(set, manifest, (len_bytes, segments));
    let mut reader = Reader::new(image);
    let (ranges, data) = (list(manifest, "ranges"), list(manifest, "data_extents"));
    for entry in ranges.iter().chain(data) {
        for lengths in [&[MIB][..], &ODD_LENGTHS] {
            let found = sha256(&mut reader, range(entry), lengths);
            assert_eq!(Some(&*found), entry["sha256"].as_str(), "{set}: {entry}");
        }
    }
    if !data.is_empty() {
        check_nothing_else(set, &mut reader, data);
    }
    let whole = check_whole(set, &mut reader, digest);
    assert!(
        digest.is_some() || !ranges.is_empty(),
        "{set}: nothing to compare"
    );
    format!(
        "{set:<28} {:>6} {len_bytes:>14} {segments:>8} {:>6} {whole:<14} {:>8.2} {:>8}",
        paths.len(),
        ranges.len() + data.len(),
        opened.as_secs_f64() * 1e3,
        start.elapsed().as_millis()
    )
}

/// A file that must not open; the words by which it must be refused.
fn check_refused(what: &str, path: &Path, words: &str) -> String {
    let Err(error) = Image::open(&[path]) else {
        panic!("{what}: opened");
    };
    let text = chain(&error);
    assert!(text.contains(words), "{what}: {text}");
    assert!(
        text.starts_with(&format!("layer 0 ({})", path.display())),
        "{what}: {text}"
    );
    let (_, reason) = text.split_once("): ").unwrap();
    format!("{what:<28} refused: {reason}")
}

/// By the structure of its manifest: a stack, single images, or files that are no read-only layers.
fn check_set(set: &Path) -> Vec<String> {
    let (manifest, name) = (manifest(set), name(set));
    if manifest.get("cases").is_some() {
        return check_damaged(set, &manifest);
    }
    if manifest.get("layers").is_some() {
        let paths = files(set, list(&manifest, "layers"));
        let digest = manifest["oracle"]["device_sha256"].as_str();
        return vec![check_stack(&name, &manifest, &paths, digest)];
    }
    if manifest.get("header_index").is_some() {
        return files(set, list(&manifest, "files"))
            .iter()
            .map(|path| {
                let words = if path.ends_with("writable_index") {
                    "index file of a read-write layer"
                } else {
                    "read-write data file that was never sealed"
                };
                check_refused(&name, path, words)
            })
            .collect();
    }
    let images = files(set, list(&manifest, "images"));
    assert!(
        !images.is_empty(),
        "{name}: a manifest of unknown structure"
    );
    let turbo_oci = manifest.get("target").is_some();
    images
        .iter()
        .map(|path| {
            if turbo_oci {
                return check_refused(&name, path, "turboOCI");
            }
            let digest = manifest["device_sha256"].as_str();
            check_stack(&name, &manifest, std::slice::from_ref(path), digest)
        })
        .collect()
}

#[test]
fn every_set_reads_as_the_reference_reads_it() {
    let Some(sets) = sets() else { return };
    let mut table = vec![format!(
        "{:<28} {:>6} {:>14} {:>8} {:>6} {:<14} {:>8} {:>8}",
        "set", "layers", "bytes", "segments", "ranges", "digest", "open ms", "all ms"
    )];
    for set in sets {
        table.extend(check_set(&set));
    }
    println!("{}", table.join("\n"));
}

/// What a damaged layer did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Refused,
    /// Some pages failed, all others are right.
    Fails(usize),
    Right,
    /// Some pages differ from the sound disk.
    Different(usize),
}

/// Reads every page for itself, so that one failure does not hide another.
fn fate(path: &Path, good: &[u8]) -> Fate {
    let image = match Image::open(&[path]) {
        Ok(image) => Arc::new(image),
        Err(error) => {
            let text = chain(&error);
            let place = format!("layer 0 ({})", path.display());
            assert!(
                text.starts_with(&place) || text.starts_with("cannot stack 1 layers"),
                "{text}"
            );
            return Fate::Refused;
        }
    };
    let mut reader = Reader::new(Arc::clone(&image));
    let (mut failed, mut different) = (0, 0);
    for (page, expected) in good.chunks(4096).enumerate() {
        let mut found = vec![0xA5; expected.len()];
        match reader.read_exact_at(&mut found, page as u64 * 4096) {
            Ok(()) if found == expected => {}
            Ok(()) => different += 1,
            Err(error) => {
                assert_eq!(error.layer, Some((0, path.to_owned())));
                failed += 1;
            }
        }
    }
    if different == 0 {
        assert_eq!(image.len_bytes(), good.len() as u64, "{}", path.display());
    }
    match (failed, different) {
        (0, 0) => Fate::Right,
        (failed, 0) => Fate::Fails(failed),
        (_, different) => Fate::Different(different),
    }
}

fn is_as_suggested(suggested: &str, fate: Fate) -> bool {
    match fate {
        // Nothing protects the bytes of a ZFile without checksums.
        Fate::Different(_) => suggested.contains("may be silent"),
        // "as above" repeats a case that the reference accepts and a strict reader need not.
        _ if suggested.contains("at read") => fate != Fate::Right,
        _ if suggested.starts_with("accept") => fate == Fate::Right,
        _ if suggested.contains("would be") => true,
        _ if suggested.starts_with("reject at open") => fate == Fate::Refused,
        _ if suggested == "reject" => fate != Fate::Right,
        _ => true,
    }
}

fn check_damaged(set: &Path, manifest: &Value) -> Vec<String> {
    let image = open("good-lsmt", &[set.join("good-lsmt.blob")]);
    let good = read_all(&image).unwrap();
    assert_eq!(
        Some(&*hex(&Sha256::digest(&good))),
        manifest["good_device_sha256"].as_str()
    );
    let hole = vec![0; good.len()];
    let mut lines = Vec::new();
    for entry in list(manifest, "cases") {
        let text = |key: &str| entry[key].as_str().unwrap();
        let (case, suggested) = (text("case"), text("suggested"));
        // The index of this one says that the disk is one hole: a sound layer, but another one.
        let content = if case == "l-index-size-0" {
            &hole
        } else {
            &good
        };
        let fate = fate(&set.join(text("file")), content);
        assert!(
            is_as_suggested(suggested, fate),
            "{case}: {fate:?}, but: {suggested}"
        );
        lines.push(format!(
            "  {case:<30} {:<14} {suggested}",
            format!("{fate:?}")
        ));
    }
    let count = |wanted: fn(&str) -> bool| lines.iter().filter(|line| wanted(line)).count();
    let refused = count(|line| line.contains(" Refused "));
    let right = count(|line| line.contains(" Right "));
    lines.insert(
        0,
        format!(
            "{:<28} {} cases: {refused} refused, {right} right, {} as said",
            name(set),
            lines.len(),
            lines.len() - refused - right
        ),
    );
    lines
}
