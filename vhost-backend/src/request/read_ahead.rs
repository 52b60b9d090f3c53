//! Notices that a guest reads the disk from one end to the other, and says what it is going to ask for.

use std::ops::Range;
use std::time::Duration;

/// How far from the foremost byte a read may begin and still go on from there: requests that are in flight together
/// overtake each other, and queues share the work.
const SLACK_BYTES: u64 = 1 << 20;
/// How late a disk that has little else to do has to answer for reading ahead to pay, every time. The kernel reads ahead
/// by itself, a little, in each file; with a disk that answers sooner that is enough, and what it reads by itself lies in
/// larger pages and costs less than what it is told to read.
const LATE: Duration = Duration::from_millis(1);
/// How many times in a row, for what has to be waited for now and then may be a long piece that the kernel reads ahead.
const LATE_ANSWERS: u32 = 4;
/// How much has to be read in a row before anything is read ahead.
const STREAK_MIN_BYTES: u64 = 256 << 10;
/// How far ahead to begin with.
const WINDOW_MIN_BYTES: u64 = 512 << 10;
/// How far ahead at most: what a device that answers after 4 ms delivers meanwhile at 2 GB/s.
const WINDOW_MAX_BYTES: u64 = 8 << 20;

/// What the reads of a queue have in common.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// The first byte of the first read in a row.
    start: u64,
    /// Behind the last byte of the foremost read.
    front: u64,
    streak_bytes: u64,
    window_bytes: u64,
    /// Everything before this is asked for.
    ahead_until: u64,
    /// Read in a row since something had to be waited for.
    ready_bytes: u64,
    /// How often in a row the disk has answered late.
    late_answers: u32,
}

impl ReadAhead {
    /// Behind the last byte of the foremost read, and how much was read in a row up to there.
    pub(crate) fn streak(&self) -> (u64, u64) {
        (self.front, self.streak_bytes)
    }

    /// Whether a read belongs to a row of reads that has got long, and that leaves out less than it reads.
    pub(crate) fn goes_on(&self, read: &Range<u64>) -> bool {
        let passed_bytes = self.front.saturating_sub(self.start);
        self.is_near(read) && self.streak_bytes >= STREAK_MIN_BYTES.max(passed_bytes / 2)
    }

    fn is_near(&self, read: &Range<u64>) -> bool {
        let behind = self.front.saturating_sub(SLACK_BYTES);
        let before = self.front.saturating_add(SLACK_BYTES);
        (behind..=before).contains(&read.start)
    }

    /// Whether the disk answers so late that the kernel alone does not read far enough ahead.
    pub(crate) fn disk_is_late(&self) -> bool {
        self.late_answers >= LATE_ANSWERS
    }

    /// The disk has answered after this time, when it was asked for little.
    pub(crate) fn disk_took(&mut self, time: Duration) {
        // What is read ahead has been waited for by then, in part.
        if self.ahead_until > self.front {
            return;
        }
        self.late_answers = if time < LATE {
            0
        } else {
            self.late_answers.saturating_add(1)
        };
    }

    /// Takes notice of a read of the disk, and of whether the disk had to be waited for. Returns what to fetch into the
    /// page cache, if it is time to.
    pub(crate) fn notice(&mut self, read: &Range<u64>, waited: bool) -> Option<Range<u64>> {
        if !self.is_near(read) {
            *self = Self {
                start: read.start,
                front: read.end,
                late_answers: self.late_answers,
                ..Self::default()
            };
            return None;
        }
        let len = read.end.saturating_sub(read.start);
        self.front = self.front.max(read.end);
        self.streak_bytes = self.streak_bytes.saturating_add(len);
        if waited {
            self.ready_bytes = 0;
        } else {
            self.ready_bytes = self.ready_bytes.saturating_add(len);
        }
        // Nothing has been waited for although there was time to overtake what was read ahead: it is all in memory.
        let in_memory = self.ready_bytes > 2 * WINDOW_MAX_BYTES;
        if in_memory || !self.disk_is_late() || self.streak_bytes < STREAK_MIN_BYTES {
            return None;
        }
        let due = self.front.saturating_add(self.window_bytes / 2) >= self.ahead_until;
        if !due {
            return None;
        }
        self.window_bytes = (self.window_bytes * 2).clamp(WINDOW_MIN_BYTES, WINDOW_MAX_BYTES);
        let start = self.ahead_until.max(self.front);
        self.ahead_until = self.front.saturating_add(self.window_bytes).max(start);
        Some(start..self.ahead_until).filter(|range| !range.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a disk that takes its time.
    fn late() -> ReadAhead {
        let mut ahead = ReadAhead::default();
        for _ in 0..LATE_ANSWERS {
            ahead.disk_took(LATE);
        }
        ahead
    }

    /// Reads of `len` bytes one after another from `start` on; returns what was read ahead.
    fn sequence(ahead: &mut ReadAhead, start: u64, len: u64, count: u64) -> Vec<Range<u64>> {
        let reads = (0..count).map(|number| start + number * len);
        reads
            .filter_map(|offset| ahead.notice(&(offset..offset + len), true))
            .collect()
    }

    #[test]
    fn long_sequence_is_read_ahead_once_without_gaps_and_ever_further() {
        for len in [4096, 65_536, 1 << 20] {
            let mut ahead = late();
            let ranges = sequence(&mut ahead, 0, len, (64 << 20) / len);
            // What lies between was read by the guest before it could be read ahead.
            let gaps = ranges.windows(2).map(|two| two[1].start - two[0].end);
            assert!(gaps.sum::<u64>() <= 4 * len, "{len}: {ranges:?}");
            assert!(ranges[0].start >= STREAK_MIN_BYTES);
            assert!(ranges.last().unwrap().end > 64 << 20, "{len}");
            let longest = ranges.iter().map(|range| range.end - range.start).max();
            assert!(longest.unwrap() <= WINDOW_MAX_BYTES);
            assert!(ranges.len() < 40, "{len}: {} pieces", ranges.len());
        }
    }

    #[test]
    fn short_runs_and_jumps_are_not_read_ahead() {
        let mut ahead = late();
        for number in 0..1000 {
            let start = number * 7919 * 4096 % (1 << 34);
            let ranges = sequence(&mut ahead, start, 4096, 16);
            assert_eq!(ranges, [], "{number}");
        }
    }

    #[test]
    fn reads_that_overtake_each_other_are_one_sequence() {
        let mut ahead = late();
        let order = [1_u64, 0, 3, 2, 5, 4, 7, 6];
        let mut ranges = Vec::new();
        for round in 0..100 {
            for number in order {
                let start = (round * 8 + number) * 65_536;
                ranges.extend(ahead.notice(&(start..start + 65_536), true));
            }
        }
        assert!(ranges.windows(2).all(|two| two[0].end == two[1].start));
        assert!(ranges.last().unwrap().end >= 800 * 65_536);
    }

    #[test]
    fn what_is_in_memory_is_left_alone_until_something_is_waited_for() {
        let mut ahead = late();
        let mut count = 0;
        for number in 0..10_000_u64 {
            let start = number * 65_536;
            count += u64::from(ahead.notice(&(start..start + 65_536), false).is_some());
        }
        assert!(count <= 8, "{count}");
        let start = 10_000 * 65_536;
        assert!(ahead.notice(&(start..start + 65_536), true).is_some());
    }

    #[test]
    fn ends_of_all_numbers_are_no_trouble() {
        let mut ahead = late();
        for range in [u64::MAX - 10..u64::MAX, 0..u64::MAX, u64::MAX..u64::MAX] {
            let _ahead = ahead.notice(&range, true);
        }
    }

    #[test]
    fn row_is_long_and_leaves_out_little() {
        // How much is read at a time, and how far it is from one to the next.
        for (len, stride, is_row) in [
            (4096, 4096, true),
            (1 << 20, 1 << 20, true),
            (4096, 8000, true),
            (4096, 9000, false),
            (65_536, 200_000, false),
        ] {
            let mut ahead = ReadAhead::default();
            // The first read is where a row begins, and belongs to none yet.
            let mut start = 1 << 30;
            ahead.notice(&(start..start + len), false);
            start += stride;
            let mut seen = 0;
            while seen < STREAK_MIN_BYTES {
                assert!(!ahead.goes_on(&(start..start + len)), "{len}: too short");
                ahead.notice(&(start..start + len), false);
                seen += len;
                start += stride;
            }
            assert_eq!(
                ahead.goes_on(&(start..start + len)),
                is_row,
                "{len} of {stride}"
            );
            assert!(!ahead.goes_on(&(start + (2 << 20)..u64::MAX)), "far away");
            ahead.notice(&(0..len), false);
            assert!(!ahead.goes_on(&(start..start + len)), "elsewhere meanwhile");
        }
    }

    #[test]
    fn disks_that_answer_soon_are_left_to_the_kernel() {
        let mut ahead = ReadAhead::default();
        assert_eq!(sequence(&mut ahead, 0, 65_536, 100), [], "unknown");
        for _ in 0..100 {
            ahead.disk_took(2 * LATE);
            ahead.disk_took(LATE / 2);
        }
        assert_eq!(sequence(&mut ahead, 0, 65_536, 100), [], "sometimes");
        for _ in 0..LATE_ANSWERS {
            ahead.disk_took(LATE);
        }
        assert_ne!(sequence(&mut ahead, 1 << 40, 65_536, 100), []);
        // It came early because it was asked for early.
        ahead.disk_took(Duration::ZERO);
        assert_eq!(ahead.late_answers, LATE_ANSWERS);
        // A jump is a new beginning, and the disk is still the same.
        assert_ne!(sequence(&mut ahead, 0, 65_536, 100), []);
    }
}
