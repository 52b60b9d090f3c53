//! Promise: however a layer is packed, it is the same layer; what a blob is gets decided by its magic and never by
//! the free text of its author; and what is no layer is refused by its name.

use blob::MemoryBlob;
use blob::tar::{self, TarError};
use blob::test_util::noise;
use image::{LayerError, OpenError, Packing as Found, Source, TarForm};

use crate::support::{
    LZ4, Packing, Range, SECTOR, WRAPPERS, Wrapper, ZSTD, Zip, chain, disk_bytes, layer, open,
    packings, read_all, tagged_layer, tar_checksum,
};

const SECTORS: u64 = 400;

fn ranges() -> Vec<Range> {
    vec![
        Range::data(0, 3, 1),
        Range::zeroed(3, 10),
        Range::data(13, 150, 2),
        Range::data(250, 149, 3),
    ]
}

#[test]
fn every_packing_gives_the_same_disk() {
    let (layer, expected) = (layer(&ranges(), SECTORS), disk_bytes(&ranges(), SECTORS));
    let big = |zip: Zip| Zip {
        block_size_bytes: 65_536,
        verify: false,
        ..zip
    };
    let more = WRAPPERS
        .into_iter()
        .flat_map(|wrapper| [big(LZ4), big(ZSTD)].map(|zip| (wrapper, Some(zip))))
        .map(|(wrapper, zip)| Packing { wrapper, zip });
    let mut fingerprints = Vec::new();
    for packing in packings().into_iter().chain(more) {
        let image = open(vec![packing.pack(&layer)])
            .unwrap_or_else(|error| panic!("{packing:?}: {}", chain(&error)));
        assert!(read_all(&image).unwrap() == expected, "{packing:?}");
        assert_eq!(image.warnings(), [""; 0], "{packing:?}");
        let found = image.disk().layers()[0].source().packing();
        let expected = Found {
            tar: packing.wrapper != Wrapper::Bare,
            compression: packing.zip.map(|zip| zip.algorithm),
        };
        assert_eq!(found, expected, "{packing:?}");
        fingerprints.push(image.disk().fingerprint());
    }
    assert!(fingerprints.iter().all(|print| *print == fingerprints[0]));
}

/// A source can be had even where the layer inside is damaged, so that the damage can be looked at.
#[test]
fn source_shows_what_is_around_the_layer_before_anybody_looks_inside() {
    let layer = layer(&ranges(), SECTORS);
    for packing in packings() {
        let mut blob = packing.pack(&layer);
        let open =
            |blob: &[u8]| Source::from_blob(Box::new(MemoryBlob::new(blob.to_vec()))).unwrap();
        let source = open(&blob);
        let (form, start) = match packing.wrapper {
            Wrapper::Bare => (None, 0),
            Wrapper::Ustar => (Some(TarForm::Plain), 512),
            Wrapper::Pax => (Some(TarForm::Pax), 1536),
        };
        assert_eq!(source.tar(), form, "{packing:?}");
        assert_eq!(source.stored().start(), start);
        assert_eq!(source.zfile().is_some(), packing.zip.is_some());
        let segments = source.layer().unwrap().segments().to_vec();
        let first = segments.first().unwrap();
        assert_eq!(
            (first.disk_sectors(), first.layer_sectors()),
            (0..3, Some(8..11))
        );
        assert_eq!(source.into_layer().unwrap().segments(), segments);
        if packing.zip.is_none() {
            continue;
        }
        // The first stored byte of the first block.
        blob[usize::try_from(start).unwrap() + 512] ^= 0xff;
        let damaged = open(&blob);
        assert!(damaged.zfile().is_some());
        assert!(damaged.layer().is_err(), "{packing:?}");
    }
}

/// A layer whose first sector is a flawless beginning of a tar file, as far as any reader of layers looks.
fn layer_that_says_ustar() -> Vec<u8> {
    const TAG: usize = 134;
    let mut tag = vec![b' '; 255];
    tag[257 - TAG..265 - TAG].copy_from_slice(b"ustar\x0000");
    let draft = tagged_layer(&ranges(), SECTORS, &tag);
    tag[148 - TAG..156 - TAG].copy_from_slice(&tar_checksum(&draft));
    tagged_layer(&ranges(), SECTORS, &tag)
}

#[test]
fn layer_whose_text_looks_like_tar_is_a_layer() {
    let (layer, expected) = (layer_that_says_ustar(), disk_bytes(&ranges(), SECTORS));
    assert!(tar::looks_like_tar(&layer[..SECTOR]));
    let taken_for_tar = tar::locate(&MemoryBlob::new(layer.clone())).unwrap_err();
    assert!(
        !matches!(
            taken_for_tar,
            TarError::Checksum { .. } | TarError::GnuFormat
        ),
        "{taken_for_tar}"
    );
    for packing in packings() {
        let image = open(vec![packing.pack(&layer)])
            .unwrap_or_else(|error| panic!("{packing:?}: {}", chain(&error)));
        assert!(read_all(&image).unwrap() == expected, "{packing:?}");
    }
}

#[test]
fn zfile_whose_unused_bytes_look_like_tar_is_a_zfile() {
    let mut zfile = Zip {
        overwritten: false,
        ..LZ4
    }
    .pack(&layer(&ranges(), SECTORS));
    // Without a digest, as before 2023, the rest of a header is whatever was in the writer's memory.
    let trailer = zfile.len() - SECTOR;
    zfile[32] &= !0x10;
    zfile[trailer + 32] &= !0x10;
    zfile[156] = b'0';
    zfile[257..265].copy_from_slice(b"ustar\x0000");
    zfile[124..136].copy_from_slice(b"00000001000\0");
    let checksum = tar_checksum(&zfile);
    zfile[148..156].copy_from_slice(&checksum);
    // A tar reader would be content with it.
    assert!(
        tar::locate(&MemoryBlob::new(zfile[..1024].to_vec())).is_ok(),
        "{:?}",
        tar::locate(&MemoryBlob::new(zfile[..1024].to_vec()))
    );
    let expected = disk_bytes(&ranges(), SECTORS);
    for wrapper in WRAPPERS {
        let image = open(vec![wrapper.wrap(&zfile)]).unwrap();
        assert!(read_all(&image).unwrap() == expected, "{wrapper:?}");
    }
}

fn refusal(blob: Vec<u8>) -> LayerError {
    match open(vec![blob]) {
        Err(OpenError::Layer { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[test]
fn container_in_a_container_of_its_kind_is_refused() {
    let layer = layer(&ranges(), SECTORS);
    let nested = |blob: Vec<u8>, expected: &str| {
        let error = refusal(blob);
        assert!(matches!(error, LayerError::Nested { .. }), "{error:?}");
        assert_eq!(
            chain(&error),
            format!(
                "holds {expected}: a layer is LSMT, optionally in one ZFile, optionally in one tar"
            )
        );
    };
    for (outer, inner) in [
        (Wrapper::Ustar, Wrapper::Ustar),
        (Wrapper::Ustar, Wrapper::Pax),
        (Wrapper::Pax, Wrapper::Ustar),
        (Wrapper::Pax, Wrapper::Pax),
    ] {
        nested(
            outer.wrap(&inner.wrap(&layer)),
            "a tar file inside a tar file",
        );
        nested(
            outer.wrap(&inner.wrap(&LZ4.pack(&layer))),
            "a tar file inside a tar file",
        );
    }
    for wrapper in WRAPPERS {
        nested(
            wrapper.wrap(&ZSTD.pack(&LZ4.pack(&layer))),
            "a ZFile inside a ZFile",
        );
        nested(
            wrapper.wrap(&LZ4.pack(&Wrapper::Ustar.wrap(&layer))),
            "a tar file inside a ZFile",
        );
    }
}

/// What people pass by mistake, and what it is called.
fn mistakes() -> Vec<(Vec<u8>, &'static str)> {
    let start = |magic: &[u8]| {
        let mut bytes = noise(5000, 9);
        bytes[..magic.len()].copy_from_slice(magic);
        bytes
    };
    vec![
        (
            start(b"\x1f\x8b\x08\x00"),
            "a gzip file (an OCI layer that was never converted?)",
        ),
        (
            start(b"\x28\xb5\x2f\xfd"),
            "a zstd file (an OCI layer that was never converted?)",
        ),
        (start(b"QFI\xfb\0\0\0\x03"), "a qcow2 image"),
        (start(b"ddgzidx\0"), "a turboOCI gzip index"),
        (
            start(b"{\"lowers\":[]}"),
            "JSON (an image configuration goes to --config)",
        ),
        (start(b"\x7fELF"), "an ELF program"),
        (
            start(b"\x01\x02\x03\x04\x05\x06\x07\x08"),
            "the bytes 01 02 03 04 05 06 07 08",
        ),
        (vec![0; 8192], "zeroes"),
        (vec![0xAB], "the bytes ab"),
        (vec![0xAB; 300], "the bytes ab ab ab ab ab ab ab ab"),
        (
            b"LSMT\0\x01\x02\0".to_vec(),
            "the bytes 4c 53 4d 54 00 01 02 00",
        ),
        // The length at which the question "tar?" can be asked at all, and one less.
        (vec![0xCD; 512], "the bytes cd cd cd cd cd cd cd cd"),
        (vec![0xCD; 511], "the bytes cd cd cd cd cd cd cd cd"),
    ]
}

#[test]
fn what_is_no_layer_is_refused_by_its_name() {
    for (bytes, name) in mistakes() {
        let places = [
            (bytes.clone(), "the blob"),
            (Wrapper::Ustar.wrap(&bytes), "the tar member"),
            (Wrapper::Pax.wrap(&bytes), "the tar member"),
            (LZ4.pack(&bytes), "the ZFile's content"),
            (ZSTD.pack(&bytes), "the ZFile's content"),
        ];
        for (blob, place) in places {
            let error = refusal(blob);
            assert!(matches!(error, LayerError::NotALayer { .. }), "{error:?}");
            assert_eq!(
                chain(&error),
                format!(
                    "is not a layer: expected an LSMT, ZFile or ustar magic, found {name} at the start of {place}"
                )
            );
        }
    }
}

#[test]
fn blob_of_nothing_and_tar_of_nothing_are_refused() {
    let error = refusal(Vec::new());
    assert!(matches!(error, LayerError::Empty), "{error:?}");
    assert_eq!(chain(&error), "is empty");
    for wrapper in [Wrapper::Ustar, Wrapper::Pax] {
        let error = refusal(wrapper.wrap(b""));
        assert!(
            matches!(error, LayerError::Tar(TarError::Size { len_bytes: 0, .. })),
            "{error:?}"
        );
    }
}

#[test]
fn beginning_of_a_layer_is_refused_for_what_it_begins_as() {
    let layer = layer(&ranges(), SECTORS);
    let zfile = LZ4.pack(&layer);
    let error = refusal(layer[..300].to_vec());
    assert_eq!(
        chain(&error),
        "LSMT: damaged layer: 300 bytes are too short for a layer"
    );
    let error = refusal(zfile[..300].to_vec());
    assert_eq!(
        chain(&error),
        "ZFile: damaged ZFile: only 300 bytes long, expected at least 517"
    );
    let tar = Wrapper::Ustar.wrap(&layer);
    let error = refusal(tar[..300].to_vec());
    assert!(
        matches!(
            error,
            LayerError::Tar(TarError::TooShort {
                needed_bytes: 512,
                ..
            })
        ),
        "{error:?}"
    );
}
