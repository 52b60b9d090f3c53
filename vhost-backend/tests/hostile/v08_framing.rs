//! Headers and statuses cut in every way.

use crate::attack::{Attack, DATA, HEADER, HEADER_PIECE, Piece, STATUS, STATUS_PIECE};
use crate::family::Family;
use crate::support::driver::WRITE;

const DATA_PIECE: Piece = (DATA, 512, WRITE);

/// Every one of these reads sector 3 and must succeed.
const LEGAL: [(&str, &[Piece]); 11] = [
    (
        "header of 17 bytes",
        &[(HEADER, 17, 0), DATA_PIECE, STATUS_PIECE],
    ),
    (
        "header of 4096 bytes",
        &[(HEADER + 0x4000, 4096, 0), DATA_PIECE, STATUS_PIECE],
    ),
    (
        "header and 512 readable bytes more",
        &[
            HEADER_PIECE,
            (HEADER + 0x400, 512, 0),
            DATA_PIECE,
            STATUS_PIECE,
        ],
    ),
    (
        "header in 16 pieces of one byte, backwards in memory",
        &const {
            let mut pieces = [STATUS_PIECE; 18];
            let mut byte = 0;
            while byte < 16 {
                pieces[byte] = (HEADER + 15 - byte as u64, 1, 0);
                byte += 1;
            }
            pieces[16] = DATA_PIECE;
            pieces
        },
    ),
    (
        "data and status in one piece",
        &[HEADER_PIECE, (DATA, 513, WRITE)],
    ),
    (
        "data in two pieces, the second with the status",
        &[HEADER_PIECE, (DATA, 100, WRITE), (DATA + 0x800, 413, WRITE)],
    ),
    (
        "status before the data in memory",
        &[HEADER_PIECE, (DATA + 1, 512, WRITE), (DATA, 1, WRITE)],
    ),
    (
        "the last byte of the last piece of one byte is the status",
        &[HEADER_PIECE, (STATUS, 1, WRITE), (DATA, 512, WRITE)],
    ),
    (
        "status of 513 bytes, of which 512 are data",
        &[HEADER_PIECE, (STATUS + 0x1000, 513, WRITE)],
    ),
    (
        "status of 512 bytes and one byte of data",
        &[
            HEADER_PIECE,
            (DATA, 1, WRITE),
            (STATUS + 0x1000, 512, WRITE),
        ],
    ),
    (
        "pieces in descending order of address",
        &[
            (HEADER + 0x3000, 16, 0),
            (HEADER + 0x2000, 256, WRITE),
            (HEADER + 0x1000, 256, WRITE),
            (HEADER + 0x500, 1, WRITE),
        ],
    ),
];

/// None of these is a request that can succeed.
const REFUSED: [(&str, &[Piece]); 18] = [
    ("no status", &[HEADER_PIECE]),
    ("no status, readable data", &[HEADER_PIECE, (DATA, 512, 0)]),
    (
        "read-only status",
        &[HEADER_PIECE, DATA_PIECE, (STATUS, 1, 0)],
    ),
    (
        "read-only data and status",
        &[HEADER_PIECE, (DATA, 512, 0), (STATUS, 1, 0)],
    ),
    (
        "empty status",
        &[HEADER_PIECE, DATA_PIECE, (STATUS, 0, WRITE)],
    ),
    (
        "status of 2 bytes",
        &[HEADER_PIECE, DATA_PIECE, (STATUS, 2, WRITE)],
    ),
    (
        "status of 16 bytes",
        &[HEADER_PIECE, DATA_PIECE, (STATUS, 16, WRITE)],
    ),
    (
        "status of 4096 bytes",
        &[HEADER_PIECE, DATA_PIECE, (STATUS + 0x1000, 4096, WRITE)],
    ),
    ("no header", &[DATA_PIECE, STATUS_PIECE]),
    ("only a status", &[STATUS_PIECE]),
    ("only the first byte of a header", &[(HEADER, 1, 0)]),
    (
        "writable header",
        &[(HEADER, 16, WRITE), DATA_PIECE, STATUS_PIECE],
    ),
    (
        "header of which the second half is writable",
        &[
            (HEADER, 8, 0),
            (HEADER + 8, 8, WRITE),
            DATA_PIECE,
            STATUS_PIECE,
        ],
    ),
    (
        "header of which the first half is writable",
        &[
            (HEADER, 8, WRITE),
            (HEADER + 8, 8, 0),
            DATA_PIECE,
            STATUS_PIECE,
        ],
    ),
    (
        "readable piece behind the data",
        &[HEADER_PIECE, DATA_PIECE, (HEADER, 16, 0), STATUS_PIECE],
    ),
    (
        "readable piece behind the status",
        &[HEADER_PIECE, DATA_PIECE, STATUS_PIECE, (HEADER, 16, 0)],
    ),
    (
        "status first, then header and data",
        &[STATUS_PIECE, HEADER_PIECE, DATA_PIECE],
    ),
    (
        "header behind data and status",
        &[DATA_PIECE, STATUS_PIECE, HEADER_PIECE],
    ),
];

fn cut_header(cut: u32) -> [Piece; 4] {
    [
        (HEADER, cut, 0),
        (HEADER + 0x80, 16 - cut, 0),
        DATA_PIECE,
        STATUS_PIECE,
    ]
}

fn short(attack: &mut Attack<'_>, len: u32) -> String {
    let report = attack.run(0, 3, &[(HEADER, len, 0), DATA_PIECE, STATUS_PIECE]);
    attack.refused(&report)
}

#[test]
fn framing() {
    let mut family = Family::start("V-08", "Headers and statuses cut in every way");
    for cut in 1..16 {
        family.guest(format!("legal: header cut at byte {cut}"), |attack| {
            let report = attack.run(0, 3, &cut_header(cut));
            attack.right(&report, 3)
        });
    }
    for (name, pieces) in LEGAL {
        family.guest(format!("legal: {name}"), |attack| {
            let report = attack.run(0, 3, pieces);
            attack.right(&report, 3)
        });
    }
    for len in [1, 4, 7, 8, 12, 15] {
        family.guest(format!("header of {len} of 16 bytes"), |attack| {
            short(attack, len)
        });
    }
    for (name, pieces) in REFUSED {
        family.guest(name, |attack| {
            let report = attack.run(0, 3, pieces);
            attack.refused(&report)
        });
    }
    for len in [1, 2, 512, 4096] {
        family.guest(
            format!("legal: flush, room for its status: {len}"),
            |attack| {
                let report = attack.run(4, 0, &[HEADER_PIECE, (DATA, len, WRITE)]);
                assert_eq!(report.status, Some(0));
                assert!(report.data.iter().all(|byte| *byte == 0xEE));
                attack.outcome(&report)
            },
        );
    }
    family.finish();
}
