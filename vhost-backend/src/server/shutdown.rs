//! The end of the daemon: a signal, a wake-up for whoever waits, and a deadline.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::EventfdFlags;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::server::socket::SocketFile;

/// From the signal to the end of the process. A queue thread that hangs in a read of a dead disk cannot be
/// waited for; everything it would still do is to answer one request of a guest that is going away.
const DEADLINE: Duration = Duration::from_millis(900);

/// Time for the line that says so.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// Says when the daemon is to end.
#[derive(Clone, Debug)]
pub struct Shutdown {
    wake: Arc<OwnedFd>,
    /// The socket to remove if the deadline passes.
    socket: Arc<Mutex<Option<SocketFile>>>,
}

impl Shutdown {
    /// A shutdown that nothing triggers by itself.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        let wake = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self {
            wake: Arc::new(wake),
            socket: Arc::default(),
        })
    }

    /// Triggers on SIGTERM and SIGINT from now on, and ends the process if it does not end by itself soon after.
    ///
    /// # Errors
    ///
    /// When the signals cannot be caught.
    pub fn on_signals(&self) -> io::Result<()> {
        let mut signals = Signals::new([SIGTERM, SIGINT])?;
        let shutdown = self.clone();
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                if signals.forever().next().is_some() {
                    shutdown.trigger();
                    thread::sleep(DEADLINE);
                    shutdown.end_process();
                }
            })?;
        Ok(())
    }

    /// Ends the daemon: whoever waits on [`Shutdown::wake_fd`] wakes, now and ever after.
    pub fn trigger(&self) {
        let _woken = rustix::io::write(&*self.wake, &1_u64.to_le_bytes());
    }

    /// Readable once the daemon is to end.
    #[must_use]
    pub fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Has `file` removed even if the daemon has to be ended hard.
    pub fn remove_at_end(&self, file: SocketFile) {
        *self.socket.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
    }

    fn end_process(&self) {
        if let Some(file) = self
            .socket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
        {
            file.remove();
        }
        // Whoever reads the log may be what is being waited for, so the end does not wait for this line either.
        thread::spawn(|| {
            tracing::warn!(
                "ended hard: something was still waiting, for a disk or for a front-end"
            );
        });
        thread::sleep(LAST_WORDS);
        // Threads may hang in the kernel; nothing but the end of the process ends them.
        std::process::exit(0);
    }
}
