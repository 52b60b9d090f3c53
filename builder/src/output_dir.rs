//! Directories that appear when they are complete, or not at all.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tempfile::TempDir;

use crate::output::{OutputError, directory, forget, remember};

/// A directory being filled. It stands beside its place under a name of its own before [`finish`](Self::finish);
/// dropped without, nothing is left of it, and [`remove_unfinished`](crate::remove_unfinished) knows of it.
#[derive(Debug)]
pub struct OutputDir {
    dir: TempDir,
    path: PathBuf,
}

impl OutputDir {
    /// Starts a directory that is to stand at `path`. Whoever asks to replace another one, with `replace`, has seen that
    /// it may go. `inputs` are directories it is made from, none of which it may replace.
    ///
    /// # Errors
    ///
    /// When something stands there and is not to be replaced, or is an input or no directory, or when the directory
    /// above cannot be written to.
    pub fn create(path: &Path, replace: bool, inputs: &[PathBuf]) -> Result<Self, OutputError> {
        let failed = |source| OutputError::Io {
            path: path.to_owned(),
            source,
        };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
            Ok(there) => {
                for input in inputs {
                    let is_same = fs::metadata(input).is_ok_and(|input| {
                        (input.dev(), input.ino()) == (there.dev(), there.ino())
                    });
                    if is_same {
                        return Err(OutputError::IsInput {
                            path: path.to_owned(),
                            input: input.clone(),
                        });
                    }
                }
                if !replace {
                    return Err(OutputError::Exists {
                        path: path.to_owned(),
                    });
                }
                if !there.is_dir() {
                    return Err(failed(io::ErrorKind::NotADirectory.into()));
                }
            }
        }
        let mut prefix = std::ffi::OsString::from(".");
        prefix.push(path.file_name().unwrap_or_default());
        prefix.push(".");
        let dir = tempfile::Builder::new()
            .prefix(&prefix)
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir_in(directory(path))
            .map_err(failed)?;
        remember(dir.path());
        Ok(Self {
            dir,
            path: path.to_owned(),
        })
    }

    /// Where it stands for now, to be filled.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Gives the directory its name. What stood there before is removed. The files in it are durable if whoever wrote
    /// them has made them so.
    ///
    /// # Errors
    ///
    /// When something has come to stand there meanwhile, or the disk is failing.
    pub fn finish(self) -> Result<(), OutputError> {
        let failed = |source| OutputError::Io {
            path: self.path.clone(),
            source,
        };
        let rename = |flags| renameat_with(CWD, self.dir.path(), CWD, &self.path, flags);
        let done = match self.path.exists() {
            // What was there gets the passing name, and goes with it.
            true => rename(RenameFlags::EXCHANGE),
            false => rename(RenameFlags::NOREPLACE),
        };
        match done {
            Ok(()) => {}
            Err(rustix::io::Errno::EXIST) => {
                return Err(OutputError::Exists {
                    path: self.path.clone(),
                });
            }
            Err(error) => return Err(failed(error.into())),
        }
        File::open(directory(&self.path))
            .and_then(|dir| dir.sync_all())
            .map_err(failed)
    }
}

impl Drop for OutputDir {
    fn drop(&mut self) {
        // Gone before it is forgotten, so that a signal meanwhile goes on with it.
        let _removed = fs::remove_dir_all(self.dir.path());
        forget(self.dir.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let names = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_directory_appears_when_it_is_complete_and_takes_the_place_of_another() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("out");
        for content in ["first", "second"] {
            let output = OutputDir::create(&path, true, &[]).unwrap();
            fs::write(output.dir().join(content), "").unwrap();
            output.finish().unwrap();
            assert_eq!(names(above.path()), ["out"]);
            assert_eq!(names(&path), [content]);
        }
        let dropped = OutputDir::create(&path, true, &[]).unwrap();
        assert_eq!(names(above.path()).len(), 2);
        drop(dropped);
        assert_eq!(names(above.path()), ["out"]);
    }

    #[test]
    fn what_may_not_be_replaced_is_not() {
        let above = tempfile::tempdir().unwrap();
        let path = above.path().join("out");
        fs::create_dir(&path).unwrap();
        let exists = OutputDir::create(&path, false, &[]).unwrap_err();
        assert!(matches!(exists, OutputError::Exists { .. }), "{exists}");
        let input = OutputDir::create(&path, true, &[above.path().join("out")]).unwrap_err();
        assert!(matches!(input, OutputError::IsInput { .. }), "{input}");
        let file = above.path().join("file");
        fs::write(&file, "").unwrap();
        let file = OutputDir::create(&file, true, &[]).unwrap_err();
        assert!(matches!(file, OutputError::Io { .. }), "{file}");
        // Something comes to stand there while the directory is filled.
        let late = above.path().join("late");
        let output = OutputDir::create(&late, false, &[]).unwrap();
        drop(output);
        assert_eq!(names(above.path()), ["file", "out"]);
    }
}
