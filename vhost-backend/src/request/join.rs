//! Which parts of requests are fetched together: those whose stored bytes touch, or lie on the same page.

use std::ops::Range;

use crate::limits::MAX_PIECE_LEN_BYTES;
use crate::request::Missing;

/// Bytes between two parts that are read along rather than asked for apart: the disk reads whole pages anyway.
const MAX_GAP_LEN_BYTES: u64 = 4096;
/// Longest fetch of several parts. A single part may be a little longer, for blocks are fetched whole.
const MAX_JOINED_LEN_BYTES: u64 = MAX_PIECE_LEN_BYTES as u64;

/// A part of a request that has to be fetched.
#[derive(Debug)]
pub(super) struct Want {
    /// The request.
    pub(super) flight: usize,
    pub(super) missing: Missing,
    pub(super) ordinal: usize,
    /// Bytes of the layer's blob.
    pub(super) stored: Range<u64>,
    /// Whether a fetch together with others has failed: which of them is to blame shows when each goes alone.
    pub(super) alone: bool,
}

/// Parts that are fetched at once.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) ordinal: usize,
    pub(super) stored: Range<u64>,
    pub(super) wants: Vec<Want>,
}

impl Joined {
    fn of(want: Want) -> Self {
        Self {
            ordinal: want.ordinal,
            stored: want.stored.clone(),
            wants: vec![want],
        }
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.stored.end - self.stored.start
    }

    /// Whether all of it is for one request.
    pub(super) fn is_for_one(&self) -> bool {
        let first = self.wants.first().map(|want| want.flight);
        self.wants.iter().all(|want| Some(want.flight) == first)
    }

    /// Whether everything that `want` asks for is fetched here.
    pub(super) fn covers(&self, want: &Want) -> bool {
        self.ordinal == want.ordinal
            && self.stored.start <= want.stored.start
            && want.stored.end <= self.stored.end
            && !want.alone
            && self.wants.iter().all(|other| !other.alone)
    }

    /// Takes in `want`, which begins no earlier, or gives it back.
    fn join(&mut self, want: Want) -> Option<Want> {
        let end = self.stored.end.max(want.stored.end);
        let fits = self.ordinal == want.ordinal
            && want.stored.start <= self.stored.end.saturating_add(MAX_GAP_LEN_BYTES)
            && end - self.stored.start <= MAX_JOINED_LEN_BYTES
            && !want.alone
            && self.wants.iter().all(|other| !other.alone);
        if !fits {
            return Some(want);
        }
        self.stored.end = end;
        self.wants.push(want);
        None
    }
}

/// Joins what can be joined.
pub(super) fn join(mut wants: Vec<Want>) -> Vec<Joined> {
    wants.sort_by_key(|want| (want.alone, want.ordinal, want.stored.start));
    let mut fetches: Vec<Joined> = Vec::new();
    for want in wants {
        let left = match fetches.last_mut() {
            Some(last) => last.join(want),
            None => Some(want),
        };
        fetches.extend(left.map(Joined::of));
    }
    fetches
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{Origin, Step};

    fn want(ordinal: usize, stored: Range<u64>, alone: bool) -> Want {
        let step = Step {
            disk_offset: 0,
            len: 512,
            origin: Origin::Zero,
        };
        Want {
            flight: 0,
            missing: Missing { step, position: 0 },
            ordinal,
            stored,
            alone,
        }
    }

    fn joined(wants: Vec<Want>) -> Vec<(usize, Range<u64>, usize)> {
        let fetches = join(wants).into_iter();
        fetches
            .map(|fetch| (fetch.ordinal, fetch.stored, fetch.wants.len()))
            .collect()
    }

    #[test]
    fn neighbours_and_repetitions_are_one_fetch() {
        let wants = [
            want(1, 9000..9500, false),
            want(0, 100..200, false),
            want(0, 200..300, false),
            want(1, 5000..6000, false),
            want(0, 100..200, false),
            want(0, 4396..4400, false),
            want(0, 8497..8500, false),
        ];
        let expected = [(0, 100..4400, 4), (0, 8497..8500, 1), (1, 5000..9500, 2)];
        assert_eq!(joined(wants.into()), expected);
    }

    #[test]
    fn fetches_do_not_grow_beyond_their_limit_and_lonely_ones_stay_alone() {
        let cell = 256 << 10;
        let wants = (0..10).map(|number| want(0, number * cell..(number + 1) * cell, false));
        let lens: Vec<usize> = joined(wants.collect()).iter().map(|one| one.2).collect();
        assert_eq!(lens, [4, 4, 2]);
        let wants = [
            want(0, 0..10, true),
            want(0, 10..20, false),
            want(0, 20..30, true),
            want(0, 20..30, false),
        ];
        let expected = [(0, 10..30, 2), (0, 0..10, 1), (0, 20..30, 1)];
        assert_eq!(joined(wants.into()), expected);
    }

    #[test]
    fn what_is_under_way_covers_what_lies_in_it() {
        let [fetch] = &join(vec![want(3, 100..200, false)])[..] else {
            panic!("one want");
        };
        for (other, covered) in [
            (want(3, 100..200, false), true),
            (want(3, 150..160, false), true),
            (want(3, 99..200, false), false),
            (want(3, 100..201, false), false),
            (want(2, 100..200, false), false),
            (want(3, 100..200, true), false),
        ] {
            assert_eq!(fetch.covers(&other), covered, "{other:?}");
        }
    }
}
