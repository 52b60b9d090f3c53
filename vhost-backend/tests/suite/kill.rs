//! Promise: a backend that is killed at any moment and started again goes on where it stood. No request is lost, none
//! is answered twice, none with wrong bytes, whichever position the front-end states.
//!
//! `VBD_KILLS` says how often to kill in each of the six set-ups; `VBD_SEED` repeats the
//! choices of a run, which prints its own. The moment of a kill is the machine's choice all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use blob::test_util::noise;
use vm_memory::{Bytes, GuestAddress};

use crate::daemon::Place;
use crate::support::driver::{Driver, INDIRECT, OK, Resume, WRITE, readable};
use crate::support::guest::BUFFERS;
use crate::support::image::SECTORS;

/// Kills in each set-up of a normal run.
const KILLS: usize = 40;
/// Guest memory for one request: header, table, status, data.
const AREA: u64 = 0x4_0000;
const TABLE: u64 = 0x100;
const STATUS: u64 = 0x200;
const DATA: u64 = 0x1000;
const MAX_SECTORS: u64 = 200;

/// A load of verified reads that outlives its backends.
struct Load {
    driver: Driver,
    /// First sector and number of sectors of every request under way, by head.
    under_way: BTreeMap<u16, (u64, u64)>,
    random: std::vec::IntoIter<u8>,
    completed: usize,
}

impl Load {
    fn number(&mut self, below: u64) -> u64 {
        let mut next = || u64::from(self.random.next().expect("enough random bytes for a run"));
        (next() << 16 | next() << 8 | next()) % below
    }

    fn submit(&mut self, head: u16) {
        let sectors = 1 + self.number(MAX_SECTORS);
        let sector = self.number(SECTORS - sectors);
        let area = BUFFERS + AREA * u64::from(head);
        let len = u32::try_from(sectors * 512).unwrap();
        self.driver.header(area, 0, sector);
        self.driver.fill(area + DATA, len as usize, 0xEE);
        self.driver.fill(area + STATUS, 1, 0xEE);
        let pieces = [
            (area, 16, 0),
            (area + DATA, len, WRITE),
            (area + STATUS, 1, WRITE),
        ];
        self.driver.chain_in(area + TABLE, 0, &pieces);
        self.driver.chain(0, head, &[(area + TABLE, 48, INDIRECT)]);
        self.under_way.insert(head, (sector, sectors));
        let old = self.driver.rings[0].next_avail;
        self.driver.offer(0, head);
        self.driver.kick_if_wanted(0, old);
    }

    /// Takes one completion, checks it, and submits another request in its place.
    fn turn(&mut self, disk: &[u8], timeout: Duration) -> bool {
        let Some(done) = self.driver.wait_for(0, timeout) else {
            return false;
        };
        let head = u16::try_from(done.head).unwrap();
        let (sector, sectors) = self
            .under_way
            .remove(&head)
            .expect("a completion that was asked for, and only once");
        let area = BUFFERS + AREA * u64::from(head);
        assert_eq!(self.driver.bytes(area + STATUS, 1), [OK]);
        assert_eq!(u64::from(done.used_len), sectors * 512 + 1);
        let mut data = vec![0; usize::try_from(sectors * 512).unwrap()];
        self.driver
            .guest
            .memory
            .read_slice(&mut data, GuestAddress(area + DATA))
            .unwrap();
        let start = usize::try_from(sector * 512).unwrap();
        assert!(
            data == disk[start..start + data.len()],
            "wrong bytes at sector {sector}"
        );
        self.completed += 1;
        self.submit(head);
        true
    }
}

fn campaign(depth: u16, resume: Resume, kills: usize, seed: u64) {
    let place = Place::new();
    let mut daemon = place.daemon(&["--log-level", "error"]);
    let mut load = Load {
        driver: Driver::start(daemon.connect(), 1),
        under_way: BTreeMap::new(),
        random: noise(64 << 20, seed).into_iter(),
        completed: 0,
    };
    (0..depth).for_each(|head| load.submit(head));
    for kill in 0..kills {
        for _ in 0..load.number(40) {
            assert!(
                load.turn(&place.disk, Duration::from_secs(20)),
                "kill {kill}: a request is lost"
            );
        }
        // Between the last answer and the next one, wherever that is.
        std::thread::sleep(Duration::from_micros(load.number(300)));
        drop(daemon);
        // What was answered before the end counts; nothing may come after it.
        while load.turn(&place.disk, Duration::ZERO) {}
        // Whether the last answer was followed by its interrupt, nobody can tell.
        let call = load.driver.rings[0].call.try_clone().unwrap();
        while readable(&call, Duration::ZERO) {
            rustix::io::read(&call, &mut [0; 8]).unwrap();
        }
        daemon = place.daemon(&["--log-level", "error"]);
        load.driver.reconnect(daemon.connect(), resume);
        assert!(
            readable(&call, Duration::from_secs(20)),
            "the driver is told to look"
        );
    }
    for _ in 0..usize::from(depth) * 4 {
        assert!(
            load.turn(&place.disk, Duration::from_secs(20)),
            "a request is lost after the last kill"
        );
    }
    assert!(
        load.completed >= kills,
        "a load that stands still proves nothing"
    );
}

pub(crate) fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    u64::from(now.subsec_nanos())
}

#[test]
fn no_request_is_lost_or_answered_twice_over_kills() {
    let kills = std::env::var("VBD_KILLS")
        .ok()
        .map_or(KILLS, |kills| kills.parse().unwrap());
    for depth in [1, 8, 32] {
        for resume in [Resume::AtUsedIndex, Resume::AtAvailableIndex] {
            let seed = std::env::var("VBD_SEED")
                .ok()
                .map_or_else(fresh_seed, |seed| seed.parse().unwrap());
            println!("depth {depth}, {resume:?}, VBD_SEED={seed}");
            campaign(depth, resume, kills, seed);
        }
    }
}
