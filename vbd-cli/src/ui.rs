//! How commands speak: results on standard output, everything else on standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

/// What takes less time needs no bar.
const QUIET_TIME: Duration = Duration::from_secs(1);

/// Why a command ends without having done what was asked for.
#[derive(Debug)]
pub struct Stop {
    /// Exit status of the program.
    pub status: u8,
    /// What to tell people; `None` when the result on standard output says it all.
    pub error: Option<anyhow::Error>,
}

impl From<anyhow::Error> for Stop {
    fn from(error: anyhow::Error) -> Self {
        Self {
            status: 1,
            error: Some(error),
        }
    }
}

impl Stop {
    /// The command line asks for what there is not.
    pub(crate) fn usage(error: anyhow::Error) -> Self {
        Self {
            status: 2,
            error: Some(error),
        }
    }
}

/// Standard output and standard error.
#[derive(Debug)]
pub struct Ui {
    json: bool,
    quiet: bool,
}

impl Ui {
    /// With `json`, results are JSON objects; with `quiet`, nothing but results and errors is said.
    #[must_use]
    pub fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet }
    }

    /// Whether results are JSON objects.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints the result of a command: for people as it displays, or as JSON on one line.
    ///
    /// # Errors
    ///
    /// When standard output cannot be written to. A reader that has seen enough (`| head`) is no error.
    pub fn show(&self, result: &(impl Display + Serialize)) -> anyhow::Result<()> {
        let text = match self.json {
            true => serde_json::to_string(result).context("cannot express the result in JSON")?,
            false => result.to_string(),
        };
        let mut out = io::stdout().lock();
        match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(error).context("cannot write to standard output")
            }
            _ => Ok(()),
        }
    }

    /// A remark for people.
    pub fn remark(&self, text: impl Display) {
        if !self.quiet {
            say(&format!("vbd: {text}"));
        }
    }

    /// Says why a command has ended.
    #[must_use]
    pub fn explain(&self, stop: &Stop) -> ExitCode {
        if let Some(error) = &stop.error {
            say(&match self.json {
                true => serde_json::json!({ "error": format!("{error:#}") }).to_string(),
                false => format!("vbd: {error:#}"),
            });
        }
        ExitCode::from(stop.status)
    }

    /// A bar for what takes longer than a second, where somebody is looking.
    #[must_use]
    pub fn progress(&self) -> Bar {
        Bar {
            shown: !self.quiet && !self.json && io::stderr().is_terminal(),
            state: Mutex::new(None),
        }
    }
}

fn say(text: &str) {
    // Standard error may be closed; there is nobody else to tell.
    let _said = writeln!(io::stderr(), "{text}");
}

/// A progress bar with rate and time left. It goes when it is dropped.
#[derive(Debug)]
pub struct Bar {
    shown: bool,
    state: Mutex<Option<(ProgressBar, Instant)>>,
}

impl builder::Progress for Bar {
    fn begin(&self, what: &str, total_bytes: Option<u64>) {
        if !self.shown {
            return;
        }
        let bar = match total_bytes {
            Some(total) => ProgressBar::new(total),
            None => ProgressBar::no_length(),
        };
        bar.set_draw_target(ProgressDrawTarget::hidden());
        let template = match total_bytes {
            Some(_) => "{msg} {wide_bar} {bytes}/{total_bytes} {binary_bytes_per_sec} {eta} left",
            None => "{msg} {bytes} {binary_bytes_per_sec}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        let mut state = self.lock();
        if let Some((old, _)) = state.replace((bar, Instant::now())) {
            old.finish_and_clear();
        }
    }

    fn advance(&self, len_bytes: u64) {
        if let (true, Some((bar, begun))) = (self.shown, &*self.lock()) {
            if bar.is_hidden() && begun.elapsed() > QUIET_TIME {
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.inc(len_bytes);
        }
    }
}

impl Bar {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(ProgressBar, Instant)>> {
        self.state
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some((bar, _)) = self.lock().take() {
            bar.finish_and_clear();
        }
    }
}
