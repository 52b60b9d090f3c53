//! Promise: every rule of the format is checked, each breach has its own name, and no damage leads to a panic or to
//! bytes that no record maps.
//!
//! Offsets are written out here as the format's documentation has them, independently of the crate's own structs.
#![expect(
    clippy::unwrap_used,
    reason = "a test fails by panicking, in its helpers too"
)]

use std::collections::BTreeSet;

use blob::{MemoryBlob, ReadAt};
use lsmt::test_util::{Run, sealed_in_place};
use lsmt::{
    Corruption, Disk, Extent, Feature, HeaderForm, Kind, Layer, LayerInfo, OpenError, Part,
    StackError, Warning, Writer, WriterOptions, probe,
};

const FLAGS: usize = 28;
const INDEX_OFFSET: usize = 32;
const INDEX_SIZE: usize = 40;
const VIRTUAL_SIZE: usize = 48;
const UUID: usize = 56;
const PARENT_UUID: usize = 93;
const VERSION: usize = 132;
const SUB_VERSION: usize = 133;
const USER_TAG: usize = 134;

/// 4 + 4 sectors of data, so the index starts at sector 16.
const INDEX: usize = 8192;
const TRAILER: usize = INDEX + 4096;
const LEN: usize = TRAILER + 4096;

/// Records: 0..4 at 8, 4..6 zeroed, 10..14 at 12; 253 of padding; a disk of 16 sectors.
fn good() -> Vec<u8> {
    let options = WriterOptions {
        virtual_size_bytes: 16 * 512,
        ..WriterOptions::default()
    };
    let mut writer = Writer::new(Vec::new(), &options).unwrap();
    writer.data(0, &[1; 2048]).unwrap();
    writer.zeroed(4, 2).unwrap();
    writer.data(10, &[2; 2048]).unwrap();
    let bytes = writer.finish().unwrap();
    assert_eq!(bytes.len(), LEN);
    bytes
}

fn with(patches: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = good();
    for (at, patch) in patches {
        bytes[*at..*at + patch.len()].copy_from_slice(patch);
    }
    bytes
}

fn u64_at(at: usize, value: u64) -> Vec<u8> {
    with(&[(at, &value.to_le_bytes())])
}

fn record_at(number: usize, w0: u64, w1: u64) -> Vec<u8> {
    with(&[
        (INDEX + 16 * number, &w0.to_le_bytes()),
        (INDEX + 16 * number + 8, &w1.to_le_bytes()),
    ])
}

fn open(bytes: Vec<u8>) -> Result<Layer<MemoryBlob>, OpenError> {
    Layer::open(MemoryBlob::new(bytes))
}

fn info(bytes: Vec<u8>) -> LayerInfo {
    open(bytes).unwrap().info().clone()
}

/// The name of a variant. Does not compile when a variant is added, until a case below produces it.
fn corruption_name(corruption: &Corruption) -> &'static str {
    match corruption {
        Corruption::TooShort { .. } => "TooShort",
        Corruption::HeaderMagic => "HeaderMagic",
        Corruption::HeaderFlags { .. } => "HeaderFlags",
        Corruption::ReservedFlags { .. } => "ReservedFlags",
        Corruption::TrailerMissing => "TrailerMissing",
        Corruption::TrailerFlags { .. } => "TrailerFlags",
        Corruption::VirtualSizeUnaligned { .. } => "VirtualSizeUnaligned",
        Corruption::IndexInHeader { .. } => "IndexInHeader",
        Corruption::IndexUnaligned { .. } => "IndexUnaligned",
        Corruption::IndexBeyondTrailer { .. } => "IndexBeyondTrailer",
        Corruption::LengthUnaligned { .. } => "LengthUnaligned",
        Corruption::RecordEmpty { .. } => "RecordEmpty",
        Corruption::RecordTooFar { .. } => "RecordTooFar",
        Corruption::RecordOrder { .. } => "RecordOrder",
        Corruption::DataOutOfBounds { .. } => "DataOutOfBounds",
        Corruption::ZeroedOutOfBounds { .. } => "ZeroedOutOfBounds",
    }
}
const CORRUPTION_COUNT: usize = 16;

fn identity_cases() -> Vec<(Vec<u8>, Corruption)> {
    let reserved = |part, flags| Corruption::ReservedFlags { part, flags };
    vec![
        (Vec::new(), Corruption::TooShort { len_bytes: 0 }),
        (
            good()[..4095].to_vec(),
            Corruption::TooShort { len_bytes: 4095 },
        ),
        (with(&[(0, b"l")]), Corruption::HeaderMagic),
        (with(&[(23, b"l")]), Corruption::HeaderMagic),
        (with(&[(FLAGS, &[6])]), Corruption::HeaderFlags { flags: 6 }),
        (with(&[(FLAGS, &[0x47])]), reserved(Part::Header, 0x47)),
        (
            with(&[(FLAGS + 3, &[0x80])]),
            reserved(Part::Header, 0x8000_0007),
        ),
        (
            with(&[(TRAILER + FLAGS, &[0x46])]),
            reserved(Part::Trailer, 0x46),
        ),
        (good()[..4096].to_vec(), Corruption::TrailerMissing),
        (good()[..8191].to_vec(), Corruption::TrailerMissing),
        (with(&[(TRAILER, b"l")]), Corruption::TrailerMissing),
        (with(&[(TRAILER + 8, b"l")]), Corruption::TrailerMissing),
        (
            with(&[(TRAILER + FLAGS, &[7])]),
            Corruption::TrailerFlags { flags: 7 },
        ),
        (
            with(&[(TRAILER + FLAGS, &[4])]),
            Corruption::TrailerFlags { flags: 4 },
        ),
        (
            with(&[(TRAILER + FLAGS, &[2])]),
            Corruption::TrailerFlags { flags: 2 },
        ),
    ]
}

fn geometry_cases() -> Vec<(Vec<u8>, Corruption)> {
    let beyond = |index_offset, record_count| Corruption::IndexBeyondTrailer {
        index_offset,
        record_count,
        trailer_offset: TRAILER as u64,
    };
    let mut odd_length = good();
    odd_length.splice(TRAILER..TRAILER, [0; 8]);
    vec![
        (
            u64_at(TRAILER + VIRTUAL_SIZE, 8191),
            Corruption::VirtualSizeUnaligned {
                virtual_size_bytes: 8191,
            },
        ),
        (
            u64_at(TRAILER + INDEX_OFFSET, 3584),
            Corruption::IndexInHeader { index_offset: 3584 },
        ),
        (
            u64_at(TRAILER + INDEX_OFFSET, 8200),
            Corruption::IndexUnaligned { index_offset: 8200 },
        ),
        (u64_at(TRAILER + INDEX_OFFSET, 8704), beyond(8704, 256)),
        (
            u64_at(TRAILER + INDEX_OFFSET, LEN as u64),
            beyond(LEN as u64, 256),
        ),
        (
            u64_at(TRAILER + INDEX_OFFSET, u64::MAX - 511),
            beyond(u64::MAX - 511, 256),
        ),
        (u64_at(TRAILER + INDEX_SIZE, 257), beyond(8192, 257)),
        (
            u64_at(TRAILER + INDEX_SIZE, 1_000_000),
            beyond(8192, 1_000_000),
        ),
        (
            odd_length,
            Corruption::LengthUnaligned {
                len_bytes: LEN as u64 + 8,
            },
        ),
    ]
}

fn record_cases() -> Vec<(Vec<u8>, Corruption)> {
    let data = |record, mapped_sector, len_sectors| Corruption::DataOutOfBounds {
        record,
        mapped_sector,
        len_sectors,
        index_sector: 16,
    };
    let zeroed = |record, mapped_sector| Corruption::ZeroedOutOfBounds {
        record,
        mapped_sector,
        index_sector: 16,
    };
    let order = |record, first_sector, previous_end_sector| Corruption::RecordOrder {
        record,
        first_sector,
        previous_end_sector,
    };
    let largest = (1 << 50) - 2;
    vec![
        (record_at(0, 0, 8), Corruption::RecordEmpty { record: 0 }),
        (record_at(2, 10, 12), Corruption::RecordEmpty { record: 2 }),
        (
            record_at(2, largest | (2 << 50), 12),
            Corruption::RecordTooFar {
                record: 2,
                end_sector: 1 << 50,
            },
        ),
        (record_at(1, 3 | (2 << 50), 12), order(1, 3, 4)),
        (record_at(2, 4 | (2 << 50), 12), order(2, 4, 6)),
        // A record hidden behind an invalid one is still compared.
        (record_at(4, 13 | (1 << 50), 12), order(4, 13, 14)),
        (record_at(0, 4 << 50, 7), data(0, 7, 4)),
        (record_at(0, 4 << 50, 13), data(0, 13, 4)),
        (record_at(2, 10 | (4 << 50), 16), data(2, 16, 4)),
        (
            record_at(2, 10 | (4 << 50), (1 << 55) - 1),
            data(2, (1 << 55) - 1, 4),
        ),
        (record_at(1, 4 | (2 << 50), 7 | (1 << 55)), zeroed(1, 7)),
        (record_at(1, 4 | (2 << 50), 17 | (1 << 55)), zeroed(1, 17)),
    ]
}

#[test]
fn every_corruption_has_its_own_name() {
    assert_eq!(
        info(good()).segment_count,
        3,
        "or refusing everything would pass"
    );
    let mut seen = BTreeSet::new();
    let cases = [identity_cases(), geometry_cases(), record_cases()];
    for (number, (bytes, expected)) in cases.into_iter().flatten().enumerate() {
        match open(bytes) {
            Err(OpenError::Corrupt(found)) => assert_eq!(found, expected, "case {number}"),
            other => panic!("case {number}: {other:?}, expected {expected:?}"),
        }
        seen.insert(corruption_name(&expected));
    }
    assert_eq!(seen.len(), CORRUPTION_COUNT, "{seen:?}");
}

#[test]
fn every_unsupported_feature_is_refused_by_name() {
    let version = |part, major, minor| Feature::Version { part, major, minor };
    let unsealed = with(&[(FLAGS, &[3])]);
    let mut unpadded = record_at(2, 10 | (4 << 50), 12 | (1 << 56));
    unpadded.splice(TRAILER..TRAILER, [0; 16]);
    let cases = [
        (with(&[(FLAGS, &[1])]), Feature::IndexFile),
        (with(&[(FLAGS, &[1])])[..4096].to_vec(), Feature::IndexFile),
        (unsealed[..TRAILER].to_vec(), Feature::Unsealed),
        (unsealed[..4096].to_vec(), Feature::Unsealed),
        (with(&[(FLAGS, &[0x23])]), Feature::Hybrid),
        (with(&[(TRAILER + FLAGS, &[0x26])]), Feature::Hybrid),
        (with(&[(FLAGS, &[0x0F])]), Feature::GarbageCollection),
        (
            with(&[(TRAILER + FLAGS, &[0x0E])]),
            Feature::GarbageCollection,
        ),
        (
            record_at(2, 10 | (4 << 50), 1 | (1 << 56)),
            Feature::TurboOci,
        ),
        (
            record_at(2, 10 | (4 << 50), 900 | (1 << 56)),
            Feature::TurboOci,
        ),
        (unpadded, Feature::TurboOci),
        (with(&[(VERSION, &[9])]), version(Part::Header, 9, 1)),
        (
            with(&[(TRAILER + SUB_VERSION, &[2])]),
            version(Part::Trailer, 1, 2),
        ),
    ];
    let mut seen = BTreeSet::new();
    for (number, (bytes, expected)) in cases.into_iter().enumerate() {
        match open(bytes) {
            Err(OpenError::Unsupported(found)) => assert_eq!(found, expected, "case {number}"),
            other => panic!("case {number}: {other:?}, expected {expected:?}"),
        }
        // Does not compile when a feature is added.
        seen.insert(match expected {
            Feature::IndexFile => 0,
            Feature::Unsealed => 1,
            Feature::Hybrid => 2,
            Feature::GarbageCollection => 3,
            Feature::TurboOci => 4,
            Feature::Version { .. } => 5,
        });
    }
    assert_eq!(seen.len(), 6);
}

#[test]
fn numbers_beyond_a_limit_are_refused_before_anything_is_allocated() {
    let most = 64 << 40;
    for (bytes, expected) in [
        (
            u64_at(TRAILER + INDEX_SIZE, 1_000_001),
            (1_000_001, 1_000_000),
        ),
        (u64_at(TRAILER + INDEX_SIZE, 1 << 60), (1 << 60, 1_000_000)),
        (
            u64_at(TRAILER + INDEX_SIZE, u64::MAX),
            (u64::MAX, 1_000_000),
        ),
        (
            u64_at(TRAILER + VIRTUAL_SIZE, most + 512),
            (most + 512, most),
        ),
        (u64_at(TRAILER + VIRTUAL_SIZE, u64::MAX), (u64::MAX, most)),
    ] {
        match open(bytes) {
            Err(OpenError::Limit { value, max, .. }) => assert_eq!((value, max), expected),
            other => panic!("{other:?}, expected {expected:?}"),
        }
    }
    assert_eq!(
        info(u64_at(TRAILER + VIRTUAL_SIZE, most)).virtual_size_bytes,
        most
    );
}

#[test]
fn every_bad_stack_has_its_own_name() {
    // `TooManySegments` needs 16 Mi segments; the tests of the merge produce it with a smaller limit.
    let layers = |count, bytes: &[u8]| -> Vec<_> {
        (0..count).map(|_| open(bytes.to_vec()).unwrap()).collect()
    };
    let good = good();
    let sizeless = u64_at(TRAILER + VIRTUAL_SIZE, 0);
    assert_eq!(
        Disk::new(layers(0, &good)).unwrap_err(),
        StackError::NoLayers
    );
    let many = StackError::TooManyLayers {
        count: 256,
        max: 255,
    };
    assert_eq!(Disk::new(layers(256, &good)).unwrap_err(), many);
    assert_eq!(
        Disk::new(layers(3, &sizeless)).unwrap_err(),
        StackError::NoVirtualSize
    );
    assert_eq!(Disk::new(layers(255, &good)).unwrap().segment_count(), 3);
}

#[test]
fn what_the_format_permits_is_not_refused() {
    let last_sector = (1 << 50) - 2;
    let permitted = [
        with(&[(FLAGS, &[0x03])]),
        with(&[(FLAGS, &[0x13]), (TRAILER + FLAGS, &[0x16])]),
        // The size field, reserved bytes and everything behind the structure mean nothing.
        with(&[
            (24, &[0; 4]),
            (130, &[5, 6]),
            (390, &[9; 100]),
            (TRAILER + 390, &[9; 3706]),
        ]),
        u64_at(TRAILER + INDEX_SIZE, 0),
        u64_at(INDEX_OFFSET, u64::MAX),
        // Last expressible sector; zeroed at the very end of the data; touching records; an in-bounds tag.
        record_at(2, last_sector | (1 << 50), 12),
        record_at(2, 10 | (1 << 50), 16 | (1 << 55)),
        record_at(2, 6 | (4 << 50), 12),
        record_at(2, 10 | (4 << 50), 12 | (77 << 56)),
        // Invalid whatever its other bits say, and in the middle.
        record_at(1, u64::MAX, u64::MAX),
        // Two records that share their data.
        record_at(2, 10 | (4 << 50), 8),
    ];
    for (number, bytes) in permitted.into_iter().enumerate() {
        let layer = open(bytes).unwrap_or_else(|error| panic!("case {number}: {error}"));
        read_everything(layer);
    }
    assert!(info(record_at(2, 10 | (4 << 50), 12 | (77 << 56))).tags_present);
    assert_eq!(info(record_at(1, u64::MAX, u64::MAX)).segment_count, 2);
    let form = |flags| info(with(&[(FLAGS, &[flags])])).header_form;
    assert_eq!(form(0x07), HeaderForm::Committed);
    assert_eq!(form(0x03), HeaderForm::SealedInPlace);
    assert_eq!(form(0x13), HeaderForm::SealedSparse);
}

#[test]
fn header_that_disagrees_is_a_warning_and_the_trailer_counts() {
    let differs = |field| vec![Warning::HeaderDiffers { field }];
    let info = |at, byte: u8| info(with(&[(at, &[byte])]));
    let size = info(VIRTUAL_SIZE + 2, 1);
    assert_eq!(
        (size.virtual_size_bytes, size.warnings),
        (8192, differs("virtual size"))
    );
    let named = info(UUID, b'7');
    assert!(named.uuid.is_nil());
    assert_eq!(named.warnings, differs("UUID"));
    assert_eq!(info(PARENT_UUID, b'7').warnings, differs("parent UUID"));
    assert_eq!(info(USER_TAG, b'7').warnings, differs("user tag"));
    assert_eq!(info(USER_TAG + 256, b'7').warnings, []);
}

#[test]
fn texts_without_nul_are_shown_safely() {
    let wild = with(&[
        (TRAILER + UUID, &[0xFF; 37]),
        (TRAILER + PARENT_UUID, &[0; 37]),
        (TRAILER + USER_TAG, &[b'\n'; 256]),
    ]);
    let info = info(wild);
    assert_eq!(info.uuid.to_string(), "\\xff".repeat(37));
    assert!(info.parent_uuid.is_nil() && info.parent_uuid.to_string().is_empty());
    assert_eq!(info.user_tag, [b'\n'; 256]);
}

#[test]
fn fingerprint_follows_what_the_layer_maps() {
    let original = info(good()).fingerprint;
    assert_eq!(info(good()).fingerprint, original);
    assert_ne!(info(record_at(2, 11 | (4 << 50), 12)).fingerprint, original);
    assert_ne!(
        info(u64_at(TRAILER + VIRTUAL_SIZE, 512)).fingerprint,
        original
    );

    let disk = |stack: &[Vec<u8>]| {
        let layers = stack.iter().map(|bytes| open(bytes.clone()).unwrap());
        Disk::new(layers.collect()).unwrap().fingerprint()
    };
    let (a, b) = (good(), u64_at(TRAILER + VIRTUAL_SIZE, 0));
    assert_eq!(disk(&[a.clone(), b.clone()]), disk(&[a.clone(), b.clone()]));
    assert_ne!(disk(&[a.clone(), b.clone()]), disk(&[b, a]));
}

#[test]
fn probe_knows_its_files() {
    let good = good();
    assert_eq!(probe(&good), Some(Kind::ReadOnlyOrData));
    assert_eq!(probe(&good[..32]), Some(Kind::ReadOnlyOrData));
    assert_eq!(probe(&with(&[(FLAGS, &[1])])[..32]), Some(Kind::IndexFile));
    assert_eq!(probe(&good[..31]), None);
    assert_eq!(probe(&[]), None);
    for at in 0..24 {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        assert_eq!(probe(&bytes), None, "byte {at}");
    }
}

/// Reads all there is to read. Whatever the layer says, its bytes come from its data area.
fn read_everything(layer: Layer<MemoryBlob>) {
    let data = 4096..layer.info().index_offset;
    let Ok(disk) = Disk::new(vec![layer]) else {
        return;
    };
    let mut extents = Vec::new();
    disk.resolve(0, disk.len_bytes(), &mut extents).unwrap();
    for extent in &extents {
        if let Extent::Data {
            layer_offset,
            len_bytes,
            ..
        } = *extent
        {
            assert!(data.contains(&layer_offset) && layer_offset + len_bytes <= data.end);
            let mut bytes = vec![0; usize::try_from(len_bytes).unwrap()];
            disk.read_extent(extent, &mut bytes).unwrap();
        }
    }
    let mut bytes = vec![0; usize::try_from(disk.len_bytes().min(1 << 16)).unwrap()];
    disk.read_exact_at(&mut bytes, 0).unwrap();
}

fn sealed() -> Vec<u8> {
    let run = |first_sector, len_sectors, data: Option<u8>| Run {
        first_sector,
        len_sectors,
        data: data.map(|byte| vec![byte; usize::try_from(len_sectors).unwrap() * 512]),
    };
    let runs = [
        run(1, 2, Some(1)),
        run(3, 5, None),
        run(9, 3, Some(2)),
        run(12, 1, Some(3)),
    ];
    sealed_in_place(&runs, 16 * 512, 5)
}

#[test]
fn any_changed_byte_is_refused_or_harmless() {
    let mut opened = 0;
    for whole in [good(), sealed()] {
        let trailer = whole.len() - 4096;
        let index_offset = usize::try_from(info(whole.clone()).index_offset).unwrap();
        let places = (0..390).chain(index_offset..trailer + 390);
        for at in places {
            for change in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xFF] {
                let mut bytes = whole.clone();
                bytes[at] ^= change;
                if let Ok(layer) = open(bytes) {
                    opened += 1;
                    read_everything(layer);
                }
            }
        }
    }
    assert!(opened > 1000, "or this test looks at nothing");
}

#[test]
fn any_truncation_is_refused() {
    for whole in [good(), sealed()] {
        assert!(open(whole.clone()).is_ok());
        for boundary in (0..=whole.len()).step_by(512) {
            for len in [boundary.wrapping_sub(1), boundary, boundary + 1] {
                if len < whole.len() {
                    assert!(open(whole[..len].to_vec()).is_err(), "{len} bytes");
                }
            }
        }
    }
}

#[test]
fn bytes_behind_the_trailer_are_refused() {
    for more in [1, 511, 512, 4096] {
        let mut bytes = good();
        bytes.resize(LEN + more, 0);
        assert!(open(bytes).is_err(), "{more} bytes");
    }
}
