//! C-18: a message that cannot be understood ends its session cleanly: descriptors closed, the next one served.
//! C-19: one session follows another as often as front-ends like; a new one knows nothing of the old, and a guest
//! that goes on loses nothing.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use vhost_backend::session::End;

use crate::bench::{self, NEED_REPLY, USED, is_abandoned, memfd, pipe, put_indices, start};
use crate::program::Place;
use crate::registry::{line, number_or};
use crate::support::client::{
    ADD_MEM_REG, Client, GET_FEATURES, GET_QUEUE_NUM, SET_FEATURES, SET_MEM_TABLE, SET_OWNER,
    SET_PROTOCOL_FEATURES, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_KICK, pair,
};
use crate::support::driver::{Driver, Resume, readable};

/// Front-ends after one another in a normal run; the promise is made for 1,000 (`VBD_RECONNECTS`).
const RECONNECTS: usize = 200;

line! {
    C18 = "C-18", c18_illegal_messages:
    "C-18.01" "another version, a reply, unknown flags" => flags,
    "C-18.02" "one byte too few or too many" => lengths,
    "C-18.03" "more than any message may have" => too_long,
    "C-18.04" "descriptors where none belong are closed" => unwanted_descriptors,
    "C-18.05" "descriptors of what is refused are closed" => refused_descriptors,
    "C-18.06" "a descriptor is missing, or one too many" => wrong_number,
    "C-18.07" "half a message and the end" => half_a_message,
    "C-18.08" "a message that is never finished ends after 5 s" => never_finished,
    "C-18.09" "many messages in one write" => many_at_once,
    "C-18.10" "300 sessions that end badly leave nothing" => bad_ends,
    "C-18.11" "other sessions hear nothing of it" => others,
}

line! {
    C19 = "C-19", c19_reconnect:
    "C-19.01" "SET_OWNER may be said again" => owner_again,
    "C-19.02" "one front-end after another, each reads right" => reconnects,
    "C-19.03" "a new session knows no features and no memory" => forgotten,
    "C-19.04" "a second front-end waits for the first to go" => second_waits,
    "C-19.05" "those who wait are served in order" => line_of_waiting,
    "C-19.06" "the next is served within milliseconds" => quickly,
    "C-19.07" "the guest of an ended session is left alone" => left_alone,
    "C-19.08" "a guest goes on, whichever position is stated" => goes_on,
    "C-19.09" "what was answered unseen is answered once" => answered_unseen,
    "C-19.10" "a guest that goes on is told to look" => told_to_look,
    "C-19.11" "a ring set up anew begins where it says" => set_up_anew,
    "C-19.12" "a session may end after any message" => after_any_message,
    "C-19.13" "16 layers are served within milliseconds of the start" => start_quickly,
}

fn flags() {
    for flags in [0, 2, 3, 1 | 4, 1 | 4 | 8, 1 | 16, 1 | 1 << 31] {
        let mut bench = start(1);
        bench.driver.client.send(GET_QUEUE_NUM, flags, &[], &[]);
        assert_eq!(bench.driver.client.reply(GET_QUEUE_NUM), None, "{flags:#x}");
        bench.demand_refused();
        start(1).check_read(0);
    }
}

/// Every message of a fixed length, and that length. Those that need a descriptor are elsewhere.
const LENGTHS: [(u32, usize); 22] = [
    (1, 0),
    (2, 8),
    (3, 0),
    (4, 0),
    (8, 8),
    (9, 40),
    (10, 8),
    (11, 8),
    (12, 8),
    (13, 8),
    (14, 8),
    (15, 0),
    (16, 8),
    (17, 0),
    (18, 8),
    (31, 24),
    (32, 24),
    (34, 0),
    (36, 0),
    (37, 40),
    (38, 40),
    (42, 8),
];

fn lengths() {
    for (request, len) in LENGTHS {
        for len in [len.checked_sub(1), Some(len + 1)].into_iter().flatten() {
            let mut bench = start(1);
            bench.driver.client.send(request, 1, &vec![0; len], &[]);
            bench.demand_refused();
        }
    }
}

fn too_long() {
    for claimed in [4097, 8192, 65_536, u32::MAX] {
        let mut bench = start(1);
        let header = [GET_FEATURES, 1, claimed].map(u32::to_le_bytes).concat();
        bench.driver.client.raw(&header);
        bench.driver.client.raw(&vec![0; 8192]);
        bench.demand_refused();
    }
}

fn unwanted_descriptors() {
    for (request, len) in LENGTHS {
        if matches!(request, 12..=14 | 32 | 37 | 38 | 42) {
            continue;
        }
        let mut bench = start(1);
        let (out, into) = pipe();
        let payload = vec![0; len];
        bench.driver.client.send(request, 1, &payload, &[&into]);
        drop(into);
        assert!(is_abandoned(&out), "message {request}");
        bench.demand_refused();
    }
}

fn refused_descriptors() {
    let mut bench = bench::start_on(&bench::device_with_queues(1), 1);
    for request in [SET_VRING_KICK, SET_VRING_CALL, ADD_MEM_REG, SET_MEM_TABLE] {
        let (out, into) = pipe();
        let region = [0, 0x9000_0000, 0x1000, 0, 0]
            .map(u64::to_le_bytes)
            .concat();
        let payload = match request {
            ADD_MEM_REG => region,
            SET_MEM_TABLE => [&1_u64.to_le_bytes()[..], &region[8..]].concat(),
            _ => 1_u64.to_le_bytes().to_vec(),
        };
        assert!(!bench.asks(request, &payload, &[&into]), "{request}");
        drop(into);
        assert!(is_abandoned(&out), "message {request}");
        bench.check_read(0);
    }
}

fn wrong_number() {
    let ring = 0_u64.to_le_bytes();
    let polling = 0x100_u64.to_le_bytes();
    let file = memfd(0x1000);
    for request in [SET_VRING_KICK, SET_VRING_CALL, 14] {
        let cases: [(&[u8], usize); 3] = [(&ring, 0), (&ring, 2), (&polling, 1)];
        for (payload, files) in cases {
            let mut bench = start(1);
            let files = vec![&file; files];
            bench.driver.client.send(request, 1, payload, &files);
            bench.demand_refused();
        }
    }
}

fn half_a_message() {
    let message = [
        &[SET_VRING_ENABLE, 1, 8].map(u32::to_le_bytes).concat()[..],
        &pair(0, 0),
    ];
    let message = message.concat();
    for len in 1..message.len() {
        let mut bench = start(1);
        bench.driver.client.raw(&message[..len]);
        assert_eq!(bench.hang_up(), End::Disconnected, "{len} bytes");
    }
    start(1).check_read(0);
}

fn never_finished() {
    let mut bench = start(1);
    let begun = Instant::now();
    bench.driver.client.raw(&[1, 0, 0]);
    bench.demand_refused();
    let took = begun.elapsed();
    assert!(took > Duration::from_secs(4), "{took:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
}

fn many_at_once() {
    let mut bench = start(1);
    let question = [GET_QUEUE_NUM, 1, 0].map(u32::to_le_bytes).concat();
    let enable = [
        &[SET_VRING_ENABLE, 1, 8].map(u32::to_le_bytes).concat()[..],
        &pair(0, 1),
    ];
    let both = [question, enable.concat()].concat();
    let client = &mut bench.driver.client;
    client.raw(&both.repeat(50));
    for _ in 0..50 {
        let answer = client.reply(GET_QUEUE_NUM);
        assert_eq!(answer, Some(256_u64.to_le_bytes().to_vec()));
    }
    bench.check_read(0);
}

fn bad_ends() {
    let place = Place::new();
    let program = place.serve();
    place.check_read(&mut Driver::start(program.connect(), 2), 1);
    bench::wait_until("the session to end", || program.usage().1 <= 2);
    let before = program.usage();
    for round in 0..300_u32 {
        let mut driver = Driver::start(program.connect(), round % 3);
        let file = memfd(0x1000);
        let client = &mut driver.client;
        client.send(
            round % 50,
            round % 9,
            &vec![0; round as usize % 48],
            &[&file],
        );
        client.raw(&[0; 3]);
    }
    place.check_read(&mut Driver::start(program.connect(), 2), 1);
    program.demand_no_more_than(before);
}

fn others() {
    let mut honest = start(2);
    for request in [0, 99, SET_FEATURES] {
        let mut bench = start(1);
        bench.driver.client.send(request, 1, &[0xff; 8], &[]);
        bench.demand_refused();
        (0..2).for_each(|at| honest.check_read(at));
    }
}

fn owner_again() {
    let mut bench = start(1);
    for _ in 0..3 {
        bench.driver.client.tell(SET_OWNER, &[], &[]);
        bench.check_read(0);
    }
}

fn reconnects() {
    let reconnects = number_or("VBD_RECONNECTS", RECONNECTS);
    let place = Place::new();
    let program = place.serve();
    place.check_read(&mut Driver::start(program.connect(), 2), 0);
    bench::wait_until("the session to end", || program.usage().1 <= 2);
    let before = program.usage();
    for round in 0..reconnects {
        let mut driver = Driver::start(program.connect(), 2);
        place.check_read(&mut driver, round % 2);
    }
    program.demand_no_more_than(before);
    println!("{reconnects} reconnects");
}

fn forgotten() {
    let mut bench = start(1);
    bench.demand_runs(0);
    let (stream, _other) = UnixStream::pair().unwrap();
    drop(std::mem::replace(
        &mut bench.driver.client,
        Client::new(stream),
    ));
    let mut bench = bench.wait_for_end();
    let (client, _served) = bench::connect();
    bench.driver.client = client;
    let client = &mut bench.driver.client;
    assert_eq!(client.vring_base(0), 0);
    assert_ne!(client.ask_u64(GET_FEATURES), 0);
    client.tell_u64(SET_FEATURES, 1 << 32 | 1 << 30);
    let kick = bench.driver.rings[0].kick.try_clone().unwrap();
    client.tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
    client.tell_ring(SET_VRING_ENABLE, 0, 1);
    // Answered after all of it has been done.
    assert_ne!(client.ask_u64(GET_FEATURES), 0);
    bench.offer_read(0, 1, 7);
    bench.demand_silence(0);
    // REPLY_ACK was forgotten too.
    bench
        .driver
        .client
        .send(SET_VRING_BASE, NEED_REPLY, &pair(0, 1), &[]);
    assert_ne!(bench.driver.client.ask_u64(GET_FEATURES), 0);
}

fn second_waits() {
    let place = Place::new();
    let program = place.serve();
    let mut first = Driver::start(program.connect(), 1);
    let mut second = Client::new(program.connect());
    second.send(GET_FEATURES, 1, &[], &[]);
    for _ in 0..20 {
        place.check_read(&mut first, 0);
    }
    assert!(
        !readable(&second.stream, bench::QUIET),
        "answered too early"
    );
    drop(first);
    assert!(second.reply(GET_FEATURES).is_some());
}

fn line_of_waiting() {
    let place = Place::new();
    let program = place.serve();
    let mut waiting: Vec<Client> = (0..5).map(|_| Client::new(program.connect())).collect();
    for client in &mut waiting {
        client.send(GET_FEATURES, 1, &[], &[]);
    }
    for at in 0..waiting.len() {
        let mut client = waiting.remove(0);
        assert!(client.reply(GET_FEATURES).is_some(), "number {at}");
        let rest = waiting
            .iter()
            .all(|other| !readable(&other.stream, Duration::ZERO));
        assert!(rest, "one after another");
    }
}

/// The middle of several measurements.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// 10 ms are promised on a machine that has nothing else to do.
const GENEROUS: u32 = 20;

fn quickly() {
    let place = Place::new();
    let program = place.serve();
    let times = (0..31).map(|_| {
        let mut driver = Driver::start(program.connect(), 2);
        place.check_read(&mut driver, 0);
        drop(driver);
        let begun = Instant::now();
        let mut next = Client::new(program.connect());
        assert_ne!(next.ask_u64(GET_FEATURES), 0);
        begun.elapsed()
    });
    let median = median(times.collect());
    println!("C-19.06: {median:?} from the end of a session to the next answer");
    assert!(median < Duration::from_millis(10) * GENEROUS, "{median:?}");
}

fn left_alone() {
    let mut bench = start(2);
    (0..2).for_each(|at| bench.demand_runs(at));
    let (stream, _other) = UnixStream::pair().unwrap();
    let old = std::mem::replace(&mut bench.driver.client, Client::new(stream));
    drop(old);
    let mut bench = bench.wait_for_end();
    for at in 0..2 {
        bench.offer_read(at, 1, 7);
    }
    let before = bench.driver.snapshot();
    (0..2).for_each(|at| bench.demand_silence(at));
    assert!(bench.driver.snapshot() == before);
}

fn goes_on() {
    for resume in [Resume::AtUsedIndex, Resume::AtAvailableIndex] {
        for position in [0, 100, 65_530] {
            let mut bench = start(0);
            let ring = bench.driver.new_ring(0, 128);
            bench.driver.rings.push(ring);
            put_indices(&mut bench, 0, position);
            for slot in 0..9 {
                bench.offer_read(0, slot, 500 + u64::from(slot));
            }
            bench.reconnect(resume);
            for slot in 0..9 {
                bench.expect_read(0, slot, 500 + u64::from(slot));
            }
            assert_eq!(bench.stop(0), position.wrapping_add(9));
        }
    }
}

fn answered_unseen() {
    for resume in [Resume::AtUsedIndex, Resume::AtAvailableIndex] {
        let mut bench = start(1);
        (0..9).for_each(|slot| bench.offer_read(0, slot, 500));
        bench.driver.kick(0);
        (0..3).for_each(|slot| bench.expect_read(0, slot, 500));
        // The end comes while the guest knows of three answers, whatever there are.
        let (stream, _other) = UnixStream::pair().unwrap();
        drop(std::mem::replace(
            &mut bench.driver.client,
            Client::new(stream),
        ));
        let mut bench = bench.wait_for_end();
        bench.reconnect(resume);
        (3..9).for_each(|slot| bench.expect_read(0, slot, 500));
        assert_eq!(bench.stop(0), 9);
        assert_eq!(bench.driver.used_index(0), 9);
    }
}

fn told_to_look() {
    let mut bench = start(1);
    bench.wait_for_start(0);
    bench.demand_runs(0);
    bench.stop(0);
    bench.take_interrupts(0);
    for resume in [Resume::AtUsedIndex, Resume::AtAvailableIndex] {
        bench.reconnect(resume);
        bench.wait_for_start(0);
    }
}

fn set_up_anew() {
    let mut bench = start(0);
    let ring = bench.driver.new_ring(0, 128);
    bench.driver.rings.push(ring);
    // A position that is no continuation of the used index is what the front-end says it is.
    put_indices(&mut bench, 0, 5000);
    bench.put_u16(bench.driver.rings[0].base + USED + 2, 77);
    bench.driver.rings[0].next_used = 77;
    bench.driver.start_ring(0);
    (0..5).for_each(|_| bench.demand_runs(0));
    assert_eq!(bench.stop(0), 5005);
}

fn after_any_message() {
    type Say = fn(&mut Driver);
    let steps: [Say; 8] = [
        |driver| assert_ne!(driver.client.ask_u64(GET_FEATURES), 0),
        |driver| driver.client.tell(SET_OWNER, &[], &[]),
        |driver| driver.client.tell_u64(SET_PROTOCOL_FEATURES, 1 << 3),
        |driver| driver.client.tell_u64(SET_FEATURES, 1 << 32 | 1 << 30),
        |driver| driver.hand_over_table(0),
        |driver| driver.start_ring(0),
        |driver| driver.kick(0),
        |driver| {
            driver.client.vring_base(0);
        },
    ];
    for count in 0..=steps.len() {
        let mut bench = start(0);
        let (client, served) = bench::connect();
        bench.driver.client = client;
        bench.driver.features = 1 << 32 | 1 << 30;
        let ring = bench.driver.new_ring(0, 128);
        bench.driver.rings.push(ring);
        steps[..count]
            .iter()
            .for_each(|step| step(&mut bench.driver));
        drop(bench);
        assert_eq!(served.end(), End::Disconnected, "after {count} messages");
    }
    start(1).check_read(0);
}

fn start_quickly() {
    let place = Place::new();
    let layers = vec![place.text("base.lsmt"); 15].join(",");
    let layers = format!("{layers},{}", place.text("app.zfile"));
    let socket = place.path("quick");
    let times = (0..11).map(|_| {
        let begun = Instant::now();
        let args = ["--socket", &place.text("quick"), "--layers", &layers];
        let child = place.spawn(&args);
        let program = crate::program::Program {
            child,
            socket: socket.clone(),
        };
        bench::wait_until("an answer", || UnixStream::connect(&socket).is_ok());
        let took = begun.elapsed();
        drop(program);
        std::fs::remove_file(&socket).unwrap();
        took
    });
    let median = median(times.collect());
    println!("C-19.13: {median:?} from the start of the program with 16 layers to a socket");
    assert!(median < Duration::from_millis(20) * GENEROUS, "{median:?}");
}
