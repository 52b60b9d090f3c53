//! A front-end that goes away after every byte it could say.

use std::fs::File;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::family::Family;
use crate::house::House;
use crate::messages::words;
use crate::support::client::{
    ADD_MEM_REG, GET_CONFIG, GET_FEATURES, GET_INFLIGHT_FD, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM,
    GET_VRING_BASE, RESET_DEVICE, SET_FEATURES, SET_LOG_BASE, SET_OWNER, SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR,
    SET_VRING_KICK, SET_VRING_NUM, pair,
};
use crate::support::driver::{Driver, LOG_LEN_BYTES, eventfd};
use crate::support::guest::Guest;

/// A message as it goes over the socket, with what goes along.
struct Message {
    request: u32,
    bytes: Vec<u8>,
    file: Option<File>,
}

fn message(request: u32, payload: &[u8], file: Option<File>) -> Message {
    let len = u32::try_from(payload.len()).unwrap();
    let header = [request, 1, len].map(u32::to_le_bytes).concat();
    Message {
        request,
        bytes: [&header, payload].concat(),
        file,
    }
}

/// All that a front-end says in a life: set up, run, log, stop, reset.
fn life(guest: &Guest) -> Vec<Message> {
    let ring = guest.user(0);
    let region = |at: usize| {
        let piece = &guest.pieces[at];
        let payload = [vec![0; 8], piece.region()].concat();
        message(ADD_MEM_REG, &payload, Some(piece.file.try_clone().unwrap()))
    };
    let config = [pair(0, 60), vec![0; 4 + 60]].concat();
    vec![
        message(GET_FEATURES, &[], None),
        message(SET_OWNER, &[], None),
        message(GET_PROTOCOL_FEATURES, &[], None),
        message(SET_PROTOCOL_FEATURES, &words(&[0x8_b223]), None),
        message(GET_QUEUE_NUM, &[], None),
        message(GET_CONFIG, &config, None),
        message(SET_FEATURES, &words(&[1 << 32 | 1 << 30]), None),
        region(0),
        region(1),
        region(2),
        message(GET_INFLIGHT_FD, &words(&[0, 0, 1 | 128 << 16]), None),
        message(SET_VRING_NUM, &pair(0, 128), None),
        message(SET_VRING_BASE, &pair(0, 0), None),
        message(
            SET_VRING_ADDR,
            &words(&[0, ring, ring + 0x5000, ring + 0x4000, 0]),
            None,
        ),
        message(SET_VRING_ERR, &words(&[0]), Some(eventfd())),
        message(SET_VRING_CALL, &words(&[0]), Some(eventfd())),
        message(SET_VRING_KICK, &words(&[0]), Some(eventfd())),
        message(SET_VRING_ENABLE, &pair(0, 1), None),
        message(
            SET_LOG_BASE,
            &words(&[LOG_LEN_BYTES, 0]),
            Some(Driver::log_file()),
        ),
        message(SET_FEATURES, &words(&[1 << 32 | 1 << 30 | 1 << 26]), None),
        message(SET_VRING_ENABLE, &pair(0, 0), None),
        message(GET_VRING_BASE, &pair(0, 0), None),
        message(RESET_DEVICE, &[], None),
    ]
}

/// Says all messages before number `at` and the first `cut` bytes of that one, and goes.
fn leave(house: &House, messages: &[Message], at: usize, cut: usize) {
    let stream = house.connect();
    for (number, message) in messages.iter().enumerate().take(at + 1) {
        let len = if number == at {
            cut
        } else {
            message.bytes.len()
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = message.file.iter().map(AsFd::as_fd).collect();
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        }
        let iov = [std::io::IoSlice::new(&message.bytes[..len])];
        let sent = rustix::net::sendmsg(&stream, &iov, &mut control, SendFlags::NOSIGNAL);
        assert_eq!(sent, Ok(len));
    }
}

#[test]
fn disconnects() {
    let mut family = Family::start("V-16", "Disconnects after every byte of a session");
    let guest = Guest::new();
    let messages = life(&guest);
    for (at, message) in messages.iter().enumerate() {
        let len = message.bytes.len();
        family.front_end(
            format!(
                "message {} of {}, number {}",
                at + 1,
                messages.len(),
                message.request
            ),
            |house| {
                for cut in 1..=len {
                    leave(house, &messages, at, cut);
                }
                format!("after each of its {len} bytes: the session ends")
            },
        );
    }
    family.front_end("300 connections without a word", |house| {
        for _ in 0..300 {
            drop(house.connect());
        }
        "all ended".to_owned()
    });
    family.finish();
}
