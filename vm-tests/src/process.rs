//! A child process whose output is collected, waited for with a deadline, and which never outlives its
//! owner.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

/// A running program with stdout and stderr collected into one text. Dropping it kills its whole process
/// group.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Output>,
}

#[derive(Debug, Default)]
struct Output {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    closed: usize,
}

impl Output {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(self: Arc<Self>, mut from: impl Read + Send + 'static) {
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                let read = from.read(&mut buffer).unwrap_or(0);
                let mut state = self.lock();
                match buffer.get(..read) {
                    Some(bytes) if !bytes.is_empty() => state.bytes.extend_from_slice(bytes),
                    _ => state.closed += 1,
                }
                self.changed.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
    }
}

impl Process {
    /// Starts the program in a process group of its own, without input.
    ///
    /// # Errors
    ///
    /// If it cannot be started.
    pub fn spawn(name: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {name}: {command:?}"))?;
        let output = Arc::new(Output::default());
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        output.clone().collect(stdout);
        output.clone().collect(stderr);
        Ok(Self {
            name: name.to_owned(),
            child,
            output,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything printed so far, on either stream.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.output.lock().bytes).into_owned()
    }

    /// Waits until a line for which `wanted` is true has been printed completely; returns all text.
    ///
    /// # Errors
    ///
    /// If the program closes its output first or the time is over; the error shows the last lines.
    pub fn wait_for_line(&self, limit: Duration, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut state = self.output.lock();
        loop {
            let text = String::from_utf8_lossy(&state.bytes);
            let complete = text.rfind('\n').and_then(|end| text.get(..end));
            if complete.is_some_and(|text| text.lines().any(|line| wanted(line.trim_end()))) {
                return Ok(text.into_owned());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if state.closed == 2 {
                bail!("{} ended too early\n{}", self.name, tail(&text));
            }
            if left.is_zero() {
                bail!("{} silent after {limit:?}\n{}", self.name, tail(&text));
            }
            drop(text);
            (state, _) = self
                .output
                .changed
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The exit status, if it has ended.
    ///
    /// # Errors
    ///
    /// If the process cannot be waited for.
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits until the program has ended by itself.
    ///
    /// # Errors
    ///
    /// If it is still running after `limit`; it is killed only when dropped.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} still runs after {limit:?}\n{}",
                    self.name,
                    tail(&self.text())
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks the program to end (SIGTERM).
    ///
    /// # Errors
    ///
    /// If the signal cannot be sent.
    pub fn terminate(&self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends the program at once (SIGKILL) and waits for it.
    ///
    /// # Errors
    ///
    /// If the signal cannot be sent.
    pub fn kill(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_none() {
            self.signal(Signal::KILL)?;
            self.child.wait()?;
        }
        Ok(())
    }

    /// Interrupts the program as Ctrl-C does (SIGINT).
    ///
    /// # Errors
    ///
    /// If the signal cannot be sent.
    pub fn interrupt(&self) -> Result<()> {
        self.signal(Signal::INT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let group = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .context("no pid")?;
        Ok(rustix::process::kill_process_group(group, signal)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing to be done about a failure here: the process is gone, or was never ours.
        let _gone = self.kill();
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::Process;

    fn shell(script: &str) -> Process {
        Process::spawn("sh", Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_program_that_ends_without_its_line_is_an_error_with_its_words() {
        let error = shell("echo something else >&2")
            .wait_for_line(Duration::from_secs(10), |line| line == "done")
            .unwrap_err();
        assert!(error.to_string().contains("something else"), "{error}");
    }

    #[test]
    fn a_silent_program_is_an_error_at_the_deadline_and_dies() {
        let error = shell("sleep 100")
            .wait_for_line(Duration::from_millis(50), |_| true)
            .unwrap_err();
        assert!(error.to_string().contains("silent"), "{error}");
    }

    #[test]
    fn half_a_line_is_not_a_line() {
        let error = shell("printf done")
            .wait_for_line(Duration::from_secs(10), |line| line == "done")
            .unwrap_err();
        assert!(error.to_string().contains("ended too early"), "{error}");
    }
}
