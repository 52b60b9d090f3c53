//! The program itself, in a directory of its own.

use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::bench::{PATIENCE, wait_until};
use crate::support::driver::Driver;
use crate::support::image::layers;

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_vbd-vhost");
const LAYERS: [&str; 3] = ["base.lsmt", "app.zfile", "top.zfile"];

/// A directory with the usual layers.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) disk: Vec<u8>,
}

/// A running program.
pub(crate) struct Program {
    pub(crate) child: Child,
    pub(crate) socket: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, disk) = layers();
        for (name, blob) in LAYERS.iter().zip(blobs) {
            fs::write(dir.path().join(name), blob).unwrap();
        }
        Self { dir, disk }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    pub(crate) fn layers(&self) -> String {
        LAYERS.map(|name| self.text(name)).join(",")
    }

    /// Starts the program with these arguments and nothing else. Its log goes to a file, which takes whatever is
    /// written.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let log = fs::File::create(self.path("log")).unwrap();
        Command::new(PROGRAM)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// A program that serves the usual layers, once it answers.
    pub(crate) fn serve(&self) -> Program {
        let args = ["--socket", &self.text("vbd.sock"), "--layers"];
        let child = self.spawn(&[&args[..], &[&self.layers()]].concat());
        self.once_it_answers(child)
    }

    /// The same, but it dies when a request comes to this point for the `count`th time.
    #[cfg(feature = "kill-points")]
    pub(crate) fn serve_dying_at(
        &self,
        point: vhost_backend::killpoint::Point,
        count: u32,
    ) -> Program {
        let child = Command::new(PROGRAM)
            .env("VBD_KILL_AT", format!("{}:{count}", point.name()))
            .args(["--socket", &self.text("vbd.sock"), "--layers"])
            .arg(self.layers())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.once_it_answers(child)
    }

    fn once_it_answers(&self, child: Child) -> Program {
        let socket = self.path("vbd.sock");
        let program = Program { child, socket };
        wait_until("an answer", || UnixStream::connect(&program.socket).is_ok());
        program
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Reads a little through `driver`, which must be right.
    pub(crate) fn check_read(&self, driver: &mut Driver, at: usize) {
        assert!(driver.read(at, 500, 4096) == self.disk[500 * 512..508 * 512]);
    }
}

impl Program {
    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).unwrap()
    }

    fn entries(&self, what: &str) -> usize {
        let path = format!("/proc/{}/{what}", self.child.id());
        fs::read_dir(path).unwrap().count()
    }

    /// Descriptors and threads.
    pub(crate) fn usage(&self) -> (usize, usize) {
        (self.entries("fd"), self.entries("task"))
    }

    /// Whether its main thread waits for something, rather than for a processor.
    pub(crate) fn sleeps(&self) -> bool {
        let path = format!("/proc/{}/stat", self.child.id());
        let stat = fs::read_to_string(path).unwrap();
        stat.rsplit(')').next().unwrap().starts_with(" S")
    }

    /// A thread that has ended may be seen for a moment longer, so this waits.
    pub(crate) fn demand_no_more_than(&self, before: (usize, usize)) {
        wait_until("descriptors and threads to be given back", || {
            let now = self.usage();
            now.0 <= before.0 && now.1 <= before.1
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The end of a program that has been asked to end, and how long it took.
    pub(crate) fn wait(&mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        wait_until("the end", || self.child.try_wait().unwrap().is_some());
        (self.child.wait().unwrap(), begun.elapsed())
    }

    /// What it has written to standard output, after its end.
    pub(crate) fn output(&mut self) -> String {
        let mut text = String::new();
        let mut stdout = self.child.stdout.take().unwrap();
        stdout.read_to_string(&mut text).unwrap();
        text
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

/// Runs to the end; a program that serves instead is killed and fails the check.
pub(crate) fn run(args: &[&str]) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _killed = child.kill();
            panic!("{args:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.wait_with_output().unwrap()
}

pub(crate) fn exists(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok()
}

/// Says aloud, past the capture of the test runner, that a check needs the named points.
#[cfg(not(feature = "kill-points"))]
pub(crate) fn skip_without_kill_points(check: &str) {
    use std::io::Write;
    let why = format!("SKIPPED: {check} needs --features kill-points\n");
    std::io::stderr().write_all(why.as_bytes()).unwrap();
}
