//! How the bytes of a layer are stored: as they are or in a ZFile, alone or in a tar file.

mod compressor;
mod place;

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use blob::tar;

use crate::lanes::ThreadError;
use compressor::Compressor;
use place::Place;

/// How a layer is to be stored.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    /// In a ZFile written so; `None` stores it as it is.
    pub zfile: Option<zfile::WriterOptions>,
    /// Whether in a tar file.
    pub tar: bool,
    /// Threads that compress, at most 256; 0 means one for each processor. The bytes do not depend on it.
    pub threads: usize,
}

/// A layer that cannot be stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The output fails.
    #[error("cannot write")]
    Io(#[from] io::Error),
    /// It does not make a ZFile.
    #[error("cannot compress")]
    ZFile(#[from] zfile::WriteError),
    /// The threads that compress fail.
    #[error("cannot compress")]
    Thread(#[from] ThreadError),
    /// A tar file begins with the length of what is in it.
    #[error(
        "a tar file cannot be written to a stream: its length, which stands first, is known last; write a file"
    )]
    TarStream,
}

/// What has been stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the layer.
    pub content_len_bytes: u64,
    /// Bytes of the file.
    pub stored_len_bytes: u64,
    /// Blocks of the ZFile; 0 where there is none.
    pub block_count: u64,
}

/// Takes the bytes of a layer, from first to last, and stores them.
///
/// Compressing is done by threads of its own, whose jobs take about 1 MiB of memory each; writing, by the caller's.
pub struct Packer<'a> {
    sink: Sink<'a>,
    tar: bool,
    is_stream: bool,
    content_len_bytes: u64,
}

enum Sink<'a> {
    Plain(BufWriter<Place<'a>>),
    ZFile(Box<Compressor<BufWriter<Place<'a>>>>),
}

/// What is written at once.
const BUFFER_LEN_BYTES: usize = 1 << 20;

impl fmt::Debug for Packer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer")
            .field("tar", &self.tar)
            .field("is_stream", &self.is_stream)
            .field("content_len_bytes", &self.content_len_bytes)
            .finish_non_exhaustive()
    }
}

impl<'a> Packer<'a> {
    /// Starts at the beginning of `file`, which is empty. Zeroes become holes in it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written to, or there is no such ZFile.
    pub fn new(file: &'a File, packing: &Packing) -> Result<Self, PackError> {
        let start = match packing.tar {
            // The header states the length: it is written last.
            true => tar::wrap_header(0).len() as u64,
            false => 0,
        };
        let place = Place::File {
            file,
            start,
            len_bytes: 0,
        };
        Self::at(place, packing, false)
    }

    /// Starts a stream. A ZFile is written in the form whose header declares nothing, so that nothing has to be
    /// written twice.
    ///
    /// # Errors
    ///
    /// When the stream cannot be written to, there is no such ZFile, or it is to be a tar file.
    pub fn to_stream(out: impl Write + 'a, packing: &Packing) -> Result<Self, PackError> {
        if packing.tar {
            return Err(PackError::TarStream);
        }
        let place = Place::Stream {
            out: Box::new(out),
            len_bytes: 0,
        };
        Self::at(place, packing, true)
    }

    fn at(place: Place<'a>, packing: &Packing, is_stream: bool) -> Result<Self, PackError> {
        let out = BufWriter::with_capacity(BUFFER_LEN_BYTES, place);
        let sink = match &packing.zfile {
            None => Sink::Plain(out),
            Some(options) => Sink::ZFile(Box::new(Compressor::new(out, options, packing.threads)?)),
        };
        Ok(Self {
            sink,
            tar: packing.tar,
            is_stream,
            content_len_bytes: 0,
        })
    }

    /// Stores what is still to come behind the content. The file is complete then.
    ///
    /// # Errors
    ///
    /// When the output fails, or the content makes no ZFile.
    pub fn finish(self) -> Result<Packed, PackError> {
        let (out, block_count) = match self.sink {
            Sink::Plain(out) => (out, 0),
            Sink::ZFile(compressor) if self.is_stream => compressor.finish()?,
            Sink::ZFile(compressor) => compressor.finish_overwriting()?,
        };
        let mut place = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        place.flush()?;
        let len_bytes = place.len_bytes();
        let mut stored_len_bytes = len_bytes;
        if let Place::File { file, start, .. } = place {
            stored_len_bytes += start;
            if self.tar {
                file.write_all_at(&tar::wrap_header(len_bytes), 0)?;
                stored_len_bytes += tar::wrap_trailer_len_bytes(len_bytes);
            }
            // Zeroes at the end have not been written.
            file.set_len(stored_len_bytes)?;
        }
        Ok(Packed {
            content_len_bytes: self.content_len_bytes,
            stored_len_bytes,
            block_count,
        })
    }
}

/// An error is a [`PackError`] inside an [`io::Error`] where the content makes no ZFile.
impl Write for Packer<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = match &mut self.sink {
            Sink::Plain(out) => out.write(buf)?,
            Sink::ZFile(compressor) => {
                compressor.append(buf).map_err(io::Error::other)?;
                buf.len()
            }
        };
        self.content_len_bytes += written as u64;
        Ok(written)
    }

    /// A ZFile is written when its blocks are full, and is complete only when it is finished.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Plain(out) => out.flush(),
            Sink::ZFile(_) => Ok(()),
        }
    }
}
