//! PAX records: `LENGTH KEY=VALUE\n`, one after the other.

use std::collections::BTreeMap;

use super::TarError;
use crate::ext4::Time;

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// The records of one header. Later ones of the same name win; an empty value takes back what was said.
#[derive(Debug, Default)]
pub(super) struct Records {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    /// `GNU.sparse.offset` and `GNU.sparse.numbytes` come many times, in their order.
    pub(super) sparse_pairs: Vec<Vec<u8>>,
}

impl Records {
    pub(super) fn parse(mut text: &[u8], offset: u64) -> Result<Self, TarError> {
        let bad = |what| TarError::Pax { offset, what };
        let mut records = Self::default();
        while !text.is_empty() {
            let space = text.iter().position(|byte| *byte == b' ');
            let space = space.ok_or(bad("a record has no length"))?;
            let len = decimal(&text[..space]).and_then(|len| usize::try_from(len).ok());
            let len = len.ok_or(bad("the length of a record is not a number"))?;
            let (record, rest) = text
                .split_at_checked(len)
                .ok_or(bad("a record is longer than the header"))?;
            let body = record
                .get(space + 1..)
                .and_then(|body| body.strip_suffix(b"\n"));
            let body = body.ok_or(bad("a record does not end with its line"))?;
            let equals = body.iter().position(|byte| *byte == b'=');
            let (key, value) = body.split_at(equals.ok_or(bad("a record has no value"))?);
            records.insert(key, &value[1..]);
            text = rest;
        }
        Ok(records)
    }

    fn insert(&mut self, key: &[u8], value: &[u8]) {
        if matches!(key, b"GNU.sparse.offset" | b"GNU.sparse.numbytes") {
            self.sparse_pairs.push(value.to_vec());
        }
        let is_xattr = key.starts_with(XATTR_PREFIX);
        match value.is_empty() && !is_xattr {
            true => drop(self.values.remove(key)),
            false => drop(self.values.insert(key.to_vec(), value.to_vec())),
        }
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.values.get(key.as_bytes()).map(Vec::as_slice)
    }

    pub(super) fn number(&self, key: &'static str, offset: u64) -> Result<Option<u64>, TarError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match decimal(value) {
            Some(number) => Ok(Some(number)),
            None => Err(TarError::Number { offset, field: key }),
        }
    }

    pub(super) fn size(&self, offset: u64) -> Result<Option<u64>, TarError> {
        self.number("size", offset)
    }

    pub(super) fn path(&self) -> Option<Vec<u8>> {
        let path = self.get("GNU.sparse.name").or_else(|| self.get("path"));
        path.map(<[u8]>::to_vec)
    }

    pub(super) fn link(&self) -> Option<Vec<u8>> {
        self.get("linkpath").map(<[u8]>::to_vec)
    }

    pub(super) fn uid(&self, offset: u64) -> Result<Option<u32>, TarError> {
        self.id("uid", offset)
    }

    pub(super) fn gid(&self, offset: u64) -> Result<Option<u32>, TarError> {
        self.id("gid", offset)
    }

    fn id(&self, key: &'static str, offset: u64) -> Result<Option<u32>, TarError> {
        let id = self.number(key, offset)?.map(u32::try_from).transpose();
        id.map_err(|_too_large| TarError::Number { offset, field: key })
    }

    /// Seconds, maybe negative, maybe with a fraction.
    pub(super) fn mtime(&self, offset: u64) -> Result<Option<Time>, TarError> {
        let Some(value) = self.get("mtime") else {
            return Ok(None);
        };
        match time(value) {
            Some(time) => Ok(Some(time)),
            None => Err(TarError::Number {
                offset,
                field: "mtime",
            }),
        }
    }

    pub(super) fn xattrs(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let all = self.values.iter();
        let xattrs = all.filter_map(|(key, value)| {
            let name = key.strip_prefix(XATTR_PREFIX)?;
            Some((name.to_vec(), value.clone()))
        });
        xattrs.collect()
    }
}

pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn time(text: &[u8]) -> Option<Time> {
    const DIGITS: usize = 9;
    let (is_negative, text) = match text.strip_prefix(b"-") {
        Some(text) => (true, text),
        None => (false, text),
    };
    let point = text.iter().position(|byte| *byte == b'.');
    let (whole, fraction) = match point {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &[][..]),
    };
    let seconds = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0'));
    let nanos = digits
        .take(DIGITS)
        .fold(0, |nanos, digit| nanos * 10 + u32::from(digit - b'0'));
    Some(match (is_negative, nanos) {
        (false, _) => Time { seconds, nanos },
        (true, 0) => Time {
            seconds: -seconds,
            nanos,
        },
        // Nanoseconds count forwards.
        (true, _) => Time {
            seconds: -seconds - 1,
            nanos: 1_000_000_000 - nanos,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_signs_and_fractions() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1700000000.123456789", Some((1_700_000_000, 123_456_789))),
            ("1700000000.5", Some((1_700_000_000, 500_000_000))),
            ("1.1234567891", Some((1, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.25", Some((-1, 750_000_000))),
            ("1.", Some((1, 0))),
            ("", None),
            (".5", None),
            ("1.x", None),
            ("+1", None),
            ("99999999999999999999", None),
        ] {
            let expected = expected.map(|(seconds, nanos)| Time { seconds, nanos });
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn damaged_records_are_refused() {
        for (text, expected) in [
            (&b"7"[..], "a record has no length"),
            (b"x path=a\n", "the length of a record is not a number"),
            (b"99 path=a\n", "a record is longer than the header"),
            (b"9 path=ab\n", "a record does not end with its line"),
            (b"0 path=a\n", "a record does not end with its line"),
            (b"7 path\n", "a record has no value"),
        ] {
            match Records::parse(text, 512) {
                Err(TarError::Pax { offset: 512, what }) => assert_eq!(what, expected),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn values_hold_any_byte_and_the_last_one_counts() {
        let records = Records::parse(b"10 path=a\n13 path=\xff=\n\n\n19 SCHILY.xattr.u=\n", 0);
        let records = records.unwrap();
        assert_eq!(records.path().unwrap(), b"\xff=\n\n");
        assert_eq!(records.xattrs(), [(b"u".to_vec(), b"".to_vec())]);
    }
}
