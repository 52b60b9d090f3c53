//! Promise: a block decodes to exactly the bytes its place demands, from exactly the bytes stored for it, or the
//! read fails and says where; other blocks stay readable.

use blob::test_util::{conformance, noise};
use blob::{ReadAt, ReadError, ReadErrorKind};
use zfile::{Algorithm, BlockError, BlockFault, Scratch, WriterOptions};

use crate::support::{Form, Parts, chain, mixed, open, read_all, write};

const BLOCK: usize = 4096;

fn lz4(content: &[u8]) -> Vec<u8> {
    lz4_flex::block::compress(content)
}

fn zstd(content: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; zstd_safe::compress_bound(content.len())];
    let len = zstd_safe::compress(&mut frame[..], content, 3).unwrap();
    frame.truncate(len);
    frame
}

/// Three blocks, of which the middle one is stored as `payload`; the last one is 100 bytes long.
fn with_middle(algo: u8, verify: bool, payload: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let content = mixed(2 * BLOCK + 100, 9);
    let compress = if algo == 1 { lz4 } else { zstd };
    let payloads = vec![
        compress(&content[..BLOCK]),
        payload.to_vec(),
        compress(&content[2 * BLOCK..]),
    ];
    let content_len = content.len() as u64;
    let file = Parts {
        form: Form::Overwritten,
        algo,
        block_size: 4096,
        verify,
        content_len,
        payloads,
    }
    .assemble();
    (file, content)
}

/// The middle block fails for the expected reason, and nothing else does.
fn assert_middle_fails(
    algo: u8,
    verify: bool,
    payload: &[u8],
    expected: impl Fn(&BlockFault) -> bool,
) {
    let (file, content) = with_middle(algo, verify, payload);
    let zfile = open(&file).unwrap();
    let mut first = vec![0; BLOCK];
    zfile.read_exact_at(&mut first, 0).unwrap();
    assert!(first == content[..BLOCK]);
    let mut last = vec![0; 100];
    zfile.read_exact_at(&mut last, 2 * BLOCK as u64).unwrap();
    assert!(last == content[2 * BLOCK..]);

    // Whole, in part, and in passing.
    for (offset, len) in [
        (BLOCK, BLOCK),
        (BLOCK + 10, 20),
        (BLOCK - 1, 2),
        (0, content.len()),
    ] {
        let error = zfile
            .read_exact_at(&mut vec![0; len], offset as u64)
            .unwrap_err();
        assert_eq!(error.kind(), ReadErrorKind::Corrupt);
        assert_eq!(error.offset(), BLOCK as u64);
    }
    let error = read_all(&zfile).unwrap_err();
    let cause = std::error::Error::source(&error).unwrap();
    let cause: &BlockError = cause.downcast_ref().unwrap();
    assert_eq!(cause.block, 1);
    let stored = zfile.plan(BLOCK as u64, 1).unwrap().stored();
    assert_eq!(cause.stored_offset, stored.start);
    assert!(expected(&cause.fault), "{:?}", cause.fault);
}

#[test]
fn block_that_decodes_to_less_is_refused() {
    for verify in [true, false] {
        for (algo, payload) in [
            (1, lz4(&[7; 512])),
            (2, zstd(&[7; 512])),
            (1, lz4(&[])),
            (2, zstd(&[])),
        ] {
            assert_middle_fails(algo, verify, &payload, |fault| {
                matches!(
                    fault,
                    BlockFault::Length {
                        found_bytes: 0 | 512,
                        expected_bytes: 4096
                    }
                )
            });
        }
    }
}

#[test]
fn block_that_decodes_to_more_is_refused() {
    for content in [vec![7; 4097], vec![7; 8192], vec![7; 1 << 20]] {
        for verify in [true, false] {
            assert_middle_fails(
                1,
                verify,
                &lz4(&content)[..]
                    .iter()
                    .copied()
                    .take(4132)
                    .collect::<Vec<_>>(),
                |fault| matches!(fault, BlockFault::Lz4(_)),
            );
            assert_middle_fails(2, verify, &zstd(&content), |fault| {
                matches!(fault, BlockFault::Zstd { .. })
            });
        }
    }
}

#[test]
fn noise_with_a_right_checksum_is_refused() {
    for seed in 0..50 {
        let mut payload = noise(2000, seed);
        // The first token asks for literals and a match; what follows is up to chance.
        payload[0] |= 0xF1;
        assert_middle_fails(1, true, &payload, |fault| {
            matches!(fault, BlockFault::Lz4(_) | BlockFault::Length { .. })
        });
        assert_middle_fails(2, true, &payload, |fault| {
            matches!(fault, BlockFault::ZstdMagic)
        });
        payload[..4].copy_from_slice(&[0x28, 0xB5, 0x2F, 0xFD]);
        assert_middle_fails(2, true, &payload, |fault| {
            matches!(
                fault,
                BlockFault::Zstd { .. } | BlockFault::ZstdTrailing { .. }
            )
        });
    }
}

#[test]
fn zstd_block_is_exactly_one_standard_frame() {
    let content = vec![7; BLOCK];
    let frame = zstd(&content);
    let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 4, 0, 0, 0][..], b"skip"].concat();
    let two_halves = [zstd(&content[..BLOCK / 2]), zstd(&content[BLOCK / 2..])].concat();

    assert_middle_fails(2, true, &two_halves, |fault| {
        matches!(fault, BlockFault::ZstdTrailing { .. })
    });
    assert_middle_fails(2, true, &[&frame[..], &skippable].concat(), |fault| {
        matches!(fault, BlockFault::ZstdTrailing { .. })
    });
    assert_middle_fails(2, true, &[&frame[..], &[0]].concat(), |fault| {
        matches!(fault, BlockFault::ZstdTrailing { frame_bytes, payload_bytes }
            if *frame_bytes == frame.len() && *payload_bytes == frame.len() + 1)
    });
    for payload in [[&skippable[..], &frame].concat(), skippable] {
        assert_middle_fails(2, true, &payload, |fault| {
            matches!(fault, BlockFault::ZstdMagic)
        });
    }
    for len in 4..frame.len() {
        assert_middle_fails(2, true, &frame[..len], |fault| {
            matches!(fault, BlockFault::Zstd { .. })
        });
    }
}

#[test]
fn block_of_the_other_algorithm_is_refused() {
    let content = mixed(BLOCK, 3);
    assert_middle_fails(2, true, &lz4(&content), |fault| {
        matches!(fault, BlockFault::ZstdMagic)
    });
    assert_middle_fails(1, true, &zstd(&content), |_| true);
}

#[test]
fn last_block_must_be_as_short_as_the_content() {
    let content = vec![7; BLOCK + 100];
    for (algo, compress) in [(1, lz4 as fn(&[u8]) -> Vec<u8>), (2, zstd)] {
        for (len, accepted) in [(99, false), (100, true), (101, false), (BLOCK, false)] {
            let payloads = vec![compress(&content[..BLOCK]), compress(&content[..len])];
            let content_len = content.len() as u64;
            let file = Parts {
                form: Form::Overwritten,
                algo,
                block_size: 4096,
                verify: true,
                content_len,
                payloads,
            }
            .assemble();
            let found = read_all(&open(&file).unwrap());
            assert_eq!(found.is_ok(), accepted, "algorithm {algo}, {len} bytes");
            assert!(found.is_err() || found.unwrap() == content);
        }
    }
}

#[test]
fn short_block_in_the_middle_is_refused() {
    // What a writer makes that ends a block whenever its input pauses.
    let content = vec![7; BLOCK + 100];
    let payloads = vec![lz4(&content[..100]), lz4(&content[100..])];
    let content_len = content.len() as u64;
    let file = Parts {
        form: Form::Overwritten,
        algo: 1,
        block_size: 4096,
        verify: true,
        content_len,
        payloads,
    }
    .assemble();
    assert!(read_all(&open(&file).unwrap()).is_err());
}

#[test]
fn blocks_that_grew_beyond_64_kib_are_read() {
    let content = noise(3 * 65_536 + 5, 4);
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let options = WriterOptions {
            algorithm,
            block_size_bytes: 65_536,
            allow_oversized_blocks: true,
            ..WriterOptions::default()
        };
        let zfile = open(&write(&options, Form::Overwritten, &content)).unwrap();
        let stored = zfile.plan(0, 65_536).unwrap().stored();
        assert!(stored.end - stored.start > 65_536);
        conformance(&zfile, &content);
    }
}

/// `len` bytes from `offset` on, decoded no further than they are wanted, and how much was decoded of the last block.
fn only_wanted(file: &[u8], offset: usize, len: usize) -> Result<(Vec<u8>, usize), ReadError> {
    let zfile = open(file).unwrap();
    let run = zfile.plan(offset as u64, len)?;
    let mut stored = vec![0; usize::try_from(run.stored().end - run.stored().start).unwrap()];
    zfile
        .source()
        .read_exact_at(&mut stored, run.stored().start)?;
    let mut scratch = Scratch::default();
    let mut blocks = zfile.blocks(&run, &stored, &mut scratch)?.only_wanted();
    let (mut bytes, mut decoded) = (Vec::new(), 0);
    while let Some(block) = blocks.next()? {
        bytes.extend_from_slice(block.wanted());
        decoded = block.content().len();
        assert!(decoded <= block.block_len());
    }
    Ok((bytes, decoded))
}

#[test]
fn what_is_behind_the_wanted_part_of_a_block_may_stay_undecoded() {
    const LARGE: usize = 65_536;
    let content = mixed(2 * LARGE + 1000, 5);
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        for verify in [true, false] {
            let options = WriterOptions {
                algorithm,
                block_size_bytes: 65_536,
                verify,
                ..WriterOptions::default()
            };
            let file = write(&options, Form::Overwritten, &content);
            for (offset, len) in [
                (0, 1),
                (5000, 4096),
                (LARGE - 512, 512),
                (LARGE - 1, 2),
                (30_000, LARGE),
                (2 * LARGE, 999),
                (2 * LARGE + 999, 1),
                (0, content.len()),
            ] {
                let (bytes, decoded) = only_wanted(&file, offset, len).unwrap();
                assert!(bytes == content[offset..][..len]);
                let last = (offset + len - 1) / LARGE * LARGE;
                let whole = LARGE.min(content.len() - last);
                let wanted = offset + len - last;
                assert!(decoded >= wanted);
                // Without a checksum, only decoding a block tells whether it is good.
                let may_stop = algorithm == Algorithm::Lz4 && verify;
                assert!(may_stop || decoded == whole);
                assert!(!may_stop || decoded < whole || wanted + 600 > whole);
            }
        }
    }
}

#[test]
fn fault_behind_the_wanted_part_of_a_block_is_found_unless_a_checksum_vouches_for_it() {
    let content = mixed(BLOCK, 9);
    let mut payload = lz4(&content);
    // What stands for the last match is not there any more.
    payload.truncate(payload.len() - 40);
    for verify in [true, false] {
        let (file, _) = with_middle(1, verify, &payload);
        let first = only_wanted(&file, BLOCK, 100);
        assert_eq!(first.is_ok(), verify);
        let all = only_wanted(&file, BLOCK, BLOCK).unwrap_err();
        assert_eq!(all.kind(), ReadErrorKind::Corrupt);
    }
    // A block that ends before what is wanted of it.
    let (file, _) = with_middle(1, true, &lz4(&content[..3000]));
    let error = only_wanted(&file, BLOCK + 2900, 200).unwrap_err();
    assert_eq!(error.kind(), ReadErrorKind::Corrupt);
}

#[test]
fn errors_say_which_block_and_where() {
    let error = read_all(&open(&with_middle(2, true, &zstd(&[7; 512])).0).unwrap()).unwrap_err();
    let text = chain(&error);
    assert!(
        text.starts_with("damaged data at byte 4096: block 1, stored at byte "),
        "{text}"
    );
    assert!(
        text.ends_with(": decodes to 512 bytes, expected 4096"),
        "{text}"
    );
}
