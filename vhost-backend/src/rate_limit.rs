//! A limit on log lines that guests and front-ends can cause.

use std::time::{Duration, Instant};

use crate::limits::MAX_LOG_LINES_PER_SECOND;

const WINDOW: Duration = Duration::from_secs(1);

/// Admits at most [`MAX_LOG_LINES_PER_SECOND`] lines in each second and counts the others.
#[derive(Debug, Default)]
pub struct RateLimit {
    window_start: Option<Instant>,
    admitted: u32,
    suppressed: u64,
}

impl RateLimit {
    /// Whether a line may be written now: then how many were suppressed since the last one.
    pub fn admit(&mut self) -> Option<u64> {
        self.admit_at(Instant::now())
    }

    fn admit_at(&mut self, now: Instant) -> Option<u64> {
        if self
            .window_start
            .is_none_or(|start| now.duration_since(start) >= WINDOW)
        {
            self.window_start = Some(now);
            self.admitted = 0;
        }
        if self.admitted >= MAX_LOG_LINES_PER_SECOND {
            self.suppressed += 1;
            return None;
        }
        self.admitted += 1;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_ten_lines_a_second_and_none_is_forgotten() {
        let mut limit = RateLimit::default();
        let start = Instant::now();
        let admitted = (0..1000)
            .filter(|_| limit.admit_at(start).is_some())
            .count();
        assert_eq!(admitted, 10);
        assert_eq!(limit.admit_at(start + WINDOW), Some(990));
        assert_eq!(limit.admit_at(start + WINDOW), Some(0));
    }
}
