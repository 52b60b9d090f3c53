//! Files that are cut short, or emptied, after they were shared.

use rustix::fs::FallocateFlags;

use crate::attack::{Attack, DATA, HEADER_PIECE, STATUS_PIECE, VICTIM};
use crate::family::Family;
use crate::messages::memory_file;
use crate::support::client::SET_FEATURES;
use crate::support::driver::{Driver, INDIRECT, LOG_ALL, LOG_LEN_BYTES, WRITE};
use crate::support::guest::{BORDER, BUFFERS};

const READ: [(u64, u32, u16); 3] = [HEADER_PIECE, (DATA, 512, WRITE), STATUS_PIECE];
const RINGS_PIECE: usize = 0;
const BUFFERS_PIECE: usize = 1;
const LAST_PIECE: usize = 2;

fn prepare(attack: &mut Attack<'_>, pieces: &[(u64, u32, u16)]) {
    attack.prepare(0, 3, &READ);
    attack.driver.chain(VICTIM, 0, pieces);
}

fn cut(attack: &Attack<'_>, piece: usize, len_bytes: u64) {
    let piece = &attack.driver.guest.pieces[piece];
    piece.file.set_len(piece.offset + len_bytes).unwrap();
}

/// Has the victim look at its ring. The session must end; memory that is gone must not be looked at from here.
fn ends(attack: &mut Attack<'_>) -> String {
    attack.driver.kick(VICTIM);
    assert!(attack.driver.client.is_closed());
    "the session ends".to_owned()
}

/// What must be lost for a request to hit it. Each is a session of its own.
fn sessions(family: &mut Family) {
    family.session("rings, idle until kicked", |attack| {
        cut(attack, RINGS_PIECE, 0);
        ends(attack)
    });
    family.session("rings, but for their first page", |attack| {
        cut(attack, RINGS_PIECE, 0x1000);
        ends(attack)
    });
    family.session("the used ring alone", |attack| {
        prepare(attack, &READ);
        attack.driver.offer(VICTIM, 0);
        cut(attack, RINGS_PIECE, 0x5000);
        ends(attack)
    });
    family.session("a request's data", |attack| {
        prepare(attack, &READ);
        attack.driver.offer(VICTIM, 0);
        cut(attack, BUFFERS_PIECE, DATA - BUFFERS);
        ends(attack)
    });
    family.session("a request's header", |attack| {
        prepare(attack, &READ);
        attack.driver.offer(VICTIM, 0);
        cut(attack, BUFFERS_PIECE, 0);
        ends(attack)
    });
    family.session("a request's status", |attack| {
        prepare(
            attack,
            &[HEADER_PIECE, (DATA, 512, WRITE), (BORDER, 1, WRITE)],
        );
        attack.driver.offer(VICTIM, 0);
        cut(attack, LAST_PIECE, 0);
        ends(attack)
    });
    family.session("an indirect table", |attack| {
        prepare(attack, &[(BORDER, 48, INDIRECT)]);
        attack.driver.chain_in(BORDER, 0, &READ);
        attack.driver.offer(VICTIM, 0);
        cut(attack, LAST_PIECE, 0);
        ends(attack)
    });
    family.session("the second half of a large buffer", |attack| {
        let len = 0x10_0000;
        prepare(attack, &[HEADER_PIECE, (DATA, len, WRITE), STATUS_PIECE]);
        attack.driver.offer(VICTIM, 0);
        cut(attack, BUFFERS_PIECE, DATA - BUFFERS + u64::from(len) / 2);
        ends(attack)
    });
    family.session("the dirty log", |attack| {
        let log = Driver::log_file();
        attack.driver.client.set_log(&log, 0, LOG_LEN_BYTES);
        let features = attack.driver.features | LOG_ALL;
        attack.driver.client.tell_u64(SET_FEATURES, features);
        attack.goes_on();
        log.set_len(0).unwrap();
        prepare(attack, &READ);
        attack.driver.offer(VICTIM, 0);
        ends(attack)
    });
    family.session("the map of requests in flight", |attack| {
        let map = memory_file(3 * 2112);
        attack.driver.client.set_inflight(&map, 3 * 2112, 3, 128);
        attack.goes_on();
        map.set_len(0).unwrap();
        prepare(attack, &READ);
        attack.driver.offer(VICTIM, 0);
        ends(attack)
    });
}

#[test]
fn lost_memory() {
    let mut family = Family::start("V-17", "Shared files that are cut short");
    sessions(&mut family);
    family.guest("a region that nothing lies in", |attack| {
        cut(attack, LAST_PIECE, 0);
        attack.goes_on();
        "the ring goes on".to_owned()
    });
    family.guest("cut and grown again before anybody looks", |attack| {
        let piece = &attack.driver.guest.pieces[LAST_PIECE];
        piece.file.set_len(0).unwrap();
        piece.file.set_len(piece.offset + piece.len).unwrap();
        attack.goes_on();
        "the ring goes on".to_owned()
    });
    family.guest("a hole punched under the data", |attack| {
        prepare(attack, &READ);
        let piece = &attack.driver.guest.pieces[BUFFERS_PIECE];
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let offset = piece.offset + (DATA - BUFFERS);
        rustix::fs::fallocate(&piece.file, flags, offset, 0x1000).unwrap();
        attack.goes_on();
        "right data".to_owned()
    });
    family.finish();
}
