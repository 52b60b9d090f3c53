//! Looking at the ring for a while before going to sleep.
//!
//! A guest that asks for one thing after another has its next request ready within microseconds, while to be woken takes
//! tens of them. So it can pay to look on for a while; but who looks on burns a processor. Whether it is worth it is
//! learnt from what happens: after a look in vain it is tried again only when requests come soon after falling asleep,
//! and ever more rarely if that does not help.

use std::hint;
use std::time::{Duration, Instant};

/// After how many requests at most it is tried once more whether it pays to look for the next.
const MAX_PATIENCE: u32 = 1024;

/// How long the thread of a queue looks at its ring before it sleeps.
#[derive(Debug)]
pub(crate) struct Poll {
    limit: Duration,
    /// Whether to look the next time.
    looks: bool,
    /// Requests that have to come soon before it is worth another look, now and after the last look in vain.
    soon_needed: u32,
    patience: u32,
    asleep_since: Option<Instant>,
}

impl Poll {
    /// Looks for `limit` at a time; with zero, never.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            looks: false,
            soon_needed: 0,
            patience: 0,
            asleep_since: None,
        }
    }

    /// Looks until something `is_due`, which it returns, or the time is over.
    pub(crate) fn look(&mut self, mut is_due: impl FnMut() -> bool) -> bool {
        if !self.looks {
            return false;
        }
        let begun = Instant::now();
        loop {
            if is_due() {
                self.patience = 0;
                return true;
            }
            if begun.elapsed() >= self.limit {
                self.looks = false;
                self.patience = (self.patience * 2).clamp(1, MAX_PATIENCE);
                self.soon_needed = self.patience;
                return false;
            }
            hint::spin_loop();
        }
    }

    /// The thread goes to sleep.
    pub(crate) fn falls_asleep(&mut self) {
        if !self.limit.is_zero() {
            self.asleep_since = Some(Instant::now());
        }
    }

    /// The thread was woken for a request.
    pub(crate) fn is_woken(&mut self) {
        // To be woken takes time of its own, during which the request was there already.
        let soon = self
            .asleep_since
            .take()
            .is_some_and(|since| since.elapsed() < 2 * self.limit);
        if soon {
            self.soon_needed = self.soon_needed.saturating_sub(1);
            self.looks = self.soon_needed == 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn zero_never_looks() {
        let mut poll = Poll::new(Duration::ZERO);
        for _ in 0..3 {
            assert!(!poll.look(|| panic!("nobody asked for this")));
            poll.falls_asleep();
            poll.is_woken();
        }
    }

    /// Falls asleep and is woken at once.
    fn nap(poll: &mut Poll) {
        poll.falls_asleep();
        poll.is_woken();
    }

    #[test]
    fn looks_only_where_requests_come_soon_and_finds_them_at_once_and_late() {
        let mut poll = Poll::new(HOUR);
        assert!(!poll.look(|| panic!("nothing has come yet")));
        for _ in 0..3 {
            nap(&mut poll);
            let mut looks = 0;
            assert!(poll.look(|| {
                looks += 1;
                looks == 1000
            }));
            assert!(poll.look(|| true), "it paid, so it goes on");
        }
    }

    #[test]
    fn after_a_request_that_came_late_it_sleeps() {
        let limit = Duration::from_micros(50);
        let mut poll = Poll::new(limit);
        poll.falls_asleep();
        std::thread::sleep(2 * limit);
        poll.is_woken();
        assert!(!poll.look(|| panic!("nothing would have been gained")));
    }

    #[test]
    fn looks_in_vain_become_rare_and_one_that_pays_makes_up_for_them() {
        let mut poll = Poll::new(HOUR);
        let mut naps = Vec::new();
        for _ in 0..14 {
            let mut count = 0;
            while !poll.looks {
                nap(&mut poll);
                count += 1;
            }
            naps.push(count);
            poll.limit = Duration::from_micros(1);
            assert!(!poll.look(|| false));
            poll.limit = HOUR;
        }
        let expected = [1, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024];
        assert_eq!(naps, expected);
        while !poll.looks {
            nap(&mut poll);
        }
        assert!(poll.look(|| true));
        poll.limit = Duration::from_micros(1);
        assert!(!poll.look(|| false));
        poll.limit = HOUR;
        nap(&mut poll);
        assert!(poll.looks);
    }
}
