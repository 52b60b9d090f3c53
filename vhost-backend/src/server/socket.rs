//! A listening socket at a path: it exists exactly while somebody answers on it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags};

/// Longest socket path: the address structure has 108 bytes, the last of them NUL.
const MAX_PATH_LEN_BYTES: usize = 107;
/// How long another process may keep a directory to itself: it holds it for a few system calls.
const DIRECTORY_PATIENCE: Duration = Duration::from_secs(2);
const DIRECTORY_POLL: Duration = Duration::from_millis(1);
/// How often a stale socket may turn up again before somebody else is suspected of putting it there.
const MAX_ATTEMPTS: u32 = 3;

/// Why a socket cannot be put at a path.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The path does not fit into a socket address.
    #[error("path of {len} bytes, a socket path has at most {MAX_PATH_LEN_BYTES}")]
    PathTooLong {
        /// Its length.
        len: usize,
    },
    /// The path names no file.
    #[error("the path names no file")]
    NoName,
    /// The directory cannot be used.
    #[error("cannot use its directory {}", image::Shown(directory))]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something that is not a socket is there.
    #[error("exists and is not a socket; it was left as it is")]
    NotASocket,
    /// Somebody answers there.
    #[error("another process is serving on it")]
    InUse,
    /// Somebody keeps putting sockets there, or keeps its directory locked.
    #[error("others keep putting sockets there, or keep its directory locked")]
    Contended,
    /// The system refused.
    #[error("cannot {action}")]
    System {
        /// What was tried.
        action: &'static str,
        /// Why not.
        source: io::Error,
    },
}

fn cannot(action: &'static str) -> impl Fn(io::Error) -> SocketError {
    move |source| SocketError::System { action, source }
}

/// A listening socket, removed from its path when dropped.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket: a path, and what was put there, so that nothing else is ever removed.
#[derive(Clone, Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            identity: (metadata.dev(), metadata.ino()),
        })
    }

    /// Removes the socket from its path, unless something else is there by now.
    pub fn remove(&self) {
        if Self::at(&self.path).is_ok_and(|now| now.identity == self.identity) {
            let _removed = std::fs::remove_file(&self.path);
        }
    }
}

impl BoundSocket {
    /// Puts a listening socket at `path`, readable and writable for its owner only.
    ///
    /// The socket is bound under another name and moved to its path when it listens already, so whoever sees the
    /// path can connect. A socket on which nobody answers is replaced; anything else there is left alone.
    ///
    /// # Errors
    ///
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let len = path.as_os_str().as_bytes().len();
        if len > MAX_PATH_LEN_BYTES {
            return Err(SocketError::PathTooLong { len });
        }
        // With a slash at its end, a path means a directory.
        let name = path
            .file_name()
            .filter(|_| !path.as_os_str().as_bytes().ends_with(b"/"))
            .ok_or(SocketError::NoName)?;
        let parent = path
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let directory = open_directory(parent)?;
        // Others that start at the same moment find the same stale socket; one at a time may take it for dead.
        let _alone = lock_directory(&directory)?;
        // Before anything is created, so that the usual mistakes leave no trace.
        remove_if_stale(path)?;
        let (listener, temporary) = listen_in(&directory, parent)?;
        let placed = place(&directory, &temporary, name.into(), path);
        if placed.is_err() {
            let _removed = rustix::fs::unlinkat(&directory, &temporary, AtFlags::empty());
        }
        placed?;
        let file = SocketFile::at(path).map_err(cannot("examine the new socket"))?;
        Ok(Self { listener, file })
    }

    /// The socket to accept on.
    #[must_use]
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Its file.
    #[must_use]
    pub fn file(&self) -> &SocketFile {
        &self.file
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        self.file.remove();
    }
}

fn open_directory(directory: &Path) -> Result<OwnedFd, SocketError> {
    let open = |flags| {
        let flags = flags | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(directory, flags, Mode::empty())
    };
    // One that may be used but not listed cannot be locked; it serves all the same.
    open(OFlags::RDONLY)
        .or_else(|_unreadable| open(OFlags::PATH))
        .map_err(|error| SocketError::Directory {
            directory: directory.to_owned(),
            source: error.into(),
        })
}

/// Keeps other processes of this program out of the directory until what is returned is dropped.
///
/// Between connecting to a socket in vain and removing it, somebody else may have replaced it by a living one.
fn lock_directory(directory: &OwnedFd) -> Result<OwnedFd, SocketError> {
    // A description of its own: the lock goes with it, also when this process is killed.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(lock) = rustix::fs::openat(directory, ".", flags, Mode::empty()) else {
        return directory
            .try_clone()
            .map_err(cannot("use the directory of the socket"));
    };
    let deadline = Instant::now() + DIRECTORY_PATIENCE;
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => {}
            // Also where the file system knows no locks.
            _ => return Ok(lock),
        }
        if Instant::now() > deadline {
            return Err(SocketError::Contended);
        }
        std::thread::sleep(DIRECTORY_POLL);
    }
}

/// A listening socket with mode 0600 under a temporary name in `directory`.
fn listen_in(directory: &OwnedFd, parent: &Path) -> Result<(UnixListener, OsString), SocketError> {
    // The mask is the process's; this program creates no other file, so it stays.
    let _previous = rustix::process::umask(Mode::from_raw_mode(0o177));
    let temporary = OsString::from(format!(".vbd-{}", std::process::id()));
    // A process of the same number may have died here.
    let _removed = rustix::fs::unlinkat(directory, &temporary, AtFlags::empty());
    let listener = UnixListener::bind(parent.join(&temporary))
        .or_else(|error| {
            // The temporary name may be longer than the final one. The directory has a shorter name as well.
            use std::os::fd::AsRawFd;
            let short = format!("/proc/self/fd/{}", directory.as_raw_fd());
            UnixListener::bind(Path::new(&short).join(&temporary)).map_err(|_no_proc| error)
        })
        .map_err(cannot("bind a socket in its directory"))?;
    Ok((listener, temporary))
}

/// Moves the listening socket to its path, replacing a stale one that has turned up meanwhile.
fn place(
    directory: &OwnedFd,
    temporary: &OsString,
    name: OsString,
    path: &Path,
) -> Result<(), SocketError> {
    for _ in 0..MAX_ATTEMPTS {
        match rustix::fs::renameat_with(
            directory,
            temporary,
            directory,
            &name,
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => return Ok(()),
            Err(rustix::io::Errno::EXIST) => remove_if_stale(path)?,
            // A file system without this kind of rename; a plain link refuses an existing name as well.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                match rustix::fs::linkat(directory, temporary, directory, &name, AtFlags::empty()) {
                    Ok(()) => {
                        let _removed = rustix::fs::unlinkat(directory, temporary, AtFlags::empty());
                        return Ok(());
                    }
                    Err(rustix::io::Errno::EXIST) => remove_if_stale(path)?,
                    Err(error) => return Err(cannot("move the socket to its path")(error.into())),
                }
            }
            Err(error) => return Err(cannot("move the socket to its path")(error.into())),
        }
    }
    Err(SocketError::Contended)
}

/// Makes room at `path` if there is nothing, or a socket on which nobody answers.
fn remove_if_stale(path: &Path) -> Result<(), SocketError> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("examine what is there")(error)),
    };
    if !metadata.file_type().is_socket() {
        return Err(SocketError::NotASocket);
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(SocketError::InUse),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            match rustix::fs::unlinkat(CWD, path, AtFlags::empty()) {
                Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
                Err(error) => Err(cannot("remove the stale socket")(error.into())),
            }
        }
        // A full backlog, or not ours to connect to: somebody lives there.
        Err(_) => Err(SocketError::InUse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn socket_is_private_and_goes_with_its_owner() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vbd.sock");
        let socket = BoundSocket::bind(&path).unwrap();
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary name is left"
        );
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vbd.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a socket that outlived its owner");
        let first = BoundSocket::bind(&path).unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(SocketError::InUse)));
        // A successor's socket is not ours to remove.
        std::fs::remove_file(&path).unwrap();
        let second = BoundSocket::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    /// Without the lock the other thread would have been done long before anybody looks.
    #[test]
    fn nothing_is_taken_for_stale_while_somebody_else_has_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vbd.sock");
        drop(UnixListener::bind(&path).unwrap());
        let lock = lock_directory(&open_directory(dir.path()).unwrap()).unwrap();
        std::thread::scope(|scope| {
            let other = scope.spawn(|| BoundSocket::bind(&path));
            std::thread::sleep(Duration::from_millis(100));
            assert!(UnixStream::connect(&path).is_err(), "still the stale one");
            drop(lock);
            let _alive = other.join().unwrap().unwrap();
            UnixStream::connect(&path).unwrap();
        });
    }

    #[test]
    fn other_files_and_impossible_paths_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("precious");
        std::fs::write(&file, "data").unwrap();
        assert!(matches!(
            BoundSocket::bind(&file),
            Err(SocketError::NotASocket)
        ));
        assert_eq!(std::fs::read(&file).unwrap(), b"data");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &link).unwrap();
        assert!(matches!(
            BoundSocket::bind(&link),
            Err(SocketError::NotASocket)
        ));
        let missing = dir.path().join("no/such/dir.sock");
        assert!(matches!(
            BoundSocket::bind(&missing),
            Err(SocketError::Directory { .. })
        ));
        let long = dir.path().join("x".repeat(100));
        assert!(matches!(
            BoundSocket::bind(&long),
            Err(SocketError::PathTooLong { .. })
        ));
        for no_file in [Path::new("/"), &dir.path().join("s/")] {
            assert!(matches!(
                BoundSocket::bind(no_file),
                Err(SocketError::NoName)
            ));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn longest_path_works_although_the_temporary_name_would_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let room = MAX_PATH_LEN_BYTES - dir.path().as_os_str().len() - 3;
        let deep = dir.path().join("d".repeat(room));
        std::fs::create_dir(&deep).unwrap();
        let path = deep.join("s");
        assert_eq!(path.as_os_str().len(), MAX_PATH_LEN_BYTES);
        let socket = BoundSocket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(socket);
    }
}
