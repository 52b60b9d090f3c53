//! Maps of requests in flight that lie.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::attack::{Attack, DATA, HEADER_PIECE, STATUS_PIECE, VICTIM};
use crate::family::Family;
use crate::messages::{Reaction, memory_file, tell, words};
use crate::support::client::{GET_INFLIGHT_FD, SET_INFLIGHT_FD};
use crate::support::driver::{Driver, WRITE, eventfd};

const READ: [(u64, u32, u16); 3] = [HEADER_PIECE, (DATA, 512, WRITE), STATUS_PIECE];
/// Room for three rings of 128 entries.
const LEN: u64 = 3 * 2112;
const PART: u64 = 2112;

/// Length, offset, queues, ring size, length of the file.
type Shape = (u64, u64, u64, u64, u64);

const SHAPES: [(&str, Shape); 20] = [
    ("length 0", (0, 0, 3, 128, LEN)),
    ("length 1", (1, 0, 3, 128, LEN)),
    ("less than one part for each queue", (191, 0, 3, 128, LEN)),
    ("legal: parts too small for any ring", (192, 0, 3, 128, LEN)),
    (
        "longer than its file by one byte",
        (LEN + 1, 0, 3, 128, LEN),
    ),
    ("longer than its file by far", (1 << 23, 0, 3, 128, LEN)),
    (
        "longer than is accepted",
        ((16 << 20) + 1, 0, 3, 128, 1 << 26),
    ),
    ("length 2^63", (1 << 63, 0, 3, 128, LEN)),
    ("length 2^64 - 1", (u64::MAX, 0, 3, 128, LEN)),
    ("offset not a page", (LEN, 64, 3, 128, 1 << 20)),
    ("offset behind the file", (LEN, 1 << 20, 3, 128, LEN)),
    ("offset 2^63", (LEN, 1 << 63, 3, 128, LEN)),
    (
        "offset and length overflow",
        (4096, u64::MAX - 4095, 3, 128, LEN),
    ),
    ("legal: offset of one page", (LEN, 4096, 3, 128, 4096 + LEN)),
    ("no queues", (LEN, 0, 0, 128, LEN)),
    ("ring size 0", (LEN, 0, 3, 0, LEN)),
    ("65,535 queues", (LEN, 0, 65_535, 128, LEN)),
    ("legal: 99 queues in little room", (LEN, 0, 99, 128, LEN)),
    (
        "ring size that has nothing to do with the rings",
        (LEN, 0, 3, 65_535, LEN),
    ),
    ("empty file", (LEN, 0, 3, 128, 0)),
];

fn set(attack: &mut Attack<'_>, (len, offset, queues, size, _): Shape, file: &File) -> Reaction {
    let payload = words(&[len, offset, queues | size << 16]);
    tell(
        &mut attack.driver.client,
        SET_INFLIGHT_FD,
        &payload,
        &[file],
    )
}

fn shape(attack: &mut Attack<'_>, shape: Shape) -> String {
    let file = memory_file(shape.4);
    let reaction = set(attack, shape, &file);
    if reaction != Reaction::Ended {
        attack.goes_on();
    }
    reaction.text().to_owned()
}

/// Bytes at an offset of the map.
type Lie = &'static [(u64, &'static [u8])];

const LIES: [(&str, Lie); 14] = [
    ("version 2", &[(8, &[2, 0])]),
    (
        "version 65,535 for the last queue",
        &[(2 * PART + 8, &[0xff, 0xff])],
    ),
    ("every feature", &[(0, &[0xff; 8]), (8, &[1, 0])]),
    (
        "more descriptors than there are",
        &[(8, &[1, 0, 0xff, 0xff])],
    ),
    (
        "last batch outside the ring",
        &[(8, &[1, 0, 128, 0, 0xff, 0xff, 0xff, 0xff])],
    ),
    (
        "last batch in a circle",
        &[
            (8, &[1, 0, 128, 0, 5, 0, 0xfb, 0xff]),
            (16 + 16 * 5 + 6, &[5, 0]),
        ],
    ),
    (
        "last batch leads outside",
        &[
            (8, &[1, 0, 128, 0, 5, 0, 0xfb, 0xff]),
            (16 + 16 * 5 + 6, &[0, 0xff]),
        ],
    ),
    (
        "used index far ahead",
        &[(8, &[1, 0, 128, 0, 0, 0, 0, 0x80])],
    ),
    (
        "one request that was never made",
        &[(8, &[1, 0]), (16 + 16 * 7, &[1])],
    ),
    (
        "a request that was never made, flag 255",
        &[(8, &[1, 0]), (16 + 16 * 7, &[0xff])],
    ),
    (
        "the last descriptor",
        &[(8, &[1, 0]), (16 + 16 * 127, &[1])],
    ),
    (
        "equal counters",
        &[(8, &[1, 0]), (16 + 16 * 7, &[1]), (16 + 16 * 9, &[1])],
    ),
    (
        "counters at their end",
        &[
            (8, &[1, 0]),
            (
                16 + 16 * 7,
                &[
                    1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                ],
            ),
        ],
    ),
    (
        "entries behind the ring",
        &[(8, &[1, 0]), (16 + 16 * 128, &[0xff; 48])],
    ),
];

/// The map names requests that nobody made: the driver gets answers it did not ask for, or a broken ring, and only
/// this driver.
fn lie(attack: &mut Attack<'_>, lie: Lie) -> String {
    let file = memory_file(LEN);
    for (offset, bytes) in lie {
        file.write_all_at(bytes, *offset).unwrap();
    }
    settle(attack, &file)
}

fn settle(attack: &mut Attack<'_>, file: &File) -> String {
    let reaction = set(attack, (LEN, 0, 3, 128, LEN), file);
    if reaction != Reaction::Accepted {
        attack.goes_on();
        return reaction.text().to_owned();
    }
    attack.demand_neighbour();
    // A ring serves what the map names before it stops.
    let position = attack.driver.stop_ring(VICTIM);
    let outcome = if attack.driver.used_index(VICTIM) == attack.driver.rings[VICTIM].next_used {
        attack.driver.rings[VICTIM].next_avail = position;
        attack.driver.rings[VICTIM].kick = eventfd();
        attack.driver.start_ring(VICTIM);
        attack.prepare(0, 3, &READ);
        attack.driver.chain(VICTIM, 0, &READ);
        attack.driver.offer(VICTIM, 0);
        attack.driver.kick(VICTIM);
        assert_eq!(attack.driver.wait(VICTIM).used_len, 513);
        assert!(attack.driver.bytes(DATA, 512) == attack.sectors(3, 512));
        "the ring goes on"
    } else {
        "the driver gets answers it did not ask for"
    };
    // A front-end that resets a device hands over an empty map.
    attack.driver.stop_ring(VICTIM);
    file.write_all_at(&vec![0; usize::try_from(LEN).unwrap()], 0)
        .unwrap();
    attack.mend(VICTIM);
    outcome.to_owned()
}

#[test]
fn inflight() {
    let mut family = Family::start("V-14", "Maps of requests in flight that lie");
    for (name, numbers) in SHAPES {
        family.guest(format!("handed over: {name}"), |attack| {
            shape(attack, numbers)
        });
    }
    for (name, bytes) in LIES {
        family.guest(format!("content: {name}"), |attack| lie(attack, bytes));
    }
    family.guest("content: every request in flight", |attack| {
        let file = memory_file(LEN);
        file.write_all_at(&[1, 0], 8).unwrap();
        for head in 0..128 {
            file.write_all_at(&[1], 16 + 16 * head).unwrap();
        }
        settle(attack, &file)
    });
    family.guest("content: nothing but ones", |attack| {
        let file = memory_file(LEN);
        for queue in 0..3 {
            let part = vec![0xff; usize::try_from(PART).unwrap()];
            file.write_all_at(&part, queue * PART).unwrap();
            file.write_all_at(&[1, 0], queue * PART + 8).unwrap();
        }
        let reaction = set(attack, (LEN, 0, 3, 128, LEN), &file);
        for at in 0..3 {
            attack.driver.stop_ring(at);
        }
        file.set_len(LEN).unwrap();
        file.write_all_at(&vec![0; usize::try_from(LEN).unwrap()], 0)
            .unwrap();
        for at in 0..3 {
            attack.mend(at);
        }
        reaction.text().to_owned()
    });
    for (name, queues, size) in [
        ("no queues", 0, 128),
        ("257 queues", 257, 128),
        ("65,535 queues", 65_535, 128),
        ("rings of 0", 3, 0),
        ("rings of 2048", 3, 2048),
        ("rings of 65,535", 3, 65_535),
    ] {
        family.front_end(format!("asked for: {name}"), |house| {
            let mut driver = Driver::start(house.connect(), 1);
            let payload = words(&[0, 0, queues | size << 16]);
            driver.client.send(GET_INFLIGHT_FD, 1, &payload, &[]);
            assert!(driver.client.is_closed());
            "connection ended".to_owned()
        });
    }
    family.guest("legal: asked for 2000 times, rings running", |attack| {
        for _ in 0..2000 {
            attack.driver.client.get_inflight(256, 1024);
        }
        attack.goes_on();
        "the ring goes on".to_owned()
    });
    family.finish();
}
