//! Promise: files from 2021 open, although everything in their headers that had no meaning then is garbage.

use blob::test_util::{conformance, noise};
use zfile::{Algorithm, Corruption, OpenError, Place, Warning, WriterOptions};

use crate::support::{
    ALGO, BLOCK_SIZE, DIGEST, FLAGS, FORMS, Form, INDEX_CRC, INDEX_OFFSET, INDEX_SIZE,
    ORIGINAL_SIZE, USE_DICT, mixed, open, put_u32, put_u64, trailer, write,
};

/// Puts garbage where a header or trailer of 2021 has it.
fn litter(file: &mut [u8], at: usize, flags: u64) {
    let garbage = noise(512, flags);
    put_u64(file, at + FLAGS, flags);
    for range in [DIGEST..DIGEST + 4, INDEX_CRC..72, 77..78, 79..84, 89..512] {
        file[at + range.start..at + range.end].copy_from_slice(&garbage[range]);
    }
}

/// The flags are those of the base layer that most images stand on.
fn legacy(content: &[u8], options: &WriterOptions) -> Vec<u8> {
    let mut file = write(options, Form::TrailerOnly, content);
    litter(&mut file, 0, 0x0000_7FFE_A464_0B43);
    for field in [INDEX_OFFSET, INDEX_SIZE, ORIGINAL_SIZE] {
        put_u64(&mut file, field, 0x7FFE_A464_1234_5678);
    }
    let trailer = trailer(&file);
    litter(&mut file, trailer, 0x0000_7FFE_A464_0B46);
    file
}

#[test]
fn file_from_2021_opens_and_reads_right() {
    let content = mixed(100_000, 1);
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let options = WriterOptions {
            algorithm,
            ..WriterOptions::default()
        };
        let zfile = open(&legacy(&content, &options)).unwrap();
        assert_eq!(zfile.info().index_source, Place::Trailer);
        assert!(!zfile.info().has_digest);
        assert!(zfile.info().warnings.is_empty());
        conformance(&zfile, &content);
    }
}

#[test]
fn garbage_that_claims_a_final_header_is_settled_by_the_trailer() {
    let content = mixed(100_000, 2);
    for index_offset in [0, 511, 600, 0x7FFE_A464_1234_5678, u64::MAX] {
        let mut file = legacy(&content, &WriterOptions::default());
        litter(&mut file, 0, 0x0000_7FFE_A464_0B4B);
        put_u64(&mut file, INDEX_OFFSET, index_offset);
        let zfile = open(&file).unwrap();
        assert_eq!(zfile.info().index_source, Place::Trailer);
        assert_eq!(zfile.info().warnings, [Warning::HeaderImplausible]);
        conformance(&zfile, &content);
    }
}

#[test]
fn impossible_header_without_a_usable_trailer_is_refused_for_its_own_fault() {
    let mut file = legacy(&mixed(10_000, 3), &WriterOptions::default());
    litter(&mut file, 0, 0x0000_7FFE_A464_0B4B);
    put_u32(&mut file, BLOCK_SIZE, 3000);
    let trailer = trailer(&file);
    file[trailer] ^= 1;
    let error = open(&file).unwrap_err();
    assert!(
        matches!(
            error,
            OpenError::Corrupt(Corruption::BlockSize { found: 3000 })
        ),
        "{error:?}"
    );
}

#[test]
fn final_header_from_before_digests_is_used() {
    let content = mixed(100_000, 4);
    let mut file = write(&WriterOptions::default(), Form::Overwritten, &content);
    let trailer = trailer(&file);
    litter(&mut file, 0, 0x0B);
    litter(&mut file, trailer, 0x06);
    let zfile = open(&file).unwrap();
    assert_eq!(zfile.info().index_source, Place::Header);
    assert!(!zfile.info().has_digest);
    assert!(zfile.info().warnings.is_empty());
    conformance(&zfile, &content);
}

/// One program writes header and trailer, so a file has digests in both or in neither.
#[test]
fn digest_in_one_place_only_is_a_warning() {
    let content = mixed(10_000, 6);
    for form in FORMS {
        for place in [Place::Header, Place::Trailer] {
            let mut file = write(&WriterOptions::default(), form, &content);
            let at = match place {
                Place::Header => 0,
                Place::Trailer => trailer(&file),
            };
            file[at + FLAGS] ^= 0x10;
            let zfile = open(&file).unwrap();
            let differs = Warning::TrailerDiffers { field: "flags" };
            assert_eq!(zfile.info().warnings, [differs], "{form:?} {place}");
            conformance(&zfile, &content);
        }
    }
}

#[test]
fn fields_with_a_meaning_are_checked_in_old_files_too() {
    for (field, value) in [(ALGO, 9), (ALGO, 0), (USE_DICT, 1)] {
        let mut file = legacy(&mixed(10_000, 5), &WriterOptions::default());
        let trailer = trailer(&file);
        file[trailer + field] = value;
        assert!(open(&file).is_err(), "byte {field} = {value}");
    }
}
