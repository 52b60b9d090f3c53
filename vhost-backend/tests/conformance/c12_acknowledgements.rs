//! C-12: with REPLY_ACK, every message that asks for it is acknowledged, once, with the truth; what is refused has
//! changed nothing, and who was told so may go on.
//! C-13: RESET_DEVICE makes rings what they were at first, and takes nothing that belongs to the front-end.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vhost_backend::session::End;

use crate::bench::{
    self, Bench, NEED_REPLY, PATIENCE, is_abandoned, memfd, negotiate, pipe, start, start_on,
};
use crate::registry::line;
use crate::support::client::{
    ADD_MEM_REG, CHECK_DEVICE_STATE, GET_CONFIG, GET_FEATURES, GET_MAX_MEM_SLOTS,
    GET_PROTOCOL_FEATURES, GET_QUEUE_NUM, GET_VRING_BASE, REM_MEM_REG, RESET_DEVICE,
    SET_BACKEND_REQ_FD, SET_CONFIG, SET_DEVICE_STATE_FD, SET_FEATURES, SET_INFLIGHT_FD,
    SET_MEM_TABLE, SET_OWNER, SET_PROTOCOL_FEATURES, SET_VRING_ADDR, SET_VRING_BASE,
    SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM, pair,
};
use crate::support::driver::{REPLY_ACK, eventfd, readable};

const RESET_OWNER: u32 = 4;

line! {
    C12 = "C-12", c12_acknowledgements:
    "C-12.01" "SET_OWNER is acknowledged" => || acknowledged(SET_OWNER),
    "C-12.02" "RESET_OWNER is acknowledged" => || acknowledged(RESET_OWNER),
    "C-12.03" "SET_FEATURES is acknowledged" => || acknowledged(SET_FEATURES),
    "C-12.04" "SET_PROTOCOL_FEATURES is acknowledged" => || acknowledged(SET_PROTOCOL_FEATURES),
    "C-12.05" "SET_MEM_TABLE is acknowledged" => || acknowledged(SET_MEM_TABLE),
    "C-12.06" "SET_VRING_NUM is acknowledged" => || acknowledged(SET_VRING_NUM),
    "C-12.07" "SET_VRING_ADDR is acknowledged" => || acknowledged(SET_VRING_ADDR),
    "C-12.08" "SET_VRING_BASE is acknowledged" => || acknowledged(SET_VRING_BASE),
    "C-12.09" "SET_VRING_KICK is acknowledged" => || acknowledged(SET_VRING_KICK),
    "C-12.10" "SET_VRING_CALL is acknowledged" => || acknowledged(SET_VRING_CALL),
    "C-12.11" "SET_VRING_ERR is acknowledged" => || acknowledged(SET_VRING_ERR),
    "C-12.12" "SET_VRING_ENABLE is acknowledged" => || acknowledged(SET_VRING_ENABLE),
    "C-12.13" "SET_CONFIG is acknowledged" => || acknowledged(SET_CONFIG),
    "C-12.14" "SET_BACKEND_REQ_FD is acknowledged" => || acknowledged(SET_BACKEND_REQ_FD),
    "C-12.15" "SET_INFLIGHT_FD is acknowledged" => || acknowledged(SET_INFLIGHT_FD),
    "C-12.16" "ADD_MEM_REG is acknowledged" => || acknowledged(ADD_MEM_REG),
    "C-12.17" "REM_MEM_REG is acknowledged" => || acknowledged(REM_MEM_REG),
    "C-12.18" "RESET_DEVICE is acknowledged" => || acknowledged(RESET_DEVICE),
    "C-12.19" "a table with room to spare is acknowledged" => roomy_table,
    "C-12.20" "who does not ask gets no acknowledgement" => unasked,
    "C-12.21" "without REPLY_ACK nobody gets one" => not_negotiated,
    "C-12.22" "what has an answer of its own is answered once" => own_answers,
    "C-12.23" "what is refused says so, and the session goes on" => refused,
    "C-12.24" "refused without being asked, the session ends" => refused_unasked,
    "C-12.25" "refused features are told, and end the session" => refused_features,
    "C-12.26" "answers come in the order of the questions" => in_order,
    "C-12.27" "what cannot be understood ends the session" => malformed,
    "C-12.28" "an acknowledgement comes after the deed" => after_the_deed,
}

line! {
    C13 = "C-13", c13_reset_device:
    "C-13.01" "all rings stop and are silent" => reset_silences,
    "C-13.02" "all rings are disabled" => reset_disables,
    "C-13.03" "positions are forgotten" => reset_positions,
    "C-13.04" "addresses are forgotten" => reset_addresses,
    "C-13.05" "kick descriptors are closed" => reset_kicks,
    "C-13.06" "call and error descriptors stay" => reset_keeps_calls,
    "C-13.07" "memory stays" => reset_keeps_memory,
    "C-13.08" "features stay" => reset_keeps_features,
    "C-13.09" "a broken ring is as good as new" => reset_mends,
    "C-13.10" "under load, again and again" => reset_under_load,
    "C-13.11" "RESET_OWNER does the same" => reset_owner,
    "C-13.12" "with nothing to reset, nothing happens" => reset_nothing,
    "C-13.13" "without RESET_DEVICE there is no such message" => reset_not_negotiated,
}

const EXTRA: u64 = 0x9000_0000;

fn region() -> Vec<u8> {
    [0, EXTRA, 0x1000, 0x30_0000_0000, 0]
        .map(u64::to_le_bytes)
        .concat()
}

/// A message about ring 0 or the session that is right, and its files.
fn right(bench: &mut Bench, request: u32) -> (Vec<u8>, Vec<File>) {
    let driver = &mut bench.driver;
    let fd = || vec![eventfd()];
    let ring = 0_u64.to_le_bytes().to_vec();
    match request {
        SET_OWNER | RESET_OWNER | RESET_DEVICE => (vec![], vec![]),
        SET_FEATURES => (driver.features.to_le_bytes().to_vec(), vec![]),
        SET_PROTOCOL_FEATURES => {
            let offered = driver.client.ask_u64(GET_PROTOCOL_FEATURES);
            (offered.to_le_bytes().to_vec(), vec![])
        }
        SET_MEM_TABLE => {
            let piece = &driver.guest.pieces[0];
            let table = [&1_u64.to_le_bytes()[..], &piece.region()].concat();
            (table, vec![piece.file.try_clone().unwrap()])
        }
        SET_VRING_NUM => (pair(0, 128), vec![]),
        SET_VRING_BASE => (pair(0, 0), vec![]),
        SET_VRING_ENABLE => (pair(0, 1), vec![]),
        SET_VRING_ADDR => {
            let base = driver.rings[0].base;
            let parts = [base, base + bench::USED, base + bench::AVAIL];
            let user = parts.map(|part| driver.guest.user(part).to_le_bytes());
            ([pair(0, 0), user.concat(), vec![0; 8]].concat(), vec![])
        }
        SET_VRING_KICK | SET_VRING_CALL | SET_VRING_ERR => (ring, fd()),
        SET_CONFIG => {
            let capacity = driver.client.config(0, 8, 0).unwrap();
            ([pair(0, 8), vec![2, 0, 0, 0], capacity].concat(), vec![])
        }
        SET_BACKEND_REQ_FD => {
            let (_, theirs) = UnixStream::pair().unwrap();
            (vec![], vec![OwnedFd::from(theirs).into()])
        }
        SET_INFLIGHT_FD => (inflight(0x1000), vec![memfd(0x1000)]),
        ADD_MEM_REG => (region(), vec![memfd(0x1000)]),
        REM_MEM_REG => {
            driver
                .client
                .tell(ADD_MEM_REG, &region(), &[&memfd(0x1000)]);
            (region(), vec![])
        }
        _ => unreachable!("a message that is acknowledged"),
    }
}

fn inflight(len: u64) -> Vec<u8> {
    [len, 0, 1 | 128 << 16].map(u64::to_le_bytes).concat()
}

const ALL: [u32; 18] = [
    SET_OWNER,
    RESET_OWNER,
    SET_FEATURES,
    SET_PROTOCOL_FEATURES,
    SET_MEM_TABLE,
    SET_VRING_NUM,
    SET_VRING_ADDR,
    SET_VRING_BASE,
    SET_VRING_KICK,
    SET_VRING_CALL,
    SET_VRING_ERR,
    SET_VRING_ENABLE,
    SET_CONFIG,
    SET_BACKEND_REQ_FD,
    SET_INFLIGHT_FD,
    ADD_MEM_REG,
    REM_MEM_REG,
    RESET_DEVICE,
];

/// The next answer there is, is that of the next question: nothing more had been said.
fn demand_nothing_more(bench: &mut Bench) {
    assert_ne!(bench.driver.client.ask_u64(GET_FEATURES), 0);
}

fn acknowledged(request: u32) {
    assert!(ALL.contains(&request));
    let mut bench = start(1);
    let (payload, files) = right(&mut bench, request);
    assert!(bench.asks(request, &payload, &files.iter().collect::<Vec<_>>()));
    demand_nothing_more(&mut bench);
}

fn roomy_table() {
    let mut bench = start(1);
    for spare in [1, 29] {
        bench.driver.hand_over_table(spare);
        demand_nothing_more(&mut bench);
        bench.check_read(0);
    }
}

fn unasked() {
    for request in ALL {
        let mut bench = start(1);
        let (payload, files) = right(&mut bench, request);
        let files: Vec<&File> = files.iter().collect();
        bench.driver.client.send(request, 1, &payload, &files);
        demand_nothing_more(&mut bench);
    }
}

fn not_negotiated() {
    for request in ALL {
        let mut bench = negotiate(u64::MAX, !REPLY_ACK);
        bench.driver.add_ring(0, 128);
        if request == SET_PROTOCOL_FEATURES {
            continue;
        }
        let (payload, files) = right(&mut bench, request);
        let files: Vec<&File> = files.iter().collect();
        bench
            .driver
            .client
            .send(request, NEED_REPLY, &payload, &files);
        demand_nothing_more(&mut bench);
    }
}

fn own_answers() {
    let mut bench = start(1);
    let config = [pair(0, 8), vec![0; 12]].concat();
    for (request, payload) in [
        (GET_FEATURES, vec![]),
        (GET_PROTOCOL_FEATURES, vec![]),
        (GET_QUEUE_NUM, vec![]),
        (GET_MAX_MEM_SLOTS, vec![]),
        (GET_CONFIG, config),
        (GET_VRING_BASE, pair(0, 0)),
        (CHECK_DEVICE_STATE, vec![]),
    ] {
        let client = &mut bench.driver.client;
        client.send(request, NEED_REPLY, &payload, &[]);
        assert!(client.reply(request).is_some(), "message {request}");
        demand_nothing_more(&mut bench);
    }
    let client = &mut bench.driver.client;
    client.send(SET_DEVICE_STATE_FD, NEED_REPLY, &pair(0, 0), &[&pipe().1]);
    assert!(client.reply(SET_DEVICE_STATE_FD).is_some());
    demand_nothing_more(&mut bench);
}

/// Messages that are understood and cannot be followed, for a device of two queues.
fn wrong() -> Vec<(u32, Vec<u8>, Option<File>)> {
    let outside = [pair(0, 0), [0xf000; 4].map(u64::to_le_bytes).concat()].concat();
    let beyond = 2_u64.to_le_bytes().to_vec();
    let table = [&1_u64.to_le_bytes()[..], &region()[8..]].concat();
    vec![
        (SET_VRING_NUM, pair(0, 0), None),
        (SET_VRING_NUM, pair(0, 3), None),
        (SET_VRING_NUM, pair(0, 2048), None),
        (SET_VRING_NUM, pair(0, 65_536 + 128), None),
        (SET_VRING_NUM, pair(2, 128), None),
        (SET_VRING_BASE, pair(0, 65_536), None),
        (SET_VRING_BASE, pair(u32::MAX, 0), None),
        (SET_VRING_ADDR, outside, None),
        (SET_VRING_ENABLE, pair(2, 1), None),
        (SET_VRING_KICK, beyond.clone(), Some(eventfd())),
        (SET_VRING_CALL, beyond.clone(), Some(eventfd())),
        (SET_VRING_ERR, beyond, Some(eventfd())),
        (SET_CONFIG, [pair(0, 8), vec![0; 12]].concat(), None),
        (SET_MEM_TABLE, table, Some(memfd(0xfff))),
        (ADD_MEM_REG, region(), Some(memfd(0xfff))),
        (REM_MEM_REG, region(), None),
        (SET_INFLIGHT_FD, inflight(0x1000), Some(memfd(0xfff))),
    ]
}

fn refused() {
    let mut bench = start_on(&bench::device_with_queues(2), 2);
    for (request, payload, file) in wrong() {
        let files: Vec<&File> = file.iter().collect();
        assert!(!bench.asks(request, &payload, &files), "{request}");
        demand_nothing_more(&mut bench);
        (0..2).for_each(|at| bench.check_read(at));
    }
}

fn refused_unasked() {
    for (request, payload, file) in wrong() {
        let mut bench = start_on(&bench::device_with_queues(2), 2);
        let files: Vec<&File> = file.iter().collect();
        bench.driver.client.send(request, 1, &payload, &files);
        bench.demand_refused();
    }
}

fn refused_features() {
    for request in [SET_FEATURES, SET_PROTOCOL_FEATURES] {
        let mut bench = start(1);
        // The acknowledgement itself is among what is negotiated.
        let bits = 1_u64 << 63 | REPLY_ACK;
        assert!(!bench.asks(request, &bits.to_le_bytes(), &[]));
        bench.demand_refused();
    }
}

fn in_order() {
    let mut bench = start(4);
    let client = &mut bench.driver.client;
    for round in 0..50 {
        client.send(SET_VRING_ENABLE, NEED_REPLY, &pair(round % 4, 1), &[]);
        client.send(SET_VRING_NUM, NEED_REPLY, &pair(0, 3), &[]);
        client.send(GET_QUEUE_NUM, 1, &[], &[]);
    }
    for _ in 0..50 {
        assert_eq!(client.reply(SET_VRING_ENABLE), Some(vec![0; 8]));
        assert_ne!(client.reply(SET_VRING_NUM), Some(vec![0; 8]));
        assert_eq!(
            client.reply(GET_QUEUE_NUM),
            Some(256_u64.to_le_bytes().to_vec())
        );
    }
}

fn malformed() {
    for (request, payload) in [
        (SET_VRING_ENABLE, pair(0, 2)),
        (SET_VRING_NUM, vec![0; 7]),
        (SET_VRING_KICK, 0_u64.to_le_bytes().to_vec()),
        (SET_FEATURES, vec![]),
        (SET_OWNER, vec![0; 8]),
    ] {
        let mut bench = start(1);
        bench.driver.client.send(request, NEED_REPLY, &payload, &[]);
        // Whether it is told so depends on what is wrong; that it failed is never told as success.
        let answer = bench.driver.client.reply(request);
        assert_ne!(answer, Some(vec![0; 8]), "message {request}");
        bench.demand_refused();
    }
}

fn after_the_deed() {
    let mut bench = start(1);
    for _ in 0..100 {
        bench.demand_runs(0);
        let client = &mut bench.driver.client;
        client.tell_ring(SET_VRING_ENABLE, 0, 0);
        // Offered after the acknowledgement: nobody is left to take it.
        bench.offer_read(0, 1, 7);
        bench.demand_silence_for(0, Duration::from_micros(100));
        bench.driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
        bench.expect_read(0, 1, 7);
    }
}

fn reset(bench: &mut Bench) {
    bench.driver.client.tell(RESET_DEVICE, &[], &[]);
}

fn kick(bench: &mut Bench, at: usize) {
    let kick = bench.driver.rings[at].kick.try_clone().unwrap();
    let index = u8::try_from(at).unwrap();
    let client = &mut bench.driver.client;
    client.tell_ring_file(SET_VRING_KICK, index, Some(&kick));
}

fn reset_silences() {
    let mut bench = start(3);
    for at in 0..3 {
        (0..30).for_each(|slot| bench.offer_read(at, slot, 500));
        bench.driver.kick(at);
    }
    reset(&mut bench);
    let before = bench.driver.snapshot();
    (0..3).for_each(|at| bench.demand_silence(at));
    assert!(bench.driver.snapshot() == before);
}

fn reset_disables() {
    let mut bench = start(1);
    reset(&mut bench);
    bench.driver.client.tell_ring(SET_VRING_NUM, 0, 128);
    bench.driver.tell_addresses(0);
    bench.driver.rings[0].kick = eventfd();
    kick(&mut bench, 0);
    bench.offer_read(0, 0, 500);
    bench.demand_silence(0);
    bench.driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
    bench.expect_read(0, 0, 500);
}

fn reset_positions() {
    let mut bench = start(2);
    (0..7).for_each(|_| bench.demand_runs(0));
    bench.driver.client.tell_ring(SET_VRING_BASE, 1, 300);
    reset(&mut bench);
    assert_eq!((bench.stop(0), bench.stop(1)), (0, 0));
}

fn reset_addresses() {
    let mut bench = start(1);
    reset(&mut bench);
    bench.driver.rings[0].kick = eventfd();
    kick(&mut bench, 0);
    bench.driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
    bench.offer_read(0, 0, 500);
    bench.demand_silence(0);
    bench.driver.client.tell_ring(SET_VRING_NUM, 0, 128);
    bench.driver.tell_addresses(0);
    bench.expect_read(0, 0, 500);
}

fn reset_kicks() {
    let mut bench = start(1);
    let (out, into) = pipe();
    let client = &mut bench.driver.client;
    client.tell_ring(SET_VRING_ENABLE, 0, 0);
    client.tell_ring_file(SET_VRING_KICK, 0, Some(&into));
    drop(into);
    assert!(!readable(&out, Duration::ZERO));
    reset(&mut bench);
    assert!(is_abandoned(&out));
}

/// Sets ring 0 up anew as QEMU does: without call and error descriptors, which it gave once.
fn set_up_without_calls(bench: &mut Bench) {
    let fresh = bench.driver.new_ring(0, 128);
    let old = std::mem::replace(&mut bench.driver.rings[0], fresh);
    bench.driver.rings[0].call = old.call;
    bench.driver.rings[0].error = old.error;
    bench.driver.client.tell_ring(SET_VRING_NUM, 0, 128);
    bench.driver.client.tell_ring(SET_VRING_BASE, 0, 0);
    bench.driver.tell_addresses(0);
    kick(bench, 0);
    bench.driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
}

fn reset_keeps_calls() {
    let mut bench = start(1);
    bench.wait_for_start(0);
    reset(&mut bench);
    set_up_without_calls(&mut bench);
    bench.wait_for_start(0);
    bench.demand_runs(0);
    bench.driver.set_avail_index(0, 999);
    bench.driver.kick(0);
    assert!(readable(&bench.driver.rings[0].error, PATIENCE));
}

fn reset_keeps_memory() {
    let mut bench = start(1);
    bench
        .driver
        .client
        .tell(ADD_MEM_REG, &region(), &[&memfd(0x1000)]);
    reset(&mut bench);
    bench.driver.client.tell(REM_MEM_REG, &region(), &[]);
    set_up_without_calls(&mut bench);
    bench.check_read(0);
}

fn reset_keeps_features() {
    let mut bench = start(1);
    bench.wait_for_start(0);
    reset(&mut bench);
    // A message that exists only with the protocol features, and a ring whose interrupts go by index.
    set_up_without_calls(&mut bench);
    bench.wait_for_start(0);
    (0..20).for_each(|_| bench.check_read(0));
    bench.stop(0);
    assert!(bench.take_interrupts(0) <= 1, "the driver asked for one");
}

fn reset_mends() {
    let mut bench = start(2);
    bench.driver.set_avail_index(0, 999);
    bench.driver.kick(0);
    assert!(readable(&bench.driver.rings[0].error, PATIENCE));
    reset(&mut bench);
    for at in 0..2 {
        let index = u32::try_from(at).unwrap();
        bench.driver.rings[at] = bench.driver.new_ring(index, 128);
        bench.driver.start_ring(at);
        bench.check_read(at);
    }
}

fn reset_under_load() {
    let mut bench = start(2);
    for round in 0..200_u16 {
        for at in 0..2 {
            (0..20).for_each(|slot| bench.offer_read(at, slot, 500));
            bench.driver.kick(at);
        }
        (0..round % 10).for_each(|slot| bench.expect_read(0, slot, 500));
        reset(&mut bench);
        for at in 0..2 {
            let index = u32::try_from(at).unwrap();
            bench.driver.rings[at] = bench.driver.new_ring(index, 64 << (round % 3));
            bench.driver.start_ring(at);
            bench.demand_runs(at);
        }
    }
}

fn reset_owner() {
    let mut bench = start(1);
    bench.demand_runs(0);
    bench.driver.client.tell(RESET_OWNER, &[], &[]);
    bench.offer_read(0, 1, 7);
    bench.demand_silence(0);
    assert_eq!(bench.stop(0), 0);
    bench.driver.client.tell(SET_OWNER, &[], &[]);
    set_up_without_calls(&mut bench);
    bench.check_read(0);
}

fn reset_nothing() {
    let mut bench = start(0);
    (0..3).for_each(|_| reset(&mut bench));
    bench.driver.add_ring(0, 128);
    bench.check_read(0);
    assert_eq!(bench.hang_up(), End::Disconnected);
}

fn reset_not_negotiated() {
    let mut bench = negotiate(u64::MAX, !(1 << 13));
    bench.driver.client.send(RESET_DEVICE, 1, &[], &[]);
    bench.demand_refused();
}
