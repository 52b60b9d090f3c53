//! The life of the daemon: its socket, one front-end after another, its end.

mod inherited_fd;
mod shutdown;
mod socket;

pub use inherited_fd::{Inherited, InheritedError, activated_fd};
pub use shutdown::Shutdown;
pub use socket::{BoundSocket, SocketError, SocketFile};

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::device::Device;
use crate::rate_limit::RateLimit;
use crate::session;

/// Before the next attempt to accept when the system has run out of descriptors or memory. Short enough for SIGTERM.
const EXHAUSTION_PAUSE: Duration = Duration::from_millis(100);

/// Where front-ends come from.
#[derive(Debug)]
pub enum Door {
    /// A socket of our own, removed at the end.
    Bound(BoundSocket),
    /// A listening socket from whoever started us.
    Listener(UnixListener),
    /// One connection, and no other after it.
    Connection(UnixStream),
}

/// Serves front-ends, one after another, until the daemon is told to end.
///
/// # Errors
///
/// When the socket cannot be used any more. A front-end that misbehaves ends its own connection only.
pub fn serve(door: Door, device: &Arc<Device>, shutdown: &Shutdown) -> io::Result<()> {
    let log = Arc::new(RateLimit::default());
    let listener = match &door {
        Door::Bound(socket) => socket.listener(),
        Door::Listener(listener) => listener,
        Door::Connection(stream) => {
            serve_connection(stream.try_clone()?, device, shutdown, &log);
            return Ok(());
        }
    };
    listener.set_nonblocking(true)?;
    while wait_for_connection(listener, shutdown)? {
        match listener.accept() {
            Ok((stream, _)) => serve_connection(stream, device, shutdown, &log),
            // It went away between the wait and now.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted
                ) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The system has run out of something for now: whoever connects waits a little longer.
            Err(error) if is_exhaustion(&error) => {
                if let Some(suppressed) = log.admit() {
                    tracing::warn!(suppressed, "no front-end can be accepted now: {error}");
                }
                std::thread::sleep(EXHAUSTION_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether the system has run out of descriptors or memory, which may be otherwise in a moment.
pub(crate) fn is_exhaustion(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let exhausted = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    exhausted
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn serve_connection(
    stream: UnixStream,
    device: &Arc<Device>,
    shutdown: &Shutdown,
    log: &Arc<RateLimit>,
) {
    if let Some(suppressed) = log.admit() {
        tracing::info!(suppressed, "front-end connected");
    }
    let served = stream
        .set_nonblocking(false)
        .and_then(|()| session::serve(stream, device, shutdown, log));
    let Some(suppressed) = log.admit() else {
        return;
    };
    match served {
        Ok(end) => tracing::info!(?end, suppressed, "front-end gone"),
        Err(error) => tracing::warn!(suppressed, "connection ended: {error}"),
    }
}

/// Waits for a front-end: `true` when there is one, `false` when the daemon is to end.
fn wait_for_connection(listener: &UnixListener, shutdown: &Shutdown) -> io::Result<bool> {
    loop {
        let mut fds = [
            PollFd::from_borrowed_fd(shutdown.wake_fd(), PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None::<&Timespec>) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [shutdown_events, listener_events] = fds.map(|fd| fd.revents());
        if !shutdown_events.is_empty() {
            return Ok(false);
        }
        if !listener_events.is_empty() {
            return Ok(true);
        }
    }
}
