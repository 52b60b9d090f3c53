//! The header of a member, 512 bytes.

use std::ops::Range;

use super::{MemberKind, TarError};
use crate::ext4::Time;

pub(super) const BLOCK_LEN: usize = 512;
pub(super) type Block = [u8; BLOCK_LEN];

const NAME: Range<usize> = 0..100;
const MODE: Range<usize> = 100..108;
const UID: Range<usize> = 108..116;
const GID: Range<usize> = 116..124;
const SIZE: Range<usize> = 124..136;
const MTIME: Range<usize> = 136..148;
const CHECKSUM: Range<usize> = 148..156;
const TYPE_AT: usize = 156;
const LINK: Range<usize> = 157..257;
const MAGIC: Range<usize> = 257..263;
const MAJOR: Range<usize> = 329..337;
const MINOR: Range<usize> = 337..345;
const PREFIX: Range<usize> = 345..500;

/// A header whose checksum is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Header<'a> {
    block: &'a Block,
    offset: u64,
}

impl<'a> Header<'a> {
    pub(super) fn parse(block: &'a Block, offset: u64) -> Result<Self, TarError> {
        let header = Self { block, offset };
        let stated = number(&block[CHECKSUM]).ok_or(TarError::Checksum { offset })?;
        let blank = |at: usize, byte: u8| match CHECKSUM.contains(&at) {
            true => b' ',
            false => byte,
        };
        let bytes = block.iter().enumerate().map(|(at, byte)| blank(at, *byte));
        let unsigned: i64 = bytes.clone().map(i64::from).sum();
        // Writers that took bytes for signed numbers counted them so.
        let signed: i64 = bytes.map(|byte| i64::from(byte.cast_signed())).sum();
        match stated == unsigned || stated == signed {
            true => Ok(header),
            false => Err(TarError::Checksum { offset }),
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn block(&self) -> &'a Block {
        self.block
    }

    pub(super) fn type_flag(&self) -> u8 {
        self.block[TYPE_AT]
    }

    pub(super) fn kind(&self, path: &[u8]) -> MemberKind {
        match self.type_flag() {
            // Before there was a type for directories, a slash said so.
            0 if path.ends_with(b"/") => MemberKind::Directory,
            0 | b'0' | b'S' => MemberKind::File,
            b'1' => MemberKind::HardLink,
            b'2' => MemberKind::Symlink,
            b'3' => MemberKind::CharDevice,
            b'4' => MemberKind::BlockDevice,
            b'5' => MemberKind::Directory,
            b'6' => MemberKind::Fifo,
            other => MemberKind::Unknown(other),
        }
    }

    pub(super) fn is_gnu_sparse(&self) -> bool {
        self.type_flag() == b'S'
    }

    /// The path as far as it stands in the header.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.block[NAME]);
        let prefix = match &self.block[MAGIC] == b"ustar\0" {
            true => text(&self.block[PREFIX]),
            false => &[],
        };
        match prefix.is_empty() {
            true => name.to_vec(),
            false => [prefix, name].join(&b'/'),
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.block[LINK]).to_vec()
    }

    pub(super) fn len_bytes(&self) -> Result<u64, TarError> {
        self.unsigned(SIZE, "size")
    }

    pub(super) fn mode(&self) -> Result<u16, TarError> {
        // Old writers put the type into the mode; only the permissions count.
        let mode: u32 = self.unsigned(MODE, "mode")?;
        Ok(u16::try_from(mode & 0o7777).unwrap_or_default())
    }

    pub(super) fn uid(&self) -> Result<u32, TarError> {
        self.unsigned(UID, "uid")
    }

    pub(super) fn gid(&self) -> Result<u32, TarError> {
        self.unsigned(GID, "gid")
    }

    pub(super) fn mtime(&self) -> Result<Time, TarError> {
        let seconds = number(&self.block[MTIME]).ok_or(self.bad("mtime"))?;
        Ok(Time { seconds, nanos: 0 })
    }

    pub(super) fn device(&self) -> Result<(u32, u32), TarError> {
        Ok((
            self.unsigned(MAJOR, "devmajor")?,
            self.unsigned(MINOR, "devminor")?,
        ))
    }

    fn unsigned<T: TryFrom<i64>>(
        &self,
        field: Range<usize>,
        name: &'static str,
    ) -> Result<T, TarError> {
        number(&self.block[field])
            .and_then(|number| T::try_from(number).ok())
            .ok_or(self.bad(name))
    }

    fn bad(&self, field: &'static str) -> TarError {
        TarError::Number {
            offset: self.offset,
            field,
        }
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0);
    &field[..end.unwrap_or(field.len())]
}

/// A number in octal digits between spaces or NULs; or, where the first bit is set, in binary, highest byte first.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    if first & 0x80 != 0 {
        // The bit beside it is the sign.
        let start = match first & 0x40 {
            0 => i64::from(first & 0x3f),
            _ => i64::from((first | 0x80).cast_signed()),
        };
        return rest.iter().try_fold(start, |number, byte| {
            number.checked_mul(256)?.checked_add(i64::from(*byte))
        });
    }
    let digits = field.trim_ascii_start();
    let end = digits.iter().position(|byte| matches!(byte, b' ' | 0));
    let (digits, padding) = digits.split_at(end.unwrap_or(digits.len()));
    if !padding.iter().all(|byte| matches!(byte, b' ' | 0)) {
        return None;
    }
    digits.iter().try_fold(0_i64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_in_octal_and_in_binary() {
        for (field, expected) in [
            (&b"0000017\0"[..], Some(15)),
            (b"    17 \0", Some(15)),
            (b"17 \0\0\0\0\0", Some(15)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"77777777", Some(0o7777_7777)),
            (b"0000018\0", None),
            (b"17 17  \0", None),
            (b"-1     \0", None),
            (b"\x80\0\0\0\0\0\x01\x02", Some(258)),
            (
                b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe",
                Some(-2),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
        ] {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
