//! What a live migration carries from one backend to the next: which disk this is, and nothing else.
//!
//! A read-only device has no state of its own; the rings say what is under way. But a guest that goes on with another
//! disk under its file system is lost without a sound, so the source says which disk it served and the destination
//! compares. A source that says nothing is believed.

use std::fs::File;
use std::io::{self, Read, Write};

use crate::device::Device;
use crate::session::ring::non_blocking;

/// Longest state that is read. Ours is shorter.
const MAX_STATE_LEN_BYTES: u64 = 4096;

/// Why a state is not transferred.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("there was no device state to transfer")]
    None,
    #[error("the device state cannot be transferred")]
    Transfer(#[from] io::Error),
    #[error("the device state is of another disk: {found}, expected {expected}")]
    OtherDisk { found: String, expected: String },
}

/// A transfer of state between SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE.
#[derive(Debug, Default)]
pub(crate) enum StateTransfer {
    /// None has begun.
    #[default]
    None,
    /// Ours has been written.
    Saved,
    /// Another's will be found here.
    Loading(std::sync::Arc<File>),
}

impl StateTransfer {
    /// Writes the state of `device` to `file`, which is closed with that.
    pub(crate) fn save(device: &Device, file: File) -> Result<Self, StateError> {
        let file = non_blocking(file);
        (&*file).write_all(state(device).as_bytes())?;
        Ok(Self::Saved)
    }

    /// Will read a state from `file`. The front-end fills it, closes its end and then asks for the result.
    pub(crate) fn load(file: File) -> Self {
        Self::Loading(non_blocking(file))
    }

    /// The result of the transfer that was begun last.
    pub(crate) fn check(&mut self, device: &Device) -> Result<(), StateError> {
        let file = match std::mem::take(self) {
            Self::None => return Err(StateError::None),
            Self::Saved => return Ok(()),
            Self::Loading(file) => file,
        };
        let mut bytes = Vec::new();
        (&*file).take(MAX_STATE_LEN_BYTES).read_to_end(&mut bytes)?;
        let expected = state(device);
        if bytes.is_empty() || bytes == expected.as_bytes() {
            return Ok(());
        }
        Err(StateError::OtherDisk {
            found: shown(&String::from_utf8_lossy(&bytes)),
            expected: shown(&expected),
        })
    }
}

/// The state as it is transferred: one line of text.
fn state(device: &Device) -> String {
    let disk = device.image().disk();
    format!(
        "vbd 1 len_bytes={} fingerprint={:016x}\n",
        disk.len_bytes(),
        disk.fingerprint()
    )
}

/// A stranger's text, fit for a log.
fn shown(text: &str) -> String {
    text.trim_end()
        .chars()
        .take(100)
        .collect::<String>()
        .escape_debug()
        .to_string()
}
