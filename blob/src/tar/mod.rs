//! The tar wrapper around a layer: where the payload lies.
//!
//! Registries store layers as tar files with one member. Two forms exist (docs/format.md, "Tar wrapper"):
//!
//! ```text
//! plain   | header 512 | payload … | zero padding |
//! PAX     | 'x' header 512 | records 512 | header 512 | payload … | zero padding |
//! ```
//!
//! This room reads headers only. It accepts exactly these two forms and names whatever else it meets, so that
//! the payload can never be taken from the wrong place.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod write;

pub use write::{wrap_header, wrap_trailer_len_bytes};

use crate::{ReadAt, ReadError};

/// Unit of everything in a tar file, in bytes.
pub const BLOCK_LEN_BYTES: u64 = 512;

/// Payload position behind one header.
const PLAIN_PAYLOAD_START: u64 = BLOCK_LEN_BYTES;
/// Payload position behind a PAX header, its one block of records, and the member's header.
const PAX_PAYLOAD_START: u64 = 3 * BLOCK_LEN_BYTES;
/// PAX records longer than one block would move the payload; no writer of layers makes them.
const MAX_PAX_RECORDS_LEN_BYTES: u64 = BLOCK_LEN_BYTES;

const SIZE_FIELD: std::ops::Range<usize> = 124..136;
const CHECKSUM_FIELD: std::ops::Range<usize> = 148..156;
const TYPE_FIELD: usize = 156;
const MAGIC_FIELD: std::ops::Range<usize> = 257..262;
const VERSION_FIELD: std::ops::Range<usize> = 263..265;

type Block = [u8; 512];

/// Where the payload of a tar-wrapped blob lies, in bytes of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// First byte.
    pub start: u64,
    /// Length, as the tar header states it.
    pub len_bytes: u64,
    /// Whether the size came from a PAX header.
    pub pax: bool,
}

/// Why a blob that looks like a tar file cannot be a wrapped layer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// Reading a header failed.
    #[error("cannot read a tar header")]
    Read(#[source] ReadError),
    /// The blob ends inside a header.
    #[error(
        "tar file of {blob_len_bytes} bytes ends before its headers do, at byte {needed_bytes}"
    )]
    TooShort {
        /// Length of the blob.
        blob_len_bytes: u64,
        /// Where the headers end.
        needed_bytes: u64,
    },
    /// The header's checksum does not match its bytes.
    #[error(
        "tar header at byte {offset}: checksum field says {stated}, the bytes add up to {computed}"
    )]
    Checksum {
        /// Where the header starts.
        offset: u64,
        /// What the field says.
        stated: u64,
        /// Sum of the bytes.
        computed: u64,
    },
    /// A numeric field that is not an octal number.
    #[error("tar header at byte {offset}: {field} is not an octal number")]
    Number {
        /// Where the header starts.
        offset: u64,
        /// Which field.
        field: &'static str,
    },
    /// The second header is not one.
    #[error("tar header at byte {offset}: expected the ustar magic and version")]
    Magic {
        /// Where the header should start.
        offset: u64,
    },
    /// A member that is not a plain file, or an extension that moves the payload.
    #[error(
        "tar header at byte {offset}: member type {found:?} is not supported, expected one plain file"
    )]
    MemberType {
        /// Where the header starts.
        offset: u64,
        /// The type flag.
        found: char,
    },
    /// A GNU or pre-POSIX header, which no reader of layers understands.
    #[error("GNU tar header: layers are wrapped in ustar or PAX tar (try `tar --format=ustar`)")]
    GnuFormat,
    /// The writer of this blob never finished.
    #[error("tar wrapper under construction: its writer never finished")]
    Unfinished,
    /// PAX records that cannot be parsed.
    #[error("PAX records: {what}")]
    PaxRecords {
        /// What is wrong with them.
        what: &'static str,
    },
    /// A size that leaves no payload, or more than the blob holds.
    #[error(
        "tar payload of {len_bytes} bytes at byte {start} does not fit in a blob of {blob_len_bytes} bytes"
    )]
    Size {
        /// First byte of the payload.
        start: u64,
        /// Stated length.
        len_bytes: u64,
        /// Length of the blob.
        blob_len_bytes: u64,
    },
    /// Something follows the payload where only zeroes may.
    #[error("tar holds more than one member (data at byte {offset}): a layer is wrapped alone")]
    SecondMember {
        /// Where the second member starts.
        offset: u64,
    },
}

/// Whether `head`, the first bytes of a blob, could begin a tar file: it carries a `ustar` magic of any dialect,
/// or the mark of a wrapper whose writer never finished.
#[must_use]
pub fn looks_like_tar(head: &[u8]) -> bool {
    head.get(MAGIC_FIELD).is_some_and(|magic| magic == b"ustar") || is_unfinished(head)
}

/// An unfinished wrapper keeps this name in its first header until it is closed.
fn is_unfinished(head: &[u8]) -> bool {
    head.starts_with(b"overlaybd.pax\0")
        && head.get(MAGIC_FIELD).is_none_or(|magic| magic != b"ustar")
}

/// Finds the payload of a blob that [`looks_like_tar`].
///
/// # Errors
///
/// Whatever keeps it from being one plain file in a ustar or PAX tar: see [`TarError`].
pub fn locate(source: &impl ReadAt) -> Result<Payload, TarError> {
    let first = read_block(source, 0)?;
    if is_unfinished(&first) {
        return Err(TarError::Unfinished);
    }
    check_header(&first, 0)?;
    let payload = match member_type(&first) {
        b'0' | 0 => Payload {
            start: PLAIN_PAYLOAD_START,
            len_bytes: size_field(&first, 0)?,
            pax: false,
        },
        b'x' => locate_pax(source, &first)?,
        other => {
            return Err(TarError::MemberType {
                offset: 0,
                found: char::from(other),
            });
        }
    };
    check_extent(source, &payload)?;
    Ok(payload)
}

fn locate_pax(source: &impl ReadAt, first: &Block) -> Result<Payload, TarError> {
    let records_len_bytes = size_field(first, 0)?;
    if records_len_bytes > MAX_PAX_RECORDS_LEN_BYTES {
        return Err(TarError::PaxRecords {
            what: "longer than 512 bytes",
        });
    }
    let records = read_block(source, BLOCK_LEN_BYTES)?;
    let records = usize::try_from(records_len_bytes)
        .ok()
        .and_then(|len| records.get(..len))
        .ok_or(TarError::PaxRecords {
            what: "longer than 512 bytes",
        })?;
    let offset = 2 * BLOCK_LEN_BYTES;
    let second = read_block(source, offset)?;
    check_header(&second, offset)?;
    let len_bytes = match pax_size(records)?.filter(|size| *size > 0) {
        Some(size) => size,
        None => size_field(&second, offset)?,
    };
    match member_type(&second) {
        b'0' | 0 => Ok(Payload {
            start: PAX_PAYLOAD_START,
            len_bytes,
            pax: true,
        }),
        other => Err(TarError::MemberType {
            offset,
            found: char::from(other),
        }),
    }
}

/// The payload must be there whole, and nothing but zeroes may follow it.
fn check_extent(source: &impl ReadAt, payload: &Payload) -> Result<(), TarError> {
    let blob_len_bytes = source.len_bytes();
    let &Payload {
        start, len_bytes, ..
    } = payload;
    let end = start
        .checked_add(len_bytes)
        .filter(|end| len_bytes > 0 && *end <= blob_len_bytes);
    let Some(end) = end else {
        return Err(TarError::Size {
            start,
            len_bytes,
            blob_len_bytes,
        });
    };
    let next = end.checked_next_multiple_of(BLOCK_LEN_BYTES);
    let Some(next) = next.filter(|next| next.saturating_add(BLOCK_LEN_BYTES) <= blob_len_bytes)
    else {
        return Ok(());
    };
    if read_block(source, next)?.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(TarError::SecondMember { offset: next })
    }
}

fn read_block(source: &impl ReadAt, offset: u64) -> Result<Block, TarError> {
    let (blob_len_bytes, needed_bytes) =
        (source.len_bytes(), offset.saturating_add(BLOCK_LEN_BYTES));
    if needed_bytes > blob_len_bytes {
        return Err(TarError::TooShort {
            blob_len_bytes,
            needed_bytes,
        });
    }
    let mut block = [0; 512];
    source
        .read_exact_at(&mut block, offset)
        .map_err(TarError::Read)?;
    Ok(block)
}

fn member_type(block: &Block) -> u8 {
    block.get(TYPE_FIELD).copied().unwrap_or_default()
}

fn check_header(block: &Block, offset: u64) -> Result<(), TarError> {
    let magic = block.get(MAGIC_FIELD).unwrap_or_default();
    let version = block.get(VERSION_FIELD).unwrap_or_default();
    if magic == b"ustar" && version != b"00" {
        return Err(TarError::GnuFormat);
    }
    if magic == b"xxtar" {
        return Err(TarError::Unfinished);
    }
    if magic != b"ustar" {
        return Err(TarError::Magic { offset });
    }
    let field = block.get(CHECKSUM_FIELD).unwrap_or_default();
    let stated = octal(field).ok_or(TarError::Number {
        offset,
        field: "checksum",
    })?;
    let unsigned = checksum(block, u64::from);
    // A historical writer added the bytes as signed numbers; bytes ≥ 0x80 then count 256 less each.
    let high_bytes = checksum(block, |byte| u64::from(byte >= 0x80));
    let signed = unsigned.wrapping_sub(high_bytes.wrapping_mul(256));
    if stated == unsigned || stated == signed {
        Ok(())
    } else {
        Err(TarError::Checksum {
            offset,
            stated,
            computed: unsigned,
        })
    }
}

/// Sum over the header with its checksum field taken as spaces.
fn checksum(block: &Block, value: impl Fn(u8) -> u64) -> u64 {
    let bytes = block.iter().enumerate();
    bytes
        .map(|(at, byte)| {
            value(if CHECKSUM_FIELD.contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum()
}

fn size_field(block: &Block, offset: u64) -> Result<u64, TarError> {
    let field = block.get(SIZE_FIELD).unwrap_or_default();
    octal(field).ok_or(TarError::Number {
        offset,
        field: "size",
    })
}

/// An octal number padded with spaces or NULs on either side. An empty field is 0, as old writers leave it.
fn octal(field: &[u8]) -> Option<u64> {
    let text = field.trim_ascii_start();
    let end = text
        .iter()
        .position(|byte| matches!(byte, b' ' | 0))
        .unwrap_or(text.len());
    let (digits, padding) = text.split_at_checked(end)?;
    if padding.iter().any(|byte| !matches!(byte, b' ' | 0)) {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'7' => number
            .checked_mul(8)?
            .checked_add(u64::from(digit.wrapping_sub(b'0'))),
        _ => None,
    })
}

/// The value of the `size` record, if there is one.
fn pax_size(mut records: &[u8]) -> Result<Option<u64>, TarError> {
    let bad = |what| TarError::PaxRecords { what };
    let mut size = None;
    while !records.is_empty() {
        let space = records
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or(bad("no length"))?;
        let length = records
            .get(..space)
            .and_then(decimal)
            .ok_or(bad("length is not a number"))?;
        let length =
            usize::try_from(length).map_err(|_too_long| bad("length beyond the records"))?;
        let (record, rest) = records
            .split_at_checked(length)
            .ok_or(bad("length beyond the records"))?;
        let body = record
            .get(space.saturating_add(1)..)
            .ok_or(bad("length too small"))?;
        let body = body
            .strip_suffix(b"\n")
            .ok_or(bad("record does not end with a newline"))?;
        if let Some(value) = body.strip_prefix(b"size=") {
            size = Some(decimal(value).ok_or(bad("size is not a number"))?);
        }
        records = rest;
    }
    Ok(size)
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    // `parse` would take a leading plus sign.
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "tests compute offsets freely"
)]
mod tests {
    use super::*;
    use crate::MemoryBlob;

    fn header(name: &str, size: &str, member_type: u8) -> Vec<u8> {
        let mut block = vec![0; 512];
        block[..name.len()].copy_from_slice(name.as_bytes());
        block[124..124 + size.len()].copy_from_slice(size.as_bytes());
        block[156] = member_type;
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut block);
        block
    }

    fn seal(block: &mut [u8]) {
        block[148..156].fill(b' ');
        let sum: u64 = block[..512].iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:6o}\0 ").as_bytes());
    }

    fn plain(payload: &[u8]) -> Vec<u8> {
        let mut tar = header(
            "overlaybd.commit",
            &format!("{:011o} ", payload.len()),
            b'0',
        );
        tar.extend_from_slice(payload);
        tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
        tar
    }

    fn pax(record: &[u8], size: &str, payload: &[u8]) -> Vec<u8> {
        let mut tar = header("overlaybd.pax", &format!("{:11o} ", record.len()), b'x');
        tar.extend_from_slice(record);
        tar.resize(1024, 0);
        tar.extend_from_slice(&header("overlaybd.commit", size, b'0'));
        tar.extend_from_slice(payload);
        tar.resize(tar.len().next_multiple_of(512) + 1024, 0);
        tar
    }

    fn located(tar: Vec<u8>) -> Result<Payload, TarError> {
        assert!(looks_like_tar(&tar), "must be recognised first");
        locate(&MemoryBlob::new(tar))
    }

    #[test]
    fn both_forms_are_found() {
        let expected = Payload {
            start: 512,
            len_bytes: 700,
            pax: false,
        };
        assert_eq!(located(plain(&[7; 700])).unwrap(), expected);
        let expected = Payload {
            start: 1536,
            len_bytes: 5430,
            pax: true,
        };
        let payload = [9; 5430];
        assert_eq!(
            located(pax(b"13 size=5430\n", "          0 ", &payload)).unwrap(),
            expected
        );
        // The PAX size beats the header's, other records are passed over, and a zero size falls back.
        let records = b"12 path=abc\n13 size=5430\n";
        assert_eq!(
            located(pax(records, "        777 ", &payload)).unwrap(),
            expected
        );
        assert_eq!(
            located(pax(b"10 size=0\n", "00000012466\0", &payload)).unwrap(),
            expected
        );
        // The end-of-archive blocks may be missing.
        let mut cut = plain(&[7; 700]);
        cut.truncate(512 + 700);
        assert_eq!(located(cut).unwrap().len_bytes, 700);
    }

    #[test]
    fn every_departure_is_named() {
        let edit = |at: usize, byte: u8| {
            let mut tar = plain(&[7; 700]);
            tar[at] = byte;
            seal(&mut tar);
            located(tar).unwrap_err()
        };
        assert!(matches!(
            edit(156, b'L'),
            TarError::MemberType {
                offset: 0,
                found: 'L'
            }
        ));
        assert!(matches!(
            edit(156, b'g'),
            TarError::MemberType {
                offset: 0,
                found: 'g'
            }
        ));
        assert!(matches!(
            edit(130, b'9'),
            TarError::Number { field: "size", .. }
        ));
        assert!(matches!(edit(263, b' '), TarError::GnuFormat));
        assert!(matches!(edit(124, b'7'), TarError::Size { start: 512, .. }));

        let mut broken = plain(&[7; 700]);
        broken[0] ^= 1;
        assert!(matches!(
            located(broken),
            Err(TarError::Checksum { offset: 0, .. })
        ));
        let mut second = plain(&[7; 700]);
        second[512 + 1024] = 1;
        assert!(matches!(
            located(second),
            Err(TarError::SecondMember { offset: 1536 })
        ));
        assert!(matches!(
            located(plain(&[])),
            Err(TarError::Size { len_bytes: 0, .. })
        ));
        let mut short = plain(&[7; 700]);
        short.truncate(512 + 699);
        assert!(matches!(located(short), Err(TarError::Size { .. })));
        assert!(matches!(
            located(plain(&[7; 9])[..300].to_vec()),
            Err(TarError::TooShort { .. })
        ));

        let mut unfinished = pax(b"13 size=5430\n", "0", &[0; 5430]);
        unfinished[257..265].fill(0);
        assert!(matches!(located(unfinished), Err(TarError::Unfinished)));
        let mut unfinished = pax(b"13 size=5430\n", "0", &[0; 5430]);
        unfinished[1024 + 257..1024 + 262].copy_from_slice(b"xxtar");
        assert!(matches!(located(unfinished), Err(TarError::Unfinished)));
        let mut magic = pax(b"13 size=5430\n", "0", &[0; 5430]);
        magic[1024 + 257] = b'U';
        assert!(matches!(
            located(magic),
            Err(TarError::Magic { offset: 1024 })
        ));
    }

    #[test]
    fn hostile_pax_records_are_refused() {
        for (record, what) in [
            (
                &b"99999999999999999999 size=1\n"[..],
                "length is not a number",
            ),
            (b"14 size=5430\n", "length beyond the records"),
            (b"12 size=5430\n", "record does not end with a newline"),
            (b"2 size=5430\n", "record does not end with a newline"),
            (b"0 size=5430\n", "length too small"),
            (b"13size=5430\n\n", "no length"),
            (b"13 size=+430\n", "size is not a number"),
            (b"30 size=18446744073709551616\n\n", "size is not a number"),
        ] {
            let error = located(pax(record, "0", &[0; 5430])).unwrap_err();
            let TarError::PaxRecords { what: found } = error else {
                panic!("{record:?}: {error}")
            };
            assert_eq!(found, what, "{:?}", String::from_utf8_lossy(record));
        }
        let mut long = pax(b"13 size=5430\n", "0", &[0; 5430]);
        long[124..136].copy_from_slice(b"00000001001\0");
        seal(&mut long);
        assert!(matches!(
            located(long),
            Err(TarError::PaxRecords {
                what: "longer than 512 bytes"
            })
        ));
    }

    #[test]
    fn octal_takes_both_paddings_and_nothing_else() {
        for (field, number) in [
            (&b"00000000017\0"[..], Some(15)),
            (b"         17 ", Some(15)),
            (b"17          ", Some(15)),
            (b"\0\0\0\0\0\0\0\0\0\0\0\0", Some(0)),
            (b"777777777777", Some(0o777_777_777_777)),
            (b"18         \0", None),
            (b"17 17       ", None),
            (b"\x80\0\0\0\0\0\0\0\0\0\x01\0", None),
        ] {
            assert_eq!(octal(field), number, "{field:?}");
        }
    }
}
