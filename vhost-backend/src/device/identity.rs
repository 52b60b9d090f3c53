//! The serial number of the disk.

use std::fmt;
use std::str::FromStr;

/// Length in bytes of what GET_ID answers (virtio 1.2, 5.2.6); a shorter serial is padded with NULs.
pub const SERIAL_LEN_BYTES: usize = 20;

/// A serial number: up to 20 printable ASCII characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Serial {
    bytes: [u8; SERIAL_LEN_BYTES],
}

/// A serial number that a guest could not show.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a serial has 1 to {SERIAL_LEN_BYTES} printable ASCII characters without spaces")]
pub struct SerialError;

impl Serial {
    /// The serial of a stack whose content has this fingerprint: the same layers give the same serial anywhere.
    #[must_use]
    pub fn derived(fingerprint: u64) -> Self {
        let text = format!("vbd-{fingerprint:016x}");
        let mut bytes = [0; SERIAL_LEN_BYTES];
        bytes
            .iter_mut()
            .zip(text.bytes())
            .for_each(|(to, from)| *to = from);
        Self { bytes }
    }

    /// The answer to GET_ID.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; SERIAL_LEN_BYTES] {
        &self.bytes
    }
}

impl FromStr for Serial {
    type Err = SerialError;

    fn from_str(text: &str) -> Result<Self, SerialError> {
        if !(1..=SERIAL_LEN_BYTES).contains(&text.len())
            || !text.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(SerialError);
        }
        let mut bytes = [0; SERIAL_LEN_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { bytes })
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self
            .bytes
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default();
        f.write_str(&String::from_utf8_lossy(text))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_serial_fills_the_field_exactly() {
        let serial = Serial::derived(0x0123_4567_89ab_cdef);
        assert_eq!(serial.as_bytes(), b"vbd-0123456789abcdef");
        assert_eq!(serial.to_string(), "vbd-0123456789abcdef");
    }

    #[test]
    fn given_serial_is_padded_and_checked() {
        let serial: Serial = "disk-7".parse().unwrap();
        assert_eq!(&serial.as_bytes()[..8], b"disk-7\0\0");
        assert_eq!(serial.to_string(), "disk-7");
        assert!("12345678901234567890".parse::<Serial>().is_ok());
        for bad in ["", "123456789012345678901", "a b", "tab\t", "ümlaut"] {
            assert_eq!(bad.parse::<Serial>(), Err(SerialError), "{bad:?}");
        }
    }
}
