//! QEMU's monitor: one command, one answer, one line of JSON each.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// A machine under load answers late; one that is silent for longer hangs.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// A connection to the monitor of a running QEMU.
#[derive(Debug)]
pub struct Monitor {
    lines: BufReader<UnixStream>,
}

impl Monitor {
    /// Connects to the monitor at `socket`, which QEMU makes soon after its start.
    ///
    /// # Errors
    ///
    /// If there is none in time.
    pub fn connect(socket: &Path) -> Result<Self> {
        let deadline = Instant::now() + ANSWER_LIMIT;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).context("no monitor");
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        let mut monitor = Self {
            lines: BufReader::new(stream),
        };
        monitor.line().context("greeting")?;
        monitor.ask("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "the monitor is gone");
        Ok(serde_json::from_str(&line)?)
    }

    /// Has one command carried out and returns what it answers. Events in between are passed over.
    ///
    /// # Errors
    ///
    /// If QEMU refuses, or does not answer.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.lines.get_mut(), "{request}").context("the monitor is gone")?;
        loop {
            let answer = self.line().context(command.to_owned())?;
            if let Some(error) = answer.get("error") {
                bail!("{command}: {error}");
            }
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
        }
    }

    /// Moves the guest to the QEMU that waits at `socket`, and returns what QEMU says about the move.
    ///
    /// # Errors
    ///
    /// If the migration fails or takes too long.
    pub fn migrate_to(&mut self, socket: &Path) -> Result<Value> {
        // Whatever the machine can carry: the dirty pages of this guest are few but never none.
        let limits = json!({ "max-bandwidth": 1_u64 << 34, "downtime-limit": 500 });
        self.ask("migrate-set-parameters", limits)?;
        let uri = format!("unix:{}", socket.display());
        self.ask("migrate", json!({ "uri": uri }))?;
        let deadline = Instant::now() + ANSWER_LIMIT;
        loop {
            let state = self.ask("query-migrate", json!({}))?;
            match state.get("status").and_then(Value::as_str) {
                Some("completed") => return Ok(state),
                Some("failed" | "cancelled") => bail!("the migration failed: {state}"),
                _ => ensure!(Instant::now() < deadline, "the migration hangs: {state}"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
