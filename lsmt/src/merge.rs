//! Many indexes into one: for every disk sector the highest layer that speaks of it decides.
#![warn(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use crate::error::StackError;
use crate::segment::Segment;

#[cfg(test)]
mod tests;

/// Merges indexes, lowest first, into one of at most `max` segments.
///
/// Which layers are joined first does not matter, for a segment is cut exactly where something above it begins or
/// ends. So those are joined first that are small: every record is looked at log2(all records / records of its
/// layer) times and at most two times more, which is log2(layers) if layers are alike, and once or twice for the
/// records of a large layer under small ones. Indexes are freed as soon as they are used up; a single one is
/// returned as it is.
pub(crate) fn merge(
    mut indexes: Vec<Vec<Segment>>,
    max: usize,
) -> Result<Vec<Segment>, StackError> {
    let mut merged = join(&mut indexes, max)?;
    if merged.len() > max {
        return Err(StackError::TooManySegments { max });
    }
    merged.shrink_to_fit();
    Ok(merged)
}

/// Lays the upper half of `indexes` over the lower one, halves by number of records. Takes them out.
///
/// At most as many calls are open at once as there are layers.
fn join(indexes: &mut [Vec<Segment>], max: usize) -> Result<Vec<Segment>, StackError> {
    match indexes {
        [] => Ok(Vec::new()),
        [index] => Ok(std::mem::take(index)),
        _ => {
            let (lower, upper) = indexes.split_at_mut(half(indexes));
            let lower = join(lower, max)?;
            let upper = join(upper, max)?;
            overlay(lower, upper, max)
        }
    }
}

/// How many of the lower ones, neither none nor all, come nearest to half of the records.
fn half(indexes: &[Vec<Segment>]) -> usize {
    let records = indexes.iter().map(Vec::len).fold(0, usize::wrapping_add);
    let mut below = 0_usize;
    let (mut least_uneven, mut half) = (usize::MAX, 1);
    for (count, index) in (1..indexes.len()).zip(indexes) {
        below = below.wrapping_add(index.len());
        let uneven = below.wrapping_mul(2).abs_diff(records);
        if uneven <= least_uneven {
            (least_uneven, half) = (uneven, count);
        }
    }
    half
}

/// Everything of `upper`, and of `lower` whatever `upper` leaves uncovered.
///
/// A lower segment becomes one piece per gap it looks through; pieces are not joined again, even if they touch.
fn overlay(
    lower: Vec<Segment>,
    upper: Vec<Segment>,
    max: usize,
) -> Result<Vec<Segment>, StackError> {
    if upper.is_empty() {
        return Ok(lower);
    }
    if lower.is_empty() {
        return Ok(upper);
    }
    let expected = lower.len().saturating_add(upper.len()).min(max);
    let mut merged = Bounded {
        segments: Vec::with_capacity(expected),
        max,
    };
    let mut below = lower.into_iter();
    let mut next_below = below.next();
    for above in upper {
        // What ends before `above` begins stays whole; of what reaches into it, the front stays.
        while let Some(segment) = next_below.filter(|segment| segment.first() < above.first()) {
            if segment.end() > above.first() {
                merged.push(segment.before(above.first()))?;
                break;
            }
            merged.push(segment)?;
            next_below = below.next();
        }
        merged.push(above)?;
        // What ends within `above` is hidden; of what looks out behind it, the back goes on.
        while let Some(segment) = next_below.filter(|segment| segment.first() < above.end()) {
            if segment.end() > above.end() {
                next_below = Some(segment.onward(above.end()));
                break;
            }
            next_below = below.next();
        }
    }
    for segment in next_below.into_iter().chain(below) {
        merged.push(segment)?;
    }
    Ok(merged.segments)
}

/// A list that refuses to grow beyond its limit.
struct Bounded {
    segments: Vec<Segment>,
    max: usize,
}

impl Bounded {
    #[inline]
    fn push(&mut self, segment: Segment) -> Result<(), StackError> {
        if self.segments.len() >= self.max {
            return Err(StackError::TooManySegments { max: self.max });
        }
        self.segments.push(segment);
        Ok(())
    }
}

/// Drops what lies at or beyond `end_sector`: leftovers of a disk that was larger once.
pub(crate) fn clip(segments: &mut Vec<Segment>, end_sector: u64) {
    let inside = segments.partition_point(|segment| segment.first() < end_sector);
    segments.truncate(inside);
    if let Some(last) = segments.last_mut().filter(|last| last.end() > end_sector) {
        *last = last.before(end_sector);
    }
}
