//! Chains that never end.

use crate::attack::{Attack, DATA, HEADER, HEADER_PIECE, STATUS, STATUS_PIECE, TABLE, VICTIM};
use crate::family::Family;
use crate::support::driver::{INDIRECT, NEXT, WRITE};

/// Entries of one table: index, address, length, flags, next.
type Entry = (u16, u64, u32, u16, u16);

struct Loop {
    name: &'static str,
    ring: &'static [Entry],
    table: &'static [Entry],
}

const READ: u16 = NEXT;
const FILL: u16 = NEXT | WRITE;

const LOOPS: [Loop; 14] = [
    Loop {
        name: "readable descriptor that follows itself",
        ring: &[(0, HEADER, 16, READ, 0)],
        table: &[],
    },
    Loop {
        name: "writable descriptor that follows itself",
        ring: &[(0, HEADER, 16, READ, 1), (1, DATA, 512, FILL, 1)],
        table: &[],
    },
    Loop {
        name: "empty readable descriptor that follows itself",
        ring: &[(0, HEADER, 0, READ, 0)],
        table: &[],
    },
    Loop {
        name: "empty writable descriptor that follows itself",
        ring: &[(0, HEADER, 16, READ, 1), (1, DATA, 0, FILL, 1)],
        table: &[],
    },
    Loop {
        name: "two readable descriptors in a circle",
        ring: &[(0, HEADER, 8, READ, 1), (1, HEADER + 8, 8, READ, 0)],
        table: &[],
    },
    Loop {
        name: "two writable descriptors in a circle",
        ring: &[
            (0, HEADER, 16, READ, 1),
            (1, DATA, 512, FILL, 2),
            (2, DATA + 512, 512, FILL, 1),
        ],
        table: &[],
    },
    Loop {
        name: "back to the header behind the status",
        ring: &[
            (0, HEADER, 16, READ, 1),
            (1, DATA, 512, FILL, 2),
            (2, STATUS, 1, FILL, 0),
        ],
        table: &[],
    },
    Loop {
        name: "back to the status from the status",
        ring: &[
            (0, HEADER, 16, READ, 1),
            (1, DATA, 512, FILL, 2),
            (2, STATUS, 1, FILL, 2),
        ],
        table: &[],
    },
    Loop {
        name: "circle through the last entry of the ring",
        ring: &[(0, HEADER, 16, READ, 127), (127, DATA, 0, READ, 0)],
        table: &[],
    },
    Loop {
        name: "circle inside an indirect table",
        ring: &[(0, TABLE, 32, INDIRECT, 0)],
        table: &[(0, HEADER, 16, READ, 1), (1, HEADER, 16, READ, 0)],
    },
    Loop {
        name: "entry of an indirect table that follows itself",
        ring: &[(0, TABLE, 48, INDIRECT, 0)],
        table: &[(0, HEADER, 16, READ, 1), (1, DATA, 0, FILL, 1)],
    },
    Loop {
        name: "circle inside a table behind a direct descriptor",
        ring: &[(0, HEADER, 16, READ, 1), (1, TABLE, 32, INDIRECT, 0)],
        table: &[(0, DATA, 512, FILL, 1), (1, STATUS, 1, FILL, 0)],
    },
    Loop {
        name: "indirect table that names itself as its table",
        ring: &[(0, TABLE, 16, INDIRECT, 0)],
        table: &[(0, TABLE, 16, INDIRECT, 0)],
    },
    Loop {
        name: "indirect table that is the ring's own table",
        ring: &[(0, 0, 2048, INDIRECT, 0)],
        table: &[],
    },
];

fn run(attack: &mut Attack<'_>, attempt: &Loop) -> String {
    attack.prepare(0, 1, &[HEADER_PIECE, (DATA, 1024, WRITE), STATUS_PIECE]);
    for (entries, base) in [(attempt.ring, None), (attempt.table, Some(TABLE))] {
        let base = base.unwrap_or(attack.driver.rings[VICTIM].base);
        for (index, address, len, flags, next) in entries {
            attack
                .driver
                .table_entry(base, *index, (*address, *len, *flags, *next));
        }
    }
    // Nothing is offered: a chain without an end has no place for an answer.
    let report = attack.go(0, &[]);
    attack.refused(&report)
}

#[test]
fn loops() {
    let mut family = Family::start("V-01", "Loops");
    for attempt in &LOOPS {
        family.guest(attempt.name, |attack| run(attack, attempt));
    }
    family.guest("1000 loops in a row", |attack| {
        for _ in 0..1000 {
            attack.driver.descriptor(VICTIM, 0, (HEADER, 16, NEXT, 0));
            attack.driver.offer(VICTIM, 0);
            attack.driver.kick(VICTIM);
            assert_eq!(attack.driver.wait(VICTIM).used_len, 0);
        }
        attack.goes_on();
        "used length 0 each time".to_owned()
    });
    family.guest("a full ring of loops, one kick", |attack| {
        for head in 0..128 {
            attack
                .driver
                .descriptor(VICTIM, head, (HEADER, 16, NEXT, (head + 1) % 128));
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
    family.finish();
}
