//! C-20: the program follows the conventions for vhost-user backends that management software relies on.

use std::fs;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;

use crate::bench::{PATIENCE, wait_until};
use crate::program::{PROGRAM, Place, Program, exists, run};
use crate::registry::line;
use crate::support::driver::{Driver, IOERR, RO, WRITE};

line! {
    C20 = "C-20", c20_program_conventions:
    "C-20.01" "capabilities are JSON with a type and features" => capabilities,
    "C-20.02" "capabilities are printed whatever else is said" => capabilities_alone,
    "C-20.03" "--socket-path is --socket" => socket_path,
    "C-20.04" "--blk-file takes a layer or a configuration" => blk_file,
    "C-20.05" "--read-only is taken and changes nothing" => read_only,
    "C-20.06" "--fd takes a connected socket, and ends with it" => fd_connected,
    "C-20.07" "--fd takes a listening socket" => fd_listening,
    "C-20.08" "it stays in the foreground, as the process it is" => foreground,
    "C-20.09" "standard output and input are left alone" => standard_streams,
    "C-20.10" "the socket is its owner's, and removed at the end" => socket_mode,
    "C-20.11" "a wrong command line is status 2" => wrong_command_line,
    "C-20.12" "a wrong image is status 3, and no socket appears" => wrong_image,
    "C-20.13" "a wrong environment is status 4" => wrong_environment,
    "C-20.14" "who sees the socket can connect" => socket_means_ready,
    "C-20.15" "a serial is what the guest sees" => serial,
    "C-20.16" "--num-queues and --queue-size are what is offered" => limits,
}

fn capabilities() {
    let output = run(&["--print-capabilities"]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stderr, b"");
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let expected = serde_json::json!({ "type": "block", "features": ["read-only", "blk-file"] });
    assert_eq!(value, expected);
}

fn capabilities_alone() {
    let place = Place::new();
    let socket = place.text("s");
    for more in [
        &["--socket", &socket, "--layers", "/nonexistent"][..],
        &["--fd", "77"],
        &["--read-only", "--blk-file", "/nonexistent"],
    ] {
        let output = run(&[&["--print-capabilities"], more].concat());
        assert_eq!(output.status.code(), Some(0), "{more:?}");
        assert!(output.stdout.starts_with(b"{") && output.stderr.is_empty());
        assert!(!exists(&place.path("s")));
    }
}

/// The program with these arguments and a socket, once it answers.
fn serving(place: &Place, socket: &str, args: &[&str]) -> Program {
    let path = place.text("vbd.sock");
    let child = place.spawn(&[&[socket, &path], args].concat());
    let program = Program {
        child,
        socket: place.path("vbd.sock"),
    };
    wait_until("an answer", || UnixStream::connect(&program.socket).is_ok());
    program
}

fn socket_path() {
    let place = Place::new();
    let program = serving(&place, "--socket-path", &["--layers", &place.layers()]);
    place.check_read(&mut Driver::start(program.connect(), 1), 0);
}

fn blk_file() {
    let place = Place::new();
    let lowers =
        ["base.lsmt", "app.zfile", "top.zfile"].map(|name| format!("{{\"file\":\"{name}\"}}"));
    let config = format!("{{\"lowers\":[{}]}}", lowers.join(","));
    fs::write(place.path("config.v1.json"), config).unwrap();
    let program = serving(
        &place,
        "--socket",
        &["--blk-file", &place.text("config.v1.json")],
    );
    place.check_read(&mut Driver::start(program.connect(), 1), 0);
    drop(program);
    fs::remove_file(place.path("vbd.sock")).unwrap();
    let program = serving(
        &place,
        "--socket",
        &["--blk-file", &place.text("base.lsmt")],
    );
    let mut driver = Driver::start(program.connect(), 1);
    // The base alone: what the layers above replace is what it was.
    assert!(driver.read(0, 2200, 4096) == place.disk[2200 * 512..2208 * 512]);
    assert!(driver.read(0, 500, 4096) != place.disk[500 * 512..508 * 512]);
}

fn read_only() {
    let place = Place::new();
    for args in [&["--read-only"][..], &[]] {
        let layers = place.layers();
        let program = serving(&place, "--socket", &[args, &["--layers", &layers]].concat());
        let mut driver = Driver::start(program.connect(), 1);
        assert_ne!(driver.features & RO, 0);
        assert_eq!(driver.request(0, 1, 0, 512, 0).0, IOERR);
        place.check_read(&mut driver, 0);
        drop(program);
        fs::remove_file(place.path("vbd.sock")).unwrap();
    }
}

/// Starts the program with a descriptor of ours under the same number.
fn with_descriptor(place: &Place, fd: &OwnedFd) -> Child {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    let number = fd.as_raw_fd().to_string();
    let child = place.spawn(&["--fd", &number, "--layers", &place.layers()]);
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).unwrap();
    child
}

fn fd_connected() {
    let place = Place::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let child = with_descriptor(&place, &theirs.into());
    let mut program = Program {
        child,
        socket: place.path("none"),
    };
    let mut driver = Driver::start(ours, 1);
    place.check_read(&mut driver, 0);
    drop(driver);
    assert_eq!(program.wait().0.code(), Some(0));
}

fn fd_listening() {
    let place = Place::new();
    let socket = place.path("theirs");
    let listener = UnixListener::bind(&socket).unwrap();
    let child = with_descriptor(&place, &listener.into());
    let mut program = Program { child, socket };
    for _ in 0..3 {
        place.check_read(&mut Driver::start(program.connect(), 1), 0);
    }
    program.signal(Signal::TERM);
    assert_eq!(program.wait().0.code(), Some(0));
    assert!(exists(&program.socket), "it belongs to somebody else");
}

fn foreground() {
    let place = Place::new();
    let mut program = place.serve();
    let stream = program.connect();
    let peer = rustix::net::sockopt::socket_peercred(&stream).unwrap();
    let child = i32::try_from(program.child.id()).unwrap();
    assert_eq!(peer.pid.as_raw_nonzero().get(), child);
    let stat = fs::read_to_string(format!("/proc/{child}/stat")).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ours = i32::try_from(std::process::id()).unwrap();
    assert_eq!(fields[1].parse(), Ok(ours), "its parent is who started it");
    let group = rustix::process::getpgrp().as_raw_nonzero().get();
    assert_eq!(fields[2].parse(), Ok(group), "and its group is the same");
    assert!(program.child.try_wait().unwrap().is_none());
}

fn standard_streams() {
    let place = Place::new();
    let log = fs::File::create(place.path("log")).unwrap();
    let child = Command::new(PROGRAM)
        .args([
            "--socket",
            &place.text("vbd.sock"),
            "--layers",
            &place.layers(),
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .unwrap();
    let mut program = Program {
        child,
        socket: place.path("vbd.sock"),
    };
    wait_until("the socket", || exists(&program.socket));
    let mut stdin = program.child.stdin.take().unwrap();
    stdin.write_all(b"nobody reads this").unwrap();
    place.check_read(&mut Driver::start(program.connect(), 1), 0);
    assert_eq!(rustix::io::ioctl_fionread(&stdin).unwrap(), 17);
    drop(stdin);
    place.check_read(&mut Driver::start(program.connect(), 1), 0);
    program.signal(Signal::TERM);
    assert_eq!(program.wait().0.code(), Some(0));
    assert_eq!(program.output(), "");
    assert!(place.log().contains("image open"));
}

fn socket_mode() {
    let place = Place::new();
    let mut program = place.serve();
    let mode = fs::metadata(&program.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    program.signal(Signal::TERM);
    program.wait();
    assert!(!exists(&program.socket));
}

fn refused_with(args: &[&str], status: i32) {
    let output = run(args);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(status), "{args:?}: {text}");
    assert!(!text.is_empty() && output.stdout.is_empty(), "{args:?}");
}

fn wrong_command_line() {
    let place = Place::new();
    let (socket, layers) = (place.text("s"), place.layers());
    for args in [
        &[][..],
        &["--socket", &socket],
        &["--layers", &layers],
        &["--socket", &socket, "--fd", "3", "--layers", &layers],
        &["--socket", &socket, "--layers", &layers, "--blk-file", "x"],
        &[
            "--socket",
            &socket,
            "--layers",
            &layers,
            "--num-queues",
            "0",
        ],
        &[
            "--socket",
            &socket,
            "--layers",
            &layers,
            "--num-queues",
            "257",
        ],
        &[
            "--socket",
            &socket,
            "--layers",
            &layers,
            "--queue-size",
            "127",
        ],
        &[
            "--socket",
            &socket,
            "--layers",
            &layers,
            "--serial",
            "two words",
        ],
        &["--socket", &socket, "--layers", &layers, "--nonsense"],
        &["--fd", "three", "--layers", &layers],
    ] {
        refused_with(args, 2);
        assert!(!exists(&place.path("s")), "{args:?}");
    }
}

fn wrong_image() {
    let place = Place::new();
    let socket = place.text("s");
    fs::write(place.path("noise"), blob::test_util::noise(10_000, 1)).unwrap();
    fs::write(place.path("empty"), "").unwrap();
    fs::write(place.path("bad.json"), "{").unwrap();
    for image in [
        ["--layers", &place.text("missing")],
        ["--layers", &place.text("noise")],
        ["--layers", &place.text("empty")],
        ["--layers", "/"],
        ["--config", &place.text("bad.json")],
        ["--config", &place.text("missing")],
        ["--blk-file", &place.text("bad.json")],
        ["--blk-file", &place.text("noise")],
    ] {
        refused_with(&[&["--socket", &socket], &image[..]].concat(), 3);
        assert!(!exists(&place.path("s")), "{image:?}");
    }
}

fn wrong_environment() {
    let place = Place::new();
    let layers = place.layers();
    let program = place.serve();
    fs::write(place.path("file"), "precious").unwrap();
    for door in [
        ["--socket", &place.text("no/such/directory")],
        ["--socket", &place.text("file")],
        ["--socket", &place.text("vbd.sock")],
        ["--socket", &place.text(&"x".repeat(120))],
        ["--fd", "977"],
        ["--fd", "-1"],
    ] {
        let door = match door {
            // A sign would begin another flag.
            ["--fd", "-1"] => vec!["--fd=-1"],
            door => door.to_vec(),
        };
        refused_with(&[&door[..], &["--layers", &layers]].concat(), 4);
    }
    assert_eq!(fs::read(place.path("file")).unwrap(), b"precious");
    place.check_read(&mut Driver::start(program.connect(), 1), 0);
}

fn socket_means_ready() {
    let place = Place::new();
    for _ in 0..20 {
        let socket = place.path("vbd.sock");
        let layers = place.layers();
        let child = place.spawn(&["--socket", &place.text("vbd.sock"), "--layers", &layers]);
        let mut program = Program { child, socket };
        // Without any pause, so that the first moment is met.
        let deadline = Instant::now() + PATIENCE;
        while !exists(&program.socket) {
            assert!(Instant::now() < deadline);
            std::hint::spin_loop();
        }
        assert!(UnixStream::connect(&program.socket).is_ok());
        program.signal(Signal::TERM);
        program.wait();
    }
}

fn serial() {
    let place = Place::new();
    for serial in ["x", "unit-7", "01234567890123456789"] {
        let layers = place.layers();
        let program = serving(
            &place,
            "--socket",
            &["--layers", &layers, "--serial", serial],
        );
        let mut driver = Driver::start(program.connect(), 1);
        let (_, _, id) = driver.request(0, 8, 0, 20, WRITE);
        let mut expected = serial.as_bytes().to_vec();
        expected.resize(20, 0);
        assert_eq!(id, expected);
        drop(program);
        fs::remove_file(place.path("vbd.sock")).unwrap();
    }
}

fn limits() {
    let place = Place::new();
    let layers = place.layers();
    let args = [
        "--layers",
        &layers,
        "--num-queues",
        "3",
        "--queue-size",
        "64",
    ];
    let program = serving(&place, "--socket", &args);
    let mut driver = Driver::start(program.connect(), 3);
    assert_eq!(
        driver.client.config(12, 4, 0).unwrap(),
        62_u32.to_le_bytes()
    );
    assert_eq!(driver.client.config(34, 2, 0).unwrap(), 3_u16.to_le_bytes());
    (0..3).for_each(|at| place.check_read(&mut driver, at));
}
