//! The programs that are measured, and what each serves.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vm_tests::load::{Disk, Options};
use vm_tests::process::Process;
use vm_tests::requirement;

use crate::disks::{Chain, Disks, Stack};
use crate::pin::Pin;

/// Queues every backend offers.
const QUEUES: usize = 4;
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often a starting backend is looked at.
const LOOK_INTERVAL: Duration = Duration::from_micros(100);

/// The programs that are there.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) vbd: PathBuf,
    pub(crate) baseline: Option<PathBuf>,
    pub(crate) qemu_storage_daemon: Option<PathBuf>,
    pub(crate) qemu_img: Option<PathBuf>,
    pub(crate) vhost_user_block: Option<PathBuf>,
}

impl Programs {
    pub(crate) fn find(
        vbd: Option<PathBuf>,
        baseline: Option<PathBuf>,
        peers: bool,
    ) -> Result<Self> {
        let vbd = match vbd {
            Some(vbd) => vbd,
            None => std::env::current_exe()?.with_file_name("vbd-vhost"),
        };
        for program in [Some(&vbd), baseline.as_ref()].into_iter().flatten() {
            ensure!(program.is_file(), "{} is not there", program.display());
        }
        let peer = |name| requirement::program(name).ok().filter(|_| peers);
        Ok(Self {
            vbd,
            baseline,
            qemu_storage_daemon: peer("qemu-storage-daemon"),
            qemu_img: peer("qemu-img"),
            vhost_user_block: peer("vhost_user_block"),
        })
    }
}

/// How qemu-storage-daemon reads files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Aio {
    IoUring,
    Threads,
}

/// A program with what it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    Vbd(Stack),
    /// The same, looking for the next request before it sleeps.
    Polling(Stack),
    Base(Stack),
    QemuRaw(Aio),
    QemuChain(Chain),
    CloudHypervisor,
}

/// As long as cloud-hypervisor's backend looks.
const POLL_US: &str = "50";

impl Subject {
    /// As the table has it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Vbd(stack) => format!("vbd {}", stack.name()),
            Self::Polling(stack) => format!("vbd poll {}", stack.name()),
            Self::Base(stack) => format!("base {}", stack.name()),
            Self::QemuRaw(Aio::IoUring) => "qsd flat io_uring".into(),
            Self::QemuRaw(Aio::Threads) => "qsd flat threads".into(),
            Self::QemuChain(chain) => format!("qsd {}", chain.name()),
            Self::CloudHypervisor => "ch flat".into(),
        }
    }

    /// Whether the program serves one front-end and no more.
    fn ends_with_its_front_end(&self) -> bool {
        matches!(self, Self::CloudHypervisor)
    }

    /// Whether its program is there.
    pub(crate) fn is_possible(&self, programs: &Programs) -> bool {
        match self {
            Self::Vbd(_) | Self::Polling(_) => true,
            Self::Base(_) => programs.baseline.is_some(),
            Self::QemuRaw(_) => programs.qemu_storage_daemon.is_some(),
            Self::QemuChain(_) => {
                programs.qemu_storage_daemon.is_some() && programs.qemu_img.is_some()
            }
            Self::CloudHypervisor => programs.vhost_user_block.is_some(),
        }
    }

    /// The files it reads; makes them if they are not there.
    pub(crate) fn files(&self, programs: &Programs, disks: &Disks) -> Result<Vec<PathBuf>> {
        match self {
            Self::Vbd(stack) | Self::Polling(stack) | Self::Base(stack) => disks.stack(stack),
            Self::QemuRaw(_) | Self::CloudHypervisor => Ok(vec![disks.flat()?]),
            Self::QemuChain(chain) => {
                let qemu_img = programs.qemu_img.as_ref().context("no qemu-img")?;
                disks.chain(chain, qemu_img)
            }
        }
    }

    fn command(&self, programs: &Programs, files: &[PathBuf], socket: &Path) -> Result<Command> {
        match self {
            Self::Vbd(_) => vbd(&programs.vbd, files, socket),
            Self::Polling(_) => {
                let mut command = vbd(&programs.vbd, files, socket)?;
                command.args(["--poll-us", POLL_US]);
                Ok(command)
            }
            Self::Base(_) => vbd(
                programs.baseline.as_ref().context("no base")?,
                files,
                socket,
            ),
            Self::QemuRaw(aio) => {
                let name = match aio {
                    Aio::IoUring => "io_uring",
                    Aio::Threads => "threads",
                };
                let file = top(files)?;
                let node =
                    format!("driver=file,node-name=disk,filename={file},read-only=on,aio={name}");
                qemu(programs, &node, socket)
            }
            Self::QemuChain(_) => {
                let file = top(files)?;
                let node = format!(
                    "driver=qcow2,node-name=disk,read-only=on,\
                     file.driver=file,file.filename={file},file.aio=io_uring"
                );
                qemu(programs, &node, socket)
            }
            Self::CloudHypervisor => {
                let program = programs.vhost_user_block.as_ref().context("no program")?;
                let mut command = Command::new(program);
                command.arg("--block-backend").arg(format!(
                    "path={},socket={},num_queues={QUEUES},queue_size=1024,readonly=true",
                    top(files)?,
                    socket.display()
                ));
                Ok(command)
            }
        }
    }
}

fn top(files: &[PathBuf]) -> Result<&str> {
    let file = files.last().context("no file")?;
    file.to_str().context("a path that is not text")
}

fn vbd(program: &Path, files: &[PathBuf], socket: &Path) -> Result<Command> {
    let layers: Vec<&str> = files
        .iter()
        .map(|file| file.to_str().context("a path that is not text"))
        .collect::<Result<_>>()?;
    let mut command = Command::new(program);
    command.arg("--socket").arg(socket);
    command.arg("--layers").arg(layers.join(","));
    command.args(["--num-queues", &QUEUES.to_string(), "--log-level", "warn"]);
    Ok(command)
}

fn qemu(programs: &Programs, node: &str, socket: &Path) -> Result<Command> {
    let program = programs.qemu_storage_daemon.as_ref();
    let mut command = Command::new(program.context("no qemu-storage-daemon")?);
    command.args(["--blockdev", node, "--object", "iothread,id=thread"]);
    command.arg("--export").arg(format!(
        "type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path={},\
         writable=off,num-queues={QUEUES},iothread=thread",
        socket.display()
    ));
    Ok(command)
}

/// A running backend. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) subject: Subject,
    pub(crate) files: Vec<PathBuf>,
    /// From starting the program to its socket.
    pub(crate) started: Duration,
    command: RefCell<Command>,
    process: RefCell<Process>,
    /// Whether a front-end has been served.
    used: Cell<bool>,
    pin: Option<Pin>,
    socket: PathBuf,
    /// Holds the socket; goes last.
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(
        subject: Subject,
        programs: &Programs,
        disks: &Disks,
        pin: Option<Pin>,
    ) -> Result<Self> {
        let files = subject.files(programs, disks)?;
        let dir = tempfile::Builder::new().prefix("bench").tempdir()?;
        let socket = dir.path().join("disk.sock");
        let mut command = subject.command(programs, &files, &socket)?;
        let start = Instant::now();
        let process = spawn(&mut command, &socket, pin)?;
        Ok(Self {
            subject,
            files,
            started: start.elapsed(),
            command: RefCell::new(command),
            process: RefCell::new(process),
            used: Cell::new(false),
            pin,
            socket,
            _dir: dir,
        })
    }

    /// Attaches a disk; starts the program again first if it has ended with the last one.
    pub(crate) fn attach(&self, options: &Options) -> Result<Disk> {
        if self.used.replace(true) && self.subject.ends_with_its_front_end() {
            let mut process = self.process.borrow_mut();
            process.kill()?;
            // It may have been left behind, and would be taken for the new one.
            let _gone = std::fs::remove_file(&self.socket);
            *process = spawn(&mut self.command.borrow_mut(), &self.socket, self.pin)?;
        }
        Disk::attach(&self.socket, options).context(self.text())
    }

    /// Where a front-end connects that is a program of its own.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.borrow().id()
    }

    /// What it is, and what it has said, for an error to go with.
    pub(crate) fn text(&self) -> String {
        let said = self.process.borrow().text();
        let separator = if said.is_empty() { "" } else { " said: " };
        format!("{}{separator}{}", self.subject.name(), said.trim_end())
    }
}

/// Starts a program and waits for its socket.
fn spawn(command: &mut Command, socket: &Path, pin: Option<Pin>) -> Result<Process> {
    let name = command.get_program().display().to_string();
    let mut start = || Process::spawn(&name, command);
    let mut process = match pin {
        Some(pin) => pin.as_backend(start),
        None => start(),
    }?;
    let started = Instant::now();
    // A connection would be a front-end, so the socket is looked at rather than tried.
    while !socket.exists() {
        if let Some(status) = process.try_wait()? {
            bail!("{command:?} ended at once ({status}): {}", process.text());
        }
        ensure!(
            started.elapsed() < START_LIMIT,
            "{command:?} has no socket: {}",
            process.text()
        );
        std::thread::sleep(LOOK_INTERVAL);
    }
    Ok(process)
}
