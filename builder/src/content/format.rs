//! Which kind of image a file is, and opening it as that.

use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::content::{
    Content, ContentError, Raw, Resized, Stream, disk_len, foreign, qemu_img, spool,
};

/// A way to write down a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// As it is.
    Raw,
    /// QEMU's own.
    Qcow2,
    /// VMware's.
    Vmdk,
    /// Hyper-V's.
    Vhdx,
}

impl Format {
    /// What the name of a file says about its format. Most names say nothing: raw.
    #[must_use]
    pub fn of_name(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("qcow2") => Self::Qcow2,
            Some("vmdk") => Self::Vmdk,
            Some("vhdx") => Self::Vhdx,
            _ => Self::Raw,
        }
    }

    /// What the first bytes of a file look like.
    fn of_head(head: &[u8]) -> Self {
        const MAGICS: [(&[u8], Format); 5] = [
            (b"QFI\xfb", Format::Qcow2),
            (b"KDMV", Format::Vmdk),
            (b"COWD", Format::Vmdk),
            (b"# Disk DescriptorFile", Format::Vmdk),
            (b"vhdxfile", Format::Vhdx),
        ];
        let found = MAGICS.iter().find(|(magic, _)| head.starts_with(magic));
        found.map_or(Self::Raw, |(_, format)| *format)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
        })
    }
}

/// How an image is to be taken.
#[derive(Clone, Debug, Default)]
pub struct SourceOptions {
    /// Its format. `None` goes by the name of the file, and does not take a file that begins like another format: what
    /// a guest has written to a raw disk must not decide how it is read.
    pub format: Option<Format>,
    /// Whether files that an image refers to are opened, too. They can be any files, so this is for images from
    /// somebody who may read them all.
    pub allow_backing: bool,
    /// Length of the disk in bytes: longer than the image, the rest is zero; shorter, the rest is left out.
    pub size_bytes: Option<u64>,
    /// The directory for what cannot be read in place; on the file system of the output, as a rule.
    pub scratch_dir: PathBuf,
}

/// Opens the image at `path`; `-` is standard input, which is raw.
///
/// # Errors
///
/// When it cannot be read, is not what it is taken for, or has no whole number of sectors.
pub fn open(path: &Path, options: &SourceOptions) -> Result<Box<dyn Content>, ContentError> {
    if path == Path::new("-") {
        return open_stream(io::stdin(), options);
    }
    let format = match options.format {
        Some(format) => format,
        None => format_of(path)?,
    };
    let content: Box<dyn Content> = match format {
        Format::Raw => Box::new(Raw::open(path)?),
        Format::Qcow2 => foreign::open_qcow2(path, options)?,
        Format::Vmdk | Format::Vhdx => qemu_img::open(path, format, options)?,
    };
    let what = path.display().to_string();
    sized(&what, content, options.size_bytes)
}

/// A stream is read as it comes where its length is known, and kept where it is not.
fn open_stream(
    input: impl Read + Send + 'static,
    options: &SourceOptions,
) -> Result<Box<dyn Content>, ContentError> {
    let what = "standard input";
    match options.size_bytes {
        Some(size) => {
            let len_bytes = disk_len(what, size, None)?;
            Ok(Box::new(Stream::new(input, len_bytes)))
        }
        None => sized(what, Box::new(spool(input, &options.scratch_dir)?), None),
    }
}

fn sized(
    what: &str,
    content: Box<dyn Content>,
    size_bytes: Option<u64>,
) -> Result<Box<dyn Content>, ContentError> {
    let len_bytes = disk_len(what, content.len_bytes(), size_bytes)?;
    Ok(match len_bytes == content.len_bytes() {
        true => content,
        false => Box::new(Resized::new(content, len_bytes)),
    })
}

/// The format that the name says, unless the first bytes say something else.
fn format_of(path: &Path) -> Result<Format, ContentError> {
    let taken = Format::of_name(path);
    let raw = Raw::open(path)?;
    let mut head = [0; 32];
    let len = usize::try_from(raw.len_bytes()).map_or(head.len(), |len| len.min(head.len()));
    let head = head.get_mut(..len).unwrap_or_default();
    raw.read_exact_at(head, 0)?;
    match Format::of_head(head) {
        found if found == taken => Ok(taken),
        // A file of a foreign format says so; what else is wrong with it, its reader says.
        Format::Raw => Ok(taken),
        found => Err(ContentError::Ambiguous {
            path: path.to_owned(),
            taken,
            found,
        }),
    }
}
