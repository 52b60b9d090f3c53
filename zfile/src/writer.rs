//! Writing: content in, a file out.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use crate::assembler::Assembler;
use crate::block_encoder::BlockEncoder;
use crate::codec::Algorithm;
use crate::error::WriteError;
use crate::format::HEADER_LEN_BYTES;
use crate::header::is_block_size;

/// How a ZFile is to be written. The default is what every known reader reads: LZ4, 4 KiB blocks, checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// How to compress.
    pub algorithm: Algorithm,
    /// How hard to compress: LZ4 1 to 12, zstd up to 22, both 3 for `None`. Makes no difference to readers, and is not
    /// stored.
    pub level: Option<i32>,
    /// Content bytes per block: 4, 8, 16, 32 or 64 KiB.
    pub block_size_bytes: u32,
    /// Whether to put a checksum behind each block.
    pub verify: bool,
    /// Whether to write blocks whose payload is longer than 65532 bytes, which some readers cannot read. They
    /// arise from incompressible content in 64 KiB blocks.
    pub allow_oversized_blocks: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Lz4,
            level: None,
            block_size_bytes: 4096,
            verify: true,
            allow_oversized_blocks: false,
        }
    }
}

impl WriterOptions {
    pub(crate) fn check(&self) -> Result<(), WriteError> {
        match is_block_size(self.block_size_bytes) {
            true => Ok(()),
            false => Err(WriteError::BlockSize {
                found: self.block_size_bytes,
            }),
        }
    }

    /// Content bytes per block.
    pub(crate) fn block_size(&self) -> usize {
        // Infallible: at most 64 KiB, once checked.
        usize::try_from(self.block_size_bytes).unwrap_or_default()
    }
}

/// An output whose first 512 bytes can be written again when everything else has been.
pub trait OverwriteHead: Write {
    /// Replaces the first 512 bytes written.
    ///
    /// # Errors
    ///
    /// When the output fails.
    fn overwrite_head(&mut self, head: &[u8; HEADER_LEN_BYTES]) -> io::Result<()>;
}

/// The ZFile must start at byte 0 of the file.
impl OverwriteHead for File {
    fn overwrite_head(&mut self, head: &[u8; HEADER_LEN_BYTES]) -> io::Result<()> {
        self.write_all_at(head, 0)
    }
}

/// The ZFile must start at byte 0 of the vector.
impl OverwriteHead for Vec<u8> {
    fn overwrite_head(&mut self, head: &[u8; HEADER_LEN_BYTES]) -> io::Result<()> {
        let old = self.first_chunk_mut().ok_or(io::ErrorKind::UnexpectedEof)?;
        *old = *head;
        Ok(())
    }
}

impl<W: OverwriteHead> OverwriteHead for BufWriter<W> {
    fn overwrite_head(&mut self, head: &[u8; HEADER_LEN_BYTES]) -> io::Result<()> {
        self.flush()?;
        self.get_mut().overwrite_head(head)
    }
}

/// Writes a ZFile from front to back, holding one block and the jump table (4 bytes per block) in memory.
///
/// Content is taken in pieces of any size, by [`append`](Self::append) or through [`Write`]. The file is
/// complete only after [`finish`](Self::finish) or [`finish_overwriting`](Self::finish_overwriting), which also
/// decide on the form of its header. Flushing does not end a block.
///
/// This is a [`BlockEncoder`] and an [`Assembler`], one after the other. Whoever has several threads puts them to work
/// between the two.
pub struct Writer<W: Write> {
    encoder: BlockEncoder,
    assembler: Assembler<W>,
    block_size: usize,
    /// Content of the block being filled.
    block: Vec<u8>,
    /// The same, stored.
    stored: Vec<u8>,
    broken: bool,
}

impl<W: Write> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("assembler", &self.assembler)
            .finish_non_exhaustive()
    }
}

impl<W: Write> Writer<W> {
    /// Starts a ZFile: writes a header to `out`.
    ///
    /// # Errors
    ///
    /// When `options` ask for what the format does not have, or the output fails.
    pub fn new(out: W, options: WriterOptions) -> Result<Self, WriteError> {
        let encoder = BlockEncoder::new(&options)?;
        let block_size = options.block_size();
        Ok(Self {
            encoder,
            assembler: Assembler::new(out, &options)?,
            block_size,
            block: Vec::with_capacity(block_size),
            stored: Vec::new(),
            broken: false,
        })
    }

    /// Takes in the next bytes of the content.
    ///
    /// # Errors
    ///
    /// When the output fails, a block is longer than allowed, or the content is longer than a reader accepts.
    /// The file cannot be completed then.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        if self.broken {
            return Err(WriteError::Broken);
        }
        let result = self.append_blocks(bytes);
        self.broken = result.is_err();
        result
    }

    /// Completes the file in the form whose header declares nothing, so that readers go by the trailer: the one
    /// that needs no second look at what has been written.
    ///
    /// # Errors
    ///
    /// When nothing was written, or an earlier or this write failed.
    pub fn finish(mut self) -> Result<W, WriteError> {
        self.end_block()?;
        self.assembler.finish()
    }

    /// Completes the file in the form whose header is written again, with the final fields: the one that the
    /// kernel reader needs.
    ///
    /// # Errors
    ///
    /// As [`finish`](Self::finish).
    pub fn finish_overwriting(mut self) -> Result<W, WriteError>
    where
        W: OverwriteHead,
    {
        self.end_block()?;
        self.assembler.finish_overwriting()
    }

    fn append_blocks(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            let room = self.block_size - self.block.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == self.block_size {
                self.write_block()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn write_block(&mut self) -> Result<(), WriteError> {
        let number = self.assembler.block_count();
        self.stored.clear();
        self.encoder.encode(number, &self.block, &mut self.stored)?;
        self.assembler.append(self.block.len(), &self.stored)?;
        self.block.clear();
        Ok(())
    }

    fn end_block(&mut self) -> Result<(), WriteError> {
        match (self.broken, self.block.is_empty()) {
            (true, _) => Err(WriteError::Broken),
            (false, true) => Ok(()),
            (false, false) => self.write_block(),
        }
    }
}

/// An error is a [`WriteError`] inside an [`io::Error`].
impl<W: Write> Write for Writer<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.append(buf).map_err(io::Error::other)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.assembler.get_mut().flush()
    }
}
