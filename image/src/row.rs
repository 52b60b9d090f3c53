//! Whether a read goes on where another ended.

/// How many ends are remembered: as many as may be under way side by side, and come out of order.
const MAX_ENDS: usize = 32;

/// Where the last reads ended, in bytes of the disk. To begin with, what starts at the beginning of the disk goes on.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    ends: [u64; MAX_ENDS],
    oldest: usize,
}

impl Ends {
    /// Remembers a read that ends in front of byte `end`, and forgets another, unless one that ends there is remembered.
    pub(crate) fn add(&mut self, end: u64) {
        // A read that is recalled in part, fetched and decoded is told of more than once.
        if self.has(end) {
            return;
        }
        if let Some(oldest) = self.ends.get_mut(self.oldest) {
            *oldest = end;
        }
        self.oldest = (self.oldest + 1) % MAX_ENDS;
    }

    /// Whether a read that starts at byte `start` goes on where one of these ended.
    pub(crate) fn has(&self, start: u64) -> bool {
        // Without an early end, so that it is a few instructions for all of them.
        self.ends
            .iter()
            .fold(false, |has, end| has | (*end == start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reads_are_remembered_and_no_others() {
        let mut ends = Ends::default();
        assert!(ends.has(0) && !ends.has(1));
        for end in 100..200 {
            ends.add(end);
            ends.add(end);
            for start in 100..300 {
                let is_recent = start <= end && start + MAX_ENDS as u64 > end;
                assert_eq!(ends.has(start), is_recent, "{start} after {end}");
            }
        }
    }
}
