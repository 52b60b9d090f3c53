//! SHA-256 of whole blobs, as registries name them.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use blob::{FileBlob, FileOpenError, PageBuffer, ReadAt, ReadError};
use sha2::{Digest as _, Sha256};

use crate::progress::Progress;

/// What is read at once.
const PIECE_LEN_BYTES: usize = 1 << 20;

const PREFIX: &str = "sha256:";

/// The SHA-256 of a blob, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobDigest([u8; 32]);

/// A text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected sha256: and 64 hexadecimal digits")]
pub struct DigestError;

impl BlobDigest {
    /// The digest of all bytes of `blob`, which are read from first to last.
    ///
    /// # Errors
    ///
    /// When the blob cannot be read.
    pub fn of(blob: &(impl ReadAt + ?Sized), progress: &dyn Progress) -> Result<Self, ReadError> {
        let mut hasher = Sha256::new();
        let mut buffer = PageBuffer::default();
        let mut offset = 0;
        while offset < blob.len_bytes() {
            let left = usize::try_from(blob.len_bytes() - offset).unwrap_or(usize::MAX);
            let piece = buffer.resized(left.min(PIECE_LEN_BYTES));
            blob.read_exact_at(piece, offset)?;
            hasher.update(&*piece);
            offset += piece.len() as u64;
            progress.advance(piece.len() as u64);
        }
        Ok(Self(hasher.finalize().into()))
    }
}

/// A file that has been hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// Its digest.
    pub digest: BlobDigest,
    /// Its length in bytes.
    pub len_bytes: u64,
}

/// A file that cannot be hashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// The path does not lead to a blob.
    #[error(transparent)]
    File(#[from] FileOpenError),
    /// It cannot be read to its end.
    #[error("cannot read it")]
    Read(#[from] ReadError),
}

/// The digests of the files at `paths`, in their order; as many at a time as there are processors.
pub fn hash_files(paths: &[PathBuf], progress: &dyn Progress) -> Vec<Result<Hashed, HashError>> {
    let lengths = paths.iter().flat_map(std::fs::metadata).map(|it| it.len());
    progress.begin("Hashing", Some(lengths.fold(0, u64::saturating_add)));
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let work = || {
        loop {
            let position = next.fetch_add(1, Ordering::Relaxed);
            let Some(path) = paths.get(position) else {
                return;
            };
            let hashed = hash_file(path, progress);
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            done.push((position, hashed));
        }
    };
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    thread::scope(|scope| {
        for _ in 1..threads.min(paths.len()) {
            // Without another thread, this one does it all.
            let _spawned = thread::Builder::new().spawn_scoped(scope, work);
        }
        work();
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_unstable_by_key(|(position, _)| *position);
    done.into_iter().map(|(_, hashed)| hashed).collect()
}

fn hash_file(path: &Path, progress: &dyn Progress) -> Result<Hashed, HashError> {
    let blob = FileBlob::open(path)?;
    Ok(Hashed {
        digest: BlobDigest::of(&blob, progress)?,
        len_bytes: blob.len_bytes(),
    })
}

impl FromStr for BlobDigest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let digits = text.strip_prefix(PREFIX).ok_or(DigestError)?.as_bytes();
        let (pairs, rest) = digits.as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(DigestError);
        }
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = nibble(*high)? << 4 | nibble(*low)?;
        }
        Ok(Self(bytes))
    }
}

fn nibble(digit: u8) -> Result<u8, DigestError> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(DigestError),
    }
}

impl fmt::Display for BlobDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use blob::MemoryBlob;

    use super::*;

    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn known_digest_is_found_and_read_back() {
        let found = BlobDigest::of(&MemoryBlob::new(b"abc".to_vec()), &()).unwrap();
        assert_eq!(found.to_string(), ABC);
        assert_eq!(ABC.parse(), Ok(found));
        assert_eq!(
            format!("sha256:{}", ABC[7..].to_uppercase()).parse(),
            Ok(found)
        );
    }

    #[test]
    fn pieces_make_one_digest() {
        let bytes = blob::test_util::noise(PIECE_LEN_BYTES * 2 + 7, 1);
        let found = BlobDigest::of(&MemoryBlob::new(bytes.clone()), &()).unwrap();
        assert_eq!(found.0, <[u8; 32]>::from(Sha256::digest(&bytes)));
    }

    #[test]
    fn files_are_hashed_in_their_order_and_one_that_is_not_there_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = |seed| blob::test_util::noise(1000, seed);
        let mut paths: Vec<_> = (0..20)
            .map(|seed| {
                let path = dir.path().join(seed.to_string());
                std::fs::write(&path, bytes(seed)).unwrap();
                path
            })
            .collect();
        paths.push(dir.path().join("absent"));
        let found = hash_files(&paths, &());
        assert_eq!(found.len(), 21);
        for (seed, found) in (0..20).zip(&found) {
            let digest = BlobDigest::of(&MemoryBlob::new(bytes(seed)), &()).unwrap();
            let len_bytes = 1000;
            assert_eq!(*found.as_ref().unwrap(), Hashed { digest, len_bytes });
        }
        assert!(matches!(found.last(), Some(Err(HashError::File(_)))));
        assert!(hash_files(&[], &()).is_empty());
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "sha256:",
            "sha512:00",
            &ABC[7..],
            &ABC[..70],
            &format!("{ABC}00"),
        ] {
            assert_eq!(text.parse::<BlobDigest>(), Err(DigestError), "{text}");
        }
        assert_eq!(
            ABC.replace('b', "g").parse::<BlobDigest>(),
            Err(DigestError)
        );
        assert_eq!(
            ABC.replace("ba", "+1").parse::<BlobDigest>(),
            Err(DigestError)
        );
    }
}
