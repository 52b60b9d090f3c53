//! A file system that holds what a directory holds, made by the usual programs, always the same.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use blob::FileBlob;

use crate::content::{Content, Raw};
use crate::output::Scratch;
use crate::program::{self, ProgramError};

/// A kind of file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// Can be written to.
    Ext4,
    /// Read-only.
    Erofs,
}

/// A file system that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileSystemError {
    /// The program for it is missing.
    #[error("{program} is needed to make the file system: install the package {package}")]
    NoProgram {
        /// The program.
        program: &'static str,
        /// Where Debian has it.
        package: &'static str,
    },
    /// The program has failed.
    #[error("cannot make a file system of {}; if there is no room in it, give a larger --size", dir.display())]
    Program {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: ProgramError,
    },
    /// The directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no room on the way.
    #[error("cannot write {}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// EROFS is as long as what it holds.
    #[error("an EROFS is as long as it has to be: leave out --size")]
    Size,
}

/// What is to be made.
#[derive(Clone, Debug)]
pub struct FileSystemOptions {
    /// The kind.
    pub kind: FileSystem,
    /// Length in bytes; `None` fits it to the content, with some room for ext4.
    pub size_bytes: Option<u64>,
    /// Its UUID.
    pub uuid: String,
    /// The time at which it was made, in seconds since 1970, at least 1.
    pub made_at: u64,
}

/// Bytes of a block.
const BLOCK_LEN_BYTES: u64 = 4096;
/// Inodes that are left free, beside an eighth of those in use.
const SPARE_INODES: u64 = 4096;
/// Journal, superblocks and tables of a small file system, and some room.
const ROOM_LEN_BYTES: u64 = 96 << 20;
const INODE_LEN_BYTES: u64 = 256;
/// The size of a file system that fits itself to its content is a multiple of this.
const SIZE_UNIT_BYTES: u64 = 4 << 20;

/// Makes a file system of the directory `dir`, on the way in a file in `scratch`.
///
/// The same directory gives the same bytes, whenever it is read: the time of the last access and the last change of an
/// inode are replaced by that of its content, and everything else that is random or new is fixed.
///
/// # Errors
///
/// When the program for it is missing or fails, or the directory cannot be read.
pub fn make(
    dir: &Path,
    options: &FileSystemOptions,
    scratch: &Scratch,
) -> Result<impl Content + use<>, FileSystemError> {
    let image = scratch.path().join("disk.raw");
    match options.kind {
        FileSystem::Ext4 => make_ext4(dir, &image, options, scratch)?,
        FileSystem::Erofs => make_erofs(dir, &image, options)?,
    }
    let failed = |source| FileSystemError::Write {
        path: image.clone(),
        source,
    };
    let file = File::open(&image).map_err(failed)?;
    let file = FileBlob::from_file(file).map_err(|error| failed(io::Error::other(error)))?;
    Ok(Raw::new(
        file,
        format!("the file system of {}", dir.display()),
    ))
}

fn make_ext4(
    dir: &Path,
    image: &Path,
    options: &FileSystemOptions,
    scratch: &Scratch,
) -> Result<(), FileSystemError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| FileSystemError::Write { path, source }
    };
    let script = scratch.path().join("times");
    let mut times = BufWriter::new(File::create(&script).map_err(failed(&script))?);
    let needs = survey(dir, |path, file| settle_times(&mut times, path, file))?;
    times.flush().map_err(failed(&script))?;

    let size = options.size_bytes.unwrap_or_else(|| needs.size_bytes());
    let file = File::create(image).map_err(failed(image))?;
    file.set_len(size).map_err(failed(image))?;
    let made_at = options.made_at.to_string();
    let uuid = &options.uuid;
    let mut mkfs = Command::new("mkfs.ext4");
    mkfs.env("E2FSPROGS_FAKE_TIME", &made_at);
    mkfs.args(["-F", "-q", "-b", "4096", "-I", "256", "-U", uuid]);
    mkfs.args(["-N", &needs.inodes().to_string()]);
    mkfs.arg("-E").arg(format!(
        "hash_seed={uuid},lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    ));
    mkfs.arg("-d").arg(dir).arg(image);
    run(&mut mkfs, dir, "mkfs.ext4", "e2fsprogs")?;

    let mut debugfs = Command::new("debugfs");
    debugfs.env("E2FSPROGS_FAKE_TIME", &made_at);
    debugfs.args(["-w", "-f"]).arg(&script).arg(image);
    run(&mut debugfs, dir, "debugfs", "e2fsprogs")
}

fn make_erofs(
    dir: &Path,
    image: &Path,
    options: &FileSystemOptions,
) -> Result<(), FileSystemError> {
    if options.size_bytes.is_some() {
        return Err(FileSystemError::Size);
    }
    let mut mkfs = Command::new("mkfs.erofs");
    mkfs.args(["-U", &options.uuid, "-T", &options.made_at.to_string()]);
    mkfs.arg(image).arg(dir);
    run(&mut mkfs, dir, "mkfs.erofs", "erofs-utils")
}

fn run(
    command: &mut Command,
    dir: &Path,
    program: &'static str,
    package: &'static str,
) -> Result<(), FileSystemError> {
    match program::run(command) {
        Ok(_) => Ok(()),
        Err(ProgramError::Missing { .. }) => Err(FileSystemError::NoProgram { program, package }),
        Err(source) => Err(FileSystemError::Program {
            dir: dir.to_owned(),
            source,
        }),
    }
}

/// Reading a directory moves its time of access, and copying it the time of its change: neither belongs to the content.
fn settle_times(script: &mut impl Write, path: &Path, file: &fs::Metadata) -> io::Result<()> {
    let name = path.as_os_str().as_bytes();
    if name.contains(&b'\n') {
        // A script has no way to say it.
        return Ok(());
    }
    for field in ["atime", "ctime"] {
        write!(script, "sif \"/")?;
        for byte in name {
            match byte {
                b'"' => script.write_all(b"\"\"")?,
                byte => script.write_all(&[*byte])?,
            }
        }
        writeln!(script, "\" {field} @{}", file.mtime())?;
    }
    Ok(())
}

/// What a directory needs of a file system.
#[derive(Debug, Default)]
struct Needs {
    files: u64,
    blocks: u64,
}

impl Needs {
    fn inodes(&self) -> u64 {
        self.files + self.files / 8 + SPARE_INODES
    }

    fn size_bytes(&self) -> u64 {
        let data = self.blocks * BLOCK_LEN_BYTES;
        let tables = self.inodes() * INODE_LEN_BYTES;
        (data + data / 8 + tables + ROOM_LEN_BYTES).next_multiple_of(SIZE_UNIT_BYTES)
    }
}

/// Looks at everything in `dir`, in an order of its own; `see` is told its path in there.
fn survey(
    dir: &Path,
    mut see: impl FnMut(&Path, &fs::Metadata) -> io::Result<()>,
) -> Result<Needs, FileSystemError> {
    let mut needs = Needs::default();
    let mut linked = HashSet::new();
    let mut to_do = vec![PathBuf::new()];
    while let Some(inside) = to_do.pop() {
        let path = dir.join(&inside);
        let failed = |source| FileSystemError::Read {
            path: path.clone(),
            source,
        };
        let file = match inside.as_os_str().is_empty() {
            true => fs::metadata(&path),
            false => fs::symlink_metadata(&path),
        }
        .map_err(failed)?;
        see(&inside, &file).map_err(failed)?;
        if file.is_dir() {
            for entry in fs::read_dir(&path).map_err(failed)? {
                to_do.push(inside.join(entry.map_err(failed)?.file_name()));
            }
        } else if file.nlink() > 1 && !linked.insert((file.dev(), file.ino())) {
            continue;
        }
        needs.files += 1;
        needs.blocks += file.len().div_ceil(BLOCK_LEN_BYTES).max(1);
    }
    Ok(needs)
}
