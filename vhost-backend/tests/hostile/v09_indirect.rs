//! Indirect tables in every shape.

use crate::attack::{
    Attack, DATA, HEADER, HEADER_PIECE, HOLE, Piece, Report, STATUS, STATUS_PIECE, TABLE, VICTIM,
};
use crate::family::Family;
use crate::support::driver::{INDIRECT, INDIRECT_DESC, NEXT, WRITE};
use crate::support::guest::{BORDER, BUFFERS, END, RINGS};

const READ: [Piece; 3] = [HEADER_PIECE, (DATA, 512, WRITE), STATUS_PIECE];

/// Address, length, flags, next.
type Entry = (u64, u32, u16, u16);

struct Shape {
    name: &'static str,
    /// Descriptors of the ring from 0 on.
    ring: &'static [Entry],
    /// Where the table of the read lies.
    table: u64,
    legal: bool,
}

const fn shape(name: &'static str, ring: &'static [Entry], table: u64, legal: bool) -> Shape {
    Shape {
        name,
        ring,
        table,
        legal,
    }
}

const TABLES: [Shape; 31] = [
    shape("alone", &[(TABLE, 48, INDIRECT, 0)], TABLE, true),
    shape(
        "with the WRITE flag, which means nothing there",
        &[(TABLE, 48, INDIRECT | WRITE, 0)],
        TABLE,
        true,
    ),
    shape(
        "longer than its chain",
        &[(TABLE, 4096, INDIRECT, 0)],
        TABLE,
        true,
    ),
    shape(
        "of 65535 entries, of which 3 are used",
        &[(TABLE, 65_535 * 16, INDIRECT, 0)],
        TABLE,
        true,
    ),
    shape(
        "of 0xFFFFFFF0 bytes, of which 48 are used",
        &[(TABLE, 0xFFFF_FFF0, INDIRECT, 0)],
        TABLE,
        true,
    ),
    shape(
        "at an odd address",
        &[(TABLE + 1, 48, INDIRECT, 0)],
        TABLE + 1,
        true,
    ),
    shape(
        "at an address of 8 modulo 16",
        &[(TABLE + 8, 48, INDIRECT, 0)],
        TABLE + 8,
        true,
    ),
    shape(
        "across the border of two regions",
        &[(BORDER - 16, 48, INDIRECT, 0)],
        BORDER - 16,
        true,
    ),
    shape(
        "with an entry across the border",
        &[(BORDER - 24, 48, INDIRECT, 0)],
        BORDER - 24,
        true,
    ),
    shape(
        "that ends where memory ends",
        &[(END - 48, 48, INDIRECT, 0)],
        END - 48,
        true,
    ),
    shape(
        "that ends where the hole begins",
        &[(HOLE - 48, 48, INDIRECT, 0)],
        HOLE - 48,
        true,
    ),
    shape(
        "used as far as memory goes, longer on paper",
        &[(END - 48, 4096, INDIRECT, 0)],
        END - 48,
        true,
    ),
    shape(
        "in the ring's own table",
        &[(RINGS + 16 * 64, 48, INDIRECT, 0)],
        RINGS + 16 * 64,
        true,
    ),
    shape(
        "with a next that means nothing without the flag",
        &[(TABLE, 48, INDIRECT, 77)],
        TABLE,
        true,
    ),
    shape("of 0 bytes", &[(TABLE, 0, INDIRECT, 0)], TABLE, false),
    shape("of 1 byte", &[(TABLE, 1, INDIRECT, 0)], TABLE, false),
    shape("of 15 bytes", &[(TABLE, 15, INDIRECT, 0)], TABLE, false),
    shape("of 17 bytes", &[(TABLE, 17, INDIRECT, 0)], TABLE, false),
    shape("of 47 bytes", &[(TABLE, 47, INDIRECT, 0)], TABLE, false),
    shape("of 49 bytes", &[(TABLE, 49, INDIRECT, 0)], TABLE, false),
    shape(
        "of 2^32 - 1 bytes",
        &[(TABLE, u32::MAX, INDIRECT, 0)],
        TABLE,
        false,
    ),
    shape(
        "one entry short of its chain",
        &[(TABLE, 32, INDIRECT, 0)],
        TABLE,
        false,
    ),
    shape("one entry long", &[(TABLE, 16, INDIRECT, 0)], TABLE, false),
    shape(
        "in the hole",
        &[(HOLE + 0x1000, 48, INDIRECT, 0)],
        TABLE,
        false,
    ),
    shape("where memory ends", &[(END, 48, INDIRECT, 0)], TABLE, false),
    shape(
        "that begins in the hole",
        &[(BUFFERS - 16, 48, INDIRECT, 0)],
        TABLE,
        false,
    ),
    shape(
        "that wraps around the end of addresses",
        &[(u64::MAX - 15, 48, INDIRECT, 0)],
        TABLE,
        false,
    ),
    shape(
        "at the last address",
        &[(u64::MAX, 48, INDIRECT, 0)],
        TABLE,
        false,
    ),
    shape(
        "with the NEXT flag",
        &[(TABLE, 48, INDIRECT | NEXT, 1), (STATUS, 1, WRITE, 0)],
        TABLE,
        false,
    ),
    shape(
        "followed by another table",
        &[(TABLE, 48, INDIRECT | NEXT, 1), (TABLE, 48, INDIRECT, 0)],
        TABLE,
        false,
    ),
    shape(
        "with every flag",
        &[(TABLE, 48, INDIRECT | NEXT | WRITE, 0)],
        TABLE,
        false,
    ),
];

/// Name, entries by position, and whether the request is legal.
type Entries = (&'static str, &'static [(u16, Entry)], bool);

/// Entries of a table whose parts are not in order.
const ENTRIES: [Entries; 8] = [
    (
        "entries in another order",
        &[
            (0, (HEADER, 16, NEXT, 9)),
            (9, (DATA, 512, NEXT | WRITE, 4)),
            (4, (STATUS, 1, WRITE, 0)),
        ],
        true,
    ),
    (
        "next behind the end of the table",
        &[
            (0, (HEADER, 16, NEXT, 1)),
            (1, (DATA, 512, NEXT | WRITE, 16)),
        ],
        false,
    ),
    (
        "next far behind the end of the table",
        &[(0, (HEADER, 16, NEXT, u16::MAX))],
        false,
    ),
    (
        "a table as the first entry",
        &[(0, (TABLE + 0x100, 48, INDIRECT, 0))],
        false,
    ),
    (
        "a table as the last entry",
        &[
            (0, (HEADER, 16, NEXT, 1)),
            (1, (DATA, 512, NEXT | WRITE, 2)),
            (2, (TABLE + 0x100, 16, INDIRECT, 0)),
        ],
        false,
    ),
    (
        "a table in the middle",
        &[
            (0, (HEADER, 16, NEXT, 1)),
            (1, (TABLE + 0x100, 48, INDIRECT | NEXT, 2)),
            (2, (STATUS, 1, WRITE, 0)),
        ],
        false,
    ),
    (
        "a table of 0 bytes as the last entry",
        &[(0, (HEADER, 16, NEXT, 1)), (1, (TABLE, 0, INDIRECT, 0))],
        false,
    ),
    (
        "only NEXT in all 16 entries",
        &const {
            let mut entries = [(0, (HEADER, 1, NEXT, 0)); 16];
            let mut index = 0;
            while index < 16 {
                entries[index as usize] = (index, (HEADER, 1, NEXT, index + 1));
                index += 1;
            }
            entries
        },
        false,
    ),
];

fn judge(attack: &mut Attack<'_>, report: &Report, legal: bool) -> String {
    if legal {
        attack.right(report, 3)
    } else {
        attack.refused(report)
    }
}

fn table(attack: &mut Attack<'_>, shape: &Shape) -> String {
    attack.prepare(0, 3, &READ);
    attack.driver.chain_in(shape.table, 0, &READ);
    for (index, entry) in (0..).zip(shape.ring) {
        attack.driver.descriptor(VICTIM, index, *entry);
    }
    let report = attack.go(0, if shape.legal { &READ } else { &[] });
    judge(attack, &report, shape.legal)
}

fn entries(attack: &mut Attack<'_>, entries: &[(u16, Entry)], legal: bool) -> String {
    attack.prepare(0, 3, &READ);
    attack.driver.chain_in(TABLE + 0x100, 0, &READ);
    for (index, entry) in entries {
        attack.driver.table_entry(TABLE, *index, *entry);
    }
    attack
        .driver
        .descriptor(VICTIM, 0, (TABLE, 256, INDIRECT, 0));
    let report = attack.go(0, if legal { &READ } else { &[] });
    judge(attack, &report, legal)
}

#[test]
fn indirect_tables() {
    let mut family = Family::start("V-09", "Indirect tables in every shape");
    for shape in &TABLES {
        let legal = if shape.legal { "legal: " } else { "" };
        family.guest(format!("{legal}table {}", shape.name), |attack| {
            table(attack, shape)
        });
    }
    for (name, table, legal) in ENTRIES {
        let prefix = if legal { "legal: " } else { "" };
        family.guest(format!("{prefix}{name}"), |attack| {
            entries(attack, table, legal)
        });
    }
    for direct in 1..3 {
        family.guest(format!("legal: {direct} direct, then a table"), |attack| {
            let report = attack.run_indirect((0, 3), TABLE, direct, &READ);
            attack.right(&report, 3)
        });
    }
    family.guest("legal: 126 direct, then a table of 897", |attack| {
        let mut pieces = vec![HEADER_PIECE];
        pieces.extend((0..1021).map(|number| (DATA + 1024 * number, 512, WRITE)));
        pieces.push(STATUS_PIECE);
        let report = attack.run_indirect((0, 0), BUFFERS + 0x20_0000, 126, &pieces);
        attack.right(&report, 0)
    });
    family.guest("all of the request direct, then an empty table", |attack| {
        let report = attack.run_indirect((0, 3), TABLE, 3, &READ);
        attack.refused(&report)
    });
    without_the_feature(&mut family);
    family.finish();
}

fn without_the_feature(family: &mut Family) {
    for (name, direct) in [("a table", 0), ("a table behind a direct descriptor", 1)] {
        family.guest_with(
            format!("{name}, not negotiated"),
            !INDIRECT_DESC,
            128,
            |attack| {
                let report = attack.run_indirect((0, 3), TABLE, direct, &READ);
                attack.refused(&report)
            },
        );
    }
    family.guest_with(
        "a table of 0 bytes, not negotiated",
        !INDIRECT_DESC,
        128,
        |attack| {
            attack.driver.descriptor(VICTIM, 0, (0, 0, INDIRECT, 0));
            let report = attack.go(0, &[]);
            attack.refused(&report)
        },
    );
}
