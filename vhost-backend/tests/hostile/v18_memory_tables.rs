//! Memory that is described wrongly.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{CWD, Mode, OFlags};

use crate::attack::honest_read;
use crate::family::Family;
use crate::messages::{Reaction, memory_file, tell, words};
use crate::support::client::{ADD_MEM_REG, Client, REM_MEM_REG, SET_MEM_TABLE};
use crate::support::driver::{Driver, eventfd};

/// Where nothing is.
const FREE: u64 = 1 << 40;
const USER: u64 = 0x70_0000_0000;
const LEN: u64 = 0x1_0000;

/// Guest address, length, user address, offset.
type Region = [u64; 4];

const REGIONS: [(&str, Region); 19] = [
    ("legal: a region where nothing is", [FREE, LEN, USER, 0]),
    ("length 0", [FREE, 0, USER, 0]),
    ("length 1", [FREE, 1, USER, 0]),
    ("one byte longer than its file", [FREE, LEN + 1, USER, 0]),
    ("2^40 bytes of a small file", [FREE, 1 << 40, USER, 0]),
    ("2^63 bytes", [FREE, 1 << 63, USER, 0]),
    ("2^64 - 1 bytes", [0, u64::MAX, 0, 0]),
    (
        "guest address overflows",
        [u64::MAX - LEN + 1, LEN, USER, 0],
    ),
    ("guest address at the very end", [u64::MAX, LEN, USER, 0]),
    ("user address overflows", [FREE, LEN, u64::MAX - 1, 0]),
    ("offset behind the file", [FREE, LEN, USER, LEN]),
    ("offset not a page", [FREE, 0x1000, USER, 0x10]),
    ("offset 2^63", [FREE, LEN, USER, 1 << 63]),
    ("offset overflows", [FREE, LEN, USER, u64::MAX - LEN + 1]),
    ("over the rings", [0, LEN, USER, 0]),
    (
        "over the end of the rings",
        [0x20_0000 - 0x1000, LEN, USER, 0],
    ),
    ("inside the buffers", [0x4000_1000, 0x1000, USER, 0]),
    ("around the buffers", [0x3fff_f000, LEN, USER, 0]),
    (
        "legal: at a user address that is taken",
        [FREE, LEN, 0x10_0000_0000, 0],
    ),
];

fn region_payload(region: Region) -> Vec<u8> {
    words(&[0, region[0], region[1], region[2], region[3]])
}

fn add(driver: &mut Driver, region: Region, file: &File) -> Reaction {
    tell(
        &mut driver.client,
        ADD_MEM_REG,
        &region_payload(region),
        &[file],
    )
}

/// A table with this many regions announced, these many there, and as many files.
fn table(client: &mut Client, announced: u32, regions: &[Region], files: &[&File]) -> Reaction {
    let mut payload = [announced, 0].map(u32::to_le_bytes).concat();
    payload.extend(regions.iter().flat_map(|region| words(region)));
    tell(client, SET_MEM_TABLE, &payload, files)
}

fn file_kinds() -> Vec<(&'static str, File)> {
    let open = |path: &str, flags: OFlags| {
        File::from(rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap())
    };
    let read_only = tempfile::NamedTempFile::new().unwrap();
    read_only.as_file().set_len(LEN).unwrap();
    vec![
        (
            "a file opened for reading",
            File::open(read_only.path()).unwrap(),
        ),
        ("a directory", open("/", OFlags::RDONLY)),
        (
            "a file opened with O_PATH",
            open("/proc/self/exe", OFlags::PATH),
        ),
        ("/dev/zero", open("/dev/zero", OFlags::RDWR)),
        ("/dev/null", open("/dev/null", OFlags::RDWR)),
        ("/proc/self/mem", open("/proc/self/mem", OFlags::RDONLY)),
        ("an eventfd", eventfd()),
        ("a pipe", File::from(Driver::pipe().0)),
        (
            "a socket",
            File::from(OwnedFd::from(
                std::os::unix::net::UnixStream::pair().unwrap().0,
            )),
        ),
    ]
}

fn tables(family: &mut Family) {
    let good: Region = [FREE, 0x1000, USER, 0];
    let far = |number: u64| [FREE + number * 0x1000, 0x1000, USER + number * 0x1000, 0];
    let many: Vec<Region> = (0..40).map(far).collect();
    for (name, announced, regions, files) in [
        ("no regions", 0, 0, 0),
        ("one region, no file", 1, 1, 0),
        ("one region, two files", 1, 1, 2),
        ("two regions announced, one there", 2, 1, 1),
        ("two regions announced, one there, two files", 2, 1, 2),
        ("33 regions and 32 files", 33, 33, 32),
        ("40 regions announced, one there", 40, 1, 1),
        ("2^32 - 1 regions announced", u32::MAX, 1, 1),
        ("legal: 32 regions", 32, 32, 32),
        ("legal: 8 regions", 8, 8, 8),
    ] {
        family.front_end(format!("SET_MEM_TABLE: {name}"), |house| {
            let mut driver = Driver::negotiate(house.connect(), u64::MAX, u64::MAX);
            let file = memory_file(0x1000);
            let files = vec![&file; files];
            let reaction = table(&mut driver.client, announced, &many[..regions], &files);
            reaction.text().to_owned()
        });
    }
    family.front_end("SET_MEM_TABLE: one region twice", |house| {
        let mut driver = Driver::start(house.connect(), 1);
        let file = memory_file(0x1000);
        let reaction = table(&mut driver.client, 2, &[good, good], &[&file, &file]);
        assert_eq!(reaction, Reaction::Refused);
        honest_read(&mut driver, 0, &house.disk);
        format!("{}; the old table stays", reaction.text())
    });
}

#[test]
fn memory_tables() {
    let mut family = Family::start("V-18", "Memory that is described wrongly");
    for (name, region) in REGIONS {
        family.guest(format!("ADD_MEM_REG: {name}"), |attack| {
            let reaction = add(&mut attack.driver, region, &memory_file(LEN));
            attack.goes_on();
            reaction.text().to_owned()
        });
        family.guest(format!("REM_MEM_REG: {name}"), |attack| {
            let payload = region_payload(region);
            let reaction = tell(&mut attack.driver.client, REM_MEM_REG, &payload, &[]);
            attack.goes_on();
            reaction.text().to_owned()
        });
    }
    for (name, file) in file_kinds() {
        family.guest(format!("ADD_MEM_REG with {name}"), |attack| {
            let reaction = add(&mut attack.driver, [FREE, 0x1000, USER, 0], &file);
            attack.goes_on();
            reaction.text().to_owned()
        });
    }
    tables(&mut family);
    family.guest("regions added up to the limit and beyond", |attack| {
        let file = memory_file(0x1000);
        let mut accepted = attack.driver.guest.pieces.len();
        loop {
            let at = 0x1000 * accepted as u64;
            match add(&mut attack.driver, [FREE + at, 0x1000, USER + at, 0], &file) {
                Reaction::Accepted => accepted += 1,
                Reaction::Refused => break,
                Reaction::Ended => panic!("ended after {accepted} regions"),
            }
        }
        attack.goes_on();
        format!("{accepted} regions, the next is refused, the ring goes on")
    });
    family.guest(
        "legal: a region added and removed 500 times, read meanwhile",
        |attack| {
            let file = memory_file(LEN);
            let region = [FREE, LEN, USER, 0];
            for _ in 0..500 {
                assert_eq!(add(&mut attack.driver, region, &file), Reaction::Accepted);
                let payload = region_payload(region);
                let removed = tell(&mut attack.driver.client, REM_MEM_REG, &payload, &[]);
                assert_eq!(removed, Reaction::Accepted);
                attack.goes_on();
            }
            "right data each time".to_owned()
        },
    );
    family.finish();
}
