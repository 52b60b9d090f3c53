//! The flat image: bytes of this machine's programs and documents, which compress as an image's do.

use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::Result;
use vm_tests::stack::Random;

/// Files are cut off here, so that no single one is most of the disk.
const FILE_MAX_BYTES: u64 = 16 << 20;
const BLOCK_BYTES: usize = 4096;

/// Writes `size_bytes` of files below /usr, each at a block of its own as a file system has them, and text with noise
/// where there are not enough. Returns how many bytes are from files.
pub(crate) fn write(path: &Path, size_bytes: u64) -> Result<u64> {
    let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
    let mut left = size_bytes;
    let mut waiting = vec![PathBuf::from("/usr")];
    while let Some(dir) = waiting.pop().filter(|_| left > 0) {
        let Ok(entries) = std::fs::read_dir(&dir) else {
            continue;
        };
        let mut paths: Vec<_> = entries.flatten().collect();
        paths.sort_by_key(std::fs::DirEntry::file_name);
        for entry in paths {
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() {
                // What may not be read is not needed.
                left -= copy(&entry.path(), &mut out, left).unwrap_or(0);
            }
        }
    }
    let from_files = size_bytes - left;
    let mut random = Random::new(7);
    while left > 0 {
        let block = text_and_noise(&mut random);
        let piece = block.len().min(usize::try_from(left)?);
        out.write_all(&block[..piece])?;
        left -= piece as u64;
    }
    out.into_inner()?.sync_all()?;
    Ok(from_files)
}

/// Copies a file up to whole blocks. Nothing is written unless it can be read to its end.
fn copy(path: &Path, out: &mut impl Write, left: u64) -> Result<u64> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(FILE_MAX_BYTES.min(left))
        .read_to_end(&mut bytes)?;
    bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
    bytes.truncate(usize::try_from(left)?);
    out.write_all(&bytes)?;
    Ok(bytes.len() as u64)
}

/// A block of which LZ4 makes about half.
fn text_and_noise(random: &mut Random) -> Vec<u8> {
    let mut block = random.bytes(BLOCK_BYTES / 2 - 256);
    while block.len() < BLOCK_BYTES {
        let line = format!("entry {} is {}\n", random.below(1000), random.below(10));
        block.extend_from_slice(line.as_bytes());
    }
    block.truncate(BLOCK_BYTES);
    block
}
