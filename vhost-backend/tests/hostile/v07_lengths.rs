//! Lengths and addresses at the edge of everything.

use crate::attack::{Attack, DATA, HEADER, HEADER_PIECE, HOLE, Piece, STATUS, STATUS_PIECE};
use crate::family::Family;
use crate::support::driver::WRITE;
use crate::support::guest::{BORDER, BUFFERS, END, RINGS};
use crate::support::image::SECTORS;

const fn data(address: u64, len: u32) -> [Piece; 3] {
    [HEADER_PIECE, (address, len, WRITE), STATUS_PIECE]
}

const fn header(address: u64) -> [Piece; 3] {
    [(address, 16, 0), (DATA, 512, WRITE), STATUS_PIECE]
}

const fn status(address: u64, len: u32) -> [Piece; 3] {
    [HEADER_PIECE, (DATA, 512, WRITE), (address, len, WRITE)]
}

/// Legal, however close to an edge.
const LEGAL: [(&str, [Piece; 3]); 24] = [
    ("data ends where memory ends", data(END - 512, 512)),
    (
        "data in the region of the rings",
        data(RINGS + 0x1_8000, 512),
    ),
    ("data ends where the hole begins", data(HOLE - 4096, 4096)),
    (
        "data begins where the hole ends",
        [
            (BUFFERS + 0x2000, 16, 0),
            (BUFFERS, 512, WRITE),
            (BUFFERS + 0x2100, 1, WRITE),
        ],
    ),
    (
        "data ends at the border of two regions",
        data(BORDER - 512, 512),
    ),
    ("data begins at the border", data(BORDER, 512)),
    ("one byte of data before the border", data(BORDER - 1, 512)),
    (
        "one byte of data behind the border",
        data(BORDER - 511, 512),
    ),
    (
        "data at an odd address across the border",
        data(BORDER - 4097, 8192),
    ),
    ("data at an odd address", data(DATA + 1, 4096)),
    ("header ends where memory ends", header(END - 16)),
    ("header ends where the hole begins", header(HOLE - 16)),
    ("header begins at the border", header(BORDER)),
    ("header ends at the border", header(BORDER - 16)),
    ("header with 1 byte before the border", header(BORDER - 1)),
    ("header with 7 bytes before the border", header(BORDER - 7)),
    ("header with 8 bytes before the border", header(BORDER - 8)),
    (
        "header with 15 bytes before the border",
        header(BORDER - 15),
    ),
    ("header at an odd address", header(HEADER + 3)),
    ("status is the last byte of memory", status(END - 1, 1)),
    (
        "status is the last byte before the hole",
        status(HOLE - 1, 1),
    ),
    (
        "status is the last byte before the border",
        status(BORDER - 1, 1),
    ),
    (
        "status is the first byte behind the border",
        status(BORDER, 1),
    ),
    (
        "status is the first byte behind the hole",
        [
            (BUFFERS + 0x2000, 16, 0),
            (DATA, 512, WRITE),
            (BUFFERS, 1, WRITE),
        ],
    ),
];

/// Requests that point to where no memory is.
const NOWHERE: [(&str, [Piece; 3]); 26] = [
    ("data begins where memory ends", data(END, 512)),
    ("data ends one byte behind memory", data(END - 511, 512)),
    ("data has one byte of memory, then none", data(END - 1, 512)),
    ("data in the hole", data(HOLE + 0x1000, 512)),
    ("data ends in the hole", data(HOLE - 256, 512)),
    (
        "data begins in the hole and ends in memory",
        data(BUFFERS - 256, 512),
    ),
    ("data spans the hole", data(HOLE - 512, 0x3FE0_0400)),
    (
        "data wraps around the end of addresses",
        data(u64::MAX - 255, 512),
    ),
    (
        "data ends at the end of addresses",
        data(u64::MAX - 511, 512),
    ),
    ("data begins at the last address", data(u64::MAX, 512)),
    ("data at the middle of addresses", data(1 << 63, 512)),
    (
        "data where the front-end, not the guest, sees memory",
        data(0x20_0000_0000, 512),
    ),
    ("header begins where memory ends", header(END)),
    ("header ends one byte behind memory", header(END - 15)),
    ("header in the hole", header(HOLE + 0x1000)),
    ("header ends in the hole", header(HOLE - 8)),
    (
        "header wraps around the end of addresses",
        header(u64::MAX - 7),
    ),
    ("header at the last address", header(u64::MAX)),
    ("status where memory ends", status(END, 1)),
    ("status in the hole", status(HOLE, 1)),
    ("status at the last address", status(u64::MAX, 1)),
    (
        "status wraps around the end of addresses",
        status(u64::MAX, 2),
    ),
    (
        "status behind memory, one byte of data in it",
        status(END - 1, 2),
    ),
    ("data of 511 bytes", data(DATA, 511)),
    ("data of 513 bytes", data(DATA, 513)),
    ("data of one byte", data(DATA, 1)),
];

/// Lengths that no request has.
const HUGE: [(&str, &[Piece]); 9] = [
    ("data of 2^32 - 1 bytes", &data(DATA, u32::MAX)),
    ("data of 2^31 bytes", &data(DATA, 1 << 31)),
    (
        "header, data and status of 2^32 - 1 bytes together",
        &data(DATA, u32::MAX - 17),
    ),
    (
        "header, data and status of 2^32 bytes together",
        &data(DATA, u32::MAX - 16),
    ),
    (
        "two data buffers of 2^32 - 1 bytes",
        &[
            HEADER_PIECE,
            (DATA, u32::MAX, WRITE),
            (DATA, u32::MAX, WRITE),
            STATUS_PIECE,
        ],
    ),
    (
        "100 data buffers of 2^32 - 1 bytes",
        &const {
            let mut pieces = [(DATA, u32::MAX, WRITE); 102];
            pieces[0] = HEADER_PIECE;
            pieces[101] = STATUS_PIECE;
            pieces
        },
    ),
    (
        "header of 2^32 - 1 bytes",
        &[(HEADER, u32::MAX, 0), (DATA, 512, WRITE), STATUS_PIECE],
    ),
    (
        "two data buffers that together are one sector more than 2^32",
        &[
            HEADER_PIECE,
            (DATA, 1 << 31, WRITE),
            (DATA, (1 << 31) + 512, WRITE),
            STATUS_PIECE,
        ],
    ),
    (
        "status of 2^32 - 1 bytes",
        &[HEADER_PIECE, (DATA, 512, WRITE), (STATUS, u32::MAX, WRITE)],
    ),
];

fn nowhere(attack: &mut Attack<'_>, pieces: &[Piece]) -> String {
    let report = attack.run(0, 3, pieces);
    attack.refused(&report)
}

#[test]
fn lengths() {
    let mut family = Family::start("V-07", "Lengths and addresses at the edge");
    for (name, pieces) in LEGAL {
        family.guest(format!("legal: {name}"), |attack| {
            let report = attack.run(0, 3, &pieces);
            attack.right(&report, 3)
        });
    }
    for (name, pieces) in NOWHERE {
        family.guest(name, |attack| nowhere(attack, &pieces));
    }
    for (name, pieces) in HUGE {
        family.guest(name, |attack| nowhere(attack, pieces));
    }
    family.guest(
        "legal: the whole disk in one buffer across the border",
        |attack| {
            let len = u32::try_from(SECTORS * 512).unwrap();
            let report = attack.run(0, 0, &data(BORDER - 0x10_0001, len));
            attack.right(&report, 0)
        },
    );
    family.guest(
        "legal: data in 126 buffers of one byte and the rest",
        |attack| {
            let mut pieces = vec![HEADER_PIECE];
            pieces.extend((0..125).map(|number| (DATA + 16 * number, 1, WRITE)));
            pieces.extend([(DATA + 0x1000, 512 - 125, WRITE), STATUS_PIECE]);
            let report = attack.run(0, 3, &pieces);
            attack.right(&report, 3)
        },
    );
    family.guest("legal: 512 buffers of one byte in a table", |attack| {
        let mut pieces = vec![HEADER_PIECE];
        pieces.extend((0..512).map(|number| (DATA + 17 * number, 1, WRITE)));
        pieces.push(STATUS_PIECE);
        let report = attack.run_indirect((0, 3), BUFFERS + 0x20_0000, 0, &pieces);
        attack.right(&report, 3)
    });
    family.guest("legal: no data", |attack| {
        let report = attack.run(0, 3, &[HEADER_PIECE, STATUS_PIECE]);
        attack.right(&report, 3)
    });
    family.guest(
        "more buffers than the disk has bytes, all in one place",
        |attack| {
            let mut pieces = vec![HEADER_PIECE];
            pieces.extend((0..1000).map(|_| (DATA, 1 << 20, WRITE)));
            pieces.push(STATUS_PIECE);
            let report = attack.run_indirect((0, 3), BUFFERS + 0x20_0000, 0, &pieces);
            attack.refused(&report)
        },
    );
    family.finish();
}
