//! Promise: a front-end that cuts short the files it shares with us ends its own session and nothing else.

use vhost_backend::session::End;

use crate::support::client::SET_FEATURES;
use crate::support::driver::{Driver, LOG_ALL, LOG_LEN_BYTES};
use crate::support::image::device;
use crate::support::serve;

/// Sets up a session, has `cut` take memory away from it and make it work on, and returns what is left of it.
fn lose(cut: impl Fn(&mut Driver)) -> Driver {
    let (device, disk) = device();
    let (stream, served) = serve(&device);
    let mut driver = Driver::start(stream, 2);
    let (other_stream, _other_served) = serve(&device);
    let mut other = Driver::start(other_stream, 1);
    assert!(driver.read(0, 8, 4096) == disk[8 * 512..16 * 512]);
    cut(&mut driver);
    assert_eq!(served.end(), End::MemoryLost);
    assert!(other.read(0, 8, 4096) == disk[8 * 512..16 * 512]);
    let (stream, _served) = serve(&device);
    let mut next = Driver::start(stream, 1);
    assert!(next.read(0, 500, 4096) == disk[500 * 512..508 * 512]);
    driver
}

#[test]
fn rings_that_vanish_end_the_session() {
    lose(|driver| {
        driver.guest.pieces[0].file.set_len(0).unwrap();
        driver.kick(0);
        driver.kick(1);
    });
}

#[test]
fn request_whose_buffer_has_vanished_is_not_answered() {
    let driver = lose(|driver| {
        // The header of the read before is still there, its data area is not.
        driver.guest.pieces[1].file.set_len(0x2000).unwrap();
        driver.offer(0, 0);
        driver.kick(0);
    });
    assert_eq!(driver.used_index(0), 1);
}

#[test]
fn log_that_vanishes_ends_the_session() {
    lose(|driver| {
        let log = Driver::log_file();
        driver.client.set_log(&log, 0, LOG_LEN_BYTES);
        let features = driver.features | LOG_ALL;
        driver.client.tell_u64(SET_FEATURES, features);
        driver.read(0, 0, 512);
        log.set_len(0).unwrap();
        driver.offer(0, 0);
        driver.kick(0);
    });
}

#[test]
fn map_of_requests_in_flight_that_vanishes_ends_the_session() {
    lose(|driver| {
        let (file, len_bytes) = driver.client.get_inflight(2, 128);
        assert!(file.set_len(0).is_err(), "ours cannot be cut");
        let other = Driver::log_file();
        other.set_len(len_bytes).unwrap();
        driver.client.set_inflight(&other, len_bytes, 2, 128);
        driver.read(0, 0, 512);
        other.set_len(0).unwrap();
        driver.offer(0, 0);
        driver.kick(0);
    });
}
