//! The message loop of one connection.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use vhost::vhost_user::{BackendReqHandler, Error};

use crate::device::Device;
use crate::rate_limit::RateLimit;
use crate::server::Shutdown;
use crate::session::Session;

/// Length of a message header in bytes; its last four bytes are the length of the payload.
const HEADER_LEN_BYTES: usize = 12;
/// Longest payload any message has; the message crate refuses a longer one.
const MAX_PAYLOAD_LEN_BYTES: usize = 4096;
/// Most descriptors of a message: one for each region of a memory table.
const MAX_DESCRIPTORS: usize = 32;
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
    let mut handler = BackendReqHandler::from_stream(stream, session);
    loop {
        match wait_for_message(&watched, shutdown)? {
            Wake::Message => {}
            Wake::End(end) => return Ok(end),
        }
        match handler.handle_request() {
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
            let end = has_too_many_descriptors(stream)?;
            return Ok(if end {
                Wake::End(End::Refused)
            } else {
                Wake::Message
            });
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

/// Whether a whole message has arrived, or something that the message crate will refuse at once.
fn message_is_whole(stream: &UnixStream) -> io::Result<bool> {
    let available = usize::try_from(rustix::io::ioctl_fionread(stream)?).unwrap_or(usize::MAX);
    if available < HEADER_LEN_BYTES {
        return Ok(false);
    }
    let mut header = [0; HEADER_LEN_BYTES];
    let (peeked, _) = rustix::net::recv(stream, &mut header[..], RecvFlags::PEEK)?;
    let [request, .., l0, l1, l2, l3] = header;
    let payload = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    // A header that lies in two pieces, or states a length no message has, is left to the message crate to refuse.
    let whole = peeked < HEADER_LEN_BYTES
        || available - HEADER_LEN_BYTES >= payload.min(MAX_PAYLOAD_LEN_BYTES);
    if whole {
        tracing::debug!(request, payload, "message");
    }
    Ok(whole)
}

/// Whether the message that has arrived carries more descriptors than any message may. The message crate would lose
/// its header over them and read its payload as the next message.
fn has_too_many_descriptors(stream: &UnixStream) -> io::Result<bool> {
    let mut header = [0; HEADER_LEN_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [IoSliceMut::new(&mut header)];
    let flags = RecvFlags::PEEK | RecvFlags::CMSG_CLOEXEC;
    let peeked = rustix::net::recvmsg(stream, &mut iov, &mut control, flags)?;
    // Peeking duplicates the descriptors; counting closes the duplicates.
    let count: usize = control
        .drain()
        .map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.count(),
            _ => 0,
        })
        .sum();
    Ok(count > MAX_DESCRIPTORS || peeked.flags.contains(ReturnFlags::CTRUNC))
}
