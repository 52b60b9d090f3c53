//! The disk under test: a flat image that every guest can judge, and the layers that must add up to it.
//!
//! One image serves every guest: ext4 with files of awkward sizes for Linux, an init program for booting
//! from it, and a boot sector (ext4 leaves the first 1024 bytes alone) for the BIOS.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::artifacts;
use crate::layers;
use crate::requirement::{Missing, program};

/// Size of the disk.
pub const DISK_BYTES: u64 = 64 << 20;

/// Sectors in the range that bare-metal guests compare against.
pub const REFERENCE_SECTORS: usize = 64;

/// A disk image, as layers and flat, and what is known to be in it.
#[derive(Debug)]
pub struct Stack {
    /// Layer files, lowest first, that read together like `flat`.
    pub layers: Vec<PathBuf>,
    /// The same disk as one plain file: the truth.
    pub flat: PathBuf,
    /// Path in the file system and SHA-256 of every regular file, sorted.
    pub files: Vec<(String, String)>,
    /// Path and target of every symbolic link, sorted.
    pub links: Vec<(String, String)>,
}

/// Builds the disk image in `dir`.
///
/// The content is the same on every run; the image is not (it holds the times of its files).
///
/// # Errors
///
/// [`Missing`] if a tool is not there; otherwise the tool's complaint or an I/O error.
pub fn build(dir: &Path) -> Result<Stack> {
    let tree = dir.join("tree");
    std::fs::create_dir_all(&tree)?;
    let (files, links) = plant(&tree)?;
    let flat = dir.join("flat.img");
    std::fs::File::create(&flat)?.set_len(DISK_BYTES)?;
    let made = Command::new(program("mkfs.ext4")?)
        .args(["-q", "-F", "-L", "vbd-test", "-d"])
        .args([&tree, &flat])
        .output()?;
    ensure!(
        made.status.success(),
        "mkfs.ext4: {}",
        String::from_utf8_lossy(&made.stderr)
    );
    stamp_boot_sector(&flat)?;
    let layers = layers::write(&std::fs::read(&flat)?, dir)?;
    Ok(Stack {
        layers,
        flat,
        files,
        links,
    })
}

/// Without a compiler there is no boot sector, and only the test that boots from it is skipped.
fn stamp_boot_sector(flat: &Path) -> Result<()> {
    let sector = match artifacts::boot_sector() {
        Ok(path) => std::fs::read(path)?,
        Err(error) if error.is::<Missing>() => return Ok(()),
        Err(error) => return Err(error),
    };
    ensure!(
        sector.len() == 512,
        "the boot sector has {} bytes",
        sector.len()
    );
    let image = std::fs::OpenOptions::new().write(true).open(flat)?;
    Ok(image.write_all_at(&sector, 0)?)
}

type Listing = Vec<(String, String)>;

/// Fills the directory tree; returns its files with digests and its links with targets.
fn plant(tree: &Path) -> Result<(Listing, Listing)> {
    let mut files = BTreeMap::new();
    let mut add = |path: String, content: &[u8], mode: u32| -> Result<()> {
        let place = tree.join(path.trim_start_matches('/'));
        std::fs::create_dir_all(place.parent().context("no parent")?)?;
        std::fs::write(&place, content)?;
        std::fs::set_permissions(&place, std::fs::Permissions::from_mode(mode))?;
        files.insert(path, sha256(content));
        Ok(())
    };
    // Around the sizes of a sector, a file system block, a compression block and a large extent.
    let sizes = [
        0,
        1,
        511,
        512,
        513,
        4095,
        4096,
        4097,
        16_384,
        65_535,
        65_536,
        65_537,
        131_072,
        1_000_003,
        1 << 20,
        5 << 20,
    ];
    for (seed, size) in (1..).zip(sizes) {
        add(
            format!("/data/noise-{size}"),
            &Random::new(seed).bytes(size),
            0o644,
        )?;
        let directory = if seed % 2 == 0 { "a/b/c" } else { "a" };
        add(
            format!("/{directory}/text-{size}"),
            &prose(seed, size),
            0o600,
        )?;
    }
    add(
        "/sbin/init".into(),
        &std::fs::read(artifacts::guest_sources().join("root-init"))?,
        0o755,
    )?;
    if let Ok(busybox) = artifacts::provided("busybox") {
        add("/bin/busybox".into(), &std::fs::read(busybox)?, 0o755)?;
    }
    for empty in ["proc", "sys", "dev", "mnt", "empty"] {
        std::fs::create_dir_all(tree.join(empty))?;
    }
    let links = [
        ("/a/link", "../data/noise-4096"),
        ("/dangling", "nowhere/at/all"),
    ];
    for (path, target) in links {
        symlink(target, tree.join(path.trim_start_matches('/')))?;
    }
    let links = links.map(|(path, target)| (path.to_owned(), target.to_owned()));
    Ok((files.into_iter().collect(), links.to_vec()))
}

/// Incompressible numbers (xorshift64), the same for the same seed.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Starts the numbers of `seed`, which must not be 0.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, evenly enough for choosing.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() >> 33).map_or(0, |number| number % end)
    }

    /// The next `size` bytes.
    pub fn bytes(&mut self, size: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(size + 8);
        while bytes.len() < size {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(size);
        bytes
    }
}

/// Compressible bytes without repetition at any block size.
fn prose(seed: u64, size: usize) -> Vec<u8> {
    let lines = (0_u64..).flat_map(|n| format!("line {n} of text {seed}\n").into_bytes());
    lines.take(size).collect()
}

/// The SHA-256 of `bytes` in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl Stack {
    /// The whole disk.
    ///
    /// # Errors
    ///
    /// If the flat image cannot be read.
    pub fn bytes(&self) -> Result<Vec<u8>> {
        Ok(std::fs::read(&self.flat)?)
    }
}

/// The first sector of a range of [`REFERENCE_SECTORS`] without two equal sectors: data found there came
/// from there.
#[must_use]
pub fn telling_sector(disk: &[u8]) -> Option<usize> {
    let bytes = REFERENCE_SECTORS * 512;
    let all_differ = |range: &[u8]| {
        let mut sectors: Vec<&[u8]> = range.chunks(512).collect();
        sectors.sort_unstable();
        sectors.windows(2).all(|pair| pair[0] != pair[1])
    };
    let range = disk.chunks_exact(bytes).position(all_differ)?;
    Some(range * REFERENCE_SECTORS)
}
