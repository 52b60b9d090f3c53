//! A second processor that changes everything while requests run.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::attack::{
    AVAIL, Attack, DATA, HEADER, HEADER_PIECE, HOLE, STATUS, STATUS_PIECE, TABLE, UNTOUCHED, USED,
    VICTIM,
};
use crate::family::Family;
use crate::house::PATIENCE;
use crate::support::driver::{INDIRECT, NEXT, OK, WRITE, readable};
use crate::support::guest::{BUFFERS, END, RINGS};

/// A second place for data; differs from the first in a single byte, so a torn address is one of the two.
const DATA_2: u64 = BUFFERS + 0x3000;
const STATUS_2: u64 = BUFFERS + 0x300;
/// Room for data at each place.
const ROOM: u32 = 4096;
const PLACES: [u64; 2] = [DATA, DATA_2];
/// Everything around the places that nobody offers.
const CANARY: u64 = BUFFERS + 0x1000;
const CANARY_LEN: usize = 0x6000;

const SERIAL_LEN: usize = 20;
const MIN_FLIPS: u64 = 100_000;
const MIN_REQUESTS: u32 = 300;

/// Stores numbers into guest memory. The first argument counts the calls.
type Flip = fn(u64, &GuestMemoryMmap);

struct Race {
    name: &'static str,
    sector: u64,
    indirect: bool,
    flip: Flip,
}

fn store<T: vm_memory::AtomicAccess>(memory: &GuestMemoryMmap, address: u64, value: T) {
    memory
        .store(value, GuestAddress(address), Ordering::Relaxed)
        .unwrap();
}

/// Numbers without a pattern.
fn scramble(number: u64) -> u64 {
    let mixed = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 3
}

fn pick<T: Copy>(number: u64, from: &[T]) -> T {
    from[usize::try_from(scramble(number)).unwrap() % from.len()]
}

fn low_byte(number: u64) -> u8 {
    number.to_le_bytes()[0]
}

/// Where descriptor `index` of the victim has its address, length, flags and next.
const fn descriptor(index: u64) -> [u64; 4] {
    let at = RINGS + 16 * index;
    [at, at + 8, at + 12, at + 14]
}

const RACES: [Race; 19] = [
    Race {
        name: "type of the request: 0, 8, 4, 1, 99",
        sector: 3,
        indirect: false,
        flip: |n, memory| store(memory, HEADER, pick(n, &[0_u32, 8, 4, 1, 99])),
    },
    Race {
        name: "type, byte by byte",
        sector: 3,
        indirect: false,
        flip: |n, memory| store(memory, HEADER + n % 4, low_byte(scramble(n)) % 16),
    },
    Race {
        name: "sector, inside the disk and behind it",
        sector: 3,
        indirect: false,
        flip: |n, memory| store(memory, HEADER + 8, scramble(n) % 5000),
    },
    Race {
        name: "sector, byte by byte",
        sector: 3,
        indirect: false,
        flip: |n, memory| store(memory, HEADER + 8 + n % 8, low_byte(scramble(n)) % 9),
    },
    Race {
        name: "all of the header, byte by byte",
        sector: 3,
        indirect: false,
        flip: |n, memory| store(memory, HEADER + n % 16, low_byte(scramble(n)) % 3),
    },
    Race {
        name: "data length",
        sector: 3,
        indirect: false,
        flip: |n, memory| {
            let len = pick(n, &[512_u32, 4096, 0, 513, 1024, u32::MAX, 1 << 31]);
            store(memory, descriptor(1)[1], len);
        },
    },
    Race {
        name: "data address, between two buffers",
        sector: 3,
        indirect: false,
        flip: |n, memory| store(memory, descriptor(1)[0], pick(n, &PLACES)),
    },
    Race {
        name: "data address, in memory and outside",
        sector: 3,
        indirect: false,
        flip: |n, memory| {
            let address = pick(n, &[DATA, HOLE, END, u64::MAX - 7, u64::MAX << 12]);
            store(memory, descriptor(1)[0], address);
        },
    },
    Race {
        name: "data flags: writable and next",
        sector: 3,
        indirect: false,
        flip: |n, memory| {
            store(
                memory,
                descriptor(1)[2],
                pick(n, &[NEXT | WRITE, NEXT, WRITE, 0]),
            );
        },
    },
    Race {
        name: "data flags: writable and indirect",
        // A table of what this sector holds is a table of zeroes.
        sector: 600,
        indirect: false,
        flip: |n, memory| {
            let flags = pick(
                n,
                &[NEXT | WRITE, INDIRECT, INDIRECT | WRITE, INDIRECT | NEXT],
            );
            store(memory, descriptor(1)[2], flags);
        },
    },
    Race {
        name: "next of the header",
        sector: 3,
        indirect: false,
        flip: |n, memory| {
            store(
                memory,
                descriptor(0)[3],
                pick(n, &[1_u16, 2, 0, 127, 128, u16::MAX]),
            );
        },
    },
    Race {
        name: "status address",
        sector: 3,
        indirect: false,
        flip: |n, memory| {
            store(
                memory,
                descriptor(2)[0],
                pick(n, &[STATUS, STATUS_2, END, HOLE]),
            );
        },
    },
    Race {
        name: "status length",
        sector: 3,
        indirect: false,
        flip: |n, memory| store(memory, descriptor(2)[1], pick(n, &[1_u32, 0, u32::MAX])),
    },
    Race {
        name: "length of the indirect table",
        sector: 3,
        indirect: true,
        flip: |n, memory| {
            let len = pick(n, &[48_u32, 32, 16, 0, 47, 0xFFFF_FFF0]);
            store(memory, descriptor(0)[1], len);
        },
    },
    Race {
        name: "entries of the indirect table",
        sector: 3,
        indirect: true,
        flip: |n, memory| {
            store(memory, TABLE + 16, pick(n, &PLACES));
            store(memory, TABLE + 24, pick(n + 1, &[512_u32, 4096, 0]));
            store(
                memory,
                TABLE + 28,
                pick(n + 2, &[NEXT | WRITE, NEXT, WRITE]),
            );
            store(memory, TABLE + 30, pick(n + 3, &[2_u16, 3, 0]));
        },
    },
    Race {
        name: "whether the table is one",
        sector: 3,
        indirect: true,
        flip: |n, memory| store(memory, descriptor(0)[2], pick(n, &[INDIRECT, 0])),
    },
    Race {
        name: "entries of the available ring",
        sector: 3,
        indirect: false,
        flip: |n, memory| {
            let slot = RINGS + AVAIL + 4 + 2 * (n % 128);
            store(memory, slot, pick(n, &[0_u16, 4]));
        },
    },
    Race {
        name: "flags and event of the available ring",
        sector: 3,
        indirect: false,
        flip: |n, memory| {
            store(memory, RINGS + AVAIL, u16::from(low_byte(scramble(n))));
            store(memory, RINGS + AVAIL + 4 + 256, u16::from(low_byte(n)));
        },
    },
    Race {
        name: "header, data length and data address together",
        sector: 3,
        indirect: false,
        flip: |n, memory| {
            store(memory, HEADER, pick(n, &[0_u32, 0, 0, 8, 77]));
            store(memory, HEADER + 8, scramble(n + 1) % 5000);
            store(memory, descriptor(1)[0], pick(n + 2, &PLACES));
            store(
                memory,
                descriptor(1)[1],
                pick(n + 3, &[512_u32, 4096, 1024, 511]),
            );
        },
    },
];

/// Flips until told to stop, and says how often.
fn flip(memory: &GuestMemoryMmap, flip: Flip, stop: &AtomicBool, flips: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let number = flips.fetch_add(1, Ordering::Relaxed);
        flip(number, memory);
    }
}

fn set_up(attack: &Attack<'_>, race: &Race) {
    let pieces = [HEADER_PIECE, (DATA, ROOM, WRITE), STATUS_PIECE];
    attack.driver.fill(CANARY, CANARY_LEN, UNTOUCHED);
    attack.prepare(0, race.sector, &pieces);
    if race.indirect {
        attack.driver.chain_in(TABLE, 0, &pieces);
        attack.driver.chain(VICTIM, 0, &[(TABLE, 48, INDIRECT)]);
    } else {
        attack.driver.chain(VICTIM, 0, &pieces);
    }
    // The other head of the race about entries.
    let other = [HEADER_PIECE, (DATA_2, 512, WRITE), STATUS_PIECE];
    attack.driver.chain(VICTIM, 4, &other);
}

/// Runs requests under the flips. Each must come back with a known status, and whatever it delivered must be a piece
/// of the disk, or of the serial, at one of the places on offer.
fn race(attack: &mut Attack<'_>, race: &Race) -> String {
    set_up(attack, race);
    let (stop, flips) = (AtomicBool::new(false), AtomicU64::new(0));
    let memory = attack.driver.guest.memory.clone();
    let start = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| flip(&memory, race.flip, &stop, &flips));
        let _stop = StopAtEnd(&stop);
        let mut requests = 0;
        while requests < MIN_REQUESTS || flips.load(Ordering::Relaxed) < MIN_FLIPS {
            assert!(start.elapsed() < PATIENCE, "too slow");
            one(attack);
            requests += 1;
        }
    });
    set_up(attack, race);
    attack.goes_on();
    "each answer is right data or an error, nothing else is written".to_owned()
}

/// Lets the other thread end, also when this one fails.
struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn one(attack: &mut Attack<'_>) {
    attack.driver.fill(CANARY, CANARY_LEN, UNTOUCHED);
    attack.driver.fill(STATUS, 1, UNTOUCHED);
    attack.driver.fill(STATUS_2, 1, UNTOUCHED);
    attack.driver.offer(VICTIM, 0);
    attack.driver.kick(VICTIM);
    let done = attack.driver.wait(VICTIM);
    assert!([0, 4].contains(&done.head), "head {}", done.head);
    let statuses = [STATUS, STATUS_2].map(|at| attack.driver.bytes(at, 1)[0]);
    let known = |status: &u8| [OK, 1, 2, UNTOUCHED].contains(status);
    assert!(statuses.iter().all(known), "{statuses:?}");
    demand_known_data(attack, done.used_len, statuses.contains(&OK));
}

fn demand_known_data(attack: &Attack<'_>, used_len: u32, ok: bool) {
    let memory = attack.driver.bytes(CANARY, CANARY_LEN);
    let mut rest = memory.clone();
    let mut longest = 0;
    for place in PLACES {
        let start = usize::try_from(place - CANARY).unwrap();
        let room = start..start + ROOM as usize;
        rest[room.clone()].fill(UNTOUCHED);
        let written = trimmed(&memory[room]);
        let known = known_len(attack, written);
        let known = known.unwrap_or_else(|| panic!("{} bytes of nowhere", written.len()));
        longest = longest.max(known);
    }
    assert!(longest <= used_len as usize, "{longest} > {used_len}");
    if ok {
        // All of the data and the status, which may lie in a buffer for data.
        assert_eq!(longest, used_len as usize - 1, "less than was promised");
    }
    assert!(trimmed(&rest).is_empty(), "a canary is dead");
}

/// Without the bytes at the end that nobody touched. No data of the disk ends like them.
fn trimmed(buffer: &[u8]) -> &[u8] {
    let untouched = buffer.iter().rev().take_while(|byte| **byte == UNTOUCHED);
    &buffer[..buffer.len() - untouched.count()]
}

/// How many bytes of the disk or of the serial `written` begins with, if there is nothing else but perhaps a status.
fn known_len(attack: &Attack<'_>, written: &[u8]) -> Option<usize> {
    let known = |bytes: &[u8]| {
        let mut sectors = (0..attack.disk.len()).step_by(512);
        bytes.is_empty()
            || (bytes.len() == SERIAL_LEN && bytes.starts_with(b"vbd-"))
            || sectors.any(|start| attack.disk[start..].starts_with(bytes))
    };
    if known(written) {
        return Some(written.len());
    }
    let (status, data) = written.split_last()?;
    let data = trimmed(data);
    (*status <= 2 && known(data)).then_some(data.len())
}

#[test]
fn races() {
    let mut family = Family::start(
        "V-06",
        "A second processor changes the request while it is read",
    );
    for attempt in &RACES {
        family.guest(attempt.name, |attack| race(attack, attempt));
    }
    family.guest("available index, near and far", |attack| {
        set_up(attack, &RACES[0]);
        let (stop, flips) = (AtomicBool::new(false), AtomicU64::new(0));
        let memory = attack.driver.guest.memory.clone();
        let far: Flip = |n, memory| {
            store(
                memory,
                RINGS + AVAIL + 2,
                pick(n, &[0_u16, 1, 128, 129, 30_000]),
            );
        };
        std::thread::scope(|scope| {
            scope.spawn(|| flip(&memory, far, &stop, &flips));
            let _stop = StopAtEnd(&stop);
            let start = Instant::now();
            let error = attack.driver.rings[VICTIM].error.try_clone().unwrap();
            while !readable(&error, Duration::ZERO) || flips.load(Ordering::Relaxed) < MIN_FLIPS {
                assert!(start.elapsed() < PATIENCE, "the ring must break");
                // The index may be where the ring stands whenever the device looks.
                attack.driver.kick(VICTIM);
                std::thread::sleep(Duration::from_micros(100));
            }
        });
        attack.mend(VICTIM);
        "ring broken, error descriptor told".to_owned()
    });
    family.guest("used ring, all of it", scribbled_used_ring);
    family.finish();
}

/// The device never reads back what it wrote to the used ring.
fn scribbled_used_ring(attack: &mut Attack<'_>) -> String {
    set_up(attack, &RACES[0]);
    let (stop, flips) = (AtomicBool::new(false), AtomicU64::new(0));
    let memory = attack.driver.guest.memory.clone();
    let scribble: Flip = |n, memory| store(memory, RINGS + USED + n % 1030, low_byte(scramble(n)));
    std::thread::scope(|scope| {
        scope.spawn(|| flip(&memory, scribble, &stop, &flips));
        let _stop = StopAtEnd(&stop);
        let mut requests = 0;
        while requests < MIN_REQUESTS || flips.load(Ordering::Relaxed) < MIN_FLIPS {
            attack.driver.fill(DATA, 4096, UNTOUCHED);
            attack.driver.fill(STATUS, 1, UNTOUCHED);
            attack.driver.offer(VICTIM, 0);
            attack.driver.kick(VICTIM);
            crate::house::wait_until("the status", || attack.driver.bytes(STATUS, 1) == [OK]);
            assert!(attack.driver.bytes(DATA, 4096) == attack.sectors(3, 4096));
            requests += 1;
        }
    });
    attack.mend(VICTIM);
    "right data; the used ring is written, never read".to_owned()
}
