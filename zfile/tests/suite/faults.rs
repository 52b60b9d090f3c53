//! Promise: when the source fails, so does the read, whichever read of the source it was; and a source that
//! lies about data is found out.

use blob::test_util::{Fault, FaultyBlob};
use blob::{MemoryBlob, ReadError, ReadErrorKind};
use zfile::{Algorithm, BlockError, BlockFault, OpenError, WriterOptions, ZFile};

use crate::support::{FORMS, mixed, read_all, write};

#[test]
fn io_error_at_every_read_is_an_error() {
    let content = mixed((2 << 20) + 777, 1);
    for form in FORMS {
        let file = write(&WriterOptions::default(), form, &content);
        let read_at = |n| -> (Result<Vec<u8>, ReadErrorKind>, u64) {
            let source = FaultyBlob::new(MemoryBlob::new(file.clone()), Fault::Io, n);
            match ZFile::open(&source) {
                Ok(zfile) => (read_all(&zfile).map_err(|e| e.kind()), source.reads()),
                Err(OpenError::Read(error)) => (Err(error.kind()), source.reads()),
                Err(other) => panic!("{other:?}"),
            }
        };
        let (whole, reads) = read_at(u64::MAX);
        assert!(whole.unwrap() == content);
        // Header, jump table and trailer, then three runs.
        assert_eq!(reads, 6, "{form:?}");
        for n in 0..reads {
            assert_eq!(read_at(n).0, Err(ReadErrorKind::Io), "{form:?}, read {n}");
        }
    }
}

#[test]
fn flipped_bit_at_every_read_is_never_a_wrong_byte() {
    let content = mixed((2 << 20) + 777, 2);
    for form in FORMS {
        let file = write(&WriterOptions::default(), form, &content);
        for n in 0..6 {
            let source = FaultyBlob::new(MemoryBlob::new(file.clone()), Fault::BitFlip, n);
            let Ok(zfile) = ZFile::open(&source) else {
                assert!(n < 3, "{form:?}, read {n}");
                continue;
            };
            match read_all(&zfile) {
                Ok(found) => assert!(found == content && !zfile.info().warnings.is_empty()),
                Err(error) => assert_checksum(&error, (n - 3) << 20),
            }
        }
    }
}

fn assert_checksum(error: &ReadError, offset: u64) {
    assert_eq!(error.kind(), ReadErrorKind::Corrupt);
    assert_eq!(error.offset(), offset);
    let cause = std::error::Error::source(error).unwrap();
    let block: &BlockError = cause.downcast_ref().unwrap();
    assert_eq!(block.block, offset / 4096);
    assert!(
        matches!(block.fault, BlockFault::Checksum { .. }),
        "{block:?}"
    );
}

#[test]
fn fault_does_not_outlast_the_read() {
    let content = mixed(100_000, 3);
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let options = WriterOptions {
            algorithm,
            ..WriterOptions::default()
        };
        let file = write(&options, FORMS[0], &content);
        let source = FaultyBlob::new(MemoryBlob::new(file), Fault::BitFlip, u64::MAX);
        let zfile = ZFile::open(&source).unwrap();
        let mut scratch = zfile::Scratch::default();
        let mut found = vec![0; 5000];
        for offset in [0, 4000, 50_000] {
            source.arm(0);
            assert!(
                zfile
                    .read_exact_at_with(&mut scratch, &mut found, offset)
                    .is_err()
            );
            zfile
                .read_exact_at_with(&mut scratch, &mut found, offset)
                .unwrap();
            assert!(found == content[usize::try_from(offset).unwrap()..][..5000]);
        }
    }
}
