//! What something usually takes, learnt from how long it took.

use std::time::Duration;

/// A time that follows what is measured: at once when that is shorter, slowly when it is longer, for then something else
/// may have run meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UsualTime(Option<Duration>);

impl UsualTime {
    /// The time; `None` before anything was measured. Never zero.
    pub(crate) fn get(self) -> Option<Duration> {
        self.0
    }

    /// Takes in what it took once more.
    pub(crate) fn learn(&mut self, time: Duration) {
        let time = time.max(Duration::from_nanos(1));
        self.0 = Some(match self.0 {
            None => time,
            Some(usual) => time.min(usual + time.saturating_sub(usual) / 8),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accidents_count_for_little_and_pass() {
        let micros = |micros| Some(Duration::from_micros(micros));
        let mut usual = UsualTime::default();
        assert_eq!(usual.get(), None);
        for (took, expected) in [(4, 4), (44, 9), (5, 5), (5, 5)] {
            usual.learn(Duration::from_micros(took));
            assert_eq!(usual.get(), micros(expected), "after {took}");
        }
        usual.learn(Duration::ZERO);
        assert_eq!(usual.get(), Some(Duration::from_nanos(1)));
    }
}
