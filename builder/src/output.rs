//! Files that appear when they are complete, or not at all.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, CWD, OFlags};
use tempfile::TempPath;

/// Files under names of ours that are not finished, for [`remove_unfinished`].
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// An output that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// Something is there already.
    #[error("{} exists; --force replaces it", path.display())]
    Exists {
        /// The place.
        path: PathBuf,
    },
    /// The output would replace what it is made from.
    #[error("{} is the input {}; write somewhere else", path.display(), input.display())]
    IsInput {
        /// The place.
        path: PathBuf,
        /// The input.
        input: PathBuf,
    },
    /// Something is there that is not a file.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// The place.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("cannot write {}", path.display())]
    Io {
        /// The place.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A file being written. It has no name before [`finish`](Self::finish); dropped without, nothing is left of it.
///
/// Where the file system can hold files without names, not even a killed process leaves anything behind. Elsewhere it
/// stands under a name of its own beside its place, and [`remove_unfinished`] removes it.
#[derive(Debug)]
pub struct Output {
    file: File,
    path: PathBuf,
    replace: bool,
    named: Option<TempPath>,
}

impl Output {
    /// Starts a file that is to stand at `path`. With `replace`, it takes the place of a file that stands there, once
    /// it is complete. `inputs` are what it is made from, none of which it may replace.
    ///
    /// # Errors
    ///
    /// When something stands there and is not to be replaced, or is an input, or the directory cannot be written to.
    pub fn create(path: &Path, replace: bool, inputs: &[PathBuf]) -> Result<Self, OutputError> {
        let failed = |source| OutputError::Io {
            path: path.to_owned(),
            source,
        };
        check_place(path, replace, inputs)?;
        let dir = directory(path);
        let nameless = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .mode(0o644)
            .custom_flags(OFlags::TMPFILE.bits().cast_signed())
            .open(dir);
        let (file, named) = match nameless {
            Ok(file) => (file, None),
            Err(error) if has_no_nameless_files(&error) => {
                let (file, path) = named_beside(path, dir).map_err(failed)?;
                (file, Some(path))
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self {
            file,
            path: path.to_owned(),
            replace,
            named,
        })
    }

    /// The file, to be written to by position or from front to back.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Where it will stand.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the file durable and gives it its name.
    ///
    /// # Errors
    ///
    /// When the disk is full or failing, or something has come to stand there meanwhile.
    pub fn finish(self) -> Result<(), OutputError> {
        self.file.sync_all().map_err(|source| self.failed(source))?;
        let dir = directory(&self.path);
        match (&self.named, self.replace) {
            (None, false) => self.link_to(&self.path),
            (None, true) => {
                // A file without a name cannot replace one: it takes a passing name first.
                let passing = tempfile::Builder::new()
                    .prefix(".vbd-")
                    .make_in(dir, |name| link(&self.file, name))
                    .map_err(|source| self.failed(source))?;
                passing
                    .into_temp_path()
                    .persist(&self.path)
                    .map_err(|error| self.failed(error.error))
            }
            (Some(_), _) => Ok(()),
        }?;
        let Self {
            path,
            replace,
            named,
            ..
        } = self;
        let failed = |source| OutputError::Io {
            path: path.clone(),
            source,
        };
        if let Some(named) = named {
            forget(&named);
            let done = match replace {
                true => named.persist(&path),
                false => named.persist_noclobber(&path),
            };
            done.map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => OutputError::Exists { path: path.clone() },
                _ => failed(error.error),
            })?;
        }
        File::open(directory(&path))
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }

    fn link_to(&self, path: &Path) -> Result<(), OutputError> {
        link(&self.file, path).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => OutputError::Exists {
                path: path.to_owned(),
            },
            _ => self.failed(source),
        })
    }

    fn failed(&self, source: io::Error) -> OutputError {
        OutputError::Io {
            path: self.path.clone(),
            source,
        }
    }
}

/// Removes what [`Output`]s and [`Scratch`] directories of this process have left under names of their own, and ends
/// the programs that work for it. For the end by a signal, after which nobody drops anything.
pub fn remove_unfinished() {
    crate::program::end_all();
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    for path in unfinished.drain(..) {
        // It may be gone: its owner is still running.
        let _removed = match path.is_dir() {
            true => fs::remove_dir_all(&path),
            false => fs::remove_file(&path),
        };
    }
}

/// A directory for files on the way. It goes, with all that is in it, when it is dropped, and by
/// [`remove_unfinished`].
#[derive(Debug)]
pub struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// A new directory in `dir`.
    ///
    /// # Errors
    ///
    /// When none can be made there.
    pub fn new(dir: &Path) -> Result<Self, OutputError> {
        let dir = tempfile::Builder::new()
            .prefix(".vbd-")
            .tempdir_in(dir)
            .map_err(|source| OutputError::Io {
                path: dir.to_owned(),
                source,
            })?;
        remember(dir.path());
        Ok(Self { dir })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Gone before it is forgotten, so that a signal meanwhile goes on with it.
        let _removed = fs::remove_dir_all(self.dir.path());
        forget(self.dir.path());
    }
}

pub(crate) fn remember(path: &Path) {
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    unfinished.push(path.to_owned());
}

pub(crate) fn forget(path: &Path) {
    let mut unfinished = UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner);
    unfinished.retain(|other| other != path);
}

fn named_beside(path: &Path, dir: &Path) -> io::Result<(File, TempPath)> {
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(path.file_name().unwrap_or_default());
    prefix.push(".");
    let (file, path) = tempfile::Builder::new()
        .prefix(&prefix)
        .permissions(fs::Permissions::from_mode(0o644))
        .tempfile_in(dir)?
        .into_parts();
    remember(&path);
    Ok((file, path))
}

fn link(file: &File, path: &Path) -> io::Result<()> {
    let here = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::linkat(CWD, here, CWD, path, AtFlags::SYMLINK_FOLLOW)?;
    Ok(())
}

fn has_no_nameless_files(error: &io::Error) -> bool {
    // Old kernels see an attempt to write to a directory.
    matches!(
        rustix::io::Errno::from_io_error(error),
        Some(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL)
    )
}

pub(crate) fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

fn check_place(path: &Path, replace: bool, inputs: &[PathBuf]) -> Result<(), OutputError> {
    let there = match fs::metadata(path) {
        Ok(there) => there,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => {
            return Err(OutputError::Io {
                path: path.to_owned(),
                source,
            });
        }
    };
    for input in inputs {
        let same = fs::metadata(input)
            .is_ok_and(|input| (input.dev(), input.ino()) == (there.dev(), there.ino()));
        if same {
            return Err(OutputError::IsInput {
                path: path.to_owned(),
                input: input.clone(),
            });
        }
    }
    match (there.is_file(), replace) {
        (false, _) => Err(OutputError::NotAFile {
            path: path.to_owned(),
        }),
        (true, false) => Err(OutputError::Exists {
            path: path.to_owned(),
        }),
        (true, true) => Ok(()),
    }
}
