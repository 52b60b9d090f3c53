//! Promise: a merged index has exactly the pieces that the reference builds — of every record the maximal runs that
//! no higher layer covers, not joined again.
#![expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers here are the test's own"
)]

use blob::test_util::noise;

use super::{clip, half, merge};
use crate::error::StackError;
use crate::format::MAX_SEGMENTS;
use crate::segment::Segment;

/// Segments from (first, len, mapped, zeroed), as one layer's index.
fn layer(ordinal: u8, runs: &[(u64, u64, u64, bool)]) -> Vec<Segment> {
    runs.iter()
        .map(|(first, len, mapped, zeroed)| {
            Segment::new(*first, *len, *mapped, *zeroed).with_layer(ordinal)
        })
        .collect()
}

/// The expected pieces: paints every sector with (layer, record), then reads runs of the same paint off.
fn painted(layers: &[Vec<Segment>], sectors: usize) -> Vec<Segment> {
    let mut paint: Vec<Option<(usize, usize)>> = vec![None; sectors];
    for (ordinal, segments) in layers.iter().enumerate() {
        for (number, segment) in segments.iter().enumerate() {
            for sector in segment.first()..segment.end().min(sectors as u64) {
                paint[usize::try_from(sector).unwrap()] = Some((ordinal, number));
            }
        }
    }
    let mut pieces = Vec::new();
    let mut first = 0;
    while first < sectors {
        let end = (first..sectors)
            .find(|at| paint[*at] != paint[first])
            .unwrap_or(sectors);
        if let Some((ordinal, number)) = paint[first] {
            let whole = layers[ordinal][number];
            let skipped = if whole.is_zeroed() {
                0
            } else {
                first as u64 - whole.first()
            };
            let piece = Segment::new(
                first as u64,
                (end - first) as u64,
                whole.mapped() + skipped,
                whole.is_zeroed(),
            );
            pieces.push(piece.with_layer(u8::try_from(ordinal).unwrap()));
        }
        first = end;
    }
    pieces
}

/// Sorted random segments below about `sectors`, as reproducible as `seed`.
fn random_layer(ordinal: u8, sectors: u64, density: u64, seed: u64) -> Vec<Segment> {
    let mut dice = noise(1 << 14, seed).into_iter().map(u64::from);
    let mut roll = |sides: u64| dice.next().unwrap() % sides;
    let (mut at, mut mapped, mut segments) = (0, 8, Vec::new());
    loop {
        // Often 0, so that records touch.
        let first = at + roll(density).saturating_sub(2);
        let (len, zeroed) = (1 + roll(9), roll(4) == 0);
        if first >= sectors {
            return segments;
        }
        segments.push(Segment::new(first, len, mapped, zeroed).with_layer(ordinal));
        at = first + len;
        // Often contiguous with the record before, which must not be joined.
        mapped += if zeroed { 0 } else { len + roll(2) };
    }
}

#[test]
fn three_layers_merge_as_the_reference_does() {
    let layers = vec![
        layer(0, &[(0, 16, 8, false)]),
        layer(1, &[(4, 4, 8, false)]),
        layer(2, &[(6, 4, 8, true)]),
    ];
    let merged = merge(layers, MAX_SEGMENTS).unwrap();
    let expected = [
        layer(0, &[(0, 4, 8, false)]),
        layer(1, &[(4, 2, 8, false)]),
        layer(2, &[(6, 4, 8, true)]),
        layer(0, &[(10, 6, 18, false)]),
    ];
    assert_eq!(merged, expected.concat());
}

#[test]
fn random_stacks_have_exactly_the_painted_pieces() {
    for seed in 0..400_u64 {
        let count = 1 + seed % 12;
        let sectors = 1 + seed % 300;
        let mut layers: Vec<_> = (0..count)
            .map(|k| {
                let density = 3 + (seed + k) % 20;
                random_layer(u8::try_from(k).unwrap(), 300, density, seed * 100 + k)
            })
            .collect();
        for segments in &mut layers {
            clip(segments, sectors);
        }
        let expected = painted(&layers, usize::try_from(sectors).unwrap());
        assert_eq!(
            merge(layers, MAX_SEGMENTS).unwrap(),
            expected,
            "seed {seed}"
        );
    }
}

#[test]
fn as_many_layers_as_there_can_be() {
    let layers: Vec<_> = (0..255_u8)
        .map(|k| random_layer(k, 2000, 200, u64::from(k)))
        .collect();
    let expected = painted(&layers, 4000);
    assert_eq!(merge(layers, MAX_SEGMENTS).unwrap(), expected);
}

#[test]
fn layers_are_halved_by_their_records() {
    let halved = |records: &[u64]| {
        let layers = records.iter().map(|count| {
            let runs: Vec<_> = (0..*count).map(|k| (k, 1, 8, false)).collect();
            layer(0, &runs)
        });
        half(&layers.collect::<Vec<_>>())
    };
    // A large layer is by itself, wherever it is.
    assert_eq!(halved(&[500, 1, 1, 1]), 1);
    assert_eq!(halved(&[1, 1, 1, 500]), 3);
    assert_eq!(halved(&[1, 500, 1]), 2);
    assert_eq!(halved(&[10, 10, 10, 10, 10]), 3);
    assert_eq!(halved(&[10, 20, 29, 31, 28]), 3);
    // None of the halves is empty.
    assert_eq!(halved(&[0, 0]), 1);
    assert_eq!(halved(&[7, 0]), 1);
    assert_eq!(halved(&[0, 7, 0]), 2);
}

#[test]
fn interleaved_sectors_alternate() {
    let comb = |ordinal: u8, from: u64| -> Vec<Segment> {
        (0..100_000)
            .map(|k| Segment::new(from + 2 * k, 1, 8 + k, false).with_layer(ordinal))
            .collect()
    };
    let merged = merge(vec![comb(0, 0), comb(1, 1)], MAX_SEGMENTS).unwrap();
    assert_eq!(merged.len(), 200_000);
    for (sector, segment) in (0..).zip(&merged) {
        assert_eq!((segment.first(), segment.len()), (sector, 1));
        assert_eq!(u64::from(segment.layer()), sector % 2);
        assert_eq!(segment.mapped(), 8 + sector / 2);
    }
}

#[test]
fn one_record_under_a_comb_is_cut_into_every_gap() {
    let comb: Vec<_> = (0..5000)
        .map(|k| (1 + 2 * k, 1, 8 + k, k % 3 == 0))
        .collect();
    let layers = vec![layer(0, &[(0, 16_383, 8, false)]), layer(1, &comb)];
    let expected = painted(&layers, 20_000);
    assert_eq!(expected.len(), 10_001);
    assert_eq!(merge(layers, MAX_SEGMENTS).unwrap(), expected);
}

#[test]
fn segments_beyond_the_limit_are_refused_while_producing() {
    let layers = || vec![layer(0, &[(0, 9, 8, false)]), layer(1, &[(4, 1, 8, false)])];
    assert_eq!(merge(layers(), 3).unwrap().len(), 3);
    for max in 0..3 {
        assert_eq!(
            merge(layers(), max),
            Err(StackError::TooManySegments { max })
        );
    }
    // A result on the way counts too, even if a layer above would hide all of it.
    let mut hidden = layers();
    hidden.push(layer(2, &[(0, 9, 8, true)]));
    assert_eq!(merge(hidden.clone(), 3).unwrap().len(), 1);
    assert_eq!(
        merge(hidden, 2),
        Err(StackError::TooManySegments { max: 2 })
    );
    let alone = vec![layer(0, &[(0, 1, 8, false), (1, 1, 9, false)])];
    assert_eq!(merge(alone, 1), Err(StackError::TooManySegments { max: 1 }));
}

#[test]
fn clipping_keeps_what_is_inside() {
    let whole = layer(
        0,
        &[(0, 4, 8, false), (4, 4, 12, true), (100, 1, 16, false)],
    );
    for (end, lens) in [
        (0, &[][..]),
        (1, &[1]),
        (4, &[4]),
        (5, &[4, 1]),
        (8, &[4, 4]),
        (100, &[4, 4]),
        (101, &[4, 4, 1]),
    ] {
        let mut segments = whole.clone();
        clip(&mut segments, end);
        let found: Vec<_> = segments.iter().map(|segment| segment.len()).collect();
        assert_eq!(found, lens, "end {end}");
    }
}
