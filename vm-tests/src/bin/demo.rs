//! The disk in the guest, from nothing: makes a stack of layers, serves it, boots Linux on it in QEMU, and compares
//! what the guest saw with what was put in. Run by `scripts/demo`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a demonstration is its output")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use lsmt::{Writer, WriterOptions};
use vm_tests::daemon::Backend;
use vm_tests::layers::{Form, wrap};
use vm_tests::linux::{Boot, Report, Task};
use vm_tests::qemu;
use vm_tests::requirement::program;
use vm_tests::stack::{DISK_BYTES, Stack, sha256};

/// Layers differ where the file systems do, in blocks of this size.
const BLOCK_BYTES: usize = 4096;

/// A change of the file system, and how the layer that holds it is stored.
struct Step {
    name: &'static str,
    what: &'static str,
    form: Form,
    add: &'static [(&'static str, usize)],
    remove: &'static [&'static str],
}

const STEPS: [Step; 4] = [
    Step {
        name: "base.lsmt",
        what: "plain",
        form: Form {
            zfile: None,
            tar: false,
        },
        add: &[
            ("etc/os-release", 90),
            ("etc/motd", 513),
            ("usr/lib/libbase.so", 1_500_000),
            ("var/log/old.log", 70_000),
        ],
        remove: &[],
    },
    Step {
        name: "libs.zfile",
        what: "ZFile, LZ4",
        form: Form {
            zfile: Some((zfile::Algorithm::Lz4, 4096)),
            tar: false,
        },
        add: &[
            ("usr/lib/libextra.so", 3_000_001),
            ("usr/share/doc/extra.txt", 12_345),
        ],
        remove: &[],
    },
    Step {
        name: "app.zfile",
        what: "ZFile, zstd",
        form: Form {
            zfile: Some((zfile::Algorithm::Zstd, 4096)),
            tar: false,
        },
        add: &[
            ("app/server", 5_000_000),
            ("app/config.json", 4_096),
            ("etc/motd", 700),
        ],
        remove: &["var/log/old.log"],
    },
    Step {
        name: "top.tar",
        what: "ZFile, LZ4, in tar",
        form: Form {
            zfile: Some((zfile::Algorithm::Lz4, 4096)),
            tar: true,
        },
        add: &[
            ("app/data/users.db", 250_000),
            ("app/data/empty", 0),
            ("etc/hostname", 12),
        ],
        remove: &["usr/share/doc/extra.txt"],
    },
];

fn main() -> Result<()> {
    let dir = tempfile::Builder::new().prefix("vbd-demo").tempdir()?;
    println!(
        "Making {} layers of a {} MiB ext4 file system:",
        STEPS.len(),
        DISK_BYTES >> 20
    );
    let stack = build(dir.path())?;
    let backend = Backend::start(&stack)?;
    let names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
    println!(
        "\nServing them: vbd-vhost --socket {} --layers {}",
        backend.socket().display(),
        names.join(",")
    );
    println!("Booting Linux on them in QEMU ...");
    let start = Instant::now();
    let boot = Boot {
        queues: 1,
        task: Task::Check,
    };
    let report = Report::collect(qemu::linux(backend.socket(), &boot, dir.path())?)?;
    println!(
        "The guest ran {:.1} s and saw /dev/vda:\n",
        start.elapsed().as_secs_f64()
    );
    show(&report, &stack)?;
    report.check(&stack, backend.serial(), 1, 1)?;
    backend.stop()?;
    println!(
        "\nEvery file and the whole device are the same in the guest and on the host. The demo succeeded."
    );
    Ok(())
}

fn show(report: &Report, stack: &Stack) -> Result<()> {
    for fact in ["size", "ro", "serial", "logical_block_size", "queues"] {
        println!("  {fact:20} {}", report.fact(fact)?);
    }
    for (attempt, complaint) in &report.refused {
        println!("  {attempt:20} refused: {complaint}");
    }
    println!("\nIts file system, with the SHA-256 the guest computed:");
    let host: BTreeMap<_, _> = stack.files.iter().cloned().collect();
    let mut shown = "";
    for (path, digest) in &report.files {
        let (directory, name) = path.rsplit_once('/').unwrap_or_default();
        if directory != shown {
            println!("  {directory}/");
            shown = directory;
        }
        let verdict = if host.get(path) == Some(digest) {
            "= host"
        } else {
            "DIFFERS"
        };
        println!("      {name:16} {digest}  {verdict}");
    }
    println!();
    println!(
        "  {}  whole device in the guest",
        report.fact("device_sha256_cpu0")?
    );
    println!("  {}  whole device on the host", sha256(&stack.bytes()?));
    Ok(())
}

/// Makes the file system step by step, as image builds do, and each layer from the difference of two steps.
fn build(dir: &Path) -> Result<Stack> {
    let flat = dir.join("flat.img");
    std::fs::File::create(&flat)?.set_len(DISK_BYTES)?;
    run(Command::new(program("mkfs.ext4")?)
        .args(["-q", "-F", "-L", "vbd-demo"])
        .arg(&flat))?;
    let mut before = vec![0; usize::try_from(DISK_BYTES)?];
    let mut files = BTreeMap::new();
    let mut layers = Vec::new();
    for step in &STEPS {
        change(&flat, step, dir, &mut files)?;
        let after = std::fs::read(&flat)?;
        let path = dir.join(step.name);
        let layer = wrap(difference(&before, &after)?, &step.form)?;
        println!("  {:12} {:>9} bytes  {}", step.name, layer.len(), step.what);
        std::fs::write(&path, layer)?;
        layers.push(path);
        before = after;
    }
    Ok(Stack {
        layers,
        flat,
        files: files.into_iter().collect(),
        links: Vec::new(),
    })
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output()?;
    ensure!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Applies one step with debugfs, which needs neither root nor a mount.
fn change(
    flat: &Path,
    step: &Step,
    dir: &Path,
    files: &mut BTreeMap<String, String>,
) -> Result<()> {
    let mut script = String::new();
    for path in step.remove {
        script += &format!("rm /{path}\n");
        files.remove(&format!("/{path}"));
    }
    for (path, size) in step.add {
        let content = content(path, *size);
        let source = dir
            .join("source")
            .join(step.name)
            .join(path.replace('/', "_"));
        std::fs::create_dir_all(source.parent().context("no parent")?)?;
        std::fs::write(&source, &content)?;
        for (at, _) in path.match_indices('/') {
            script += &format!("mkdir /{}\n", &path[..at]);
        }
        script += &format!("rm /{path}\nwrite {} /{path}\n", source.display());
        files.insert(format!("/{path}"), sha256(&content));
    }
    let mut debugfs = Command::new(program("debugfs")?)
        .args(["-w", "-f", "-"])
        .arg(flat)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    debugfs
        .stdin
        .take()
        .context("no standard input")?
        .write_all(script.as_bytes())?;
    ensure!(debugfs.wait()?.success(), "debugfs failed");
    Ok(())
}

/// Content that compresses about by half and is different everywhere.
fn content(path: &str, size: usize) -> Vec<u8> {
    let line = |number: u64| {
        format!(
            "{path} {number:08} {}\n",
            &sha256(&number.to_le_bytes())[..24]
        )
        .into_bytes()
    };
    (0..).flat_map(line).take(size).collect()
}

/// The layer that turns `before` into `after`.
fn difference(before: &[u8], after: &[u8]) -> Result<Vec<u8>> {
    let options = WriterOptions {
        virtual_size_bytes: after.len() as u64,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options)?;
    let blocks = before.chunks(BLOCK_BYTES).zip(after.chunks(BLOCK_BYTES));
    for (number, (old, new)) in (0_u64..).zip(blocks).filter(|(_, (old, new))| old != new) {
        let sector = number * (BLOCK_BYTES as u64 / 512);
        debug_assert_eq!(old.len(), new.len(), "a file system keeps its size");
        if new.iter().all(|byte| *byte == 0) {
            writer.zeroed(sector, new.len() as u64 / 512)?;
        } else {
            writer.data(sector, new)?;
        }
    }
    Ok(writer.finish()?)
}
