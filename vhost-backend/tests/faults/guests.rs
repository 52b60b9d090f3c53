//! Many guests on one machine, one of them hostile, one with a front-end that dies again and again (F-15).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::attack::Attack;
use crate::house::House;
use crate::setting;
use crate::support::driver::{Driver, NEXT};
use crate::trace::{boot, run};

/// Boots of each honest guest.
const BOOTS: usize = 3;

/// Boots again and again, and tells how long each read took.
fn honest(house: &House) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..BOOTS {
        let mut driver = Driver::start(house.connect(), 1);
        for read in boot() {
            let start = Instant::now();
            let tally = run(&mut driver, &house.disk, &[read]);
            times.push(start.elapsed());
            assert_eq!(tally.failed, 0);
        }
    }
    times
}

/// Breaks its ring, loops its chains, and floods its queue.
fn hostile(house: &House, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let mut attack = Attack::new(house, u64::MAX, 128);
        for _ in 0..100 {
            attack.driver.descriptor(0, 0, (0x4000_0000, 16, NEXT, 0));
            attack.driver.offer(0, 0);
            attack.driver.kick(0);
        }
        attack.driver.set_avail_index(0, 0x8000);
        attack.driver.kick(0);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Goes away with reads under way.
fn dying(house: &House, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let mut attack = Attack::new(house, u64::MAX, 128);
        attack.offer_at_once(0, 0, 100);
        attack.driver.kick(0);
    }
}

fn p99(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

/// All honest guests at once, with or without bad company; the 99th percentile of their reads.
fn together(houses: &[House], company: bool) -> Duration {
    let over = AtomicBool::new(false);
    let times = std::thread::scope(|scope| {
        let (bad, good) = houses.split_at(2);
        if company {
            scope.spawn(|| hostile(&bad[0], &over));
            scope.spawn(|| dying(&bad[1], &over));
        }
        let guests: Vec<_> = good
            .iter()
            .map(|house| scope.spawn(move || honest(house)))
            .collect();
        let times: Vec<_> = guests.into_iter().map(|guest| guest.join()).collect();
        over.store(true, Ordering::Relaxed);
        times
    });
    p99(times.into_iter().flat_map(Result::unwrap).collect())
}

#[test]
fn honest_guests_do_not_notice_bad_company() {
    let count = usize::try_from(setting("VBD_GUESTS", 12)).unwrap();
    let mut houses: Vec<House> = (0..count).map(|_| House::new()).collect();
    together(&houses, false);
    let (alone, beside) = (together(&houses, false), together(&houses, true));
    println!(
        "{count} guests, p99 of a read: {alone:?} alone, {beside:?} in bad company, ratio {:.2}",
        beside.as_secs_f64() / alone.as_secs_f64()
    );
    for house in &mut houses {
        house.demand_life();
        house.honest_session();
        assert!(house.usage().resident_kib < 24 << 10, "{:?}", house.usage());
    }
}
