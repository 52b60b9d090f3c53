//! Stored blocks in, a file out: header, blocks, jump table, trailer.

use std::fmt;
use std::io::Write;

use zerocopy::{FromZeros, IntoBytes};

use crate::checksum::{METADATA_SEED, raw_crc32c};
use crate::error::WriteError;
use crate::format::{
    BLOCKS_MAX, CONTENT_MAX_BYTES, DATA_START, FIELDS_LEN_BYTES, FLAG_DATA, FLAG_DIGEST,
    FLAG_HEADER, FLAG_OVERWRITTEN, FLAG_SEALED, HEADER_LEN_BYTES, MAGIC, RawHeader,
};
use crate::header::digest;
use crate::writer::{OverwriteHead, WriterOptions};

/// Flags of the header before the end is known.
const PLAIN_HEADER_FLAGS: u64 = FLAG_HEADER | FLAG_DATA | FLAG_DIGEST;
/// Flags of the header that is written last.
const FINAL_HEADER_FLAGS: u64 = PLAIN_HEADER_FLAGS | FLAG_OVERWRITTEN;
/// Flags of the trailer.
const TRAILER_FLAGS: u64 = FLAG_DATA | FLAG_SEALED | FLAG_DIGEST;

/// Makes a ZFile of stored blocks, as a [`BlockEncoder`](crate::BlockEncoder) with the same options makes them.
///
/// Holds the jump table in memory, 4 bytes per block, and hands everything else to the output at once. The file is
/// complete only after [`finish`](Self::finish) or [`finish_overwriting`](Self::finish_overwriting), which also decide
/// on the form of its header.
pub struct Assembler<W> {
    out: W,
    options: WriterOptions,
    /// The jump table so far, as stored.
    index: Vec<u8>,
    blocks: u64,
    content_bytes: u64,
    /// Header and stored blocks so far.
    stored_bytes: u64,
    /// Content of the short block that ended the content, if there was one.
    short: Option<usize>,
    broken: bool,
}

impl<W> fmt::Debug for Assembler<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Assembler")
            .field("options", &self.options)
            .field("blocks", &self.blocks)
            .field("content_bytes", &self.content_bytes)
            .field("stored_bytes", &self.stored_bytes)
            .finish_non_exhaustive()
    }
}

impl<W: Write> Assembler<W> {
    /// Starts a ZFile: writes a header to `out`.
    ///
    /// # Errors
    ///
    /// When `options` ask for what the format does not have, or the output fails.
    pub fn new(out: W, options: &WriterOptions) -> Result<Self, WriteError> {
        options.check()?;
        let mut assembler = Self {
            out,
            options: options.clone(),
            index: Vec::new(),
            blocks: 0,
            content_bytes: 0,
            stored_bytes: DATA_START,
            short: None,
            broken: false,
        };
        // Before the end is known, the header declares an empty file.
        let header = assembler.metadata(PLAIN_HEADER_FLAGS, None);
        assembler
            .out
            .write_all(header.as_bytes())
            .map_err(WriteError::Io)?;
        Ok(assembler)
    }

    /// Takes the next block: its stored bytes, and how many bytes of content are in it.
    ///
    /// # Errors
    ///
    /// When the output fails, when the block has no place here (only the last one may be short), or the file becomes
    /// longer than a reader accepts. The file cannot be completed then.
    pub fn append(&mut self, content_bytes: usize, stored: &[u8]) -> Result<(), WriteError> {
        if self.broken {
            return Err(WriteError::Broken);
        }
        let result = self.append_block(content_bytes, stored);
        self.broken = result.is_err();
        result
    }

    /// The output. What has been written is not complete.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.out
    }

    /// Blocks so far.
    pub fn block_count(&self) -> u64 {
        self.blocks
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

    fn append_block(&mut self, content_bytes: usize, stored: &[u8]) -> Result<(), WriteError> {
        let misplaced = |content_bytes| WriteError::Misplaced {
            block: self.blocks,
            content_bytes,
            block_size_bytes: self.options.block_size_bytes,
        };
        if let Some(short) = self.short {
            return Err(misplaced(short));
        }
        let fits = 1..=self.options.block_size();
        let entry = u32::try_from(stored.len()).ok().filter(|len| *len > 0);
        let Some(entry) = entry.filter(|_| fits.contains(&content_bytes)) else {
            return Err(misplaced(content_bytes));
        };
        if content_bytes < self.options.block_size() {
            self.short = Some(content_bytes);
        }
        self.out.write_all(stored).map_err(WriteError::Io)?;
        self.index.extend_from_slice(&entry.to_le_bytes());
        self.blocks += 1;
        self.content_bytes += content_bytes as u64;
        self.stored_bytes += u64::from(entry);
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

    /// Writes everything behind the last block and returns the checksum of the jump table.
    fn write_end(&mut self) -> Result<u32, WriteError> {
        if self.broken {
            return Err(WriteError::Broken);
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
