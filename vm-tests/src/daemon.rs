//! The backend under test, as a process with a socket.

use std::ffi::OsString;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::artifacts;
use crate::process::Process;
use crate::requirement::program;
use crate::stack::Stack;

/// Queues every backend offers here: no fewer than any guest has processors.
pub const QUEUES: u32 = 4;

/// The serial number given to a backend that takes one: all twenty bytes a guest can see.
pub const SERIAL: &str = "vbd-serial-no-20-len";

/// Long enough for a debug build on a busy machine; a healthy backend needs some milliseconds.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Which program serves the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The program under test.
    VbdVhost,
    /// `qemu-storage-daemon`, serving the flat image: the control.
    QemuStorageDaemon,
}

/// A running backend. Dropping it kills it.
#[derive(Debug)]
pub struct Backend {
    /// Which program it is: some answers differ, see [`Backend::serial`].
    pub kind: Kind,
    process: Process,
    program: PathBuf,
    arguments: Vec<OsString>,
    socket: PathBuf,
    /// Holds the socket; goes last.
    _dir: tempfile::TempDir,
}

impl Backend {
    /// Starts the backend that `VM_TESTS_BACKEND` names (`qsd`; default `vbd`) on `stack`.
    ///
    /// # Errors
    ///
    /// [`Missing`](crate::requirement::Missing) if the program is not there; otherwise why it did not start.
    pub fn start(stack: &Stack) -> Result<Self> {
        match std::env::var("VM_TESTS_BACKEND").as_deref() {
            Ok("qsd") => Self::qemu_storage_daemon(&stack.flat),
            Ok("vbd") | Err(_) => Self::vbd_vhost(&stack.layers),
            Ok(other) => bail!("VM_TESTS_BACKEND={other}: neither vbd nor qsd"),
        }
    }

    /// Starts `vbd-vhost` on the layers, lowest first.
    ///
    /// # Errors
    ///
    /// If it cannot be built or does not get ready.
    pub fn vbd_vhost(layers: &[PathBuf]) -> Result<Self> {
        let mut command = Command::new(vbd_vhost_program()?);
        let layers: Vec<&str> = layers
            .iter()
            .map(|layer| layer.to_str().context("layer path is not text"))
            .collect::<Result<_>>()?;
        command.arg("--layers").arg(layers.join(","));
        command.args(["--serial", SERIAL, "--num-queues", &QUEUES.to_string()]);
        Self::ready(Kind::VbdVhost, command, |command, socket| {
            command.arg("--socket").arg(socket);
        })
    }

    /// Starts `qemu-storage-daemon` on a flat image.
    ///
    /// # Errors
    ///
    /// [`Missing`](crate::requirement::Missing) if it is not installed; otherwise why it did not get ready.
    pub fn qemu_storage_daemon(image: &Path) -> Result<Self> {
        let mut command = Command::new(program("qemu-storage-daemon")?);
        let image = image.display();
        command.arg("--blockdev");
        command.arg(format!(
            "driver=file,node-name=disk,filename={image},read-only=on"
        ));
        Self::ready(Kind::QemuStorageDaemon, command, |command, socket| {
            let socket = socket.display();
            command.arg("--export").arg(format!(
                "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={socket},\
                 writable=off,num-queues={QUEUES}"
            ));
        })
    }

    fn ready(
        kind: Kind,
        mut command: Command,
        add_socket: impl FnOnce(&mut Command, &Path),
    ) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("vbd-socket").tempdir()?;
        let socket = dir.path().join("disk.sock");
        add_socket(&mut command, &socket);
        let program = PathBuf::from(command.get_program());
        let arguments = command.get_args().map(OsString::from).collect();
        let mut process = Process::spawn("backend", &mut command)?;
        let deadline = Instant::now() + START_LIMIT;
        while !socket.exists() {
            if let Some(status) = process.try_wait()? {
                bail!("the backend ended at once ({status}): {}", process.text());
            }
            ensure!(Instant::now() < deadline, "no socket: {}", process.text());
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Self {
            kind,
            process,
            program,
            arguments,
            socket,
            _dir: dir,
        })
    }

    /// Where front-ends connect.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The serial number its guests see.
    #[must_use]
    pub fn serial(&self) -> &'static str {
        match self.kind {
            Kind::VbdVhost => SERIAL,
            Kind::QemuStorageDaemon => "vhost_user_blk",
        }
    }

    /// What it has said so far.
    #[must_use]
    pub fn text(&self) -> String {
        self.process.text()
    }

    /// Kills it as SIGKILL does, without a word, and starts it again with the same arguments.
    ///
    /// # Errors
    ///
    /// If it does not get ready again.
    pub fn kill_and_restart(&mut self) -> Result<()> {
        self.process.kill()?;
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        self.process = Process::spawn("backend", &mut command)?;
        let deadline = Instant::now() + START_LIMIT;
        // The socket of the killed one stays until the new one takes its place, but nobody answers on it.
        while UnixStream::connect(&self.socket).is_err() {
            self.still_runs()?;
            ensure!(Instant::now() < deadline, "no new socket: {}", self.text());
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Fails if the backend has ended.
    ///
    /// # Errors
    ///
    /// With its last words, if it has.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.process.try_wait()? {
            Some(status) => bail!("the backend ended ({status}): {}", self.text()),
            None => Ok(()),
        }
    }

    /// Asks it to end and waits until it has; the exit must be clean.
    ///
    /// # Errors
    ///
    /// If it had ended before, does not end in time or reports failure.
    pub fn stop(mut self) -> Result<()> {
        self.still_runs()?;
        self.process.terminate()?;
        let status = self.process.wait(Duration::from_secs(10))?;
        ensure!(
            status.success(),
            "the backend ended with {status}: {}",
            self.text()
        );
        Ok(())
    }
}

impl Drop for Backend {
    #[expect(
        clippy::print_stderr,
        reason = "the test runner keeps it, and shows it where the test has failed"
    )]
    fn drop(&mut self) {
        eprintln!("the backend said:\n{}", self.text());
    }
}

/// Finds `vbd-vhost`: where `VBD_VHOST` says, else in the profile directory of this test, brought up to
/// date by cargo.
fn vbd_vhost_program() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    if let Some(path) = std::env::var_os("VBD_VHOST") {
        return Ok(path.into());
    }
    BUILT
        .get_or_init(|| build_vbd_vhost().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

fn build_vbd_vhost() -> Result<PathBuf> {
    let profile = artifacts::profile_dir()?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args([
        "build",
        "--quiet",
        "-p",
        "vhost-backend",
        "--bin",
        "vbd-vhost",
        "--target-dir",
    ]);
    command.arg(artifacts::target_dir()?);
    if profile.ends_with("release") {
        command.arg("--release");
    }
    let built = command.current_dir(env!("CARGO_MANIFEST_DIR")).output()?;
    ensure!(
        built.status.success(),
        "cargo build: {}",
        String::from_utf8_lossy(&built.stderr)
    );
    Ok(profile.join("vbd-vhost"))
}
