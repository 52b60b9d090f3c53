//! Promise: what is written is, byte for byte outside of compressed payloads, what the tools that made the
//! format write, and their bytes are read back right. The example and its digests come from those tools.

use std::fmt::Write;

use blob::ReadAt;
use blob::test_util::conformance;
use sha2::{Digest, Sha256};
use zfile::{Place, WriterOptions};

use crate::support::{FORMS, Form, Parts, open, write};

const OVERWRITTEN_SHA256: &str = "2c1649cf768203a84f25028b37d326032e34e5844df89afe22b8de81fab8d18b";
const TRAILER_ONLY_SHA256: &str =
    "9adf744cff8eadfe280cac02334fffb4713d59beada1de9779e3189cf47fdc1c";

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut hex, byte| {
            write!(hex, "{byte:02x}").unwrap();
            hex
        })
}

fn content() -> Vec<u8> {
    [
        vec![b'A'; 4096],
        b"0123456789abcdef".repeat(37),
        b"END.".to_vec(),
    ]
    .concat()
}

/// 4096 times the letter A, then the rest of the content, as the tools compressed them.
fn payloads() -> Vec<Vec<u8>> {
    let first = [
        b"\x1FA\x01\x00".to_vec(),
        vec![0xFF; 15],
        b"\xF6\x50AAAAA".to_vec(),
    ]
    .concat();
    let second = b"\xFF\x010123456789abcdef\x10\x00\xFF\xFF\x2E\x50fEND.".to_vec();
    vec![first, second]
}

fn assemble(form: Form, payloads: Vec<Vec<u8>>) -> Vec<u8> {
    Parts {
        form,
        algo: 1,
        block_size: 4096,
        verify: true,
        content_len: 4692,
        payloads,
    }
    .assemble()
}

#[test]
fn example_of_the_reference_tools_is_read() {
    for (form, expected, place) in [
        (Form::Overwritten, OVERWRITTEN_SHA256, Place::Header),
        (Form::TrailerOnly, TRAILER_ONLY_SHA256, Place::Trailer),
    ] {
        let file = assemble(form, payloads());
        assert_eq!(sha256(&file), expected);
        let zfile = open(&file).unwrap();
        assert_eq!(zfile.info().index_source, place);
        assert!(zfile.info().warnings.is_empty());
        conformance(&zfile, &content());
    }
}

#[test]
fn example_is_written_as_by_the_reference_tools() {
    for form in FORMS {
        let file = write(&WriterOptions::default(), form, &content());
        // Compressors may find different matches, so the payloads are our own. Everything around them, put
        // together as the tools do, must be the same.
        let zfile = open(&file).unwrap();
        let payloads = [(0, 4096), (4096, 596)].map(|(offset, len)| {
            let stored = zfile.plan(offset, len).unwrap().stored();
            let mut payload = vec![0; usize::try_from(stored.end - stored.start).unwrap()];
            zfile
                .source()
                .read_exact_at(&mut payload, stored.start)
                .unwrap();
            payload.truncate(payload.len() - 4);
            payload
        });
        assert!(file == assemble(form, payloads.to_vec()), "{form:?}");
    }
}
