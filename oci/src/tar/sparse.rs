//! Sparse files: maps of where the stored bytes stand. GNU tar has written them in four ways.

use std::io::Read;
use std::ops::Range;

use super::header::{BLOCK_LEN, Block, Header, number};
use super::pax::{Records, decimal};
use super::{MAX_PATH_LEN_BYTES, MAX_SPARSE_SEGMENTS, Member, Tar, TarError};

/// Pairs of offset and length in a header of the old kind, and in a block behind it.
const OLD_PAIRS_AT: usize = 386;
const OLD_PAIRS: usize = 4;
const OLD_IS_EXTENDED_AT: usize = 482;
const OLD_LENGTH: Range<usize> = 483..495;
const EXTENSION_PAIRS: usize = 21;
const EXTENSION_IS_EXTENDED_AT: usize = 504;
const NUMBER_LEN: usize = 12;

impl<R: Read> Tar<R> {
    /// Finds out where the bytes of a file stand in it, if it is sparse.
    pub(super) fn read_sparse_map(
        &mut self,
        header: &Header<'_>,
        pax: &Records,
        member: &mut Member,
    ) -> Result<(), TarError> {
        let offset = header.offset();
        let map = if header.is_gnu_sparse() {
            Some(self.read_old_map(header)?)
        } else if pax.get("GNU.sparse.major") == Some(b"1") {
            Some(self.read_map_before_content(pax, offset)?)
        } else if let Some(map) = pax.get("GNU.sparse.map") {
            let numbers = map.split(|byte| *byte == b',').map(decimal);
            Some((real_len(pax, offset)?, numbers.collect()))
        } else if pax.get("GNU.sparse.size").is_some() {
            let numbers = pax.sparse_pairs.iter().map(|number| decimal(number));
            Some((real_len(pax, offset)?, numbers.collect()))
        } else {
            None
        };
        if let Some((len_bytes, numbers)) = map {
            member.len_bytes = len_bytes;
            member.segments = segments(&numbers, len_bytes, self.left, offset)?;
        }
        Ok(())
    }

    fn read_old_map(&mut self, header: &Header<'_>) -> Result<(u64, Vec<Option<u64>>), TarError> {
        let offset = header.offset();
        let bad = TarError::Number {
            offset,
            field: "realsize",
        };
        let block = header.block();
        let len_bytes = unsigned(&block[OLD_LENGTH]).ok_or(bad)?;
        let mut numbers = Vec::new();
        old_pairs(block, OLD_PAIRS_AT, OLD_PAIRS, &mut numbers);
        let mut is_extended = block[OLD_IS_EXTENDED_AT] != 0;
        while is_extended {
            let block = self.read_block()?;
            old_pairs(&block, 0, EXTENSION_PAIRS, &mut numbers);
            check_count(numbers.len() / 2, offset)?;
            is_extended = block[EXTENSION_IS_EXTENDED_AT] != 0;
        }
        Ok((len_bytes, numbers))
    }

    /// Numbers, each on a line: how many pairs, and the pairs. The content begins at the next block.
    fn read_map_before_content(
        &mut self,
        pax: &Records,
        offset: u64,
    ) -> Result<(u64, Vec<Option<u64>>), TarError> {
        let bad = |what| TarError::Sparse { offset, what };
        let mut text: Vec<u8> = Vec::new();
        let (mut numbers, mut wanted) = (Vec::new(), 1);
        while numbers.len() < wanted {
            let at = self.offset;
            let mut block = [0; BLOCK_LEN];
            self.read_exact(&mut block)
                .map_err(|source| TarError::Read { offset: at, source })?;
            text.extend_from_slice(&block);
            while numbers.len() < wanted
                && let Some(end) = text.iter().position(|byte| *byte == b'\n')
            {
                let number = decimal(&text[..end]);
                text.drain(..=end);
                if numbers.is_empty() {
                    let pairs = number.and_then(|pairs| usize::try_from(pairs).ok());
                    let pairs = pairs.ok_or(bad("it does not say how many pieces there are"))?;
                    check_count(pairs, offset)?;
                    wanted = 1 + 2 * pairs;
                }
                numbers.push(number);
            }
            if text.len() > MAX_PATH_LEN_BYTES {
                return Err(bad("a line is too long"));
            }
        }
        numbers.remove(0);
        Ok((real_len(pax, offset)?, numbers))
    }
}

/// Length of the file with its holes, which has had two names.
fn real_len(pax: &Records, offset: u64) -> Result<u64, TarError> {
    let len_bytes = match pax.number("GNU.sparse.realsize", offset)? {
        Some(len_bytes) => Some(len_bytes),
        None => pax.number("GNU.sparse.size", offset)?,
    };
    len_bytes.ok_or(TarError::Sparse {
        offset,
        what: "the length of the file is missing",
    })
}

fn old_pairs(block: &Block, at: usize, count: usize, numbers: &mut Vec<Option<u64>>) {
    let fields = block[at..at + 2 * NUMBER_LEN * count].chunks(NUMBER_LEN);
    let fields: Vec<&[u8]> = fields.collect();
    for pair in fields.chunks(2).take_while(|pair| pair[0][0] != 0) {
        numbers.extend(pair.iter().map(|field| unsigned(field)));
    }
}

fn unsigned(field: &[u8]) -> Option<u64> {
    u64::try_from(number(field)?).ok()
}

fn check_count(count: usize, offset: u64) -> Result<(), TarError> {
    match count > MAX_SPARSE_SEGMENTS {
        false => Ok(()),
        true => Err(TarError::Limit {
            offset,
            what: "a map with so many pieces, counted instead",
            value: count as u64,
            max: MAX_SPARSE_SEGMENTS as u64,
        }),
    }
}

/// Pieces from pairs of offset and length: ascending, inside the file, as long as what is stored.
fn segments(
    numbers: &[Option<u64>],
    len_bytes: u64,
    stored: u64,
    offset: u64,
) -> Result<Vec<Range<u64>>, TarError> {
    let bad = |what| TarError::Sparse { offset, what };
    check_count(numbers.len() / 2, offset)?;
    let (mut segments, mut end, mut sum) = (Vec::new(), 0, 0_u64);
    for pair in numbers.chunks(2) {
        let &[Some(start), Some(len)] = pair else {
            return Err(bad("it is not made of pairs of numbers"));
        };
        let next = start.checked_add(len).filter(|next| *next <= len_bytes);
        let next = next.ok_or(bad("a piece lies behind the end of the file"))?;
        if start < end {
            return Err(bad("its pieces overlap"));
        }
        segments.push(start..next);
        end = next;
        sum = sum.saturating_add(len);
    }
    match sum == stored {
        true => Ok(segments),
        false => Err(bad("its pieces are not as long as what is stored")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_are_checked() {
        let map = |numbers: &[u64], len, stored| {
            let numbers: Vec<_> = numbers.iter().copied().map(Some).collect();
            segments(&numbers, len, stored, 0).map_err(|error| match error {
                TarError::Sparse { what, .. } => what,
                other => panic!("{other}"),
            })
        };
        assert_eq!(
            map(&[0, 10, 20, 5, 30, 0], 30, 15).unwrap(),
            [0..10, 20..25, 30..30]
        );
        assert_eq!(map(&[], 30, 0).unwrap(), []);
        for (numbers, what) in [
            (&[0, 10, 20][..], "it is not made of pairs of numbers"),
            (&[20, 11], "a piece lies behind the end of the file"),
            (&[u64::MAX, 2], "a piece lies behind the end of the file"),
            (&[0, 10, 5, 5], "its pieces overlap"),
            (&[0, 14], "its pieces are not as long as what is stored"),
        ] {
            assert_eq!(map(numbers, 30, 15).unwrap_err(), what);
        }
    }
}
