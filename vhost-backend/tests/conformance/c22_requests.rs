//! C-22: a read-only virtio-blk device: right bytes or a refusal, however a request is cut into descriptors, and a
//! used length that is the number of bytes written.

use crate::bench::{Bench, DATA, Dice, HEADER, PLACES, STATUS, TABLE, shared, start};
use crate::registry::line;
use crate::support::driver::{INDIRECT, IOERR, OK, RO, UNSUPP, WRITE};
use crate::support::guest::{BUFFERS, END};
use crate::support::image::SECTORS;

line! {
    C22 = "C-22", c22_requests:
    "C-22.01" "RO is offered" => ro_offered,
    "C-22.02" "300 ways to cut a read into descriptors" => layouts,
    "C-22.03" "what is readable behind the header means nothing" => long_header,
    "C-22.04" "the reserved field of the header means nothing" => reserved_field,
    "C-22.05" "a serial cut to any room from 0 to 64" => serial_room,
    "C-22.06" "a serial cut into any two pieces" => serial_pieces,
    "C-22.07" "a status for every type from 0 to 40 and beyond" => types,
    "C-22.08" "no request but a read touches its data" => data_untouched,
    "C-22.09" "the used length counts the bytes written" => used_length,
    "C-22.10" "every sector alone" => every_sector,
    "C-22.11" "the whole disk at once" => whole_disk,
    "C-22.12" "random reads" => random_reads,
    "C-22.13" "nothing is a legal read, anywhere on the disk" => nothing,
    "C-22.14" "beyond the end nothing is read at all" => beyond_the_end,
    "C-22.15" "sectors that overflow are refused" => overflow,
    "C-22.16" "no whole sectors, no read" => odd_lengths,
    "C-22.17" "a buffer that ends in nowhere fails the read, and no data count" => half_delivered,
    "C-22.18" "a ring of 1,024 descriptors in one request" => longest_chain,
    "C-22.19" "a flush succeeds" => flush,
    "C-22.20" "a request that fails harms none after it" => after_failure,
}

fn ro_offered() {
    assert_ne!(start(0).driver.features & RO, 0);
    assert_ne!(vhost_backend::device::OFFERED_FEATURES & RO, 0);
}

/// How the parts of a request lie in descriptors.
#[derive(Clone, Copy, Debug)]
enum Table {
    Direct,
    Indirect,
    HeaderDirect,
}

/// Lengths of the pieces of a header of 16 bytes, and of data of 1,024.
const HEADER_CUTS: [&[u32]; 5] = [&[16], &[1, 15], &[8, 8], &[15, 1], &[1; 16]];
const DATA_CUTS: [&[u32]; 5] = [
    &[1024],
    &[512, 512],
    &[1, 1023],
    &[1000, 24],
    &[7, 500, 10, 1, 506],
];

/// A read of two sectors from `sector` on, cut like this. The pieces lie apart and in no order.
fn read_cut(
    bench: &mut Bench,
    cuts: (&[u32], &[u32]),
    own_status: bool,
    empty: bool,
    table: Table,
) {
    let sector = 511_u64;
    let (header_cut, data_cut) = cuts;
    let mut header = Vec::new();
    header.extend([0_u8; 8]);
    header.extend(sector.to_le_bytes());
    let mut pieces = Vec::new();
    let mut at = 0;
    for (number, len) in header_cut.iter().enumerate() {
        let place = HEADER + 0x700 - 0x20 * number as u64;
        let memory = &bench.driver.guest.memory;
        let bytes = &header[at..at + *len as usize];
        vm_memory::Bytes::write_slice(memory, bytes, vm_memory::GuestAddress(place)).unwrap();
        pieces.push((place, *len, 0));
        at += *len as usize;
    }
    let first_writable = pieces.len();
    for (number, len) in data_cut.iter().enumerate() {
        let place = DATA + 0x8000 - 0x800 * number as u64;
        bench.driver.fill(place, 0x800, 0xEE);
        pieces.push((place, *len, WRITE));
    }
    if own_status {
        pieces.push((STATUS, 1, WRITE));
    } else {
        pieces.last_mut().unwrap().1 += 1;
    }
    if empty {
        pieces.insert(first_writable, (STATUS, 0, WRITE));
        pieces.insert(0, (STATUS, 0, 0));
    }
    offer_as(bench, &pieces, first_writable + usize::from(empty), table);
    let done = bench.driver.run(0, 0);
    assert_eq!((done.head, done.used_len), (0, 1025));
    let mut found = Vec::new();
    for (address, len, flags) in pieces {
        if flags == WRITE {
            found.extend(bench.driver.bytes(address, len as usize));
        }
    }
    assert_eq!(found.pop(), Some(OK));
    assert!(found == bench.sectors(sector, 1024));
}

fn offer_as(bench: &Bench, pieces: &[(u64, u32, u16)], readable: usize, table: Table) {
    let direct = match table {
        Table::Direct => return bench.driver.chain(0, 0, pieces),
        Table::Indirect => 0,
        Table::HeaderDirect => readable,
    };
    let (outside, inside) = pieces.split_at(direct);
    bench.driver.chain_in(TABLE, 0, inside);
    let len = u32::try_from(16 * inside.len()).unwrap();
    let chain = [outside, &[(TABLE, len, INDIRECT)]].concat();
    bench.driver.chain(0, 0, &chain);
}

fn layouts() {
    let mut bench = start(1);
    let mut count = 0;
    for header in HEADER_CUTS {
        for data in DATA_CUTS {
            for own_status in [false, true] {
                for empty in [false, true] {
                    for table in [Table::Direct, Table::Indirect, Table::HeaderDirect] {
                        read_cut(&mut bench, (header, data), own_status, empty, table);
                        count += 1;
                    }
                }
            }
        }
    }
    assert_eq!(count, 300);
}

fn long_header() {
    let mut bench = start(1);
    for len in [17, 512, 4000] {
        bench.driver.fill(HEADER + 0x1_0000, 4096, 0x55);
        bench.driver.header(HEADER + 0x1_0000, 0, 500);
        bench.driver.fill(STATUS, 1, 0xEE);
        let pieces = [
            (HEADER + 0x1_0000, len, 0),
            (DATA, 512, WRITE),
            (STATUS, 1, WRITE),
        ];
        bench.driver.chain(0, 0, &pieces);
        assert_eq!(bench.driver.run(0, 0).used_len, 513);
        assert_eq!(bench.driver.bytes(STATUS, 1), [OK]);
        assert!(bench.driver.bytes(DATA, 512) == bench.sectors(500, 512));
    }
}

fn reserved_field() {
    let mut bench = start(1);
    for byte in [1, 0x80, 0xff] {
        bench.driver.header(HEADER, 0, 500);
        bench.driver.fill(HEADER + 4, 4, byte);
        let pieces = [(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)];
        bench.driver.chain(0, 0, &pieces);
        assert_eq!(bench.driver.run(0, 0).used_len, 513);
        assert!(bench.driver.bytes(DATA, 512) == bench.sectors(500, 512));
    }
}

fn serial_room() {
    let mut bench = start(1);
    let serial = shared().0.serial().as_bytes();
    for room in 0..=64_u32 {
        let (status, used_len, data) = bench.driver.request(0, 8, 0, room, WRITE);
        let told = room.min(20);
        assert_eq!((status, used_len), (OK, told + 1), "room for {room}");
        let (told, rest) = data.split_at(told as usize);
        assert_eq!(told, &serial[..told.len()]);
        assert!(rest.iter().all(|byte| *byte == 0xEE));
    }
}

fn serial_pieces() {
    let mut bench = start(1);
    for cut in 1..20 {
        bench.driver.header(HEADER, 8, 0);
        let rest = (DATA + 0x100, 20 - cut + 1, WRITE);
        bench
            .driver
            .chain(0, 0, &[(HEADER, 16, 0), (DATA, cut, WRITE), rest]);
        assert_eq!(bench.driver.run(0, 0).used_len, 21);
        let mut found = bench.driver.bytes(DATA, cut as usize);
        found.extend(bench.driver.bytes(DATA + 0x100, 20 - cut as usize + 1));
        assert_eq!(found.pop(), Some(OK));
        assert_eq!(found, shared().0.serial().as_bytes());
    }
}

/// The status that a request of this type ends with, if all else about it is right.
fn expected_status(kind: u32) -> u8 {
    match kind {
        0 | 4 | 8 => OK,
        // OUT, DISCARD, WRITE_ZEROES, SECURE_ERASE.
        1 | 11 | 13 | 14 => IOERR,
        _ => UNSUPP,
    }
}

/// Every small type, and those that a sign or a shift would make small.
fn all_types() -> impl Iterator<Item = u32> {
    (0..=40).chain([0x100, 0xffff, 0x1_0000, 0x8000_0000, u32::MAX, u32::MAX - 3])
}

fn types() {
    let mut bench = start(1);
    for kind in all_types() {
        for (len, flags) in [(0, 0), (512, WRITE), (512, 0)] {
            let (status, _, _) = bench.driver.request(0, kind, 500, len, flags);
            assert_eq!(status, expected_status(kind), "type {kind}, {len} bytes");
        }
    }
}

fn data_untouched() {
    let mut bench = start(1);
    for kind in all_types().filter(|kind| !matches!(kind, 0 | 8)) {
        for flags in [0, WRITE] {
            let (_, used_len, data) = bench.driver.request(0, kind, 500, 1024, flags);
            assert_eq!(used_len, 1, "type {kind}");
            assert_eq!(data, [0xEE; 1024], "type {kind}");
        }
    }
}

fn used_length() {
    let mut bench = start(1);
    // A byte was written if it is not what was there before, for one of two things that were.
    let (data, len) = (DATA, 0x4000_usize);
    for kind in all_types() {
        for (sector, room) in [
            (500, 0_u32),
            (500, 20),
            (500, 511),
            (500, 512),
            (100, 4096),
            (SECTORS, 512),
        ] {
            let mut written = vec![false; len];
            let mut used = 0;
            for paint in [0x11, 0xA5] {
                bench.driver.header(HEADER, kind, sector);
                bench.driver.fill(data, len, paint);
                let pieces = [(HEADER, 16, 0), (data, room + 1, WRITE)];
                bench.driver.chain(0, 0, &pieces);
                used = bench.driver.run(0, 0).used_len;
                let now = bench.driver.bytes(data, len);
                for (was, byte) in written.iter_mut().zip(now) {
                    *was |= byte != paint;
                }
            }
            let count = written.iter().filter(|written| **written).count();
            assert_eq!(count, used as usize, "type {kind}, room {room}");
            assert!(written[room as usize], "the status");
        }
    }
}

fn every_sector() {
    let mut bench = start(1);
    for sector in 0..SECTORS {
        let data = bench.driver.read(0, sector, 512);
        assert!(data == bench.sectors(sector, 512), "sector {sector}");
    }
}

fn whole_disk() {
    let mut bench = start(1);
    let len = u32::try_from(SECTORS * 512).unwrap();
    for _ in 0..5 {
        assert!(bench.driver.read(0, 0, len) == bench.disk);
    }
}

fn random_reads() {
    let mut bench = start(1);
    let mut dice = Dice::new("C-22.12");
    for _ in 0..1000 {
        let sectors = 1 + dice.below(100);
        let sector = dice.below(SECTORS - sectors + 1);
        let len = u32::try_from(512 * sectors).unwrap();
        let data = bench.driver.read(0, sector, len);
        assert!(
            data == bench.sectors(sector, len),
            "{len} bytes at {sector}"
        );
    }
}

fn nothing() {
    let mut bench = start(1);
    for sector in PLACES.into_iter().chain([SECTORS - 1, SECTORS]) {
        assert_eq!(bench.driver.request(0, 0, sector, 0, 0).0, OK);
    }
    assert_eq!(bench.driver.request(0, 0, SECTORS + 1, 0, 0).0, IOERR);
}

fn refuse(bench: &mut Bench, sector: u64, len: u32) {
    let (status, used_len, data) = bench.driver.request(0, 0, sector, len, WRITE);
    assert_eq!((status, used_len), (IOERR, 1), "{len} bytes at {sector}");
    assert!(data.iter().all(|byte| *byte == 0xEE));
}

fn beyond_the_end() {
    let mut bench = start(1);
    for sectors in [1, 2, 8, 100, 4099, 5000] {
        let len = 512 * u32::try_from(sectors).unwrap();
        refuse(&mut bench, SECTORS, len);
        refuse(&mut bench, SECTORS + 1, len);
        refuse(
            &mut bench,
            (SECTORS + 1).saturating_sub(sectors).max(1),
            len,
        );
        if sectors <= SECTORS {
            let data = bench.driver.read(0, SECTORS - sectors, len);
            assert!(data == bench.sectors(SECTORS - sectors, len));
        }
    }
}

fn overflow() {
    let mut bench = start(1);
    for shift in 0..64 {
        for sector in [1 << shift, (1 << shift) - 1, u64::MAX - (1 << shift)] {
            if sector > SECTORS {
                refuse(&mut bench, sector, 512);
            }
        }
    }
}

fn odd_lengths() {
    let mut bench = start(1);
    for len in [1, 2, 20, 511, 513, 1000, 4095, 65_535] {
        refuse(&mut bench, 0, len);
    }
}

fn half_delivered() {
    let mut bench = start(1);
    for outside in [(END, 512), (END - 100, 512), (u64::MAX - 600, 512)] {
        bench.driver.header(HEADER, 0, 500);
        bench.driver.fill(DATA, 0x2000, 0xEE);
        let (address, len) = outside;
        let pieces = [
            (HEADER, 16, 0),
            (DATA, 1000, WRITE),
            (DATA + 0x1000, 24, WRITE),
            (address, len, WRITE),
            (DATA + 0x1800, 512, WRITE),
            (STATUS, 1, WRITE),
        ];
        bench.driver.chain(0, 0, &pieces);
        assert_eq!(bench.driver.run(0, 0).used_len, 1);
        assert_eq!(bench.driver.bytes(STATUS, 1), [IOERR]);
        let found = [
            bench.driver.bytes(DATA, 1000),
            bench.driver.bytes(DATA + 0x1000, 24),
        ];
        let right = bench.sectors(500, 1024);
        let mut bytes = std::iter::zip(found.concat(), right.iter());
        assert!(bytes.all(|(byte, right)| byte == 0xEE || byte == *right));
        assert_eq!(bench.driver.bytes(DATA + 0x1800, 512), [0xEE; 512]);
    }
}

fn longest_chain() {
    let mut bench = start(0);
    bench.driver.add_ring(0, 1024);
    bench.driver.header(HEADER, 0, 0);
    let data = BUFFERS + 0x40_0000;
    let mut pieces = vec![(HEADER, 16, 0)];
    pieces.extend((0..1022_u64).map(|number| (data + 1024 * number, 512, WRITE)));
    pieces.push((STATUS, 1, WRITE));
    bench.driver.chain(0, 0, &pieces);
    assert_eq!(bench.driver.run(0, 0).used_len, 1022 * 512 + 1);
    for number in 0..1022 {
        let found = bench.driver.bytes(data + 1024 * number, 512);
        assert!(found == bench.sectors(number, 512), "piece {number}");
    }
}

fn flush() {
    let mut bench = start(1);
    for (sector, len, flags) in [(0, 0, 0), (u64::MAX, 0, 0), (0, 512, 0), (0, 512, WRITE)] {
        let (status, used_len, _) = bench.driver.request(0, 4, sector, len, flags);
        assert_eq!((status, used_len), (OK, 1));
    }
}

fn after_failure() {
    let mut bench = start(1);
    for kind in all_types() {
        bench.driver.request(0, kind, SECTORS, 512, WRITE);
        bench.check_read(0);
    }
}
