//! Digests: names of blobs, and the check that they deserve them.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;

use blob::PageBuffer;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "sha256:";
const HEX_LEN: usize = 64;
const BUFFER_LEN_BYTES: usize = 1 << 18;

/// `sha256:` and 64 hexadecimal digits in lower case. Nothing else becomes part of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    hex: String,
}

/// A text that is no digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no digest; expected sha256: and 64 hexadecimal digits in lower case")]
pub struct DigestError {
    text: String,
}

impl Digest {
    /// The digest of some bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(&Sha256::digest(bytes))
    }

    /// The digest of a file from its first byte on, and its length. Where the file is read next is left as it was.
    ///
    /// # Errors
    ///
    /// When it cannot be read.
    pub fn of_file(file: &File) -> io::Result<(Self, u64)> {
        let (mut hash, mut len_bytes) = (Sha256::new(), 0);
        let mut buffer = PageBuffer::zeroed(BUFFER_LEN_BYTES);
        loop {
            match file.read_at(&mut buffer, len_bytes) {
                Ok(0) => return Ok((Self::from_hash(&hash.finalize()), len_bytes)),
                Ok(read) => {
                    hash.update(&buffer[..read]);
                    len_bytes += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn from_hash(hash: &[u8]) -> Self {
        let mut hex = String::with_capacity(HEX_LEN);
        for byte in hash {
            // A text takes what is written to it.
            let _written = write!(hex, "{byte:02x}");
        }
        Self { hex }
    }

    /// The 64 digits.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.hex
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.hex)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Self, DigestError> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.strip_prefix(PREFIX) {
            Some(hex) if hex.len() == HEX_LEN && hex.bytes().all(is_hex) => Ok(Self {
                hex: hex.to_owned(),
            }),
            _ => Err(DigestError { text }),
        }
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Hashes and counts what is read through it.
#[derive(Debug)]
pub(crate) struct Hashing<R> {
    source: R,
    hash: Sha256,
    len_bytes: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(source: R) -> Self {
        Self {
            source,
            hash: Sha256::new(),
            len_bytes: 0,
        }
    }

    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    pub(crate) fn source(&self) -> &R {
        &self.source
    }

    /// Reads what is left, and gives the digest of all and the source.
    pub(crate) fn finish(mut self) -> io::Result<(Digest, R)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((Digest::from_hash(&self.hash.finalize()), self.source))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buf)?;
        self.hash.update(&buf[..read]);
        self.len_bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_digest_is_one() {
        let good = format!("sha256:{}", "0af9".repeat(16));
        assert_eq!(Digest::try_from(good.clone()).unwrap().to_string(), good);
        for bad in [
            "",
            "sha256:",
            &good[..good.len() - 1],
            &good.replace('f', "F"),
            &good.replace('f', "g"),
            &good.replace("0af9", "../."),
            &good.replace("sha256", "sha512"),
            &format!("{good}0"),
        ] {
            assert!(Digest::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        assert_eq!(
            Digest::of(b"").hex(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
        );
    }
}
