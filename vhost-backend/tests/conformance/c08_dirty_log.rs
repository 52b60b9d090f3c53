//! C-08: while VHOST_F_LOG_ALL is taken, every page that is written is marked in the log before anybody can know that
//! it was written; no page is marked otherwise; and no order of messages loses a mark.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use vm_memory::{Bytes, GuestAddress};

use crate::bench::{
    self, Bench, Dice, PATIENCE, QUIET, area, memfd, negotiate, remove_piece, stalling, start,
};
use crate::dirty_log::{
    FIELD, Log, PAGE, copier, log_all, logging, logging_on, offer_to, pages, place_to,
    tell_logged_addresses, used_pages,
};
use crate::program::Place;
use crate::registry::line;
use crate::support::client::{
    ADD_MEM_REG, GET_FEATURES, GET_PROTOCOL_FEATURES, REM_MEM_REG, RESET_DEVICE, SET_FEATURES,
    SET_LOG_BASE, SET_VRING_KICK,
};
use crate::support::driver::{Driver, LOG_ALL, LOG_LEN_BYTES, WRITE, readable};
use crate::support::guest::{BORDER, BUFFERS, END};

/// The vhost-user feature that a log may be handed over.
const LOG_SHMFD: u64 = 1 << 1;

line! {
    C08 = "C-08", c08_dirty_log:
    "C-08.01" "log and LOG_ALL are offered" => offered,
    "C-08.02" "every page that changes is marked" => marks_all,
    "C-08.03" "no other page is marked" => marks_no_other,
    "C-08.04" "the used ring is also marked where it is said to be" => used_elsewhere,
    "C-08.05" "marks are there when the used index is seen" => marks_before_index,
    "C-08.06" "a copy that follows the log ends up equal" => copy_follows,
    "C-08.07" "nothing is marked before LOG_ALL" => not_yet,
    "C-08.08" "on, off and on again" => on_off_on,
    "C-08.09" "LOG_ALL without a log writes nothing" => waits_for_log,
    "C-08.10" "who cannot hand over a log is not held up" => no_log_to_come,
    "C-08.11" "a new memory table is logged" => across_table,
    "C-08.12" "an added region is logged" => across_add,
    "C-08.13" "a region that comes back is logged" => across_remove,
    "C-08.14" "a new log takes over at once" => replaced,
    "C-08.15" "a log in the middle of its file" => offset_in_file,
    "C-08.16" "a write across pages marks each" => across_pages,
    "C-08.17" "all pages of a long used ring are marked" => long_used_ring,
    "C-08.18" "refusals and serials are marked too" => every_kind,
    "C-08.19" "a ring that restarts goes on marking" => across_restart,
    "C-08.20" "a reset keeps the log" => across_reset,
    "C-08.21" "a log too short for memory ends the session" => too_short,
    "C-08.22" "a log that cannot be ends the session" => impossible,
    "C-08.23" "memory beyond the log is refused" => region_beyond,
    "C-08.24" "a used ring beyond the log does not run" => used_beyond,
    "C-08.25" "a log of a terabyte of addresses" => far_up,
    "C-08.26" "SET_LOG_BASE is answered once" => one_answer,
    "C-08.27" "a thousand logs leave nothing" => descriptors,
    "C-08.28" "whoever dies behind a used index has marked it" => crate::c08_killed::marks_outlive_a_kill,
}

/// Pages that differ between two snapshots of guest memory.
fn changed(bench: &Bench, before: &[Vec<u8>], after: &[Vec<u8>]) -> BTreeSet<u64> {
    let pieces = bench
        .driver
        .guest
        .pieces
        .iter()
        .zip(before.iter().zip(after));
    pieces
        .flat_map(|(piece, (before, after))| {
            let pairs = before.chunks(4096).zip(after.chunks(4096)).enumerate();
            let differ = pairs.filter(|(_, (before, after))| before != after);
            differ.map(|(number, _)| piece.guest / PAGE + number as u64)
        })
        .collect()
}

/// Random reads on three rings; returns pages that changed, that were marked, and that were allowed to be.
fn random_reads(dice: &mut Dice) -> [BTreeSet<u64>; 3] {
    let (mut bench, log) = logging(3);
    // Stopped, so that what is marked from here on is marked for these reads.
    let positions = [0, 1, 2].map(|at| bench.stop(at));
    let mut allowed: BTreeSet<u64> = (0..3).flat_map(|at| used_pages(&bench, at)).collect();
    let mut data = FIELD + dice.below(PAGE);
    for slot in 0..20 {
        for at in 0..3 {
            let len = 512 * (1 + dice.below(30));
            offer_to(
                &mut bench,
                at,
                slot,
                dice.below(3000),
                (data, u32::try_from(len).unwrap()),
            );
            allowed.extend(pages(data, len));
            allowed.extend(pages(area(at, slot) + 0x20, 1));
            data += len + dice.below(0x4000);
            assert!(data + 0x8000 < END);
        }
    }
    let before = bench.driver.snapshot();
    log.take();
    (0..3).for_each(|at| bench.start_at(at, positions[at]));
    for at in 0..3 {
        (0..20).for_each(|_| {
            bench.driver.wait(at);
        });
        bench.stop(at);
    }
    let after = bench.driver.snapshot();
    [changed(&bench, &before, &after), log.take(), allowed]
}

fn offered() {
    let (mut client, _served) = bench::connect();
    assert_ne!(client.ask_u64(GET_FEATURES) & LOG_ALL, 0);
    assert_ne!(client.ask_u64(GET_PROTOCOL_FEATURES) & LOG_SHMFD, 0);
}

fn marks_all() {
    let mut dice = Dice::new("C-08.02");
    for _ in 0..5 {
        let [changed, marked, _] = random_reads(&mut dice);
        assert!(changed.len() > 100, "a test of nothing");
        let missed: Vec<_> = changed.difference(&marked).collect();
        assert!(missed.is_empty(), "not marked: {missed:x?}");
    }
}

fn marks_no_other() {
    let mut dice = Dice::new("C-08.03");
    for _ in 0..5 {
        let [_, marked, allowed] = random_reads(&mut dice);
        let more: Vec<_> = marked.difference(&allowed).collect();
        assert!(more.is_empty(), "marked for nothing: {more:x?}");
    }
}

fn used_elsewhere() {
    let (mut bench, log) = logging(1);
    // Where the guest has no memory at all.
    let elsewhere = 0x3000_0ffc;
    tell_logged_addresses(&mut bench, elsewhere);
    log.take();
    bench.demand_runs(0);
    bench.stop(0);
    let marked = log.take();
    assert!(pages(elsewhere, 6 + 8 * 128).all(|page| marked.contains(&page)));
    assert!(used_pages(&bench, 0).all(|page| marked.contains(&page)));
}

fn marks_before_index() {
    let (device, stall) = stalling();
    let (mut bench, log) = logging_on(&device, 1);
    // Where the guest has no memory at all.
    let elsewhere = 0x3000_0ffc;
    tell_logged_addresses(&mut bench, elsewhere);
    for round in 0..200_u64 {
        let data = FIELD + PAGE * round;
        place_to(&mut bench, 0, 0, 50, (data, 4096));
        // The used ring first: what is written last is marked last.
        let expected: Vec<u64> = pages(elsewhere, 6 + 8 * 128)
            .chain(used_pages(&bench, 0))
            .chain(pages(area(0, 0) + 0x20, 1))
            .chain(pages(data, 4096))
            .collect();
        let used = bench.driver.used_index(0);
        stall.close();
        bench.driver.offer(0, 0);
        bench.driver.kick(0);
        bench::wait_until("a read that hangs", || stall.waiting() == 1);
        // Everything that the answer marks is still to come.
        log.take();
        let deadline = Instant::now() + PATIENCE;
        stall.open();
        while bench.driver.used_index(0) == used {
            assert!(Instant::now() < deadline, "an answer");
        }
        let missing: Vec<&u64> = expected
            .iter()
            .filter(|page| !log.is_marked(**page))
            .collect();
        assert!(missing.is_empty(), "round {round}: {missing:x?}");
        bench.driver.wait(0);
    }
}

fn copy_follows() {
    let mut dice = Dice::new("C-08.06");
    let (mut bench, log) = logging(2);
    for at in 0..2 {
        for slot in 0..20 {
            bench.place_read(at, slot, 0);
            let data = FIELD + 0x3000 * (20 * at as u64 + u64::from(slot)) + 0x123;
            bench
                .driver
                .descriptor(at, 3 * slot + 1, (data, 0x2000, 1 | WRITE, 3 * slot + 2));
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let copier = copier(bench.driver.guest.memory.clone(), log, Arc::clone(&stop));
    for _ in 0..100 {
        for at in 0..2 {
            for slot in 0..20 {
                bench.driver.header(area(at, slot), 0, dice.below(4000));
                bench.driver.offer(at, 3 * slot);
            }
            bench.driver.kick(at);
        }
        for at in 0..2 {
            (0..20).for_each(|_| {
                bench.driver.wait(at);
            });
        }
    }
    (0..2).for_each(|at| {
        bench.stop(at);
    });
    stop.store(true, Ordering::SeqCst);
    let (copy, memory) = copier.join().unwrap();
    let mut now = vec![0; copy.len()];
    memory.read_slice(&mut now, GuestAddress(FIELD)).unwrap();
    assert!(copy == now, "a page was written and not marked afterwards");
}

fn not_yet() {
    let mut bench = start(2);
    let log = Log::new(LOG_LEN_BYTES);
    bench.driver.client.set_log(&log.file, 0, log.len);
    for at in 0..2 {
        bench.check_read(at);
        bench.stop(at);
    }
    assert_eq!(log.take(), BTreeSet::new());
}

fn on_off_on() {
    let (mut bench, log) = logging(2);
    for _ in 0..10 {
        log_all(&mut bench, false);
        log.take();
        (0..2).for_each(|at| bench.check_read(at));
        (0..2).for_each(|at| {
            let position = bench.stop(at);
            bench.start_at(at, position);
        });
        assert_eq!(log.take(), BTreeSet::new());
        log_all(&mut bench, true);
        (0..2).for_each(|at| bench.check_read(at));
        let marked = log.take();
        assert!(pages(bench::DATA, 4096).all(|page| marked.contains(&page)));
        assert!((0..2).all(|at| used_pages(&bench, at).all(|page| marked.contains(&page))));
    }
}

fn waits_for_log() {
    let mut bench = start(1);
    bench.demand_runs(0);
    log_all(&mut bench, true);
    bench.offer_read(0, 1, 7);
    let before = bench.driver.snapshot();
    bench.demand_silence(0);
    assert!(bench.driver.snapshot() == before);
    let log = Log::new(LOG_LEN_BYTES);
    bench.driver.client.set_log(&log.file, 0, log.len);
    bench.expect_read(0, 1, 7);
    assert!(log.is_marked(area(0, 1) / PAGE));
}

fn no_log_to_come() {
    let mut bench = negotiate(u64::MAX, !LOG_SHMFD);
    bench.driver.add_ring(0, 128);
    log_all(&mut bench, true);
    bench.check_read(0);
}

/// A read into a fresh page is marked.
fn demand_marks(bench: &mut Bench, log: &Log, data: u64) {
    log.take();
    offer_to(bench, 0, 5, 600, (data, 512));
    bench.driver.kick(0);
    bench.driver.wait(0);
    assert!(bench.driver.bytes(data, 512) == bench.sectors(600, 512));
    assert!(log.is_marked(data / PAGE), "{data:#x}");
    assert!(used_pages(bench, 0).all(|page| log.is_marked(page)));
}

fn across_table() {
    let (mut bench, log) = logging(1);
    for round in 0..20 {
        bench.driver.hand_over_table(0);
        demand_marks(&mut bench, &log, FIELD + PAGE * round);
    }
}

/// A page of memory at this guest address.
fn region(guest: u64) -> Vec<u8> {
    [0, guest, 0x1000, 0x30_0000_0000, 0]
        .map(u64::to_le_bytes)
        .concat()
}

fn across_add() {
    let (mut bench, log) = logging(1);
    let (guest, file) = (0x2000_0000, memfd(0x1000));
    bench
        .driver
        .client
        .tell(ADD_MEM_REG, &region(guest), &[&file]);
    log.take();
    bench.place_read(0, 5, 600);
    bench
        .driver
        .descriptor(0, 16, (guest + 0x100, 512, 1 | WRITE, 17));
    bench.driver.offer(0, 15);
    bench.driver.kick(0);
    assert_eq!(bench.driver.wait(0).used_len, 513);
    assert!(log.is_marked(guest / PAGE));
    bench.driver.client.tell(REM_MEM_REG, &region(guest), &[]);
    demand_marks(&mut bench, &log, FIELD);
}

fn across_remove() {
    let (mut bench, log) = logging(1);
    for round in 0..10 {
        for piece in [2, 0] {
            remove_piece(&mut bench.driver, piece);
            let piece = &bench.driver.guest.pieces[piece];
            let payload = [vec![0; 8], piece.region()].concat();
            let file = piece.file.try_clone().unwrap();
            bench.driver.client.tell(ADD_MEM_REG, &payload, &[&file]);
        }
        demand_marks(&mut bench, &log, BORDER + PAGE * round);
    }
}

fn replaced() {
    let (mut bench, mut old) = logging(1);
    for round in 0..10 {
        let new = Log::new(LOG_LEN_BYTES);
        bench.driver.client.set_log(&new.file, 0, new.len);
        old.take();
        demand_marks(&mut bench, &new, FIELD + PAGE * round);
        assert_eq!(old.take(), BTreeSet::new());
        old = new;
    }
}

fn offset_in_file() {
    let mut bench = start(1);
    let whole = Log::new(3 * 0x1_0000);
    bench
        .driver
        .client
        .set_log(&whole.file, 0x1_0000, LOG_LEN_BYTES);
    log_all(&mut bench, true);
    bench.check_read(0);
    bench.stop(0);
    let shift = 8 * 0x1_0000;
    let marked = whole.take();
    assert!(pages(bench::DATA, 4096).all(|page| marked.contains(&(page + shift))));
    let inside = shift..shift + 8 * LOG_LEN_BYTES;
    assert!(marked.iter().all(|page| inside.contains(page)));
}

fn across_pages() {
    let (mut bench, log) = logging(1);
    for (data, len) in [
        (FIELD + 0xfff, 512),
        (FIELD + 0x2001, 0x3000),
        (BORDER - 1, 512),
        (BORDER - 0x1800, 0x3000),
        (FIELD + 0x8000, 0x1000),
        (FIELD + 0x8e00, 512),
        (END - 512, 512),
    ] {
        log.take();
        offer_to(&mut bench, 0, 5, 600, (data, len));
        bench.driver.kick(0);
        bench.driver.wait(0);
        let field = FIELD / PAGE..;
        let marked: Vec<u64> = log
            .take()
            .into_iter()
            .filter(|page| field.contains(page))
            .collect();
        let expected: Vec<u64> = pages(data, u64::from(len)).collect();
        assert_eq!(marked, expected, "{len:#x} bytes at {data:#x}");
    }
}

fn long_used_ring() {
    let mut bench = start(0);
    let log = Log::new(LOG_LEN_BYTES);
    bench.driver.client.set_log(&log.file, 0, log.len);
    log_all(&mut bench, true);
    bench.driver.add_ring(0, 1024);
    assert_eq!(used_pages(&bench, 0).count(), 3);
    for _ in 0..600 {
        log.take();
        bench.demand_runs(0);
        assert!(used_pages(&bench, 0).all(|page| log.is_marked(page)));
    }
}

fn every_kind() {
    let (mut bench, log) = logging(1);
    let status = BUFFERS + 0x9000;
    for (kind, sector, data_len) in [
        (0, 1 << 40, 512),
        (1, 0, 0),
        (4, 0, 0),
        (8, 0, 20),
        (99, 0, 0),
    ] {
        log.take();
        bench.driver.header(bench::HEADER, kind, sector);
        let mut chain = vec![(bench::HEADER, 16, 0), (status, 1, WRITE)];
        if data_len > 0 {
            chain.insert(1, (FIELD, data_len, WRITE));
        }
        bench.driver.chain(0, 0, &chain);
        bench.driver.run(0, 0);
        assert!(log.is_marked(status / PAGE), "status of type {kind}");
        assert_eq!(
            log.is_marked(FIELD / PAGE),
            kind == 8,
            "data of type {kind}"
        );
    }
}

fn across_restart() {
    let (mut bench, log) = logging(1);
    for round in 0..20 {
        let position = bench.stop(0);
        bench.start_at(0, position);
        demand_marks(&mut bench, &log, FIELD + PAGE * round);
    }
}

fn across_reset() {
    let (mut bench, log) = logging(1);
    bench.driver.client.tell(RESET_DEVICE, &[], &[]);
    bench.driver.rings.clear();
    bench.driver.add_ring(0, 64);
    demand_marks(&mut bench, &log, FIELD);
}

/// A log that ends before memory does.
fn short_log(bench: &mut Bench) -> Log {
    let log = Log::new(LOG_LEN_BYTES - 1);
    bench.driver.client.set_log(&log.file, 0, log.len);
    log
}

fn too_short() {
    let mut bench = start(1);
    short_log(&mut bench);
    bench.check_read(0);
    let features = (bench.driver.features | LOG_ALL).to_le_bytes();
    // It is told that this failed, and cannot go on: writes that are not marked would be lost.
    assert!(!bench.asks(SET_FEATURES, &features, &[]));
    bench.demand_refused();
    let (mut bench, _log) = logging(1);
    let short = memfd(LOG_LEN_BYTES - 1);
    let payload = [LOG_LEN_BYTES - 1, 0].map(u64::to_le_bytes).concat();
    bench
        .driver
        .client
        .send(SET_LOG_BASE, 1, &payload, &[&short]);
    bench.demand_refused();
    start(1).check_read(0);
}

fn impossible() {
    let file = memfd(LOG_LEN_BYTES);
    for (len, offset, files) in [
        (LOG_LEN_BYTES + 1, 0, 1),
        (LOG_LEN_BYTES, 1, 1),
        (LOG_LEN_BYTES, 0x10_0000, 1),
        (u64::MAX, 0, 1),
        (4096, u64::MAX, 1),
        (0, 0, 1),
        ((1 << 32) + 1, 0, 1),
        (LOG_LEN_BYTES, 0, 0),
        (LOG_LEN_BYTES, 0, 2),
    ] {
        let mut bench = start(1);
        let payload = [len, offset].map(u64::to_le_bytes).concat();
        let client = &mut bench.driver.client;
        client.send(SET_LOG_BASE, 1, &payload, &vec![&file; files]);
        bench.demand_refused();
    }
}

fn region_beyond() {
    let (mut bench, log) = logging(1);
    let file = memfd(0x1000);
    // One bit of the last byte is left.
    let end = LOG_LEN_BYTES * 8 * PAGE;
    assert!(!bench.asks(ADD_MEM_REG, &region(end), &[&file]));
    assert!(!bench.asks(ADD_MEM_REG, &region(1 << 40), &[&file]));
    demand_marks(&mut bench, &log, FIELD);
    log_all(&mut bench, false);
    assert!(bench.asks(ADD_MEM_REG, &region(end), &[&file]));
}

fn used_beyond() {
    let (mut bench, _log) = logging(2);
    tell_logged_addresses(&mut bench, LOG_LEN_BYTES * 8 * PAGE - 100);
    assert!(readable(&bench.driver.rings[0].error, PATIENCE));
    bench.offer_read(0, 0, 500);
    bench.demand_silence(0);
    bench.check_read(1);
    assert!(!readable(&bench.driver.rings[1].error, QUIET));
    tell_logged_addresses(&mut bench, 0x3000_0000);
    let kick = bench.driver.rings[0].kick.try_clone().unwrap();
    let client = &mut bench.driver.client;
    client.tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
    bench.expect_read(0, 0, 500);
}

fn far_up() {
    let mut bench = start(1);
    let (guest, file) = ((1 << 40) - 0x1000, memfd(0x1000));
    bench
        .driver
        .client
        .tell(ADD_MEM_REG, &region(guest), &[&file]);
    let log = Log::new((1 << 40) / PAGE / 8);
    bench.driver.client.set_log(&log.file, 0, log.len);
    log_all(&mut bench, true);
    bench.place_read(0, 5, 600);
    bench
        .driver
        .descriptor(0, 16, (guest + 0xe00, 512, 1 | WRITE, 17));
    bench.driver.offer(0, 15);
    bench.driver.kick(0);
    assert_eq!(bench.driver.wait(0).used_len, 513);
    assert!(log.is_marked(guest / PAGE));
    assert!(!log.is_marked(guest / PAGE - 1));
}

fn one_answer() {
    let mut bench = start(0);
    let log = Log::new(LOG_LEN_BYTES);
    let payload = [log.len, 0].map(u64::to_le_bytes).concat();
    for flags in [1, bench::NEED_REPLY] {
        let client = &mut bench.driver.client;
        client.send(SET_LOG_BASE, flags, &payload, &[&log.file]);
        assert!(client.reply(SET_LOG_BASE).is_some());
        // The next answer is that of the next question.
        assert_ne!(client.ask_u64(GET_FEATURES), 0);
    }
}

fn descriptors() {
    let place = Place::new();
    let program = place.serve();
    let mut driver = Driver::start(program.connect(), 1);
    let log = Log::new(LOG_LEN_BYTES);
    driver.client.set_log(&log.file, 0, log.len);
    let features = driver.features | LOG_ALL;
    driver.client.tell_u64(SET_FEATURES, features);
    place.check_read(&mut driver, 0);
    let before = program.usage();
    for _ in 0..500 {
        driver.client.set_log(&log.file, 0, log.len);
        driver.client.tell_u64(SET_FEATURES, driver.features);
        driver.client.tell_u64(SET_FEATURES, features);
    }
    place.check_read(&mut driver, 0);
    program.demand_no_more_than(before);
}
