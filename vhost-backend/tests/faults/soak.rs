//! Attaching, reading and leaving for a long time leaves nothing behind (F-21).

use std::time::{Duration, Instant};

use crate::house::{House, Usage, wait_until};
use crate::setting;
use crate::support::driver::Driver;
use crate::trace::{boot, run};

/// What an allocator may keep without it being a leak, over a whole run.
const SLACK_KIB: u64 = 1 << 10;

/// What is held when the last session has given everything back: nothing changes any more.
fn settled(house: &House) -> Usage {
    let mut usage = house.usage();
    wait_until("the last session to end", || {
        std::thread::sleep(Duration::from_millis(20));
        let before = std::mem::replace(&mut usage, house.usage());
        usage.threads <= 2 && usage == before
    });
    usage
}

fn attach(house: &House, round: u64) {
    let mut driver = Driver::start(house.connect(), 1 + u32::try_from(round % 4).unwrap());
    assert_eq!(run(&mut driver, &house.disk, &boot()).failed, 0);
    match round % 3 {
        0 => drop(driver.stop_ring(0)),
        1 => driver.client.raw(&[1, 2, 3]),
        _ => {}
    }
}

#[test]
fn nothing_grows_over_time() {
    let seconds = setting("VBD_SOAK_SECONDS", 5);
    let mut house = House::new();
    // Warm: every shape of session has been there.
    (0..24).for_each(|round| attach(&house, round));
    let before = settled(&house);
    let (start, mut rounds) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(seconds) {
        attach(&house, rounds);
        rounds += 1;
        if rounds % 1000 == 0 {
            println!("{rounds} sessions, {:?}", house.usage());
        }
    }
    wait_until("descriptors and threads to be given back", || {
        let now = house.usage();
        now.files <= before.files && now.threads <= before.threads
    });
    let after = settled(&house);
    println!("{rounds} sessions in {seconds} s: {before:?}, then {after:?}");
    assert!(after.resident_kib <= before.resident_kib + SLACK_KIB);
    house.demand_life();
    house.demand_idle(Duration::from_millis(200));
}
