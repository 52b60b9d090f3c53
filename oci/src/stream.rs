//! A layer of an OCI image as a stream of tar: whatever it is compressed with.

use std::fs::File;
use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer};

use crate::digest::Hashing;
use crate::page_reader::PageReader;

/// A zstd frame may ask for so much memory to look back, 128 MiB: the most that decoders have to have.
const MAX_WINDOW_LOG: u32 = 27;

/// The blob of a layer, hashed as it is read.
type Blob = PageReader<Hashing<File>>;

/// How a layer is compressed, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    pub(crate) fn of(head: &[u8]) -> Self {
        if head.starts_with(&[0x1f, 0x8b]) {
            Self::Gzip
        } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
            Self::Zstd
        } else {
            Self::None
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "tar",
            Self::Gzip => "tar+gzip",
            Self::Zstd => "tar+zstd",
        }
    }
}

/// The bytes of the tar file in a layer.
pub(crate) enum Unpacked {
    Plain(Blob),
    Gzip(Box<MultiGzDecoder<Blob>>),
    Zstd(Box<Zstd>),
}

impl Unpacked {
    pub(crate) fn new(file: File) -> io::Result<Self> {
        let mut blob = PageReader::new(Hashing::new(file));
        let compression = Compression::of(blob.fill_buf()?);
        Ok(match compression {
            Compression::None => Self::Plain(blob),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(blob))),
            Compression::Zstd => Self::Zstd(Box::new(Zstd::new(blob)?)),
        })
    }

    /// Bytes of the blob that have been read.
    pub(crate) fn blob_offset(&self) -> u64 {
        self.blob().get_ref().len_bytes()
    }

    fn blob(&self) -> &Blob {
        match self {
            Self::Plain(blob) => blob,
            Self::Gzip(decoder) => decoder.get_ref(),
            Self::Zstd(decoder) => &decoder.blob,
        }
    }

    /// The blob, of which some may be unread.
    pub(crate) fn into_blob(self) -> Hashing<File> {
        match self {
            Self::Plain(blob) => blob.into_inner(),
            Self::Gzip(decoder) => decoder.into_inner().into_inner(),
            Self::Zstd(decoder) => decoder.blob.into_inner(),
        }
    }
}

impl std::fmt::Debug for Unpacked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacked")
            .field("blob_offset", &self.blob_offset())
            .finish_non_exhaustive()
    }
}

impl Read for Unpacked {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(blob) => blob.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}

/// Refuses to give more than so many bytes.
#[derive(Debug)]
pub(crate) struct Limited<R> {
    source: R,
    left: u64,
}

/// Bytes without end.
#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than the file system and the headers of an archive for it take")]
struct TooLong;

impl<R> Limited<R> {
    pub(crate) fn new(source: R, max_bytes: u64) -> Self {
        Self {
            source,
            left: max_bytes,
        }
    }

    pub(crate) fn source(&self) -> &R {
        &self.source
    }

    pub(crate) fn into_inner(self) -> R {
        self.source
    }
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buf)?;
        let left = self.left.checked_sub(read as u64);
        self.left = left.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, TooLong))?;
        Ok(read)
    }
}

/// A stream of zstd frames.
pub(crate) struct Zstd {
    blob: Blob,
    context: DCtx<'static>,
    /// Whether the last frame has ended.
    between_frames: bool,
}

impl Zstd {
    fn new(blob: Blob) -> io::Result<Self> {
        let mut context = DCtx::create();
        context
            .set_parameter(DParameter::WindowLogMax(MAX_WINDOW_LOG))
            .map_err(zstd_error)?;
        Ok(Self {
            blob,
            context,
            between_frames: true,
        })
    }
}

impl Read for Zstd {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            let stored = self.blob.fill_buf()?;
            let at_end = stored.is_empty();
            if at_end && self.between_frames {
                return Ok(0);
            }
            let mut input = InBuffer::around(stored);
            let mut output = OutBuffer::around(&mut *buf);
            let hint = self
                .context
                .decompress_stream(&mut output, &mut input)
                .map_err(zstd_error)?;
            let (used, written) = (input.pos(), output.pos());
            self.blob.consume(used);
            self.between_frames = hint == 0;
            if written > 0 {
                return Ok(written);
            }
            if at_end {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn zstd_error(code: zstd_safe::ErrorCode) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, zstd_safe::get_error_name(code))
}
