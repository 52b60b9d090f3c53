//! C-02: GET_VRING_BASE finishes what was taken, says where the ring stands, and is followed by silence.
//! C-03: a device whose rings are all stopped writes nothing and says nothing, but answers every question.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use blob::test_util::Stall;
use vhost_backend::device::Device;

use crate::bench::{self, Bench, PATIENCE, is_abandoned, pipe, stalling, start, wait_until};
use crate::registry::line;
use crate::support::client::{
    GET_FEATURES, GET_MAX_MEM_SLOTS, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_VRING_BASE,
    SET_FEATURES, SET_VRING_BASE, SET_VRING_ENABLE, SET_VRING_KICK, pair,
};
use crate::support::driver::{IOERR, PROTOCOL_FEATURES, VERSION_1, WRITE, readable};
use crate::support::guest::BUFFERS;

line! {
    C02 = "C-02", c02_get_vring_base:
    "C-02.01" "the answer is the next entry not taken" => position,
    "C-02.02" "a ring that never ran stands where it was put" => never_ran,
    "C-02.03" "what was taken has been given back" => drains,
    "C-02.04" "a stop in a full ring loses and doubles nothing" => full_ring,
    "C-02.05" "nothing is written afterwards" => nothing_written,
    "C-02.06" "nobody is told anything afterwards" => nothing_signalled,
    "C-02.07" "the kick descriptor is closed" => kick_closed,
    "C-02.08" "asked twice, it answers the same" => twice,
    "C-02.09" "a disabled ring answers too" => disabled,
    "C-02.10" "a broken ring answers too" => broken,
    "C-02.11" "a ring that does not exist ends the session" => no_such_ring,
    "C-02.12" "other rings go on" => others_go_on,
    "C-02.13" "positions wrap at 65,536" => wraps,
    "C-02.14" "a hung read delays the answer by less than 1 s" => hung,
    "C-02.15" "eight hung rings stop together in 1 s" => all_hung,
    "C-02.16" "a late read touches nothing, ever" => late_read,
}

line! {
    C03 = "C-03", c03_suspended_device:
    "C-03.01" "no byte of guest memory changes" => suspended_memory,
    "C-03.02" "no descriptor is signalled" => suspended_signals,
    "C-03.03" "every question is answered" => suspended_questions,
    "C-03.04" "memory may be replaced without a touch" => suspended_table,
    "C-03.05" "features may change without a touch" => suspended_features,
    "C-03.06" "disabled rings are as silent as stopped ones" => suspended_disabled,
    "C-03.07" "what was offered meanwhile is served at the end" => suspended_resume,
}

fn position() {
    let mut bench = start(1);
    for expected in 0..40 {
        assert_eq!(bench.stop(0), expected);
        bench.start_at(0, expected);
        bench.demand_runs(0);
    }
}

fn never_ran() {
    let mut bench = start(0);
    assert_eq!(bench.driver.client.vring_base(7), 0);
    for stated in [1, 300, 65_535] {
        let client = &mut bench.driver.client;
        client.tell_ring(SET_VRING_BASE, 7, u32::from(stated));
        assert_eq!(client.vring_base(7), stated);
    }
}

/// A read of a megabyte, so that a stop finds it under way.
fn offer_large(bench: &mut Bench) {
    let header = BUFFERS + 0x800;
    bench.driver.header(header, 0, 0);
    let pieces = [
        (header, 16, 0),
        (BUFFERS + 0x20_0000, 0x10_0000, WRITE),
        (header + 0x20, 1, WRITE),
    ];
    bench.driver.chain(0, 0, &pieces);
    bench.driver.offer(0, 0);
}

fn drains() {
    let mut bench = start(1);
    for _ in 0..100 {
        offer_large(&mut bench);
        bench.driver.kick(0);
        let position = bench.stop(0);
        assert_eq!(bench.driver.used_index(0), position);
        bench.start_at(0, position);
        // Whichever of the two came first, it is answered once.
        assert_eq!(bench.driver.wait(0).used_len, 0x10_0001);
        let data = bench.driver.bytes(BUFFERS + 0x20_0000, 0x10_0000);
        assert!(data == bench.sectors(0, 0x10_0000));
    }
}

fn full_ring() {
    let mut bench = start(1);
    for round in 0..60_u64 {
        let mut expected = BTreeMap::new();
        for slot in 0..40 {
            let sector = 500 + round + 3 * u64::from(slot);
            bench.offer_read(0, slot, sector);
            expected.insert(u32::from(3 * slot), (slot, sector));
        }
        bench.driver.kick(0);
        // At a moment that depends on how far it came.
        for _ in 0..round % 20 {
            let done = bench.driver.wait(0);
            let (slot, sector) = expected.remove(&done.head).expect("once");
            bench.check_area(0, slot, sector);
        }
        let position = bench.stop(0);
        assert_eq!(position, bench.driver.used_index(0));
        bench.start_at(0, position);
        while !expected.is_empty() {
            let done = bench.driver.wait(0);
            let (slot, sector) = expected.remove(&done.head).expect("once");
            bench.check_area(0, slot, sector);
        }
    }
}

/// Two rings that have worked, stopped, with requests offered that nobody may take.
fn suspended() -> Bench {
    let mut bench = start(2);
    for at in 0..2 {
        bench.demand_runs(at);
        bench.stop(at);
    }
    for at in 0..2 {
        bench.offer_read(at, 1, 7);
    }
    bench
}

fn nothing_written() {
    let mut bench = start(1);
    for round in 0..20 {
        (0..30).for_each(|slot| bench.offer_read(0, slot, 500 + round));
        bench.driver.kick(0);
        let position = bench.stop(0);
        let after = bench.driver.snapshot();
        bench.demand_silence(0);
        assert!(bench.driver.snapshot() == after, "round {round}");
        bench.start_at(0, position);
        (0..30).for_each(|slot| bench.expect_read(0, slot, 500 + round));
    }
}

fn nothing_signalled() {
    let mut bench = start(1);
    for _ in 0..20 {
        bench.driver.want_interrupt(0);
        bench.demand_runs(0);
        let position = bench.stop(0);
        bench.offer_read(0, 1, 7);
        bench.demand_silence(0);
        assert!(!readable(&bench.driver.rings[0].error, Duration::ZERO));
        bench.start_at(0, position);
        bench.expect_read(0, 1, 7);
    }
}

fn kick_closed() {
    let mut bench = start(1);
    let (out, into) = pipe();
    let client = &mut bench.driver.client;
    // A pipe's writing end cannot wake anybody, but it shows who still holds it.
    client.tell_ring(SET_VRING_ENABLE, 0, 0);
    client.tell_ring_file(SET_VRING_KICK, 0, Some(&into));
    drop(into);
    assert!(!readable(&out, Duration::ZERO));
    client.vring_base(0);
    assert!(is_abandoned(&out));
}

fn twice() {
    let mut bench = start(1);
    bench.demand_runs(0);
    for _ in 0..3 {
        assert_eq!(bench.driver.stop_ring(0), 1);
    }
}

fn disabled() {
    let mut bench = start(1);
    bench.demand_runs(0);
    bench.driver.client.tell_ring(SET_VRING_ENABLE, 0, 0);
    bench.offer_read(0, 1, 7);
    assert_eq!(bench.stop(0), 1);
    bench.start_at(0, 1);
    bench.expect_read(0, 1, 7);
}

fn broken() {
    let mut bench = start(2);
    bench.demand_runs(0);
    bench.driver.set_avail_index(0, 500);
    bench.driver.kick(0);
    assert!(readable(&bench.driver.rings[0].error, PATIENCE));
    assert_eq!(bench.stop(0), 1);
    bench.driver.set_avail_index(0, 1);
    bench.start_at(0, 1);
    bench.demand_runs(0);
    bench.check_read(1);
}

fn no_such_ring() {
    for index in [256, 65_536, u32::MAX] {
        let mut bench = start(1);
        let client = &mut bench.driver.client;
        assert_eq!(client.ask(GET_VRING_BASE, &pair(index, 0)), None);
        bench.demand_refused();
    }
}

fn others_go_on() {
    let mut bench = start(2);
    for _ in 0..50 {
        bench.offer_read(1, 2, 600);
        bench.driver.kick(1);
        let position = bench.stop(0);
        bench.expect_read(1, 2, 600);
        bench.check_read(1);
        bench.start_at(0, position);
        bench.demand_runs(0);
    }
}

fn wraps() {
    let mut bench = start(0);
    let ring = bench.driver.new_ring(0, 128);
    bench.driver.rings.push(ring);
    bench::put_indices(&mut bench, 0, 65_530);
    bench.driver.start_ring(0);
    for round in 0..12_u16 {
        assert_eq!(bench.stop(0), 65_530_u16.wrapping_add(round));
        bench.start_at(0, 65_530_u16.wrapping_add(round));
        bench.demand_runs(0);
    }
}

/// What is promised with a disk that hangs.
const BOUND: Duration = Duration::from_secs(1);
/// Machines that test have other things to do.
const SLACK: u32 = 2;

/// Rings that each wait for the disk.
fn hanging(rings: usize) -> (Bench, Arc<Device>, Arc<Stall>) {
    let (device, stall) = stalling();
    let mut bench = bench::start_on(&device, u32::try_from(rings).unwrap());
    stall.close();
    for at in 0..rings {
        bench.offer_read(at, 0, 50);
        bench.driver.kick(at);
    }
    wait_until("all rings to hang", || stall.waiting() == rings);
    (bench, device, stall)
}

fn hung() {
    let (mut bench, _device, stall) = hanging(1);
    let begun = Instant::now();
    assert_eq!(bench.stop(0), 0, "it was not served");
    assert!(begun.elapsed() < SLACK * BOUND, "{:?}", begun.elapsed());
    stall.open();
    bench.start_at(0, 0);
    bench.expect_read(0, 0, 50);
}

fn all_hung() {
    let (mut bench, _device, stall) = hanging(8);
    let begun = Instant::now();
    bench.driver.hand_over_table(0);
    assert!(begun.elapsed() < SLACK * BOUND, "{:?}", begun.elapsed());
    stall.open();
    (0..8).for_each(|at| bench.expect_read(at, 0, 50));
}

fn late_read() {
    let (mut bench, device, stall) = hanging(2);
    for at in 0..2 {
        assert_eq!(bench.stop(at), 0);
        bench.take_interrupts(at);
    }
    let stopped = bench.driver.snapshot();
    stall.open();
    wait_until("the late reads to come back", || {
        device.stuck_reads().count() == 0
    });
    assert!(bench.driver.snapshot() == stopped);
    assert!((0..2).all(|at| bench.take_interrupts(at) == 0));
}

fn suspended_memory() {
    let mut bench = suspended();
    let before = bench.driver.snapshot();
    (0..2).for_each(|at| bench.demand_silence(at));
    assert!(bench.driver.snapshot() == before);
}

fn suspended_signals() {
    let mut bench = suspended();
    for _ in 0..10 {
        (0..2).for_each(|at| bench.demand_silence(at));
        let rings = &bench.driver.rings;
        assert!(
            rings
                .iter()
                .all(|ring| !readable(&ring.error, Duration::ZERO))
        );
    }
}

fn suspended_questions() {
    let mut bench = suspended();
    let before = bench.driver.snapshot();
    let client = &mut bench.driver.client;
    assert_ne!(client.ask_u64(GET_FEATURES), 0);
    assert_ne!(client.ask_u64(GET_PROTOCOL_FEATURES), 0);
    assert_eq!(client.ask_u64(GET_QUEUE_NUM), 256);
    assert_eq!(client.ask_u64(GET_MAX_MEM_SLOTS), 256);
    assert_eq!(client.config(0, 60, 0).unwrap().len(), 60);
    assert_eq!((client.vring_base(0), client.vring_base(1)), (1, 1));
    assert!(bench.driver.snapshot() == before);
}

fn suspended_table() {
    let mut bench = suspended();
    let before = bench.driver.snapshot();
    for by_region in [false, true] {
        if by_region {
            for piece in 0..bench.driver.guest.pieces.len() {
                bench::remove_piece(&mut bench.driver, piece);
            }
        }
        bench.driver.hand_over_memory(by_region);
        (0..2).for_each(|at| bench.demand_silence(at));
    }
    assert!(bench.driver.snapshot() == before);
}

fn suspended_features() {
    let mut bench = suspended();
    let before = bench.driver.snapshot();
    for features in [VERSION_1 | PROTOCOL_FEATURES, bench.driver.features] {
        bench.driver.client.tell_u64(SET_FEATURES, features);
        (0..2).for_each(|at| bench.demand_silence(at));
    }
    assert!(bench.driver.snapshot() == before);
}

fn suspended_disabled() {
    let mut bench = start(2);
    for at in 0..2 {
        bench.demand_runs(at);
        let index = u32::try_from(at).unwrap();
        bench.driver.client.tell_ring(SET_VRING_ENABLE, index, 0);
        bench.offer_read(at, 1, 7);
    }
    let before = bench.driver.snapshot();
    (0..2).for_each(|at| bench.demand_silence(at));
    assert!(bench.driver.snapshot() == before);
}

fn suspended_resume() {
    let mut bench = suspended();
    for at in 0..2 {
        // Asked for what does not exist, too.
        let (header, status) = (BUFFERS + 0x800, BUFFERS + 0x820);
        bench.driver.header(header, 1, 0);
        bench
            .driver
            .chain(at, 100, &[(header, 16, 0), (status, 1, WRITE)]);
        bench.driver.offer(at, 100);
        bench.start_at(at, 1);
        bench.expect_read(at, 1, 7);
        assert_eq!(bench.driver.wait(at).head, 100);
        assert_eq!(bench.driver.bytes(status, 1), [IOERR]);
    }
}
