//! One descriptor in several requests at once, in one queue and across queues.

use crate::attack::{
    Attack, DATA, HEADER, HEADER_PIECE, SECOND, STATUS, STATUS_PIECE, TABLE, VICTIM,
};
use crate::family::Family;
use crate::support::client::SET_VRING_BASE;
use crate::support::driver::{INDIRECT, NEXT, OK, WRITE, eventfd};

const READ: [(u64, u32, u16); 3] = [HEADER_PIECE, (DATA, 4096, WRITE), STATUS_PIECE];

/// Offers these heads in one kick and checks that each is answered with its used length, in order.
fn heads(attack: &mut Attack<'_>, expected: &[(u16, u32)]) {
    for (head, _) in expected {
        attack.driver.offer(VICTIM, *head);
    }
    attack.driver.kick(VICTIM);
    for (head, used_len) in expected {
        let done = attack.driver.wait(VICTIM);
        assert_eq!((done.head, done.used_len), (u32::from(*head), *used_len));
    }
}

fn ready(attack: &Attack<'_>) {
    attack.prepare(0, 3, &READ);
    attack.driver.chain(VICTIM, 0, &READ);
}

fn demand_data(attack: &Attack<'_>) {
    assert_eq!(attack.driver.bytes(STATUS, 1), [OK]);
    assert!(attack.driver.bytes(DATA, 4096) == attack.sectors(3, 4096));
}

#[test]
fn duplicates() {
    let mut family = Family::start("V-05", "One descriptor in several requests");
    family.guest("one head twice in one kick", |attack| {
        ready(attack);
        heads(attack, &[(0, 4097); 2]);
        demand_data(attack);
        attack.goes_on();
        "right data, two answers".to_owned()
    });
    family.guest("one head in every entry of the ring", |attack| {
        ready(attack);
        heads(attack, &[(0, 4097); 128]);
        demand_data(attack);
        attack.goes_on();
        "right data, 128 answers".to_owned()
    });
    family.guest("the tail of a request offered as a request", |attack| {
        ready(attack);
        heads(attack, &[(0, 4097), (1, 1), (2, 1), (0, 4097)]);
        demand_data(attack);
        attack.goes_on();
        "right data, the tails come back with status 1".to_owned()
    });
    family.guest("two heads share data and status", |attack| {
        ready(attack);
        attack.driver.descriptor(VICTIM, 9, (HEADER, 16, NEXT, 1));
        heads(attack, &[(0, 4097), (9, 4097), (0, 4097)]);
        demand_data(attack);
        attack.goes_on();
        "right data, three answers".to_owned()
    });
    family.guest("two heads share one indirect table", |attack| {
        attack.prepare(0, 3, &READ);
        attack.driver.chain_in(TABLE, 0, &READ);
        for head in [0, 77] {
            attack.driver.chain(VICTIM, head, &[(TABLE, 48, INDIRECT)]);
        }
        heads(attack, &[(0, 4097), (77, 4097), (77, 4097), (0, 4097)]);
        demand_data(attack);
        attack.goes_on();
        "right data, four answers".to_owned()
    });
    family.guest(
        "a request changed and offered again before it is answered",
        |attack| {
            attack.prepare(0, 0, &[HEADER_PIECE]);
            for sector in 0..500 {
                ready(attack);
                attack.driver.offer(VICTIM, 0);
                attack.driver.kick(VICTIM);
                attack.driver.header(HEADER, 0, sector);
                attack.driver.offer(VICTIM, 0);
                attack.driver.kick(VICTIM);
                attack.answers(VICTIM, 2, 4097);
            }
            attack.goes_on();
            "two answers each time".to_owned()
        },
    );
    across_queues(&mut family);
    family.finish();
}

fn across_queues(family: &mut Family) {
    family.guest("the same buffers in two queues at once", |attack| {
        ready(attack);
        attack.driver.chain(SECOND, 0, &READ);
        for _ in 0..100 {
            attack.offer_at_once(VICTIM, 0, 10);
            attack.offer_at_once(SECOND, 0, 10);
            attack.driver.kick(VICTIM);
            attack.driver.kick(SECOND);
            attack.answers(VICTIM, 10, 4097);
            attack.answers(SECOND, 10, 4097);
        }
        demand_data(attack);
        attack.goes_on();
        attack.honest(SECOND);
        "right data in both".to_owned()
    });
    family.guest("the same indirect table in two queues at once", |attack| {
        attack.prepare(0, 3, &READ);
        attack.driver.chain_in(TABLE, 0, &READ);
        for at in [VICTIM, SECOND] {
            attack.driver.chain(at, 0, &[(TABLE, 48, INDIRECT)]);
            attack.offer_at_once(at, 0, 100);
            attack.driver.kick(at);
        }
        attack.answers(VICTIM, 100, 4097);
        attack.answers(SECOND, 100, 4097);
        demand_data(attack);
        attack.goes_on();
        attack.honest(SECOND);
        "right data in both".to_owned()
    });
    family.guest("two queues with one descriptor table", |attack| {
        ready(attack);
        // Only the table is shared; each queue has its own available and used ring.
        attack.driver.stop_ring(SECOND);
        tell_parts(attack, SECOND, [VICTIM, SECOND, SECOND]);
        restart(attack, SECOND);
        for at in [VICTIM, SECOND] {
            attack.offer_at_once(at, 0, 50);
            attack.driver.kick(at);
        }
        attack.answers(VICTIM, 50, 4097);
        attack.answers(SECOND, 50, 4097);
        demand_data(attack);
        attack.goes_on();
        "right data in both".to_owned()
    });
    family.guest("two queues with one whole ring", |attack| {
        ready(attack);
        attack.driver.stop_ring(SECOND);
        tell_parts(attack, SECOND, [VICTIM, VICTIM, VICTIM]);
        restart(attack, SECOND);
        for _ in 0..50 {
            attack.offer_at_once(VICTIM, 0, 10);
            attack.driver.kick(VICTIM);
            attack.driver.kick(SECOND);
        }
        attack.driver.stop_ring(VICTIM);
        attack.driver.stop_ring(SECOND);
        attack.mend(VICTIM);
        attack.mend(SECOND);
        "both answer in the same place; each works again after a reset".to_owned()
    });
}

/// Places ring `at` in the table, available and used ring of these rings.
fn tell_parts(attack: &mut Attack<'_>, at: usize, parts: [usize; 3]) {
    let [table, available, used] = parts.map(|ring| attack.driver.rings[ring].base);
    let index = attack.driver.rings[at].index;
    let user = |address| attack.driver.guest.user(address);
    let addresses = [
        user(table),
        user(used + crate::attack::USED),
        user(available + crate::attack::AVAIL),
        0,
    ];
    let payload = [
        [index, 0].map(u32::to_le_bytes).concat(),
        addresses.map(u64::to_le_bytes).concat(),
    ];
    attack.driver.client.tell(
        crate::support::client::SET_VRING_ADDR,
        &payload.concat(),
        &[],
    );
}

fn restart(attack: &mut Attack<'_>, at: usize) {
    let index = attack.driver.rings[at].index;
    let position = attack.driver.rings[at].next_avail;
    attack.driver.rings[at].kick = eventfd();
    let kick = attack.driver.rings[at].kick.try_clone().unwrap();
    let client = &mut attack.driver.client;
    client.tell_ring(SET_VRING_BASE, index, u32::from(position));
    client.tell_ring_file(
        crate::support::client::SET_VRING_KICK,
        u8::try_from(index).unwrap(),
        Some(&kick),
    );
}
