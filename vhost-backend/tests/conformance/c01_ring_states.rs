//! C-01: a ring starts stopped and disabled; it runs exactly while it has addresses and a kick descriptor and is
//! enabled, in whatever order these came; and what a running ring is told applies at once.

use std::collections::VecDeque;
use std::fs::File;
use std::time::Duration;

use crate::bench::{self, Bench, PATIENCE, count, pipe, start};
use crate::registry::line;
use crate::support::client::{
    RESET_DEVICE, SET_FEATURES, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR,
    SET_VRING_KICK, SET_VRING_NUM,
};
use crate::support::driver::{PROTOCOL_FEATURES, VERSION_1, eventfd, readable};
use crate::support::guest::RINGS;

line! {
    C01 = "C-01", c01_ring_states:
    "C-01.01" "a ring starts stopped and disabled" => fresh_ring,
    "C-01.02" "a kick descriptor alone starts nothing" => kick_alone,
    "C-01.03" "enabling alone starts nothing" => enable_alone,
    "C-01.04" "addresses that come last start it" => addresses_last,
    "C-01.05" "all 720 orders of setting up end the same" => every_order,
    "C-01.06" "features may come anywhere before ENABLE" => features_anywhere,
    "C-01.07" "all two-step transitions from all states" => transitions,
    "C-01.08" "disabled and enabled again, it goes on" => disable_enable,
    "C-01.09" "GET_VRING_BASE leaves it enabled" => base_keeps_enabled,
    "C-01.10" "ENABLE does not restart a stopped ring" => enable_is_no_kick,
    "C-01.11" "without protocol features all are enabled" => no_protocol_features,
    "C-01.12" "SET_FEATURES neither disables nor enables" => features_keep_enabled,
    "C-01.13" "a ring is enabled alone" => one_by_one,
    "C-01.14" "a kick before the start is not lost" => early_kick,
    "C-01.15" "a new kick descriptor replaces the old one" => new_kick,
    "C-01.16" "a new call descriptor replaces the old one" => new_call,
    "C-01.17" "a ring without call descriptor is served" => no_call,
    "C-01.18" "a ring that is told to poll does not run" => no_kick,
    "C-01.19" "new addresses move a running ring" => moved,
    "C-01.20" "a new size applies to a running ring" => resized,
    "C-01.21" "replaced descriptors are closed" => replaced_descriptors,
    "C-01.22" "a started ring says so once" => interrupt_at_start,
}

/// A session with ring 0 described to the driver and not to the backend.
fn undeclared() -> Bench {
    let mut bench = start(0);
    let ring = bench.driver.new_ring(0, 128);
    bench.driver.rings.push(ring);
    bench
}

fn tell_size(bench: &mut Bench) {
    let size = u32::from(bench.driver.rings[0].size);
    bench.driver.client.tell_ring(SET_VRING_NUM, 0, size);
}

fn tell_kick(bench: &mut Bench) {
    let kick = bench.driver.rings[0].kick.try_clone().unwrap();
    let client = &mut bench.driver.client;
    client.tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
}

fn tell_call(bench: &mut Bench) {
    let call = bench.driver.rings[0].call.try_clone().unwrap();
    let client = &mut bench.driver.client;
    client.tell_ring_file(SET_VRING_CALL, 0, Some(&call));
}

fn enable(bench: &mut Bench, on: bool) {
    let client = &mut bench.driver.client;
    client.tell_ring(SET_VRING_ENABLE, 0, u32::from(on));
}

fn fresh_ring() {
    let mut bench = undeclared();
    tell_size(&mut bench);
    bench.driver.tell_addresses(0);
    tell_call(&mut bench);
    bench.offer_read(0, 0, 500);
    bench.demand_silence(0);
}

fn kick_alone() {
    let mut bench = undeclared();
    tell_size(&mut bench);
    bench.driver.tell_addresses(0);
    tell_call(&mut bench);
    tell_kick(&mut bench);
    bench.offer_read(0, 0, 500);
    bench.demand_silence(0);
    enable(&mut bench, true);
    bench.expect_read(0, 0, 500);
}

fn enable_alone() {
    let mut bench = undeclared();
    tell_size(&mut bench);
    bench.driver.tell_addresses(0);
    tell_call(&mut bench);
    enable(&mut bench, true);
    bench.offer_read(0, 0, 500);
    bench.demand_silence(0);
    tell_kick(&mut bench);
    bench.expect_read(0, 0, 500);
}

fn addresses_last() {
    let mut bench = undeclared();
    tell_size(&mut bench);
    tell_call(&mut bench);
    tell_kick(&mut bench);
    enable(&mut bench, true);
    bench.offer_read(0, 0, 500);
    bench.demand_silence(0);
    bench.driver.tell_addresses(0);
    bench.expect_read(0, 0, 500);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Features,
    Num,
    Base,
    Addr,
    Call,
    Kick,
    Enable,
}

impl Step {
    /// A position is stated as it is, as a front-end does.
    fn take(self, bench: &mut Bench) {
        match self {
            Self::Features => {
                let features = bench.driver.features;
                bench.driver.client.tell_u64(SET_FEATURES, features);
            }
            Self::Num => tell_size(bench),
            Self::Base => {
                let position = u32::from(bench.driver.used_index(0));
                bench.driver.client.tell_ring(SET_VRING_BASE, 0, position);
            }
            Self::Addr => bench.driver.tell_addresses(0),
            Self::Call => tell_call(bench),
            Self::Kick => tell_kick(bench),
            Self::Enable => enable(bench, true),
        }
    }
}

/// Every order of these steps.
fn orders(steps: &[Step]) -> Vec<Vec<Step>> {
    if steps.is_empty() {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for (at, first) in steps.iter().enumerate() {
        let mut rest = steps.to_vec();
        rest.remove(at);
        for mut order in orders(&rest) {
            order.insert(0, *first);
            all.push(order);
        }
    }
    all
}

/// Takes the steps in this order: the ring runs from the moment it is complete, and not before.
fn set_up(bench: &mut Bench, order: &[Step]) {
    let mut missing = vec![Step::Addr, Step::Kick, Step::Enable];
    bench.offer_read(0, 0, 500);
    bench.driver.kick(0);
    for step in order {
        step.take(bench);
        let ran = missing.is_empty();
        missing.retain(|needed| needed != step);
        match (ran, missing.is_empty()) {
            (false, true) => bench.expect_read(0, 0, 500),
            (false, false) => {
                assert_eq!(bench.driver.used_index(0), 0, "{order:?} at {step:?}");
                assert!(readable(&bench.driver.rings[0].kick, Duration::ZERO));
            }
            (true, _) => {}
        }
    }
    assert_eq!(bench.driver.used_index(0), 1, "{order:?}");
    bench.demand_runs(0);
}

fn every_order() {
    use Step::{Addr, Base, Call, Enable, Kick, Num};
    let mut bench = undeclared();
    let orders = orders(&[Num, Base, Addr, Call, Kick, Enable]);
    assert_eq!(orders.len(), 720);
    for order in orders {
        bench.driver.rings[0] = bench.driver.new_ring(0, 128);
        set_up(&mut bench, &order);
        bench.driver.client.tell(RESET_DEVICE, &[], &[]);
    }
}

fn features_anywhere() {
    use Step::{Addr, Call, Enable, Features, Kick};
    let orders = orders(&[Features, Addr, Call, Kick, Enable]);
    let place = |order: &[Step], step| order.iter().position(|taken| *taken == step);
    let legal = orders
        .iter()
        .filter(|order| place(order, Features) < place(order, Enable));
    for order in legal {
        let mut bench = bench::without_features();
        let ring = bench.driver.new_ring(0, 128);
        bench.driver.rings.push(ring);
        tell_size(&mut bench);
        set_up(&mut bench, order);
    }
}

/// A ring and what is to be expected of it.
struct Model {
    bench: Bench,
    told: bool,
    started: bool,
    enabled: bool,
    waiting: VecDeque<u16>,
    next_slot: u16,
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Kick,
    NoKick,
    Enable,
    Disable,
    GetBase,
    Addresses,
    Reset,
}

const EVENTS: [Event; 7] = [
    Event::Kick,
    Event::NoKick,
    Event::Enable,
    Event::Disable,
    Event::GetBase,
    Event::Addresses,
    Event::Reset,
];

impl Model {
    fn new() -> Self {
        let mut bench = undeclared();
        tell_call(&mut bench);
        Self {
            bench,
            told: false,
            started: false,
            enabled: false,
            waiting: VecDeque::new(),
            next_slot: 0,
        }
    }

    fn happen(&mut self, event: Event) {
        let bench = &mut self.bench;
        match event {
            Event::Kick => {
                bench.driver.rings[0].kick = eventfd();
                tell_kick(bench);
                self.started = true;
            }
            Event::NoKick => {
                bench.driver.client.tell_ring_file(SET_VRING_KICK, 0, None);
                self.started = false;
            }
            Event::Enable | Event::Disable => {
                self.enabled = matches!(event, Event::Enable);
                enable(bench, self.enabled);
            }
            Event::GetBase => {
                let position = bench.driver.stop_ring(0);
                assert_eq!(position, bench.driver.used_index(0));
                self.started = false;
            }
            Event::Addresses => {
                tell_size(bench);
                bench.driver.tell_addresses(0);
                self.told = true;
            }
            Event::Reset => {
                bench.driver.client.tell(RESET_DEVICE, &[], &[]);
                let call = bench.driver.rings[0].call.try_clone().unwrap();
                bench.driver.rings[0] = bench.driver.new_ring(0, 128);
                bench.driver.rings[0].call = call;
                self.waiting.clear();
                (self.told, self.started, self.enabled) = (false, false, false);
            }
        }
    }

    /// Offers one more read. A ring that runs answers it and all that wait; one that does not, does nothing.
    fn compare(&mut self) {
        let slot = self.next_slot;
        self.next_slot = (slot + 1) % 40;
        self.bench.offer_read(0, slot, 500 + u64::from(slot));
        self.waiting.push_back(slot);
        if self.told && self.started && self.enabled {
            self.bench.driver.kick(0);
            while let Some(slot) = self.waiting.pop_front() {
                self.bench.expect_read(0, slot, 500 + u64::from(slot));
            }
        } else {
            let quiet = Duration::from_micros(200);
            self.bench.demand_silence_for(0, quiet);
        }
    }
}

fn transitions() {
    let mut model = Model::new();
    for state in 0..8 {
        for first in EVENTS {
            for second in EVENTS {
                model.happen(Event::Reset);
                let set = [Event::Addresses, Event::Kick, Event::Enable];
                for (bit, event) in set.into_iter().enumerate() {
                    if state >> bit & 1 == 1 {
                        model.happen(event);
                    }
                }
                model.compare();
                model.happen(first);
                model.compare();
                model.happen(second);
                model.compare();
            }
        }
    }
}

fn disable_enable() {
    let mut bench = start(1);
    for slot in 0..20 {
        bench.demand_runs(0);
        enable(&mut bench, false);
        bench.offer_read(0, slot, 1000);
        bench.demand_silence(0);
        enable(&mut bench, true);
        bench.expect_read(0, slot, 1000);
    }
}

fn base_keeps_enabled() {
    let mut bench = start(1);
    bench.demand_runs(0);
    bench.stop(0);
    bench.offer_read(0, 1, 7);
    bench.demand_silence(0);
    tell_kick(&mut bench);
    bench.expect_read(0, 1, 7);
}

fn enable_is_no_kick() {
    let mut bench = start(1);
    bench.demand_runs(0);
    bench.stop(0);
    bench.offer_read(0, 1, 7);
    for on in [true, false, true] {
        enable(&mut bench, on);
        bench.demand_silence(0);
    }
    tell_kick(&mut bench);
    bench.expect_read(0, 1, 7);
}

fn no_protocol_features() {
    let mut bench = bench::negotiate(VERSION_1, 0);
    for index in 0..3 {
        bench.driver.add_ring(index, 128);
        bench.check_read(index as usize);
    }
}

fn features_keep_enabled() {
    let mut bench = start(2);
    bench.driver.client.tell_ring(SET_VRING_ENABLE, 1, 0);
    for features in [VERSION_1 | PROTOCOL_FEATURES, bench.driver.features] {
        bench.driver.client.tell_u64(SET_FEATURES, features);
        bench.demand_runs(0);
        bench.offer_read(1, 0, 1);
        bench.demand_silence(1);
    }
    // Without protocol features there is no message that enables a ring, so this one does.
    bench.driver.client.tell_u64(SET_FEATURES, VERSION_1);
    bench.expect_read(1, 0, 1);
}

fn one_by_one() {
    let mut bench = start(3);
    for index in 0..3 {
        bench.driver.client.tell_ring(SET_VRING_ENABLE, index, 0);
    }
    bench.driver.client.tell_ring(SET_VRING_ENABLE, 1, 1);
    bench.demand_runs(1);
    for at in [0, 2] {
        bench.offer_read(at, 0, 500);
        bench.demand_silence(at);
    }
}

fn early_kick() {
    let mut bench = undeclared();
    bench.offer_read(0, 0, 500);
    bench.driver.kick(0);
    tell_size(&mut bench);
    bench.driver.tell_addresses(0);
    tell_kick(&mut bench);
    enable(&mut bench, true);
    bench.expect_read(0, 0, 500);
}

fn new_kick() {
    let mut bench = start(1);
    bench.demand_runs(0);
    let old = std::mem::replace(&mut bench.driver.rings[0].kick, eventfd());
    tell_kick(&mut bench);
    bench.demand_runs(0);
    let _kicks_so_far = count(&old);
    // The old one means nothing any more.
    rustix::io::write(&old, &1_u64.to_le_bytes()).unwrap();
    bench.demand_runs(0);
    assert_eq!(count(&old), 1);
}

fn new_call() {
    let mut bench = start(1);
    bench.wait_for_start(0);
    let old = std::mem::replace(&mut bench.driver.rings[0].call, eventfd());
    tell_call(&mut bench);
    bench.wait_for_start(0);
    bench.driver.want_interrupt(0);
    bench.check_read(0);
    assert!(readable(&bench.driver.rings[0].call, PATIENCE));
    bench.stop(0);
    assert_eq!(count(&old), 0);
}

fn no_call() {
    let mut bench = start(1);
    bench.driver.client.tell_ring_file(SET_VRING_CALL, 0, None);
    for _ in 0..10 {
        bench.driver.want_interrupt(0);
        bench.check_read(0);
    }
}

fn no_kick() {
    let mut bench = start(1);
    bench.driver.client.tell_ring_file(SET_VRING_KICK, 0, None);
    bench.offer_read(0, 0, 500);
    bench.demand_silence(0);
    tell_kick(&mut bench);
    bench.expect_read(0, 0, 500);
}

fn moved() {
    let mut bench = start(1);
    bench.check_read(0);
    // A quiet ring is copied elsewhere, and the new place is stated.
    let from = bench.driver.rings[0].base;
    let to = RINGS + 0x1_0000;
    let ring = bench.driver.bytes(from, 0x8000);
    let memory = &bench.driver.guest.memory;
    vm_memory::Bytes::write_slice(memory, &ring, vm_memory::GuestAddress(to)).unwrap();
    bench.driver.rings[0].base = to;
    bench.driver.tell_addresses(0);
    let before = bench.driver.bytes(from, 0x8000);
    bench.check_read(0);
    assert!(bench.driver.bytes(from, 0x8000) == before, "the old place");
}

fn resized() {
    let mut bench = start(1);
    for size in [64, 256, 1024, 16] {
        // At an index that is 0 in rings of all sizes, so entries lie where they lay.
        let position = bench.driver.rings[0].next_avail;
        assert_eq!(position % 16, 0);
        bench.driver.rings[0].size = size;
        tell_size(&mut bench);
        for _ in 0..16 {
            bench.check_read(0);
        }
    }
}

fn replaced_descriptors() {
    let mut bench = start(1);
    for request in [SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR] {
        let (out, into) = pipe();
        let client = &mut bench.driver.client;
        client.tell_ring_file(request, 0, Some(&into));
        drop(into);
        assert!(!readable(&out, Duration::ZERO) || request != SET_VRING_ERR);
        client.tell_ring_file(request, 0, Some(&eventfd()));
        drain(&out);
        assert!(bench::is_abandoned(&out), "message {request}");
    }
}

/// Takes what has been written to a call or error descriptor.
fn drain(out: &File) {
    while rustix::io::ioctl_fionread(out).unwrap() > 0 {
        rustix::io::read(out, &mut [0; 64]).unwrap();
    }
}

fn interrupt_at_start() {
    let mut bench = start(1);
    bench.wait_for_start(0);
    for _ in 0..20 {
        enable(&mut bench, false);
        assert_eq!(bench.take_interrupts(0), 0, "once and not again");
        enable(&mut bench, true);
        bench.wait_for_start(0);
    }
}
