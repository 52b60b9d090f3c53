//! Wrapping a layer in tar: the PAX form, as the reference tools write it.

use super::{BLOCK_LEN_BYTES, PAX_PAYLOAD_START};

const BLOCK: usize = 512;
/// Two zero blocks end an archive.
const END_OF_ARCHIVE_BLOCKS: u64 = 2;

/// The bytes that go before a payload of `payload_len_bytes`.
///
/// The size stands in a PAX record, because the header's own field ends at 8 GiB; the member's header says 0, as
/// every reader of layers knows it.
#[must_use]
pub fn wrap_header(payload_len_bytes: u64) -> Vec<u8> {
    let record = size_record(payload_len_bytes);
    let mut bytes = header(b"overlaybd.pax", b'x', record.len());
    bytes.extend_from_slice(record.as_bytes());
    bytes.resize(2 * BLOCK, 0);
    bytes.extend(header(b"overlaybd.commit", b'0', 0));
    debug_assert_eq!(
        bytes.len() as u64,
        PAX_PAYLOAD_START,
        "reader and writer agree on the payload's place"
    );
    bytes
}

/// How many zero bytes go behind a payload of `payload_len_bytes`: padding and the end of the archive.
#[must_use]
pub fn wrap_trailer_len_bytes(payload_len_bytes: u64) -> u64 {
    let partial = payload_len_bytes % BLOCK_LEN_BYTES;
    let padding = if partial == 0 {
        0
    } else {
        BLOCK_LEN_BYTES.saturating_sub(partial)
    };
    padding.saturating_add(END_OF_ARCHIVE_BLOCKS.saturating_mul(BLOCK_LEN_BYTES))
}

/// `NN size=DECIMAL\n`, where NN counts itself.
fn size_record(payload_len_bytes: u64) -> String {
    let body = format!(" size={payload_len_bytes}\n");
    let mut len = body.len();
    while len != body.len().saturating_add(len.to_string().len()) {
        len = body.len().saturating_add(len.to_string().len());
    }
    format!("{len}{body}")
}

/// One header block: numbers right-aligned behind spaces, as the reference writes them.
fn header(name: &[u8], member_type: u8, size: usize) -> Vec<u8> {
    let mut block = vec![0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| {
        let field = block.iter_mut().skip(at).zip(bytes);
        field.for_each(|(to, from)| *to = *from);
    };
    put(0, name);
    put(124, format!("{size:11o} ").as_bytes());
    put(156, &[member_type]);
    put(257, b"ustar\0");
    put(263, b"00");
    if member_type == b'0' {
        put(100, b"100644 \0");
        put(108, b"     0 \0");
        put(116, b"     0 \0");
        put(136, b"          0 ");
        put(265, b"root");
        put(297, b"root");
    }
    put(148, b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    let field = format!("{sum:6o} \0");
    block
        .iter_mut()
        .skip(148)
        .zip(field.as_bytes())
        .for_each(|(to, from)| *to = *from);
    block
}

#[cfg(test)]
mod tests {
    use super::super::{Payload, locate, looks_like_tar};
    use super::*;
    use crate::MemoryBlob;

    #[test]
    fn what_is_wrapped_is_found_again() {
        for len in [1, 98, 99, 511, 512, 513, 5430, 99_999] {
            let mut tar = wrap_header(len);
            tar.resize(
                tar.len() + usize::try_from(len + wrap_trailer_len_bytes(len)).unwrap(),
                0,
            );
            assert_eq!(tar.len() % 512, 0);
            assert!(looks_like_tar(&tar));
            let payload = locate(&MemoryBlob::new(tar)).unwrap();
            assert_eq!(
                payload,
                Payload {
                    start: 1536,
                    len_bytes: len,
                    pax: true
                }
            );
        }
    }

    #[test]
    fn headers_add_up_as_the_reference_writes_them() {
        let header = wrap_header(380_619);
        assert_eq!(&header[148..156], b"  5356 \0");
        assert_eq!(&header[512..527], b"15 size=380619\n");
        assert_eq!(&header[1024 + 148..1024 + 156], b" 12025 \0");
    }

    #[test]
    fn record_counts_its_own_length() {
        assert_eq!(size_record(5430), "13 size=5430\n");
        assert_eq!(size_record(1), "9 size=1\n");
        assert_eq!(size_record(12), "11 size=12\n");
        assert_eq!(size_record(u64::MAX), "29 size=18446744073709551615\n");
    }
}
