//! C-23: every subset of the features on offer works, and each means what the specification says: who is interrupted
//! when, who is kicked when, in which order answers come.

use std::time::Duration;

use crate::bench::{
    self, AVAIL, Bench, PATIENCE, TABLE, USED, area, negotiate, put_indices, start,
};
use crate::registry::line;
use crate::support::client::{GET_FEATURES, SET_FEATURES, SET_VRING_ENABLE};
use crate::support::driver::{
    EVENT_IDX, INDIRECT, INDIRECT_DESC, LOG_ALL, PROTOCOL_FEATURES, VERSION_1, WRITE, readable,
};

line! {
    C23 = "C-23", c23_features:
    "C-23.01" "VERSION_1 is offered" => version_1,
    "C-23.02" "no IOMMU, no packed ring, nothing that writes" => not_offered,
    "C-23.03" "all 512 subsets of the features" => || subsets(PROTOCOL_FEATURES),
    "C-23.04" "the same without protocol features" => || subsets(0),
    "C-23.05" "with EVENT_IDX, one interrupt where it was asked for" => at_event,
    "C-23.06" "the same over the end of the numbers" => at_event_over_the_end,
    "C-23.07" "with EVENT_IDX, none where it was not" => no_event,
    "C-23.08" "with EVENT_IDX, the flag means nothing" => flag_with_event_idx,
    "C-23.09" "who kicks only when asked to loses nothing" => kicks_by_index,
    "C-23.10" "where to kick is said at the last entry taken" => avail_event,
    "C-23.11" "without EVENT_IDX, an interrupt after each answer" => each_answer,
    "C-23.12" "without EVENT_IDX, the flag keeps them away" => flag_suppresses,
    "C-23.13" "without EVENT_IDX, the flag says when to kick" => kicks_by_flag,
    "C-23.14" "an interrupt comes after its answer" => interrupt_after_answer,
    "C-23.15" "answers come in the order of the requests, where that was agreed on" => in_order,
    "C-23.16" "indirect tables if they were agreed on" => indirect,
    "C-23.17" "features may change from start to start" => changed,
}

fn version_1() {
    let (mut client, _served) = bench::connect();
    assert_ne!(client.ask_u64(GET_FEATURES) & VERSION_1, 0);
}

fn not_offered() {
    let (mut client, _served) = bench::connect();
    let offered = client.ask_u64(GET_FEATURES);
    // FLUSH, CONFIG_WCE, DISCARD, WRITE_ZEROES, SECURE_ERASE, ZONED, ACCESS_PLATFORM, RING_PACKED, NOTIFICATION_DATA.
    for bit in [9, 11, 13, 14, 16, 17, 33, 34, 38] {
        assert_eq!(offered >> bit & 1, 0, "bit {bit}");
    }
}

fn subsets(always: u64) {
    let mut bench = start(0);
    let offered = bench.driver.client.ask_u64(GET_FEATURES);
    let choices: Vec<u64> = (0..64)
        .map(|bit| 1 << bit)
        .filter(|bit| offered & bit & !LOG_ALL & !PROTOCOL_FEATURES != 0)
        .collect();
    assert_eq!(choices.len(), 9);
    for chosen in 0..1 << choices.len() {
        let subset = choices
            .iter()
            .enumerate()
            .filter(|(at, _)| chosen >> at & 1 == 1);
        let features = subset.map(|(_, bit)| bit).sum::<u64>() | always;
        bench.driver.client.tell_u64(SET_FEATURES, features);
        bench.driver.features = features;
        bench.driver.add_ring(0, 16);
        bench.demand_runs(0);
        bench.check_read(0);
        bench.driver.client.vring_base(0);
        bench.driver.rings.clear();
    }
}

/// A ring that has come as far as `index`, with or without EVENT_IDX. It has said that it started.
fn ring_at(index: u16, features: u64) -> Bench {
    let mut bench = negotiate(features, u64::MAX);
    let ring = bench.driver.new_ring(0, 128);
    bench.driver.rings.push(ring);
    put_indices(&mut bench, 0, index);
    ask_at(&bench, index.wrapping_sub(1000));
    bench.driver.start_ring(0);
    bench.wait_for_start(0);
    bench
}

/// Asks for an interrupt when the used index moves past this.
fn ask_at(bench: &Bench, index: u16) {
    let ring = &bench.driver.rings[0];
    bench.put_u16(ring.base + AVAIL + 4 + 2 * u64::from(ring.size), index);
}

/// Sets the flag that keeps interrupts away, or takes it back.
fn set_no_interrupt(bench: &Bench, on: bool) {
    bench.put_u16(bench.driver.rings[0].base + AVAIL, u16::from(on));
}

/// Answers `count` reads, one after another, and returns how many interrupts there were.
fn interrupts_of(bench: &mut Bench, count: u16) -> u64 {
    for slot in 0..count {
        bench.offer_read(0, slot, 500);
    }
    bench.driver.kick(0);
    (0..count).for_each(|slot| bench.expect_read(0, slot, 500));
    // Whatever was to come has come when the ring has stopped.
    bench.driver.client.tell_ring(SET_VRING_ENABLE, 0, 0);
    let interrupts = bench.take_interrupts(0);
    bench.driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
    bench.wait_for_start(0);
    interrupts
}

fn at_event() {
    let mut bench = ring_at(0, u64::MAX);
    for after in [0, 1, 2, 5, 9] {
        let used = bench.driver.used_index(0);
        ask_at(&bench, used.wrapping_add(after));
        assert_eq!(interrupts_of(&mut bench, 10), 1, "after {after}");
        ask_at(&bench, used.wrapping_sub(1000));
        assert_eq!(interrupts_of(&mut bench, 10), 0, "after {after}");
    }
}

fn at_event_over_the_end() {
    for start in 65_520..=65_535 {
        let mut bench = ring_at(start, u64::MAX);
        ask_at(&bench, start.wrapping_add(9));
        assert_eq!(interrupts_of(&mut bench, 9), 0, "from {start}");
        assert_eq!(interrupts_of(&mut bench, 9), 1, "from {start}");
        assert_eq!(interrupts_of(&mut bench, 9), 0, "from {start}");
    }
}

fn no_event() {
    let mut bench = ring_at(0, u64::MAX);
    for _ in 0..10 {
        let used = bench.driver.used_index(0);
        ask_at(&bench, used.wrapping_add(40));
        assert_eq!(interrupts_of(&mut bench, 40), 0);
    }
}

fn flag_with_event_idx() {
    let mut bench = ring_at(0, u64::MAX);
    for flag in [true, false] {
        set_no_interrupt(&bench, flag);
        let used = bench.driver.used_index(0);
        ask_at(&bench, used);
        assert_eq!(interrupts_of(&mut bench, 3), 1);
        assert_eq!(interrupts_of(&mut bench, 3), 0);
    }
}

/// Reads that are kicked for only when the device has asked for it.
fn kicks_when_wanted(bench: &mut Bench, count: u16) {
    for round in 0..count {
        let old = bench.driver.rings[0].next_avail;
        let slots = 1 + round % 3;
        (0..slots).for_each(|slot| bench.offer_read(0, slot, 500));
        bench.driver.kick_if_wanted(0, old);
        (0..slots).for_each(|slot| bench.expect_read(0, slot, 500));
    }
}

fn kicks_by_index() {
    for start in [0, 65_000, 65_500] {
        let mut bench = ring_at(start, u64::MAX);
        kicks_when_wanted(&mut bench, 600);
    }
}

fn avail_event() {
    let mut bench = ring_at(65_530, u64::MAX);
    let ring = &bench.driver.rings[0];
    let event = ring.base + USED + 4 + 8 * u64::from(ring.size);
    for _ in 0..20 {
        bench.demand_runs(0);
        let next = bench.driver.rings[0].next_avail;
        bench::wait_until("the ring to ask for a kick", || {
            bench.get_u16(event) == next
        });
    }
}

/// Answers that are given back together share an interrupt.
fn each_answer() {
    let mut bench = ring_at(65_530, !EVENT_IDX);
    for count in [1, 2, 40] {
        let interrupts = interrupts_of(&mut bench, count);
        assert!((1..=u64::from(count)).contains(&interrupts), "{interrupts}");
    }
}

fn flag_suppresses() {
    let mut bench = ring_at(65_530, !EVENT_IDX);
    for _ in 0..5 {
        set_no_interrupt(&bench, true);
        assert_eq!(interrupts_of(&mut bench, 10), 0);
        set_no_interrupt(&bench, false);
        assert!((1..=10).contains(&interrupts_of(&mut bench, 10)));
    }
}

fn kicks_by_flag() {
    for start in [0, 65_500] {
        let mut bench = ring_at(start, !EVENT_IDX);
        kicks_when_wanted(&mut bench, 300);
        let flags = bench.driver.rings[0].base + USED;
        bench::wait_until("the ring to ask for kicks", || bench.get_u16(flags) == 0);
    }
}

fn interrupt_after_answer() {
    for features in [u64::MAX, !EVENT_IDX] {
        let mut bench = ring_at(0, features);
        for _ in 0..300 {
            let used = bench.driver.used_index(0);
            ask_at(&bench, used);
            bench.offer_read(0, 0, 500);
            bench.driver.kick(0);
            let call = &bench.driver.rings[0].call;
            assert!(readable(call, PATIENCE));
            assert_ne!(bench.driver.used_index(0), used, "nothing to see yet");
            bench.take_interrupts(0);
            bench.expect_read(0, 0, 500);
        }
    }
}

fn in_order() {
    let mut bench = start(1);
    for round in 0..30_u16 {
        // Slots in no order, a large read before a small one.
        let slots: Vec<u16> = (0..40).map(|number| (number * 7 + round) % 40).collect();
        for slot in &slots {
            let sector = 500 + u64::from(*slot);
            bench.place_read(0, *slot, sector);
            if slot % 3 == 0 {
                let data = bench::DATA + 0x20_0000;
                let next = 3 * slot + 2;
                bench
                    .driver
                    .descriptor(0, 3 * slot + 1, (data, 0x8000, 1 | WRITE, next));
            }
            bench.driver.offer(0, 3 * slot);
        }
        bench.driver.kick(0);
        for slot in &slots {
            assert_eq!(
                bench.driver.wait(0).head,
                u32::from(3 * slot),
                "round {round}"
            );
        }
    }
}

fn indirect() {
    for agreed in [true, false] {
        let features = if agreed { u64::MAX } else { !INDIRECT_DESC };
        let mut bench = negotiate(features, u64::MAX);
        bench.driver.add_ring(0, 128);
        let place = area(0, 0);
        bench.place_read(0, 0, 500);
        let pieces = [
            (place, 16, 0),
            (place + 0x200, 512, WRITE),
            (place + 0x20, 1, WRITE),
        ];
        bench.driver.chain_in(TABLE, 0, &pieces);
        bench.driver.chain(0, 0, &[(TABLE, 48, INDIRECT)]);
        let used_len = bench.driver.run(0, 0).used_len;
        assert_eq!(used_len, if agreed { 513 } else { 0 });
        bench.check_read(0);
    }
}

fn changed() {
    let mut bench = ring_at(0, u64::MAX);
    for event_idx in [false, true, false] {
        let all = bench.driver.features | EVENT_IDX;
        let features = if event_idx { all } else { all & !EVENT_IDX };
        bench.driver.client.tell_ring(SET_VRING_ENABLE, 0, 0);
        bench.driver.client.tell_u64(SET_FEATURES, features);
        bench.driver.features = features;
        bench.driver.rings[0].event_idx = event_idx;
        let used = bench.driver.used_index(0);
        ask_at(&bench, used.wrapping_sub(1000));
        bench.driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
        bench.wait_for_start(0);
        let interrupts = interrupts_of(&mut bench, 5);
        assert_eq!(interrupts == 0, event_idx, "{interrupts}");
    }
    assert!(!readable(&bench.driver.rings[0].error, Duration::ZERO));
}
