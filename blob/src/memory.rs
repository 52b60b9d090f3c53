//! Bytes in memory, for tests and tools.

use crate::{ReadAt, ReadError, ReadErrorKind};

/// A blob held in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryBlob {
    bytes: Vec<u8>,
}

impl MemoryBlob {
    /// A blob with exactly these bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }
}

impl ReadAt for MemoryBlob {
    fn len_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), ReadError> {
        let stored = usize::try_from(offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(buf.len())?))
            .and_then(|range| self.bytes.get(range))
            .ok_or_else(|| ReadError::new(ReadErrorKind::OutOfRange, offset))?;
        buf.copy_from_slice(stored);
        Ok(())
    }
}
