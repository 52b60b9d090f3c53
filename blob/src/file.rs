//! A local file or block device.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{Advice, OFlags};
use rustix::io::{Errno, ReadWriteFlags};

use crate::{ReadAt, ReadError, ReadErrorKind, range_is_inside};

/// A regular file or block device, opened once and read by position.
///
/// The length is taken at open and never again. The path is never looked at again either: a file renamed or
/// replaced afterwards does not change what is read. A file that has become shorter gives errors for the lost
/// bytes, never zeroes.
#[derive(Debug)]
pub struct FileBlob {
    file: File,
    len_bytes: u64,
    promptness: Promptness,
}

/// How the file can be read without waiting for a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Promptness {
    /// The file system can be told not to wait.
    OnDemand,
    /// It lives in memory, and there is nothing to wait for.
    Always,
    /// Nobody knows when a read waits.
    Unknown,
}

/// What the kernel fetches ahead at a time, at least: it drops the rest of longer advice, and does not say so.
const ADVICE_LEN_BYTES: u64 = 128 << 10;

/// File systems in memory (statfs(2)): they know no reads that do not wait, for theirs never do.
const MEMORY_FILE_SYSTEMS: [i64; 3] = [
    0x0102_1994, // tmpfs
    0x8584_58F6, // ramfs
    0x9584_58F6, // hugetlbfs
];

/// Why a path cannot serve as a blob.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileOpenError {
    /// The operating system refused to open or examine it.
    #[error("cannot open")]
    Open(#[source] io::Error),
    /// It is something else than a regular file or a block device.
    #[error("is {found}, expected a regular file or a block device")]
    FileType {
        /// What it is.
        found: &'static str,
    },
}

impl FileBlob {
    /// Opens `path` for reading.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or is neither a regular file nor a block device.
    pub fn open(path: &Path) -> Result<Self, FileOpenError> {
        // Without O_NONBLOCK, opening a FIFO would wait for a writer, perhaps for ever. It does nothing to
        // regular files and block devices.
        let open = |flags: OFlags| {
            let mut options = OpenOptions::new();
            let flags = i32::try_from(flags.bits()).unwrap_or_default();
            options.read(true).custom_flags(flags).open(path)
        };
        // To note the time of every read is of no use to anybody; only the owner may leave it out.
        let file = open(OFlags::NONBLOCK | OFlags::NOATIME)
            .or_else(|_not_owner| open(OFlags::NONBLOCK))
            .map_err(FileOpenError::Open)?;
        Self::from_file(file)
    }

    /// Takes over a file that is already open for reading.
    ///
    /// # Errors
    ///
    /// When it is neither a regular file nor a block device.
    pub fn from_file(file: File) -> Result<Self, FileOpenError> {
        let metadata = file.metadata().map_err(FileOpenError::Open)?;
        let file_type = metadata.file_type();
        let len_bytes = if file_type.is_file() {
            metadata.len()
        } else if file_type.is_block_device() {
            block_device_len_bytes(&file).map_err(FileOpenError::Open)?
        } else {
            return Err(FileOpenError::FileType {
                found: file_type_name(file_type),
            });
        };
        let promptness = promptness(&file);
        Ok(Self {
            file,
            len_bytes,
            promptness,
        })
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// The flags for a read that does not wait for a device, if there can be one.
    #[must_use]
    pub fn ready_read_flags(&self) -> Option<ReadWriteFlags> {
        match self.promptness {
            Promptness::OnDemand => Some(ReadWriteFlags::NOWAIT),
            Promptness::Always => Some(ReadWriteFlags::empty()),
            Promptness::Unknown => None,
        }
    }

    /// Whether the kernel can wait for a read of it without a thread, as it can where it can be told not to wait.
    #[must_use]
    pub fn waits_without_thread(&self) -> bool {
        self.promptness == Promptness::OnDemand
    }

    /// Tells the kernel whether what comes next is read in order: it reads twice as far ahead then. Holds for whoever reads
    /// this file, until somebody says otherwise.
    pub fn expect_order(&self, in_order: bool) {
        let advice = if in_order {
            Advice::Sequential
        } else {
            Advice::Normal
        };
        // Advice is free to be ignored.
        let _advised = rustix::fs::fadvise(&self.file, 0, None, advice);
    }

    /// What a read means that found the end of the file at byte `offset`, where the file was longer when it was
    /// opened.
    #[must_use]
    pub fn shortened(offset: u64) -> ReadError {
        let cause = io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file has become shorter since it was opened",
        );
        ReadError::new(ReadErrorKind::Io, offset).with_source(cause)
    }
}

/// Tries a read that does not wait: file systems that know none say so.
fn promptness(file: &File) -> Promptness {
    let mut byte = [0];
    let tried = rustix::io::preadv2(
        file,
        &mut [IoSliceMut::new(&mut byte)],
        0,
        ReadWriteFlags::NOWAIT,
    );
    match tried {
        Ok(_) | Err(Errno::AGAIN) => Promptness::OnDemand,
        Err(_) if is_in_memory(file) => Promptness::Always,
        Err(_) => Promptness::Unknown,
    }
}

/// Whether the file is memory and nothing else: on such a file system, or one of memfd_create(2).
#[must_use]
pub fn is_in_memory(file: &File) -> bool {
    rustix::fs::fstatfs(file).is_ok_and(|stat| MEMORY_FILE_SYSTEMS.contains(&stat.f_type))
}

/// A block device says 0 in its metadata; its end is where seeking to the end leads.
fn block_device_len_bytes(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))?)
}

fn file_type_name(file_type: std::fs::FileType) -> &'static str {
    if file_type.is_dir() {
        "a directory"
    } else if file_type.is_fifo() {
        "a pipe"
    } else if file_type.is_socket() {
        "a socket"
    } else if file_type.is_char_device() {
        "a character device"
    } else {
        "of an unknown type"
    }
}

impl ReadAt for FileBlob {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        if !range_is_inside(offset, buf.len(), self.len_bytes) {
            return Err(ReadError::new(ReadErrorKind::OutOfRange, offset));
        }
        // `FileExt::read_exact_at` goes on after EINTR and after short reads, and fails at the end of file.
        self.file
            .read_exact_at(buf, offset)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => Self::shortened(offset),
                _ => ReadError::new(ReadErrorKind::Io, offset).with_source(error),
            })
    }

    fn read_ready_at(&self, buf: &mut [u8], offset: u64) -> usize {
        let inside = range_is_inside(offset, buf.len(), self.len_bytes);
        let Some(flags) = self.ready_read_flags().filter(|_| inside) else {
            return 0;
        };
        let read = rustix::io::preadv2(&self.file, &mut [IoSliceMut::new(buf)], offset, flags);
        read.unwrap_or(0)
    }

    fn file_range(&self) -> Option<(&FileBlob, u64)> {
        Some((self, 0))
    }

    fn will_need(&self, offset: u64, len_bytes: u64) {
        let end = offset.saturating_add(len_bytes);
        let mut offset = offset;
        while let Some(len) = NonZeroU64::new(end.saturating_sub(offset).min(ADVICE_LEN_BYTES)) {
            // Advice is free to be ignored.
            let _advised = rustix::fs::fadvise(&self.file, offset, Some(len), Advice::WillNeed);
            offset = offset.saturating_add(len.get());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_util;

    fn file_with(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn file_blob_conforms() {
        let bytes = test_util::noise(10_000, 7);
        let file = file_with(&bytes);
        test_util::conformance(&FileBlob::open(file.path()).unwrap(), &bytes);
    }

    #[test]
    fn what_is_at_hand_is_a_beginning_of_what_is_there() {
        let bytes = test_util::noise(10_000, 7);
        let shm = Path::new("/dev/shm");
        let dirs = [std::env::temp_dir(), shm.to_owned()];
        for dir in dirs.iter().filter(|dir| dir.is_dir()) {
            let file = tempfile::NamedTempFile::new_in(dir).unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            let blob = FileBlob::open(file.path()).unwrap();
            assert_eq!(blob.file_range().unwrap().1, 0);
            blob.will_need(0, 10_000);
            let mut buf = [0; 5000];
            let len = blob.read_ready_at(&mut buf, 4999);
            assert_eq!(buf[..len], bytes[4999..][..len]);
            // It has just been written, so wherever it can be told that it is in memory, it is.
            assert_eq!(len == 5000, blob.ready_read_flags().is_some(), "{dir:?}");
            assert_eq!(blob.read_ready_at(&mut buf, 5001), 0, "beyond the end");
            assert_eq!(blob.read_ready_at(&mut buf, u64::MAX), 0);
            file.as_file().set_len(6000).unwrap();
            assert!(blob.read_ready_at(&mut buf, 4999) <= 1001);
        }
    }

    #[test]
    fn file_that_shrinks_gives_an_error_and_keeps_its_length() {
        let file = file_with(&[7; 4096]);
        let blob = FileBlob::open(file.path()).unwrap();
        file.as_file().set_len(1000).unwrap();
        assert_eq!(blob.len_bytes(), 4096);
        let mut buf = [0; 1000];
        blob.read_exact_at(&mut buf, 0).unwrap();
        let error = blob.read_exact_at(&mut buf, 1).unwrap_err();
        assert_eq!(error.kind(), ReadErrorKind::Io);
        assert!(
            std::error::Error::source(&error)
                .unwrap()
                .to_string()
                .contains("shorter")
        );
    }

    #[test]
    fn other_file_types_are_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = FileBlob::open(dir.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "is a directory, expected a regular file or a block device"
        );
        let error = FileBlob::open(Path::new("/dev/null")).unwrap_err();
        assert!(
            error.to_string().starts_with("is a character device"),
            "{error}"
        );
        let fifo = dir.path().join("fifo");
        rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, 0o600.into()).unwrap();
        let error = FileBlob::open(&fifo).unwrap_err();
        assert!(error.to_string().starts_with("is a pipe"), "{error}");
        assert!(matches!(
            FileBlob::open(&dir.path().join("absent")),
            Err(FileOpenError::Open(_))
        ));
    }
}
