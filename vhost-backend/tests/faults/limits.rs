//! Descriptors, threads and memory that run out (F-12, F-13, F-14).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, prlimit};

use crate::house::{House, wait_until};
use crate::skipped;
use crate::support::driver::{Driver, readable};
use crate::trace::{boot, run};

/// Starts rings until one is refused, and demands that the others work. `None` when all could be started.
fn rings_until_refused(driver: &mut Driver, most: u32) -> Option<u32> {
    (0..most).find(|index| {
        driver.add_ring(*index, 16);
        is_refused(driver, *index)
    })
}

fn is_refused(driver: &Driver, index: u32) -> bool {
    let error = &driver.rings[index as usize].error;
    readable(error, Duration::from_millis(20))
}

/// How a session ended that went on asking for rings.
#[derive(Debug, PartialEq)]
enum Ran {
    /// All could be started.
    On,
    /// The ring of this number could not.
    OutAtRing(u32),
    /// Not even the descriptors of a message found room.
    OutAtMessage,
}

/// Starts rings in a daemon that runs out of descriptors, wherever that happens to be.
fn rings_until_out(driver: &mut Driver, house: &House, most: u32) -> Ran {
    for index in 0..most {
        let added = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            driver.add_ring(index, 16);
        }));
        if added.is_err() {
            wait_until("the daemon to say so", || {
                house.log().contains("no room left for the descriptors")
            });
            return Ran::OutAtMessage;
        }
        if is_refused(driver, index) {
            return Ran::OutAtRing(index);
        }
    }
    Ran::On
}

fn demand_work(driver: &mut Driver, house: &House) {
    assert_eq!(run(driver, &house.disk, &boot()).failed, 0);
}

#[test]
fn descriptors_that_run_out_cost_a_ring_and_come_back() {
    // A descriptor more or less moves the end from a ring to a message and on to the next ring.
    let ends: Vec<Ran> = (60..68).map(run_out_of_descriptors).collect();
    println!("how sessions ended: {ends:?}");
    assert!(
        ends.iter().any(|end| matches!(end, Ran::OutAtRing(1..))),
        "{ends:?}"
    );
    assert!(!ends.contains(&Ran::On), "{ends:?}");
}

fn run_out_of_descriptors(most: u32) -> Ran {
    let house = House::after(&format!("ulimit -n {most}"));
    let before = house.usage().files;
    let mut driver = Driver::negotiate(house.connect(), u64::MAX, u64::MAX);
    let end = rings_until_out(&mut driver, &house, 64);
    if end != Ran::OutAtMessage {
        demand_work(&mut driver, &house);
    }
    drop(driver);
    wait_until("descriptors to come back", || house.usage().files <= before);
    let mut driver = Driver::start(house.connect(), 2);
    demand_work(&mut driver, &house);
    end
}

#[test]
fn front_end_that_cannot_be_accepted_waits_until_it_can() {
    let house = House::new();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |current| {
        let limit = Rlimit { current, maximum };
        prlimit(Some(house.process()), Resource::Nofile, limit).unwrap()
    };
    let before = limit(Some(3));
    let stream = house.connect();
    wait_until("the daemon to say so", || {
        house.log().contains("no front-end can be accepted now")
    });
    limit(before.current);
    let mut driver = Driver::start(stream, 1);
    demand_work(&mut driver, &house);
}

/// A control group of version 1 for this test, if the machine lets us make one.
struct Group(PathBuf);

impl Group {
    fn make(controller: &str) -> Option<Self> {
        let name = format!("vbd-test-{}-{controller}", std::process::id());
        let path = Path::new("/sys/fs/cgroup").join(controller).join(name);
        fs::create_dir(&path).ok()?;
        Some(Self(path))
    }

    fn set(&self, file: &str, value: &str) -> bool {
        fs::write(self.0.join(file), value).is_ok()
    }

    fn take(&self, house: &House) -> bool {
        self.set("cgroup.procs", &house.process().as_raw_pid().to_string())
    }

    fn get(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _removed = fs::remove_dir(&self.0);
    }
}

#[test]
fn threads_that_run_out_cost_a_ring_and_come_back() {
    let Some(group) = Group::make("pids") else {
        return skipped("no control group can be made to limit threads");
    };
    let house = House::new();
    if !(group.take(&house) && group.set("pids.max", "6")) {
        return skipped("the control group does not limit threads");
    }
    let mut driver = Driver::negotiate(house.connect(), u64::MAX, u64::MAX);
    let refused = rings_until_refused(&mut driver, 16);
    assert!(refused.is_some_and(|index| index > 0), "{refused:?}");
    demand_work(&mut driver, &house);
    drop(driver);
    assert!(group.set("pids.max", "max"));
    let mut driver = Driver::start(house.connect(), 8);
    demand_work(&mut driver, &house);
    drop((driver, house));
}

#[test]
fn memory_stays_under_a_ceiling_whatever_guests_do() {
    const CEILING: u64 = 24 << 20;
    let Some(group) = Group::make("memory") else {
        return skipped("no control group can be made to limit memory");
    };
    let house = House::new();
    let limited = group.set("memory.limit_in_bytes", &CEILING.to_string());
    if !(group.take(&house) && limited) {
        return skipped("the control group does not limit memory");
    }
    for _ in 0..20 {
        let mut driver = Driver::start(house.connect(), 8);
        demand_work(&mut driver, &house);
        for at in 0..8 {
            // The largest request there is: as much as the disk has.
            let len = 4096 * 512;
            assert_eq!(driver.read(at, 0, len).len(), len as usize);
        }
    }
    let events = group.get("memory.oom_control");
    assert!(!events.contains("oom_kill 1"), "{events}");
    println!(
        "most memory: {} bytes",
        group.get("memory.max_usage_in_bytes").trim()
    );
    let mut driver = Driver::start(house.connect(), 1);
    demand_work(&mut driver, &house);
    drop((driver, house));
}
