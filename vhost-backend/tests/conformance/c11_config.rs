//! C-11: the configuration space can be read at any offset and in any length, and cannot be changed.

use std::sync::Arc;

use vhost_backend::device::Device;
use vhost_backend::limits::DeviceLimits;

use crate::bench::{Bench, NEED_REPLY, negotiate, shared, start, start_on};
use crate::registry::line;
use crate::support::client::{GET_CONFIG, SET_CONFIG};
use crate::support::driver::CONFIG;
use crate::support::image::SECTORS;

const LEN: u32 = 256;
const LIVE_MIGRATION: u32 = 2;

line! {
    C11 = "C-11", c11_configuration_space:
    "C-11.01" "every field has its value, all else is zero" => fields,
    "C-11.02" "any offset with the lengths of fields" => any_offset,
    "C-11.03" "any length from any of some offsets" => any_length,
    "C-11.04" "flags change nothing about an answer" => any_flags,
    "C-11.05" "an answer repeats offset, length and flags" => echo,
    "C-11.06" "beyond 256 bytes there is an empty answer" => beyond,
    "C-11.07" "it may be asked at any time" => any_time,
    "C-11.08" "seg_max follows the ring size" => seg_max,
    "C-11.09" "SET_CONFIG is refused for every byte" => read_only,
    "C-11.10" "what comes back from a migration is taken" => migration,
    "C-11.11" "what differs after a migration is refused" => migration_to_another,
    "C-11.12" "questions that cannot be end the session" => impossible,
    "C-11.13" "without CONFIG there is no such question" => not_negotiated,
}

fn whole(bench: &mut Bench) -> Vec<u8> {
    let whole = bench.driver.client.config(0, LEN, 0).unwrap();
    assert_eq!(whole.len(), LEN as usize);
    whole
}

fn fields() {
    let mut bench = start(0);
    let mut expected = vec![0; LEN as usize];
    let mut put = |at: usize, bytes: &[u8]| expected[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &SECTORS.to_le_bytes());
    put(12, &126_u32.to_le_bytes());
    put(20, &512_u32.to_le_bytes());
    // Physical block 2^0, alignment 0, minimal I/O 8 blocks, optimal I/O the largest block of a layer.
    put(24, &[0, 0, 8, 0]);
    put(28, &128_u32.to_le_bytes());
    put(34, &256_u16.to_le_bytes());
    assert_eq!(whole(&mut bench), expected);
}

fn any_offset() {
    let mut bench = start(0);
    let whole = whole(&mut bench);
    for offset in 0..LEN {
        for size in [1, 2, 4, 8, 57, 60] {
            let found = bench.driver.client.config(offset, size, 0).unwrap();
            let expected = whole.get(offset as usize..(offset + size) as usize);
            assert_eq!(found, expected.unwrap_or_default(), "{size} at {offset}");
        }
    }
}

fn any_length() {
    let mut bench = start(0);
    let whole = whole(&mut bench);
    for offset in [0, 1, 8, 35, 60, 128, 255] {
        for size in 1..=LEN - offset {
            let found = bench.driver.client.config(offset, size, 0).unwrap();
            let expected = &whole[offset as usize..(offset + size) as usize];
            assert_eq!(found, expected, "{size} at {offset}");
        }
    }
}

fn any_flags() {
    let mut bench = start(0);
    let whole = whole(&mut bench);
    for flags in 0..4 {
        assert_eq!(
            bench.driver.client.config(0, LEN, flags),
            Some(whole.clone())
        );
    }
}

fn question(offset: u32, size: u32, flags: u32) -> Vec<u8> {
    let mut payload = [offset, size, flags].map(u32::to_le_bytes).concat();
    payload.resize(12 + size as usize, 0xEE);
    payload
}

fn echo() {
    let mut bench = start(0);
    for (offset, size, flags) in [(0, 8, 0), (3, 57, 1), (200, 56, 2)] {
        let message = question(offset, size, flags);
        let answer = bench.driver.client.ask(GET_CONFIG, &message).unwrap();
        assert_eq!(answer[..12], message[..12]);
        assert_eq!(answer.len(), 12 + size as usize);
    }
}

fn beyond() {
    let mut bench = start(0);
    for (offset, size) in [(0, 257), (256, 1), (255, 2), (1, 256), (300, 4)] {
        // No data, and a length of 0 is what a front-end recognises.
        let message = question(offset, size, 0);
        let answer = bench.driver.client.ask(GET_CONFIG, &message).unwrap();
        assert_eq!(answer, [offset, 0, 0].map(u32::to_le_bytes).concat());
        whole(&mut bench);
    }
}

fn any_time() {
    let mut bench = negotiate(u64::MAX, u64::MAX);
    let before = whole(&mut bench);
    bench.driver.add_ring(0, 128);
    bench.offer_read(0, 0, 500);
    bench.driver.kick(0);
    assert_eq!(whole(&mut bench), before);
    bench.expect_read(0, 0, 500);
    bench.stop(0);
    assert_eq!(whole(&mut bench), before);
}

fn seg_max() {
    for queue_size in [4, 128, 256, 1024] {
        let limits = DeviceLimits {
            num_queues: 1,
            queue_size,
            ..DeviceLimits::default()
        };
        let image = Arc::clone(shared().0.image());
        let device = Arc::new(Device::new(image, None, limits));
        let mut bench = start_on(&device, 0);
        let found = bench.driver.client.config(12, 4, 0).unwrap();
        assert_eq!(found, (u32::from(queue_size) - 2).to_le_bytes());
    }
}

/// SET_CONFIG of these bytes at `offset`.
fn writing(offset: usize, flags: u32, bytes: &[u8]) -> Vec<u8> {
    let (offset, len) = (
        u32::try_from(offset).unwrap(),
        u32::try_from(bytes.len()).unwrap(),
    );
    let head = [offset, len, flags].map(u32::to_le_bytes).concat();
    [&head, bytes].concat()
}

fn read_only() {
    let mut bench = start(1);
    let before = whole(&mut bench);
    for (offset, byte) in before.iter().enumerate() {
        let other = [byte ^ 1];
        assert!(!bench.asks(SET_CONFIG, &writing(offset, 0, &other), &[]));
    }
    assert!(!bench.asks(SET_CONFIG, &writing(0, 0, &before), &[]));
    assert_eq!(whole(&mut bench), before);
    bench.check_read(0);
}

fn migration() {
    let mut bench = start(1);
    let before = whole(&mut bench);
    for len in [8, 57, 60, 256] {
        let message = writing(0, LIVE_MIGRATION, &before[..len]);
        assert!(bench.asks(SET_CONFIG, &message, &[]), "{len} bytes");
    }
    assert_eq!(whole(&mut bench), before);
}

fn migration_to_another() {
    let mut bench = start(1);
    let before = whole(&mut bench);
    for offset in [0, 20, 34, 255] {
        let mut other = before.clone();
        other[offset] ^= 1;
        assert!(!bench.asks(SET_CONFIG, &writing(0, LIVE_MIGRATION, &other), &[]));
    }
    assert_eq!(whole(&mut bench), before);
    bench.check_read(0);
}

fn impossible() {
    let no_data = question(0, 8, 0)[..12].to_vec();
    for message in [
        vec![],
        vec![0; 11],
        question(0, 0, 0),
        no_data,
        [question(0, 8, 0), vec![0]].concat(),
        question(0, 8, 4),
        question(u32::MAX, 8, 0),
    ] {
        for request in [GET_CONFIG, SET_CONFIG] {
            let mut bench = start(1);
            bench.driver.client.send(request, 1, &message, &[]);
            bench.demand_refused();
        }
    }
}

fn not_negotiated() {
    for request in [GET_CONFIG, SET_CONFIG] {
        let mut bench = negotiate(u64::MAX, !CONFIG);
        bench
            .driver
            .client
            .send(request, NEED_REPLY, &question(0, 8, 0), &[]);
        bench.demand_refused();
    }
}
