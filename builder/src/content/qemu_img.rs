//! Images that QEMU's tool has to read for us: it writes them down raw, and that is read.
//!
//! A server that shares the image block by block (qemu-nbd) would save the room, but needs a client, and a life of its
//! own beside ours.

use std::path::Path;
use std::process::Command;

use blob::FileBlob;

use crate::content::{Content, ContentError, Format, Raw, SourceOptions};
use crate::output::Scratch;
use crate::program;

const PROGRAM: &str = "qemu-img";

/// Whether the tool is there.
pub(crate) fn is_installed() -> bool {
    let version = Command::new(PROGRAM).arg("--version").output();
    version.is_ok_and(|output| output.status.success())
}

/// Opens an image by way of a raw copy without a name, in which zeroes are holes.
pub(crate) fn open(
    path: &Path,
    format: Format,
    options: &SourceOptions,
) -> Result<Box<dyn Content>, ContentError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ContentError::Foreign {
        path: path.to_owned(),
        format,
        source,
    };
    // Something absolute is never taken for a protocol or an option.
    let absolute = path
        .canonicalize()
        .map_err(|error| failed(Box::new(error)))?;
    if !options.allow_backing {
        check_alone(path, &absolute, format)?;
    }
    let scratch = Scratch::new(&options.scratch_dir)?;
    let flat = scratch.path().join("disk.raw");
    let mut convert = Command::new(PROGRAM);
    convert.args(["convert", "-f", &format.to_string(), "-O", "raw"]);
    convert.arg(&absolute).arg(&flat);
    run(&mut convert, path, format)?;
    // Open files outlive their names.
    let file = FileBlob::open(&flat).map_err(|source| ContentError::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(Box::new(Raw::new(file, path.display().to_string())))
}

fn run(command: &mut Command, path: &Path, format: Format) -> Result<Vec<u8>, ContentError> {
    program::run(command).map_err(|error| match error {
        program::ProgramError::Missing { .. } => ContentError::NoProgram {
            path: path.to_owned(),
            program: PROGRAM,
            package: "qemu-utils",
        },
        error => ContentError::Foreign {
            path: path.to_owned(),
            format,
            source: Box::new(error),
        },
    })
}

/// Fails when the image refers to other files. The tool would open them.
fn check_alone(path: &Path, absolute: &Path, format: Format) -> Result<(), ContentError> {
    let backing = |names: &str| ContentError::Backing {
        path: path.to_owned(),
        names: names.to_owned(),
    };
    if format == Format::Vmdk && is_descriptor(absolute)? {
        return Err(backing("it names the files that hold its data"));
    }
    let mut info = Command::new(PROGRAM);
    info.args(["info", "--output=json", "-f", &format.to_string()]);
    let json = run(info.arg(absolute), path, format)?;
    let info: serde_json::Value =
        serde_json::from_slice(&json).map_err(|error| ContentError::Foreign {
            path: path.to_owned(),
            format,
            source: Box::new(error),
        })?;
    if let Some(name) = info.get("backing-filename") {
        return Err(backing(&name.to_string()));
    }
    if let Some(name) = info.pointer("/format-specific/data/data-file") {
        return Err(backing(&name.to_string()));
    }
    Ok(())
}

/// Whether a VMDK consists of a text that says which files hold the data: a file of its own, or inside an extent that
/// says of itself that it has room for nothing.
fn is_descriptor(absolute: &Path) -> Result<bool, ContentError> {
    const SPARSE_MAGIC: &[u8] = b"KDMV";
    const OLD_MAGIC: &[u8] = b"COWD";
    const CAPACITY_AT: std::ops::Range<usize> = 12..20;
    let raw = Raw::open(absolute)?;
    let mut head = [0; 512];
    if raw.len_bytes() < head.len() as u64 {
        return Ok(true);
    }
    raw.read_exact_at(&mut head, 0)?;
    let has_room = head
        .get(CAPACITY_AT)
        .is_some_and(|capacity| capacity.iter().any(|byte| *byte != 0));
    Ok(!(head.starts_with(OLD_MAGIC) || head.starts_with(SPARSE_MAGIC) && has_room))
}
