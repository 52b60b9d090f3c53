//! Finding zeroes.

const ZEROES: [u8; 4096] = [0; 4096];

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // A comparison of blocks takes one look at many bytes.
    bytes
        .chunks(ZEROES.len())
        .all(|block| Some(block) == ZEROES.get(..block.len()))
}

#[cfg(test)]
mod tests {
    use super::is_zero;

    #[test]
    fn one_byte_makes_the_difference() {
        for len in [0, 1, 511, 4096, 4097, 10_000] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)] {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = 1;
                    assert!(!is_zero(&bytes), "byte {at} of {len}");
                    bytes[at] = 0;
                }
            }
        }
    }
}
