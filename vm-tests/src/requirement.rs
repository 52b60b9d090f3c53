//! What a test needs from the machine, and how it says that it is not there.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;

/// A program, file or ability this machine lacks. A test that meets it is skipped, not failed.
#[derive(Debug)]
pub struct Missing(String);

impl Missing {
    /// Names what is missing and, where it helps, how to get it.
    pub fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Missing {}

/// Finds a program on PATH, or in the directories where only root has them on PATH.
///
/// # Errors
///
/// [`Missing`] if it is in none of them.
pub fn program(name: &str) -> Result<PathBuf, Missing> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| Missing::new(format!("{name} not on PATH")))
}

/// Checks that this user may open `/dev/kvm`.
///
/// # Errors
///
/// [`Missing`] if it cannot be opened for reading and writing.
pub fn kvm() -> Result<(), Missing> {
    match std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
    {
        Ok(_) => Ok(()),
        Err(error) => Err(Missing::new(format!("/dev/kvm: {error}"))),
    }
}

/// Runs a test body; where it meets a [`Missing`], prints `SKIPPED test: reason` and counts as passed.
///
/// # Errors
///
/// Every other error of the body; with `VM_TESTS_NO_SKIP` set, a [`Missing`] too.
pub fn or_skip(body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let Err(error) = body() else { return Ok(()) };
    if error.downcast_ref::<Missing>().is_none() || std::env::var_os("VM_TESTS_NO_SKIP").is_some() {
        return Err(error);
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // Not eprintln: the test runner would keep that to itself, and a silent skip looks like a pass.
    writeln!(std::io::stderr(), "SKIPPED {test}: {error}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{or_skip, program};

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let missing = program("no-such-program-here").unwrap_err();
        assert_eq!(missing.to_string(), "no-such-program-here not on PATH");
    }

    #[test]
    fn an_ordinary_error_is_not_a_skip() {
        assert!(or_skip(|| anyhow::bail!("broken")).is_err());
    }
}
