//! C-21: the program ends quickly and cleanly when it is told to, whatever it is doing.

use std::io::Write;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use vhost_backend::session::End;

use crate::bench::{PATIENCE, stalling, start_on, wait_until};
use crate::program::{Place, Program, exists};
use crate::registry::line;
use crate::support::client::{Client, GET_FEATURES, SET_VRING_ENABLE};
use crate::support::driver::{Driver, WRITE, readable};
use crate::support::guest::BUFFERS;

line! {
    C21 = "C-21", c21_termination:
    "C-21.01" "with nobody connected" => || ends_after(|_, _| None),
    "C-21.02" "with a front-end that says nothing" => || ends_after(silent),
    "C-21.03" "in the middle of a message" => || ends_after(half_a_message),
    "C-21.04" "with rings that wait" => || ends_after(rings_wait),
    "C-21.05" "with rings that work" => || ends_after(rings_work),
    "C-21.06" "with rings that are stopped or disabled" => || ends_after(rings_stopped),
    "C-21.07" "with a ring that is broken" => || ends_after(ring_broken),
    "C-21.08" "with a front-end that does not read its answers" => deaf_front_end,
    "C-21.09" "with other front-ends in line" => in_line,
    "C-21.10" "by SIGINT just the same" => by_sigint,
    "C-21.11" "told twice" => told_twice,
    "C-21.12" "what was taken has been answered then" => drained,
    "C-21.13" "a disk that hangs does not keep it" => hung_disk,
}

/// What is promised for the end, from the signal on.
const BOUND: Duration = Duration::from_secs(1);
/// Machines that test have other things to do.
const SLACK: u32 = 3;

/// What a front-end holds while the program is told to end.
enum Held {
    Client(#[expect(dead_code, reason = "held, not used")] Client),
    Driver(#[expect(dead_code, reason = "held, not used")] Box<Driver>),
}

fn demand_end(program: &mut Program, signal: Signal) {
    program.signal(signal);
    let (status, took) = program.wait();
    assert_eq!(status.code(), Some(0));
    assert!(took < SLACK * BOUND, "{took:?}");
    assert!(!exists(&program.socket));
}

/// Brings the program into a state and ends it there.
fn ends_after(prepare: fn(&Place, &Program) -> Option<Held>) {
    let place = Place::new();
    let mut program = place.serve();
    let held = prepare(&place, &program);
    demand_end(&mut program, Signal::TERM);
    assert!(!place.log().contains("ended hard"), "{}", place.log());
    drop(held);
}

fn silent(_place: &Place, program: &Program) -> Option<Held> {
    Some(Held::Client(Client::new(program.connect())))
}

fn half_a_message(_place: &Place, program: &Program) -> Option<Held> {
    let mut client = Client::new(program.connect());
    assert_ne!(client.ask_u64(GET_FEATURES), 0);
    client.raw(&[1, 0, 0, 0, 1]);
    Some(Held::Client(client))
}

fn rings_wait(place: &Place, program: &Program) -> Option<Held> {
    let mut driver = Driver::start(program.connect(), 8);
    (0..8).for_each(|at| place.check_read(&mut driver, at));
    Some(Held::Driver(Box::new(driver)))
}

/// Offers as many large reads as a ring holds.
fn fill(driver: &mut Driver, at: usize) {
    let header = BUFFERS + 0x800;
    driver.header(header, 0, 0);
    let pieces = [
        (header, 16, 0),
        (BUFFERS + 0x10_0000, 0x20_0000, WRITE),
        (header + 0x20, 1, WRITE),
    ];
    driver.chain(at, 0, &pieces);
    (0..128).for_each(|_| driver.offer(at, 0));
    driver.kick(at);
}

fn rings_work(_place: &Place, program: &Program) -> Option<Held> {
    let mut driver = Driver::start(program.connect(), 4);
    (0..4).for_each(|at| fill(&mut driver, at));
    driver.wait(0);
    Some(Held::Driver(Box::new(driver)))
}

fn rings_stopped(place: &Place, program: &Program) -> Option<Held> {
    let mut driver = Driver::start(program.connect(), 3);
    place.check_read(&mut driver, 1);
    driver.stop_ring(1);
    driver.client.tell_ring(SET_VRING_ENABLE, 2, 0);
    Some(Held::Driver(Box::new(driver)))
}

fn ring_broken(_place: &Place, program: &Program) -> Option<Held> {
    let mut driver = Driver::start(program.connect(), 2);
    driver.set_avail_index(0, 999);
    driver.kick(0);
    assert!(readable(&driver.rings[0].error, PATIENCE));
    Some(Held::Driver(Box::new(driver)))
}

/// Asks, and takes no answer, until the program is stuck with one.
fn deaf(program: &Program) -> Client {
    let mut client = Client::new(program.connect());
    client.stream.set_nonblocking(true).unwrap();
    let question = [GET_FEATURES, 1, 0].map(u32::to_le_bytes).concat();
    wait_until("an answer that there is no room for", || {
        while let Ok(sent) = client.stream.write(&question) {
            assert_eq!(sent, question.len());
        }
        // With questions waiting for it, there is nothing else it could sleep for.
        program.sleeps() && client.stream.write(&question).is_err()
    });
    client
}

fn in_line() {
    let place = Place::new();
    let mut program = place.serve();
    let mut driver = Driver::start(program.connect(), 1);
    place.check_read(&mut driver, 0);
    let waiting: Vec<Client> = (0..5).map(|_| Client::new(program.connect())).collect();
    demand_end(&mut program, Signal::TERM);
    drop((driver, waiting));
}

fn by_sigint() {
    let place = Place::new();
    let mut program = place.serve();
    let driver = Driver::start(program.connect(), 2);
    demand_end(&mut program, Signal::INT);
    drop(driver);
}

fn told_twice() {
    let place = Place::new();
    let mut program = place.serve();
    let driver = Driver::start(program.connect(), 2);
    program.signal(Signal::TERM);
    program.signal(Signal::INT);
    demand_end(&mut program, Signal::TERM);
    drop(driver);
}

fn drained() {
    let place = Place::new();
    let mut program = place.serve();
    let mut driver = Driver::start(program.connect(), 1);
    fill(&mut driver, 0);
    driver.wait(0);
    demand_end(&mut program, Signal::TERM);
    // Every used entry there is, is whole: an index without its entry would be a request lost.
    let used = driver.used_index(0);
    for _ in 1..used {
        assert_eq!(driver.wait(0).used_len, 0x20_0001);
    }
    let data = driver.bytes(BUFFERS + 0x10_0000, 0x20_0000);
    assert!(data == place.disk[..0x20_0000]);
}

fn hung_disk() {
    let (device, stall) = stalling();
    let mut bench = start_on(&device, 4);
    stall.close();
    for at in 0..4 {
        bench.offer_read(at, 0, 50);
        bench.driver.kick(at);
    }
    wait_until("all rings to hang", || stall.waiting() == 4);
    let begun = Instant::now();
    assert_eq!(bench.shut_down(), End::Shutdown);
    assert!(begun.elapsed() < SLACK * BOUND, "{:?}", begun.elapsed());
    stall.open();
}

/// Here it ends by its own deadline: nothing else would make that front-end read.
fn deaf_front_end() {
    let place = Place::new();
    let mut program = place.serve();
    let held = deaf(&program);
    demand_end(&mut program, Signal::TERM);
    assert!(place.log().contains("ended hard"), "{}", place.log());
    drop(held);
}
