//! Programs of others that work for us.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Programs that are at work, by descriptor: numbers are used again.
static RUNNING: Mutex<Vec<OwnedFd>> = Mutex::new(Vec::new());

/// What a program has said last, for messages.
const SHOWN_LEN_BYTES: usize = 2000;

/// A program that has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It is not there.
    #[error("{program} is not installed")]
    Missing {
        /// The program.
        program: String,
    },
    /// It cannot be started.
    #[error("cannot start {program}")]
    Start {
        /// The program.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It has failed.
    #[error("{program} failed ({status}): {said}")]
    Failed {
        /// The program.
        program: String,
        /// How it has ended.
        status: ExitStatus,
        /// What it has said.
        said: String,
    },
}

/// Runs a program to its end and returns what it has written to its standard output.
pub(crate) fn run(command: &mut Command) -> Result<Vec<u8>, ProgramError> {
    let program = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).env("LC_ALL", "C");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = match command.spawn().and_then(finish) {
        Ok(output) => output,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ProgramError::Missing { program });
        }
        Err(source) => return Err(ProgramError::Start { program, source }),
    };
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = output.stderr.len().saturating_sub(SHOWN_LEN_BYTES);
    let said = output.stderr.get(said..).unwrap_or_default();
    Err(ProgramError::Failed {
        program,
        status: output.status,
        said: String::from_utf8_lossy(said).trim().replace('\n', "; "),
    })
}

fn finish(child: Child) -> io::Result<std::process::Output> {
    let descriptor = i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Kernels without such descriptors let it run to its end, whatever becomes of us.
    let number = descriptor.as_ref().map(AsRawFd::as_raw_fd);
    running().extend(descriptor);
    let output = child.wait_with_output();
    running().retain(|other| Some(other.as_raw_fd()) != number);
    output
}

/// Ends the programs that work for us, for the end by a signal.
pub(crate) fn end_all() {
    for program in running().drain(..) {
        // It may have ended.
        let _ended = pidfd_send_signal(program.as_fd(), Signal::TERM);
    }
}

fn running() -> std::sync::MutexGuard<'static, Vec<OwnedFd>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}
