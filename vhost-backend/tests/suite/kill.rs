//! Promise: a backend that is killed at any moment and started again goes on where it stood. No request is lost, none
//! is answered twice, none with wrong bytes, whichever position the front-end states.
//!
//! `VBD_KILLS` says how often to kill in each set-up; `VBD_SEED` repeats the choices of a run, which prints its own.
//! The moment of a random kill is the machine's choice all the same; kills at named points need the feature
//! `kill-points`.

use std::collections::BTreeMap;
use std::time::Duration;

use blob::test_util::noise;
use vm_memory::{Bytes, GuestAddress};

use crate::daemon::{Daemon, Place};
use crate::support::driver::{Driver, IN_ORDER, INDIRECT, OK, Resume, WRITE, readable};
use crate::support::guest::BUFFERS;
use crate::support::image::SECTORS;

/// Random kills in each set-up of a normal run.
const KILLS: usize = 20;
/// Kills at each named point in each set-up of a normal run.
#[cfg(feature = "kill-points")]
const KILLS_AT_POINT: usize = 2;
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

/// What front-end and backend have agreed on for the case of a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Agreement {
    /// A map of requests in flight.
    Inflight,
    /// Requests come back in the order they were made.
    InOrder,
    Nothing,
}

#[derive(Clone, Copy, Debug)]
struct SetUp {
    depth: u16,
    resume: Resume,
    agreement: Agreement,
}

fn set_ups() -> impl Iterator<Item = SetUp> {
    let agreements = [Agreement::Inflight, Agreement::InOrder, Agreement::Nothing];
    let resumes = [Resume::AtUsedIndex, Resume::AtAvailableIndex];
    agreements.into_iter().flat_map(move |agreement| {
        resumes.into_iter().flat_map(move |resume| {
            [1, 8, 32].map(|depth| SetUp {
                depth,
                resume,
                agreement,
            })
        })
    })
}

impl Load {
    fn start(daemon: &Daemon, set_up: SetUp, seed: u64) -> Self {
        let features = match set_up.agreement {
            Agreement::InOrder => u64::MAX,
            _ => !IN_ORDER,
        };
        let mut driver = Driver::negotiate(daemon.connect(), features, u64::MAX);
        assert_eq!(
            driver.features & IN_ORDER != 0,
            set_up.agreement == Agreement::InOrder
        );
        if set_up.agreement == Agreement::Inflight {
            driver.inflight = Some(driver.client.get_inflight(1, 128));
        }
        driver.add_ring(0, 128);
        let mut load = Self {
            driver,
            under_way: BTreeMap::new(),
            random: noise(64 << 20, seed).into_iter(),
            completed: 0,
        };
        (0..set_up.depth).for_each(|head| load.submit(head));
        load
    }

    /// Takes what was answered before the end of a backend, and goes on with its successor.
    fn go_on(&mut self, daemon: &Daemon, resume: Resume, disk: &[u8]) {
        while self.turn(disk, Duration::ZERO) {}
        // Whether the last answer was followed by its interrupt, nobody can tell.
        let call = self.driver.rings[0].call.try_clone().unwrap();
        while readable(&call, Duration::ZERO) {
            rustix::io::read(&call, &mut [0; 8]).unwrap();
        }
        self.driver.reconnect(daemon.connect(), resume);
        assert!(
            readable(&call, Duration::from_secs(20)),
            "the driver is told to look"
        );
    }

    /// Nothing is lost, and nothing comes twice.
    fn finish(mut self, set_up: SetUp, disk: &[u8]) {
        for _ in 0..usize::from(set_up.depth) * 4 {
            assert!(
                self.turn(disk, Duration::from_secs(20)),
                "{set_up:?}: a request is lost after the last kill"
            );
        }
    }
}

fn kill_at_random(set_up: SetUp, kills: usize, seed: u64) {
    let place = Place::new();
    let mut daemon = place.daemon(&["--log-level", "error"]);
    let mut load = Load::start(&daemon, set_up, seed);
    for kill in 0..kills {
        for _ in 0..load.number(40) {
            assert!(
                load.turn(&place.disk, Duration::from_secs(20)),
                "{set_up:?}, kill {kill}: a request is lost"
            );
        }
        // Between the last answer and the next one, wherever that is.
        std::thread::sleep(Duration::from_micros(load.number(300)));
        drop(daemon);
        daemon = place.daemon(&["--log-level", "error"]);
        load.go_on(&daemon, set_up.resume, &place.disk);
    }
    assert!(
        load.completed >= kills,
        "a load that stands still proves nothing"
    );
    load.finish(set_up, &place.disk);
}

#[cfg(feature = "kill-points")]
fn kill_at_point(set_up: SetUp, point: vhost_backend::killpoint::Point, kills: usize, seed: u64) {
    let place = Place::new();
    let armed = |load: Option<&mut Load>| {
        let count = 1 + load.map_or(3, |load| load.number(30));
        place.daemon_dying_at(&format!("{}:{count}", point.name()))
    };
    let mut daemon = armed(None);
    let mut load = Load::start(&daemon, set_up, seed);
    for _ in 0..kills {
        crate::daemon::wait_until("the daemon to die where it should", || {
            load.turn(&place.disk, Duration::from_millis(1));
            daemon.has_died()
        });
        let successor = armed(Some(&mut load));
        load.go_on(&successor, set_up.resume, &place.disk);
        daemon = successor;
    }
    // The last one dies as well; its successor lives.
    crate::daemon::wait_until("the daemon to die where it should", || {
        load.turn(&place.disk, Duration::from_millis(1));
        daemon.has_died()
    });
    let successor = place.daemon(&["--log-level", "error"]);
    load.go_on(&successor, set_up.resume, &place.disk);
    load.finish(set_up, &place.disk);
}

fn kills_or(default: usize) -> usize {
    let kills = std::env::var("VBD_KILLS").ok();
    kills.map_or(default, |kills| kills.parse().unwrap())
}

fn seed() -> u64 {
    let seed = std::env::var("VBD_SEED").ok();
    seed.map_or_else(fresh_seed, |seed| seed.parse().unwrap())
}

pub(crate) fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    u64::from(now.subsec_nanos())
}

#[test]
fn no_request_is_lost_or_answered_twice_over_kills_at_random() {
    let (seed, kills) = (seed(), kills_or(KILLS));
    println!("VBD_SEED={seed}");
    let mut total = 0;
    for set_up in set_ups() {
        kill_at_random(set_up, kills, seed);
        total += kills;
    }
    println!("{total} kills at random");
}

#[test]
#[cfg(feature = "kill-points")]
fn no_request_is_lost_or_answered_twice_over_kills_at_every_point() {
    let (seed, kills) = (seed(), kills_or(KILLS_AT_POINT));
    println!("VBD_SEED={seed}");
    let mut total = 0;
    for set_up in set_ups() {
        for point in vhost_backend::killpoint::Point::ALL {
            kill_at_point(set_up, point, kills, seed);
            total += kills + 1;
        }
    }
    println!("{total} kills at named points");
}

#[test]
#[cfg(not(feature = "kill-points"))]
fn no_request_is_lost_or_answered_twice_over_kills_at_every_point() {
    use std::io::Write;
    let why = b"SKIPPED: kills at named points need --features kill-points\n";
    std::io::stderr().write_all(why).unwrap();
}
