//! What a blob is: tar? ZFile? LSMT?
//!
//! The order of the tests matters. The magics of ZFile and LSMT fill the first 24 bytes, a tar header shows
//! itself only at byte 257, where an LSMT header keeps a free text of its author. So the two formats are looked
//! for first, and only a blob that is neither may be a tar file; otherwise an author could have a plain layer
//! read as a tar file.

use blob::tar;
use blob::{ReadAt, Window};
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

/// Finds the LSMT stream inside a blob.
pub(crate) fn unwrap(bytes: Bytes) -> Result<Source, LayerError> {
    let found = Found::in_blob(bytes)?;
    unpack(found.kind, &found.head, found.window, found.place)
}

/// Finds the content of the ZFile inside a blob.
pub(crate) fn unwrap_any(bytes: Bytes) -> Result<Source, LayerError> {
    let found = Found::in_blob(bytes)?;
    match found.kind {
        Kind::ZFile => {
            let zfile = ZFile::open(found.window).map_err(LayerError::ZFile)?;
            Ok(Source::Compressed(Box::new(zfile)))
        }
        Kind::Lsmt | Kind::Tar | Kind::Unknown => Err(LayerError::NotAZFile {
            found: format!("{} at the start of {}", describe(&found.head), found.place),
        }),
    }
}

/// What is in a blob, or in the tar file that it is.
struct Found {
    kind: Kind,
    head: Vec<u8>,
    window: Window<Bytes>,
    place: &'static str,
}

impl Found {
    fn in_blob(bytes: Bytes) -> Result<Self, LayerError> {
        if bytes.len_bytes() == 0 {
            return Err(LayerError::Empty);
        }
        let (kind, head) = kind_of(&bytes)?;
        if kind != Kind::Tar {
            return Ok(Self {
                kind,
                head,
                window: Window::whole(bytes),
                place: "the blob",
            });
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
            _ => Ok(Self {
                kind,
                head,
                window,
                place: "the tar member",
            }),
        }
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
            let source = Source::Compressed(Box::new(zfile));
            let (kind, head) = kind_of(&source)?;
            match kind {
                Kind::ZFile => Err(LayerError::Nested {
                    inner: "a ZFile",
                    outer: "a ZFile",
                }),
                Kind::Tar => Err(LayerError::Nested {
                    inner: "a tar file",
                    outer: "a ZFile",
                }),
                Kind::Lsmt => Ok(source),
                Kind::Unknown => Err(LayerError::NotALayer {
                    found: format!("{} at the start of the ZFile's content", describe(&head)),
                }),
            }
        }
        Kind::Tar | Kind::Unknown => Err(LayerError::NotALayer {
            found: format!("{} at the start of {place}", describe(head)),
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
    if lsmt::probe(head).is_some() {
        return "an LSMT layer that is not compressed".to_owned();
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
