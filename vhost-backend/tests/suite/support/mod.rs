//! The other side of the socket: a front-end and a driver that do exactly what they are told.

pub(crate) mod client;
pub(crate) mod driver;
pub(crate) mod guest;
pub(crate) mod image;
pub(crate) mod slots;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use vhost_backend::device::Device;
use vhost_backend::server::Shutdown;
use vhost_backend::session::{self, End};

/// A session served in this process, on the other end of a socket pair.
pub(crate) struct Served {
    thread: Option<JoinHandle<End>>,
    pub(crate) shutdown: Shutdown,
}

/// Serves `device` to whoever holds the returned stream.
pub(crate) fn serve(device: &Arc<Device>) -> (UnixStream, Served) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let shutdown = Shutdown::new().unwrap();
    let (device, inner) = (Arc::clone(device), shutdown.clone());
    let thread = std::thread::spawn(move || {
        session::serve(theirs, &device, &inner, &Arc::default()).unwrap()
    });
    (
        ours,
        Served {
            thread: Some(thread),
            shutdown,
        },
    )
}

impl Served {
    /// Waits for the session to end and says how it ended.
    pub(crate) fn end(mut self) -> End {
        self.thread.take().unwrap().join().unwrap()
    }
}
