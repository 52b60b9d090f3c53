//! From the command line to what will be served: checked and complete.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use image::{Image, ImageConfig, Shown};

use crate::args::{Args, IoEngine};
use crate::device::Device;
use crate::engine::Waiter;
use crate::limits::DeviceLimits;
use crate::server::{BoundSocket, Door, Inherited, Shutdown, activated_fd, is_exhaustion};

/// What kind of failure ended the program; the kind decides the exit status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// While serving.
    Serving,
    /// The command line.
    Usage,
    /// The image.
    Image,
    /// Socket, descriptor, system limits.
    Environment,
}

/// A failure with its kind.
#[derive(Debug)]
pub struct Failure {
    /// Decides the exit status.
    pub kind: FailureKind,
    /// What happened, with all causes.
    pub error: anyhow::Error,
}

impl FailureKind {
    /// The exit status, as documented in `--help`.
    #[must_use]
    pub fn exit_status(self) -> u8 {
        match self {
            Self::Serving => 1,
            Self::Usage => 2,
            Self::Image => 3,
            Self::Environment => 4,
        }
    }

    fn of(self) -> impl Fn(anyhow::Error) -> Failure {
        move |error| Failure { kind: self, error }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

/// A device that is ready, and the door its front-ends come through.
#[derive(Debug)]
pub struct Service {
    /// The device.
    pub device: Arc<Device>,
    /// The door. A socket at a path appears with it, so it is made last.
    pub door: Door,
}

/// Where front-ends will come from.
#[derive(Debug)]
pub enum DoorChoice {
    /// A socket that will be put at this path when the image is open.
    Path(PathBuf),
    /// A socket that was passed to this process.
    Inherited(Inherited),
}

impl Service {
    /// Opens and checks everything, and only then the door.
    ///
    /// # Errors
    ///
    /// The first thing that is not as it should be.
    pub fn prepare(args: &Args, door: DoorChoice, shutdown: &Shutdown) -> Result<Self, Failure> {
        let layers = layers(args)?;
        // More than memory can hold is as good as no limit.
        let cache_len_bytes = usize::try_from(args.cache_size).unwrap_or(usize::MAX);
        let image = Image::open(&layers)
            .map_err(|error| failure_to_open(error.into()))?
            .with_cache(cache_len_bytes);
        image
            .warnings()
            .iter()
            .for_each(|warning| tracing::warn!("{warning}"));
        let limits = DeviceLimits {
            num_queues: args.num_queues,
            queue_size: args.queue_size,
            poll: Duration::from_micros(args.poll_us),
            waiter: match args.io_engine {
                IoEngine::Auto => Waiter::Kernel,
                IoEngine::Threads => Waiter::Threads,
            },
        };
        let device = Arc::new(Device::new(Arc::new(image), args.serial.clone(), limits));
        log_device(&device);
        let door = match door {
            DoorChoice::Inherited(Inherited::Listener(listener)) => Door::Listener(listener),
            DoorChoice::Inherited(Inherited::Connection(stream)) => Door::Connection(stream),
            DoorChoice::Path(path) => {
                let socket = BoundSocket::bind(&path)
                    .with_context(|| format!("socket {}", Shown(&path)))
                    .map_err(FailureKind::Environment.of())?;
                shutdown.remove_at_end(socket.file().clone());
                Door::Bound(socket)
            }
        };
        Ok(Self { device, door })
    }
}

impl DoorChoice {
    /// Decides, and takes over an inherited descriptor. To be called first of all, while every open descriptor is
    /// one that was passed to this process.
    ///
    /// # Errors
    ///
    /// When there is no door, or the descriptor is none.
    pub fn choose(args: &Args) -> Result<Self, Failure> {
        if let Some(path) = &args.socket {
            return Ok(Self::Path(path.clone()));
        }
        let environment =
            |error: crate::server::InheritedError| FailureKind::Environment.of()(error.into());
        let fd = match args.fd {
            Some(fd) => Some(fd),
            None => activated_fd().map_err(environment)?,
        };
        match fd {
            Some(fd) => Ok(DoorChoice::Inherited(
                Inherited::take(fd).map_err(environment)?,
            )),
            None => Err(usage("where to listen? give --socket PATH or --fd FD")),
        }
    }
}

/// What the system has run out of is no fault of the image.
fn failure_to_open(error: anyhow::Error) -> Failure {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref());
    let kind = match causes.any(is_exhaustion) {
        true => FailureKind::Environment,
        false => FailureKind::Image,
    };
    Failure { kind, error }
}

fn usage(message: &'static str) -> Failure {
    Failure {
        kind: FailureKind::Usage,
        error: anyhow::Error::msg(message),
    }
}

fn layers(args: &Args) -> Result<Vec<PathBuf>, Failure> {
    if let Some(path) = &args.config {
        return layers_of_config(path);
    }
    if let Some(path) = &args.blk_file {
        return if is_config(path) {
            layers_of_config(path)
        } else {
            Ok(vec![path.clone()])
        };
    }
    if args.layers.is_empty() {
        return Err(usage(
            "what to serve? give --layers LAYER,… or --config FILE",
        ));
    }
    Ok(args.layers.clone())
}

fn layers_of_config(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    let config = ImageConfig::load(path)
        .with_context(|| format!("image configuration {}", Shown(path)))
        .map_err(FailureKind::Image.of())?;
    config
        .notes
        .iter()
        .for_each(|note| tracing::warn!("image configuration {}: {note}", Shown(path)));
    Ok(config.layers)
}

/// No layer begins with a brace, and none comes through a pipe, where looking would be taking. A file that cannot be
/// read is reported when it is opened as a layer.
fn is_config(path: &Path) -> bool {
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    if kind.is_ok_and(|kind| kind.is_fifo()) {
        return true;
    }
    let mut head = Vec::new();
    let read = File::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
    read.is_ok() && head.trim_ascii_start().starts_with(b"{")
}

fn log_device(device: &Device) {
    let disk = device.image().disk();
    tracing::info!(
        layers = disk.layers().len(),
        size_bytes = disk.len_bytes(),
        segments = disk.segment_count(),
        index_bytes = disk.index_len_bytes(),
        serial = %device.serial(),
        "image open"
    );
}
