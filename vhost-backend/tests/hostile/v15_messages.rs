//! Every message there could be, with every length, any number of descriptors, in every state of a session.
//!
//! `VBD_ALL_MESSAGES=1` takes all lengths and numbers of descriptors instead of those where something changes.

use std::fs::File;
use std::io::Write;
use std::net::Shutdown;

use blob::test_util::noise;

use crate::family::Family;
use crate::house::House;
use crate::messages::memory_file;
use crate::support::client::Client;
use crate::support::driver::{Driver, eventfd};

/// One more than the last message of any version of the protocol, and some.
const REQUESTS: u32 = 50;
/// None, one, one more than any message has; and all that could be a border, up to what the system takes.
const FDS: [usize; 3] = [0, 1, 33];
const ALL_FDS: [usize; 7] = [0, 1, 2, 8, 32, 33, 253];

fn all() -> bool {
    std::env::var_os("VBD_ALL_MESSAGES").is_some()
}

/// A length that is announced, and how many bytes really follow.
fn lengths(request: u32) -> Vec<(u32, usize)> {
    let expected: u32 = match request {
        2 | 7 | 12..=14 | 16 | 36 => 8,
        5 => 8 + 32,
        6 => 16,
        8 | 10 | 11 | 18 | 42 => 8,
        9 | 37 | 38 => 40,
        24 | 25 => 12 + 8,
        31 | 32 => 24,
        _ => 0,
    };
    let mut lengths = vec![expected, expected + 1];
    lengths.extend(expected.checked_sub(1));
    if all() {
        lengths.extend([0, 4096, 4097]);
    }
    lengths.sort_unstable();
    lengths.dedup();
    let whole = lengths.into_iter().map(|len| (len, len as usize));
    whole.chain([(u32::MAX, 64)]).collect()
}

#[derive(Clone, Copy, Debug)]
enum State {
    NothingSaid,
    Negotiated,
    RingRuns,
    RingStopped,
}

const STATES: [State; 4] = [
    State::NothingSaid,
    State::Negotiated,
    State::RingRuns,
    State::RingStopped,
];

fn client(house: &House, state: State) -> (Client, Option<Driver>) {
    match state {
        State::NothingSaid => (Client::new(house.connect()), None),
        State::Negotiated => {
            let driver = Driver::negotiate(house.connect(), u64::MAX, u64::MAX);
            let stream = driver.client.stream.try_clone().unwrap();
            (Client::new(stream), Some(driver))
        }
        State::RingRuns | State::RingStopped => {
            let mut driver = Driver::start(house.connect(), 1);
            if matches!(state, State::RingStopped) {
                driver.stop_ring(0);
            }
            let stream = driver.client.stream.try_clone().unwrap();
            (Client::new(stream), Some(driver))
        }
    }
}

/// Takes whatever comes until the backend has ended the connection.
fn drain(client: &mut Client) {
    // A reset is an end as well.
    let _ended = std::io::copy(&mut client.stream, &mut std::io::sink());
}

/// Sends one message in one state; the backend has taken it, and ended the session, when this returns.
fn attack(house: &House, state: State, request: u32, (announced, len): (u32, usize), fds: usize) {
    let (mut client, driver) = client(house, state);
    let files: Vec<File> = (0..fds)
        .map(|number| match number % 2 {
            0 => eventfd(),
            _ => memory_file(0x10_0000),
        })
        .collect();
    let payload = match len {
        // Numbers that might mean something: a ring, a flag, an address.
        0..=64 => [vec![0, 0, 0, 0], vec![1; len]].concat()[..len].to_vec(),
        _ => noise(len, u64::from(request)),
    };
    client.send_as(
        request,
        1,
        announced,
        &payload,
        &files.iter().collect::<Vec<_>>(),
    );
    client.stream.shutdown(Shutdown::Write).unwrap();
    drain(&mut client);
    drop(driver);
}

#[test]
fn messages() {
    let mut family = Family::start(
        "V-15",
        "Every message, length, number of descriptors and state",
    );
    let count = std::cell::Cell::new(0);
    for request in (0..REQUESTS).chain([99, 1 << 31, u32::MAX]) {
        family.front_end(format!("message {request}"), |house| {
            let fds: &[usize] = if all() { &ALL_FDS } else { &FDS };
            for state in STATES {
                for length in lengths(request) {
                    for fds in fds {
                        attack(house, state, request, length, *fds);
                        count.set(count.get() + 1);
                    }
                }
            }
            "every session ends, nothing is left of it".to_owned()
        });
    }
    println!("{} sessions of one message", count.get());
    for flags in [0, 2, 3, 5, 0xf1, u32::MAX] {
        family.front_end(format!("flags {flags:#x}"), |house| {
            for request in 0..REQUESTS {
                let mut client = Client::new(house.connect());
                client.send(request, flags, &[0; 8], &[]);
                client.stream.shutdown(Shutdown::Write).unwrap();
                drain(&mut client);
            }
            "every session ends, nothing is left of it".to_owned()
        });
    }
    family.front_end("answers that nobody takes", |house| {
        let client = Client::new(house.connect());
        client
            .stream
            .set_write_timeout(Some(std::time::Duration::from_millis(200)))
            .unwrap();
        let mut client = client;
        // The socket is full when the backend cannot answer any more.
        let ask = [1_u32, 1, 0].map(u32::to_le_bytes).concat();
        while client.stream.write_all(&ask).is_ok() {}
        "connection ended, after 5 s at most".to_owned()
    });
    family.front_end("a message that is never finished", |house| {
        let mut client = Client::new(house.connect());
        client.raw(&[1, 0, 0, 0, 1]);
        assert!(client.is_closed());
        "connection ended, after 5 s at most".to_owned()
    });
    family.finish();
}
