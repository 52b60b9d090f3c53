//! Descriptors without length, descriptors that are nothing but zeroes.

use crate::attack::{
    Attack, DATA, HEADER, HEADER_PIECE, HOLE, Piece, STATUS, STATUS_PIECE, TABLE, VICTIM,
};
use crate::family::Family;
use crate::support::driver::{INDIRECT, NEXT, WRITE};
use crate::support::guest::END;

/// Empty pieces anywhere between the others: legal, and nothing.
const LEGAL: [(&str, &[Piece]); 8] = [
    (
        "empty readable piece before the header",
        &[
            (HEADER, 0, 0),
            HEADER_PIECE,
            (DATA, 512, WRITE),
            STATUS_PIECE,
        ],
    ),
    (
        "empty readable piece behind the header",
        &[
            HEADER_PIECE,
            (HEADER, 0, 0),
            (DATA, 512, WRITE),
            STATUS_PIECE,
        ],
    ),
    (
        "empty readable piece inside the header",
        &[
            (HEADER, 5, 0),
            (0, 0, 0),
            (HEADER + 0x20, 11, 0),
            (DATA, 512, WRITE),
            STATUS_PIECE,
        ],
    ),
    (
        "empty writable piece before the data",
        &[
            HEADER_PIECE,
            (DATA, 0, WRITE),
            (DATA, 512, WRITE),
            STATUS_PIECE,
        ],
    ),
    (
        "empty writable piece behind the status",
        &[
            HEADER_PIECE,
            (DATA, 512, WRITE),
            STATUS_PIECE,
            (STATUS, 0, WRITE),
        ],
    ),
    (
        "empty pieces where no memory is",
        &[
            (HOLE, 0, 0),
            HEADER_PIECE,
            (END, 0, WRITE),
            (DATA, 512, WRITE),
            STATUS_PIECE,
            (u64::MAX, 0, WRITE),
        ],
    ),
    (
        "100 empty pieces",
        &const {
            let mut pieces = [(DATA, 0, WRITE); 103];
            pieces[0] = HEADER_PIECE;
            pieces[50] = (DATA, 512, WRITE);
            pieces[102] = STATUS_PIECE;
            pieces
        },
    ),
    (
        "no data at all",
        &[HEADER_PIECE, (DATA, 0, WRITE), STATUS_PIECE],
    ),
];

/// Too much emptiness for a request.
const REFUSED: [(&str, &[Piece]); 7] = [
    ("nothing but an empty readable piece", &[(HEADER, 0, 0)]),
    ("nothing but an empty writable piece", &[(DATA, 0, WRITE)]),
    (
        "header and data, an empty status",
        &[HEADER_PIECE, (STATUS, 0, WRITE)],
    ),
    (
        "an empty header",
        &[(HEADER, 0, 0), (DATA, 512, WRITE), STATUS_PIECE],
    ),
    (
        "header, data and status all empty",
        &[(HEADER, 0, 0), (DATA, 0, WRITE), (STATUS, 0, WRITE)],
    ),
    (
        "empty readable piece behind a writable one",
        &[HEADER_PIECE, (DATA, 512, WRITE), (HEADER, 0, 0)],
    ),
    (
        "empty readable piece behind an empty writable one, no header",
        &[(DATA, 0, WRITE), (HEADER, 0, 0)],
    ),
];

#[test]
fn empty_descriptors() {
    let mut family = Family::start("V-02", "Empty and all-zero descriptors");
    for (name, pieces) in LEGAL {
        family.guest(name, |attack| {
            let report = attack.run(0, 7, pieces);
            attack.right(&report, 7)
        });
    }
    for (name, pieces) in REFUSED {
        family.guest(name, |attack| {
            let report = attack.run(0, 7, pieces);
            attack.refused(&report)
        });
    }
    zeroes(&mut family);
    family.finish();
}

fn zeroes(family: &mut Family) {
    family.guest("all-zero descriptor", |attack| {
        attack.driver.descriptor(VICTIM, 0, (0, 0, 0, 0));
        let report = attack.go(0, &[]);
        attack.refused(&report)
    });
    family.guest("all-zero descriptor at every head of the ring", |attack| {
        for head in 0..128 {
            attack.driver.offer(VICTIM, head);
        }
        attack.driver.kick(VICTIM);
        for head in 0..128 {
            let done = attack.driver.wait(VICTIM);
            assert_eq!((done.head, done.used_len), (head, 0));
        }
        attack.goes_on();
        "used length 0 each time".to_owned()
    });
    family.guest("header followed by an all-zero descriptor", |attack| {
        follow(attack, 0)
    });
    family.guest("indirect table of zeroes", |attack| {
        attack.driver.fill(TABLE, 64, 0);
        attack
            .driver
            .descriptor(VICTIM, 0, (TABLE, 64, INDIRECT, 0));
        let report = attack.go(0, &[]);
        attack.refused(&report)
    });
    family.guest("only the NEXT flag, all else zero", |attack| {
        attack.driver.descriptor(VICTIM, 5, (0, 0, NEXT, 0));
        let report = attack.go(5, &[]);
        attack.refused(&report)
    });
    family.guest("every flag that has no meaning", |attack| {
        // Bits that no version defines are ignored by the device.
        let pieces = [
            (HEADER, 16, 0xFFF8),
            (DATA, 512, 0xFFF8 | WRITE),
            (STATUS, 1, 0xFFF8 | WRITE),
        ];
        let report = attack.run(0, 7, &pieces);
        attack.right(&report, 7)
    });
}

fn follow(attack: &mut Attack<'_>, flags: u16) -> String {
    attack.prepare(0, 7, &[HEADER_PIECE]);
    attack.driver.descriptor(VICTIM, 0, (HEADER, 16, NEXT, 1));
    attack.driver.descriptor(VICTIM, 1, (0, 0, flags, 0));
    let report = attack.go(0, &[]);
    attack.refused(&report)
}
