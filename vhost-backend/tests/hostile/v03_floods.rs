//! More requests than there is room for, and requests without end.

use std::time::{Duration, Instant};

use crate::attack::{
    Attack, DATA, HEADER_PIECE, STATUS_PIECE, Seen, TABLE, UNTOUCHED, VICTIM, sectors,
};
use crate::family::Family;
use crate::support::driver::{EVENT_IDX, INDIRECT, OK, WRITE};
use crate::support::guest::BUFFERS;

const READ: [(u64, u32, u16); 3] = [HEADER_PIECE, (DATA, 512, WRITE), STATUS_PIECE];

/// The same read `count` times in one kick. Everything the driver asked for comes back, or the ring breaks.
fn same_head(attack: &mut Attack<'_>, count: u16) -> String {
    let size = attack.driver.rings[VICTIM].size;
    attack.prepare(0, 3, &READ);
    attack.driver.chain_in(TABLE, 0, &READ);
    attack.driver.chain(VICTIM, 0, &[(TABLE, 48, INDIRECT)]);
    attack.offer_at_once(VICTIM, 0, count);
    attack.driver.kick(VICTIM);
    let mut answers = 0;
    while answers < count {
        match attack.watch(VICTIM) {
            Seen::Done(done) => assert_eq!((done.head, done.used_len), (0, 513)),
            Seen::Broken => {
                assert!(count > size);
                attack.mend(VICTIM);
                return "ring broken, error descriptor told".to_owned();
            }
        }
        answers += 1;
    }
    assert!(attack.driver.bytes(DATA, 512) == attack.sectors(3, 512));
    attack.goes_on();
    format!("right data, answers: {answers}")
}

/// `rounds` full rings, each request of which must come back as `used_len`.
fn full_rings(attack: &mut Attack<'_>, rounds: u32, used_len: u32) {
    for _ in 0..rounds {
        attack.offer_at_once(VICTIM, 0, 128);
        attack.driver.kick(VICTIM);
        attack.answers(VICTIM, 128, used_len);
    }
}

/// One chain of as many direct descriptors as the ring has.
fn whole_ring(attack: &mut Attack<'_>, size: u16) -> String {
    let data = u64::from(size - 2);
    let mut pieces = vec![HEADER_PIECE];
    pieces.extend((0..data).map(|number| (DATA + 1024 * number, 512, WRITE)));
    pieces.push(STATUS_PIECE);
    let report = attack.run(0, 0, &pieces);
    attack.right(&report, 0)
}

/// A chain of `len` descriptors in an indirect table.
fn long_table(attack: &mut Attack<'_>, len: u64) -> crate::attack::Report {
    let mut pieces = vec![HEADER_PIECE];
    pieces.extend((0..len - 2).map(|number| (DATA + 1024 * number, 512, WRITE)));
    pieces.push(STATUS_PIECE);
    attack.run_indirect((0, 0), BUFFERS + 0x20_0000, 0, &pieces)
}

#[test]
fn floods() {
    let mut family = Family::start("V-03", "More requests than the ring has room for");
    for size in [1, 2, 4, 128, 1024] {
        family.guest_with(
            format!("one head × {size} in one kick, ring of {size}"),
            u64::MAX,
            size,
            |attack| same_head(attack, size),
        );
        family.guest_with(
            format!("one head × {} in one kick, ring of {size}", size + 1),
            u64::MAX,
            size,
            |attack| same_head(attack, size + 1),
        );
    }
    for count in [256, 1000, 32_768, 65_535] {
        family.guest(
            format!("one head × {count} in one kick, ring of 128"),
            |attack| same_head(attack, count),
        );
    }
    for size in [4, 128, 1024] {
        family.guest_with(
            format!("one chain over all descriptors of a ring of {size}"),
            u64::MAX,
            size,
            |attack| whole_ring(attack, size),
        );
    }
    family.guest("indirect chain of 1024 descriptors", |attack| {
        let report = long_table(attack, 1024);
        attack.right(&report, 0)
    });
    family.guest("indirect chain of 1025 descriptors", |attack| {
        let report = long_table(attack, 1025);
        attack.refused(&report)
    });
    long_runs(&mut family);
    family.finish();
}

fn long_runs(family: &mut Family) {
    for (name, features) in [("by index", u64::MAX), ("by flag", !EVENT_IDX)] {
        family.guest_with(
            format!("600 full rings through one head, events {name}"),
            features,
            128,
            |attack| {
                attack.prepare(0, 3, &READ);
                attack.driver.chain(VICTIM, 0, &READ);
                full_rings(attack, 600, 513);
                assert!(attack.driver.bytes(DATA, 512) == attack.sectors(3, 512));
                attack.goes_on();
                "right data, the index wraps".to_owned()
            },
        );
    }
    family.guest("200 full rings of refused requests", |attack| {
        attack.prepare(77, 3, &READ);
        attack.driver.chain(VICTIM, 0, &READ);
        full_rings(attack, 200, 1);
        attack.goes_on();
        "status 2 each time, the log stays short".to_owned()
    });
    family.guest("200 full rings of chains that are none", |attack| {
        attack.driver.descriptor(VICTIM, 0, (0, 0, 1, 128));
        full_rings(attack, 200, 0);
        attack.goes_on();
        "used length 0 each time, the log stays short".to_owned()
    });
    family.guest("ring broken and mended 100 times", |attack| {
        for _ in 0..100 {
            attack.driver.offer(VICTIM, 128);
            attack.driver.kick(VICTIM);
            assert_eq!(attack.watch(VICTIM), Seen::Broken);
            attack.mend(VICTIM);
        }
        "mended each time, the log stays short".to_owned()
    });
    family.guest(
        "the neighbour reads while a full ring is refilled",
        |attack| {
            attack.prepare(0, 3, &READ);
            attack.driver.chain(VICTIM, 0, &READ);
            let end = Instant::now() + Duration::from_millis(100);
            while Instant::now() < end {
                attack.offer_at_once(VICTIM, 0, 128);
                attack.driver.kick(VICTIM);
                attack.demand_neighbour();
                attack.answers(VICTIM, 128, 513);
            }
            attack.goes_on();
            "both right".to_owned()
        },
    );
    family.guest("full ring of the largest possible reads", largest);
}

/// All of the disk, as often as the ring can ask for it.
fn largest(attack: &mut Attack<'_>) -> String {
    let len = u32::try_from(attack.disk.len()).unwrap();
    let pieces = [HEADER_PIECE, (DATA, len, WRITE), STATUS_PIECE];
    attack.prepare(0, 0, &pieces);
    attack.driver.chain(VICTIM, 0, &pieces);
    attack.offer_at_once(VICTIM, 0, 128);
    attack.driver.kick(VICTIM);
    attack.demand_neighbour();
    attack.answers(VICTIM, 128, len + 1);
    assert_eq!(attack.driver.bytes(STATUS_PIECE.0, 1), [OK]);
    assert_ne!(OK, UNTOUCHED);
    assert!(attack.driver.bytes(DATA, len as usize) == sectors(attack.disk, 0, len as usize));
    attack.goes_on();
    "right data each time".to_owned()
}
