//! The disks: one content as a flat image, as stacks of layers and as chains of qcow2 files. Made when first wanted.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lsmt::{Writer, WriterOptions};
use rustix::fs::{Advice, fadvise};
use vm_tests::stack::Random;
use zfile::Algorithm;

use crate::content;
use crate::say;

/// What belongs to one layer or another.
const CELL_BYTES: usize = 64 << 10;
const SECTOR_BYTES: usize = 512;
/// Pages are looked for at this distance.
const SAMPLE_STEP_BYTES: u64 = 64 << 10;
/// Files are read into the page cache in steps of this size.
const CACHING_STEP_BYTES: usize = 4 << 10;

/// A stack of overlaybd layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stack {
    pub(crate) layers: usize,
    /// Algorithm and block size in bytes.
    pub(crate) compression: Option<(Algorithm, u32)>,
}

impl Stack {
    pub(crate) fn raw(layers: usize) -> Self {
        Self {
            layers,
            compression: None,
        }
    }

    pub(crate) fn lz4(layers: usize) -> Self {
        Self::compressed(Algorithm::Lz4, 4, layers)
    }

    pub(crate) fn compressed(algorithm: Algorithm, block_kib: u32, layers: usize) -> Self {
        Self {
            layers,
            compression: Some((algorithm, block_kib << 10)),
        }
    }

    pub(crate) fn name(&self) -> String {
        match self.compression {
            None => format!("raw-{}", self.layers),
            Some((algorithm, 4096)) => format!("{algorithm}-{}", self.layers).to_lowercase(),
            Some((algorithm, bytes)) => {
                format!("{algorithm}-{}k-{}", bytes >> 10, self.layers).to_lowercase()
            }
        }
    }
}

/// A chain of qcow2 files, each with the one below as its backing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chain {
    pub(crate) layers: usize,
    /// With zstd; otherwise not compressed.
    pub(crate) zstd: bool,
}

impl Chain {
    pub(crate) fn name(&self) -> String {
        let zstd = if self.zstd { "zstd-" } else { "" };
        format!("qcow2-{zstd}{}", self.layers)
    }
}

/// Where they are.
#[derive(Debug)]
pub(crate) struct Disks {
    dir: PathBuf,
    size_bytes: u64,
    /// Those that this run has brought into the page cache.
    used: RefCell<HashSet<PathBuf>>,
    /// Removes the directory at the end, unless it is kept.
    _temporary: Option<tempfile::TempDir>,
}

impl Disks {
    pub(crate) fn new(parent: &Path, size_bytes: u64, keep: bool) -> Result<Self> {
        std::fs::create_dir_all(parent)?;
        let parent = parent.canonicalize()?;
        let (dir, temporary) = if keep {
            (parent.join(format!("bench-{}", size_bytes >> 20)), None)
        } else {
            let temporary = tempfile::Builder::new()
                .prefix("bench-")
                .tempdir_in(&parent)?;
            (temporary.path().to_owned(), Some(temporary))
        };
        std::fs::create_dir_all(&dir)?;
        Ok(Self {
            dir,
            size_bytes,
            used: RefCell::default(),
            _temporary: temporary,
        })
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// The content itself.
    pub(crate) fn flat(&self) -> Result<PathBuf> {
        let path = self.dir.join("flat.img");
        self.once(&path, |path| {
            let from_files = content::write(path, self.size_bytes)?;
            say!(
                "made a disk of {} MiB, {} MiB of it from files below /usr",
                self.size_bytes >> 20,
                from_files >> 20
            );
            Ok(())
        })?;
        Ok(path)
    }

    /// The layers of the stack, lowest first.
    pub(crate) fn stack(&self, stack: &Stack) -> Result<Vec<PathBuf>> {
        let dir = self.dir.join(stack.name());
        let flat = self.flat()?;
        self.once(&dir, |dir| {
            say!("making {}", stack.name());
            std::fs::create_dir(dir)?;
            match stack.compression {
                None => write_layers(&flat, self.size_bytes, &paths(dir, stack.layers), Ok, Ok),
                Some((algorithm, block_size_bytes)) => {
                    let options = zfile::WriterOptions {
                        algorithm,
                        block_size_bytes,
                        allow_oversized_blocks: true,
                        ..zfile::WriterOptions::default()
                    };
                    write_layers(
                        &flat,
                        self.size_bytes,
                        &paths(dir, stack.layers),
                        |file| Ok(zfile::Writer::new(file, options.clone())?),
                        |writer| Ok(writer.finish()?),
                    )
                }
            }
        })?;
        Ok(paths(&dir, stack.layers))
    }

    /// The files of the chain, lowest first.
    pub(crate) fn chain(&self, chain: &Chain, qemu_img: &Path) -> Result<Vec<PathBuf>> {
        let dir = self.dir.join(chain.name());
        let flat = self.flat()?;
        self.once(&dir, |dir| {
            say!("making {}", chain.name());
            std::fs::create_dir(dir)?;
            let flat = File::open(&flat)?;
            let owners = owners(self.size_bytes, chain.layers);
            // Backing files go by the names they will have in the end.
            let named = paths(&self.dir.join(chain.name()), chain.layers);
            for (layer, path) in paths(dir, chain.layers).iter().enumerate() {
                let sparse = dir.join("sparse.img");
                write_sparse(&flat, &sparse, self.size_bytes, &owners, layer)?;
                let below = layer.checked_sub(1).map(|below| named[below].as_path());
                qcow2(qemu_img, &sparse, path, below, chain.zstd)?;
                std::fs::remove_file(&sparse)?;
            }
            Ok(())
        })?;
        Ok(paths(&dir, chain.layers))
    }

    /// Sees that a file or directory is there, and when it is first used, that it is in the page cache as all others are.
    fn once(&self, path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        if !path.exists() {
            self.make(path, make)?;
        }
        let is_new_to_us = self.used.borrow_mut().insert(path.to_owned());
        if is_new_to_us {
            // Whoever wrote or read it before left it in pages of other sizes.
            let files = files_of(path)?;
            drop_cached(&files)?;
            make_cached(&files)?;
        }
        Ok(())
    }

    /// Makes a file or directory under another name first, so that half of one is never taken for it.
    fn make(&self, path: &Path, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        // Another bench may be about to make the same.
        let lock = File::create(self.dir.join("lock"))?;
        lock.lock()?;
        if path.exists() {
            return Ok(());
        }
        let unfinished = self.dir.join("unfinished");
        if unfinished.is_dir() {
            std::fs::remove_dir_all(&unfinished)?;
        }
        make(&unfinished).with_context(|| format!("making {}", path.display()))?;
        std::fs::rename(&unfinished, path)?;
        Ok(())
    }
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    std::fs::read_dir(path)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}

fn paths(dir: &Path, layers: usize) -> Vec<PathBuf> {
    (0..layers)
        .map(|layer| dir.join(format!("layer-{layer:03}")))
        .collect()
}

/// Which layer each cell belongs to: the lowest has the most, the one above half of that, then a third, as images are
/// built from a base by ever smaller steps.
fn owners(size_bytes: u64, layers: usize) -> Vec<usize> {
    const WHOLE: usize = 1 << 20;
    let mut ends = Vec::new();
    let mut end = 0;
    for layer in 1..=layers {
        end += WHOLE / layer;
        ends.push(end);
    }
    let mut random = Random::new(layers as u64);
    (0..size_bytes.div_ceil(CELL_BYTES as u64))
        .map(|_cell| {
            let choice = random.below(end);
            ends.partition_point(|end| *end <= choice)
        })
        .collect()
}

/// Gives each cell of the image to its layer. `wrap` and `unwrap` say what the bytes pass on their way to the file.
fn write_layers<W: Write>(
    flat: &Path,
    size_bytes: u64,
    paths: &[PathBuf],
    wrap: impl Fn(BufWriter<File>) -> Result<W>,
    unwrap: impl Fn(W) -> Result<BufWriter<File>>,
) -> Result<()> {
    let options = WriterOptions {
        virtual_size_bytes: size_bytes,
        ..WriterOptions::default()
    };
    let mut writers = Vec::new();
    for path in paths {
        let file = BufWriter::with_capacity(256 << 10, File::create(path)?);
        writers.push(Writer::new(wrap(file)?, &options)?);
    }
    let mut flat = File::open(flat)?;
    let mut cell = vec![0; CELL_BYTES];
    for (number, owner) in owners(size_bytes, paths.len()).into_iter().enumerate() {
        flat.read_exact(&mut cell)?;
        let sector = number * CELL_BYTES / SECTOR_BYTES;
        writers[owner].data(sector as u64, &cell)?;
    }
    for writer in writers {
        unwrap(writer.finish()?)?.into_inner()?.sync_all()?;
    }
    Ok(())
}

/// The cells of one layer in a file of the whole size.
fn write_sparse(
    flat: &File,
    path: &Path,
    size_bytes: u64,
    owners: &[usize],
    layer: usize,
) -> Result<()> {
    let sparse = File::create(path)?;
    sparse.set_len(size_bytes)?;
    let mut cell = vec![0; CELL_BYTES];
    for (number, _) in owners.iter().enumerate().filter(|(_, own)| **own == layer) {
        let offset = (number * CELL_BYTES) as u64;
        flat.read_exact_at(&mut cell, offset)?;
        sparse.write_all_at(&cell, offset)?;
    }
    Ok(())
}

fn qcow2(qemu_img: &Path, raw: &Path, path: &Path, below: Option<&Path>, zstd: bool) -> Result<()> {
    let mut convert = Command::new(qemu_img);
    convert.args(["convert", "-q", "-f", "raw", "-O", "qcow2"]);
    if zstd {
        convert.args(["-c", "-o", "compression_type=zstd"]);
    }
    run(convert.arg(raw).arg(path))?;
    if let Some(below) = below {
        // Nothing is compared: what this one does not hold was never there.
        let mut rebase = Command::new(qemu_img);
        rebase.args(["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b"]);
        run(rebase.arg(below).arg(path))?;
    }
    Ok(File::open(path)?.sync_all()?)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Takes files out of the page cache.
pub(crate) fn drop_cached(files: &[PathBuf]) -> Result<()> {
    for path in files {
        let file = File::open(path)?;
        file.sync_all()?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
    }
    Ok(())
}

/// The same, where read-ahead may still be under way: a page that comes later is not dropped, and whoever reads next
/// would find it, or wait for it. Reading everything waits for all of them.
pub(crate) fn drop_settled(files: &[PathBuf]) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = File::open(path)?;
        while file.read(&mut buffer)? > 0 {}
    }
    drop_cached(files)
}

/// Sees that files are in the page cache. Those of which something is missing are read again from start to end.
pub(crate) fn make_cached(files: &[PathBuf]) -> Result<()> {
    for path in files {
        let file = File::open(path)?;
        if !is_cached(&file)? {
            cache_in_large_pages(file)?;
        }
    }
    Ok(())
}

/// Reads a file into the page cache anew, from start to end in small steps.
///
/// The kernel reads ahead in pages that grow from step to step, begins with pages of 4 KiB, and makes its first step
/// longer the more it was asked for. So the beginning of what is read in large pieces is in small pages. Of a large file
/// that is nothing, of a small one everything, and reading from small pages takes up to a fifth longer: stacks of many
/// files would be compared with stacks of few by the size of their pages.
fn cache_in_large_pages(mut file: File) -> Result<()> {
    fadvise(&file, 0, None, Advice::DontNeed)?;
    fadvise(&file, 0, None, Advice::Sequential)?;
    let mut buffer = [0; CACHING_STEP_BYTES];
    while file.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Whether a page in every so many is in the page cache.
pub(crate) fn is_cached(file: &File) -> Result<bool> {
    use rustix::io::{Errno, ReadWriteFlags, preadv2};
    let step = usize::try_from(SAMPLE_STEP_BYTES)?;
    for offset in (0..file.metadata()?.len()).step_by(step) {
        let mut byte = [0];
        let buffers = &mut [std::io::IoSliceMut::new(&mut byte)];
        match preadv2(file, buffers, offset, ReadWriteFlags::NOWAIT) {
            Ok(_) => {}
            Err(Errno::AGAIN) => return Ok(false),
            // A file system that cannot tell is asked the slow way.
            Err(Errno::OPNOTSUPP) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::{Chain, Stack, owners};
    use zfile::Algorithm;

    #[test]
    fn every_layer_owns_something_and_the_lowest_most() {
        let owners = owners(512 << 20, 255);
        assert_eq!(owners.len(), 8192);
        let mut counts = vec![0; 255];
        owners.iter().for_each(|owner| counts[*owner] += 1);
        assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
        assert!(counts[1..].iter().all(|count| *count < counts[0]));
    }

    #[test]
    fn names_tell_disks_apart() {
        let names = [
            Stack::raw(7).name(),
            Stack::lz4(7).name(),
            Stack::compressed(Algorithm::Zstd, 64, 7).name(),
            Chain {
                layers: 7,
                zstd: true,
            }
            .name(),
        ];
        assert_eq!(names, ["raw-7", "lz4-7", "zstd-64k-7", "qcow2-zstd-7"]);
    }
}
