//! Which pages of a region this process has in its page tables.
//!
//! A guest that was started a moment ago reads to pages that nobody has touched, at least not in this process. Each costs
//! a fault when the first byte is written to it, in the midst of a copy. Asking the kernel for all pages of a buffer in
//! one call costs a third of that for pages that exist, and three quarters for new ones (docs/performance.md). What is
//! known here is only a hint: pages that are taken away again come back by faults, and pages that were touched otherwise are
//! asked for once in vain.

use std::sync::{Mutex, PoisonError};

/// Shortest buffer that is asked for. Below it faults cost no more than the call, and short reads are many.
pub(super) const MIN_POPULATED_LEN_BYTES: usize = 16 << 10;
/// Most bits of one region: 256 KiB of memory if all of them are used, which takes a guest of 8 GiB.
const MAX_BITS: usize = 1 << 21;
/// Fewest bytes that one bit stands for: a page.
const MIN_STRETCH_LEN_BYTES: usize = 4096;

/// One bit for each stretch of a region, set when it was asked for.
#[derive(Debug)]
pub(super) struct Populated {
    /// Zeroed memory that the kernel provides when it is written to.
    words: Mutex<Vec<u64>>,
    stretch_len_bytes: usize,
}

impl Populated {
    /// Nothing of a region of `len_bytes`. In a large region a bit stands for several pages.
    pub(super) fn none_of(len_bytes: usize) -> Self {
        let stretch_len_bytes = len_bytes
            .div_ceil(MAX_BITS)
            .next_power_of_two()
            .max(MIN_STRETCH_LEN_BYTES);
        let bits = len_bytes.div_ceil(stretch_len_bytes);
        Self {
            words: Mutex::new(vec![0; bits.div_ceil(64)]),
            stretch_len_bytes,
        }
    }

    /// Whether something of these bytes has not been asked for yet. From now on, it has.
    pub(super) fn is_news(&self, offset: usize, len_bytes: usize) -> bool {
        let Some(last) = len_bytes.checked_sub(1) else {
            return false;
        };
        let first = offset / self.stretch_len_bytes;
        let last = offset.saturating_add(last) / self.stretch_len_bytes;
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let mut news = false;
        for word in first / 64..=last / 64 {
            let Some(bits) = words.get_mut(word) else {
                break;
            };
            let mask = mask(first, last, word);
            news |= *bits & mask != mask;
            *bits |= mask;
        }
        news
    }
}

/// The bits of a word that lie in a range of bits.
fn mask(first: usize, last: usize, word: usize) -> u64 {
    let from = first.saturating_sub(word * 64);
    let to = (last - word * 64).min(63);
    (u64::MAX << from) & (u64::MAX >> (63 - to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_news_once() {
        const PAGES: usize = 300;
        for (first, last) in [(0, 0), (3, 70), (63, 64), (64, 127), (1, 299), (299, 299)] {
            let populated = Populated::none_of(PAGES * 4096);
            let ask = |page: usize, pages: usize| populated.is_news(page * 4096, pages * 4096);
            assert!(!ask(first, 0));
            assert!(ask(first, last - first + 1));
            assert!(!ask(first, last - first + 1));
            for page in 0..PAGES {
                let inside = (first..=last).contains(&page);
                assert_eq!(ask(page, 1), !inside, "{page} of {first} to {last}");
                assert!(!ask(page, 1));
            }
        }
    }

    #[test]
    fn bytes_belong_to_the_pages_they_touch() {
        let populated = Populated::none_of(1 << 20);
        assert!(populated.is_news(4095, 2));
        assert!(!populated.is_news(0, 8192));
        assert!(populated.is_news(0, 8193));
    }

    #[test]
    fn large_regions_have_no_more_bits_and_what_is_outside_has_none() {
        for len_bytes in [1, 8 << 30, (8 << 30) + 1, 1 << 47, usize::MAX >> 1] {
            let populated = Populated::none_of(len_bytes);
            let bits = populated.words.lock().unwrap().len() * 64;
            assert!(bits <= MAX_BITS, "{len_bytes}");
            assert!(bits * populated.stretch_len_bytes >= len_bytes);
            assert!(populated.is_news(len_bytes - 1, 1));
            assert!(!populated.is_news(len_bytes - 1, 1));
            assert!(!populated.is_news(usize::MAX - 1, 10));
        }
    }
}
