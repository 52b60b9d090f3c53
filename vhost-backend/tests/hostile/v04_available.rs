//! An available ring that lies, and rings whose memory goes away.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use vm_memory::{Bytes, GuestAddress};

use crate::attack::{
    AVAIL, Attack, DATA, HEADER_PIECE, NEIGHBOUR, STATUS_PIECE, Seen, USED, VICTIM,
};
use crate::family::Family;
use crate::support::client::{ADD_MEM_REG, REM_MEM_REG, SET_MEM_TABLE};
use crate::support::driver::{WRITE, eventfd};
use crate::support::guest::{BORDER, Piece as Region};

const READ: [(u64, u32, u16); 3] = [HEADER_PIECE, (DATA, 512, WRITE), STATUS_PIECE];
/// A place for the victim in a region that nothing else needs.
const ELSEWHERE: u64 = BORDER + 0x10_0000;
/// That region.
const LAST: usize = 2;

fn ready(attack: &mut Attack<'_>) {
    attack.prepare(0, 3, &READ);
    attack.driver.chain(VICTIM, 0, &READ);
}

/// Serves some requests, so that the ring is not at its beginning.
fn traffic(attack: &mut Attack<'_>, count: u16) {
    ready(attack);
    attack.offer_at_once(VICTIM, 0, count);
    attack.driver.kick(VICTIM);
    attack.answers(VICTIM, count, 513);
}

/// Moves the available index by `distance` from where it stands. Whatever entries it passes over name head 0.
fn jump(attack: &mut Attack<'_>, distance: u16) -> String {
    let ring = &mut attack.driver.rings[VICTIM];
    let to = ring.next_avail.wrapping_add(distance);
    attack.driver.set_avail_index(VICTIM, to);
    attack.driver.kick(VICTIM);
    if distance > 128 {
        assert_eq!(attack.watch(VICTIM), Seen::Broken);
        attack.mend(VICTIM);
        return "ring broken, error descriptor told".to_owned();
    }
    attack.driver.rings[VICTIM].next_avail = to;
    attack.answers(VICTIM, distance, 513);
    assert!(attack.driver.bytes(DATA, 512) == attack.sectors(3, 512));
    attack.goes_on();
    format!("right data, answers: {distance}")
}

/// Some good entries, then one that names no descriptor.
fn bad_entry(attack: &mut Attack<'_>, good: u16, entry: u16) -> String {
    ready(attack);
    for position in 0..good {
        let at =
            GuestAddress(attack.driver.rings[VICTIM].base + AVAIL + 4 + 2 * u64::from(position));
        attack.driver.guest.memory.write_obj(0_u16, at).unwrap();
    }
    let at = GuestAddress(attack.driver.rings[VICTIM].base + AVAIL + 4 + 2 * u64::from(good));
    attack.driver.guest.memory.write_obj(entry, at).unwrap();
    attack.driver.set_avail_index(VICTIM, good + 1);
    attack.driver.kick(VICTIM);
    attack.answers(VICTIM, good, 513);
    assert_eq!(attack.watch(VICTIM), Seen::Broken);
    attack.mend(VICTIM);
    format!("answers: {good}, then ring broken, error descriptor told")
}

/// Starts the victim at `position`, as if it had come so far.
fn begin_at(attack: &mut Attack<'_>, position: u16) {
    attack.driver.stop_ring(VICTIM);
    let size = attack.driver.rings[VICTIM].size;
    let mut ring = attack.driver.new_ring(0, size);
    (ring.next_avail, ring.next_used) = (position, position);
    let used = GuestAddress(ring.base + USED + 2);
    attack
        .driver
        .guest
        .memory
        .write_obj(position, used)
        .unwrap();
    attack.driver.rings[VICTIM] = ring;
    attack.driver.set_avail_index(VICTIM, position);
    attack.driver.start_ring(VICTIM);
}

#[test]
fn available_ring() {
    let mut family = Family::start(
        "V-04",
        "Available ring that lies, ring memory that goes away",
    );
    for distance in [
        1, 2, 127, 128, 129, 130, 255, 256, 1024, 16_384, 32_767, 32_768, 32_769, 65_407, 65_408,
        65_409, 65_534, 65_535,
    ] {
        family.guest(format!("index + {distance} in a fresh ring"), |attack| {
            ready(attack);
            jump(attack, distance)
        });
    }
    for distance in [
        1_i32, 128, 129, 32_767, 32_768, -32_767, -129, -128, -127, -5, -1,
    ] {
        let distance_u16 = u16::try_from(distance.rem_euclid(65_536)).unwrap();
        family.guest(format!("index {distance:+} after 5 requests"), |attack| {
            traffic(attack, 5);
            jump(attack, distance_u16)
        });
    }
    for (good, entry) in [
        (0, 128),
        (0, 129),
        (0, 255),
        (0, 256),
        (0, 32_768),
        (0, 65_535),
        (1, 128),
        (5, 65_535),
        (127, 128),
    ] {
        family.guest(format!("entry {entry} behind {good} good ones"), |attack| {
            bad_entry(attack, good, entry)
        });
    }
    for size in [1, 2, 1024] {
        family.guest_with(
            format!("entry {size} in a ring of {size}"),
            u64::MAX,
            size,
            |attack| {
                attack.offer_at_once(VICTIM, size, 1);
                attack.driver.kick(VICTIM);
                assert_eq!(attack.watch(VICTIM), Seen::Broken);
                attack.mend(VICTIM);
                "ring broken, error descriptor told".to_owned()
            },
        );
    }
    positions(&mut family);
    memory_goes(&mut family);
    memory_changes(&mut family);
    family.finish();
}

fn positions(family: &mut Family) {
    for position in [127, 128, 32_767, 65_472, 65_535] {
        family.guest(
            format!("legal: 128 requests from position {position} on"),
            |attack| {
                begin_at(attack, position);
                traffic(attack, 128);
                attack.goes_on();
                "right data".to_owned()
            },
        );
    }
    family.guest(
        "used index moved by the driver in a running ring",
        |attack| {
            traffic(attack, 5);
            let used = GuestAddress(attack.driver.rings[VICTIM].base + USED + 2);
            attack.driver.guest.memory.write_obj(999_u16, used).unwrap();
            // The device counts for itself, so its next answer puts the index right again.
            attack.offer_at_once(VICTIM, 0, 1);
            attack.driver.kick(VICTIM);
            crate::house::wait_until("the device's own count", || {
                attack.driver.used_index(VICTIM) == 6
            });
            attack.driver.wait(VICTIM);
            attack.goes_on();
            "the device counts for itself".to_owned()
        },
    );
}

fn remove(attack: &mut Attack<'_>, region: usize) {
    let payload = [vec![0; 8], attack.driver.guest.pieces[region].region()].concat();
    attack.driver.client.tell(REM_MEM_REG, &payload, &[]);
}

fn add(attack: &mut Attack<'_>, region: usize) {
    let piece: &Region = &attack.driver.guest.pieces[region];
    let payload = [vec![0; 8], piece.region()].concat();
    let file = piece.file.try_clone().unwrap();
    attack.driver.client.tell(ADD_MEM_REG, &payload, &[&file]);
}

fn memory_goes(family: &mut Family) {
    family.guest(
        "region of an idle ring removed, kicks, region added",
        |attack| {
            attack.move_ring(VICTIM, ELSEWHERE);
            attack.goes_on();
            remove(attack, LAST);
            (0..1000).for_each(|_| attack.driver.kick(VICTIM));
            attack.demand_neighbour();
            add(attack, LAST);
            attack.goes_on();
            "ring waits, then goes on".to_owned()
        },
    );
    family.guest(
        "region of a busy ring removed 50 times amid kicks",
        |attack| {
            attack.move_ring(VICTIM, ELSEWHERE);
            let kick = attack.driver.rings[VICTIM].kick.try_clone().unwrap();
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| hammer(&kick, &stop));
                for _ in 0..50 {
                    ready(attack);
                    attack.offer_at_once(VICTIM, 0, 100);
                    remove(attack, LAST);
                    attack.demand_neighbour();
                    add(attack, LAST);
                    attack.answers(VICTIM, 100, 513);
                    attack.goes_on();
                }
                stop.store(true, Ordering::Release);
            });
            "every request answered once".to_owned()
        },
    );
    family.guest("all regions removed and added again", |attack| {
        (0..3).for_each(|region| remove(attack, region));
        attack.driver.kick(VICTIM);
        (0..3).for_each(|region| add(attack, region));
        attack.goes_on();
        "rings wait, then go on".to_owned()
    });
    family.guest("region of the buffers removed amid requests", |attack| {
        attack.move_ring(NEIGHBOUR, 0x1_0000);
        for _ in 0..20 {
            ready(attack);
            attack.offer_at_once(VICTIM, 0, 128);
            attack.driver.kick(VICTIM);
            // The buffers are in the second region.
            remove(attack, 1);
            for _ in 0..128 {
                let used_len = attack.driver.wait(VICTIM).used_len;
                assert!([0, 513].contains(&used_len), "{used_len}");
            }
            add(attack, 1);
        }
        attack.goes_on();
        "every request answered once, with right data or nothing".to_owned()
    });
}

fn hammer(kick: &File, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        rustix::io::write(kick, &1_u64.to_le_bytes()).unwrap();
        std::thread::yield_now();
    }
}

/// The table of these regions, at these distances from their usual front-end addresses, with these files.
fn tell_table(attack: &mut Attack<'_>, regions: &[(usize, u64, Option<&File>)]) {
    let count = u32::try_from(regions.len()).unwrap();
    let mut payload = [count, 0].map(u32::to_le_bytes).concat();
    let pieces = &attack.driver.guest.pieces;
    for (region, shift, _) in regions {
        let piece = &pieces[*region];
        for number in [piece.guest, piece.len, piece.user + shift, piece.offset] {
            payload.extend(number.to_le_bytes());
        }
    }
    let files: Vec<File> = regions
        .iter()
        .map(|(region, _, file)| file.unwrap_or(&pieces[*region].file).try_clone().unwrap())
        .collect();
    let files: Vec<&File> = files.iter().collect();
    attack.driver.client.tell(SET_MEM_TABLE, &payload, &files);
}

fn whole_table(attack: &mut Attack<'_>) {
    tell_table(attack, &[(0, 0, None), (1, 0, None), (2, 0, None)]);
}

fn memory_changes(family: &mut Family) {
    family.guest(
        "new table without the ring's region, then with it",
        |attack| {
            attack.move_ring(VICTIM, ELSEWHERE);
            tell_table(attack, &[(0, 0, None), (1, 0, None)]);
            attack.driver.kick(VICTIM);
            attack.demand_neighbour();
            whole_table(attack);
            attack.goes_on();
            "ring waits, then goes on".to_owned()
        },
    );
    family.guest("new table in which the ring's region has moved", |attack| {
        attack.move_ring(VICTIM, ELSEWHERE);
        tell_table(
            attack,
            &[(0, 0, None), (1, 0, None), (2, 0x1000_0000, None)],
        );
        attack.driver.kick(VICTIM);
        attack.demand_neighbour();
        whole_table(attack);
        attack.goes_on();
        "ring waits, then goes on".to_owned()
    });
    family.guest("new table with another file under the ring", |attack| {
        attack.move_ring(VICTIM, ELSEWHERE);
        traffic(attack, 5);
        let file =
            File::from(rustix::fs::memfd_create("other", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
        let piece = &attack.driver.guest.pieces[LAST];
        file.set_len(piece.offset + piece.len).unwrap();
        tell_table(attack, &[(0, 0, None), (1, 0, None), (2, 0, Some(&file))]);
        attack.driver.kick(VICTIM);
        attack.demand_neighbour();
        whole_table(attack);
        attack.driver.rings[VICTIM].error = eventfd();
        attack.mend(VICTIM);
        "ring of zeroes is served as such, a reset brings the old one back".to_owned()
    });
    family.guest("memory table sent 300 times under load", |attack| {
        for _ in 0..300 {
            ready(attack);
            attack.offer_at_once(VICTIM, 0, 20);
            attack.driver.kick(VICTIM);
            whole_table(attack);
            attack.answers(VICTIM, 20, 513);
        }
        attack.goes_on();
        "every request answered once".to_owned()
    });
}
