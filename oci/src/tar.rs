//! Reading tar files as image builders write them, from front to back.
//!
//! ustar, PAX and GNU headers, long names, sparse files in all four forms. The bytes are hostile: what a header says
//! is checked against the limits here before anything is allocated, and nothing of it reaches the host's file system.

mod header;
mod pax;
mod sparse;

use std::io::{self, Read};
use std::ops::Range;

use crate::ext4::Time;
use header::{BLOCK_LEN, Block, Header};
use pax::Records;

/// Longest path of a member, or of what a link points to: what the kernel takes.
pub const MAX_PATH_LEN_BYTES: usize = 4096;
/// Longest PAX header.
pub const MAX_PAX_LEN_BYTES: u64 = 1 << 20;
/// Most pieces of a sparse file.
pub const MAX_SPARSE_SEGMENTS: usize = 1 << 16;

/// A tar file that cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The bytes do not come.
    #[error("cannot read at byte {offset}")]
    Read {
        /// How far it was read.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The checksum of a header is wrong.
    #[error("byte {offset}: no tar header, or a damaged one: its checksum is wrong")]
    Checksum {
        /// Where it stands.
        offset: u64,
    },
    /// A field of a header is no number.
    #[error("byte {offset}: the field {field} of the tar header is not a number that it may be")]
    Number {
        /// Where the header stands.
        offset: u64,
        /// Which field.
        field: &'static str,
    },
    /// Something is longer than is good for us.
    #[error("byte {offset}: {what} of {value} bytes, of at most {max}")]
    Limit {
        /// Where the header stands.
        offset: u64,
        /// What.
        what: &'static str,
        /// Its length.
        value: u64,
        /// Longest.
        max: u64,
    },
    /// PAX records that are none.
    #[error("byte {offset}: the PAX header is damaged: {what}")]
    Pax {
        /// Where the header stands.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A map of a sparse file that is none.
    #[error("byte {offset}: the map of the sparse file is damaged: {what}")]
    Sparse {
        /// Where the header stands.
        offset: u64,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MemberKind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Directory,
    Fifo,
    /// Something else, by its type flag.
    Unknown(u8),
}

/// A member: its header and what stood before it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: MemberKind,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Length of the file.
    pub(crate) len_bytes: u64,
    /// Where in the file the bytes that follow stand: ascending, inside.
    pub(crate) segments: Vec<Range<u64>>,
}

/// What stands before a member and belongs to it.
#[derive(Debug, Default)]
struct Ahead {
    pax: Records,
    long_path: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

/// A tar file being read. As a [`Read`], it gives the content of the member that was found last.
#[derive(Debug)]
pub(crate) struct Tar<R> {
    source: R,
    offset: u64,
    /// Bytes of the member that were not read yet, and what pads them.
    left: u64,
    padding: u64,
}

impl<R: Read> Tar<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            offset: 0,
            left: 0,
            padding: 0,
        }
    }

    /// What the bytes come from, to be asked how far it is.
    pub(crate) fn source(&self) -> &R {
        &self.source
    }

    /// What the bytes come from.
    pub(crate) fn into_inner(self) -> R {
        self.source
    }

    /// The next member; `None` at the end of the archive.
    pub(crate) fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut ahead = Ahead::default();
        loop {
            self.skip_rest()?;
            let at = self.offset;
            let Some(block) = self.read_header_block()? else {
                return Ok(None);
            };
            let header = Header::parse(&block, at)?;
            let len_bytes = header.len_bytes()?;
            match header.type_flag() {
                b'x' => {
                    let text = self.read_all(at, len_bytes, "a PAX header", MAX_PAX_LEN_BYTES)?;
                    ahead.pax = Records::parse(&text, at)?;
                }
                // What is said of all members says nothing that matters here.
                b'g' => self.expect(len_bytes),
                b'L' => ahead.long_path = Some(self.read_long(at, len_bytes)?),
                b'K' => ahead.long_link = Some(self.read_long(at, len_bytes)?),
                _ => return self.member(&header, ahead).map(Some),
            }
        }
    }

    fn member(&mut self, header: &Header<'_>, ahead: Ahead) -> Result<Member, TarError> {
        let at = header.offset();
        let Ahead {
            pax,
            long_path,
            long_link,
        } = ahead;
        let mut stored = header.len_bytes()?;
        if let Some(len_bytes) = pax.size(at)? {
            stored = len_bytes;
        }
        let path = pax.path().or(long_path).unwrap_or_else(|| header.path());
        let link = pax.link().or(long_link).unwrap_or_else(|| header.link());
        for path in [&path, &link] {
            check_path_len(at, path.len())?;
        }
        let kind = header.kind(&path);
        if kind != MemberKind::File && !matches!(kind, MemberKind::Unknown(_)) {
            // Headers of links may state the length of what they link to; nothing follows them.
            stored = 0;
        }
        self.expect(stored);
        let mut member = Member {
            path,
            link,
            kind,
            mode: header.mode()?,
            uid: pax.uid(at)?.map_or_else(|| header.uid(), Ok)?,
            gid: pax.gid(at)?.map_or_else(|| header.gid(), Ok)?,
            mtime: pax.mtime(at)?.map_or_else(|| header.mtime(), Ok)?,
            device: match kind {
                MemberKind::CharDevice | MemberKind::BlockDevice => header.device()?,
                _ => (0, 0),
            },
            xattrs: pax.xattrs(),
            len_bytes: stored,
            segments: std::iter::once(0..stored).collect(),
        };
        if kind == MemberKind::File {
            self.read_sparse_map(header, &pax, &mut member)?;
        }
        Ok(member)
    }

    /// From now on, so many bytes belong to a member.
    fn expect(&mut self, len_bytes: u64) {
        self.left = len_bytes;
        self.padding = len_bytes.wrapping_neg() % BLOCK_LEN as u64;
    }

    fn read_long(&mut self, at: u64, len_bytes: u64) -> Result<Vec<u8>, TarError> {
        // One byte more ends it.
        let max = MAX_PATH_LEN_BYTES as u64 + 1;
        let mut text = self.read_all(at, len_bytes, "a long path", max)?;
        text.truncate(
            text.iter()
                .position(|byte| *byte == 0)
                .unwrap_or(text.len()),
        );
        Ok(text)
    }

    fn read_all(
        &mut self,
        offset: u64,
        len_bytes: u64,
        what: &'static str,
        max: u64,
    ) -> Result<Vec<u8>, TarError> {
        let Some(len) = usize::try_from(len_bytes).ok().filter(|_| len_bytes <= max) else {
            return Err(TarError::Limit {
                offset,
                what,
                value: len_bytes,
                max,
            });
        };
        self.expect(len_bytes);
        let mut bytes = vec![0; len];
        let at = self.offset;
        self.read_exact(&mut bytes)
            .map_err(|source| TarError::Read { offset: at, source })?;
        Ok(bytes)
    }

    fn read_block(&mut self) -> Result<Block, TarError> {
        let mut block = [0; BLOCK_LEN];
        self.source
            .read_exact(&mut block)
            .map_err(|source| TarError::Read {
                offset: self.offset,
                source,
            })?;
        self.offset += BLOCK_LEN as u64;
        Ok(block)
    }

    /// A block that is a header; `None` where zeroes or the end of the bytes say that the archive ends.
    fn read_header_block(&mut self) -> Result<Option<Block>, TarError> {
        let mut block = [0; BLOCK_LEN];
        let mut filled = 0;
        while filled < BLOCK_LEN {
            match self.source.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => {
                    return Err(TarError::Read {
                        offset: self.offset,
                        source: io::ErrorKind::UnexpectedEof.into(),
                    });
                }
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(TarError::Read {
                        offset: self.offset,
                        source,
                    });
                }
            }
        }
        self.offset += BLOCK_LEN as u64;
        Ok((block != [0; BLOCK_LEN]).then_some(block))
    }

    /// Passes over what is left of the member. What pads it may be missing at the end: some builders forget it, and
    /// container runtimes do not mind.
    fn skip_rest(&mut self) -> Result<(), TarError> {
        let wanted = std::mem::take(&mut self.left);
        if self.skip(wanted)? < wanted {
            return Err(TarError::Read {
                offset: self.offset,
                source: io::ErrorKind::UnexpectedEof.into(),
            });
        }
        let padding = std::mem::take(&mut self.padding);
        self.skip(padding)?;
        Ok(())
    }

    fn skip(&mut self, len_bytes: u64) -> Result<u64, TarError> {
        let offset = self.offset;
        let mut rest = (&mut self.source).take(len_bytes);
        let skipped = io::copy(&mut rest, &mut io::sink())
            .map_err(|source| TarError::Read { offset, source })?;
        self.offset = offset.saturating_add(skipped);
        Ok(skipped)
    }
}

impl<R: Read> Read for Tar<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        let read = self.source.read(&mut buf[..len])?;
        self.left -= read as u64;
        self.offset += read as u64;
        Ok(read)
    }
}

fn check_path_len(offset: u64, len: usize) -> Result<(), TarError> {
    match len > MAX_PATH_LEN_BYTES {
        false => Ok(()),
        true => Err(TarError::Limit {
            offset,
            what: "a path",
            value: len as u64,
            max: MAX_PATH_LEN_BYTES as u64,
        }),
    }
}
