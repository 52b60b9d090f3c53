//! A layout on disk: `oci-layout`, `index.json`, and blobs under their digests.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

use crate::digest::{Digest, Hashing};
use crate::spec::{Descriptor, Index, LayoutFile};

/// Largest JSON document that is read.
pub const MAX_JSON_LEN_BYTES: u64 = 4 << 20;

/// The version of layouts that is known.
pub(crate) const LAYOUT_VERSION: &str = "1.0.0";

/// A layout, or a document in it, that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// It does not look like one.
    #[error("{} is no OCI image layout: it has no readable file oci-layout", dir.display())]
    NotALayout {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A layout of another time.
    #[error("{}: layout version {version:?} is not supported, only {LAYOUT_VERSION}", dir.display())]
    Version {
        /// The directory.
        dir: PathBuf,
        /// What it says.
        version: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A document that is too large.
    #[error("{}: {len_bytes} bytes of JSON, of at most {MAX_JSON_LEN_BYTES}", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its length.
        len_bytes: u64,
    },
    /// A document that does not say what it should.
    #[error("{}: not the JSON document that was expected", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// A blob of another length than stated.
    #[error("blob {digest}: {len_bytes} bytes, but {stated} are stated where it is named")]
    Size {
        /// The blob.
        digest: Digest,
        /// Its length.
        len_bytes: u64,
        /// What was stated.
        stated: u64,
    },
    /// A blob that is not what it is called.
    #[error("blob {digest} is damaged: its bytes are {found}")]
    Digest {
        /// Its name.
        digest: Digest,
        /// What its name should be.
        found: Digest,
    },
}

/// A layout.
#[derive(Clone, Debug)]
pub struct Layout {
    dir: PathBuf,
    index: Index,
}

impl Layout {
    /// Opens the layout in a directory: reads `oci-layout` and `index.json`.
    ///
    /// # Errors
    ///
    /// When it is no layout of a known version.
    pub fn open(dir: &Path) -> Result<Self, LayoutError> {
        let path = dir.join("oci-layout");
        let text = read_limited(&path).map_err(|error| match error {
            LayoutError::Io { source, .. } => LayoutError::NotALayout {
                dir: dir.to_owned(),
                source,
            },
            other => other,
        })?;
        let LayoutFile {
            image_layout_version: version,
        } = parse(&path, &text)?;
        if version != LAYOUT_VERSION {
            return Err(LayoutError::Version {
                dir: dir.to_owned(),
                version,
            });
        }
        let path = dir.join("index.json");
        let index = parse(&path, &read_limited(&path)?)?;
        Ok(Self {
            dir: dir.to_owned(),
            index,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its list of images.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// Where a blob is.
    #[must_use]
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// Opens a blob, which has the stated length. Its digest is not checked.
    ///
    /// # Errors
    ///
    /// When it is not there, or of another length.
    pub fn open_blob(&self, descriptor: &Descriptor) -> Result<File, LayoutError> {
        let path = self.blob_path(&descriptor.digest);
        let io = |source| LayoutError::Io {
            path: path.clone(),
            source,
        };
        // Metadata first: opening a pipe would wait.
        let metadata = path.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(io(io::Error::other("not a file")));
        }
        if metadata.len() != descriptor.size {
            return Err(LayoutError::Size {
                digest: descriptor.digest.clone(),
                len_bytes: metadata.len(),
                stated: descriptor.size,
            });
        }
        File::open(&path).map_err(io)
    }

    /// Reads and checks all of a blob.
    ///
    /// # Errors
    ///
    /// When it is not there, or not what it is called.
    pub fn check_blob(&self, descriptor: &Descriptor) -> Result<(), LayoutError> {
        let file = self.open_blob(descriptor)?;
        let (found, _) = Digest::of_file(&file).map_err(|source| LayoutError::Io {
            path: self.blob_path(&descriptor.digest),
            source,
        })?;
        check_digest(&descriptor.digest, found)
    }

    /// Reads a JSON document from a blob, whose digest is checked.
    ///
    /// # Errors
    ///
    /// When it is not there, too large, not what it is called, or not such a document.
    pub fn read_json<T: DeserializeOwned>(
        &self,
        descriptor: &Descriptor,
    ) -> Result<T, LayoutError> {
        let path = self.blob_path(&descriptor.digest);
        let len_bytes = descriptor.size;
        if len_bytes > MAX_JSON_LEN_BYTES {
            return Err(LayoutError::TooLarge { path, len_bytes });
        }
        let io = |source| LayoutError::Io {
            path: path.clone(),
            source,
        };
        let mut text = Vec::new();
        let mut reader = Hashing::new(self.open_blob(descriptor)?.take(MAX_JSON_LEN_BYTES));
        reader.read_to_end(&mut text).map_err(io)?;
        check_digest(&descriptor.digest, reader.finish().map_err(io)?.0)?;
        parse(&path, &text)
    }
}

pub(crate) fn check_digest(digest: &Digest, found: Digest) -> Result<(), LayoutError> {
    match *digest == found {
        true => Ok(()),
        false => Err(LayoutError::Digest {
            digest: digest.clone(),
            found,
        }),
    }
}

fn read_limited(path: &Path) -> Result<Vec<u8>, LayoutError> {
    let io = |source| LayoutError::Io {
        path: path.to_owned(),
        source,
    };
    let metadata = path.metadata().map_err(io)?;
    if !metadata.is_file() {
        return Err(io(io::Error::other("not a file")));
    }
    let mut text = Vec::new();
    let file = File::open(path).map_err(io)?;
    file.take(MAX_JSON_LEN_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(io)?;
    match text.len() as u64 > MAX_JSON_LEN_BYTES {
        false => Ok(text),
        true => Err(LayoutError::TooLarge {
            path: path.to_owned(),
            len_bytes: metadata.len(),
        }),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, LayoutError> {
    serde_json::from_slice(text).map_err(|source| LayoutError::Json {
        path: path.to_owned(),
        source,
    })
}
