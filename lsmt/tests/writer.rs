//! Promise: what we write is what the reference's commit writes, byte for byte, and nothing that a reader would
//! refuse gets written.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::fmt::Write as _;
use std::io;

use blob::{MemoryBlob, ReadAt};
use lsmt::{
    Disk, HeaderForm, Layer, LayerInfo, MAX_VIRTUAL_SIZE_BYTES, Uuid, WriteError, Writer,
    WriterOptions,
};
use sha2::{Digest, Sha256};

fn hex_sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })
}

fn sized(virtual_size_bytes: u64) -> WriterOptions {
    WriterOptions {
        virtual_size_bytes,
        ..WriterOptions::default()
    }
}

fn writer(virtual_size_bytes: u64) -> Writer<Vec<u8>> {
    Writer::new(Vec::new(), &sized(virtual_size_bytes)).unwrap()
}

fn info(bytes: &[u8]) -> LayerInfo {
    let layer = Layer::open(MemoryBlob::new(bytes.to_vec())).unwrap();
    layer.info().clone()
}

/// (first, len, mapped, zeroed) of every valid record of a committed layer.
fn records(bytes: &[u8]) -> Vec<(u64, u64, u64, bool)> {
    let info = info(bytes);
    let index = &bytes[usize::try_from(info.index_offset).unwrap()..bytes.len() - 4096];
    assert_eq!(index.len() % 4096, 0, "padded to 256 records");
    let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    index
        .chunks_exact(16)
        .map(|record| (word(&record[..8]), word(&record[8..])))
        .take(info.segment_count)
        .map(|(w0, w1)| {
            (
                w0 & ((1 << 50) - 1),
                w0 >> 50,
                w1 & ((1 << 55) - 1),
                w1 >> 55 == 1,
            )
        })
        .collect()
}

#[test]
fn one_record_layer_is_the_reference_output() {
    let options = WriterOptions {
        virtual_size_bytes: 1 << 20,
        uuid: Uuid::from_text(*b"11111111-2222-4333-8444-AABBCCDDEEFF"),
        parent_uuid: Uuid::from_text(*b"99999999-2222-4333-8444-AABBCCDDEEFF"),
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    writer.data(8, &b"overlaybd-spec!!".repeat(256)).unwrap();
    let bytes = writer.finish().unwrap();
    assert_eq!(bytes.len(), 16_384);
    assert_eq!(
        hex_sha256(&bytes),
        "68978c0ba87a0eff86f80f57b0bc2b354f2138a270fc635e54d642830e7ea8bf"
    );

    let info = info(&bytes);
    assert_eq!(info.virtual_size_bytes, 1 << 20);
    assert_eq!(
        info.uuid.to_string(),
        "11111111-2222-4333-8444-AABBCCDDEEFF"
    );
    assert_eq!(info.parent_uuid, options.parent_uuid);
    assert_eq!((info.record_count, info.segment_count), (256, 1));
    assert_eq!((info.data_sectors, info.zeroed_sectors), (8, 0));
    assert_eq!(info.header_form, HeaderForm::Committed);
    assert_eq!((info.tags_present, info.warnings), (false, vec![]));
    assert_eq!(info.user_tag, b"");
}

#[test]
fn long_data_is_cut_where_committers_cut_it() {
    let mut w = writer(1 << 30);
    w.data(3, &vec![1; 40_000 * 512]).unwrap();
    assert_eq!(
        records(&w.finish().unwrap()),
        [
            (3, 16_320, 8, false),
            (16_323, 16_320, 16_328, false),
            (32_643, 7_360, 32_648, false),
        ]
    );
}

#[test]
fn long_zeroed_range_is_cut_into_the_longest_records() {
    let mut w = writer(1 << 30);
    w.zeroed(0, 40_000).unwrap();
    assert_eq!(
        records(&w.finish().unwrap()),
        [
            (0, 16_383, 8, true),
            (16_383, 16_383, 8, true),
            (32_766, 7_234, 8, true),
        ]
    );
}

#[test]
fn only_what_touches_and_is_alike_is_merged() {
    let mut w = writer(1 << 30);
    w.data(0, &[1; 1024]).unwrap();
    w.data(2, &[2; 512]).unwrap();
    w.zeroed(3, 1).unwrap();
    w.zeroed(4, 2).unwrap();
    w.data(6, &[3; 512]).unwrap();
    w.data(8, &[4; 512]).unwrap();
    w.zeroed(9, 0).unwrap();
    w.data(9, &[]).unwrap();
    assert_eq!(
        records(&w.finish().unwrap()),
        [
            (0, 3, 8, false),
            (3, 3, 11, true),
            (6, 1, 11, false),
            (8, 1, 12, false),
        ]
    );
}

#[test]
fn merging_stops_below_the_longest_record() {
    // 16382 is reached, 16383 is not: committers compare strictly.
    for (first_len, second_len, expected) in [(16_381, 1, 1), (16_382, 1, 2), (16_383, 1, 2)] {
        let mut w = writer(1 << 30);
        w.zeroed(0, first_len).unwrap();
        w.zeroed(first_len, second_len).unwrap();
        assert_eq!(records(&w.finish().unwrap()).len(), expected, "{first_len}");
    }
}

#[test]
fn empty_layer_hides_nothing() {
    let size = 64 * 512;
    let mut lower = writer(size);
    lower.data(0, &[7; 64 * 512]).unwrap();
    let lower = lower.finish().unwrap();
    for avoid_empty_index in [true, false] {
        for virtual_size_bytes in [0, size] {
            let options = WriterOptions {
                virtual_size_bytes,
                avoid_empty_index,
                ..WriterOptions::default()
            };
            let upper = Writer::new(Vec::new(), &options).unwrap().finish().unwrap();
            assert_eq!(
                upper.len(),
                if avoid_empty_index {
                    3 * 4096
                } else {
                    2 * 4096
                }
            );
            let layers = [&lower, &upper].map(|bytes| MemoryBlob::new(bytes.clone()));
            let layers = layers.into_iter().map(|blob| Layer::open(blob).unwrap());
            let disk = Disk::new(layers.collect()).unwrap();
            assert_eq!(disk.segment_count(), 1);
            let mut bytes = vec![0; 64 * 512];
            disk.read_exact_at(&mut bytes, 0).unwrap();
            assert_eq!(bytes, [7; 64 * 512]);
        }
    }
}

#[test]
fn user_tag_comes_back() {
    let tag = |len| WriterOptions {
        user_tag: vec![b'x'; len],
        ..sized(512)
    };
    let bytes = Writer::new(Vec::new(), &tag(255))
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(info(&bytes).user_tag, [b'x'; 255]);
    assert!(matches!(
        Writer::new(Vec::new(), &tag(256)),
        Err(WriteError::UserTagTooLong {
            len_bytes: 256,
            max: 255
        })
    ));
}

#[test]
fn sizes_that_no_reader_takes_are_refused() {
    for size in [1, 511, 513, MAX_VIRTUAL_SIZE_BYTES + 512, u64::MAX] {
        let result = Writer::new(Vec::new(), &sized(size));
        assert!(
            matches!(result, Err(WriteError::VirtualSize { .. })),
            "{size}"
        );
    }
    assert!(Writer::new(Vec::new(), &sized(MAX_VIRTUAL_SIZE_BYTES)).is_ok());
}

#[test]
fn ranges_out_of_order_or_out_of_the_disk_are_refused() {
    let mut w = writer(10 * 512);
    w.data(4, &[0; 1024]).unwrap();
    assert!(matches!(
        w.data(5, &[0; 512]),
        Err(WriteError::OutOfOrder {
            first_sector: 5,
            previous_end_sector: 6
        })
    ));
    assert!(matches!(w.zeroed(0, 1), Err(WriteError::OutOfOrder { .. })));
    assert!(matches!(
        w.data(6, &[0; 511]),
        Err(WriteError::PartialSector { len_bytes: 511 })
    ));
    assert!(matches!(
        w.data(9, &[0; 1024]),
        Err(WriteError::BeyondEnd {
            first_sector: 9,
            len_sectors: 2,
            max_sector: 10
        })
    ));
    assert!(matches!(
        w.zeroed(u64::MAX, 2),
        Err(WriteError::BeyondEnd { .. })
    ));
    w.zeroed(6, 4).unwrap();
    assert_eq!(info(&w.finish().unwrap()).segment_count, 2);
}

#[test]
fn more_records_than_a_reader_takes_are_refused() {
    let mut w = writer(1 << 40);
    for k in 0..999_936 {
        w.zeroed(2 * k, 1).unwrap();
    }
    let error = w.zeroed(2 * 999_936, 1).unwrap_err();
    assert!(matches!(error, WriteError::TooManyRecords { max: 999_936 }));
    assert_eq!(info(&w.finish().unwrap()).record_count, 999_936);
}

/// An output that is full after some bytes.
struct Full {
    room: usize,
}

impl io::Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        Ok(taken)
    }

    /// Fails where the room was exactly enough for what was written, and no byte more.
    fn flush(&mut self) -> io::Result<()> {
        match self.room {
            0 => Err(io::Error::other("cannot flush")),
            _ => Ok(()),
        }
    }
}

#[test]
fn output_that_fails_is_an_error_wherever_it_happens() {
    let whole = 4096 + 512 + 4096 + 4096;
    for room in [
        0,
        4095,
        4096,
        4607,
        4608,
        8703,
        8704,
        whole - 1,
        whole,
        whole + 1,
    ] {
        let result = Writer::new(Full { room }, &sized(512))
            .and_then(|mut w| w.data(0, &[1; 512]).map(|()| w))
            .and_then(Writer::finish);
        match result {
            Ok(_) => assert_eq!(room, whole + 1),
            Err(error) => assert!(
                matches!(error, WriteError::Io(_)) && room <= whole,
                "{room}"
            ),
        }
    }
}

#[test]
fn padding_makes_every_part_a_multiple_of_4096_and_changes_nothing_else() {
    for sectors in [0_usize, 1, 7, 8, 9, 100] {
        let options = |pad_data| WriterOptions {
            pad_data,
            ..sized(1 << 20)
        };
        let layer = |pad_data| {
            let mut writer = Writer::new(Vec::new(), &options(pad_data)).unwrap();
            writer.zeroed(3, 2).unwrap();
            writer.data(10, &vec![7; sectors * 512]).unwrap();
            assert_eq!(writer.data_sectors(), sectors as u64);
            assert_eq!(writer.zeroed_sectors(), 2);
            writer.finish().unwrap()
        };
        let (plain, padded) = (layer(false), layer(true));
        assert_eq!(padded.len() % 4096, 0);
        assert_eq!(info(&padded).index_offset % 4096, 0);
        assert_eq!(records(&padded), records(&plain));
        assert_eq!(padded.len(), plain.len().next_multiple_of(4096));
    }
}

#[test]
fn leftovers_beyond_the_virtual_size_are_written_where_that_is_allowed() {
    let options = WriterOptions {
        beyond_virtual_size: true,
        ..sized(4096)
    };
    let mut roomy = Writer::new(Vec::new(), &options).unwrap();
    roomy.data(100, &[7; 512]).unwrap();
    let last = MAX_VIRTUAL_SIZE_BYTES / 512 - 1;
    roomy.zeroed(last, 1).unwrap();
    assert!(matches!(
        roomy.zeroed(last + 1, 1),
        Err(WriteError::BeyondEnd { .. })
    ));
    let bytes = roomy.finish().unwrap();
    let layers = vec![Layer::open(MemoryBlob::new(bytes)).unwrap()];
    let disk = Disk::with_len(layers, 1 << 20).unwrap();
    let mut sector = [0; 512];
    disk.read_exact_at(&mut sector, 100 * 512).unwrap();
    assert_eq!(sector, [7; 512]);
    assert!(matches!(
        writer(4096).data(100, &[7; 512]),
        Err(WriteError::BeyondEnd { .. })
    ));
}
