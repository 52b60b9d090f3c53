//! A disk that is written down as it is, in a file or block device.

use std::path::Path;

use blob::{FileBlob, ReadAt};
use rustix::fs::SeekFrom;
use rustix::io::Errno;

use crate::content::{Content, ContentError, Stretch};

/// A file or block device that holds a disk as it is. Holes are not read.
#[derive(Debug)]
pub struct Raw {
    file: FileBlob,
    name: String,
}

impl Raw {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// When it is neither a file nor a block device, or cannot be opened.
    pub fn open(path: &Path) -> Result<Self, ContentError> {
        let file = FileBlob::open(path).map_err(|source| ContentError::Open {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self::new(file, path.display().to_string()))
    }

    /// What is open already. `name` is for messages.
    #[must_use]
    pub fn new(file: FileBlob, name: String) -> Self {
        Self { file, name }
    }

    /// Where the next byte is, from `offset` on, that is data or a hole; the end where there is none.
    fn seek(&self, to: SeekFrom) -> Result<u64, Errno> {
        match rustix::fs::seek(self.file.file(), to) {
            Ok(found) => Ok(found.min(self.file.len_bytes())),
            Err(Errno::NXIO) => Ok(self.file.len_bytes()),
            Err(error) => Err(error),
        }
    }
}

impl Content for Raw {
    fn len_bytes(&self) -> u64 {
        self.file.len_bytes()
    }

    fn stretch_at(&self, offset: u64) -> Result<Stretch, ContentError> {
        let all = Stretch::Data {
            end: self.file.len_bytes(),
        };
        match self.seek(SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok(Stretch::Zero { end: data }),
            Ok(_) => match self.seek(SeekFrom::Hole(offset)) {
                // The file changes: whatever is there now has to be read.
                Ok(hole) if hole <= offset => Ok(all),
                Ok(hole) => Ok(Stretch::Data { end: hole }),
                Err(error) => Err(ContentError::read(&self.name, offset, error)),
            },
            // Block devices and some file systems know no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(all),
            Err(error) => Err(ContentError::read(&self.name, offset, error)),
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError> {
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| ContentError::read(&self.name, offset, error))
    }
}
