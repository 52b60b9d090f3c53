//! Looking at the ring for a while before going to sleep.
//!
//! A guest that asks for one thing after another has its next request ready within microseconds, while to be woken takes
//! tens of them. So it can pay to look on for a while; but who looks on burns a processor. How long it is worth looking is
//! learnt from what happens: twice as long when a request came soon after falling asleep, half as long when none came.

use std::hint;
use std::time::{Duration, Instant};

/// Where a window that has shrunk to nothing begins anew.
const SMALLEST_WINDOW: Duration = Duration::from_micros(4);

/// How long the thread of a queue looks at its ring before it sleeps.
#[derive(Debug)]
pub(crate) struct Poll {
    limit: Duration,
    window: Duration,
    asleep_since: Option<Instant>,
}

impl Poll {
    /// Looks for at most `limit` at a time; with zero, never.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            window: limit,
            asleep_since: None,
        }
    }

    /// Looks until something `is_due`, which it returns, or the window is over.
    pub(crate) fn look(&mut self, mut is_due: impl FnMut() -> bool) -> bool {
        if self.window.is_zero() {
            return false;
        }
        let begun = Instant::now();
        loop {
            if is_due() {
                return true;
            }
            if begun.elapsed() >= self.window {
                self.window /= 2;
                if self.window < SMALLEST_WINDOW {
                    self.window = Duration::ZERO;
                }
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
        let soon = self
            .asleep_since
            .take()
            .is_some_and(|since| since.elapsed() < self.limit);
        if soon {
            self.window = (self.window * 2).clamp(SMALLEST_WINDOW, self.limit);
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

    #[test]
    fn what_is_due_is_found_at_once_and_late() {
        let mut poll = Poll::new(HOUR);
        let mut looks = 0;
        assert!(poll.look(|| {
            looks += 1;
            looks == 1000
        }));
        assert_eq!(poll.window, HOUR, "it paid");
    }

    #[test]
    fn window_shrinks_to_nothing_in_vain_and_grows_again_when_requests_come_soon() {
        let limit = Duration::from_micros(64);
        let mut poll = Poll::new(limit);
        for _ in 0..5 {
            assert!(!poll.window.is_zero());
            assert!(!poll.look(|| false));
        }
        assert!(poll.window.is_zero());
        assert!(!poll.look(|| panic!("it does not look any more")));
        // Woken long after: nothing would have been gained.
        poll.falls_asleep();
        std::thread::sleep(limit);
        poll.is_woken();
        assert!(poll.window.is_zero());
        // Woken soon: it would have been worth it.
        poll.limit = HOUR;
        for expected in [1, 1, 2, 4] {
            assert!(poll.window <= SMALLEST_WINDOW * expected);
            poll.falls_asleep();
            poll.is_woken();
            assert!(poll.window >= SMALLEST_WINDOW * expected);
        }
    }
}
