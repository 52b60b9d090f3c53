//! C-04: a ring may be stopped, described anew and started again as often as a front-end likes, under load.
//! C-05: as many queues work as are promised, together and each alone.

use std::collections::VecDeque;

use crate::bench::{self, Bench, device_with_queues, start, start_on};
use crate::registry::{line, number_or};
use crate::support::client::{
    GET_QUEUE_NUM, GET_VRING_BASE, SET_FEATURES, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL,
    SET_VRING_ENABLE, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM, pair,
};
use crate::support::driver::{EVENT_IDX, MQ, eventfd};
use crate::support::guest::{BORDER, RINGS};

/// Stops and starts of a normal run; the promise is made for 10,000 (`VBD_CYCLES`).
const CYCLES: usize = 1000;

line! {
    C04 = "C-04", c04_restart:
    "C-04.01" "stopped and started under load, again and again" => cycles,
    "C-04.02" "disabled and enabled under load" => toggles,
    "C-04.03" "another size at every start" => sizes,
    "C-04.04" "another place at every start" => places,
    "C-04.05" "with and without EVENT_IDX in turn" => event_idx_in_turn,
    "C-04.06" "other numbers of rings at every start" => numbers_of_rings,
    "C-04.07" "another position, with the ring set up anew" => set_up_anew,
    "C-04.08" "one ring restarts while another reads" => beside_another,
    "C-04.09" "the same messages once more change nothing" => repeated,
}

line! {
    C05 = "C-05", c05_queues:
    "C-05.01" "MQ is offered, GET_QUEUE_NUM says how many" => queue_num,
    "C-05.02" "the configuration says the same" => queue_config,
    "C-05.03" "every number of rings from 1 to 64" => every_number,
    "C-05.04" "256 rings at once" => all_256,
    "C-05.05" "any single ring alone" => single_rings,
    "C-05.06" "rings here and there" => sparse_rings,
    "C-05.07" "rings beyond the last are refused" => beyond_the_last,
    "C-05.08" "all rings busy at once" => all_busy,
}

/// A ring under a load of verified reads.
struct Load {
    bench: Bench,
    under_way: VecDeque<(u16, u64)>,
    next: u64,
}

impl Load {
    fn new() -> Self {
        Self {
            bench: start(1),
            under_way: VecDeque::new(),
            next: 0,
        }
    }

    fn submit(&mut self) {
        let slot = u16::try_from(self.next % 40).unwrap();
        let sector = 480 + self.next % 300;
        self.next += 1;
        let old = self.bench.driver.rings[0].next_avail;
        self.bench.offer_read(0, slot, sector);
        self.bench.driver.kick_if_wanted(0, old);
        self.under_way.push_back((slot, sector));
    }

    fn complete(&mut self) {
        let (slot, sector) = self.under_way.pop_front().unwrap();
        self.bench.expect_read(0, slot, sector);
    }
}

fn cycles() {
    let cycles = number_or("VBD_CYCLES", CYCLES);
    let mut load = Load::new();
    (0..8).for_each(|_| load.submit());
    for cycle in 0..cycles {
        (0..cycle % 7).for_each(|_| load.complete());
        let position = load.bench.stop(0);
        (0..cycle % 7).for_each(|_| load.submit());
        load.bench.start_at(0, position);
    }
    (0..8).for_each(|_| load.complete());
    println!("{cycles} stops and starts, {} reads", load.next);
}

fn toggles() {
    let mut load = Load::new();
    (0..8).for_each(|_| load.submit());
    for cycle in 0..CYCLES {
        (0..cycle % 5).for_each(|_| load.complete());
        let client = &mut load.bench.driver.client;
        client.tell_ring(SET_VRING_ENABLE, 0, 0);
        (0..cycle % 5).for_each(|_| load.submit());
        let client = &mut load.bench.driver.client;
        client.tell_ring(SET_VRING_ENABLE, 0, 1);
    }
    (0..8).for_each(|_| load.complete());
}

fn sizes() {
    let mut bench = start(1);
    for size in [4, 8, 1024, 16, 512, 32, 256, 64, 128, 4] {
        bench.stop(0);
        bench.driver.rings[0] = bench.driver.new_ring(0, size);
        bench.driver.start_ring(0);
        for _ in 0..2 * size + 1 {
            bench.demand_runs(0);
        }
    }
}

fn places() {
    let mut bench = start(1);
    for round in 1..30_u64 {
        bench.stop(0);
        bench.driver.rings[0] = bench.driver.new_ring(0, 128);
        let base = RINGS + 0x8000 * round + 16 * (round % 7);
        bench.driver.fill(base, 0x8000, 0);
        bench.driver.rings[0].base = base;
        bench.driver.start_ring(0);
        bench.demand_runs(0);
        bench.check_read(0);
    }
}

fn event_idx_in_turn() {
    let mut bench = start(1);
    let all = bench.driver.features;
    for round in 0..20 {
        bench.stop(0);
        let features = if round % 2 == 0 {
            all & !EVENT_IDX
        } else {
            all
        };
        bench.driver.client.tell_u64(SET_FEATURES, features);
        bench.driver.features = features;
        bench.driver.rings[0] = bench.driver.new_ring(0, 128);
        bench.driver.start_ring(0);
        (0..5).for_each(|_| bench.check_read(0));
    }
}

fn numbers_of_rings() {
    let mut bench = start(0);
    for count in [1, 4, 2, 9, 1, 16] {
        for index in 0..count {
            bench.driver.add_ring(index, 64);
        }
        (0..count as usize).for_each(|at| bench.check_read(at));
        for index in 0..count {
            bench.driver.client.vring_base(index);
        }
        bench.driver.rings.clear();
    }
}

fn set_up_anew() {
    let mut bench = start(1);
    for position in [0, 1, 127, 128, 40_000, 65_535] {
        bench.stop(0);
        bench.driver.rings[0] = bench.driver.new_ring(0, 128);
        bench::put_indices(&mut bench, 0, position);
        bench.driver.start_ring(0);
        (0..3).for_each(|_| bench.demand_runs(0));
        assert_eq!(bench.stop(0), position.wrapping_add(3));
    }
}

fn beside_another() {
    let mut bench = start(2);
    for round in 0..200_u64 {
        for slot in 0..8 {
            bench.offer_read(1, slot, 500 + round);
        }
        bench.driver.kick(1);
        let position = bench.stop(0);
        bench.start_at(0, position);
        (0..8).for_each(|slot| bench.expect_read(1, slot, 500 + round));
        bench.demand_runs(0);
    }
}

fn repeated() {
    let mut bench = start(1);
    for _ in 0..20 {
        bench.demand_runs(0);
        bench.driver.start_ring(0);
        bench.driver.hand_over_table(0);
        let features = bench.driver.features;
        bench.driver.client.tell_u64(SET_FEATURES, features);
    }
}

fn queue_num() {
    for queues in [1, 2, 7, 64, 255, 256] {
        let mut bench = start_on(&device_with_queues(queues), 0);
        let client = &mut bench.driver.client;
        assert_eq!(client.ask_u64(GET_QUEUE_NUM), u64::from(queues));
        let offered = vhost_backend::device::offered_protocol_features();
        assert_ne!(offered.bits() & MQ, 0);
    }
}

fn queue_config() {
    for queues in [1, 2, 64, 256] {
        let mut bench = start_on(&device_with_queues(queues), 0);
        let config = bench.driver.client.config(34, 2, 0).unwrap();
        assert_eq!(config, queues.to_le_bytes());
    }
}

fn every_number() {
    for count in 1..=64 {
        let mut bench = start_on(&device_with_queues(count), 0);
        for index in 0..u32::from(count) {
            bench.driver.add_ring(index, 16);
        }
        (0..usize::from(count)).for_each(|at| bench.check_read(at));
    }
}

/// All 256 rings, in memory of their own.
fn start_256() -> Bench {
    let mut bench = start(0);
    for index in 0..256 {
        let mut ring = bench.driver.new_ring(0, 16);
        ring.index = index;
        ring.base = BORDER + 0x8000 * u64::from(index);
        bench.driver.rings.push(ring);
        bench.driver.start_ring(index as usize);
    }
    bench
}

fn all_256() {
    let mut bench = start_256();
    (0..256).for_each(|at| bench.check_read(at));
    for at in 0..256 {
        assert_eq!(bench.driver.stop_ring(at), 1);
    }
}

fn single_rings() {
    for index in [0, 1, 31, 32, 63, 64, 127, 128, 254, 255] {
        let mut bench = start(0);
        let mut ring = bench.driver.new_ring(0, 128);
        ring.index = index;
        bench.driver.rings.push(ring);
        bench.driver.start_ring(0);
        bench.check_read(0);
    }
}

fn sparse_rings() {
    let mut bench = start(0);
    for (at, index) in [200, 3, 77, 255, 0].into_iter().enumerate() {
        let mut ring = bench.driver.new_ring(u32::try_from(at).unwrap(), 128);
        ring.index = index;
        bench.driver.rings.push(ring);
        bench.driver.start_ring(at);
    }
    (0..5).for_each(|at| bench.check_read(at));
}

fn beyond_the_last() {
    let mut bench = start_on(&device_with_queues(2), 2);
    let addresses = [bench.driver.guest.user(0x1_0000); 4].map(u64::to_le_bytes);
    let addresses = [pair(2, 0), addresses.concat()].concat();
    let fd = eventfd();
    let ring = 2_u64.to_le_bytes();
    for (request, payload) in [
        (SET_VRING_NUM, pair(2, 128)),
        (SET_VRING_BASE, pair(2, 0)),
        (SET_VRING_ADDR, addresses),
        (SET_VRING_ENABLE, pair(2, 1)),
    ] {
        assert!(!bench.asks(request, &payload, &[]), "message {request}");
        bench.check_read(1);
    }
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        assert!(!bench.asks(request, &ring, &[&fd]), "message {request}");
        bench.check_read(1);
    }
    let client = &mut bench.driver.client;
    assert_eq!(client.ask(GET_VRING_BASE, &pair(2, 0)), None);
    bench.demand_refused();
}

fn all_busy() {
    let mut bench = start(16);
    for round in 0..10_u64 {
        for at in 0..16 {
            for slot in 0..20 {
                bench.offer_read(at, slot, 500 + round + at as u64);
            }
            bench.driver.kick(at);
        }
        for at in 0..16 {
            for slot in 0..20 {
                bench.expect_read(at, slot, 500 + round + at as u64);
            }
        }
    }
}
