//! Three places at once, by the instruction that x86-64 has for this polynomial.
//!
//! The instruction takes eight bytes and gives its result three cycles later, but a processor begins one in each cycle.
//! So a piece is cut into three *lanes* of equal length, each with a register of its own. To join them, the register of
//! a lane is moved past the bytes that follow it: multiplied by a power of x, modulo the polynomial. A carry-less
//! multiplication does that, and the same instruction reduces the product.

use std::arch::x86_64::{
    _mm_clmulepi64_si128, _mm_crc32_u8, _mm_crc32_u64, _mm_cvtsi64_si128, _mm_cvtsi128_si64,
};

use crate::POLYNOMIAL;

/// Longest lane, in words of 8 bytes. Longer ones gain nothing, and this is not a power of two, at which the three lanes
/// would compete for the same places of a cache.
const LANE_MAX_WORDS: usize = 340;
/// Below this joining takes longer than what lanes gain.
const LANES_MIN_BYTES: usize = 96;

/// By number of words: x to the power of its bits less 33, which are what a product of reflected numbers (1) and its
/// reduction (32) add.
static POWERS: [u32; 2 * LANE_MAX_WORDS + 1] = powers();

const fn powers() -> [u32; 2 * LANE_MAX_WORDS + 1] {
    let mut powers = [0; 2 * LANE_MAX_WORDS + 1];
    // One word: x to the power of 31, which is the lowest bit of a reflected number.
    let mut power = 1;
    let mut words = 1;
    while words < powers.len() {
        powers[words] = power;
        let mut bit = 0;
        while bit < 64 {
            let feedback = if power & 1 == 1 { POLYNOMIAL } else { 0 };
            power = (power >> 1) ^ feedback;
            bit += 1;
        }
        words += 1;
    }
    powers
}

/// [`crate::fold`], if this is the faster way on this processor.
#[inline]
pub(crate) fn fold(register: u32, data: &[u8]) -> Option<u32> {
    if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("vpclmulqdq") {
        return None;
    }
    fold_if_able(register, data)
}

/// [`crate::fold`], if the processor has what it takes.
#[inline]
pub(crate) fn fold_if_able(register: u32, data: &[u8]) -> Option<u32> {
    if !is_x86_feature_detected!("sse4.2") || !is_x86_feature_detected!("pclmulqdq") {
        return None;
    }
    #[expect(
        unsafe_code,
        reason = "safe code cannot call what only some processors can run; twice as fast as what all can"
    )]
    // SAFETY: `fold_by_lanes` is safe code that asks nothing of its arguments. It was compiled for processors with
    // SSE4.2 and PCLMULQDQ, and this one has both: it was asked just now.
    let register = unsafe { fold_by_lanes(register, data) };
    Some(register)
}

#[target_feature(enable = "sse4.2,pclmulqdq")]
fn fold_by_lanes(mut register: u32, mut data: &[u8]) -> u32 {
    while data.len() >= LANES_MIN_BYTES {
        let words = (data.len() / 24).min(LANE_MAX_WORDS);
        let (first, rest) = data.split_at(words * 8);
        let (second, rest) = rest.split_at(words * 8);
        let (third, rest) = rest.split_at(words * 8);
        data = rest;
        let (mut a, mut b, mut c) = (u64::from(register), 0, 0);
        let lanes = first.as_chunks().0.iter().zip(second.as_chunks().0);
        for ((first, second), third) in lanes.zip(third.as_chunks().0) {
            a = _mm_crc32_u64(a, u64::from_le_bytes(*first));
            b = _mm_crc32_u64(b, u64::from_le_bytes(*second));
            c = _mm_crc32_u64(c, u64::from_le_bytes(*third));
        }
        let moved = moved(a, 2 * words) ^ moved(b, words);
        register = low_half(_mm_crc32_u64(0, moved) ^ c);
    }
    let (words, bytes) = data.as_chunks();
    let next_word = |register, word: &[u8; 8]| _mm_crc32_u64(register, u64::from_le_bytes(*word));
    let register = words.iter().fold(u64::from(register), next_word);
    let next_byte = |register, byte: &u8| _mm_crc32_u8(register, *byte);
    bytes.iter().fold(low_half(register), next_byte)
}

/// A register moved past that many words, up to twice [`LANE_MAX_WORDS`]: still to be reduced.
#[inline]
#[target_feature(enable = "sse4.2,pclmulqdq")]
fn moved(register: u64, words: usize) -> u64 {
    let power = POWERS.get(words).copied().unwrap_or_default();
    let register = _mm_cvtsi64_si128(register.cast_signed());
    let power = _mm_cvtsi64_si128(i64::from(power));
    _mm_cvtsi128_si64(_mm_clmulepi64_si128::<0>(register, power)).cast_unsigned()
}

/// A register, as the instruction for words returns it: the upper half is zero.
#[inline]
fn low_half(register: u64) -> u32 {
    u32::try_from(register).unwrap_or_default()
}
