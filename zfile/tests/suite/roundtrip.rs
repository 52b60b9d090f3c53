//! Promise: whatever is written, in pieces of any size and with any options, is read back, any range of it.

use std::io::Write;

use blob::test_util::{conformance, noise};
use blob::{FileBlob, ReadAt};
use proptest::prelude::*;
use zfile::{
    Algorithm, Assembler, BlockEncoder, Scratch, WriteError, Writer, WriterOptions, ZFile,
};

use crate::support::{FORMS, Form, Parts, mixed, open, write};

fn options() -> impl Strategy<Value = WriterOptions> {
    let algorithm = prop_oneof![Just(Algorithm::Lz4), Just(Algorithm::Zstd)];
    let block_size = prop_oneof![Just(4), Just(8), Just(16), Just(32), Just(64)];
    let level = prop_oneof![Just(None), Just(Some(1)), Just(Some(9))];
    (algorithm, block_size, level, any::<bool>()).prop_map(
        |(algorithm, block_size, level, verify)| WriterOptions {
            algorithm,
            level,
            block_size_bytes: block_size * 1024,
            verify,
            allow_oversized_blocks: true,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn written_content_is_read_back(
        options in options(),
        form in prop_oneof![Just(Form::Overwritten), Just(Form::TrailerOnly)],
        len in prop_oneof![1..10_000_usize, 1..300_000_usize, Just(65_536), Just(131_072)],
        seed in any::<u64>(),
        piece in prop_oneof![1..100_usize, 1..100_000_usize, Just(4096)],
        ranges in prop::collection::vec((any::<prop::sample::Index>(), 0..150_000_usize), 20),
    ) {
        let content = mixed(len, seed);
        let mut writer = Writer::new(Vec::new(), options.clone()).unwrap();
        for piece in content.chunks(piece) {
            writer.write_all(piece).unwrap();
        }
        let file = match form {
            Form::Overwritten => writer.finish_overwriting().unwrap(),
            Form::TrailerOnly => writer.finish().unwrap(),
        };
        // The size of the pieces leaves no trace.
        prop_assert!(file == write(&options, form, &content));

        let zfile = open(&file).unwrap();
        prop_assert!(zfile.info().warnings.is_empty());
        prop_assert_eq!(zfile.info().block_size_bytes, options.block_size_bytes);
        prop_assert_eq!(zfile.info().algorithm, options.algorithm);
        prop_assert_eq!(zfile.info().verify, options.verify);
        prop_assert!(zfile.info().has_digest);
        conformance(&zfile, &content);
        let mut scratch = Scratch::default();
        for (start, len) in ranges {
            let start = start.index(content.len());
            let expected = &content[start..content.len().min(start + len)];
            let mut found = vec![0xA5; expected.len()];
            zfile.read_exact_at_with(&mut scratch, &mut found, start as u64).unwrap();
            prop_assert!(found == expected);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    /// Blocks that several encoders have made in any order make the same file as a writer.
    #[test]
    fn shared_out_blocks_make_the_same_file(
        options in options(),
        len in prop_oneof![1..300_000_usize, Just(65_536), Just(131_072)],
        seed in any::<u64>(),
        encoders in 1..4_usize,
    ) {
        let content = mixed(len, seed);
        let block_size = options.block_size_bytes as usize;
        let blocks: Vec<&[u8]> = content.chunks(block_size).collect();
        let mut encoders: Vec<_> = (0..encoders).map(|_| BlockEncoder::new(&options).unwrap()).collect();
        let mut stored = vec![Vec::new(); blocks.len()];
        for number in (0..blocks.len()).rev() {
            let chosen = number * 7 % encoders.len();
            let encoded = encoders[chosen].encode(number as u64, blocks[number], &mut stored[number]).unwrap();
            prop_assert_eq!(encoded, stored[number].len());
        }
        let mut assembler = Assembler::new(Vec::new(), &options).unwrap();
        for (block, stored) in blocks.iter().zip(&stored) {
            assembler.append(block.len(), stored).unwrap();
        }
        prop_assert_eq!(assembler.block_count(), blocks.len() as u64);
        let file = assembler.finish_overwriting().unwrap();
        prop_assert!(file == write(&options, Form::Overwritten, &content));
    }
}

#[test]
fn blocks_out_of_place_are_refused() {
    let options = WriterOptions::default();
    let assembler = || Assembler::new(Vec::new(), &options).unwrap();
    for (content_bytes, stored) in [(0, &[1][..]), (4097, &[1]), (usize::MAX, &[1]), (4096, &[])] {
        let mut assembler = assembler();
        assert!(matches!(
            assembler.append(content_bytes, stored),
            Err(WriteError::Misplaced { block: 0, .. })
        ));
        // It stays so.
        assert!(matches!(
            assembler.append(4096, &[1]),
            Err(WriteError::Broken)
        ));
        assert!(matches!(assembler.finish(), Err(WriteError::Broken)));
    }
    // Nothing follows a short block.
    let mut assembler = assembler();
    assembler.append(4096, &[1]).unwrap();
    assembler.append(10, &[1]).unwrap();
    let error = assembler.append(4096, &[1]).unwrap_err();
    assert!(
        matches!(
            error,
            WriteError::Misplaced {
                block: 2,
                content_bytes: 10,
                ..
            }
        ),
        "{error}"
    );
    let mut encoder = BlockEncoder::new(&options).unwrap();
    for content in [&[][..], &[0; 4097]] {
        let mut stored = vec![9];
        assert!(matches!(
            encoder.encode(3, content, &mut stored),
            Err(WriteError::Misplaced { block: 3, .. })
        ));
        assert_eq!(stored, [9]);
    }
}

#[test]
fn long_reads_take_several_runs() {
    let content = mixed((5 << 20) + 12_345, 8);
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let options = WriterOptions {
            algorithm,
            ..WriterOptions::default()
        };
        let zfile = open(&write(&options, Form::Overwritten, &content)).unwrap();
        conformance(&zfile, &content);
        let mut found = vec![0; 3 << 20];
        zfile.read_exact_at(&mut found, 1_000_001).unwrap();
        assert!(found == content[1_000_001..][..3 << 20]);
    }
}

#[test]
fn lengths_around_block_borders_are_read_back() {
    let content = noise(3 * 4096 + 1, 5);
    for len in [1, 2, 4095, 4096, 4097, 8191, 8192, 8193, 12_288, 12_289] {
        for form in FORMS {
            let zfile = open(&write(&WriterOptions::default(), form, &content[..len])).unwrap();
            assert_eq!(zfile.info().block_count, len.div_ceil(4096) as u64);
            conformance(&zfile, &content[..len]);
        }
    }
}

#[test]
fn jump_tables_longer_than_one_chunk_are_read() {
    let content_len = (262_144 + 1000) * 4096;
    let parts = Parts {
        form: Form::TrailerOnly,
        algo: 1,
        block_size: 4096,
        verify: true,
        content_len,
        payloads: vec![lz4_flex::block::compress(&[7; 4096]); 263_144],
    };
    let zfile = open(&parts.assemble()).unwrap();
    assert_eq!(zfile.info().block_count, 263_144);
    let mut found = [0; 10_000];
    zfile
        .read_exact_at(&mut found, 262_144 * 4096 - 5000)
        .unwrap();
    assert_eq!(found, [7; 10_000]);
    zfile
        .read_exact_at(&mut found, content_len - 10_000)
        .unwrap();
    assert_eq!(found, [7; 10_000]);
}

#[test]
fn planned_ranges_decode_without_the_source() {
    let content = mixed(50_000, 6);
    let file = write(&WriterOptions::default(), Form::Overwritten, &content);
    let zfile = open(&file).unwrap();
    let mut scratch = Scratch::default();
    for (offset, len, blocks) in [
        (0, 50_000, 0..13),
        (4095, 2, 0..2),
        (8192, 4096, 2..3),
        (49_999, 1, 12..13),
    ] {
        let run = zfile.plan(offset, len).unwrap();
        assert_eq!(run.blocks(), blocks);
        assert_eq!(run.content(), offset..offset + len as u64);
        assert_eq!(zfile.locate(offset), Some(run.stored().start));
        let stored = usize::try_from(run.stored().start).unwrap()
            ..usize::try_from(run.stored().end).unwrap();
        let mut out = vec![0xA5; len];
        zfile
            .decode(&run, &file[stored.clone()], &mut scratch, &mut out)
            .unwrap();
        assert!(out == content[usize::try_from(offset).unwrap()..][..len]);
        // Buffers of the wrong length are refused, not read past.
        assert!(
            zfile
                .decode(
                    &run,
                    &file[stored.start + 1..stored.end],
                    &mut scratch,
                    &mut out
                )
                .is_err()
        );
        out.push(0);
        assert!(
            zfile
                .decode(&run, &file[stored], &mut scratch, &mut out)
                .is_err()
        );
    }
    for outside in [50_000, u64::MAX] {
        assert_eq!(zfile.locate(outside), None, "{outside}");
    }
    let empty = zfile.plan(50_000, 0).unwrap();
    assert!(empty.blocks().is_empty() && empty.stored().is_empty() && empty.content().is_empty());
    zfile.decode(&empty, &[], &mut scratch, &mut []).unwrap();
    for (offset, len) in [
        (50_000, 1),
        (0, 50_001),
        (u64::MAX, 0),
        (u64::MAX, usize::MAX),
    ] {
        assert!(zfile.plan(offset, len).is_err(), "{offset} {len}");
    }
}

#[test]
fn file_is_overwritten_in_place() {
    let path = std::env::temp_dir().join(format!("zfile-roundtrip-{}", std::process::id()));
    let content = mixed(100_000, 9);
    let file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut writer = Writer::new(std::io::BufWriter::new(file), WriterOptions::default()).unwrap();
    writer.append(&content).unwrap();
    drop(writer.finish_overwriting().unwrap());
    let zfile = ZFile::open(FileBlob::open(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let zfile = zfile.unwrap();
    assert_eq!(zfile.info().index_source, zfile::Place::Header);
    conformance(&zfile, &content);
    assert_eq!(
        zfile.source().len_bytes(),
        write(&WriterOptions::default(), Form::Overwritten, &content).len() as u64
    );
}

#[test]
fn writer_refuses_what_cannot_be_read() {
    let refusal = |options: WriterOptions, content: &[u8]| {
        let mut writer = Writer::new(Vec::new(), options)?;
        writer.append(content)?;
        writer.finish()
    };
    let default = WriterOptions::default();
    assert!(matches!(
        refusal(default.clone(), b""),
        Err(WriteError::Empty)
    ));
    for found in [0, 512, 2048, 3000, 131_072, u32::MAX] {
        let options = WriterOptions {
            block_size_bytes: found,
            ..default.clone()
        };
        assert!(
            matches!(refusal(options, b"x"), Err(WriteError::BlockSize { found: f }) if f == found)
        );
    }
    let options = WriterOptions {
        algorithm: Algorithm::Zstd,
        level: Some(100),
        ..default.clone()
    };
    assert!(matches!(
        refusal(options, b"x"),
        Err(WriteError::Level { found: 100, .. })
    ));
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let options = WriterOptions {
            algorithm,
            block_size_bytes: 65_536,
            ..default.clone()
        };
        let error = refusal(options.clone(), &noise(200_000, 1)).unwrap_err();
        assert!(
            matches!(
                error,
                WriteError::Oversized {
                    block: 0,
                    max: 65_532,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.to_string().contains("32 KiB"), "{error}");
        refusal(options, &mixed(2_000_000, 2)[..1000]).unwrap();
    }
}

/// Takes some bytes, then fails once.
struct Failing {
    left: usize,
}

impl Write for Failing {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        if self.left == 0 {
            self.left = usize::MAX;
            return Err(std::io::Error::other("full"));
        }
        let taken = buf.len().min(self.left);
        self.left -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn writer_that_failed_once_stays_failed() {
    let content = noise(20_000, 3);
    for left in (1..512).step_by(100) {
        let writer = Writer::new(Failing { left }, WriterOptions::default());
        assert!(matches!(writer, Err(WriteError::Io(_))), "{left}");
    }
    for left in (513..20_000).step_by(997) {
        let mut writer = Writer::new(Failing { left }, WriterOptions::default()).unwrap();
        if writer.append(&content).is_err() {
            assert!(matches!(writer.append(&content), Err(WriteError::Broken)));
            assert!(matches!(writer.finish(), Err(WriteError::Broken)));
        } else {
            assert!(matches!(writer.finish(), Err(WriteError::Io(_))), "{left}");
        }
    }
}

#[test]
fn threads_share_a_file_each_with_its_own_scratch() {
    let content = mixed(500_000, 10);
    let options = WriterOptions {
        algorithm: Algorithm::Zstd,
        ..WriterOptions::default()
    };
    let zfile = open(&write(&options, Form::Overwritten, &content)).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (zfile, content) = (&zfile, &content);
            let mut scratch = Scratch::default();
            scope.spawn(move || {
                let mut found = vec![0; 10_000];
                for offset in (thread * 1000..490_000).step_by(7777) {
                    zfile
                        .read_exact_at_with(&mut scratch, &mut found, offset as u64)
                        .unwrap();
                    assert!(found == content[offset..][..10_000]);
                }
            });
        }
    });
}

#[test]
fn runs_are_cut_where_blocks_end() {
    const BLOCK: u64 = 4096;
    let content = mixed(50_000, 6);
    let file = write(&WriterOptions::default(), Form::Overwritten, &content);
    let zfile = open(&file).unwrap();
    for (offset, len) in [(0, 50_000), (4095, 2), (5000, 30_000), (49_000, 1000)] {
        let run = zfile.plan(offset, len).unwrap();
        let len = len as u64;
        let stored_bytes = usize::try_from(run.stored().end - run.stored().start).unwrap();
        for within in (0..=stored_bytes + 9).step_by(7).chain([stored_bytes]) {
            // As many blocks as lie in these bytes, one after another.
            let mut expected = 0;
            while expected < len {
                let block_end = ((offset + expected) / BLOCK + 1) * BLOCK;
                let whole = block_end.min(offset + len) - offset;
                let part = zfile.plan(offset, usize::try_from(whole).unwrap()).unwrap();
                if part.stored().end - part.stored().start > within as u64 {
                    break;
                }
                expected = whole;
            }
            assert_eq!(
                zfile.content_within(&run, within) as u64,
                expected,
                "{within}"
            );
        }
        for first in [0, 1, 95, 96, 97, 4096, 29_999, 30_000, 1 << 40] {
            let end = (offset + first).next_multiple_of(BLOCK).min(offset + len);
            let found = zfile.whole_blocks(&run, usize::try_from(first).unwrap());
            assert_eq!(found as u64, end.saturating_sub(offset), "{first}");
        }
        assert_eq!(zfile.whole_blocks(&run, usize::MAX) as u64, len);
        assert_eq!(zfile.content_within(&run, usize::MAX) as u64, len);
    }
    let empty = zfile.plan(50_000, 0).unwrap();
    assert_eq!(zfile.content_within(&empty, 100), 0);
    assert_eq!(zfile.whole_blocks(&empty, 100), 0);
}
