//! Sockets that whoever started this process left open for it: `--fd N`, or systemd's `LISTEN_FDS`.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::net::{AddressFamily, SocketType};

use crate::system;

/// Numbers below are standard input, output and error.
const FIRST_INHERITED_FD: RawFd = 3;

/// A socket from outside.
#[derive(Debug)]
pub enum Inherited {
    /// It listens: front-ends come one after another.
    Listener(UnixListener),
    /// It is connected to one front-end.
    Connection(UnixStream),
}

/// Why an inherited descriptor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// The number cannot be an inherited descriptor.
    #[error(
        "descriptor {fd} cannot be a socket for front-ends: numbers start at {FIRST_INHERITED_FD}"
    )]
    Number {
        /// The number.
        fd: RawFd,
    },
    /// A second descriptor was asked for.
    #[error("only one descriptor can be taken over")]
    Twice,
    /// There is no such descriptor.
    #[error("descriptor {fd} is not open")]
    NotOpen {
        /// The number.
        fd: RawFd,
        /// What the system says.
        source: io::Error,
    },
    /// It is not a socket that front-ends speak on.
    #[error("descriptor {fd} is not a Unix stream socket")]
    NotASocket {
        /// The number.
        fd: RawFd,
    },
    /// The activation variables name more than one socket.
    #[error("LISTEN_FDS says {count} sockets, expected 1")]
    Count {
        /// What it says.
        count: String,
    },
}

/// The number of the one socket that systemd passes, if it passes any to this process.
///
/// # Errors
///
/// When it passes more than one.
pub fn activated_fd() -> Result<Option<RawFd>, InheritedError> {
    let variable = |name| std::env::var(name).ok();
    if variable("LISTEN_PID").is_none_or(|pid| pid != std::process::id().to_string()) {
        return Ok(None);
    }
    match variable("LISTEN_FDS").as_deref() {
        None | Some("0") => Ok(None),
        Some("1") => Ok(Some(FIRST_INHERITED_FD)),
        Some(count) => Err(InheritedError::Count {
            count: count.to_owned(),
        }),
    }
}

impl Inherited {
    /// Takes over descriptor `fd`. To be called before this process opens anything of its own.
    ///
    /// # Errors
    ///
    /// When it is not an open Unix stream socket, or another one was taken over before.
    pub fn take(fd: RawFd) -> Result<Self, InheritedError> {
        let fd_owned = take_over(fd)?;
        let unix = rustix::net::sockopt::socket_domain(&fd_owned)
            .is_ok_and(|domain| domain == AddressFamily::UNIX);
        let stream = rustix::net::sockopt::socket_type(&fd_owned)
            .is_ok_and(|kind| kind == SocketType::STREAM);
        if !(unix && stream) {
            return Err(InheritedError::NotASocket { fd });
        }
        // Inherited descriptors are open across exec by definition; ours need not be.
        let _set = rustix::io::fcntl_setfd(&fd_owned, rustix::io::FdFlags::CLOEXEC);
        match rustix::net::sockopt::socket_acceptconn(&fd_owned) {
            Ok(true) => Ok(Self::Listener(fd_owned.into())),
            _ => Ok(Self::Connection(fd_owned.into())),
        }
    }
}

/// Makes an owned descriptor of a number that was passed by exec.
fn take_over(fd: RawFd) -> Result<OwnedFd, InheritedError> {
    if fd < FIRST_INHERITED_FD {
        return Err(InheritedError::Number { fd });
    }
    system::adopt(fd)
        .map_err(|source| InheritedError::NotOpen { fd, source })?
        .ok_or(InheritedError::Twice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::IntoRawFd;

    #[test]
    fn one_open_socket_is_taken_over_and_nothing_else() {
        assert!(matches!(
            Inherited::take(2),
            Err(InheritedError::Number { fd: 2 })
        ));
        assert!(matches!(
            Inherited::take(-1),
            Err(InheritedError::Number { fd: -1 })
        ));
        assert!(matches!(
            Inherited::take(9999),
            Err(InheritedError::NotOpen { fd: 9999, .. })
        ));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let fd = theirs.into_raw_fd();
        assert!(
            matches!(Inherited::take(fd), Ok(Inherited::Connection(_))),
            "a connected socket"
        );
        drop(ours);
        let (again, _peer) = UnixStream::pair().unwrap();
        let fd = again.into_raw_fd();
        assert!(matches!(Inherited::take(fd), Err(InheritedError::Twice)));
    }
}
