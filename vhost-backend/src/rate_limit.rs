//! A limit on log lines that guests and front-ends can cause.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::limits::MAX_LOG_LINES_PER_SECOND;

const WINDOW: Duration = Duration::from_secs(1);

/// Admits at most [`MAX_LOG_LINES_PER_SECOND`] lines in each second and counts the others.
///
/// The lock is taken only where a line would be written; no request that goes well comes here.
#[derive(Debug, Default)]
pub struct RateLimit {
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    start: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl RateLimit {
    /// Whether a line may be written now: then how many were suppressed since the last one.
    pub fn admit(&self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&self, now: Instant) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window
            .start
            .is_none_or(|start| now.duration_since(start) >= WINDOW)
        {
            window.start = Some(now);
            window.admitted = 0;
        }
        if window.admitted >= MAX_LOG_LINES_PER_SECOND {
            window.suppressed += 1;
            return None;
        }
        window.admitted += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_ten_lines_a_second_and_none_is_forgotten() {
        let limit = RateLimit::default();
        let start = Instant::now();
        let admitted = (0..1000)
            .filter(|_| limit.admit_at(start).is_some())
            .count();
        assert_eq!(admitted, 10);
        assert_eq!(limit.admit_at(start + WINDOW), Some(990));
        assert_eq!(limit.admit_at(start + WINDOW), Some(0));
    }
}
