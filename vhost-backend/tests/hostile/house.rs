//! A daemon in a directory of its own, and what it uses.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::support::driver::Driver;
use crate::support::image::layers;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vbd-vhost");
const LAYERS: [&str; 3] = ["base.lsmt", "app.zfile", "top.zfile"];
/// Longest wait for anything that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a process holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) files: usize,
    pub(crate) threads: usize,
    pub(crate) resident_kib: u64,
}

/// The daemon, its directory, and the disk it serves.
pub(crate) struct House {
    dir: tempfile::TempDir,
    child: Child,
    pub(crate) disk: Vec<u8>,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::after("")
    }

    /// A daemon that is started after these words of a shell.
    pub(crate) fn after(words: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, disk) = layers();
        let paths = LAYERS.map(|name| dir.path().join(name));
        for (path, blob) in paths.iter().zip(blobs) {
            fs::write(path, blob).unwrap();
        }
        let layers = paths.map(|path| path.display().to_string()).join(",");
        // A file takes whatever is written, so a long log cannot stop the daemon.
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new("sh")
            .args(["-c", &format!("{words}\nexec \"$0\" \"$@\"")])
            .args([PROGRAM, "--layers", &layers, "--socket"])
            .arg(dir.path().join("s"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let house = Self { dir, child, disk };
        wait_until("an answer", || UnixStream::connect(house.socket()).is_ok());
        house
    }

    /// Where a layer lies.
    pub(crate) fn layer(&self, ordinal: usize) -> PathBuf {
        self.dir.path().join(LAYERS[ordinal])
    }

    pub(crate) fn process(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(self.socket()).unwrap()
    }

    /// Panics with the log if the daemon has ended.
    pub(crate) fn demand_life(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the daemon ended with {status}\n{}", self.log());
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// Lines about what drivers do with queues, and lines about front-ends.
    pub(crate) fn log_lines(&self) -> (usize, usize) {
        let log = self.log();
        let about_front_ends = |line: &&str| {
            let of_session = ["front-end", "message refused", "connection ended"];
            of_session.iter().any(|text| line.contains(text))
        };
        let lines = log.lines().filter(|line| !line.contains("image open"));
        let front_end = lines.clone().filter(about_front_ends).count();
        (lines.count() - front_end, front_end)
    }

    fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.child.id()))
    }

    pub(crate) fn usage(&self) -> Usage {
        let statm = fs::read_to_string(self.proc("statm")).unwrap();
        let resident_pages: u64 = statm.split(' ').nth(1).unwrap().parse().unwrap();
        Usage {
            files: fs::read_dir(self.proc("fd")).unwrap().count(),
            threads: fs::read_dir(self.proc("task")).unwrap().count(),
            resident_kib: resident_pages * 4,
        }
    }

    /// Processor time used so far, in clock ticks.
    pub(crate) fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Fails if the daemon works although nobody asks it to.
    pub(crate) fn demand_idle(&self, wait: Duration) {
        // What was asked for last may still be under way.
        let mut worked = 0;
        for _ in 0..10 {
            let before = self.ticks();
            std::thread::sleep(wait);
            worked = self.ticks() - before;
            if worked <= 3 {
                return;
            }
        }
        panic!("the daemon used {worked} ticks in {wait:?} with nothing to do");
    }

    /// A whole session of an honest front-end, from the connection to a right answer.
    pub(crate) fn honest_session(&self) {
        let mut driver = Driver::start(self.connect(), 1);
        crate::attack::honest_read(&mut driver, 0, &self.disk);
    }
}

impl Drop for House {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} for {what} in vain"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}
