//! C-06: a memory table may have 1 to 32 regions in any order and replaces the one before it as a whole.

use std::fs::File;

use crate::bench::{self, Bench, memfd, start};
use crate::extra_memory::{EXTRA, Extra, busy_program, extra, read_into};
use crate::program::Place;
use crate::registry::line;
use crate::support::client::SET_MEM_TABLE;
use crate::support::driver::{IOERR, OK, WRITE};
use crate::support::guest::{BORDER, BUFFERS, END, RINGS};

line! {
    C06 = "C-06", c06_memory_table:
    "C-06.01" "three regions in all six orders" => orders,
    "C-06.02" "1 to 32 regions in one message" => counts,
    "C-06.03" "regions of one file at several offsets" => one_file,
    "C-06.04" "a region that is gone is not reached" => replaced,
    "C-06.05" "replaced under load, no read is lost or wrong" => under_load,
    "C-06.06" "a thousand tables leave no descriptor" => table_descriptors,
    "C-06.07" "a region beyond its file changes nothing" => beyond_file,
    "C-06.08" "regions that overlap change nothing" => overlap,
    "C-06.09" "an impossible table ends the session" => impossible_tables,
    "C-06.10" "a region ends at its last byte" => last_byte,
    "C-06.11" "a buffer over a hole is refused" => hole,
    "C-06.12" "a ring may lie across two regions that touch" => ring_across,
    "C-06.13" "memory may come before everything else" => memory_first,
    "C-06.14" "regions high in the address space" => high_regions,
    "C-06.15" "memory in an ordinary file" => ordinary_file,
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

fn table_descriptors() {
    let place = Place::new();
    let (program, mut driver, before) = busy_program(&place);
    for _ in 0..1000 {
        driver.hand_over_table(0);
    }
    place.check_read(&mut driver, 1);
    program.demand_no_more_than(before);
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
