//! qcow2 images.

use std::path::{Path, PathBuf};

use imago::file::File;
use imago::qcow2::Qcow2;
use imago::raw;
use imago::{FormatAccess, Mapping};

use crate::content::{Content, ContentError, Format, SourceOptions, Stretch, qemu_img};

/// Images that stand on each other. A chain that is longer leads round in a circle.
const MAX_CHAIN: usize = 64;

/// A qcow2 image.
struct Foreign {
    image: FormatAccess<File>,
    name: String,
}

/// Opens a qcow2 image.
pub(crate) fn open_qcow2(
    path: &Path,
    options: &SourceOptions,
) -> Result<Box<dyn Content>, ContentError> {
    match open_chain(path, options.allow_backing, MAX_CHAIN) {
        Ok(image) => Ok(Box::new(Foreign {
            image,
            name: path.display().to_string(),
        })),
        // What our reader does not know, such as zstd, QEMU's may. It would guess formats of other files, so there must
        // be none.
        Err(ContentError::Foreign { source, .. })
            if is_of_reader(&*source) && qemu_img::is_installed() =>
        {
            let alone = SourceOptions {
                allow_backing: false,
                ..options.clone()
            };
            qemu_img::open(path, Format::Qcow2, &alone)
        }
        Err(error) => Err(error),
    }
}

/// Whether it is the reader that has failed, and not we that refuse.
fn is_of_reader(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<std::io::Error>()
}

/// The image at `path` and, where that is allowed, what it stands on. Every file is opened here, by a format that is
/// written down: no guess decides what is followed.
fn open_chain(
    path: &Path,
    allow_backing: bool,
    depth: usize,
) -> Result<FormatAccess<File>, ContentError> {
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| ContentError::Foreign {
        path: path.to_owned(),
        format: Format::Qcow2,
        source,
    };
    let mut image =
        Qcow2::<File>::open_path(path, false).map_err(|error| failed(Box::new(error)))?;
    if image.requires_external_data_file() {
        return Err(failed(
            "its data is in another file; make one file of it: qemu-img convert -O qcow2".into(),
        ));
    }
    image.set_data_file(None);
    let backing = match image.implicit_backing_file().cloned() {
        None => None,
        Some(name) if !allow_backing => {
            return Err(ContentError::Backing {
                path: path.to_owned(),
                names: name.escape_debug().to_string(),
            });
        }
        Some(_) if depth == 0 => {
            return Err(failed("it stands on too many others".into()));
        }
        Some(name) => {
            let below = beside(path, &name);
            let format = image.implicit_backing_format().map(String::as_str);
            Some(
                open_backing(&below, format, depth).map_err(|error| match error {
                    Backing::Content(error) => error,
                    Backing::Format(text) => failed(text.into()),
                })?,
            )
        }
    };
    image.set_backing(backing);
    Ok(FormatAccess::new(image))
}

enum Backing {
    Content(ContentError),
    Format(String),
}

fn open_backing(
    below: &Path,
    format: Option<&str>,
    depth: usize,
) -> Result<FormatAccess<File>, Backing> {
    match format {
        Some("qcow2") => open_chain(below, true, depth - 1).map_err(Backing::Content),
        Some("raw") => raw::Raw::<File>::open_path(below, false)
            .map(FormatAccess::new)
            .map_err(|error| {
                Backing::Content(ContentError::Foreign {
                    path: below.to_owned(),
                    format: Format::Raw,
                    source: Box::new(error),
                })
            }),
        Some(other) => Err(Backing::Format(format!(
            "it stands on a file of the format {other:?}"
        ))),
        None => Err(Backing::Format(format!(
            "it does not say which format {} has, on which it stands: qemu-img rebase -u -F FORMAT writes that down",
            below.display()
        ))),
    }
}

/// A file that is named in another one.
fn beside(path: &Path, name: &str) -> PathBuf {
    match path.parent() {
        Some(dir) => dir.join(name),
        None => PathBuf::from(name),
    }
}

impl Content for Foreign {
    fn len_bytes(&self) -> u64 {
        self.image.size()
    }

    fn stretch_at(&self, offset: u64) -> Result<Stretch, ContentError> {
        let left = self.len_bytes().saturating_sub(offset);
        let (mapping, len) = self
            .image
            .get_mapping(offset, left)
            .map_err(|error| ContentError::read(&self.name, offset, error))?;
        let end = offset.saturating_add(len).min(self.len_bytes());
        Ok(match mapping {
            Mapping::Zero { .. } if len > 0 => Stretch::Zero { end },
            Mapping::Zero { .. } | Mapping::Eof { .. } => Stretch::Data {
                end: self.len_bytes(),
            },
            _ if len == 0 => Stretch::Data {
                end: self.len_bytes(),
            },
            _ => Stretch::Data { end },
        })
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ContentError> {
        if !blob::range_is_inside(offset, buf.len(), self.len_bytes()) {
            return Err(ContentError::outside(&self.name, offset));
        }
        self.image
            .read(buf, offset)
            .map_err(|error| ContentError::read(&self.name, offset, error))
    }
}
