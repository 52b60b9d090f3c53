//! Cuts a disk into layers that add up to it again, so that a mistake in merging shows in the guest.
//!
//! The disk is cut into cells of 1 to 64 sectors. Each cell belongs to one layer; the layers below it often
//! hold noise in its place, the layers above say nothing. A cell of zeroes is a hole in every layer, or its
//! layer says that it is zero, over noise below.

use std::path::{Path, PathBuf};

use anyhow::Result;
use lsmt::{Writer, WriterOptions};

use crate::stack::Random;

/// How each layer is stored, lowest first: every form an image may have.
const FORMS: [Form; 4] = [
    Form {
        zfile: Some((zfile::Algorithm::Lz4, 4096)),
        tar: true,
    },
    Form {
        zfile: None,
        tar: false,
    },
    Form {
        zfile: Some((zfile::Algorithm::Zstd, 16_384)),
        tar: false,
    },
    Form {
        zfile: None,
        tar: true,
    },
];

/// How a layer is stored.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// In a ZFile: its algorithm and block size in bytes.
    pub zfile: Option<(zfile::Algorithm, u32)>,
    /// In a tar file.
    pub tar: bool,
}

/// Writes layers into `dir` that read together like `disk`; lowest first.
///
/// # Errors
///
/// If a layer cannot be made or written.
pub fn write(disk: &[u8], dir: &Path) -> Result<Vec<PathBuf>> {
    let options = WriterOptions {
        virtual_size_bytes: disk.len() as u64,
        ..WriterOptions::default()
    };
    let mut writers = Vec::new();
    for _form in &FORMS {
        writers.push(Writer::new(Vec::new(), &options)?);
    }
    let mut random = Random::new(41);
    let mut first = 0;
    while first < disk.len() / 512 {
        let sectors = 1 + random.below(64).min(disk.len() / 512 - first - 1);
        let cell = &disk[first * 512..(first + sectors) * 512];
        cut(cell, first as u64, &mut writers, &mut random)?;
        first += sectors;
    }
    let mut paths = Vec::new();
    for (ordinal, (writer, form)) in writers.into_iter().zip(&FORMS).enumerate() {
        let path = dir.join(format!("layer-{ordinal}"));
        std::fs::write(&path, wrap(writer.finish()?, form)?)?;
        paths.push(path);
    }
    Ok(paths)
}

/// Gives one cell to one layer.
fn cut(
    cell: &[u8],
    first: u64,
    writers: &mut [Writer<Vec<u8>>],
    random: &mut Random,
) -> Result<()> {
    let zero = cell.iter().all(|byte| *byte == 0);
    if zero && random.below(2) == 0 {
        return Ok(());
    }
    let owner = random.below(writers.len());
    // Most of the disk is zero, and noise does not compress.
    let stale_one_in = if zero { 12 } else { 2 };
    for writer in &mut writers[..owner] {
        if random.below(stale_one_in) == 0 {
            writer.data(first, &random.bytes(cell.len()))?;
        }
    }
    if zero {
        writers[owner].zeroed(first, (cell.len() / 512) as u64)?;
    } else {
        writers[owner].data(first, cell)?;
    }
    Ok(())
}

/// Stores a layer in a form.
///
/// # Errors
///
/// If it cannot be compressed.
pub fn wrap(layer: Vec<u8>, form: &Form) -> Result<Vec<u8>> {
    let mut payload = layer;
    if let Some((algorithm, block_size_bytes)) = form.zfile {
        let options = zfile::WriterOptions {
            algorithm,
            block_size_bytes,
            ..zfile::WriterOptions::default()
        };
        let mut writer = zfile::Writer::new(Vec::new(), options)?;
        writer.append(&payload)?;
        payload = writer.finish()?;
    }
    if form.tar {
        let length = payload.len() as u64;
        let trailer = usize::try_from(blob::tar::wrap_trailer_len_bytes(length))?;
        payload = [blob::tar::wrap_header(length), payload, vec![0; trailer]].concat();
    }
    Ok(payload)
}
