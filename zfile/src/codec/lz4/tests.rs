//! Promise: whatever the content and the level, a block is one that every decoder decodes, and is never longer than the
//! bound.

#![expect(clippy::arithmetic_side_effects, reason = "an overflow fails the test")]
use blob::test_util::noise;
use proptest::prelude::*;

use super::*;

/// Content with structure: words, runs, copies from before, and noise, in pieces of any length.
fn structured(pieces: &[(u8, u16, u16)]) -> Vec<u8> {
    let mut content = Vec::new();
    for (number, (kind, len, seed)) in pieces.iter().enumerate() {
        let len = usize::from(*len);
        match kind % 4 {
            0 => content.extend(noise(len, u64::from(*seed) ^ ((number as u64) << 32))),
            1 => content.extend(std::iter::repeat_n(seed.to_le_bytes()[0], len)),
            2 if !content.is_empty() => {
                let offset = 1 + usize::from(*seed) % content.len();
                for _ in 0..len {
                    content.push(content[content.len() - offset]);
                }
            }
            _ => content.extend(noise(len, 7).iter().map(|byte| b'a' + byte % 4)),
        }
    }
    content.truncate(1 << 16);
    content
}

/// Walks the sequences of a block by the letter of the format, end rules included, and returns what they express.
fn expand(block: &[u8], content_bytes: usize) -> Vec<u8> {
    let mut content = Vec::new();
    let mut at = 0;
    let take = |at: &mut usize| {
        *at += 1;
        usize::from(block[*at - 1])
    };
    let length = |at: &mut usize, nibble: usize| {
        let mut len = nibble;
        let mut more = if nibble == 15 { 255 } else { 0 };
        while more == 255 {
            more = take(at);
            len += more;
        }
        len
    };
    loop {
        let token = usize::from(block[at]);
        at += 1;
        let literals = length(&mut at, token >> 4);
        content.extend_from_slice(&block[at..at + literals]);
        at += literals;
        if at == block.len() {
            assert!(token & 15 == 0 && (content.len() == literals || literals >= LAST_LITERALS));
            return content;
        }
        let offset = usize::from(u16::from_le_bytes([block[at], block[at + 1]]));
        at += 2;
        let len = 4 + length(&mut at, token & 15);
        assert!(offset > 0 && offset <= content.len());
        assert!(content.len() + LAST_START_BYTES <= content_bytes);
        for _ in 0..len {
            content.push(content[content.len() - offset]);
        }
    }
}

fn check(encoder: &mut Encoder, content: &[u8]) -> Vec<u8> {
    let mut payload = vec![0xA5; room_bytes(content.len())];
    let len = encoder.encode(content, &mut payload);
    payload.truncate(len);
    let bound = u32::try_from(content.len()).unwrap();
    assert!(len <= content.len() + growth_max_bytes(bound) as usize);
    assert!(expand(&payload, content.len()) == content);
    let mut room = Room::new();
    let whole = room.decode(&payload, content.len(), content.len());
    assert_eq!(whole, Some(content.len()));
    assert!(room.content(content.len()) == content);
    check_beginnings(&payload, content);
    payload
}

/// What is enough is decoded as it would be with all the rest.
fn check_beginnings(payload: &[u8], content: &[u8]) {
    let mut room = Room::new();
    let len = content.len();
    for enough in [1, 2, 100, len / 3, len / 2, len.saturating_sub(1)] {
        let found = room.decode(payload, len, enough).unwrap();
        assert!(found >= enough.min(len) && found <= len, "{enough}");
        assert!(
            *room.content(found) == content[..found],
            "{enough} of {len}"
        );
    }
}

fn encoders() -> Vec<Encoder> {
    let levels = LEVEL_MIN..=LEVEL_MAX;
    levels
        .map(|level| Encoder::new(Some(level)).unwrap())
        .collect()
}

/// Our decoder and `lz4_flex` agree about what is a block and what it says. Ours has a room that something was decoded in
/// before, and must not show it.
fn agree(room: &mut Room, payload: &[u8], content_bytes: usize) {
    let mut theirs = vec![1; content_bytes];
    let found = room.decode(payload, content_bytes, content_bytes);
    let expected = decompress_into(payload, &mut theirs).ok();
    assert_eq!(found, expected, "{payload:02x?}");
    if let Some(len) = expected {
        assert!(*room.content(len) == theirs[..len], "{payload:02x?}");
    }
    for enough in [0, 1, content_bytes / 2, content_bytes.saturating_sub(1)] {
        let found = room.decode(payload, content_bytes, enough);
        assert!(found.is_none_or(|len| len <= content_bytes));
        if let Some(len) = expected {
            let found = found.unwrap();
            assert!(found >= enough.min(len) && found <= len, "{payload:02x?}");
            assert!(*room.content(found) == theirs[..found], "{payload:02x?}");
        }
    }
}

/// Sequences of any lengths, with matches that reach back by all there is at most, or a little more.
fn sequences_of(parts: &[(u16, u16, u16)], tail: u16) -> Vec<u8> {
    let mut payload = Vec::new();
    let mut content_bytes = 0;
    let length = |payload: &mut Vec<u8>, len: usize| {
        if let Some(rest) = len.checked_sub(15) {
            payload.extend(std::iter::repeat_n(255, rest / 255));
            payload.push(u8::try_from(rest % 255).unwrap());
        }
    };
    let mut sequence = |literals: u16, matched: Option<(u16, u16)>| {
        let (literals, over) = (usize::from(literals), matched.map_or(0, |(len, _)| len));
        let over = usize::from(over);
        payload.push(u8::try_from((literals.min(15) << 4) | over.min(15)).unwrap());
        length(&mut payload, literals);
        payload.extend(noise(literals, payload.len() as u64));
        content_bytes += literals;
        if let Some((_, offset)) = matched {
            let offset = usize::from(offset) % (content_bytes + 2);
            payload.extend(u16::try_from(offset).unwrap_or(u16::MAX).to_le_bytes());
            length(&mut payload, over);
            content_bytes += over + MATCH_MIN_BYTES;
        }
    };
    for (literals, len, offset) in parts {
        sequence(*literals, Some((*len, *offset)));
    }
    sequence(tail, None);
    payload
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decoders_agree_about_sequences(
        parts in prop::collection::vec(
            (
                prop_oneof![0..6_u16, 0..40_u16, 0..600_u16],
                prop_oneof![0..20_u16, 0..40_u16, 0..900_u16],
                prop_oneof![1..20_u16, 0..40_u16, any::<u16>()],
            ),
            0..40,
        ),
        tail in prop_oneof![0..20_u16, 0..400_u16],
        content_bytes in prop_oneof![Just(4096_usize), Just(1 << 16), 0..6000_usize],
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        cut in prop_oneof![3 => Just(0_usize), 1 => 0..40_usize],
    ) {
        let mut room = Room::new();
        let mut payload = sequences_of(&parts, tail);
        agree(&mut room, &payload, content_bytes);
        for (place, value) in &damage {
            let place = place.index(payload.len());
            payload[place] = *value;
        }
        payload.truncate(payload.len().saturating_sub(cut));
        agree(&mut room, &payload, content_bytes);
    }

    #[test]
    fn decoders_agree_about_anything(
        payload in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(255)], 0..200),
        content_bytes in 0..600_usize,
    ) {
        agree(&mut Room::new(), &payload, content_bytes);
    }

    #[test]
    fn decoders_agree_about_blocks_that_are_good_or_damaged_or_of_another_length(
        contents in prop::collection::vec((any::<u8>(), prop_oneof![1..20_u16, 1..600_u16, 1..9000_u16], any::<u16>()), 1..16),
        level in LEVEL_MIN..=LEVEL_MAX,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        other in 0..20_usize,
    ) {
        let mut room = Room::new();
        let mut encoder = Encoder::new(Some(level)).unwrap();
        for block in structured(&contents).chunks(4096) {
            let mut payload = vec![0; room_bytes(block.len())];
            let len = encoder.encode(block, &mut payload);
            payload.truncate(len);
            agree(&mut room, &payload, block.len());
            agree(&mut room, &payload, block.len().saturating_sub(other));
            agree(&mut room, &payload, block.len() + other);
            for (place, value) in &damage {
                let place = place.index(payload.len());
                payload[place] = *value;
            }
            agree(&mut room, &payload, block.len());
        }
    }
}

/// Around every border between ways to copy a match: whole, cut anywhere, and with less room than they need.
#[test]
fn decoders_agree_about_matches_of_every_length_and_offset() {
    let mut room = Room::new();
    for offset in (1..36).chain([63, 64, 65]) {
        for over in (0..70).chain([269, 270, 271]) {
            // After few literals and after many; a match that is followed by another, and one at the end.
            let parts = [(70, 0, 3), (2, over, offset), (16, over, offset)];
            let payload = sequences_of(&parts, 5);
            let len = 70 + 4 + 2 + 16 + 2 * (4 + usize::from(over)) + 5;
            for limit in [4096, len, len - 1, len - 5, len - 6, len - 22] {
                agree(&mut room, &payload, limit);
            }
            for cut in 1..payload.len().min(48) {
                agree(&mut room, &payload[..payload.len() - cut], 4096);
            }
        }
    }
}

/// Nothing that a longest block writes past its end comes out at its start.
#[test]
fn longest_blocks_end_with_every_kind_of_sequence() {
    let mut room = Room::new();
    for offset in (1..20).chain([4096, 65_000]) {
        for len in (0..40).chain([300]) {
            let parts = [(65_000, 0, offset), (0, len, offset), (0, len, offset)];
            let payload = sequences_of(&parts, 5);
            for limit in [65_000, 65_000 + 4, 65_536] {
                agree(&mut room, &payload, limit);
            }
            let exact = 65_000 + 4 + 2 * (4 + usize::from(len)) + 5;
            agree(&mut room, &payload, exact.min(1 << 16));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn blocks_decode_to_what_they_were_made_of(
        contents in prop::collection::vec(
            prop::collection::vec((any::<u8>(), prop_oneof![1..20_u16, 1..600_u16, 1..9000_u16], any::<u16>()), 0..24),
            1..3,
        ),
        block_kib in prop_oneof![Just(4), Just(8), Just(16), Just(32), Just(64)],
    ) {
        for (level, mut encoder) in (LEVEL_MIN..).zip(encoders()) {
            for content in &contents {
                for block in structured(content).chunks(block_kib << 10) {
                    let payload = check(&mut encoder, block);
                    // What came before leaves no trace.
                    let mut fresh = Encoder::new(Some(level)).unwrap();
                    prop_assert!(payload == check(&mut fresh, block), "level {}", level);
                }
            }
        }
    }

    #[test]
    fn short_blocks_of_few_letters_decode(content in prop::collection::vec(0..3_u8, 0..80)) {
        for encoder in &mut encoders() {
            check(encoder, &content);
        }
    }
}

#[test]
fn every_length_of_a_run_is_expressed() {
    for encoder in &mut encoders() {
        for len in (0..600).chain([4095, 4096, 65_535, 65_536]) {
            let payload = check(encoder, &vec![7; len]);
            assert!(payload.len() <= 16 + len / 250, "{len}: {}", payload.len());
        }
    }
}

#[test]
fn noise_of_every_length_keeps_to_the_bound() {
    let content = noise(1 << 16, 3);
    for encoder in &mut encoders() {
        for len in (0..600).chain([4095, 4096, 65_535, 65_536]) {
            check(encoder, &content[..len]);
        }
    }
}

/// The longest run of literals there is.
#[test]
fn content_without_any_match_is_one_run_of_literals() {
    let numbers = (0..1_u16 << 15).map(|number| number.wrapping_mul(40_503));
    let content: Vec<u8> = numbers.flat_map(u16::to_le_bytes).collect();
    for encoder in &mut encoders() {
        let payload = check(encoder, &content);
        assert_eq!(payload.len(), 1 + 1 + (65_536 - 15) / 255 + 65_536);
    }
}

#[test]
fn higher_levels_are_not_larger() {
    let content = structured(&[
        (3, 9000, 1),
        (2, 300, 77),
        (0, 500, 3),
        (3, 9000, 1),
        (2, 999, 4000),
    ]);
    let lens: Vec<usize> = encoders()
        .iter_mut()
        .map(|encoder| check(encoder, &content).len())
        .collect();
    assert!(
        lens.is_sorted_by(|lower, higher| lower >= higher),
        "{lens:?}"
    );
    assert!(lens[0] > lens[11], "{lens:?}");
}

#[test]
fn levels_outside_the_range_are_refused() {
    for level in [i32::MIN, -1, 0, 13, i32::MAX] {
        assert!(matches!(
            Encoder::new(Some(level)),
            Err(WriteError::Level { found, min: 1, max: 12, .. }) if found == level
        ));
    }
}
