//! Promise: each check of the metadata fires on the damage it is there for, and damage anywhere in a file gives
//! an error or the right bytes, never others and never a panic.

use std::collections::BTreeSet;

use blob::test_util::noise;
use proptest::prelude::*;
use zfile::{Corruption, Feature, OpenError, Warning, WriterOptions, is_zfile};

use crate::support::{
    ALGO, BLOCK_SIZE, DICT_SIZE, DIGEST, FLAGS, FORMS, Form, INDEX_CRC, INDEX_OFFSET, INDEX_SIZE,
    ORIGINAL_SIZE, USE_DICT, VERIFY, chain, fix_checksums, get_u64, index_offset, mixed, open,
    put_u32, put_u64, read_all, refused_or_right, trailer, write,
};

use Damage::{Byte, Entry, Long, Word};
use Form::{Overwritten, TrailerOnly};

/// Content of three blocks, the last of them partial.
fn content() -> Vec<u8> {
    mixed(10_000, 77)
}

fn sound(form: Form) -> Vec<u8> {
    write(&WriterOptions::default(), form, &content())
}

/// Where the copy of the metadata is that readers of this form believe.
fn believed(file: &[u8], form: Form) -> usize {
    if form == Overwritten {
        0
    } else {
        trailer(file)
    }
}

/// The name of each check. A check that is added to the crate has to be added here, and to the table below.
fn name(corruption: &Corruption) -> &'static str {
    match corruption {
        Corruption::TooShort { .. } => "TooShort",
        Corruption::Magic { .. } => "Magic",
        Corruption::Flags { .. } => "Flags",
        Corruption::UnknownFlags { .. } => "UnknownFlags",
        Corruption::Digest { .. } => "Digest",
        Corruption::Reserved { .. } => "Reserved",
        Corruption::BlockSize { .. } => "BlockSize",
        Corruption::Algorithm { .. } => "Algorithm",
        Corruption::Verify { .. } => "Verify",
        Corruption::EmptyContent => "EmptyContent",
        Corruption::BlockCount { .. } => "BlockCount",
        Corruption::IndexRange { .. } => "IndexRange",
        Corruption::IndexChecksum { .. } => "IndexChecksum",
        Corruption::EntryLength { .. } => "EntryLength",
        Corruption::DataEnd { .. } => "DataEnd",
    }
}

const CHECKS: usize = 15;

/// One field of the believed copy, changed, and the checksums made right again.
#[derive(Clone, Copy, Debug)]
enum Damage {
    Byte(usize, u8),
    Word(usize, u32),
    Long(usize, u64),
    /// A jump table entry.
    Entry(usize, u32),
}

fn damaged(form: Form, damage: Damage) -> Vec<u8> {
    let mut file = sound(form);
    let at = believed(&file, form);
    let index = index_offset(&file);
    match damage {
        Byte(field, value) => file[at + field] = value,
        Word(field, value) => put_u32(&mut file, at + field, value),
        Long(field, value) => put_u64(&mut file, at + field, value),
        Entry(entry, value) => put_u32(&mut file, index + 4 * entry, value),
    }
    fix_checksums(&mut file);
    file
}

/// Damage whose meaning depends on the form of the file.
fn damaged_flags() -> Vec<(Form, Damage, &'static str)> {
    vec![
        (Overwritten, Long(FLAGS, 0x5B), "UnknownFlags"),
        (Overwritten, Long(FLAGS, 1 << 63 | 0x1B), "UnknownFlags"),
        (Overwritten, Long(FLAGS, 0x1A), "Flags"),
        (Overwritten, Long(FLAGS, 0x19), "Flags"),
        (TrailerOnly, Long(FLAGS, 0x56), "UnknownFlags"),
        (TrailerOnly, Long(FLAGS, 1 << 63 | 0x16), "UnknownFlags"),
        (TrailerOnly, Long(FLAGS, 0x17), "Flags"),
        (TrailerOnly, Long(FLAGS, 0x14), "Flags"),
        (TrailerOnly, Long(FLAGS, 0x12), "Flags"),
    ]
}

/// Damage to a file of `len` bytes whose jump table holds `entries`.
fn damaged_fields(entries: [u32; 3], len: u64) -> Vec<(Damage, &'static str)> {
    vec![
        (Byte(96, 1), "Reserved"),
        (Byte(511, 0x80), "Reserved"),
        (Word(BLOCK_SIZE, 0), "BlockSize"),
        (Word(BLOCK_SIZE, 2048), "BlockSize"),
        (Word(BLOCK_SIZE, 5000), "BlockSize"),
        (Word(BLOCK_SIZE, 131_072), "BlockSize"),
        (Word(BLOCK_SIZE, u32::MAX), "BlockSize"),
        (Byte(ALGO, 3), "Algorithm"),
        (Byte(ALGO, 255), "Algorithm"),
        (Byte(VERIFY, 2), "Verify"),
        (Byte(VERIFY, 255), "Verify"),
        (Long(ORIGINAL_SIZE, 0), "EmptyContent"),
        (Long(ORIGINAL_SIZE, 8192), "BlockCount"),
        (Long(ORIGINAL_SIZE, 12_289), "BlockCount"),
        (Long(ORIGINAL_SIZE, 16 << 40), "BlockCount"),
        (Long(INDEX_SIZE, 0), "BlockCount"),
        (Long(INDEX_SIZE, 2), "BlockCount"),
        (Long(INDEX_SIZE, 4), "BlockCount"),
        (Long(INDEX_SIZE, 1 << 62), "BlockCount"),
        (Long(INDEX_SIZE, u64::MAX), "BlockCount"),
        (Word(BLOCK_SIZE, 8192), "BlockCount"),
        (Word(BLOCK_SIZE, 65_536), "BlockCount"),
        (Long(INDEX_OFFSET, 0), "IndexRange"),
        (Long(INDEX_OFFSET, 511), "IndexRange"),
        (Long(INDEX_OFFSET, len - 11), "IndexRange"),
        (Long(INDEX_OFFSET, u64::MAX - 11), "IndexRange"),
        (Long(INDEX_OFFSET, u64::MAX), "IndexRange"),
        (Entry(0, 0), "EntryLength"),
        (Entry(2, 0), "EntryLength"),
        (Entry(0, 4), "EntryLength"),
        (Entry(2, 4), "EntryLength"),
        (Entry(1, 4096 + 16 + 16 + 5), "EntryLength"),
        (Entry(1, u32::MAX), "EntryLength"),
        (Entry(0, entries[0] - 1), "DataEnd"),
        (Entry(2, entries[2] + 1), "DataEnd"),
    ]
}

#[test]
fn each_field_has_its_check() {
    let file = sound(Overwritten);
    let index = index_offset(&file);
    let entries = [0, 1, 2].map(|n| {
        let entry = &file[index + 4 * n..][..4];
        u32::from_le_bytes(entry.try_into().unwrap())
    });
    let mut table = damaged_flags();
    for (damage, expected) in damaged_fields(entries, file.len() as u64) {
        table.extend(FORMS.map(|form| (form, damage, expected)));
    }
    // With a trailer that is needed, the jump table must end before it.
    let end = file.len() as u64 - 512;
    table.push((TrailerOnly, Long(INDEX_OFFSET, end - 11), "IndexRange"));

    let mut seen = damage_that_checksums_find();
    for (form, damage, expected) in table {
        let OpenError::Corrupt(corruption) = open(&damaged(form, damage)).unwrap_err() else {
            panic!("{form:?}, {damage:?}");
        };
        assert_eq!(name(&corruption), expected, "{form:?}, {damage:?}");
        seen.insert(expected);
    }
    assert_eq!(seen.len(), CHECKS, "{seen:?}");
}

/// The checks that fire when nobody makes the checksums right again.
fn damage_that_checksums_find() -> BTreeSet<&'static str> {
    let mut seen = BTreeSet::new();
    for form in FORMS {
        let file = sound(form);
        let at = believed(&file, form);
        for (offset, expected) in [
            (0, "Magic"),
            (23, "Magic"),
            (at, "Magic"),
            (at + 8, "Magic"),
            (DIGEST, "Digest"),
            (400, "Digest"),
            (at + DIGEST + 3, "Digest"),
            (at + INDEX_CRC, "Digest"),
            (at + 511, "Digest"),
            (index_offset(&file), "IndexChecksum"),
            (index_offset(&file) + 11, "IndexChecksum"),
        ] {
            let mut file = file.clone();
            file[offset] ^= 0x10;
            let OpenError::Corrupt(corruption) = open(&file).unwrap_err() else {
                panic!("{form:?}, byte {offset}");
            };
            assert_eq!(name(&corruption), expected, "{form:?}, byte {offset}");
            seen.insert(expected);
        }
        let shortest = if form == Overwritten { 517 } else { 1029 };
        for len in [0, 1, 23, 511, 512, 516, shortest - 1] {
            let error = open(&file[..len]).unwrap_err();
            assert!(
                matches!(error, OpenError::Corrupt(Corruption::TooShort { found_bytes, .. }) if found_bytes == len as u64),
                "{form:?}, {len} bytes: {error:?}"
            );
            seen.insert("TooShort");
        }
    }
    seen
}

#[test]
fn errors_name_what_was_found_and_expected() {
    let error = open(&damaged(Overwritten, Word(BLOCK_SIZE, 3000))).unwrap_err();
    assert_eq!(
        chain(&error),
        "damaged ZFile: block size 3000, expected a power of two from 4096 to 65536"
    );
    let error = open(&damaged(TrailerOnly, Entry(1, 4))).unwrap_err();
    assert_eq!(
        chain(&error),
        "damaged ZFile: jump table entry 1 is 4 bytes, expected 5 to 4132"
    );
    let error = open(&damaged(TrailerOnly, Long(INDEX_SIZE, 9))).unwrap_err();
    assert_eq!(
        chain(&error),
        "damaged ZFile: jump table of 9 entries, expected 3 for the declared content"
    );
}

#[test]
fn features_without_support_are_named() {
    for form in FORMS {
        let compressed = Long(FLAGS, if form == Overwritten { 0x3B } else { 0x36 });
        for (damage, feature) in [
            (Byte(ALGO, 0), Feature::MiniLzo),
            (
                Byte(USE_DICT, 1),
                Feature::Dictionary {
                    use_dict: 1,
                    dict_size: 0,
                },
            ),
            (
                Word(DICT_SIZE, 64),
                Feature::Dictionary {
                    use_dict: 0,
                    dict_size: 64,
                },
            ),
            (compressed, Feature::CompressedIndex),
        ] {
            let error = open(&damaged(form, damage)).unwrap_err();
            assert!(
                matches!(&error, OpenError::Unsupported(found) if *found == feature),
                "{error:?}"
            );
        }
    }
}

#[test]
fn limits_hold_before_any_memory_is_taken() {
    for form in FORMS {
        let mut file = sound(form);
        let at = believed(&file, form);
        put_u64(&mut file, at + ORIGINAL_SIZE, (16 << 40) + 1);
        fix_checksums(&mut file);
        let error = open(&file).unwrap_err();
        assert_eq!(
            error.to_string(),
            "content length 17592186044417 exceeds the limit of 17592186044416"
        );
        for (blocks, limited) in [(64 << 20, false), ((64 << 20) + 1, true)] {
            put_u64(&mut file, at + ORIGINAL_SIZE, blocks * 4096);
            put_u64(&mut file, at + INDEX_SIZE, blocks);
            fix_checksums(&mut file);
            match open(&file).unwrap_err() {
                OpenError::Limit {
                    what: "number of blocks",
                    value,
                    ..
                } => assert!(limited && value == blocks),
                OpenError::Corrupt(Corruption::IndexRange { .. }) => assert!(!limited),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
fn trailer_that_is_not_needed_only_warns() {
    let sound = sound(Overwritten);
    let trailer = trailer(&sound);
    let check = |file: &[u8], expected: &str| {
        let zfile = open(file).unwrap();
        assert_eq!(read_all(&zfile).unwrap(), content());
        let [warning] = zfile.info().warnings.as_slice() else {
            panic!("{expected}: {:?}", zfile.info().warnings);
        };
        assert!(
            chain(warning).starts_with(expected),
            "{expected}: {warning}"
        );
        warning.clone()
    };
    for len in [trailer, trailer + 1, trailer + 511] {
        assert_eq!(
            check(&sound[..len], "the trailer is missing"),
            Warning::TrailerMissing
        );
    }
    let mut file = sound.clone();
    file[trailer + 23] ^= 1;
    check(&file, "the trailer is missing");
    let mut file = sound.clone();
    file[trailer + 200] ^= 1;
    check(&file, "the trailer is damaged: trailer digest");
    for (field, name) in [
        (INDEX_OFFSET, "index_offset"),
        (INDEX_SIZE, "index_size"),
        (VERIFY, "verify"),
    ] {
        let mut file = sound.clone();
        file[trailer + field] ^= 1;
        fix_checksums(&mut file);
        check(
            &file,
            &format!("the trailer differs from the header in {name}"),
        );
    }
    let mut file = sound;
    put_u64(&mut file, FLAGS, 0x0B);
    check(&file, "the trailer differs from the header in flags");
}

#[test]
fn every_changed_bit_of_the_metadata_is_refused_or_harmless() {
    for form in FORMS {
        let sound = sound(form);
        let (trailer, index) = (trailer(&sound), index_offset(&sound));
        for offset in (0..512).chain(index..sound.len()) {
            for mask in [1, 2, 4, 8, 16, 32, 64, 128, 0xFF] {
                let mut file = sound.clone();
                file[offset] ^= mask;
                let what = format!("{form:?}, byte {offset}, mask {mask:#x}");
                let refused = refused_or_right(&file, &content(), &what);
                // Taking the digest flag away makes a file of the time before digests. It reads right.
                let undigested = mask == 16 && (offset == FLAGS || offset == trailer + FLAGS);
                let needless = form == Overwritten && offset >= trailer;
                assert_eq!(refused, !(undigested || needless), "{what}");
                if needless {
                    assert!(!open(&file).unwrap().info().warnings.is_empty(), "{what}");
                }
            }
        }
    }
}

#[test]
fn file_cut_anywhere_is_refused_or_reads_right() {
    for form in FORMS {
        let sound = sound(form);
        for len in 0..sound.len() {
            let refused =
                refused_or_right(&sound[..len], &content(), &format!("{form:?}, {len} bytes"));
            let needless = form == Overwritten && len >= trailer(&sound);
            assert_eq!(refused, !needless, "{form:?}, {len} bytes");
        }
    }
}

#[test]
fn changed_data_is_refused() {
    let content = mixed(200_000, 5);
    for algorithm in [zfile::Algorithm::Lz4, zfile::Algorithm::Zstd] {
        let options = WriterOptions {
            algorithm,
            ..WriterOptions::default()
        };
        let sound = write(&options, Overwritten, &content);
        let data = (index_offset(&sound) - 512) as u64;
        for spot in noise(2000 * 8, 6).chunks_exact(8) {
            let spot = get_u64(spot, 0);
            let offset = usize::try_from(spot % data).unwrap() + 512;
            let mut file = sound.clone();
            file[offset] ^= 1 << (spot >> 61);
            assert!(refused_or_right(
                &file,
                &content,
                &format!("{algorithm}, byte {offset}")
            ));
        }
    }
}

#[test]
fn changed_data_without_checksums_never_panics() {
    let content = mixed(60_000, 5);
    for algorithm in [zfile::Algorithm::Lz4, zfile::Algorithm::Zstd] {
        let options = WriterOptions {
            algorithm,
            verify: false,
            ..WriterOptions::default()
        };
        let sound = write(&options, Overwritten, &content);
        let data = (index_offset(&sound) - 512) as u64;
        for spot in noise(2000 * 8, 7).chunks_exact(8) {
            let spot = get_u64(spot, 0);
            let mut file = sound.clone();
            file[usize::try_from(spot % data).unwrap() + 512] ^= 1 << (spot >> 61);
            // Nothing vouches for the bytes here; what counts is that all of them were decoded.
            if let Ok(found) = read_all(&open(&file).unwrap()) {
                assert_eq!(found.len(), content.len());
            }
        }
    }
}

#[test]
fn magic_is_recognised_by_24_bytes() {
    let file = sound(TrailerOnly);
    assert!(is_zfile(&file) && is_zfile(&file[..24]));
    assert!(!is_zfile(&file[..23]) && !is_zfile(b"") && !is_zfile(&[0; 512]));
}

/// A value for a field: one that means something to some check, or any.
fn values() -> impl Strategy<Value = u64> {
    let near = prop::sample::select(vec![
        0,
        1,
        2,
        4,
        512,
        4096,
        10_000,
        65_536,
        1 << 31,
        1 << 32,
        1 << 63,
    ]);
    prop_oneof![
        (near, -2..=2_i64).prop_map(|(value, by): (u64, i64)| value.wrapping_add_signed(by)),
        0..20_000_u64,
        any::<u64>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_fields_with_right_checksums_never_panic(
        overwritten in any::<bool>(),
        undigested in any::<bool>(),
        fields in prop::collection::vec((0..8_usize, values()), 1..4),
        entries in prop::collection::vec((0..3_usize, values()), 0..3),
    ) {
        let form = if overwritten { Overwritten } else { TrailerOnly };
        let mut file = sound(form);
        let (at, index) = (believed(&file, form), index_offset(&file));
        if undigested {
            file[at + FLAGS] &= !0x10;
        }
        for (field, value) in fields {
            let [low, ..] = value.to_le_bytes();
            let half = u32::try_from(value & 0xFFFF_FFFF).unwrap();
            match field {
                0 => put_u64(&mut file, at + INDEX_OFFSET, value),
                1 => put_u64(&mut file, at + INDEX_SIZE, value),
                2 => put_u64(&mut file, at + ORIGINAL_SIZE, value),
                3 => put_u32(&mut file, at + BLOCK_SIZE, half),
                4 => file[at + ALGO] = low % 4,
                5 => file[at + VERIFY] = low % 3,
                6 => put_u32(&mut file, at + DICT_SIZE, half),
                _ => put_u64(&mut file, at + FLAGS, value),
            }
        }
        for (entry, value) in entries {
            put_u32(&mut file, index + 4 * entry, u32::try_from(value & 0xFFFF_FFFF).unwrap());
        }
        fix_checksums(&mut file);
        if let Ok(zfile) = open(&file) {
            // Three blocks are all there is room for, whatever the fields say.
            prop_assert!(zfile.info().original_len_bytes <= 3 * 65_536);
            if let Ok(found) = read_all(&zfile) {
                prop_assert!(found == content());
            }
        }
    }
}
