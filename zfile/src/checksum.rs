//! CRC-32C as ZFile uses it: without inversion before and after.

use crc_fast::{CrcAlgorithm, Digest};

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
    // The register itself, before crc-fast would invert it, is the value wanted here.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(seed));
    digest.update(data);
    let [a, b, c, d, ..] = digest.get_state().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use blob::test_util::noise;

    fn bit_by_bit(seed: u32, data: &[u8]) -> u32 {
        data.iter().fold(seed, |mut register, byte| {
            register ^= u32::from(*byte);
            for _ in 0..8 {
                let feedback = if register & 1 == 1 { 0x82F6_3B78 } else { 0 };
                register = (register >> 1) ^ feedback;
            }
            register
        })
    }

    #[test]
    fn known_values() {
        assert_eq!(raw_crc32c(0, b"123456789"), 0x58E3_FA20);
        assert_eq!(raw_crc32c(BLOCK_SEED, b"123456789"), 0x3C9B_D4E0);
        assert_eq!(!raw_crc32c(!0, b"123456789"), 0xE306_9283);
        assert_eq!(raw_crc32c(7, b""), 7);
    }

    #[test]
    fn every_length_agrees_with_the_definition() {
        let data = noise(70_000, 3);
        for len in (0..1200).chain([4096, 4114, 65_536, 65_794, 70_000]) {
            assert_eq!(
                raw_crc32c(BLOCK_SEED, &data[..len]),
                bit_by_bit(BLOCK_SEED, &data[..len]),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn pieces_chain() {
        let data = noise(10_000, 4);
        let (a, b) = data.split_at(4321);
        assert_eq!(raw_crc32c(raw_crc32c(5, a), b), raw_crc32c(5, &data));
    }
}
