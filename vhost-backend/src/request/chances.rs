//! Whether it pays to look for what a read needs before the disk is asked for it.
//!
//! A look that finds nothing is dear: it makes the kernel ask the disk for this one read, and below a virtual machine that
//! is an exit to the host. Reads that are handed to the kernel together are asked for together; to find there what is in
//! the page cache after all costs little more than a look. So while reads are missing their bytes, of those that come while
//! others wait only some look, to learn when that changes. One that is alone is asked for alone anyway, and teaches nothing.

/// As many finds outweigh a miss, for it costs about as many times what is lost where a read that would find does not look.
const MISS_WEIGHT: u32 = 4;
/// Weight of misses with which looking ends; with none it begins again.
const COLD_WEIGHT: u32 = 32;
/// Of so many reads one looks, while looking does not pay.
const READS_PER_LOOK: u32 = 64;
/// What a find outweighs then, as it stands for all that did not look.
const RARE_FIND_WEIGHT: u32 = 16;

/// What is learnt from the reads that looked.
#[derive(Debug, Default)]
pub(super) struct Chances {
    /// Misses that finds have not outweighed.
    weight: u32,
    is_cold: bool,
    /// Reads since the last one that looked.
    passed: u32,
}

impl Chances {
    /// Whether most reads do not look.
    pub(super) fn is_cold(&self) -> bool {
        self.is_cold
    }

    /// Whether the next read is to look.
    pub(super) fn are_good(&mut self) -> bool {
        if self.is_cold {
            self.passed = (self.passed + 1) % READS_PER_LOOK;
        }
        !self.is_cold || self.passed == 0
    }

    /// Takes in whether a read that looked found everything.
    pub(super) fn learn(&mut self, found: bool) {
        self.weight = match (found, self.is_cold) {
            (false, _) => (self.weight + MISS_WEIGHT).min(COLD_WEIGHT),
            (true, true) => self.weight.saturating_sub(RARE_FIND_WEIGHT),
            (true, false) => self.weight.saturating_sub(1),
        };
        if self.weight == 0 {
            self.is_cold = false;
        } else if self.weight == COLD_WEIGHT {
            self.is_cold = true;
            self.passed = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `count` reads look, of which `found` says which find everything.
    fn looks(chances: &mut Chances, count: u32, found: impl Fn(u32) -> bool) -> u32 {
        (0..count).fold(0, |looks, number| {
            if !chances.are_good() {
                return looks;
            }
            chances.learn(found(number));
            looks + 1
        })
    }

    #[test]
    fn what_is_in_memory_is_looked_for_always() {
        let mut chances = Chances::default();
        assert_eq!(looks(&mut chances, 1000, |_| true), 1000);
        // A miss now and then changes nothing.
        assert_eq!(looks(&mut chances, 1000, |number| number % 8 != 0), 1000);
    }

    #[test]
    fn what_is_not_is_looked_for_seldom_and_never_given_up() {
        let mut chances = Chances::default();
        let misses = COLD_WEIGHT / MISS_WEIGHT;
        let count = looks(&mut chances, misses + 100 * READS_PER_LOOK, |_| false);
        assert_eq!(count, misses + 100);
        // It has come meanwhile: after some finds all look again.
        let finds = COLD_WEIGHT / RARE_FIND_WEIGHT;
        let count = looks(&mut chances, finds * READS_PER_LOOK + 1000, |_| true);
        assert_eq!(count, finds + 1000);
    }

    #[test]
    fn where_half_is_missing_few_look() {
        let mut chances = Chances::default();
        let mut state = 1_u32;
        let bits: Vec<bool> = (0..10_000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 31 == 0
            })
            .collect();
        let count = looks(&mut chances, 10_000, |number| bits[number as usize]);
        assert!(count < 2000, "{count}");
    }
}
