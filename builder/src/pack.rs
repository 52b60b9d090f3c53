//! How the bytes of a layer are stored: as they are or in a ZFile, alone or in a tar file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use blob::tar;

/// How a layer is to be stored.
#[derive(Clone, Debug, Default)]
pub struct Packing {
    /// In a ZFile written so; `None` stores it as it is.
    pub zfile: Option<zfile::WriterOptions>,
    /// Whether in a tar file.
    pub tar: bool,
    /// Threads that compress; 0 means one for each processor.
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
}

/// What has been stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    /// Bytes of the layer.
    pub content_len_bytes: u64,
    /// Bytes of the file.
    pub stored_len_bytes: u64,
}

/// Takes the bytes of a layer, from first to last, and stores them in a file from its beginning.
#[derive(Debug)]
pub struct Packer<'a> {
    file: &'a File,
    sink: Sink<'a>,
    tar: bool,
    content_len_bytes: u64,
}

#[derive(Debug)]
enum Sink<'a> {
    Plain(BufWriter<Place<'a>>),
    ZFile(Box<zfile::Writer<BufWriter<Place<'a>>>>),
}

/// A file from a position on.
#[derive(Clone, Copy, Debug)]
struct Place<'a> {
    file: &'a File,
    start: u64,
    len_bytes: u64,
}

/// What is written at once.
const BUFFER_LEN_BYTES: usize = 1 << 20;

impl<'a> Packer<'a> {
    /// Starts at the beginning of `file`, which is empty.
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
        let place = Place {
            file,
            start,
            len_bytes: 0,
        };
        let out = BufWriter::with_capacity(BUFFER_LEN_BYTES, place);
        let sink = match &packing.zfile {
            None => Sink::Plain(out),
            Some(options) => Sink::ZFile(Box::new(zfile::Writer::new(out, options.clone())?)),
        };
        Ok(Self {
            file,
            sink,
            tar: packing.tar,
            content_len_bytes: 0,
        })
    }

    /// Stores what is still to come behind the content. The file is complete then.
    ///
    /// # Errors
    ///
    /// When the file cannot be written to.
    pub fn finish(self) -> Result<Packed, PackError> {
        let out = match self.sink {
            Sink::Plain(out) => out,
            Sink::ZFile(writer) => writer.finish_overwriting()?,
        };
        let place = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        let mut stored_len_bytes = place.start + place.len_bytes;
        if self.tar {
            let header = tar::wrap_header(place.len_bytes);
            self.file.write_all_at(&header, 0)?;
            stored_len_bytes += tar::wrap_trailer_len_bytes(place.len_bytes);
            self.file.set_len(stored_len_bytes)?;
        }
        Ok(Packed {
            content_len_bytes: self.content_len_bytes,
            stored_len_bytes,
        })
    }
}

/// An error is a [`PackError`] inside an [`io::Error`] where the content makes no ZFile.
impl Write for Packer<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = match &mut self.sink {
            Sink::Plain(out) => out.write(buf)?,
            Sink::ZFile(writer) => writer.write(buf)?,
        };
        self.content_len_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Plain(out) => out.flush(),
            Sink::ZFile(writer) => writer.flush(),
        }
    }
}

impl Write for Place<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let written = self.file.write_at(buf, self.start + self.len_bytes)?;
        self.len_bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl zfile::OverwriteHead for Place<'_> {
    fn overwrite_head(&mut self, head: &[u8; zfile::HEADER_LEN_BYTES]) -> io::Result<()> {
        self.file.write_all_at(head, self.start)
    }
}
