//! Regions besides the guest's own, and reads into them.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::bench::{Bench, HEADER, STATUS, memfd};
use crate::program::{Place, Program};
use crate::support::client::{ADD_MEM_REG, REM_MEM_REG};
use crate::support::driver::{Driver, WRITE};

/// A region besides the guest's own.
pub(crate) struct Extra {
    pub(crate) guest: u64,
    pub(crate) len: u64,
    pub(crate) user: u64,
    pub(crate) offset: u64,
    pub(crate) file: File,
}

pub(crate) const EXTRA: u64 = 0x9000_0000;

pub(crate) fn extra(number: u64, len: u64) -> Extra {
    Extra {
        guest: EXTRA + 0x10_0000 * number,
        len,
        user: 0x30_0000_0000 + 0x10_0000 * number,
        offset: 0,
        file: memfd(len),
    }
}

impl Extra {
    pub(crate) fn region(&self) -> Vec<u8> {
        [self.guest, self.len, self.user, self.offset]
            .map(u64::to_le_bytes)
            .concat()
    }

    pub(crate) fn single(&self) -> Vec<u8> {
        [vec![0; 8], self.region()].concat()
    }

    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.file
            .read_exact_at(&mut bytes, self.offset + offset)
            .unwrap();
        bytes
    }

    pub(crate) fn fill(&self, byte: u8) {
        let bytes = vec![byte; usize::try_from(self.len).unwrap()];
        self.file.write_all_at(&bytes, self.offset).unwrap();
    }

    pub(crate) fn add(&self, bench: &mut Bench) {
        bench
            .driver
            .client
            .tell(ADD_MEM_REG, &self.single(), &[&self.file]);
    }

    pub(crate) fn remove(&self, bench: &mut Bench) {
        bench.driver.client.tell(REM_MEM_REG, &self.single(), &[]);
    }
}

/// Reads from `sector` on into `pieces` and returns status and used length.
pub(crate) fn read_into(bench: &mut Bench, sector: u64, pieces: &[(u64, u32)]) -> (u8, u32) {
    bench.driver.header(HEADER, 0, sector);
    bench.driver.fill(STATUS, 1, 0xEE);
    let mut chain = vec![(HEADER, 16, 0)];
    chain.extend(pieces.iter().map(|(address, len)| (*address, *len, WRITE)));
    chain.push((STATUS, 1, WRITE));
    bench.driver.chain(0, 0, &chain);
    let used_len = bench.driver.run(0, 0).used_len;
    (bench.driver.bytes(STATUS, 1)[0], used_len)
}

/// A program, a driver with a running ring, and what the program holds then.
pub(crate) fn busy_program(place: &Place) -> (Program, Driver, (usize, usize)) {
    let program = place.serve();
    let mut driver = Driver::start(program.connect(), 2);
    place.check_read(&mut driver, 0);
    let usage = program.usage();
    (program, driver, usage)
}
