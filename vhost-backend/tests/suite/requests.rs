//! Promise: every request of a driver, however it is cut into descriptors, ends with the right bytes or the right
//! refusal, and with the exact used length. Nothing is assumed about framing; nothing is lost in a ring of any
//! size.

use crate::support::driver::{
    Driver, EVENT_IDX, INDIRECT, INDIRECT_DESC, IOERR, OK, UNSUPP, WRITE, readable,
};
use crate::support::guest::{BORDER, BUFFERS, END};
use crate::support::image::{SECTORS, device};
use std::time::Duration;

const HEADER: u64 = BUFFERS;
const STATUS: u64 = BUFFERS + 0x100;
const TABLE: u64 = BUFFERS + 0x800;
const DATA: u64 = BUFFERS + 0x1000;

fn start() -> (Driver, Vec<u8>, crate::support::Served) {
    let (device, disk) = device();
    let (stream, served) = crate::support::serve(&device);
    (Driver::start(stream, 1), disk, served)
}

fn sectors(disk: &[u8], first: u64, len: u32) -> &[u8] {
    let start = usize::try_from(first).unwrap() * 512;
    &disk[start..start + len as usize]
}

#[test]
fn whole_disk_reads_right_in_pieces_of_every_kind() {
    let (mut driver, disk, _served) = start();
    for len_sectors in [1, 7, 8, 127, 256, 1000, 4099] {
        let mut sector = 0;
        while sector < SECTORS {
            let count = u64::min(len_sectors, SECTORS - sector);
            let len = u32::try_from(count * 512).unwrap();
            assert!(
                driver.read(0, sector, len) == sectors(&disk, sector, len),
                "{len} bytes at {sector}"
            );
            sector += count;
        }
    }
}

#[test]
fn header_may_be_cut_at_every_byte() {
    let (mut driver, disk, _served) = start();
    for cut in 1..16 {
        driver.header(HEADER, 0, 505);
        driver.fill(DATA, 4096, 0xEE);
        let (low, high) = (cut, 16 - cut);
        // The two halves need not lie next to each other.
        let copy = driver.bytes(HEADER, 16);
        driver.fill(HEADER + 0x40, 16, 0);
        use vm_memory::{Bytes, GuestAddress};
        driver
            .guest
            .memory
            .write_slice(&copy[low..], GuestAddress(HEADER + 0x40))
            .unwrap();
        let pieces = [
            (HEADER, u32::try_from(low).unwrap(), 0),
            (HEADER + 0x40, u32::try_from(high).unwrap(), 0),
            (DATA, 4096, WRITE),
            (STATUS, 1, WRITE),
        ];
        driver.chain(0, 0, &pieces);
        assert_eq!(driver.run(0, 0).used_len, 4097, "cut at {cut}");
        assert_eq!(driver.bytes(STATUS, 1), [OK]);
        assert!(
            driver.bytes(DATA, 4096) == sectors(&disk, 505, 4096),
            "cut at {cut}"
        );
    }
}

#[test]
fn data_may_be_cut_anywhere_and_the_status_may_end_the_last_piece() {
    let (mut driver, disk, _served) = start();
    for cuts in [
        &[1][..],
        &[511],
        &[512],
        &[513],
        &[1, 1, 1, 509],
        &[4095],
        &[1000, 2000, 1000],
    ] {
        driver.header(HEADER, 0, 500);
        driver.fill(DATA, 8192, 0xEE);
        let mut pieces = vec![(HEADER, 16, 0)];
        let mut at = 0;
        for cut in cuts {
            pieces.push((DATA + 2 * u64::from(at), *cut, WRITE));
            at += cut;
        }
        // What is left, with the status as its last byte.
        pieces.push((DATA + 2 * u64::from(at), 4096 - at + 1, WRITE));
        driver.chain(0, 0, &pieces);
        assert_eq!(driver.run(0, 0).used_len, 4097, "{cuts:?}");
        let mut data = Vec::new();
        for (address, len, _) in &pieces[1..] {
            data.extend(driver.bytes(*address, *len as usize));
        }
        assert_eq!(data.pop(), Some(OK), "{cuts:?}");
        assert!(data == sectors(&disk, 500, 4096), "{cuts:?}");
    }
}

#[test]
fn empty_descriptors_are_passed_over() {
    let (mut driver, disk, _served) = start();
    driver.header(HEADER, 0, 7);
    let pieces = [
        (0, 0, 0),
        (HEADER, 16, 0),
        (7, 0, WRITE),
        (DATA, 512, WRITE),
        (9, 0, WRITE),
        (STATUS, 1, WRITE),
        (11, 0, WRITE),
    ];
    driver.chain(0, 0, &pieces);
    assert_eq!(driver.run(0, 0).used_len, 513);
    assert!(driver.bytes(DATA, 512) == sectors(&disk, 7, 512));
}

#[test]
fn indirect_tables_work_alone_and_behind_direct_descriptors() {
    let (mut driver, disk, _served) = start();
    driver.header(HEADER, 0, 600);
    driver.chain_in(
        TABLE,
        0,
        &[(HEADER, 16, 0), (DATA, 1024, WRITE), (STATUS, 1, WRITE)],
    );
    driver.chain(0, 5, &[(TABLE, 48, INDIRECT)]);
    assert_eq!(driver.run(0, 5).used_len, 1025);
    assert!(driver.bytes(DATA, 1024) == sectors(&disk, 600, 1024));

    driver.fill(DATA, 1024, 0xEE);
    driver.chain_in(TABLE, 0, &[(DATA, 1024, WRITE), (STATUS, 1, WRITE)]);
    driver.chain(0, 9, &[(HEADER, 16, 0), (TABLE, 32, INDIRECT)]);
    assert_eq!(driver.run(0, 9).used_len, 1025);
    assert!(driver.bytes(DATA, 1024) == sectors(&disk, 600, 1024));
}

#[test]
fn large_request_through_a_full_indirect_table() {
    let (mut driver, disk, _served) = start();
    driver.header(HEADER, 0, 0);
    let table = BUFFERS + 0x10_0000;
    let data = BUFFERS + 0x20_0000;
    let count = 1022;
    let mut pieces = vec![(HEADER, 16, 0)];
    pieces.extend((0..count).map(|number| (data + 4096 * number, 2048, WRITE)));
    pieces.push((STATUS, 1, WRITE));
    driver.chain_in(table, 0, &pieces);
    driver.chain(
        0,
        0,
        &[(table, u32::try_from(16 * pieces.len()).unwrap(), INDIRECT)],
    );
    assert_eq!(driver.run(0, 0).used_len, 1022 * 2048 + 1);
    for number in 0..count {
        let read = driver.bytes(data + 4096 * number, 2048);
        assert!(read == sectors(&disk, 4 * number, 2048), "piece {number}");
    }
}

#[test]
fn buffer_across_two_memory_regions() {
    let (mut driver, disk, _served) = start();
    driver.header(BORDER - 7, 0, 100);
    driver.chain(
        0,
        0,
        &[
            (BORDER - 7, 16, 0),
            (BORDER + 0x1000, 512, WRITE),
            (STATUS, 1, WRITE),
        ],
    );
    driver.run(0, 0);
    assert!(driver.bytes(BORDER + 0x1000, 512) == sectors(&disk, 100, 512));
    driver.header(HEADER, 0, 100);
    driver.chain(
        0,
        0,
        &[
            (HEADER, 16, 0),
            (BORDER - 700, 1536, WRITE),
            (STATUS, 1, WRITE),
        ],
    );
    assert_eq!(driver.run(0, 0).used_len, 1537);
    assert!(driver.bytes(BORDER - 700, 1536) == sectors(&disk, 100, 1536));
}

#[test]
fn serial_is_twenty_bytes_and_cut_to_the_room_there_is() {
    let (device, _disk) = device();
    let (stream, _served) = crate::support::serve(&device);
    let mut driver = Driver::start(stream, 1);
    let serial = device.serial().as_bytes().to_vec();
    for (room, expected) in [(20, 20), (8, 8), (0, 0), (512, 20)] {
        let (status, used_len, data) = driver.request(0, 8, 0, room, WRITE);
        assert_eq!((status, used_len), (OK, expected + 1), "room for {room}");
        assert_eq!(data[..expected as usize], serial[..expected as usize]);
        assert!(
            data[expected as usize..].iter().all(|byte| *byte == 0xEE),
            "room for {room}"
        );
    }
}

#[test]
fn requests_that_read_nothing_and_requests_that_would_change_something() {
    let (mut driver, _disk, _served) = start();
    for (kind, data_len, data_flags, status) in [
        (4, 0, 0, OK),
        (0, 0, 0, OK),
        (1, 512, 0, IOERR),
        (1, 0, 0, IOERR),
        (11, 16, 0, IOERR),
        (13, 16, 0, IOERR),
        (14, 16, 0, IOERR),
        (2, 512, WRITE, UNSUPP),
        (10, 20, WRITE, UNSUPP),
        (24, 512, 0, UNSUPP),
        (u32::MAX, 0, 0, UNSUPP),
    ] {
        let (found, used_len, data) = driver.request(0, kind, 0, data_len, data_flags);
        assert_eq!((found, used_len), (status, 1), "type {kind}");
        assert!(
            data.iter().all(|byte| *byte == 0xEE),
            "type {kind} must not touch its data"
        );
    }
}

#[test]
fn reads_outside_the_disk_or_of_half_sectors_are_refused_whole() {
    let (mut driver, _disk, _served) = start();
    for (sector, len) in [
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (SECTORS + 1, 0),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (u64::MAX / 512 + 1, 512),
        (1 << 55, 512),
        (0, 511),
        (0, 513),
        (0, 1),
    ] {
        let (status, used_len, data) = driver.request(0, 0, sector, len, WRITE);
        assert_eq!((status, used_len), (IOERR, 1), "{len} bytes at {sector}");
        assert!(data.iter().all(|byte| *byte == 0xEE));
    }
    assert_eq!(
        driver.request(0, 0, SECTORS, 0, WRITE).0,
        OK,
        "nothing at the very end is inside"
    );
    driver.read(0, SECTORS - 1, 512);
}

#[test]
fn malformed_chains_come_back_and_the_ring_goes_on() {
    let (mut driver, disk, _served) = start();
    driver.header(HEADER, 0, 1);
    type Case = (&'static str, Vec<(u64, u32, u16)>, u32, Option<u8>);
    let bad: [Case; 8] = [
        ("no status", vec![(HEADER, 16, 0)], 0, None),
        (
            "short header",
            vec![(HEADER, 15, 0), (STATUS, 1, WRITE)],
            1,
            Some(IOERR),
        ),
        (
            "no header",
            vec![(DATA, 512, WRITE), (STATUS, 1, WRITE)],
            1,
            Some(IOERR),
        ),
        (
            "header outside",
            vec![(END, 16, 0), (STATUS, 1, WRITE)],
            1,
            Some(IOERR),
        ),
        (
            "data outside",
            vec![(HEADER, 16, 0), (END - 256, 512, WRITE), (STATUS, 1, WRITE)],
            1,
            Some(IOERR),
        ),
        (
            "status outside",
            vec![(HEADER, 16, 0), (DATA, 512, WRITE), (END, 1, WRITE)],
            512,
            None,
        ),
        (
            "order",
            vec![(HEADER, 16, 0), (STATUS, 1, WRITE), (HEADER, 16, 0)],
            0,
            None,
        ),
        (
            "too large",
            vec![(HEADER, 16, 0), (DATA, u32::MAX, WRITE), (STATUS, 1, WRITE)],
            0,
            None,
        ),
    ];
    for (name, pieces, used_len, status) in bad {
        driver.fill(STATUS, 1, 0xEE);
        driver.chain(0, 0, &pieces);
        assert_eq!(driver.run(0, 0).used_len, used_len, "{name}");
        assert_eq!(driver.bytes(STATUS, 1), [status.unwrap_or(0xEE)], "{name}");
        assert!(
            driver.read(0, 1, 512) == sectors(&disk, 1, 512),
            "after: {name}"
        );
    }
}

#[test]
fn loops_and_bad_tables_come_back_and_the_ring_goes_on() {
    let (mut driver, disk, _served) = start();
    type Case = (&'static str, fn(&Driver));
    let cases: [Case; 7] = [
        ("self loop", |driver| {
            driver.descriptor(0, 0, (HEADER, 16, 1, 0))
        }),
        ("next outside", |driver| {
            driver.descriptor(0, 0, (HEADER, 16, 1, 128))
        }),
        ("table of 0", |driver| {
            driver.descriptor(0, 0, (TABLE, 0, INDIRECT, 0))
        }),
        ("table of 17", |driver| {
            driver.descriptor(0, 0, (TABLE, 17, INDIRECT, 0))
        }),
        ("table outside", |driver| {
            driver.descriptor(0, 0, (END, 16, INDIRECT, 0))
        }),
        ("table in a table", |driver| {
            driver.descriptor(0, 0, (TABLE, 16, INDIRECT, 0));
            driver.table_entry(TABLE, 0, (TABLE, 16, INDIRECT, 0));
        }),
        ("loop in a table", |driver| {
            driver.descriptor(0, 0, (TABLE, 32, INDIRECT, 0));
            driver.table_entry(TABLE, 0, (HEADER, 16, 1, 1));
            driver.table_entry(TABLE, 1, (HEADER, 16, 1, 0));
        }),
    ];
    for (name, set_up) in cases {
        set_up(&driver);
        assert_eq!(driver.run(0, 0).used_len, 0, "{name}");
        assert!(
            driver.read(0, 1, 512) == sectors(&disk, 1, 512),
            "after: {name}"
        );
    }
}

#[test]
fn indirect_table_without_the_feature_is_refused() {
    let (device, _disk) = device();
    let (stream, _served) = crate::support::serve(&device);
    let mut driver = Driver::negotiate(stream, !INDIRECT_DESC, u64::MAX);
    driver.add_ring(0, 128);
    driver.header(HEADER, 4, 0);
    driver.chain_in(TABLE, 0, &[(HEADER, 16, 0), (STATUS, 1, WRITE)]);
    driver.chain(0, 0, &[(TABLE, 32, INDIRECT)]);
    assert_eq!(driver.run(0, 0).used_len, 0);
}

#[test]
fn rings_of_every_size_wrap_many_times() {
    for size in [2, 4, 16, 128, 256, 1024] {
        for features in [u64::MAX, !EVENT_IDX] {
            let (device, disk) = device();
            let (stream, _served) = crate::support::serve(&device);
            let mut driver = Driver::negotiate(stream, features, u64::MAX);
            driver.add_ring(0, size);
            driver.header(HEADER, 0, 3);
            driver.chain_in(
                TABLE,
                0,
                &[(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)],
            );
            let rounds = 3 * u32::from(size) + 5;
            for round in 0..rounds {
                let head = u16::try_from(round % u32::from(size)).unwrap();
                driver.fill(DATA, 512, 0xEE);
                driver.chain(0, head, &[(TABLE, 48, INDIRECT)]);
                let done = driver.run(0, head);
                assert_eq!(
                    (done.head, done.used_len),
                    (u32::from(head), 513),
                    "size {size}, round {round}"
                );
                assert!(driver.bytes(DATA, 512) == sectors(&disk, 3, 512));
            }
        }
    }
}

#[test]
fn full_ring_is_answered_in_order_with_one_kick() {
    let (mut driver, disk, _served) = start();
    for head in 0..128_u16 {
        let at = BUFFERS + 0x10_0000 + 0x1000 * u64::from(head);
        driver.header(at, 0, u64::from(head) * 8);
        driver.chain_in(
            at + 0x100,
            0,
            &[
                (at, 16, 0),
                (at + 0x200, 1024, WRITE),
                (at + 0x80, 1, WRITE),
            ],
        );
        driver.chain(0, head, &[(at + 0x100, 48, INDIRECT)]);
        driver.offer(0, head);
    }
    driver.kick(0);
    for head in 0..128_u16 {
        assert_eq!(driver.wait(0).head, u32::from(head));
        let at = BUFFERS + 0x10_0000 + 0x1000 * u64::from(head);
        assert!(driver.bytes(at + 0x200, 1024) == sectors(&disk, u64::from(head) * 8, 1024));
    }
}

#[test]
fn interrupts_come_when_asked_for_and_not_otherwise() {
    for features in [u64::MAX, !EVENT_IDX] {
        let (device, _disk) = device();
        let (stream, _served) = crate::support::serve(&device);
        let mut driver = Driver::negotiate(stream, features, u64::MAX);
        driver.add_ring(0, 16);
        let by_index = driver.rings[0].event_idx;
        driver.want_interrupt(0);
        driver.read(0, 0, 512);
        let call = driver.rings[0].call.try_clone().unwrap();
        assert!(
            readable(&call, Duration::from_secs(5)),
            "asked for, by index: {by_index}"
        );
        rustix::io::read(&call, &mut [0; 8]).unwrap();
        // By index: the event stays behind. By flag: the driver sets it.
        if !by_index {
            use vm_memory::{Bytes, GuestAddress};
            driver
                .guest
                .memory
                .write_obj(1_u16, GuestAddress(driver.rings[0].base + 0x4000))
                .unwrap();
        }
        driver.read(0, 0, 512);
        driver.read(0, 0, 512);
        assert!(
            !readable(&call, Duration::from_millis(50)),
            "not asked for, by index: {by_index}"
        );
    }
}

#[test]
fn two_queues_are_served_at_once() {
    let (device, disk) = device();
    let (stream, _served) = crate::support::serve(&device);
    let mut driver = Driver::start(stream, 2);
    for round in 0..50 {
        assert!(driver.read(0, round, 512) == sectors(&disk, round, 512));
        assert!(driver.read(1, round + 100, 512) == sectors(&disk, round + 100, 512));
    }
}
