//! Rings that are set up with impossible numbers, and running rings that are set up anew.

use crate::attack::{AVAIL, Attack, DATA, HEADER_PIECE, STATUS_PIECE, Seen, USED, VICTIM};
use crate::family::Family;
use crate::messages::{Reaction, tell, words};
use crate::support::client::{
    SET_FEATURES, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_ENABLE, SET_VRING_NUM, pair,
};
use crate::support::driver::{VERSION_1, WRITE};
use crate::support::guest::{BORDER, END, RINGS};

const READ: [(u64, u32, u16); 3] = [HEADER_PIECE, (DATA, 512, WRITE), STATUS_PIECE];

/// After a message about the victim: the ring still answers, or is broken and can be mended, or the session is over.
fn afterwards(attack: &mut Attack<'_>, reaction: Reaction) -> String {
    if reaction == Reaction::Ended {
        return reaction.text().to_owned();
    }
    let report = attack.run(0, 3, &READ);
    let state = match report.seen {
        Seen::Broken => {
            attack.mend(VICTIM);
            "the ring is broken until it is set up anew"
        }
        Seen::Done(_) => {
            assert_eq!(report.status, Some(0));
            assert!(report.data == attack.sectors(3, 512), "wrong data");
            "the ring goes on"
        }
    };
    format!("{}; {state}", reaction.text())
}

fn number(request: u32, value: u32) -> impl FnOnce(&mut Attack<'_>) -> String {
    move |attack| {
        let client = &mut attack.driver.client;
        let reaction = tell(client, request, &pair(0, value), &[]);
        if request == SET_VRING_NUM && reaction == Reaction::Accepted {
            // What the driver believes is another matter; a real one would set up everything.
            attack.mend(VICTIM);
            return reaction.text().to_owned();
        }
        if request == SET_VRING_ENABLE && value == 0 {
            attack.driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
        }
        afterwards(attack, reaction)
    }
}

/// SET_VRING_BASE with a position that far from where the ring stands.
fn position(distance: u16) -> impl FnOnce(&mut Attack<'_>) -> String {
    move |attack| {
        attack.goes_on();
        let base = attack.driver.rings[VICTIM]
            .next_avail
            .wrapping_add(distance);
        let payload = pair(0, u32::from(base));
        let reaction = tell(&mut attack.driver.client, SET_VRING_BASE, &payload, &[]);
        if distance == u16::MAX {
            // One back: the last entry is taken for a new one and served again.
            attack.driver.wait(VICTIM);
        }
        afterwards(attack, reaction)
    }
}

/// Where the parts of a ring are said to be: descriptors, used ring, available ring, as front-end addresses.
type Places = fn(&Attack<'_>) -> [u64; 3];

fn user(attack: &Attack<'_>, guest: u64) -> u64 {
    attack.driver.guest.user(guest)
}

const PLACES: [(&str, Places); 22] = [
    ("descriptors nowhere", |_| [0xf000, 0, 0]),
    ("used ring nowhere", |_| [0, 0xf000, 0]),
    ("available ring nowhere", |_| [0, 0, 0xf000]),
    ("everything nowhere", |_| [0xf000, 0xf000, 0xf000]),
    ("everything at the highest address", |_| [u64::MAX - 15; 3]),
    ("everything at 0", |_| [16; 3]),
    ("descriptors not aligned", |a| [user(a, RINGS) + 8, 0, 0]),
    ("used ring not aligned", |a| [0, user(a, RINGS) + 2, 0]),
    ("available ring not aligned", |a| [0, 0, user(a, RINGS) + 1]),
    ("descriptors over the end of their region", |a| {
        [user(a, RINGS) + 0x20_0000 - 16, 0, 0]
    }),
    ("used ring over the end of its region", |a| {
        [0, user(a, RINGS) + 0x20_0000 - 8, 0]
    }),
    ("available ring over the end of its region", |a| {
        [0, 0, user(a, RINGS) + 0x20_0000 - 4]
    }),
    ("last 16 bytes of guest memory", |a| {
        [user(a, END - 16), 0, 0]
    }),
    ("descriptors behind the end of memory", |a| {
        [user(a, END - 16) + 16, 0, 0]
    }),
    ("descriptors across two regions", |a| {
        [user(a, BORDER - 64), 0, 0]
    }),
    ("used ring across two regions", |a| {
        [0, user(a, BORDER - 64), 0]
    }),
    ("available ring across two regions", |a| {
        [0, 0, user(a, BORDER - 64)]
    }),
    ("used ring on the descriptors", |a| [0, user(a, RINGS), 0]),
    ("used ring on the available ring", |a| {
        [0, user(a, RINGS) + AVAIL, 0]
    }),
    ("available ring on the used ring", |a| {
        [0, 0, user(a, RINGS) + USED]
    }),
    ("everything in one place", |a| [user(a, RINGS); 3]),
    ("used ring on the data", |a| [0, user(a, DATA), 0]),
];

/// SET_VRING_ADDR for the running victim; 0 leaves a part where it is.
fn places(places: Places) -> impl FnOnce(&mut Attack<'_>) -> String {
    move |attack| {
        let base = user(attack, RINGS);
        let honest = [base, base + USED, base + AVAIL];
        let asked = places(attack);
        let told: Vec<u64> = asked
            .iter()
            .zip(honest)
            .map(|(asked, honest)| if *asked == 0 { honest } else { *asked })
            .collect();
        let payload = words(&[0, told[0], told[1], told[2], 0]);
        let reaction = tell(&mut attack.driver.client, SET_VRING_ADDR, &payload, &[]);
        match reaction {
            Reaction::Ended => {}
            // Whatever the ring does there, it does to itself.
            Reaction::Accepted => attack.mend(VICTIM),
            Reaction::Refused => attack.goes_on(),
        }
        reaction.text().to_owned()
    }
}

fn numbers(family: &mut Family) {
    let sizes = [
        0,
        3,
        5,
        100,
        127,
        129,
        2048,
        4096,
        32_768,
        65_535,
        65_536,
        u32::MAX,
    ];
    for size in sizes {
        family.guest(
            format!("SET_VRING_NUM {size} while the ring runs"),
            number(SET_VRING_NUM, size),
        );
    }
    for size in [1, 2, 64, 1024] {
        family.guest(
            format!("legal: SET_VRING_NUM {size} while the ring runs"),
            number(SET_VRING_NUM, size),
        );
    }
    for enable in [0, 1, 2, 255, u32::MAX] {
        family.guest(
            format!("SET_VRING_ENABLE {enable} while the ring runs"),
            number(SET_VRING_ENABLE, enable),
        );
    }
    for base in [65_536, 65_537, 1 << 31, u32::MAX] {
        family.guest(
            format!("SET_VRING_BASE {base}"),
            number(SET_VRING_BASE, base),
        );
    }
    for distance in [0, 1, 127, 128, 129, 1000, 32_767, 32_768, 65_535] {
        family.guest(
            format!("SET_VRING_BASE {distance} ahead of the ring"),
            position(distance),
        );
    }
    for (index, request) in [
        (256, SET_VRING_NUM),
        (65_535, SET_VRING_BASE),
        (u32::MAX, SET_VRING_ENABLE),
        (1 << 31, SET_VRING_NUM),
    ] {
        family.guest(
            format!("message {request} about ring {index}"),
            move |attack| {
                let client = &mut attack.driver.client;
                let reaction = tell(client, request, &pair(index, 1), &[]);
                afterwards(attack, reaction)
            },
        );
    }
}

#[test]
fn set_up() {
    let mut family = Family::start(
        "V-12",
        "Rings set up with impossible numbers, or while they run",
    );
    numbers(&mut family);
    for (name, asked) in PLACES {
        family.guest(format!("SET_VRING_ADDR: {name}"), places(asked));
    }
    family.guest("enabled and disabled 1000 times", |attack| {
        for number in 0..2000 {
            attack
                .driver
                .client
                .tell_ring(SET_VRING_ENABLE, 0, number % 2);
        }
        attack.goes_on();
        "the ring goes on".to_owned()
    });
    family.guest(
        "stopped and started 300 times with requests offered",
        |attack| {
            for _ in 0..300 {
                attack.prepare(0, 3, &READ);
                attack.driver.chain(VICTIM, 0, &READ);
                attack.driver.offer(VICTIM, 0);
                let position = attack.driver.stop_ring(VICTIM);
                let offered = attack.driver.rings[VICTIM].next_avail;
                attack.driver.rings[VICTIM].next_avail = position;
                attack.driver.start_ring(VICTIM);
                attack.driver.rings[VICTIM].next_avail = offered;
                assert_eq!(attack.driver.wait(VICTIM).used_len, 513);
            }
            attack.goes_on();
            "right data each time".to_owned()
        },
    );
    family.guest("features chosen anew 100 times while rings run", |attack| {
        let features = attack.driver.features;
        for _ in 0..50 {
            // Protocol features stay, or nothing would be acknowledged any more.
            let few = VERSION_1 | 1 << 30;
            attack.driver.client.tell_u64(SET_FEATURES, few);
            attack.driver.client.tell_u64(SET_FEATURES, features);
        }
        attack.goes_on();
        "the ring goes on".to_owned()
    });
    family.finish();
}
