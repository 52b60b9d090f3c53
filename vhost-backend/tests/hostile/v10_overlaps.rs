//! Buffers that lie on top of what the device needs.

use std::time::Duration;

use crate::attack::{
    AVAIL, Attack, DATA, HEADER, HEADER_PIECE, Piece, STATUS, STATUS_PIECE, Seen, TABLE, UNTOUCHED,
    USED, VICTIM,
};
use crate::family::Family;
use crate::house::wait_until;
use crate::support::driver::{EVENT_IDX, OK, WRITE, readable};
use crate::support::guest::RINGS;

/// A read of these pieces. Whatever the data destroys, the request itself was read before.
fn read(attack: &mut Attack<'_>, sector: u64, pieces: &[Piece]) -> String {
    let report = attack.run(0, sector, pieces);
    assert_eq!(report.status, Some(OK));
    let outcome = match report.seen {
        Seen::Done(done) => format!("status 0, used length {}", done.used_len),
        Seen::Broken => "status 0, then ring broken, error descriptor told".to_owned(),
    };
    attack.mend(VICTIM);
    outcome
}

/// The same, with the data compared.
fn read_right(attack: &mut Attack<'_>, sector: u64, pieces: &[Piece]) -> String {
    let report = attack.run(0, sector, pieces);
    let text = {
        assert_eq!(report.status, Some(OK), "{:?}", report.seen);
        let expected = attack.sectors(sector, report.data.len());
        assert!(report.data == expected, "wrong data");
        format!("right data, used length {}", report.data.len() + 1)
    };
    attack.mend(VICTIM);
    text
}

const RIGHT: [(&str, &[Piece]); 6] = [
    (
        "data on the header",
        &[HEADER_PIECE, (HEADER, 512, WRITE), (DATA, 1, WRITE)],
    ),
    (
        "data on half of the header",
        &[HEADER_PIECE, (HEADER + 8, 512, WRITE), (DATA, 1, WRITE)],
    ),
    (
        "data on the request's own descriptors",
        &[HEADER_PIECE, (RINGS, 512, WRITE), STATUS_PIECE],
    ),
    (
        "data on the whole descriptor table",
        &[HEADER_PIECE, (RINGS, 2048, WRITE), STATUS_PIECE],
    ),
    (
        "data on the last descriptor only",
        &[HEADER_PIECE, (RINGS + 2032, 512, WRITE), STATUS_PIECE],
    ),
    (
        "header in the descriptor table",
        &[(RINGS + 16 * 100, 16, 0), (DATA, 512, WRITE), STATUS_PIECE],
    ),
];

/// What the later of two writes leaves behind is not defined; that the request ends well is.
const ENDS_WELL: [(&str, &[Piece]); 7] = [
    (
        "the status inside the data",
        &[HEADER_PIECE, (STATUS - 0x80, 512, WRITE), STATUS_PIECE],
    ),
    (
        "the status on the first byte of the data",
        &[HEADER_PIECE, (STATUS, 512, WRITE), STATUS_PIECE],
    ),
    (
        "the status on the header",
        &[HEADER_PIECE, (DATA, 512, WRITE), (HEADER, 1, WRITE)],
    ),
    (
        "the status in the descriptor table",
        &[HEADER_PIECE, (DATA, 512, WRITE), (RINGS + 2047, 1, WRITE)],
    ),
    (
        "one buffer twice",
        &[
            HEADER_PIECE,
            (DATA, 512, WRITE),
            (DATA, 512, WRITE),
            STATUS_PIECE,
        ],
    ),
    (
        "two buffers that overlap",
        &[
            HEADER_PIECE,
            (DATA, 1024, WRITE),
            (DATA + 512, 1024, WRITE),
            STATUS_PIECE,
        ],
    ),
    (
        "header, data and status in one place",
        &[HEADER_PIECE, (HEADER, 512, WRITE), (HEADER, 1, WRITE)],
    ),
];

#[test]
fn overlaps() {
    let mut family = Family::start("V-10", "Buffers on top of what the device needs");
    for (name, pieces) in RIGHT {
        family.guest(name, |attack| read_right(attack, 3, pieces));
    }
    for (name, pieces) in ENDS_WELL {
        family.guest(name, |attack| read(attack, 3, pieces));
    }
    family.guest("data on the indirect table", |attack| {
        let pieces = [HEADER_PIECE, (TABLE, 512, WRITE), STATUS_PIECE];
        let report = attack.run_indirect((0, 3), TABLE, 0, &pieces);
        // What is filled before is the table; so the table is put there last, and lies in what was filled.
        attack.right(&report, 3)
    });
    rings(&mut family);
    other_requests(&mut family);
    family.finish();
}

fn rings(family: &mut Family) {
    // Sector 600 is zeroes, sector 3 is noise.
    for (content, sector) in [("zeroes", 600), ("noise", 3)] {
        family.guest(
            format!("data ({content}) on the available ring"),
            |attack| on_available(attack, sector),
        );
        family.guest_with(
            format!("data ({content}) on the used ring"),
            !EVENT_IDX,
            128,
            |attack| on_used(attack, sector),
        );
        family.guest_with(
            format!("data ({content}) on the whole ring"),
            !EVENT_IDX,
            128,
            |attack| on_everything(attack, sector),
        );
    }
    for (name, address) in [
        ("available flags", RINGS + AVAIL),
        ("available index", RINGS + AVAIL + 2),
        ("used event", RINGS + AVAIL + 4 + 256),
        ("used flags", RINGS + USED),
        ("used index", RINGS + USED + 2),
        ("used element", RINGS + USED + 4),
        ("available event", RINGS + USED + 4 + 1024),
    ] {
        family.guest(format!("status on the {name}"), |attack| {
            let pieces = [HEADER_PIECE, (DATA, 512, WRITE), (address, 1, WRITE)];
            submit(attack, 3, &pieces);
            wait_until("the data", || {
                attack.driver.bytes(DATA, 512) == attack.sectors(3, 512)
            });
            attack.mend(VICTIM);
            "right data".to_owned()
        });
    }
}

/// Offers a read without filling buffers first: they may lie on the ring.
fn submit(attack: &mut Attack<'_>, sector: u64, pieces: &[Piece]) {
    attack.driver.header(HEADER, 0, sector);
    attack.driver.fill(STATUS, 1, UNTOUCHED);
    attack.driver.chain(VICTIM, 0, pieces);
    attack.driver.offer(VICTIM, 0);
    attack.driver.kick(VICTIM);
}

fn wait_for_status(attack: &Attack<'_>) {
    wait_until("the status", || attack.driver.bytes(STATUS, 1) == [OK]);
}

/// The index the device finds next is either zero, and behind, or noise.
fn on_available(attack: &mut Attack<'_>, sector: u64) -> String {
    let pieces = [HEADER_PIECE, (RINGS + AVAIL, 512, WRITE), STATUS_PIECE];
    submit(attack, sector, &pieces);
    wait_for_status(attack);
    let error = attack.driver.rings[VICTIM].error.try_clone().unwrap();
    let broken = readable(&error, Duration::from_secs(5));
    assert!(broken, "the index is far from where the ring stands");
    attack.mend(VICTIM);
    "status 0, then ring broken, error descriptor told".to_owned()
}

/// The device counts for itself and writes its index behind the data.
fn on_used(attack: &mut Attack<'_>, sector: u64) -> String {
    let pieces = [HEADER_PIECE, (RINGS + USED, 512, WRITE), STATUS_PIECE];
    submit(attack, sector, &pieces);
    wait_for_status(attack);
    wait_until("the used index", || attack.driver.used_index(VICTIM) == 1);
    attack.driver.rings[VICTIM].next_used = 1;
    attack.driver.rings[VICTIM].next_avail = 1;
    attack.goes_on();
    "status 0, ring goes on".to_owned()
}

fn on_everything(attack: &mut Attack<'_>, sector: u64) -> String {
    let pieces = [HEADER_PIECE, (RINGS, 0x6000, WRITE), STATUS_PIECE];
    // As many sectors of noise lie behind sector 1000; the zeroes are fewer.
    let (sector, len) = if sector == 600 {
        (600, 0x1000)
    } else {
        (1000, 0x6000)
    };
    let pieces = [pieces[0], (RINGS, len, WRITE), pieces[2]];
    submit(attack, sector, &pieces);
    wait_for_status(attack);
    attack.demand_neighbour();
    attack.mend(VICTIM);
    "status 0; works again after a reset".to_owned()
}

fn other_requests(family: &mut Family) {
    family.guest("data on the header of the next request", |attack| {
        // The first request delivers zeroes, which are the header of a read at sector 0.
        let second = HEADER + 0x400;
        attack.driver.header(second, 77, 77);
        attack.prepare(0, 600, &[HEADER_PIECE]);
        attack.driver.fill(DATA, 4096, UNTOUCHED);
        let on_header = [HEADER_PIECE, (second, 512, WRITE), STATUS_PIECE];
        attack.driver.chain(VICTIM, 0, &on_header);
        let next = [(second, 16, 0), (DATA, 512, WRITE), (STATUS + 1, 1, WRITE)];
        attack.driver.chain(VICTIM, 8, &next);
        attack.driver.offer(VICTIM, 0);
        attack.driver.offer(VICTIM, 8);
        attack.driver.kick(VICTIM);
        attack.answers(VICTIM, 2, 513);
        assert!(attack.driver.bytes(DATA, 512) == attack.sectors(0, 512));
        attack.goes_on();
        "right data for both".to_owned()
    });
    family.guest("data on the descriptors of the next request", |attack| {
        attack.prepare(0, 600, &[HEADER_PIECE]);
        let on_table = [HEADER_PIECE, (RINGS + 16 * 8, 512, WRITE), STATUS_PIECE];
        attack.driver.chain(VICTIM, 0, &on_table);
        attack
            .driver
            .chain(VICTIM, 8, &[HEADER_PIECE, STATUS_PIECE]);
        attack.driver.offer(VICTIM, 0);
        attack.driver.offer(VICTIM, 8);
        attack.driver.kick(VICTIM);
        attack.answers(VICTIM, 1, 513);
        attack.answers(VICTIM, 1, 0);
        attack.goes_on();
        "the next request is all zeroes, used length 0".to_owned()
    });
    family.guest("100 requests on the same data and status", |attack| {
        let pieces = [HEADER_PIECE, (DATA, 4096, WRITE), STATUS_PIECE];
        attack.prepare(0, 3, &pieces);
        for number in 0..25 {
            attack.driver.chain(VICTIM, 4 * number, &pieces);
            attack.driver.offer(VICTIM, 4 * number);
        }
        attack.driver.kick(VICTIM);
        attack.answers(VICTIM, 25, 4097);
        assert!(attack.driver.bytes(DATA, 4096) == attack.sectors(3, 4096));
        attack.goes_on();
        "right data each time".to_owned()
    });
    family.guest(
        "data on the ring of another queue of this guest",
        |attack| {
            // Queue 1 is stopped, so nobody but this guest's own data is hurt.
            attack.driver.stop_ring(1);
            let pieces = [HEADER_PIECE, (RINGS + 0x8000, 0x6000, WRITE), STATUS_PIECE];
            let report = attack.run(0, 1000, &pieces);
            let text = attack.right(&report, 1000);
            attack.mend(1);
            text
        },
    );
    family.guest(
        "data on the running ring of another queue of this guest",
        |attack| {
            let pieces = [HEADER_PIECE, (RINGS + 0x8000, 0x6000, WRITE), STATUS_PIECE];
            submit(attack, 1000, &pieces);
            wait_for_status(attack);
            attack.driver.wait(VICTIM);
            attack.driver.kick(1);
            attack.goes_on();
            attack.mend(1);
            "status 0; the other queue works again after a reset".to_owned()
        },
    );
}
