//! C-07: regions come and go one by one, up to 256, while the guest reads; what is gone is not touched any more.

use crate::bench::{self, is_abandoned, pipe, remove_piece, start};
use crate::extra_memory::{EXTRA, Extra, busy_program, extra, read_into};
use crate::program::Place;
use crate::registry::line;
use crate::support::client::{ADD_MEM_REG, Client, GET_MAX_MEM_SLOTS, REM_MEM_REG};
use crate::support::driver::{IOERR, OK, eventfd, readable};
use crate::support::guest::{BUFFERS, END, RINGS};

line! {
    C07 = "C-07", c07_memory_regions:
    "C-07.01" "256 regions fit, one more is refused" => slots,
    "C-07.02" "a region goes by all its three numbers" => all_numbers,
    "C-07.03" "a descriptor that comes with REM_MEM_REG is closed" => rem_descriptor,
    "C-07.04" "after REM_MEM_REG nothing is written there" => rem_is_final,
    "C-07.05" "regions come and go while the guest reads" => hot_plug,
    "C-07.06" "a region comes back with another file" => other_file,
    "C-07.07" "a table replaces single regions" => table_after_regions,
    "C-07.08" "a ring waits for the region it lies in" => ring_waits,
    "C-07.09" "regions that cannot be are refused" => impossible_regions,
    "C-07.10" "the mapping of a region that is gone is gone" => unmapped,
    "C-07.11" "a thousand comings and goings leave nothing" => region_descriptors,
    "C-07.12" "ADD_MEM_REG needs exactly one descriptor" => add_descriptors,
}

fn slots() {
    let mut bench = start(1);
    assert_eq!(bench.driver.client.ask_u64(GET_MAX_MEM_SLOTS), 256);
    // Three are the guest's own.
    let extras: Vec<Extra> = (0..253).map(|number| extra(number, 0x1000)).collect();
    extras.iter().for_each(|extra| extra.add(&mut bench));
    let more = extra(253, 0x1000);
    assert!(!bench.asks(ADD_MEM_REG, &more.single(), &[&more.file]));
    for at in [0, 100, 252] {
        let (guest, sector) = (extras[at].guest, 500 + at as u64);
        assert_eq!(read_into(&mut bench, sector, &[(guest, 512)]).0, OK);
        assert!(extras[at].bytes(0, 512) == bench.sectors(sector, 512));
    }
    extras[100].remove(&mut bench);
    more.add(&mut bench);
    assert_eq!(read_into(&mut bench, 500, &[(more.guest, 512)]).0, OK);
}

fn all_numbers() {
    let mut bench = start(1);
    let region = extra(0, 0x1000);
    region.add(&mut bench);
    for (guest, len, user) in [(0x1000, 0, 0), (0, 0x1000, 0), (0, 0, 0x1000), (1, 0, 1)] {
        let other = Extra {
            guest: region.guest + guest,
            len: region.len + len,
            user: region.user + user,
            ..extra(0, 0x1000)
        };
        assert!(!bench.asks(REM_MEM_REG, &other.single(), &[]));
        assert_eq!(read_into(&mut bench, 500, &[(region.guest, 512)]).0, OK);
    }
    region.remove(&mut bench);
    assert!(!bench.asks(REM_MEM_REG, &region.single(), &[]), "twice");
}

fn rem_descriptor() {
    let mut bench = start(1);
    let region = extra(0, 0x1000);
    region.add(&mut bench);
    let (out, into) = pipe();
    assert!(bench.asks(REM_MEM_REG, &region.single(), &[&into]));
    drop(into);
    assert!(is_abandoned(&out));
    bench.check_read(0);
}

fn rem_is_final() {
    let mut bench = start(2);
    let region = extra(0, 0x1_0000);
    for round in 0..100_u64 {
        region.add(&mut bench);
        for slot in 0..20_u16 {
            bench.place_read(1, slot, 500 + round);
            let data = region.guest + 512 * u64::from(slot);
            bench
                .driver
                .descriptor(1, 3 * slot + 1, (data, 512, 3, 3 * slot + 2));
            bench.driver.offer(1, 3 * slot);
        }
        bench.driver.kick(1);
        region.remove(&mut bench);
        region.fill(0xAA);
        // All are answered, those that came too late with an error.
        (0..20).for_each(|_| {
            bench.driver.wait(1);
        });
        bench.check_read(0);
        assert_eq!(region.bytes(0, 0x1_0000), [0xAA; 0x1_0000], "round {round}");
    }
}

fn hot_plug() {
    let mut bench = start(1);
    for round in 0..60_u64 {
        let regions = [extra(0, 0x1000), extra(1, 0x2000), extra(2, 0x3000)];
        (0..20).for_each(|slot| bench.offer_read(0, slot, 500 + round));
        bench.driver.kick(0);
        regions.iter().for_each(|region| region.add(&mut bench));
        (0..20).for_each(|slot| bench.expect_read(0, slot, 500 + round));
        let pieces = [(regions[2].guest, 512), (regions[0].guest + 0x500, 1024)];
        assert_eq!(read_into(&mut bench, 600, &pieces), (OK, 1537));
        let found = [regions[2].bytes(0, 512), regions[0].bytes(0x500, 1024)].concat();
        assert!(found == bench.sectors(600, 1536));
        regions.iter().for_each(|region| region.remove(&mut bench));
    }
}

fn other_file() {
    let mut bench = start(1);
    let old = extra(0, 0x1000);
    let new = extra(0, 0x1000);
    old.add(&mut bench);
    assert_eq!(read_into(&mut bench, 500, &[(old.guest, 512)]).0, OK);
    old.remove(&mut bench);
    old.fill(0xAA);
    new.add(&mut bench);
    assert_eq!(read_into(&mut bench, 600, &[(new.guest, 512)]).0, OK);
    assert!(new.bytes(0, 512) == bench.sectors(600, 512));
    assert_eq!(old.bytes(0, 512), [0xAA; 512]);
}

fn table_after_regions() {
    let mut bench = start(1);
    let region = extra(0, 0x1000);
    region.add(&mut bench);
    assert_eq!(read_into(&mut bench, 500, &[(region.guest, 512)]).0, OK);
    bench.driver.hand_over_table(0);
    assert_eq!(read_into(&mut bench, 500, &[(region.guest, 512)]).0, IOERR);
    assert!(!bench.asks(REM_MEM_REG, &region.single(), &[]));
    region.add(&mut bench);
    assert_eq!(read_into(&mut bench, 500, &[(region.guest, 512)]).0, OK);
}

fn ring_waits() {
    let mut bench = start(1);
    for _ in 0..20 {
        remove_piece(&mut bench.driver, 0);
        bench.offer_read(0, 0, 500);
        bench.demand_silence(0);
        let piece = &bench.driver.guest.pieces[0];
        let payload = [vec![0; 8], piece.region()].concat();
        let file = piece.file.try_clone().unwrap();
        bench.driver.client.tell(ADD_MEM_REG, &payload, &[&file]);
        bench.expect_read(0, 0, 500);
    }
    let error = &bench.driver.rings[0].error;
    assert!(
        !readable(error, std::time::Duration::ZERO),
        "nothing is wrong"
    );
}

fn impossible_regions() {
    let mut bench = start(1);
    let good = extra(0, 0x1000);
    for (guest, len, user, offset) in [
        (EXTRA, 0x1001, 0, 0),
        (EXTRA, 0, 0, 0),
        (EXTRA, 0x1000, 0, 0x1000),
        (EXTRA, 0x1000, 0, u64::MAX - 0xfff),
        (u64::MAX, 2, 0, 0),
        (EXTRA, 0x1000, u64::MAX, 0),
        (RINGS, 0x1000, 0, 0),
        (END - 1, 0x1000, 0, 0),
        (BUFFERS - 0xfff, 0x1000, 0, 0),
    ] {
        let numbers = [0, guest, len, user, offset].map(u64::to_le_bytes);
        let taken = bench.asks(ADD_MEM_REG, &numbers.concat(), &[&good.file]);
        assert!(!taken, "{guest:#x} {len:#x} {user:#x} {offset:#x}");
        bench.check_read(0);
    }
    good.add(&mut bench);
}

fn unmapped() {
    let place = Place::new();
    let (program, mut driver, _usage) = busy_program(&place);
    let region = extra(0, 0x1000);
    let mapped = || {
        let maps = format!("/proc/{}/maps", program.child.id());
        std::fs::read_to_string(maps)
            .unwrap()
            .contains("memfd:check")
    };
    for _ in 0..10 {
        assert!(!mapped());
        driver
            .client
            .tell(ADD_MEM_REG, &region.single(), &[&region.file]);
        assert!(mapped());
        driver.client.tell(REM_MEM_REG, &region.single(), &[]);
    }
    assert!(!mapped());
}

fn region_descriptors() {
    let place = Place::new();
    let (program, mut driver, before) = busy_program(&place);
    let region = extra(0, 0x1000);
    let twin = extra(0, 0x1000);
    for _ in 0..500 {
        let client: &mut Client = &mut driver.client;
        client.tell(ADD_MEM_REG, &region.single(), &[&region.file]);
        // One that is refused leaves nothing either.
        client.send(
            ADD_MEM_REG,
            bench::NEED_REPLY,
            &twin.single(),
            &[&twin.file],
        );
        assert_ne!(client.reply(ADD_MEM_REG).unwrap(), [0; 8]);
        client.tell(REM_MEM_REG, &region.single(), &[&region.file]);
    }
    place.check_read(&mut driver, 1);
    program.demand_no_more_than(before);
}

fn add_descriptors() {
    let region = extra(0, 0x1000);
    let event = eventfd();
    for files in [vec![], vec![&region.file, &region.file]] {
        let mut bench = start(1);
        bench
            .driver
            .client
            .send(ADD_MEM_REG, 1, &region.single(), &files);
        bench.demand_refused();
    }
    // One that is no memory is refused like any other.
    let mut bench = start(1);
    assert!(!bench.asks(ADD_MEM_REG, &region.single(), &[&event]));
    bench.check_read(0);
}
