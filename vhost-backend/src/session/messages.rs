//! The message loop of one connection.

use std::fmt::Display;
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use vhost::vhost_user::message::FrontendReq;
use vhost::vhost_user::{BackendReqHandler, Error};

use crate::device::Device;
use crate::rate_limit::RateLimit;
use crate::server::Shutdown;
use crate::session::Session;
use crate::session::peek::Peek;
use crate::session::roomy_table;
use crate::system::Alarm;

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
    /// Memory of the front-end is gone: a file it shares with us was cut short.
    MemoryLost,
    /// This program is being ended.
    Shutdown,
}

/// Messages that are answered by an acknowledgement and nothing else, after which a front-end that was refused can go
/// on: whatever they asked for is as it was. Not those that negotiate features: the message crate remembers what was
/// asked for.
const ACKNOWLEDGED: [FrontendReq; 12] = [
    FrontendReq::SET_MEM_TABLE,
    FrontendReq::SET_VRING_NUM,
    FrontendReq::SET_VRING_ADDR,
    FrontendReq::SET_VRING_BASE,
    FrontendReq::SET_VRING_KICK,
    FrontendReq::SET_VRING_CALL,
    FrontendReq::SET_VRING_ERR,
    FrontendReq::SET_VRING_ENABLE,
    FrontendReq::SET_CONFIG,
    FrontendReq::SET_INFLIGHT_FD,
    FrontendReq::ADD_MEM_REG,
    FrontendReq::REM_MEM_REG,
];

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
    let session = Session::new(Arc::clone(device), Arc::clone(log))?;
    let alarm = Arc::clone(&session.surroundings.alarm);
    let session = Arc::new(Mutex::new(session));
    let mut handler = BackendReqHandler::from_stream(stream, Arc::clone(&session));
    loop {
        let message = match wait_for_message(&watched, shutdown, &alarm)? {
            Wake::Message(message) => message,
            Wake::Refused(why) => return Ok(refuse(log, why)),
            Wake::End(end) => return Ok(end),
        };
        let handled = match roomy_table::recognise(&message) {
            Some(table) => table.take(&watched, &session),
            None => handler.handle_request(),
        };
        let refused = std::mem::take(&mut lock(&session).refused);
        match handled {
            Ok(()) => {}
            Err(Error::Disconnected | Error::PartialMessage | Error::SocketBroken(_)) => {
                return Ok(End::Disconnected);
            }
            // It has been told, and nothing has changed.
            Err(_) if refused && was_acknowledged(&message, &lock(&session)) => {}
            // Also when the crate says that it may be tried again: part of a message is lost then, and what follows
            // would be taken for something that it is not.
            Err(error) => return Ok(refuse(log, error)),
        }
    }
}

fn refuse(log: &RateLimit, why: impl Display) -> End {
    if let Some(suppressed) = log.admit() {
        tracing::warn!(suppressed, "connection ended: {why}");
    }
    End::Refused
}

fn lock(session: &Mutex<Session>) -> std::sync::MutexGuard<'_, Session> {
    session.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether the front-end got an answer to `message`, which was refused.
fn was_acknowledged(message: &Peek, session: &Session) -> bool {
    message.needs_reply()
        && session.acknowledges()
        && FrontendReq::try_from(message.request)
            .is_ok_and(|request| ACKNOWLEDGED.contains(&request))
}

enum Wake {
    Message(Peek),
    /// What follows cannot be understood.
    Refused(&'static str),
    End(End),
}

/// Waits until a whole message lies in the socket.
///
/// The message crate takes whatever has arrived for the whole payload, so a message in two pieces would end the
/// connection, and one that never ends would hold this thread for ever.
fn wait_for_message(stream: &UnixStream, shutdown: &Shutdown, alarm: &Alarm) -> io::Result<Wake> {
    let mut deadline = None;
    loop {
        let mut fds = [
            PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP),
            PollFd::from_borrowed_fd(shutdown.wake_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(alarm.wake_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut fds, None::<&Timespec>) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let [stream_events, shutdown_events, alarm_events] = fds.map(|fd| fd.revents());
        if !shutdown_events.is_empty() {
            return Ok(Wake::End(End::Shutdown));
        }
        if !alarm_events.is_empty() {
            return Ok(Wake::End(End::MemoryLost));
        }
        if let Some(message) = Peek::at_whole_message(stream)? {
            if let Some(why) = message.descriptor_fault() {
                return Ok(Wake::Refused(why));
            }
            tracing::debug!(
                request = message.request,
                payload = message.payload_len_bytes,
                "message"
            );
            return Ok(Wake::Message(message));
        }
        // What is there now will not grow any more, also when the other side only says that it will not speak again.
        if stream_events.intersects(PollFlags::HUP | PollFlags::RDHUP | PollFlags::ERR) {
            return Ok(Wake::End(End::Disconnected));
        }
        let now = Instant::now();
        if now >= *deadline.get_or_insert(now + MESSAGE_DEADLINE) {
            return Ok(Wake::Refused("a message was begun and not finished"));
        }
        std::thread::sleep(PARTIAL_POLL);
    }
}
