//! C-16: a ring that cannot be served says so on its error descriptor, hurts nobody else, and can be mended.
//! C-17: what a migration carries is one small identity of the disk, and a destination compares it.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::Duration;

use vhost_backend::device::Device;

use crate::bench::{
    self, Bench, PATIENCE, QUIET, count, memfd, pipe, remove_piece, shared, start, start_on,
};
use crate::registry::line;
use crate::support::client::{
    ADD_MEM_REG, CHECK_DEVICE_STATE, GET_FEATURES, RESET_DEVICE, SET_DEVICE_STATE_FD,
    SET_VRING_BASE, SET_VRING_ERR, SET_VRING_KICK,
};
use crate::support::driver::{eventfd, readable};
use crate::support::guest::{BUFFERS, END, RINGS};
use crate::support::image::{device_of, layers};

line! {
    C16 = "C-16", c16_errors:
    "C-16.01" "an available index too far ahead" => || broken_by(too_far),
    "C-16.02" "an available index that goes back" => || broken_by(behind),
    "C-16.03" "a head that is no descriptor" => || broken_by(no_head),
    "C-16.04" "the largest head there can be" => || broken_by(largest_head),
    "C-16.05" "a ring that ends behind its memory" => ends_outside,
    "C-16.06" "a ring that begins outside memory is refused" => begins_outside,
    "C-16.07" "a ring in the wrong alignment ends the session" => misaligned,
    "C-16.08" "a kick descriptor that cannot be waited for" => unpollable_kick,
    "C-16.09" "it is said once, and then the ring is silent" => said_once,
    "C-16.10" "other rings hear and feel nothing" => others_untouched,
    "C-16.11" "without an error descriptor nobody is told" => nobody_to_tell,
    "C-16.12" "an error descriptor may be a pipe, full or closed" => strange_notifiers,
    "C-16.13" "a position mends it" => mended_by_position,
    "C-16.14" "a kick descriptor mends it" => mended_by_kick,
    "C-16.15" "memory that comes back mends it" => mended_by_memory,
    "C-16.16" "a reset mends it" => mended_by_reset,
    "C-16.17" "a healthy ring never says so" => healthy,
    "C-16.18" "bad chains are answers, not errors" => bad_chains,
}

line! {
    C17 = "C-17", c17_device_state:
    "C-17.01" "what is saved is loaded by the same disk" => same_disk,
    "C-17.02" "the same layers elsewhere are the same disk" => same_layers,
    "C-17.03" "another disk refuses it" => other_disk,
    "C-17.04" "a damaged state is refused" => damaged_state,
    "C-17.05" "no state at all is believed" => no_state,
    "C-17.06" "nothing is transferred while a ring runs" => while_running,
    "C-17.07" "without a transfer there is no result" => no_transfer,
    "C-17.08" "a result is given once" => result_once,
    "C-17.09" "a transfer that fails leaves the session as it was" => failed_transfer,
    "C-17.10" "a transfer begun anew replaces the old" => begun_anew,
    "C-17.11" "an endless state is not read for ever" => endless_state,
    "C-17.12" "directions and phases that are none end the session" => no_direction,
}

type Damage = fn(&mut Bench);

fn too_far(bench: &mut Bench) {
    bench.driver.set_avail_index(0, 129);
}

fn behind(bench: &mut Bench) {
    bench.demand_runs(0);
    bench.driver.set_avail_index(0, 0);
}

fn no_head(bench: &mut Bench) {
    bench.driver.offer(0, 128);
}

fn largest_head(bench: &mut Bench) {
    bench.driver.offer(0, u16::MAX);
}

/// Two rings, of which the first is broken like this and has said so.
fn broken(damage: Damage) -> Bench {
    let mut bench = start(2);
    damage(&mut bench);
    bench.driver.kick(0);
    assert!(readable(&bench.driver.rings[0].error, PATIENCE));
    bench
}

fn broken_by(damage: Damage) {
    let mut bench = broken(damage);
    bench.check_read(1);
    bench.driver.stop_ring(0);
    bench.driver.rings[0] = bench.driver.new_ring(0, 128);
    bench.driver.start_ring(0);
    bench.check_read(0);
}

fn ends_outside() {
    // Descriptors, available ring, used ring: each begins in memory and ends behind it.
    for base in [END - 0x10, END - 0x4008, END - 0x5010] {
        let mut bench = start(2);
        bench.driver.stop_ring(0);
        let mut ring = bench.driver.new_ring(0, 128);
        ring.base = base & !15;
        let places = [ring.base, ring.base + bench::AVAIL, ring.base + bench::USED];
        if places.iter().any(|place| *place >= END) {
            // A part that begins outside is refused when it is said.
            let parts = places.map(|place| {
                if place < END {
                    place
                } else {
                    RINGS + 0x10_0000
                }
            });
            tell(&mut bench, parts);
        } else {
            tell(&mut bench, places);
        }
        bench.driver.rings[0] = ring;
        let kick = bench.driver.rings[0].kick.try_clone().unwrap();
        let error = bench.driver.rings[0].error.try_clone().unwrap();
        let client = &mut bench.driver.client;
        client.tell_ring_file(SET_VRING_ERR, 0, Some(&error));
        client.tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
        assert!(readable(&error, PATIENCE));
        bench.check_read(1);
    }
}

/// Descriptors, available and used ring of ring 0.
fn tell(bench: &mut Bench, [descriptors, available, used]: [u64; 3]) {
    let mut payload = vec![0; 8];
    for part in [descriptors, used, available] {
        payload.extend(bench.driver.guest.user(part).to_le_bytes());
    }
    payload.extend([0; 8]);
    let client = &mut bench.driver.client;
    client.tell(crate::support::client::SET_VRING_ADDR, &payload, &[]);
}

fn begins_outside() {
    let mut bench = start(1);
    let inside = bench.driver.guest.user(RINGS + 0x10_0000);
    for outside in 0..3 {
        let mut parts = [inside; 4];
        parts[outside] = 0x10;
        parts[3] = 0;
        let payload = [vec![0; 8], parts.map(u64::to_le_bytes).concat()].concat();
        let request = crate::support::client::SET_VRING_ADDR;
        assert!(!bench.asks(request, &payload, &[]));
        bench.check_read(0);
    }
}

fn misaligned() {
    for (part, by) in [(0, 8), (1, 2), (2, 1)] {
        let mut bench = start(1);
        let mut parts = [bench.driver.guest.user(RINGS + 0x10_0000); 4];
        parts[part] += by;
        parts[3] = 0;
        let payload = [vec![0; 8], parts.map(u64::to_le_bytes).concat()].concat();
        let request = crate::support::client::SET_VRING_ADDR;
        bench.driver.client.send(request, 1, &payload, &[]);
        bench.demand_refused();
    }
}

fn unpollable_kick() {
    let mut bench = start(2);
    let client = &mut bench.driver.client;
    client.tell_ring_file(SET_VRING_KICK, 0, Some(&tempfile::tempfile().unwrap()));
    assert!(readable(&bench.driver.rings[0].error, PATIENCE));
    bench.check_read(1);
    let kick = bench.driver.rings[0].kick.try_clone().unwrap();
    let client = &mut bench.driver.client;
    client.tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
    bench.check_read(0);
}

fn said_once() {
    let mut bench = broken(too_far);
    assert_eq!(count(&bench.driver.rings[0].error), 1);
    bench.demand_silence(0);
    (0..10).for_each(|_| bench.driver.kick(0));
    bench.driver.stop_ring(0);
    assert_eq!(count(&bench.driver.rings[0].error), 0);
}

fn others_untouched() {
    let mut bench = start(8);
    for at in 1..8 {
        (0..30).for_each(|slot| bench.offer_read(at, slot, 500));
        bench.driver.kick(at);
    }
    no_head(&mut bench);
    bench.driver.kick(0);
    assert!(readable(&bench.driver.rings[0].error, PATIENCE));
    for at in 1..8 {
        (0..30).for_each(|slot| bench.expect_read(at, slot, 500));
        assert!(!readable(&bench.driver.rings[at].error, Duration::ZERO));
    }
}

fn nobody_to_tell() {
    let mut bench = start(2);
    let error = bench.driver.rings[0].error.try_clone().unwrap();
    bench.driver.client.tell_ring_file(SET_VRING_ERR, 0, None);
    too_far(&mut bench);
    bench.driver.kick(0);
    bench.check_read(1);
    bench.driver.stop_ring(0);
    assert_eq!(count(&error), 0, "it was taken away");
}

fn strange_notifiers() {
    let full = eventfd();
    rustix::io::write(&full, &(u64::MAX - 1).to_le_bytes()).unwrap();
    let (out, into) = pipe();
    let (closed, into_closed) = pipe();
    drop(closed);
    for notifier in [&full, &into, &into_closed, &memfd(0)] {
        let mut bench = start(2);
        let client = &mut bench.driver.client;
        client.tell_ring_file(SET_VRING_ERR, 0, Some(notifier));
        too_far(&mut bench);
        bench.driver.kick(0);
        bench.check_read(1);
        if std::ptr::eq(notifier, &into) {
            assert!(readable(&out, PATIENCE));
        }
        // The next in line is told all the same.
        no_head_on(&mut bench, 1);
        assert!(readable(&bench.driver.rings[1].error, PATIENCE));
    }
}

fn no_head_on(bench: &mut Bench, at: usize) {
    bench.driver.offer(at, 999);
    bench.driver.kick(at);
}

/// Takes back what the driver did wrong.
fn repent(bench: &mut Bench) {
    bench.driver.set_avail_index(0, 0);
}

fn mended_by_position() {
    let mut bench = broken(too_far);
    repent(&mut bench);
    bench.driver.client.tell_ring(SET_VRING_BASE, 0, 0);
    bench.demand_runs(0);
}

fn mended_by_kick() {
    let mut bench = broken(too_far);
    repent(&mut bench);
    bench.driver.rings[0].kick = eventfd();
    let kick = bench.driver.rings[0].kick.try_clone().unwrap();
    let client = &mut bench.driver.client;
    client.tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
    bench.demand_runs(0);
}

fn mended_by_memory() {
    let mut bench = broken(too_far);
    repent(&mut bench);
    remove_piece(&mut bench.driver, 0);
    let piece = &bench.driver.guest.pieces[0];
    let payload = [vec![0; 8], piece.region()].concat();
    let file = piece.file.try_clone().unwrap();
    bench.driver.client.tell(ADD_MEM_REG, &payload, &[&file]);
    bench.demand_runs(0);
}

fn mended_by_reset() {
    let mut bench = broken(too_far);
    bench.driver.client.tell(RESET_DEVICE, &[], &[]);
    bench.driver.rings[0] = bench.driver.new_ring(0, 128);
    bench.driver.start_ring(0);
    bench.demand_runs(0);
}

fn healthy() {
    let mut bench = start(2);
    for round in 0..20 {
        for at in 0..2 {
            bench.demand_runs(at);
            bench.check_read(at);
        }
        let position = bench.stop(round % 2);
        bench.start_at(round % 2, position);
    }
    let rings = &bench.driver.rings;
    assert!(rings.iter().all(|ring| !readable(&ring.error, QUIET)));
}

fn bad_chains() {
    let mut bench = start(1);
    for descriptor in [
        (BUFFERS, 16, 1, 0),
        (BUFFERS, 16, 1, 128),
        (BUFFERS, 17, 4, 0),
        (END, 16, 4, 0),
        (0, 0, 0, 0),
        (u64::MAX, u32::MAX, 2, 0),
    ] {
        bench.driver.descriptor(0, 0, descriptor);
        assert_eq!(bench.driver.run(0, 0).used_len, 0);
        bench.check_read(0);
    }
    assert!(!readable(&bench.driver.rings[0].error, Duration::ZERO));
}

const SAVE: u32 = 0;
const LOAD: u32 = 1;

fn begin(bench: &mut Bench, direction: u32, file: &File) -> bool {
    let client = &mut bench.driver.client;
    let payload = crate::support::client::pair(direction, 0);
    client.send(SET_DEVICE_STATE_FD, 1, &payload, &[file]);
    let answer = client.reply(SET_DEVICE_STATE_FD).unwrap();
    // Bits 0 to 7 say whether it failed, bit 8 that no descriptor comes back.
    assert_eq!(answer[1..], [1, 0, 0, 0, 0, 0, 0]);
    answer[0] == 0
}

fn result(bench: &mut Bench) -> bool {
    bench.driver.client.ask(CHECK_DEVICE_STATE, &[]).unwrap() == [0; 8]
}

fn save(device: &Arc<Device>) -> Vec<u8> {
    let mut bench = start_on(device, 0);
    let (mut out, into) = pipe();
    assert!(begin(&mut bench, SAVE, &into));
    assert!(result(&mut bench));
    drop(into);
    let mut state = Vec::new();
    // The backend has closed its end, or this would never end.
    out.read_to_end(&mut state).unwrap();
    state
}

fn load(device: &Arc<Device>, state: &[u8]) -> bool {
    let mut bench = start_on(device, 0);
    let (out, mut into) = pipe();
    assert!(begin(&mut bench, LOAD, &out));
    drop(out);
    into.write_all(state).unwrap();
    drop(into);
    result(&mut bench)
}

fn same_disk() {
    let state = save(&shared().0);
    assert!((1..=4096).contains(&state.len()));
    assert!(load(&shared().0, &state));
}

fn same_layers() {
    let copy = device_of(layers().0);
    assert_eq!(save(&copy), save(&shared().0));
    assert!(load(&copy, &save(&shared().0)));
}

fn other_disk() {
    let state = save(&shared().0);
    let mut fewer = layers().0;
    fewer.pop();
    let mut swapped = layers().0;
    swapped.swap(1, 2);
    for other in [fewer, swapped] {
        assert!(!load(&device_of(other), &state));
    }
}

fn damaged_state() {
    let state = save(&shared().0);
    for at in 0..state.len() {
        let mut damaged = state.clone();
        damaged[at] ^= 1;
        assert!(!load(&shared().0, &damaged), "byte {at}");
        assert!(at == 0 || !load(&shared().0, &state[..at]), "{at} bytes");
    }
    assert!(!load(&shared().0, &[&state[..], b"\n"].concat()));
}

fn no_state() {
    assert!(load(&shared().0, &[]));
}

fn while_running() {
    let mut bench = start(1);
    let (out, into) = pipe();
    assert!(!begin(&mut bench, SAVE, &into));
    assert!(!begin(&mut bench, LOAD, &out));
    assert!(!result(&mut bench));
    let position = bench.stop(0);
    assert!(begin(&mut bench, SAVE, &into));
    assert!(result(&mut bench));
    bench.start_at(0, position);
    bench.check_read(0);
}

fn no_transfer() {
    let mut bench = start(0);
    assert!(!result(&mut bench));
    assert_ne!(bench.driver.client.ask_u64(GET_FEATURES), 0);
}

fn result_once() {
    let mut bench = start(0);
    let (_out, into) = pipe();
    assert!(begin(&mut bench, SAVE, &into));
    assert!(result(&mut bench));
    assert!(!result(&mut bench));
}

fn failed_transfer() {
    let mut bench = start(1);
    let position = bench.stop(0);
    let (out, into) = pipe();
    // Reading ends cannot be written, writing ends cannot be read.
    assert!(!begin(&mut bench, SAVE, &out));
    assert!(!result(&mut bench));
    assert!(begin(&mut bench, LOAD, &into));
    assert!(!result(&mut bench));
    // A pipe that is full, and one that nobody will ever write to.
    let (full_out, mut full) = pipe();
    let size = rustix::pipe::fcntl_getpipe_size(&full).unwrap();
    full.write_all(&vec![0; size]).unwrap();
    assert!(!begin(&mut bench, SAVE, &full));
    let (idle, _held) = pipe();
    assert!(begin(&mut bench, LOAD, &idle));
    assert!(!result(&mut bench));
    bench.start_at(0, position);
    bench.check_read(0);
    drop(full_out);
}

fn begun_anew() {
    let state = save(&shared().0);
    let mut bench = start(0);
    let (abandoned, _held) = pipe();
    assert!(begin(&mut bench, LOAD, &abandoned));
    let (out, mut into) = pipe();
    assert!(begin(&mut bench, LOAD, &out));
    into.write_all(&state).unwrap();
    drop(into);
    assert!(result(&mut bench));
}

fn endless_state() {
    let mut bench = start(0);
    let zero = File::open("/dev/zero").unwrap();
    assert!(begin(&mut bench, LOAD, &zero));
    assert!(!result(&mut bench));
    assert!(!load(&shared().0, &vec![b'v'; 60_000]));
}

fn no_direction() {
    for (direction, phase) in [(2, 0), (0, 1), (u32::MAX, u32::MAX)] {
        let mut bench = start(0);
        let payload = crate::support::client::pair(direction, phase);
        let client = &mut bench.driver.client;
        client.send(SET_DEVICE_STATE_FD, 1, &payload, &[&pipe().1]);
        bench.demand_refused();
    }
}
