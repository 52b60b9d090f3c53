//! What a blob is: tar? ZFile? LSMT?
//!
//! The order of the tests matters. The magics of ZFile and LSMT fill the first 24 bytes, a tar header shows
//! itself only at byte 257, where an LSMT header keeps a free text of its author. So the two formats are looked
//! for first, and only a blob that is neither may be a tar file; otherwise an author could have a plain layer
//! read as a tar file.

use blob::tar;
use blob::{ReadAt, Window};
use lsmt::Layer;
use zfile::ZFile;

use crate::error::LayerError;
use crate::source::{Bytes, Source};

/// Enough for every magic: the tar magic ends at byte 265.
const HEAD_LEN_BYTES: u64 = 512;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    ZFile,
    Lsmt,
    Tar,
    Unknown,
}

/// Takes off what is around the LSMT stream. Of a ZFile, only the metadata is looked at.
pub(crate) fn unwrap(bytes: Bytes) -> Result<Source, LayerError> {
    if bytes.len_bytes() == 0 {
        return Err(LayerError::Empty);
    }
    let (kind, head) = kind_of(&bytes)?;
    if kind != Kind::Tar {
        return unpack(kind, &head, Window::whole(bytes), "the blob");
    }
    let payload = tar::locate(&bytes).map_err(LayerError::Tar)?;
    let fits = |error: blob::WindowError| {
        LayerError::Tar(tar::TarError::Size {
            start: error.start,
            len_bytes: error.len_bytes,
            blob_len_bytes: error.source_len_bytes,
        })
    };
    let window = Window::new(bytes, payload.start, payload.len_bytes).map_err(fits)?;
    let (kind, head) = kind_of(&window)?;
    match kind {
        Kind::Tar => Err(LayerError::Nested {
            inner: "a tar file",
            outer: "a tar file",
        }),
        _ => unpack(kind, &head, window, "the tar member"),
    }
}

fn unpack(
    kind: Kind,
    head: &[u8],
    window: Window<Bytes>,
    place: &str,
) -> Result<Source, LayerError> {
    match kind {
        Kind::Lsmt => Ok(Source::Plain(window)),
        Kind::ZFile => {
            let zfile = ZFile::open(window).map_err(LayerError::ZFile)?;
            Ok(Source::Compressed(Box::new(zfile)))
        }
        Kind::Tar | Kind::Unknown => Err(LayerError::NotALayer {
            found: format!("{} at the start of {place}", describe(head)),
        }),
    }
}

/// Opens the layer inside a source, which is the source itself or a reference to it.
pub(crate) fn open_layer<S: ReadAt + std::borrow::Borrow<Source>>(
    source: S,
) -> Result<Layer<S>, LayerError> {
    if let Source::Compressed(zfile) = source.borrow() {
        check_content(zfile)?;
    }
    Layer::open(source).map_err(LayerError::Lsmt)
}

/// What is in a ZFile should be LSMT; anything else is named.
fn check_content(zfile: &impl ReadAt) -> Result<(), LayerError> {
    let (kind, head) = kind_of(zfile)?;
    match kind {
        Kind::ZFile => Err(LayerError::Nested {
            inner: "a ZFile",
            outer: "a ZFile",
        }),
        Kind::Tar => Err(LayerError::Nested {
            inner: "a tar file",
            outer: "a ZFile",
        }),
        Kind::Lsmt => Ok(()),
        Kind::Unknown => Err(LayerError::NotALayer {
            found: format!("{} at the start of the ZFile's content", describe(&head)),
        }),
    }
}

/// The kind of a source by its first bytes, and those bytes.
fn kind_of(source: &impl ReadAt) -> Result<(Kind, Vec<u8>), LayerError> {
    let len = source.len_bytes().min(HEAD_LEN_BYTES);
    let mut head = vec![0; usize::try_from(len).unwrap_or_default()];
    source
        .read_exact_at(&mut head, 0)
        .map_err(LayerError::Read)?;
    let kind = if zfile::is_zfile(&head) {
        Kind::ZFile
    } else if lsmt::probe(&head).is_some() {
        Kind::Lsmt
    } else if tar::looks_like_tar(&head) {
        Kind::Tar
    } else {
        Kind::Unknown
    };
    Ok((kind, head))
}

/// Names what people most often pass by mistake; anything else is shown as it is.
fn describe(head: &[u8]) -> String {
    const KNOWN: [(&[u8], &str); 6] = [
        (
            b"\x1f\x8b",
            "a gzip file (an OCI layer that was never converted?)",
        ),
        (
            b"\x28\xb5\x2f\xfd",
            "a zstd file (an OCI layer that was never converted?)",
        ),
        (b"QFI\xfb", "a qcow2 image"),
        (b"ddgzidx", "a turboOCI gzip index"),
        (b"{", "JSON (an image configuration goes to --config)"),
        (b"\x7fELF", "an ELF program"),
    ];
    if let Some((_, name)) = KNOWN.iter().find(|(magic, _)| head.starts_with(magic)) {
        return (*name).to_owned();
    }
    if head.iter().all(|byte| *byte == 0) {
        return "zeroes".to_owned();
    }
    let shown: Vec<String> = head
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("the bytes {}", shown.join(" "))
}
