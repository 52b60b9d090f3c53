//! CRC-32C, as fast for a stored block of a layer as the processor allows.
//!
//! The *register* is the bare 32-bit remainder by the reflected polynomial 0x82F63B78. The usual CRC-32C inverts it
//! before the first byte and after the last; [`fold`] does neither, so the register after one piece of data is the one to
//! begin the next piece with.
//!
//! There are two ways to the same number. On x86-64 without AVX-512, `lanes` goes through a piece at three places at
//! once with the processor's own instruction. Everywhere else it is `crc-fast`, which folds with wide multiplications
//! where there are any, and is twice as slow where there are none.
//!
//! What this crate refuses to do: know what is checked, or compare.
//!
//! ```
//! // The usual CRC-32C of the usual text.
//! assert_eq!(!crc32c::fold(!0, b"123456789"), 0xE306_9283);
//! // In two pieces.
//! assert_eq!(!crc32c::fold(crc32c::fold(!0, b"1234"), b"56789"), 0xE306_9283);
//! ```

#[cfg(target_arch = "x86_64")]
mod lanes;

use crc_fast::{CrcAlgorithm, Digest};

/// Reflected, without its highest term.
#[cfg(any(test, target_arch = "x86_64"))]
const POLYNOMIAL: u32 = 0x82F6_3B78;

/// The register after `data`, when it was `register` before.
#[must_use]
pub fn fold(register: u32, data: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if let Some(register) = lanes::fold(register, data) {
        return register;
    }
    fold_by_crate(register, data)
}

fn fold_by_crate(register: u32, data: &[u8]) -> u32 {
    // The state itself, before crc-fast would invert it, is the register.
    let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, u64::from(register));
    digest.update(data);
    let [a, b, c, d, ..] = digest.get_state().to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use super::*;
    use blob::test_util::noise;

    fn bit_by_bit(register: u32, data: &[u8]) -> u32 {
        data.iter().fold(register, |mut register, byte| {
            register ^= u32::from(*byte);
            for _ in 0..8 {
                let feedback = if register & 1 == 1 { POLYNOMIAL } else { 0 };
                register = (register >> 1) ^ feedback;
            }
            register
        })
    }

    /// Every way there is on this machine, by name.
    fn ways(register: u32, data: &[u8]) -> Vec<(&'static str, u32)> {
        let mut ways = vec![
            ("chosen", fold(register, data)),
            ("crate", fold_by_crate(register, data)),
        ];
        #[cfg(target_arch = "x86_64")]
        ways.extend(lanes::fold_if_able(register, data).map(|register| ("lanes", register)));
        ways
    }

    #[test]
    fn known_values() {
        for (register, data, expected) in [
            (0, b"123456789".as_slice(), 0x58E3_FA20),
            (100_007, b"123456789", 0x3C9B_D4E0),
            (!0, b"123456789", !0xE306_9283),
            (7, b"", 7),
        ] {
            for (way, found) in ways(register, data) {
                assert_eq!(found, expected, "{way}: {data:?} from {register}");
            }
        }
    }

    #[test]
    fn every_length_agrees_with_the_definition() {
        let data = noise(70_000, 3);
        // Where lanes are longest, and some bytes around it; one and several of the longest.
        let longest = |count: usize| (count * 8160 - 30)..(count * 8160 + 150);
        let lengths = (0..1200).chain([2048, 4096, 4114, 65_536, 65_794, 70_000]);
        for len in lengths.chain(longest(1)).chain(longest(3)) {
            let data = &data[..len];
            let expected = bit_by_bit(100_007, data);
            for (way, found) in ways(100_007, data) {
                assert_eq!(found, expected, "{way}: {len} bytes");
            }
        }
    }

    #[test]
    fn where_data_starts_does_not_matter() {
        let data = noise(3000, 5);
        for start in 0..70 {
            let data = &data[start..];
            let expected = bit_by_bit(!0, data);
            for (way, found) in ways(!0, data) {
                assert_eq!(found, expected, "{way}: from byte {start}");
            }
        }
    }

    #[test]
    fn any_changed_bit_changes_the_register() {
        let mut data = noise(500, 6);
        let expected = fold(9, &data);
        for bit in 0..data.len() * 8 {
            data[bit / 8] ^= 1 << (bit % 8);
            for (way, found) in ways(9, &data) {
                assert_ne!(found, expected, "{way}: bit {bit}");
            }
            data[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn pieces_chain() {
        let data = noise(10_000, 4);
        for cut in [0, 1, 95, 4321, 9999] {
            let (a, b) = data.split_at(cut);
            assert_eq!(fold(fold(5, a), b), fold(5, &data), "cut at {cut}");
        }
    }
}
