//! The message loop of one connection.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::RecvFlags;
use vhost::vhost_user::{BackendReqHandler, Error};

use crate::device::Device;
use crate::server::Shutdown;
use crate::session::Session;

/// Length of a message header in bytes; its last four bytes are the length of the payload.
const HEADER_LEN_BYTES: usize = 12;
/// Longest payload any message has; the message crate refuses a longer one.
const MAX_PAYLOAD_LEN_BYTES: usize = 4096;
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
/// descriptor.
pub fn serve(stream: UnixStream, device: &Arc<Device>, shutdown: &Shutdown) -> io::Result<End> {
    let watched = stream.try_clone()?;
    let session = Arc::new(Mutex::new(Session::new(Arc::clone(device))));
    let mut handler = BackendReqHandler::from_stream(stream, session);
    loop {
        match wait_for_message(&watched, shutdown)? {
            Wake::Message => {}
            Wake::End(end) => return Ok(end),
        }
        match handler.handle_request() {
            Ok(()) | Err(Error::SocketRetry(_)) => {}
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                return Ok(End::Disconnected);
            }
            Err(error) => {
                tracing::warn!("connection ended: {error}");
                return Ok(End::Refused);
            }
        }
    }
}

enum Wake {
    Message,
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
        if message_is_whole(stream)? {
            return Ok(Wake::Message);
        }
        // What is there now will not grow any more.
        if stream_events.intersects(PollFlags::HUP | PollFlags::ERR) {
            return Ok(Wake::End(End::Disconnected));
        }
        let now = Instant::now();
        if now >= *deadline.get_or_insert(now + MESSAGE_DEADLINE) {
            tracing::warn!("connection ended: a message was begun and not finished");
            return Ok(Wake::End(End::Refused));
        }
        std::thread::sleep(PARTIAL_POLL);
    }
}

fn message_is_whole(stream: &UnixStream) -> io::Result<bool> {
    let available = usize::try_from(rustix::io::ioctl_fionread(stream)?).unwrap_or(usize::MAX);
    if available < HEADER_LEN_BYTES {
        return Ok(false);
    }
    let mut header = [0; HEADER_LEN_BYTES];
    let (peeked, _) = rustix::net::recv(stream, &mut header[..], RecvFlags::PEEK)?;
    let [.., l0, l1, l2, l3] = header;
    let payload = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    // A header that lies in two pieces, or states a length no message has, is left to the message crate to refuse.
    Ok(peeked < HEADER_LEN_BYTES
        || available - HEADER_LEN_BYTES >= payload.min(MAX_PAYLOAD_LEN_BYTES))
}
