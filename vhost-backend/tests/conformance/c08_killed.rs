//! C-08 at a named point: what was marked by a backend that died right behind a used index.

#[cfg(not(feature = "kill-points"))]
pub(crate) fn marks_outlive_a_kill() {
    crate::program::skip_without_kill_points("C-08.28");
}

/// The process dies between the used index of a read and everything it does afterwards. Before that read it answers
/// a request that needs no disk, so that nothing but the read itself marks what is looked at.
#[cfg(feature = "kill-points")]
pub(crate) fn marks_outlive_a_kill() {
    use crate::bench::{self, area, start};
    use crate::dirty_log::{FIELD, pages, place_to, tell_logged_addresses, used_pages};
    use crate::program::Place;
    use crate::support::client::SET_VRING_KICK;
    use crate::support::driver::WRITE;

    for _ in 0..3 {
        let place = Place::new();
        let point = vhost_backend::killpoint::Point::AfterUsedIndex;
        let mut program = place.serve_dying_at(point, 2);
        let mut bench = start(0);
        bench.driver.client = crate::support::client::Client::new(program.connect());
        let log = hand_over(&mut bench);
        bench.driver.add_ring(0, 128);
        let elsewhere = 0x3000_0ffc;
        tell_logged_addresses(&mut bench, elsewhere);
        bench::wait_until("the start", || bench.take_interrupts(0) > 0);
        bench.driver.client.vring_base(0);
        bench.take_interrupts(0);
        // A serial, and then most of the disk.
        bench.driver.header(bench::HEADER, 8, 0);
        let status = (bench::STATUS, 1, WRITE);
        bench.driver.chain(0, 0, &[(bench::HEADER, 16, 0), status]);
        place_to(&mut bench, 0, 1, 0, (FIELD, 0x20_0000));
        bench.driver.offer(0, 0);
        bench.driver.want_interrupt(0);
        let kick = bench.driver.rings[0].kick.try_clone().unwrap();
        let client = &mut bench.driver.client;
        client.send(SET_VRING_KICK, 1, &0_u64.to_le_bytes(), &[&kick]);
        // One for the start, one for the serial: then it has done with that.
        let mut interrupts = 0;
        bench::wait_until("the serial", || {
            interrupts += bench.take_interrupts(0);
            interrupts >= 2 && bench.driver.used_index(0) == 1
        });
        log.take();
        bench.driver.offer(0, 3);
        bench.driver.kick(0);
        bench::wait_until("the death", || program.child.try_wait().unwrap().is_some());
        assert_eq!(bench.driver.used_index(0), 2);
        let expected = pages(elsewhere, 6 + 8 * 128)
            .chain(used_pages(&bench, 0))
            .chain(pages(area(0, 1) + 0x20, 1));
        let missing: Vec<u64> = expected.filter(|page| !log.is_marked(*page)).collect();
        assert!(missing.is_empty(), "{missing:x?}");
    }
}

/// Negotiates everything with the backend behind the driver's client, and hands over memory and a log in use.
#[cfg(feature = "kill-points")]
fn hand_over(bench: &mut crate::bench::Bench) -> crate::dirty_log::Log {
    use crate::dirty_log::Log;
    use crate::support::client::{
        GET_FEATURES, GET_PROTOCOL_FEATURES, SET_FEATURES, SET_PROTOCOL_FEATURES,
    };
    use crate::support::driver::{LOG_ALL, LOG_LEN_BYTES};

    let client = &mut bench.driver.client;
    let offered = client.ask_u64(GET_FEATURES);
    let protocol = client.ask_u64(GET_PROTOCOL_FEATURES);
    client.tell_u64(SET_PROTOCOL_FEATURES, protocol);
    client.acknowledge = true;
    let log = Log::new(LOG_LEN_BYTES);
    client.set_log(&log.file, 0, log.len);
    client.tell_u64(SET_FEATURES, offered);
    bench.driver.features = offered & !LOG_ALL;
    bench.driver.hand_over_table(0);
    log
}
