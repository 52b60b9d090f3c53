//! What is said about the command line is true, and is where shells, readers and package builders look for it.

#![expect(
    clippy::unwrap_used,
    reason = "helpers of tests, which clippy does not know as such"
)]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn vbd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vbd"))
        .args(args)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_owned()).unwrap()
}

/// The commands that `--help` lists, `help` itself apart.
fn commands() -> Vec<String> {
    let help = text(&vbd(&["--help"]).stdout);
    let list = help.split("Commands:\n").nth(1).unwrap();
    let list = list.split("\n\n").next().unwrap();
    let names = list.lines().filter(|line| !line.starts_with("    "));
    names
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_command_has_help_with_an_example() {
    let commands = commands();
    assert!(commands.contains(&"completions".to_owned()), "{commands:?}");
    for command in commands {
        let help = vbd(&[&command, "--help"]);
        assert_eq!(help.status.code(), Some(0), "{command}");
        let help = text(&help.stdout);
        let example = format!("  vbd {command}");
        assert!(help.contains("Example"), "{command}: {help}");
        assert!(help.contains(&example), "{command}: {help}");
    }
}

#[test]
fn every_command_has_a_manual_page_and_is_completed() {
    let dir = tempfile::tempdir().unwrap();
    let output = vbd(&["manual", dir.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for shell in ["bash", "zsh", "fish"] {
        let script = text(&vbd(&["completions", shell]).stdout);
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
            let page = dir.path().join(format!("vbd-{command}.1"));
            let page = fs::read_to_string(page).unwrap();
            assert!(page.contains(".SH SYNOPSIS"), "{command}");
        }
    }
}

#[test]
fn wrong_usage_ends_with_two_and_is_json_where_that_was_asked_for() {
    let output = vbd(&["--nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--nonsense"));
    let output = vbd(&["--json", "completions", "no-such-shell"]);
    assert_eq!(output.status.code(), Some(2));
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(error["error"].as_str().unwrap().contains("no-such-shell"));
    assert!(output.stdout.is_empty());
}

/// Installs stand-ins for the programs: what is generated comes from the real one.
#[test]
fn what_is_installed_is_removed_again() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = tempfile::tempdir().unwrap();
    let programs = dir.path().join("programs");
    fs::create_dir(&programs).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_vbd"), programs.join("vbd")).unwrap();
    std::os::unix::fs::symlink("/bin/echo", programs.join("vbd-vhost")).unwrap();
    let image = dir.path().join("image");
    let install = |more: &[&str]| {
        let output = Command::new(root.join("scripts/install"))
            .args(["--prefix", "/opt/vbd", "--destdir"])
            .arg(&image)
            .args(more)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
    };
    install(&["--programs", programs.to_str().unwrap()]);
    let installed = image.join("opt/vbd");
    for path in [
        "bin/vbd",
        "bin/vbd-vhost",
        "share/man/man1/vbd.1",
        "share/man/man1/vbd-completions.1",
        "share/man/man1/vbd-vhost.1",
        "share/bash-completion/completions/vbd",
        "share/zsh/site-functions/_vbd",
        "share/fish/vendor_completions.d/vbd-vhost.fish",
        "lib/systemd/system/vbd@.socket",
    ] {
        assert!(installed.join(path).is_file(), "{path}");
    }
    let json = fs::read(installed.join("share/qemu/vhost-user/50-vbd-vhost.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["binary"], "/opt/vbd/bin/vbd-vhost");
    let unit = fs::read_to_string(installed.join("lib/systemd/system/vbd@.service")).unwrap();
    assert!(
        unit.contains("ExecStart=/opt/vbd/bin/vbd-vhost --config"),
        "{unit}"
    );
    install(&["--uninstall"]);
    let left = Command::new("find")
        .arg(&image)
        .args(["-type", "f"])
        .output();
    assert_eq!(text(&left.unwrap().stdout), "");
}
