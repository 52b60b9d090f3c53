//! Descriptors that were open before this program began.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

static ADOPTED: AtomicBool = AtomicBool::new(false);

/// Takes over descriptor `fd`, which whoever executed this program left open for it. `None` the second time:
/// one descriptor in the life of a process.
///
/// To be called before this process opens anything of its own.
///
/// # Errors
///
/// When no such descriptor is open.
pub fn adopt(fd: RawFd) -> io::Result<Option<OwnedFd>> {
    // Looking at the process's own entry tells whether the number is in use without touching what it names.
    if let Err(error) = std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")) {
        return Err(match error.kind() {
            io::ErrorKind::NotFound => rustix::io::Errno::BADF.into(),
            _ => error,
        });
    }
    if ADOPTED.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    #[expect(
        unsafe_code,
        reason = "a number from the command line cannot become an owned descriptor otherwise"
    )]
    // SAFETY: The number is open, as just checked. It is taken over at most once in the life of the process, at
    // its very start, before this program opens or stores any descriptor, so nothing else in the process owns it:
    // whoever executed this program passed it on for this purpose.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    Ok(Some(owned))
}
