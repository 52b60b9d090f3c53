//! C-09: the map of requests in flight has the layout of the specification, says at every moment what is under way,
//! and lets a successor answer exactly what its predecessor did not, in the order it was taken.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Instant;

use vhost_backend::device::Device;

use crate::bench::{
    Bench, PATIENCE, USED, memfd, negotiate_on, put_indices, shared, stalling, start, wait_until,
};
use crate::inflight_map::{
    DESCRIPTORS, ENTRIES, LAST_BATCH_HEAD, NEXT, USED_INDEX, VERSION, entry, part,
};
use crate::program::Place;
use crate::registry::line;
use crate::support::client::{GET_INFLIGHT_FD, RESET_DEVICE, SET_INFLIGHT_FD};
use crate::support::driver::{Driver, Resume, eventfd, readable};

line! {
    C09 = "C-09", c09_inflight:
    "C-09.01" "GET_INFLIGHT_FD gives a map for what was asked" => get,
    "C-09.02" "a fresh map is empty, a started ring fills its head" => fresh,
    "C-09.03" "each queue has a part of its own" => parts,
    "C-09.04" "a request under way is marked" => under_way,
    "C-09.05" "an answered request is not, and the index follows" => answered,
    "C-09.06" "a mark goes only after the used index has moved" => order_of_clearing,
    "C-09.07" "counters say in which order requests were taken" => counters,
    "C-09.08" "what was in flight is served first, by counter" => resubmitted,
    "C-09.09" "whichever position is stated" => positions,
    "C-09.10" "what was given back in the last moment is not repeated" => last_batch,
    "C-09.11" "a batch of several is settled whole" => longer_batch,
    "C-09.12" "an index that wraps" => wrapping,
    "C-09.13" "a whole ring in flight" => whole_ring,
    "C-09.14" "a request that is no chain comes back" => no_chain,
    "C-09.15" "several queues at once" => several_queues,
    "C-09.16" "a map of another backend for just this ring size" => foreign_map,
    "C-09.17" "a map too small for a ring is not used" => no_room,
    "C-09.18" "a reset forgets the map" => reset,
    "C-09.19" "without an entry, the used index decides" => empty_map,
    "C-09.20" "a request put back is no longer in flight" => put_back,
    "C-09.21" "one left over stays in flight until it is served" => left_over_stays,
    "C-09.22" "a stop and a start keep the map right" => restart,
    "C-09.23" "maps that cannot be are refused" => impossible,
    "C-09.24" "maps that cannot be made end the session" => cannot_be_made,
    "C-09.25" "a batch list that lies harms nobody" => lying_list,
    "C-09.26" "entries that lie break at most their own ring" => lying_entries,
    "C-09.27" "a thousand maps leave nothing" => descriptors,
    "C-09.28" "whoever dies at any point leaves a map that says where" => map_at_every_point,
}

/// A session with a map for `queues` queues, and as many rings running.
fn mapped(queues: u16) -> (Bench, (File, u64)) {
    mapped_on(&shared().0, queues)
}

fn mapped_on(device: &Arc<Device>, queues: u16) -> (Bench, (File, u64)) {
    let mut bench = negotiate_on(device, u64::MAX, u64::MAX);
    let map = bench.driver.client.get_inflight(queues, 128);
    for index in 0..u32::from(queues) {
        bench.driver.add_ring(index, 128);
    }
    (bench, map)
}

/// A guest whose backend has died: `offered` reads, slot n from sector 500 + n, of which the ring says that `used`
/// have been answered. Not connected to anybody who knows.
fn orphaned(offered: u16, used: u16) -> (Bench, (File, u64)) {
    let mut bench = start(0);
    let map = bench.driver.client.get_inflight(1, 128);
    let ring = bench.driver.new_ring(0, 128);
    bench.driver.rings.push(ring);
    for slot in 0..offered {
        bench.offer_read(0, slot, 500 + u64::from(slot));
    }
    set_used(&mut bench, used);
    part(&map, 0, 1).begin(128, used);
    bench.driver.inflight = Some((map.0.try_clone().unwrap(), map.1));
    (bench, map)
}

fn set_used(bench: &mut Bench, used: u16) {
    let ring = bench.driver.rings[0].base + USED;
    bench.put_u16(ring + 2, used);
    bench.driver.rings[0].next_used = used;
}

/// The guest goes on with a new backend, which must answer these slots in this order and then nothing.
fn succeed(bench: &mut Bench, resume: Resume, slots: &[u16]) {
    bench.reconnect(resume);
    for slot in slots {
        bench.expect_read(0, *slot, 500 + u64::from(*slot));
    }
    bench.driver.stop_ring(0);
    let ring = &bench.driver.rings[0];
    assert_eq!(
        bench.driver.used_index(0),
        ring.next_used,
        "no more than that"
    );
}

fn get() {
    for (queues, size) in [(1, 1), (1, 128), (2, 256), (64, 1024), (256, 1024)] {
        let mut bench = start(0);
        let (file, len) = bench.driver.client.get_inflight(queues, size);
        assert!(file.metadata().unwrap().len() >= len);
        let needed = u64::from(queues) * (ENTRIES + 16 * u64::from(size));
        assert!(len >= needed, "{len} bytes for {queues} queues of {size}");
        assert_eq!(len / u64::from(queues) % 64, 0, "parts are aligned");
    }
}

fn fresh() {
    let mut bench = start(0);
    let map = bench.driver.client.get_inflight(1, 128);
    let mut bytes = vec![0xEE; usize::try_from(map.1).unwrap()];
    map.0.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes.iter().all(|byte| *byte == 0));
    bench.driver.add_ring(0, 128);
    bench.wait_for_start(0);
    let part = part(&map, 0, 1);
    assert_eq!(part.read::<8>(0), [0; 8], "features");
    assert_eq!((part.u16(VERSION), part.u16(DESCRIPTORS)), (1, 128));
    assert_eq!(part.in_flight(), [0; 0]);
}

fn parts() {
    let (mut bench, map) = mapped(5);
    for at in 0..5_u64 {
        (0..=at).for_each(|_| bench.demand_runs(usize::try_from(at).unwrap()));
    }
    (0..5).for_each(|at| {
        bench.stop(at);
    });
    for at in 0..5 {
        let used = part(&map, at, 5).u16(USED_INDEX);
        assert_eq!(u64::from(used), at + 1);
    }
}

fn under_way() {
    let (device, stall) = stalling();
    let (mut bench, map) = mapped_on(&device, 1);
    for slot in [4, 9, 0] {
        stall.close();
        bench.offer_read(0, slot, 50);
        bench.driver.kick(0);
        wait_until("a read that hangs", || stall.waiting() == 1);
        assert_eq!(part(&map, 0, 1).in_flight(), [3 * slot]);
        stall.open();
        bench.expect_read(0, slot, 50);
    }
}

fn answered() {
    let (mut bench, map) = mapped(1);
    for slot in 0..30 {
        bench.offer_read(0, slot, 500);
        bench.driver.kick(0);
        bench.expect_read(0, slot, 500);
        let position = bench.stop(0);
        let part = part(&map, 0, 1);
        assert_eq!(part.in_flight(), [0; 0]);
        assert_eq!(part.u16(USED_INDEX), slot + 1);
        assert_eq!(part.u16(LAST_BATCH_HEAD), 3 * slot);
        bench.start_at(0, position);
    }
}

fn order_of_clearing() {
    let (device, stall) = stalling();
    let (mut bench, map) = mapped_on(&device, 1);
    let part = part(&map, 0, 1);
    for _ in 0..300 {
        stall.close();
        let used = bench.driver.used_index(0);
        bench.offer_read(0, 0, 50);
        bench.driver.kick(0);
        wait_until("a read that hangs", || stall.waiting() == 1);
        let deadline = Instant::now() + PATIENCE;
        stall.open();
        while part.is_in_flight(0) {
            assert!(Instant::now() < deadline, "an answer");
        }
        assert_ne!(bench.driver.used_index(0), used, "cleared too early");
        bench.expect_read(0, 0, 50);
    }
}

fn counters() {
    let (mut bench, map) = mapped(1);
    let slots = [7, 3, 30, 0, 12];
    slots
        .iter()
        .for_each(|slot| bench.offer_read(0, *slot, 500));
    bench.driver.kick(0);
    slots
        .iter()
        .for_each(|slot| bench.expect_read(0, *slot, 500));
    let part = part(&map, 0, 1);
    let counters = slots.map(|slot| part.counter(3 * slot));
    assert!(
        counters.is_sorted() && counters[0] < counters[4],
        "{counters:?}"
    );
}

/// Five of seven requests were taken and slot 1 was answered.
fn five_of_seven() -> (Bench, (File, u64)) {
    let (bench, map) = orphaned(7, 1);
    let part = part(&map, 0, 1);
    for (slot, counter) in [(0, 5), (2, 9), (3, 7), (4, 2)] {
        part.take(3 * slot, counter);
    }
    (bench, map)
}

fn resubmitted() {
    let (mut bench, map) = five_of_seven();
    succeed(&mut bench, Resume::AtUsedIndex, &[4, 0, 3, 2, 5, 6]);
    let part = part(&map, 0, 1);
    assert_eq!(part.in_flight(), [0; 0]);
    assert_eq!(part.u16(USED_INDEX), 7);
}

fn positions() {
    for resume in [Resume::AtUsedIndex, Resume::AtAvailableIndex] {
        let (mut bench, _map) = five_of_seven();
        succeed(&mut bench, resume, &[4, 0, 3, 2, 5, 6]);
    }
    // Between the two, and all of it in flight.
    let (mut bench, map) = orphaned(3, 0);
    let part = part(&map, 0, 1);
    for slot in 0..3 {
        part.take(3 * slot, u64::from(slot));
    }
    succeed(&mut bench, Resume::AtAvailableIndex, &[0, 1, 2]);
}

fn last_batch() {
    let (mut bench, map) = orphaned(4, 1);
    let part = part(&map, 0, 1);
    // Slot 0 was given back, and whoever did it died before it could say so here.
    part.put_u16(USED_INDEX, 0);
    part.put_u16(LAST_BATCH_HEAD, 0);
    part.take(0, 0);
    part.take(3, 1);
    succeed(&mut bench, Resume::AtUsedIndex, &[1, 2, 3]);
    assert_eq!(part.in_flight(), [0; 0]);
}

fn longer_batch() {
    let (mut bench, map) = orphaned(6, 3);
    let part = part(&map, 0, 1);
    part.put_u16(USED_INDEX, 0);
    for slot in 0..5 {
        part.take(3 * slot, u64::from(slot));
    }
    // The batch goes from the last one given back to the first: slots 4, 0, 2.
    part.put_u16(LAST_BATCH_HEAD, 12);
    part.put_u16(entry(12) + NEXT, 0);
    part.put_u16(entry(0) + NEXT, 6);
    succeed(&mut bench, Resume::AtUsedIndex, &[1, 3, 5]);
}

fn wrapping() {
    let mut bench = start(0);
    let map = bench.driver.client.get_inflight(1, 128);
    let ring = bench.driver.new_ring(0, 128);
    bench.driver.rings.push(ring);
    put_indices(&mut bench, 0, 65_534);
    (0..5).for_each(|slot| bench.offer_read(0, slot, 500 + u64::from(slot)));
    // Two were given back, over the end of the numbers; the map has heard of one.
    set_used(&mut bench, 0);
    let part = part(&map, 0, 1);
    part.begin(128, 65_535);
    part.put_u16(LAST_BATCH_HEAD, 3);
    part.take(3, 1);
    part.take(9, 3);
    part.take(6, 2);
    bench.driver.inflight = Some((map.0.try_clone().unwrap(), map.1));
    succeed(&mut bench, Resume::AtUsedIndex, &[2, 3, 4]);
}

fn whole_ring() {
    let (mut bench, map) = orphaned(40, 0);
    let part = part(&map, 0, 1);
    for slot in 0..40 {
        part.take(3 * slot, 1000 - u64::from(slot));
    }
    let backwards: Vec<u16> = (0..40).rev().collect();
    succeed(&mut bench, Resume::AtUsedIndex, &backwards);
}

fn no_chain() {
    let (mut bench, map) = orphaned(3, 0);
    let part = part(&map, 0, 1);
    part.take(0, 0);
    bench.driver.descriptor(0, 0, (0x10, 16, 1, 0));
    bench.reconnect(Resume::AtUsedIndex);
    let done = bench.driver.wait(0);
    assert_eq!((done.head, done.used_len), (0, 0));
    bench.expect_read(0, 1, 501);
    bench.expect_read(0, 2, 502);
    bench.stop(0);
    assert_eq!(part.in_flight(), [0; 0]);
}

fn several_queues() {
    let mut bench = start(0);
    let map = bench.driver.client.get_inflight(3, 128);
    for at in 0..3 {
        let ring = bench.driver.new_ring(at, 128);
        bench.driver.rings.push(ring);
        let at = at as usize;
        for slot in 0..4 {
            bench.offer_read(at, slot, 500 + u64::from(slot));
        }
        let part = part(&map, at as u64, 3);
        part.begin(128, 0);
        part.take(0, 1);
        part.take(3, if at == 1 { 0 } else { 2 });
    }
    bench.driver.inflight = Some((map.0.try_clone().unwrap(), map.1));
    bench.reconnect(Resume::AtUsedIndex);
    for (at, slots) in [[0, 1, 2, 3], [1, 0, 2, 3], [0, 1, 2, 3]]
        .into_iter()
        .enumerate()
    {
        for slot in slots {
            bench.expect_read(at, slot, 500 + u64::from(slot));
        }
    }
}

/// A map as libvhost-user lays it out: no room beyond the size of the ring.
fn foreign(bench: &mut Bench, queues: u16) -> (File, u64) {
    let len = u64::from(queues) * (ENTRIES + 16 * 128_u64).next_multiple_of(64);
    let map = (memfd(len), len);
    bench.driver.inflight = Some((map.0.try_clone().unwrap(), len));
    map
}

fn foreign_map() {
    let (mut bench, _map) = orphaned(3, 0);
    let map = foreign(&mut bench, 1);
    let part = part(&map, 0, 1);
    part.begin(128, 0);
    part.take(3, 0);
    part.take(0, 1);
    succeed(&mut bench, Resume::AtUsedIndex, &[1, 0, 2]);
    assert_eq!(part.in_flight(), [0; 0]);
}

fn no_room() {
    let mut bench = start(0);
    let (file, len) = foreign(&mut bench, 1);
    bench.driver.client.set_inflight(&file, len, 1, 128);
    for size in [256, 1024] {
        bench.driver.rings.clear();
        bench.driver.add_ring(0, size);
        (0..2 * size).for_each(|_| bench.demand_runs(0));
        bench.driver.stop_ring(0);
        let mut bytes = vec![0xEE; usize::try_from(len).unwrap()];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "not touched");
    }
    // A queue beyond those the map is for.
    bench.driver.add_ring(1, 128);
    bench.check_read(1);
}

fn reset() {
    let (mut bench, map) = mapped(1);
    bench.demand_runs(0);
    bench.driver.client.tell(RESET_DEVICE, &[], &[]);
    // What the map said is not served again, and it is not kept up any more.
    part(&map, 0, 1).take(0, 0);
    bench.driver.rings.clear();
    bench.driver.add_ring(0, 128);
    bench.demand_runs(0);
    bench.demand_runs(0);
    bench.stop(0);
    assert_eq!(part(&map, 0, 1).u16(USED_INDEX), 1);
    assert_eq!(bench.driver.used_index(0), 2);
}

fn empty_map() {
    for resume in [Resume::AtUsedIndex, Resume::AtAvailableIndex] {
        let (mut bench, _map) = orphaned(5, 2);
        succeed(&mut bench, resume, &[2, 3, 4]);
    }
}

fn put_back() {
    let (device, stall) = stalling();
    let (mut bench, map) = mapped_on(&device, 1);
    stall.close();
    bench.offer_read(0, 4, 50);
    bench.driver.kick(0);
    wait_until("a read that hangs", || stall.waiting() == 1);
    assert_eq!(bench.stop(0), 0);
    assert_eq!(part(&map, 0, 1).in_flight(), [0; 0]);
    stall.open();
    bench.start_at(0, 0);
    bench.expect_read(0, 4, 50);
}

fn left_over_stays() {
    let (device, stall) = stalling();
    let (mut bench, map) = orphaned(4, 0);
    let part = part(&map, 0, 1);
    for (slot, counter) in [(0, 1), (1, 0)] {
        part.take(3 * slot, counter);
    }
    stall.close();
    bench.reconnect_to(&device, Resume::AtUsedIndex);
    wait_until("a read that hangs", || stall.waiting() == 1);
    let position = bench.stop(0);
    assert_eq!(part.in_flight(), [0, 3], "neither was served");
    stall.open();
    bench.start_at(0, position);
    for slot in [1, 0, 2, 3] {
        bench.expect_read(0, slot, 500 + u64::from(slot));
    }
    bench.stop(0);
    assert_eq!(part.in_flight(), [0; 0]);
}

fn restart() {
    let (mut bench, map) = mapped(1);
    for round in 0..100_u64 {
        (0..30).for_each(|slot| bench.offer_read(0, slot, 500 + round));
        bench.driver.kick(0);
        let position = bench.stop(0);
        let part = part(&map, 0, 1);
        assert_eq!(part.in_flight(), [0; 0], "drained");
        assert_eq!(part.u16(USED_INDEX), position);
        bench.start_at(0, position);
        (0..30).for_each(|slot| bench.expect_read(0, slot, 500 + round));
    }
}

fn payload(len: u64, offset: u64, queues: u16, size: u16) -> Vec<u8> {
    let mut payload = [len, offset].map(u64::to_le_bytes).concat();
    payload.extend([queues, size, 0, 0].map(u16::to_le_bytes).concat());
    payload
}

fn impossible() {
    let mut bench = start(1);
    let file = memfd(0x1_0000);
    let old = memfd(0x1_0000);
    old.write_all_at(&[2, 0], 8).unwrap();
    for (len, offset, queues, file) in [
        (0x1_0001, 0, 1, &file),
        (0x1_0000, 0x1000, 1, &file),
        (0x1_0000, 0x10, 1, &file),
        (0, 0, 1, &file),
        (63, 0, 1, &file),
        (0x1000, 0, 65, &file),
        (u64::MAX, 0, 1, &file),
        (0x1000, u64::MAX, 1, &file),
        ((16 << 20) + 1, 0, 1, &file),
        (0x1_0000, 0, 1, &old),
        (0x1_0000, 0, 1, &eventfd()),
    ] {
        let message = payload(len, offset, queues, 128);
        let taken = bench.asks(SET_INFLIGHT_FD, &message, &[file]);
        assert!(!taken, "{len:#x} {offset:#x} {queues}");
        bench.check_read(0);
    }
}

fn cannot_be_made() {
    for (queues, size) in [(257, 128), (1, 1025), (65_535, 65_535), (0, 128), (1, 0)] {
        let mut bench = start(1);
        let message = payload(0, 0, queues, size);
        assert_eq!(bench.driver.client.ask(GET_INFLIGHT_FD, &message), None);
        bench.demand_refused();
    }
}

fn lying_list() {
    for (last, next, used) in [
        (1, 1, 5),
        (0xffff, 0, 1),
        (0, 0xffff, 2),
        (0, 0, 0x8000),
        (0, 0, 129),
    ] {
        let (mut bench, map) = orphaned(3, 0);
        let part = part(&map, 0, 1);
        part.put_u16(USED_INDEX, 0_u16.wrapping_sub(used));
        part.put_u16(LAST_BATCH_HEAD, last);
        part.put_u16(entry(last % 128) + NEXT, next);
        succeed(&mut bench, Resume::AtUsedIndex, &[0, 1, 2]);
    }
}

fn lying_entries() {
    let mut bench = start(0);
    let map = bench.driver.client.get_inflight(2, 128);
    for at in 0..2 {
        let ring = bench.driver.new_ring(at, 128);
        bench.driver.rings.push(ring);
        part(&map, u64::from(at), 2).begin(128, 0);
    }
    // Every entry of queue 0, though its driver has offered nothing.
    let part = part(&map, 0, 2);
    for head in 0..128 {
        part.put(entry(head), &[0xff; 16]);
    }
    bench.driver.inflight = Some((map.0.try_clone().unwrap(), map.1));
    bench.reconnect(Resume::AtUsedIndex);
    assert!(readable(&bench.driver.rings[0].error, PATIENCE));
    bench.check_read(1);
    bench.driver.stop_ring(0);
    bench.driver.rings[0] = bench.driver.new_ring(0, 128);
    assert_eq!(part.in_flight(), [0; 0], "all were given back");
    bench.driver.start_ring(0);
    bench.check_read(0);
}

fn descriptors() {
    let place = Place::new();
    let program = place.serve();
    let mut driver = Driver::start(program.connect(), 1);
    let (file, len) = driver.client.get_inflight(1, 128);
    place.check_read(&mut driver, 0);
    let before = program.usage();
    for _ in 0..500 {
        driver.client.get_inflight(1, 128);
        driver.client.set_inflight(&file, len, 1, 128);
    }
    place.check_read(&mut driver, 0);
    program.demand_no_more_than(before);
}

#[cfg(not(feature = "kill-points"))]
fn map_at_every_point() {
    crate::program::skip_without_kill_points("C-09.28");
}

#[cfg(feature = "kill-points")]
fn map_at_every_point() {
    use crate::bench::{DATA, HEADER, STATUS};
    use crate::support::driver::WRITE;
    use vhost_backend::killpoint::Point;
    let head = 3;
    for point in Point::ALL {
        let place = Place::new();
        let mut program = place.serve_dying_at(point, 1);
        let mut driver = Driver::start(program.connect(), 0);
        let map = driver.client.get_inflight(1, 128);
        driver.add_ring(0, 128);
        let pieces = [(HEADER, 16, 0), (DATA, 512, WRITE), (STATUS, 1, WRITE)];
        driver.header(HEADER, 0, 500);
        driver.chain(0, head, &pieces);
        driver.offer(0, head);
        driver.kick(0);
        wait_until("the death", || program.child.try_wait().unwrap().is_some());
        let part = part(&map, 0, 1);
        let taken = !matches!(point, Point::AfterPop | Point::AfterClear);
        let expected = if taken { vec![head] } else { vec![] };
        assert_eq!(part.in_flight(), expected, "{point:?}");
        // The index of the guest says that it was answered; the map says so when it is settled.
        let answered = matches!(point, Point::AfterUsedIndex | Point::AfterClear);
        assert_eq!(driver.used_index(0), u16::from(answered), "{point:?}");
        let settled = point == Point::AfterClear;
        assert_eq!(part.u16(USED_INDEX), u16::from(settled), "{point:?}");
        if answered {
            assert_eq!(part.u16(LAST_BATCH_HEAD), head, "{point:?}");
        }
    }
}
