//! Writing: content in, blocks out, jump table and trailer at the end.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;

use zerocopy::{FromZeros, IntoBytes};

use crate::checksum::{BLOCK_SEED, METADATA_SEED, raw_crc32c};
use crate::codec::{Algorithm, Encoder};
use crate::error::WriteError;
use crate::format::{
    BLOCKS_MAX, CONTENT_MAX_BYTES, DATA_START, FIELDS_LEN_BYTES, FLAG_DATA, FLAG_DIGEST,
    FLAG_HEADER, FLAG_OVERWRITTEN, FLAG_SEALED, HEADER_LEN_BYTES, MAGIC,
    PORTABLE_PAYLOAD_MAX_BYTES, RawHeader,
};
use crate::header::{digest, is_block_size};

/// Flags of the header before the end is known.
const PLAIN_HEADER_FLAGS: u64 = FLAG_HEADER | FLAG_DATA | FLAG_DIGEST;
/// Flags of the header that is written last.
const FINAL_HEADER_FLAGS: u64 = PLAIN_HEADER_FLAGS | FLAG_OVERWRITTEN;
/// Flags of the trailer.
const TRAILER_FLAGS: u64 = FLAG_DATA | FLAG_SEALED | FLAG_DIGEST;

/// How a ZFile is to be written. The default is what every known reader reads: LZ4, 4 KiB blocks, checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriterOptions {
    /// How to compress.
    pub algorithm: Algorithm,
    /// Level of zstd; `None` is 3, as in the tools that made the format. LZ4 has no levels.
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
pub struct Writer<W: Write> {
    out: W,
    options: WriterOptions,
    encoder: Encoder,
    /// Content of the block being filled.
    block: Vec<u8>,
    /// Room for a compressed block.
    payload: Vec<u8>,
    /// The jump table so far, as stored.
    index: Vec<u8>,
    blocks: u64,
    content_bytes: u64,
    /// Header and stored blocks so far.
    stored_bytes: u64,
    broken: bool,
}

impl<W: Write> fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("options", &self.options)
            .field("blocks", &self.blocks)
            .field("content_bytes", &self.content_bytes)
            .field("stored_bytes", &self.stored_bytes)
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
        if !is_block_size(options.block_size_bytes) {
            return Err(WriteError::BlockSize {
                found: options.block_size_bytes,
            });
        }
        let encoder = Encoder::new(options.algorithm, options.level)?;
        let block_size_bytes = block_size(&options);
        let mut writer = Self {
            out,
            encoder,
            block: Vec::with_capacity(block_size_bytes),
            payload: vec![0; Encoder::room_bytes(block_size_bytes)],
            index: Vec::new(),
            blocks: 0,
            content_bytes: 0,
            stored_bytes: DATA_START,
            broken: false,
            options,
        };
        // Before the end is known, the header declares an empty file.
        let header = writer.metadata(PLAIN_HEADER_FLAGS, None);
        writer
            .out
            .write_all(header.as_bytes())
            .map_err(WriteError::Io)?;
        Ok(writer)
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
        self.write_end()?;
        Ok(self.out)
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
        let index_crc = self.write_end()?;
        let header: [u8; HEADER_LEN_BYTES] =
            zerocopy::transmute!(self.metadata(FINAL_HEADER_FLAGS, Some(index_crc)));
        self.out.overwrite_head(&header).map_err(WriteError::Io)?;
        Ok(self.out)
    }

    fn append_blocks(&mut self, mut bytes: &[u8]) -> Result<(), WriteError> {
        let block_size_bytes = block_size(&self.options);
        while !bytes.is_empty() {
            let room = block_size_bytes - self.block.len();
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.extend_from_slice(now);
            if self.block.len() == block_size_bytes {
                self.write_block()?;
            }
            bytes = later;
        }
        Ok(())
    }

    fn write_block(&mut self) -> Result<(), WriteError> {
        let block = self.blocks;
        let payload_bytes = self
            .encoder
            .encode(&self.block, &mut self.payload)
            .map_err(|reason| WriteError::Compress { block, reason })?;
        if payload_bytes > PORTABLE_PAYLOAD_MAX_BYTES && !self.options.allow_oversized_blocks {
            return Err(WriteError::Oversized {
                block,
                payload_bytes,
                max: PORTABLE_PAYLOAD_MAX_BYTES,
            });
        }
        let payload = &self.payload[..payload_bytes];
        let checksum = raw_crc32c(BLOCK_SEED, payload).to_le_bytes();
        let checksum: &[u8] = if self.options.verify { &checksum } else { &[] };
        self.out.write_all(payload).map_err(WriteError::Io)?;
        self.out.write_all(checksum).map_err(WriteError::Io)?;

        // Infallible: both are below 128 KiB.
        let stored_bytes = u32::try_from(payload_bytes + checksum.len()).unwrap_or(u32::MAX);
        self.index.extend_from_slice(&stored_bytes.to_le_bytes());
        self.blocks += 1;
        self.content_bytes += self.block.len() as u64;
        self.stored_bytes += u64::from(stored_bytes);
        self.block.clear();
        self.check_limits()
    }

    fn check_limits(&self) -> Result<(), WriteError> {
        let limits = [
            ("number of blocks", self.blocks, BLOCKS_MAX),
            ("content length", self.content_bytes, CONTENT_MAX_BYTES),
        ];
        match limits.into_iter().find(|(_, value, max)| value > max) {
            Some((what, _, max)) => Err(WriteError::Limit { what, max }),
            None => Ok(()),
        }
    }

    /// Writes everything behind the last full block and returns the checksum of the jump table.
    fn write_end(&mut self) -> Result<u32, WriteError> {
        if self.broken {
            return Err(WriteError::Broken);
        }
        if !self.block.is_empty() {
            self.write_block()?;
        }
        if self.blocks == 0 {
            return Err(WriteError::Empty);
        }
        let index_crc = raw_crc32c(METADATA_SEED, &self.index);
        let trailer = self.metadata(TRAILER_FLAGS, Some(index_crc));
        self.out.write_all(&self.index).map_err(WriteError::Io)?;
        self.out
            .write_all(trailer.as_bytes())
            .map_err(WriteError::Io)?;
        self.out.flush().map_err(WriteError::Io)?;
        Ok(index_crc)
    }

    /// A header or trailer. With a jump table checksum it declares the file as written so far.
    fn metadata(&self, flags: u64, index_crc: Option<u32>) -> RawHeader {
        let mut raw = RawHeader::new_zeroed();
        let fields = &mut raw.fields;
        fields.magic = MAGIC;
        fields.size.set(FIELDS_LEN_BYTES);
        fields.flags.set(flags);
        fields.block_size.set(self.options.block_size_bytes);
        fields.algo = self.options.algorithm.number();
        fields.verify = u8::from(self.options.verify);
        if let Some(index_crc) = index_crc {
            fields.index_offset.set(self.stored_bytes);
            fields.index_size.set(self.blocks);
            fields.original_file_size.set(self.content_bytes);
            fields.index_crc.set(index_crc);
        }
        let digest = digest(&raw);
        raw.fields.digest.set(digest);
        raw
    }
}

/// An error is a [`WriteError`] inside an [`io::Error`].
impl<W: Write> Write for Writer<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.append(buf).map_err(io::Error::other)?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn block_size(options: &WriterOptions) -> usize {
    // Infallible: at most 64 KiB.
    usize::try_from(options.block_size_bytes).unwrap_or_default()
}
