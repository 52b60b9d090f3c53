//! C-06: a memory table may have 1 to 32 regions in any order and replaces the one before it as a whole.
//! C-07: regions come and go one by one, up to 256, while the guest reads; what is gone is not touched any more.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::bench::{self, Bench, HEADER, STATUS, is_abandoned, memfd, pipe, remove_piece, start};
use crate::program::Place;
use crate::registry::{Check, Line, check};
use crate::support::client::{ADD_MEM_REG, Client, GET_MAX_MEM_SLOTS, REM_MEM_REG, SET_MEM_TABLE};
use crate::support::driver::{Driver, IOERR, OK, WRITE, eventfd, readable};
use crate::support::guest::{BORDER, BUFFERS, END, RINGS};

const C06_CHECKS: &[Check] = &[
    check("C-06.01", "three regions in all six orders", orders),
    check("C-06.02", "1 to 32 regions in one message", counts),
    check(
        "C-06.03",
        "regions of one file at several offsets",
        one_file,
    ),
    check("C-06.04", "a region that is gone is not reached", replaced),
    check(
        "C-06.05",
        "replaced under load, no read is lost or wrong",
        under_load,
    ),
    check(
        "C-06.06",
        "a thousand tables leave no descriptor",
        table_descriptors,
    ),
    check(
        "C-06.07",
        "a region beyond its file changes nothing",
        beyond_file,
    ),
    check("C-06.08", "regions that overlap change nothing", overlap),
    check(
        "C-06.09",
        "an impossible table ends the session",
        impossible_tables,
    ),
    check("C-06.10", "a region ends at its last byte", last_byte),
    check("C-06.11", "a buffer over a hole is refused", hole),
    check(
        "C-06.12",
        "a ring may lie across two regions that touch",
        ring_across,
    ),
    check(
        "C-06.13",
        "memory may come before everything else",
        memory_first,
    ),
    check("C-06.14", "regions high in the address space", high_regions),
    check("C-06.15", "memory in an ordinary file", ordinary_file),
];

pub(crate) const C06: Line = Line {
    id: "C-06",
    checks: C06_CHECKS,
};

const C07_CHECKS: &[Check] = &[
    check("C-07.01", "256 regions fit, one more is refused", slots),
    check(
        "C-07.02",
        "a region goes by all its three numbers",
        all_numbers,
    ),
    check(
        "C-07.03",
        "a descriptor that comes with REM_MEM_REG is closed",
        rem_descriptor,
    ),
    check(
        "C-07.04",
        "after REM_MEM_REG nothing is written there",
        rem_is_final,
    ),
    check(
        "C-07.05",
        "regions come and go while the guest reads",
        hot_plug,
    ),
    check(
        "C-07.06",
        "a region comes back with another file",
        other_file,
    ),
    check(
        "C-07.07",
        "a table replaces single regions",
        table_after_regions,
    ),
    check(
        "C-07.08",
        "a ring waits for the region it lies in",
        ring_waits,
    ),
    check(
        "C-07.09",
        "regions that cannot be are refused",
        impossible_regions,
    ),
    check(
        "C-07.10",
        "the mapping of a region that is gone is gone",
        unmapped,
    ),
    check(
        "C-07.11",
        "a thousand comings and goings leave nothing",
        region_descriptors,
    ),
    check(
        "C-07.12",
        "ADD_MEM_REG needs exactly one descriptor",
        add_descriptors,
    ),
];

pub(crate) const C07: Line = Line {
    id: "C-07",
    checks: C07_CHECKS,
};

#[test]
fn c06_memory_table() {
    C06.run();
}

#[test]
fn c07_memory_regions() {
    C07.run();
}

/// A region besides the guest's own.
struct Extra {
    guest: u64,
    len: u64,
    user: u64,
    offset: u64,
    file: File,
}

const EXTRA: u64 = 0x9000_0000;

fn extra(number: u64, len: u64) -> Extra {
    Extra {
        guest: EXTRA + 0x10_0000 * number,
        len,
        user: 0x30_0000_0000 + 0x10_0000 * number,
        offset: 0,
        file: memfd(len),
    }
}

impl Extra {
    fn region(&self) -> Vec<u8> {
        [self.guest, self.len, self.user, self.offset]
            .map(u64::to_le_bytes)
            .concat()
    }

    fn single(&self) -> Vec<u8> {
        [vec![0; 8], self.region()].concat()
    }

    fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, self.offset + offset)
            .unwrap();
        bytes
    }

    fn fill(&self, byte: u8) {
        let bytes = vec![byte; usize::try_from(self.len).unwrap()];
        self.file.write_all_at(&bytes, self.offset).unwrap();
    }

    fn add(&self, bench: &mut Bench) {
        bench
            .driver
            .client
            .tell(ADD_MEM_REG, &self.single(), &[&self.file]);
    }

    fn remove(&self, bench: &mut Bench) {
        bench.driver.client.tell(REM_MEM_REG, &self.single(), &[]);
    }
}

fn table(regions: &[Vec<u8>]) -> Vec<u8> {
    let count = u32::try_from(regions.len()).unwrap();
    let head = [count, 0].map(u32::to_le_bytes).concat();
    [head, regions.concat()].concat()
}

/// The first `own` of the guest's own pieces and the extra ones, last first.
fn tell_table(bench: &mut Bench, own: usize, extras: &[Extra]) {
    let pieces = &bench.driver.guest.pieces[..own];
    let mut regions: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.region()).collect();
    let mut files: Vec<&File> = pieces.iter().map(|piece| &piece.file).collect();
    regions.extend(extras.iter().map(Extra::region));
    files.extend(extras.iter().map(|extra| &extra.file));
    regions.reverse();
    files.reverse();
    bench
        .driver
        .client
        .tell(SET_MEM_TABLE, &table(&regions), &files);
}

/// Reads from `sector` on into `pieces` and returns status and used length.
fn read_into(bench: &mut Bench, sector: u64, pieces: &[(u64, u32)]) -> (u8, u32) {
    bench.driver.header(HEADER, 0, sector);
    bench.driver.fill(STATUS, 1, 0xEE);
    let mut chain = vec![(HEADER, 16, 0)];
    chain.extend(pieces.iter().map(|(address, len)| (*address, *len, WRITE)));
    chain.push((STATUS, 1, WRITE));
    bench.driver.chain(0, 0, &chain);
    let used_len = bench.driver.run(0, 0).used_len;
    (bench.driver.bytes(STATUS, 1)[0], used_len)
}

fn check_across_border(bench: &mut Bench) {
    assert_eq!(read_into(bench, 500, &[(BORDER - 700, 1024)]), (OK, 1025));
    assert!(bench.driver.bytes(BORDER - 700, 1024) == bench.sectors(500, 1024));
    bench.driver.fill(BORDER - 700, 1024, 0);
}

fn orders() {
    let mut bench = start(1);
    for order in [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ] {
        let pieces = order.map(|at| &bench.driver.guest.pieces[at]);
        let regions = pieces.map(|piece| piece.region());
        let files = pieces.map(|piece| &piece.file);
        bench
            .driver
            .client
            .tell(SET_MEM_TABLE, &table(&regions), &files);
        check_across_border(&mut bench);
    }
}

fn counts() {
    let mut bench = start(1);
    for count in 1..=32_usize {
        let extras: Vec<Extra> = (3..count as u64)
            .map(|number| extra(number, 0x1000))
            .collect();
        tell_table(&mut bench, count.min(3), &extras);
        // With one region, everything lies in it.
        let (header, status, data) = (RINGS + 0x18_0000, RINGS + 0x18_0020, RINGS + 0x19_0000);
        bench.driver.header(header, 0, 500);
        bench.driver.fill(data, 512, 0xEE);
        let mut chain = vec![(header, 16, 0), (data, 512, WRITE)];
        chain.extend(extras.iter().map(|extra| (extra.guest + 0x200, 512, WRITE)));
        chain.push((status, 1, WRITE));
        bench.driver.chain(0, 0, &chain);
        let len = u32::try_from(512 * (extras.len() + 1)).unwrap();
        assert_eq!(bench.driver.run(0, 0).used_len, len + 1, "{count} regions");
        let mut found = bench.driver.bytes(data, 512);
        extras
            .iter()
            .for_each(|extra| found.extend(extra.bytes(0x200, 512)));
        assert!(found == bench.sectors(500, len), "{count} regions");
    }
}

fn one_file() {
    let mut bench = start(1);
    let file = memfd(0x1_0000);
    let extras: Vec<Extra> = (0..8)
        .map(|number| Extra {
            offset: 0x2000 * (7 - number),
            file: file.try_clone().unwrap(),
            ..extra(number, 0x1000)
        })
        .collect();
    tell_table(&mut bench, 3, &extras);
    for (number, extra) in extras.iter().enumerate() {
        let sector = 500 + number as u64;
        assert_eq!(read_into(&mut bench, sector, &[(extra.guest, 512)]).0, OK);
    }
    for (number, extra) in extras.iter().enumerate() {
        assert!(extra.bytes(0, 512) == bench.sectors(500 + number as u64, 512));
    }
}

fn replaced() {
    let mut bench = start(1);
    let gone = extra(0, 0x1000);
    let stays = extra(1, 0x1000);
    tell_table(&mut bench, 3, &[extra(2, 0x1000)]);
    assert_eq!(read_into(&mut bench, 500, &[(gone.guest, 512)]), (IOERR, 1));
    let both = [gone, stays];
    tell_table(&mut bench, 3, &both);
    let [gone, stays] = both;
    assert_eq!(read_into(&mut bench, 500, &[(gone.guest, 512)]).0, OK);
    let stays = [stays];
    tell_table(&mut bench, 3, &stays);
    gone.fill(0xAA);
    assert_eq!(read_into(&mut bench, 500, &[(gone.guest, 512)]), (IOERR, 1));
    assert_eq!(gone.bytes(0, 0x1000), [0xAA; 0x1000]);
    assert_eq!(read_into(&mut bench, 500, &[(stays[0].guest, 512)]).0, OK);
}

fn under_load() {
    let mut bench = start(2);
    for round in 0..100_u64 {
        for at in 0..2 {
            (0..20).for_each(|slot| bench.offer_read(at, slot, 500 + round));
            bench.driver.kick(at);
        }
        bench.driver.hand_over_table(0);
        for at in 0..2 {
            (0..20).for_each(|slot| bench.expect_read(at, slot, 500 + round));
        }
    }
}

/// A program, a driver with a running ring, and what the program holds then.
fn busy_program(place: &Place) -> (crate::program::Program, Driver, (usize, usize)) {
    let program = place.serve();
    let mut driver = Driver::start(program.connect(), 2);
    place.check_read(&mut driver, 0);
    let usage = program.usage();
    (program, driver, usage)
}

fn table_descriptors() {
    let place = Place::new();
    let (program, mut driver, before) = busy_program(&place);
    for _ in 0..1000 {
        driver.hand_over_table(0);
    }
    place.check_read(&mut driver, 1);
    assert_eq!(program.usage(), before);
}

/// Tells a table that must be refused, and the ring reads on.
fn refuse_table(bench: &mut Bench, extras: &[Extra]) {
    let regions: Vec<Vec<u8>> = extras.iter().map(Extra::region).collect();
    let files: Vec<&File> = extras.iter().map(|extra| &extra.file).collect();
    assert!(!bench.asks(SET_MEM_TABLE, &table(&regions), &files));
    bench.check_read(0);
    check_across_border(bench);
}

fn beyond_file() {
    let mut bench = start(1);
    for (len, offset) in [(0x1001, 0), (0x1000, 0x1000), (1, 0x1_0000)] {
        let short = Extra {
            len,
            offset,
            ..extra(1, 0x1000)
        };
        refuse_table(&mut bench, &[extra(0, 0x1000), short]);
    }
    // An offset that is no page cannot be mapped.
    let crooked = Extra {
        offset: 0x10,
        len: 0x100,
        ..extra(1, 0x1000)
    };
    refuse_table(&mut bench, &[crooked]);
}

fn overlap() {
    let mut bench = start(1);
    for guest in [EXTRA, EXTRA + 0xfff, EXTRA - 0xfff] {
        let over = Extra {
            guest,
            ..extra(1, 0x1000)
        };
        refuse_table(&mut bench, &[extra(0, 0x1000), over]);
    }
}

fn impossible_tables() {
    let one = extra(0, 0x1000);
    let region = |guest: u64, len: u64, user: u64, offset: u64| {
        table(&[[guest, len, user, offset].map(u64::to_le_bytes).concat()])
    };
    let cases: [(Vec<u8>, usize); 8] = [
        (table(&[]), 0),
        (table(&[one.region()]), 0),
        (table(&[one.region()]), 2),
        (table(&[one.region(), one.region()]), 1),
        (region(0, 0, 0, 0), 1),
        (region(u64::MAX, 2, 0, 0), 1),
        (region(0, 2, u64::MAX, 0), 1),
        (region(0, 0x1000, 0, u64::MAX), 1),
    ];
    for (payload, files) in cases {
        let mut bench = start(1);
        let client = &mut bench.driver.client;
        client.send(SET_MEM_TABLE, 1, &payload, &vec![&one.file; files]);
        bench.demand_refused();
    }
}

fn last_byte() {
    let mut bench = start(1);
    let odd = extra(0, 0x1201);
    odd.add(&mut bench);
    let end = odd.guest + odd.len;
    assert_eq!(read_into(&mut bench, 500, &[(end - 512, 512)]).0, OK);
    assert!(odd.bytes(odd.len - 512, 512) == bench.sectors(500, 512));
    assert_eq!(read_into(&mut bench, 500, &[(end - 511, 512)]).0, IOERR);
    assert_eq!(read_into(&mut bench, 500, &[(end, 512)]).0, IOERR);
}

fn hole() {
    let mut bench = start(1);
    for address in [
        END - 100,
        BUFFERS - 100,
        RINGS + 0x20_0000 - 511,
        u64::MAX - 100,
    ] {
        assert_eq!(read_into(&mut bench, 500, &[(address, 512)]), (IOERR, 1));
        bench.check_read(0);
    }
}

fn ring_across() {
    let mut bench = start(0);
    // The border is in the descriptors, in the available and in the used ring.
    for base in [BORDER - 0x100, BORDER - 0x4010, BORDER - 0x5010] {
        let mut ring = bench.driver.new_ring(0, 128);
        bench.driver.fill(base, 0x8000, 0);
        ring.base = base;
        bench.driver.rings = vec![ring];
        bench.driver.start_ring(0);
        (0..200).for_each(|_| bench.demand_runs(0));
        bench.driver.stop_ring(0);
    }
}

fn memory_first() {
    let (client, _served) = bench::connect();
    let mut bench = start(0);
    bench.driver.client = client;
    bench.driver.hand_over_table(0);
    bench
        .driver
        .client
        .tell_u64(crate::support::client::SET_FEATURES, 1 << 32);
    bench.driver.features = 1 << 32;
    bench.driver.add_ring(0, 128);
    bench.check_read(0);
}

fn high_regions() {
    let mut bench = start(1);
    for guest in [1 << 40, 1 << 47, 1 << 52, u64::MAX - 0x1fff] {
        let high = Extra {
            guest,
            ..extra(0, 0x1000)
        };
        high.add(&mut bench);
        assert_eq!(read_into(&mut bench, 500, &[(guest + 0x800, 512)]).0, OK);
        assert!(high.bytes(0x800, 512) == bench.sectors(500, 512));
        high.remove(&mut bench);
    }
}

fn ordinary_file() {
    let mut bench = start(1);
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x1000).unwrap();
    let ordinary = Extra {
        file,
        ..extra(0, 0x1000)
    };
    ordinary.add(&mut bench);
    assert_eq!(read_into(&mut bench, 500, &[(ordinary.guest, 512)]).0, OK);
    assert!(ordinary.bytes(0, 512) == bench.sectors(500, 512));
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
        (0..20).for_each(|_| drop(bench.driver.wait(1)));
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
    assert_eq!(program.usage(), before);
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
