//! Promise: the socket exists exactly while the image is good and somebody answers; every mistake ends in one line
//! and an exit status that tells its kind; the end is quick and leaves nothing; and what happens to a layer while it
//! is served costs only the ranges it touches.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::driver::{Driver, IOERR, OK, WRITE, eventfd};
use crate::support::image::layers;

const PROGRAM: &str = env!("CARGO_BIN_EXE_vbd-vhost");

/// A directory with the usual three layers in it.
pub(crate) struct Place {
    dir: tempfile::TempDir,
    pub(crate) disk: Vec<u8>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, disk) = layers();
        for (name, blob) in ["base.lsmt", "app.zfile", "top.zfile"].iter().zip(blobs) {
            fs::write(dir.path().join(name), blob).unwrap();
        }
        Self { dir, disk }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn layers(&self) -> String {
        ["base.lsmt", "app.zfile", "top.zfile"]
            .map(|name| self.path(name).display().to_string())
            .join(",")
    }

    /// A daemon on the usual layers, once its socket is there.
    pub(crate) fn daemon(&self, more: &[&str]) -> Daemon {
        self.start(Command::new(PROGRAM).args(more))
    }

    /// The same, to be killed at a named point. A point that is reached before there is a front-end would fail this.
    #[cfg(feature = "kill-points")]
    pub(crate) fn daemon_dying_at(&self, plan: &str) -> Daemon {
        let mut command = Command::new(PROGRAM);
        self.start(command.env("VBD_KILL_AT", plan))
    }

    fn start(&self, command: &mut Command) -> Daemon {
        let socket = self.path("vbd.sock");
        command
            .arg("--socket")
            .arg(&socket)
            .arg("--layers")
            .arg(self.layers());
        let daemon = Daemon {
            child: command.stderr(Stdio::piped()).spawn().unwrap(),
            socket,
        };
        wait_until("an answer", || UnixStream::connect(&daemon.socket).is_ok());
        daemon
    }
}

pub(crate) struct Daemon {
    child: Child,
    socket: PathBuf,
}

impl Daemon {
    /// Sends SIGTERM and returns exit status, standard error and how long it took.
    fn terminate(mut self) -> (Option<i32>, String, Duration) {
        let start = Instant::now();
        signal(&self.child, rustix::process::Signal::TERM);
        let status = self.child.wait().unwrap();
        let took = start.elapsed();
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        (status.code(), log, took)
    }

    pub(crate) fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).unwrap()
    }

    #[cfg(feature = "kill-points")]
    pub(crate) fn has_died(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub(crate) fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.child.id()))
            .unwrap()
            .count()
    }

    pub(crate) fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id()))
            .unwrap()
            .count()
    }

    /// Processor time used so far, in clock ticks.
    fn ticks(&self) -> u64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _killed = self.child.kill();
        let _waited = self.child.wait();
    }
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "waited 20 s for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs to the end; a program that serves instead is killed and fails the test.
fn run(args: &[&str]) -> Output {
    let mut child = Command::new(PROGRAM)
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            let _killed = child.kill();
            panic!("{args:?} did not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn socket_appears_private_serves_many_and_goes() {
    let place = Place::new();
    let daemon = place.daemon(&["--serial", "unit-7"]);
    let mode = fs::metadata(&daemon.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut files = 0;
    for round in 0..10 {
        let mut driver = Driver::start(daemon.connect(), 2);
        assert!(driver.read(0, 0, 65_536) == place.disk[..65_536]);
        assert!(driver.read(1, 500, 512) == place.disk[500 * 512..501 * 512]);
        let (status, _, id) = driver.request(0, 8, 0, 20, WRITE);
        assert_eq!((status, &id[..7]), (OK, &b"unit-7\0"[..]));
        drop(driver);
        // The next front-end can only be served when the last one is gone for good.
        drop(Driver::start(daemon.connect(), 0));
        wait_until("the session to end", || {
            let now = daemon.open_files();
            files = if round == 0 { now } else { files };
            now <= files
        });
    }
    let socket = daemon.socket.clone();
    let (status, log, took) = daemon.terminate();
    assert_eq!(status, Some(0), "{log}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!(!socket.exists());
    assert!(
        log.contains("image open") && log.contains("front-end served"),
        "{log}"
    );
}

#[test]
fn termination_is_quick_in_every_state() {
    let place = Place::new();
    for (name, rings) in [
        ("nobody connected", None),
        ("connected", Some(0)),
        ("rings running", Some(3)),
    ] {
        for kind in [rustix::process::Signal::TERM, rustix::process::Signal::INT] {
            let mut daemon = place.daemon(&[]);
            let _driver = rings.map(|count| Driver::start(daemon.connect(), count));
            let start = Instant::now();
            signal(&daemon.child, kind);
            assert_eq!(daemon.child.wait().unwrap().code(), Some(0), "{name}");
            assert!(start.elapsed() < Duration::from_secs(1), "{name}");
            assert!(!daemon.socket.exists(), "{name}");
        }
    }
}

#[test]
fn stale_socket_is_replaced_a_live_one_and_other_files_are_not() {
    let place = Place::new();
    drop(UnixListener::bind(place.path("vbd.sock")).unwrap());
    let daemon = {
        let socket = place.path("vbd.sock");
        let mut command = Command::new(PROGRAM);
        command
            .arg("--socket")
            .arg(&socket)
            .arg("--layers")
            .arg(place.layers());
        Daemon {
            child: command.stderr(Stdio::piped()).spawn().unwrap(),
            socket,
        }
    };
    wait_until("an answer", || UnixStream::connect(&daemon.socket).is_ok());
    let socket = daemon.socket.display().to_string();
    let second = run(&[
        "--socket",
        &socket,
        "--layers",
        &place.layers(),
        "--log-level",
        "error",
    ]);
    assert_eq!(second.status.code(), Some(4));
    assert_eq!(
        text(&second.stderr),
        format!("vbd-vhost: socket {socket}: another process is serving on it\n")
    );
    UnixStream::connect(&daemon.socket).unwrap();
    let file = place.path("file").display().to_string();
    fs::write(&file, "precious").unwrap();
    let over_a_file = run(&[
        "--socket",
        &file,
        "--layers",
        &place.layers(),
        "--log-level",
        "error",
    ]);
    assert_eq!(over_a_file.status.code(), Some(4));
    assert_eq!(fs::read(&file).unwrap(), b"precious");
}

#[test]
fn of_many_that_start_on_one_stale_socket_exactly_one_serves() {
    let place = Place::new();
    let socket = place.path("vbd.sock");
    for round in 0..5 {
        let _removed = fs::remove_file(&socket);
        drop(UnixListener::bind(&socket).unwrap());
        let mut children = [(); 6].map(|()| {
            let mut command = Command::new(PROGRAM);
            command.args(["--log-level", "error", "--layers", &place.layers()]);
            command.arg("--socket").arg(&socket).stderr(Stdio::null());
            command.spawn().unwrap()
        });
        let mut statuses = [None; 6];
        wait_until("all but one to give up", || {
            for (child, status) in children.iter_mut().zip(&mut statuses) {
                *status = child.try_wait().unwrap();
            }
            statuses.iter().flatten().count() >= 5
        });
        let refused = statuses.iter().flatten();
        assert!(
            refused.clone().all(|status| status.code() == Some(4)),
            "round {round}: {statuses:?}"
        );
        assert_eq!(refused.count(), 5, "round {round}");
        let stream = UnixStream::connect(&socket).unwrap();
        Driver::start(stream, 1).read(0, 0, 512);
        for child in &mut children {
            let _killed = child.kill();
            child.wait().unwrap();
        }
        let left = fs::read_dir(place.dir.path()).unwrap().count();
        assert_eq!(left, 4, "three layers and a socket, round {round}");
    }
}

#[test]
#[expect(
    clippy::too_many_lines,
    reason = "one table of all the ways to start wrongly"
)]
fn every_bad_start_is_one_line_and_no_socket() {
    let place = Place::new();
    let path = |name: &str| place.path(name).display().to_string();
    fs::write(path("empty"), "").unwrap();
    fs::write(path("text"), "no layer, just text").unwrap();
    fs::write(path("cut"), &fs::read(path("app.zfile")).unwrap()[..3000]).unwrap();
    fs::write(path("bad.json"), "{\"lowers\": 3}").unwrap();
    let turbo = format!(
        "{{\"lowers\":[{{\"file\":{:?},\"targetFile\":\"/t\"}}]}}",
        path("base.lsmt")
    );
    fs::write(path("turbo.json"), turbo).unwrap();
    fs::write(
        path("remote.json"),
        "{\"lowers\":[{\"digest\":\"sha256:ab\",\"dir\":\"/none\"}]}",
    )
    .unwrap();
    let many = vec![path("base.lsmt"); 256].join(",");
    let with = |bad: &str| format!("{},{}", path("base.lsmt"), path(bad));
    let socket = path("s");
    let long = format!("{}/{}", place.dir.path().display(), "x".repeat(120));
    let missing = path("none/s");
    let slash = path("s/");
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR);
    rustix::fs::mknodat(rustix::fs::CWD, place.path("fifo"), kind, mode, 0).unwrap();
    for (args, status, message) in [
        (
            vec!["--socket", &socket, "--layers", &with("missing")],
            3,
            "missing): cannot open: No such file",
        ),
        (
            vec!["--socket", &socket, "--layers", &with("empty")],
            3,
            "layer 1 (",
        ),
        (
            vec!["--socket", &socket, "--layers", &with("empty")],
            3,
            "empty): is empty",
        ),
        (
            vec!["--socket", &socket, "--layers", &with("text")],
            3,
            "is not a layer",
        ),
        (
            vec!["--socket", &socket, "--layers", &with("")],
            3,
            "is a directory",
        ),
        (
            vec!["--socket", &socket, "--layers", &with("cut")],
            3,
            "cut): ZFile",
        ),
        (vec!["--socket", &socket, "--layers", &many], 3, "256"),
        (
            vec!["--socket", &socket, "--config", &path("missing")],
            3,
            "missing: cannot read it",
        ),
        (
            vec!["--socket", &socket, "--config", &path("bad.json")],
            3,
            "is not a valid image configuration",
        ),
        (
            vec!["--socket", &socket, "--config", &path("turbo.json")],
            3,
            "turboOCI",
        ),
        (
            vec!["--socket", &socket, "--config", &path("remote.json")],
            3,
            "remote layers are not supported",
        ),
        (
            vec!["--socket", &long, "--layers", &path("base.lsmt")],
            4,
            "a socket path has at most 107",
        ),
        (
            vec!["--socket", &missing, "--layers", &path("base.lsmt")],
            4,
            "cannot use its directory",
        ),
        (
            vec!["--fd", "77", "--layers", &path("base.lsmt")],
            4,
            "descriptor 77 is not open: Bad file descriptor",
        ),
        (
            vec!["--socket", &slash, "--layers", &path("base.lsmt")],
            4,
            "the path names no file",
        ),
        (
            vec!["--socket", &socket, "--config", &path("fifo")],
            3,
            "is not a valid image configuration",
        ),
        (
            vec!["--socket", &socket, "--blk-file", &path("fifo")],
            3,
            "is not a valid image configuration",
        ),
        (
            vec!["--socket", &socket, "--layers", &path("fifo")],
            3,
            "is a pipe",
        ),
        (
            vec!["--fd", "1", "--layers", &path("base.lsmt")],
            4,
            "cannot be a socket",
        ),
        (vec!["--layers", &path("base.lsmt")], 2, "where to listen?"),
        (vec!["--socket", &socket], 2, "what to serve?"),
    ] {
        let args = [&args[..], &["--log-level", "error"]].concat();
        let output = run(&args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {stderr}");
        assert!(
            stderr.starts_with("vbd-vhost: ") && stderr.contains(message),
            "{args:?}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(!Path::new(&socket).exists(), "{args:?}");
    }
}

#[test]
fn failure_in_json_is_one_object() {
    for (args, status, message) in [
        (
            vec!["--socket", "/none/s", "--layers", "/none"],
            3,
            "layer 0 (/none): cannot open",
        ),
        (vec!["--no-such-flag"], 2, "error: unexpected argument"),
        (vec!["--num-queues", "0"], 2, "error: invalid value '0'"),
    ] {
        let output = run(&[&args[..], &["--log-format", "json"]].concat());
        assert_eq!(output.status.code(), Some(status));
        let line = text(&output.stderr);
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["level"], "ERROR");
        let said = value["fields"]["message"].as_str().unwrap();
        assert!(said.starts_with(message), "{line}");
    }
}

#[test]
fn system_that_has_run_out_is_no_fault_of_the_image() {
    let place = Place::new();
    let many = vec![place.path("base.lsmt").display().to_string(); 60].join(",");
    let output = Command::new("sh")
        .args(["-c", "ulimit -n 40 && exec \"$0\" \"$@\"", PROGRAM])
        .args(["--socket", "/none/s", "--layers", &many])
        .output()
        .unwrap();
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{stderr}");
    assert!(stderr.contains("Too many open files"), "{stderr}");
}

#[test]
fn capabilities_are_printed_as_json_whatever_else_is_said() {
    for args in [
        &["--print-capabilities"][..],
        &[
            "--print-capabilities",
            "--socket",
            "/s",
            "--layers",
            "/none",
        ],
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0));
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(value["type"], "block");
        assert_eq!(
            value["features"],
            serde_json::json!(["read-only", "blk-file"])
        );
    }
}

#[test]
fn image_comes_from_a_configuration_or_a_block_file_too() {
    let place = Place::new();
    let config = format!(
        r#"{{"repoBlobUrl":"","lowers":[{{"file":"base.lsmt"}},{{"file":{:?}}},{{"file":"top.zfile"}}],"resultFile":""}}"#,
        place.path("app.zfile")
    );
    fs::write(place.path("config.v1.json"), config).unwrap();
    let config = place.path("config.v1.json").display().to_string();
    let single = place.path("base.lsmt").display().to_string();
    for (option, value, whole) in [
        ("--config", &config, true),
        ("--blk-file", &config, true),
        ("--blk-file", &single, false),
    ] {
        let socket = place.path("vbd.sock");
        let mut command = Command::new(PROGRAM);
        command
            .arg("--socket-path")
            .arg(&socket)
            .args([option, value, "--read-only"])
            .stderr(Stdio::null());
        let daemon = Daemon {
            child: command.spawn().unwrap(),
            socket,
        };
        wait_until("the socket", || daemon.socket.exists());
        let mut driver = Driver::start(daemon.connect(), 1);
        assert_eq!(
            driver.read(0, 0, 65_536 * 8) == place.disk[..65_536 * 8],
            whole,
            "{option} {value}"
        );
        drop(driver);
        drop(daemon);
        fs::remove_file(place.path("vbd.sock")).unwrap();
    }
}

/// Lets a descriptor live on in a child under the same number.
fn inheritable(fd: &impl AsFd) {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
}

#[test]
fn inherited_sockets_are_served() {
    let place = Place::new();
    // A connection: one front-end, then the end.
    let (ours, theirs) = UnixStream::pair().unwrap();
    inheritable(&theirs);
    let fd = theirs.as_raw_fd().to_string();
    let mut child = Command::new(PROGRAM)
        .args(["--fd", &fd, "--layers", &place.layers()])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    drop(theirs);
    let mut driver = Driver::start(ours, 1);
    assert!(driver.read(0, 0, 4096) == place.disk[..4096]);
    drop(driver);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    // A listener, by number and by systemd's variables.
    for activated in [false, true] {
        let path = place.path(if activated { "activated" } else { "passed" });
        let listener = UnixListener::bind(&path).unwrap();
        inheritable(&listener);
        let fd = listener.as_raw_fd();
        let layers = place.layers();
        let script = if activated {
            format!(
                "exec 3<&{fd}; export LISTEN_PID=$$ LISTEN_FDS=1; exec '{PROGRAM}' --layers '{layers}'"
            )
        } else {
            format!("exec '{PROGRAM}' --fd {fd} --layers '{layers}'")
        };
        let child = Command::new("bash")
            .args(["-c", &script])
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(listener);
        let daemon = Daemon {
            child,
            socket: path,
        };
        for _ in 0..3 {
            let mut driver = Driver::start(daemon.connect(), 1);
            assert!(driver.read(0, 0, 4096) == place.disk[..4096]);
        }
        let socket = daemon.socket.clone();
        assert_eq!(daemon.terminate().0, Some(0));
        assert!(socket.exists(), "a socket that is not ours is left alone");
    }
}

#[test]
fn layer_damaged_or_cut_while_served_costs_only_what_it_touches() {
    let place = Place::new();
    let daemon = place.daemon(&[]);
    let mut driver = Driver::start(daemon.connect(), 1);
    let sector_of_the_app_layer = 700;
    assert!(driver.read(0, sector_of_the_app_layer, 512) == place.disk[700 * 512..701 * 512]);
    // One bit in every compressed block.
    let app = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(place.path("app.zfile"))
        .unwrap();
    let good = fs::read(place.path("app.zfile")).unwrap();
    let bad: Vec<u8> = good
        .iter()
        .enumerate()
        .map(|(at, byte)| if at > 512 { byte ^ 4 } else { *byte })
        .collect();
    app.write_all_at(&bad, 0).unwrap();
    for _ in 0..3 {
        let (status, used_len, data) = driver.request(0, 0, sector_of_the_app_layer, 4096, WRITE);
        assert_eq!((status, used_len), (IOERR, 1));
        assert!(
            data.iter().all(|byte| *byte == 0xEE),
            "nothing of a damaged block reaches the guest"
        );
    }
    assert!(
        driver.read(0, 100, 4096) == place.disk[100 * 512..108 * 512],
        "another layer"
    );
    app.write_all_at(&good, 0).unwrap();
    assert!(
        driver.read(0, sector_of_the_app_layer, 512) == place.disk[700 * 512..701 * 512],
        "healed"
    );
    // The base loses its second half.
    let base = fs::OpenOptions::new()
        .write(true)
        .open(place.path("base.lsmt"))
        .unwrap();
    base.set_len(600 * 512).unwrap();
    assert_eq!(driver.request(0, 0, 1500, 512, WRITE).0, IOERR);
    assert!(driver.read(0, 100, 512) == place.disk[100 * 512..101 * 512]);
    drop(driver);
    let (status, log, _) = daemon.terminate();
    assert_eq!(status, Some(0));
    let line = log
        .lines()
        .find(|line| line.contains("app.zfile"))
        .expect("a line about the layer");
    assert!(
        line.contains("layer 1") && line.contains("checksum"),
        "{line}"
    );
    assert!(
        log.lines()
            .any(|line| line.contains("layer 0") && line.contains("shorter")),
        "{log}"
    );
}

#[test]
fn hostile_kicks_and_broken_rings_cost_no_processor_time_afterwards() {
    let place = Place::new();
    let daemon = place.daemon(&[]);
    let mut driver = Driver::start(daemon.connect(), 3);
    driver.set_avail_index(0, 500);
    driver.kick(0);
    let (read_end, write_end) = Driver::pipe();
    drop(write_end);
    driver.client.tell_ring_file(
        crate::support::client::SET_VRING_KICK,
        1,
        Some(&fs::File::from(read_end)),
    );
    let saturated = eventfd();
    rustix::io::write(&saturated, &(u64::MAX - 1).to_le_bytes()).unwrap();
    driver
        .client
        .tell_ring_file(crate::support::client::SET_VRING_KICK, 1, Some(&saturated));
    std::thread::sleep(Duration::from_millis(50));
    let before = daemon.ticks();
    std::thread::sleep(Duration::from_millis(500));
    let used = daemon.ticks() - before;
    assert!(used <= 5, "{used} ticks in half a second of nothing to do");
    assert!(driver.read(2, 0, 512) == place.disk[..512]);
}

#[test]
fn log_that_cannot_be_written_costs_only_the_log() {
    let place = Place::new();
    let socket = place.path("vbd.sock");
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    let mut command = Command::new(PROGRAM);
    command
        .arg("--socket")
        .arg(&socket)
        .arg("--layers")
        .arg(place.layers())
        .stderr(full);
    let daemon = Daemon {
        child: command.spawn().unwrap(),
        socket,
    };
    wait_until("an answer", || UnixStream::connect(&daemon.socket).is_ok());
    let mut driver = Driver::start(daemon.connect(), 1);
    assert_eq!(driver.request(0, 1, 0, 512, 0).0, IOERR);
    assert!(driver.read(0, 0, 4096) == place.disk[..4096]);
}

#[test]
fn guest_cannot_flood_the_log() {
    let place = Place::new();
    let daemon = place.daemon(&[]);
    let mut driver = Driver::start(daemon.connect(), 1);
    let start = Instant::now();
    for _ in 0..2000 {
        assert_eq!(driver.request(0, 1, 0, 512, 0).0, IOERR);
    }
    let seconds = start.elapsed().as_secs() + 1;
    drop(driver);
    let (_, log, _) = daemon.terminate();
    let lines = log.lines().filter(|line| line.contains("refused:")).count() as u64;
    assert!(
        (1..=10 * (seconds + 1)).contains(&lines),
        "{lines} lines in {seconds} s"
    );
    assert!(log.contains("refused=2000"), "{log}");
}

#[test]
fn completions_know_the_options() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["--print-completions", shell]);
        assert_eq!(output.status.code(), Some(0));
        let script = text(&output.stdout);
        for option in ["socket", "layers", "config", "poll-us", "num-queues"] {
            assert!(script.contains(option), "{shell}: {option}");
        }
    }
}

#[test]
fn help_and_version_go_to_standard_output() {
    for args in [&["--help"][..], &["-h"], &["--version"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("vbd-vhost") && output.stderr.is_empty());
    }
    let usage = run(&["--nonsense"]);
    assert_eq!(usage.status.code(), Some(2));
    std::io::stdout().flush().unwrap();
}
