//! CRC-32C as ZFile uses it: without inversion before and after.

/// Seed of header and trailer digests and of the jump table's checksum.
pub(crate) const METADATA_SEED: u32 = 0;
/// Seed of the checksum behind each block.
pub(crate) const BLOCK_SEED: u32 = 100_007;

/// The bare CRC-32C register (reflected polynomial 0x82F63B78) after folding `data` into `seed`.
///
/// Differs from the usual CRC-32C, which inverts the register at both ends. The result for one piece of data
/// serves as the seed for the next. With seed 0, leading zero bytes leave no trace.
#[must_use]
pub fn raw_crc32c(seed: u32, data: &[u8]) -> u32 {
    crc32c::fold(seed, data)
}
