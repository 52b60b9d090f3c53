//! Promise: a layer is stored the same way on any number of threads, can be read back, and whatever fails is an error
//! and never a hang.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use blob::test_util::noise;
use blob::{MemoryBlob, ReadAt};
use builder::{CopyError, Expect, PackError, Packed, Packer, Packing, copy_layer, copy_stream};
use image::Source;
use proptest::prelude::*;
use zfile::{Algorithm, WriteError, WriterOptions};

/// Bytes of which some compress, some do not, and some are zero for a while.
fn mixed(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut content = Vec::with_capacity(len + 20_000);
    while content.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let run = usize::try_from(state >> 50).unwrap();
        match state % 4 {
            0 => content.resize(content.len() + run, 0),
            1 => content.extend(b"one two three ".iter().cycle().take(run)),
            2 => content.extend(noise(run, state)),
            _ => content.extend(noise(run, state).iter().map(|byte| byte & 3)),
        }
    }
    content.truncate(len);
    content
}

fn options() -> impl Strategy<Value = WriterOptions> {
    let algorithm = prop_oneof![Just(Algorithm::Lz4), Just(Algorithm::Zstd)];
    let level = prop_oneof![Just(None), Just(Some(1)), Just(Some(9))];
    (algorithm, level, 2..7_u32, any::<bool>()).prop_map(|(algorithm, level, shift, verify)| {
        WriterOptions {
            algorithm,
            level,
            block_size_bytes: 1024 << shift,
            verify,
            allow_oversized_blocks: true,
        }
    })
}

fn pack(packing: &Packing, content: &[u8], piece: usize) -> (Vec<u8>, Packed) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut packer = Packer::new(file.as_file(), packing).unwrap();
    for piece in content.chunks(piece) {
        packer.write_all(piece).unwrap();
    }
    let packed = packer.finish().unwrap();
    (std::fs::read(file.path()).unwrap(), packed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_do_not_depend_on_threads(
        options in options(),
        len in prop_oneof![1..10_000_usize, 1..3_000_000_usize, Just(256 << 10), Just(1 << 20)],
        seed in any::<u64>(),
        piece in prop_oneof![1000..100_000_usize, Just(256 << 10), Just(3 << 20)],
    ) {
        let content = mixed(len, seed);
        let mut writer = zfile::Writer::new(Vec::new(), options.clone()).unwrap();
        writer.append(&content).unwrap();
        let expected = writer.finish_overwriting().unwrap();
        for threads in [1, 2, 5] {
            let packing = Packing { zfile: Some(options.clone()), tar: false, threads };
            let (stored, packed) = pack(&packing, &content, piece);
            prop_assert!(stored == expected, "{} threads", threads);
            let block_count = content.len().div_ceil(options.block_size_bytes as usize) as u64;
            prop_assert_eq!(packed, Packed {
                content_len_bytes: content.len() as u64,
                stored_len_bytes: stored.len() as u64,
                block_count,
            });
        }

        // A stream gets the other form of the header, and nothing else is different.
        let mut stream = Vec::new();
        let packing = Packing { zfile: Some(options), tar: false, threads: 2 };
        let mut packer = Packer::to_stream(&mut stream, &packing).unwrap();
        packer.write_all(&content).unwrap();
        packer.finish().unwrap();
        prop_assert!(stream[512..] == expected[512..] && stream[..512] != expected[..512]);

        // And back, on any number of threads.
        let source = Arc::new(Source::from_blob(Box::new(MemoryBlob::new(stream))).unwrap());
        for threads in [1, 2, 5] {
            let mut copied = Vec::new();
            copy_layer(&source, threads, &(), &mut copied).unwrap();
            prop_assert!(copied == content);
        }
    }

    #[test]
    fn plain_content_is_stored_as_it_is(
        len in prop_oneof![1..10_000_usize, 1..3_000_000_usize],
        seed in any::<u64>(),
        piece in prop_oneof![1..5000_usize, Just(3 << 20)],
        zeroes in prop_oneof![Just(0_usize), 1..50_000_usize],
        tar in any::<bool>(),
    ) {
        let mut content = mixed(len, seed);
        content.resize(len + zeroes, 0);
        let packing = Packing { zfile: None, tar, threads: 0 };
        let (stored, packed) = pack(&packing, &content, piece);
        prop_assert_eq!(packed.content_len_bytes, content.len() as u64);
        prop_assert_eq!(packed.stored_len_bytes, stored.len() as u64);
        if tar {
            let payload = blob::tar::locate(&MemoryBlob::new(stored.clone())).unwrap();
            prop_assert_eq!(payload.len_bytes, content.len() as u64);
            let start = usize::try_from(payload.start).unwrap();
            prop_assert!(stored[start..start + content.len()] == content);
            prop_assert!(stored[start + content.len()..].iter().all(|byte| *byte == 0));
        } else {
            prop_assert!(stored == content);
        }
    }
}

/// Takes some bytes, then nothing any more.
struct Full {
    left: usize,
}

impl Write for Full {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let taken = buf.len().min(self.left);
        self.left -= taken;
        match taken {
            0 => Err(io::ErrorKind::StorageFull.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether disk space is what the error is about, however deep.
fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let io = error.downcast_ref::<io::Error>();
        if io.is_some_and(|io| io.kind() == io::ErrorKind::StorageFull) {
            return true;
        }
        cause = match io.and_then(|io| io.get_ref()) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

#[test]
fn full_disks_are_errors_wherever_they_get_full() {
    let content = mixed(6 << 20, 5);
    for zfile in [None, Some(WriterOptions::default())] {
        let packing = Packing {
            zfile,
            tar: false,
            threads: 3,
        };
        let mut whole = Vec::new();
        let mut packer = Packer::to_stream(&mut whole, &packing).unwrap();
        packer.write_all(&content).unwrap();
        packer.finish().unwrap();
        for left in (0..20)
            .map(|part| whole.len() * part / 20)
            .chain([whole.len() - 1])
        {
            let mut packer = Packer::to_stream(Full { left }, &packing).unwrap();
            match packer.write_all(&content) {
                Err(error) => {
                    assert!(is_full(&error), "{left}: {error:?}");
                    assert!(packing.zfile.is_none() || packer.write_all(b"more").is_err());
                    assert!(packing.zfile.is_none() || packer.finish().is_err());
                }
                Ok(()) => {
                    let error = packer.finish().unwrap_err();
                    assert!(is_full(&error), "{left}: {error:?}");
                }
            }
        }
    }
}

#[test]
fn full_devices_are_errors() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        return;
    };
    for (zfile, tar) in [
        (None, false),
        (None, true),
        (Some(WriterOptions::default()), false),
    ] {
        let packing = Packing {
            zfile,
            tar,
            threads: 2,
        };
        let mut packer = Packer::new(&full, &packing).unwrap();
        let written = packer.write_all(&mixed(5 << 20, 6));
        let error = match written {
            Err(error) => error,
            Ok(()) => io::Error::other(packer.finish().unwrap_err()),
        };
        assert!(is_full(&error), "{error:?}");
    }
}

#[test]
fn blocks_that_grow_too_long_are_refused_with_advice() {
    let mut content = vec![7; 5 << 20];
    content.extend(noise(200_000, 7));
    let packing = Packing {
        zfile: Some(WriterOptions {
            block_size_bytes: 65_536,
            ..WriterOptions::default()
        }),
        tar: false,
        threads: 4,
    };
    let mut packer = Packer::to_stream(io::sink(), &packing).unwrap();
    packer.write_all(&content).unwrap();
    let error = packer.finish().unwrap_err();
    // The first of them, whichever thread was the first to meet one.
    assert!(
        matches!(
            error,
            PackError::ZFile(WriteError::Oversized { block: 80, .. })
        ),
        "{error:?}"
    );
}

#[test]
fn what_cannot_be_stored_is_refused_at_the_start() {
    let options = |algorithm, level, block_size_bytes| Packing {
        zfile: Some(WriterOptions {
            algorithm,
            level,
            block_size_bytes,
            ..WriterOptions::default()
        }),
        ..Packing::default()
    };
    for packing in [
        options(Algorithm::Lz4, Some(13), 4096),
        options(Algorithm::Zstd, Some(23), 4096),
        options(Algorithm::Lz4, None, 5000),
    ] {
        assert!(Packer::to_stream(io::sink(), &packing).is_err());
    }
    let tar = Packing {
        tar: true,
        ..Packing::default()
    };
    let error = Packer::to_stream(io::sink(), &tar).unwrap_err();
    assert!(matches!(error, PackError::TarStream));
    // A ZFile without content is none.
    let packer = Packer::to_stream(io::sink(), &options(Algorithm::Lz4, None, 4096)).unwrap();
    assert!(matches!(
        packer.finish(),
        Err(PackError::ZFile(WriteError::Empty))
    ));
}

#[test]
fn damage_is_an_error_with_its_place() {
    let content = mixed(3 << 20, 9);
    let mut writer = zfile::Writer::new(Vec::new(), WriterOptions::default()).unwrap();
    writer.append(&content).unwrap();
    let mut stored = writer.finish().unwrap();
    let sound = zfile::ZFile::open(MemoryBlob::new(stored.clone())).unwrap();
    let block = sound.plan(400 * 4096, 1).unwrap().stored();
    stored[usize::try_from(block.start).unwrap()] ^= 1;
    let source = Arc::new(Source::from_blob(Box::new(MemoryBlob::new(stored))).unwrap());
    for threads in [1, 4] {
        let mut copied = Vec::new();
        let error = copy_layer(&source, threads, &(), &mut copied).unwrap_err();
        match error {
            CopyError::Read(error) => assert_eq!(error.offset(), 400 * 4096),
            error => panic!("{error:?}"),
        }
        // Nothing wrong is handed on.
        assert!(copied.len() <= 400 * 4096 && content.starts_with(&copied));
        let mut out = Full { left: 100_000 };
        let error = copy_layer(&source, threads, &(), &mut out).unwrap_err();
        assert!(matches!(error, CopyError::Write(_)), "{error:?}");
    }
    assert!(source.len_bytes() == content.len() as u64);
}

fn layer() -> Vec<u8> {
    let options = lsmt::WriterOptions {
        virtual_size_bytes: 1 << 30,
        ..lsmt::WriterOptions::default()
    };
    let mut writer = lsmt::Writer::new(Vec::new(), &options).unwrap();
    writer.data(100, &mixed(1 << 20, 4)).unwrap();
    writer.finish().unwrap()
}

fn stream(mut bytes: &[u8], expect: Expect) -> Result<Vec<u8>, CopyError> {
    let mut copied = Vec::new();
    copy_stream(&mut bytes, expect, &(), &mut copied)?;
    Ok(copied)
}

#[test]
fn streams_are_whole_layers_or_refused() {
    let layer = layer();
    assert!(stream(&layer, Expect::Layer).unwrap() == layer);
    for len in [
        33,
        512,
        4096,
        8191,
        300_000,
        layer.len() - 4096,
        layer.len() - 512,
        layer.len() - 1,
    ] {
        let error = stream(&layer[..len], Expect::Layer).unwrap_err();
        let found = matches!(error, CopyError::Unfinished { len_bytes } if len_bytes == len as u64);
        assert!(found, "{len}: {error:?}");
        assert!(stream(&layer[..len], Expect::Anything).unwrap() == layer[..len]);
    }
    let packed = |packing: &Packing| pack(packing, &layer, 1 << 20).0;
    let zfile = packed(&Packing {
        zfile: Some(WriterOptions::default()),
        ..Packing::default()
    });
    let tar = packed(&Packing {
        tar: true,
        ..Packing::default()
    });
    for bytes in [&zfile, &tar] {
        let error = stream(bytes, Expect::Layer).unwrap_err();
        assert!(matches!(error, CopyError::Packed { .. }), "{error:?}");
        assert!(error.to_string().contains("give it as a file"), "{error}");
    }
    for bytes in [&b""[..], b"LSMT", &[0; 10_000]] {
        let error = stream(bytes, Expect::Layer).unwrap_err();
        assert!(matches!(error, CopyError::NotALayer), "{error:?}");
    }
}
