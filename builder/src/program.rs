//! Programs of others that work for us.

use std::io;
use std::process::{Command, ExitStatus, Stdio};

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
    let output = command.stdin(Stdio::null()).env("LC_ALL", "C").output();
    let output = match output {
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
