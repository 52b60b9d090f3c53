//! C-10: what is not implemented is not offered, and is refused to those who take it all the same.
//! C-14: there is no STATUS.
//! C-15: the backend's own channel is taken, kept open, and never used.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::time::Duration;

use vhost_backend::session::End;

use crate::bench::{self, NEED_REPLY, is_abandoned, memfd, pipe, start};
use crate::registry::line;
use crate::support::client::{
    GET_FEATURES, GET_PROTOCOL_FEATURES, SET_BACKEND_REQ_FD, SET_FEATURES, SET_PROTOCOL_FEATURES,
};
use crate::support::driver::readable;

/// MQ, LOG_SHMFD, REPLY_ACK, BACKEND_REQ, CONFIG, INFLIGHT_SHMFD, RESET_DEVICE, CONFIGURE_MEM_SLOTS, DEVICE_STATE.
const PROTOCOL_BITS: [u32; 9] = [0, 1, 3, 5, 9, 12, 13, 15, 19];
/// SEG_MAX, RO, BLK_SIZE, TOPOLOGY, MQ, LOG_ALL, INDIRECT_DESC, EVENT_IDX, PROTOCOL_FEATURES, VERSION_1, IN_ORDER.
const FEATURE_BITS: [u32; 11] = [2, 5, 6, 10, 12, 26, 28, 29, 30, 32, 35];

const GET_VRING_BASE_INFLIGHT: u64 = 1 << 20;
const SKIP_DRAIN: u64 = 1 << 21;
const STATUS: u64 = 1 << 16;

line! {
    C10 = "C-10", c10_offers:
    "C-10.01" "exactly nine protocol features are offered" => protocol_features,
    "C-10.02" "exactly eleven features are offered" => features,
    "C-10.03" "the answer is the same at any time" => same_answer,
    "C-10.04" "every other feature bit is refused" => other_features,
    "C-10.05" "every other protocol bit is refused" => other_protocol_features,
    "C-10.06" "no GET_VRING_BASE_INFLIGHT, no SKIP_DRAIN" => no_newer_ways,
    "C-10.07" "messages of what is not offered end the session" => other_messages,
    "C-10.08" "each offered protocol feature may be taken alone" => one_by_one,
}

line! {
    C14 = "C-14", c14_no_status:
    "C-14.01" "STATUS is not offered and cannot be taken" => no_status,
    "C-14.02" "SET_STATUS and GET_STATUS end the session" => no_status_messages,
}

line! {
    C15 = "C-15", c15_backend_channel:
    "C-15.01" "the channel is taken, with and without an answer" => channel,
    "C-15.02" "it stays open as long as the session" => channel_stays,
    "C-15.03" "nothing is ever sent on it" => channel_silent,
    "C-15.04" "a new one replaces the old, which is closed" => channel_replaced,
    "C-15.05" "its other end may be closed at any time" => channel_closed,
    "C-15.06" "what is no stream socket is refused" => channel_of_other_kind,
    "C-15.07" "it needs exactly one descriptor" => channel_descriptors,
}

fn bits(numbers: &[u32]) -> u64 {
    numbers.iter().map(|number| 1 << number).sum()
}

fn protocol_features() {
    let (mut client, _served) = bench::connect();
    let offered = client.ask_u64(GET_PROTOCOL_FEATURES);
    assert_eq!(offered, bits(&PROTOCOL_BITS), "{offered:#x}");
}

fn features() {
    let (mut client, _served) = bench::connect();
    let offered = client.ask_u64(GET_FEATURES);
    assert_eq!(offered, bits(&FEATURE_BITS), "{offered:#x}");
}

fn same_answer() {
    let mut bench = start(2);
    for taken in [0, 1 << 32, bench.driver.features] {
        bench.driver.client.tell_u64(SET_FEATURES, taken | 1 << 30);
        let client = &mut bench.driver.client;
        assert_eq!(client.ask_u64(GET_FEATURES), bits(&FEATURE_BITS));
        assert_eq!(client.ask_u64(GET_PROTOCOL_FEATURES), bits(&PROTOCOL_BITS));
    }
}

/// Takes a bit that was not offered: told that it failed, and then the end, since the two sides no longer agree.
fn refuse(request: u32, bit: u32) {
    let (mut client, served) = bench::connect();
    assert_ne!(client.ask_u64(GET_FEATURES), 0);
    client.tell_u64(SET_PROTOCOL_FEATURES, 1 << 3);
    client.send(
        request,
        NEED_REPLY,
        &(1_u64 << bit | 1 << 3).to_le_bytes(),
        &[],
    );
    assert_ne!(client.reply(request), Some(vec![0; 8]), "bit {bit}");
    assert!(client.is_closed(), "bit {bit}");
    assert_eq!(served.end(), End::Refused);
}

fn other_features() {
    let others = (0..64).filter(|bit| !FEATURE_BITS.contains(bit));
    others.for_each(|bit| refuse(SET_FEATURES, bit));
}

fn other_protocol_features() {
    let others = (0..64).filter(|bit| !PROTOCOL_BITS.contains(bit));
    others.for_each(|bit| refuse(SET_PROTOCOL_FEATURES, bit));
}

fn no_newer_ways() {
    let (mut client, _served) = bench::connect();
    let offered = client.ask_u64(GET_PROTOCOL_FEATURES);
    assert_eq!(offered & (GET_VRING_BASE_INFLIGHT | SKIP_DRAIN), 0);
    end_of_session(45, &[0; 8]);
}

/// Everything is negotiated and a ring runs; this message ends all that, and the next session is served.
fn end_of_session(request: u32, payload: &[u8]) {
    let mut bench = start(1);
    bench.check_read(0);
    bench.driver.client.send(request, 1, payload, &[]);
    assert_eq!(
        bench.driver.client.reply(request),
        None,
        "message {request}"
    );
    bench.demand_refused();
    start(1).check_read(0);
}

fn other_messages() {
    for (request, len) in [
        // SEND_RARP, NET_SET_MTU, IOTLB_MSG, SET_VRING_ENDIAN, the two of CRYPTO, the three of post-copy.
        (19, 8),
        (20, 8),
        (22, 40),
        (23, 8),
        (26, 8),
        (27, 8),
        (28, 0),
        (29, 0),
        (30, 0),
        // GPU_SET_SOCKET, an in-band kick, GET_SHARED_OBJECT, GET_SHMEM_CONFIG.
        (33, 0),
        (35, 8),
        (41, 16),
        (44, 0),
        // Never given, and no number at all.
        (0, 0),
        (46, 0),
        (1000, 8),
        (u32::MAX, 8),
    ] {
        end_of_session(request, &vec![1; len]);
    }
}

fn one_by_one() {
    for bit in PROTOCOL_BITS {
        let mut bench = bench::negotiate(u64::MAX, 1 << bit);
        bench.driver.add_ring(0, 128);
        bench.check_read(0);
    }
}

fn no_status() {
    let (mut client, _served) = bench::connect();
    assert_eq!(client.ask_u64(GET_PROTOCOL_FEATURES) & STATUS, 0);
    refuse(SET_PROTOCOL_FEATURES, 16);
}

fn no_status_messages() {
    end_of_session(39, &[15, 0, 0, 0, 0, 0, 0, 0]);
    end_of_session(40, &[]);
}

/// A socket pair: ours, and the other end as a file.
fn channel_pair() -> (File, File) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (OwnedFd::from(ours).into(), OwnedFd::from(theirs).into())
}

fn channel() {
    let mut bench = start(1);
    let (_ours, theirs) = channel_pair();
    assert!(bench.asks(SET_BACKEND_REQ_FD, &[], &[&theirs]));
    bench
        .driver
        .client
        .send(SET_BACKEND_REQ_FD, 1, &[], &[&theirs]);
    bench.check_read(0);
}

fn channel_stays() {
    let mut bench = start(1);
    let (ours, theirs) = channel_pair();
    assert!(bench.asks(SET_BACKEND_REQ_FD, &[], &[&theirs]));
    drop(theirs);
    bench.check_read(0);
    assert!(!readable(&ours, Duration::ZERO), "still open");
    assert_eq!(bench.hang_up(), End::Disconnected);
    assert!(is_abandoned(&ours));
}

fn channel_silent() {
    let mut bench = start(2);
    let (ours, theirs) = channel_pair();
    assert!(bench.asks(SET_BACKEND_REQ_FD, &[], &[&theirs]));
    bench.driver.set_avail_index(0, 999);
    bench.driver.kick(0);
    assert!(readable(&bench.driver.rings[0].error, bench::PATIENCE));
    bench.check_read(1);
    bench.driver.hand_over_table(0);
    bench.stop(1);
    assert!(!readable(&ours, bench::QUIET));
}

fn channel_replaced() {
    let mut bench = start(1);
    let (mut old, theirs) = channel_pair();
    assert!(bench.asks(SET_BACKEND_REQ_FD, &[], &[&theirs]));
    drop(theirs);
    for _ in 0..10 {
        let (ours, theirs) = channel_pair();
        assert!(bench.asks(SET_BACKEND_REQ_FD, &[], &[&theirs]));
        assert!(is_abandoned(&old));
        old = ours;
    }
}

fn channel_closed() {
    let mut bench = start(1);
    let (ours, theirs) = channel_pair();
    assert!(bench.asks(SET_BACKEND_REQ_FD, &[], &[&theirs]));
    drop((ours, theirs));
    bench.check_read(0);
    bench.driver.hand_over_table(0);
    bench.check_read(0);
}

fn channel_of_other_kind() {
    let datagram = UnixDatagram::unbound().unwrap();
    for file in [
        memfd(0x1000),
        pipe().0,
        OwnedFd::from(datagram).into(),
        File::open("/dev/null").unwrap(),
    ] {
        let mut bench = start(1);
        let client = &mut bench.driver.client;
        client.send(SET_BACKEND_REQ_FD, NEED_REPLY, &[], &[&file]);
        assert_ne!(client.reply(SET_BACKEND_REQ_FD), Some(vec![0; 8]));
        bench.demand_refused();
    }
}

fn channel_descriptors() {
    let (_ours, theirs) = channel_pair();
    for files in [vec![], vec![&theirs, &theirs]] {
        let mut bench = start(1);
        let client = &mut bench.driver.client;
        client.send(SET_BACKEND_REQ_FD, 1, &[], &files);
        bench.demand_refused();
    }
}
