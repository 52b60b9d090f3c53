//! The message loop of one connection.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use vhost::vhost_user::{BackendReqHandler, Error};

use crate::device::Device;
use crate::rate_limit::RateLimit;
use crate::server::Shutdown;
use crate::session::Session;
use crate::session::peek::Peek;
use crate::session::roomy_table;

/// A message that has begun must be complete after this time.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(5);
/// How often an incomplete message is looked at again.
const PARTIAL_POLL: Duration = Duration::from_millis(1);

/// Why a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The front-end closed it.
    Disconnected,
    /// The front-end broke the protocol, or asked for what was refused.
    Refused,
    /// This program is being ended.
    Shutdown,
}

/// Serves one connection until it ends. When this returns, nothing of it is left: no thread, no mapping, no
/// descriptor. `log` bounds what the front-end can have written to the log.
///
/// # Errors
///
/// When the system fails, not when the front-end does.
pub fn serve(
    stream: UnixStream,
    device: &Arc<Device>,
    shutdown: &Shutdown,
    log: &Arc<RateLimit>,
) -> io::Result<End> {
    // The wait below makes sure that there is something to read. The front-end may still not take a reply.
    stream.set_read_timeout(Some(MESSAGE_DEADLINE))?;
    stream.set_write_timeout(Some(MESSAGE_DEADLINE))?;
    let watched = stream.try_clone()?;
    let session = Arc::new(Mutex::new(Session::new(
        Arc::clone(device),
        Arc::clone(log),
    )));
    let mut handler = BackendReqHandler::from_stream(stream, Arc::clone(&session));
    loop {
        let message = match wait_for_message(&watched, shutdown)? {
            Wake::Message(message) => message,
            Wake::End(end) => return Ok(end),
        };
        let handled = match roomy_table::recognise(&message) {
            Some(table) => table.take(&watched, &session),
            None => handler.handle_request(),
        };
        match handled {
            Ok(()) => {}
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                return Ok(End::Disconnected);
            }
            // Also when the crate says that it may be tried again: part of a message is lost then, and what follows
            // would be taken for something that it is not.
            Err(error) => {
                if let Some(suppressed) = log.admit() {
                    tracing::warn!(suppressed, "connection ended: {error}");
                }
                return Ok(End::Refused);
            }
        }
    }
}

enum Wake {
    Message(Peek),
    End(End),
}

/// Waits until a whole message lies in the socket.
///
/// The message crate takes whatever has arrived for the whole payload, so a message in two pieces would end the
/// connection, and one that never ends would hold this thread for ever.
fn wait_for_message(stream: &UnixStream, shutdown: &Shutdown) -> io::Result<Wake> {
    let mut deadline = None;
    loop {
        let mut fds = [
            PollFd::new(stream, PollFlags::IN),
            PollFd::from_borrowed_fd(shutdown.wake_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None::<&Timespec>) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [stream_events, shutdown_events] = fds.map(|fd| fd.revents());
        if !shutdown_events.is_empty() {
            return Ok(Wake::End(End::Shutdown));
        }
        if let Some(message) = Peek::at_whole_message(stream)? {
            if message.has_too_many_descriptors() {
                // The message crate would lose the header over them and read the payload as the next message.
                return Ok(Wake::End(End::Refused));
            }
            tracing::debug!(
                request = message.request,
                payload = message.payload_len_bytes,
                "message"
            );
            return Ok(Wake::Message(message));
        }
        // What is there now will not grow any more.
        if stream_events.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Ok(Wake::End(End::Disconnected));
        }
        let now = Instant::now();
        if now >= *deadline.get_or_insert(now + MESSAGE_DEADLINE) {
            tracing::debug!("a message was begun and not finished");
            return Ok(Wake::End(End::Refused));
        }
        std::thread::sleep(PARTIAL_POLL);
    }
}
