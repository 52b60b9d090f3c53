//! Promise: rings, memory and features may be set up, changed and taken away in any legal order, as often as a
//! front-end likes; a stopped ring never touches the guest; a broken one hurts only itself; and when a front-end is
//! gone, nothing of it is left.

use std::fs::File;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use vhost_backend::session::End;
use vm_memory::{Bytes, GuestAddress};

use crate::support::client::{
    ADD_MEM_REG, Client, GET_FEATURES, GET_INFLIGHT_FD, GET_MAX_MEM_SLOTS, GET_QUEUE_NUM,
    REM_MEM_REG, RESET_DEVICE, SET_CONFIG, SET_FEATURES, SET_INFLIGHT_FD, SET_PROTOCOL_FEATURES,
    SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR,
    SET_VRING_KICK, SET_VRING_NUM, pair,
};
use crate::support::driver::{
    Driver, EVENT_IDX, INDIRECT_DESC, IOERR, LOG_ALL, MEM_SLOTS, OK, PROTOCOL_FEATURES, REPLY_ACK,
    RO, VERSION_1, WRITE, eventfd, readable,
};
use crate::support::guest::{BUFFERS, END};
use crate::support::image::device;
use crate::support::{Served, serve};

fn start(queues: u32) -> (Driver, Vec<u8>, Served) {
    let (device, disk) = device();
    let (stream, served) = serve(&device);
    (Driver::start(stream, queues), disk, served)
}

fn check_read(driver: &mut Driver, at: usize, disk: &[u8]) {
    let data = driver.read(at, 500, 4096);
    assert!(data == disk[500 * 512..500 * 512 + 4096]);
}

/// Makes a read of one sector available on ring 0, without a kick.
fn offer_read(driver: &mut Driver) {
    driver.header(BUFFERS, 0, 500);
    driver.chain(
        0,
        0,
        &[
            (BUFFERS, 16, 0),
            (BUFFERS + 0x1000, 512, WRITE),
            (BUFFERS + 0x100, 1, WRITE),
        ],
    );
    driver.offer(0, 0);
}

#[test]
fn every_subset_of_the_features_works() {
    for bits in 0..16_u64 {
        let choices = [EVENT_IDX, INDIRECT_DESC, RO, VERSION_1];
        let chosen = choices
            .iter()
            .enumerate()
            .filter(|(bit, _)| bits >> bit & 1 == 1)
            .map(|(_, feature)| feature);
        let (device, disk) = device();
        let (stream, _served) = serve(&device);
        let mut driver =
            Driver::negotiate(stream, PROTOCOL_FEATURES | chosen.sum::<u64>(), u64::MAX);
        driver.add_ring(0, 128);
        check_read(&mut driver, 0, &disk);
    }
}

#[test]
fn without_protocol_features_rings_are_enabled_from_the_start() {
    let (device, disk) = device();
    let (stream, _served) = serve(&device);
    let mut driver = Driver::negotiate(stream, VERSION_1, 0);
    driver.add_ring(0, 128);
    check_read(&mut driver, 0, &disk);
}

#[test]
fn features_that_were_never_offered_end_the_connection() {
    let (device, _disk) = device();
    for (message, bits) in [
        (SET_FEATURES, 1 << 63),
        (SET_FEATURES, 1 << 9),
        (SET_PROTOCOL_FEATURES, 1 << 16),
    ] {
        let (stream, served) = serve(&device);
        let mut client = Client::new(stream);
        assert_ne!(client.ask_u64(GET_FEATURES), 0);
        client.tell_u64(message, bits);
        assert!(client.is_closed(), "{message} {bits:#x}");
        assert_eq!(served.end(), End::Refused);
    }
}

#[test]
fn configuration_space_is_answered_at_any_offset_and_length() {
    let (mut driver, _disk, _served) = start(0);
    let whole = driver.client.config(0, 256, 0).unwrap();
    assert_eq!(whole.len(), 256);
    assert_eq!(whole[..8], (4099_u64).to_le_bytes());
    assert_eq!(
        whole[34..36],
        driver.client.ask_u64(GET_QUEUE_NUM).to_le_bytes()[..2]
    );
    for (offset, size) in [
        (0, 57),
        (0, 60),
        (0, 33),
        (0, 25),
        (0, 8),
        (8, 1),
        (255, 1),
        (33, 96),
        (0, 1),
    ] {
        for flags in [0, 1] {
            let answer = driver.client.config(offset, size, flags).unwrap();
            assert!(
                answer == whole[offset as usize..][..size as usize],
                "{offset} {size} {flags}"
            );
        }
    }
    assert_eq!(
        driver.client.config(200, 57, 0),
        Some(vec![]),
        "beyond 256 bytes: refused, connection alive"
    );
    assert_eq!(driver.client.config(0, 8, 0).unwrap().len(), 8);
}

#[test]
fn configuration_space_cannot_be_written() {
    let (mut driver, _disk, served) = start(0);
    driver.client.acknowledge = false;
    let payload = [&[0, 8, 0].map(u32::to_le_bytes).concat()[..], &[7; 8]].concat();
    driver.client.tell(SET_CONFIG, &payload, &[]);
    assert!(driver.client.is_closed());
    assert_eq!(served.end(), End::Refused);
}

#[test]
fn stopped_ring_never_touches_the_guest_and_goes_on_where_it_stood() {
    let (mut driver, disk, _served) = start(1);
    for round in 0..20_u16 {
        check_read(&mut driver, 0, &disk);
        assert_eq!(
            driver.stop_ring(0),
            round * 2 + 1,
            "the next entry not taken"
        );
        // The driver goes on as if nothing had happened; nobody may answer.
        driver.chain(
            0,
            0,
            &[
                (BUFFERS, 16, 0),
                (BUFFERS + 0x1000, 512, WRITE),
                (BUFFERS + 0x100, 1, WRITE),
            ],
        );
        driver.fill(BUFFERS + 0x1000, 512, 0xEE);
        driver.offer(0, 0);
        driver.kick(0);
        let used = driver.used_index(0);
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(driver.used_index(0), used);
        assert_eq!(driver.bytes(BUFFERS + 0x1000, 512), [0xEE; 512]);
        // Started again at the position it was stopped at, it finds the request without another kick.
        driver.rings[0].next_avail -= 1;
        driver.rings[0].kick = eventfd();
        driver.start_ring(0);
        driver.rings[0].next_avail += 1;
        assert_eq!(driver.wait(0).used_len, 513);
    }
}

#[test]
fn stopping_drains_the_request_at_hand() {
    let (mut driver, _disk, _served) = start(1);
    for _ in 0..200 {
        driver.header(BUFFERS, 0, 0);
        driver.chain(
            0,
            0,
            &[
                (BUFFERS, 16, 0),
                (BUFFERS + 0x1000, 0x10_0000, WRITE),
                (BUFFERS + 0x100, 1, WRITE),
            ],
        );
        driver.offer(0, 0);
        driver.kick(0);
        let position = driver.stop_ring(0);
        assert_eq!(
            driver.used_index(0),
            position,
            "everything taken has been given back"
        );
        driver.rings[0].next_avail = position;
        driver.rings[0].next_used = position;
        driver.set_avail_index(0, position);
        driver.rings[0].kick = eventfd();
        driver.start_ring(0);
    }
}

#[test]
fn disabled_ring_is_silent_and_enabled_again_it_catches_up() {
    let (mut driver, disk, _served) = start(2);
    driver.client.tell_ring(SET_VRING_ENABLE, 0, 0);
    offer_read(&mut driver);
    driver.kick(0);
    assert_eq!(driver.wait_for(0, Duration::from_millis(30)), None);
    driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
    assert_eq!(driver.wait(0).used_len, 513);
    check_read(&mut driver, 1, &disk);
}

#[test]
fn firmware_then_kernel_on_one_connection() {
    let (device, disk) = device();
    let (stream, _served) = serve(&device);
    // SeaBIOS: SIZE_MAX is not offered, RO is not taken, one queue, no events.
    let mut driver = Driver::negotiate(
        stream,
        VERSION_1 | PROTOCOL_FEATURES | 1 << 2 | 1 << 6,
        u64::MAX,
    );
    driver.add_ring(0, 128);
    driver.client.tell_ring(SET_VRING_ENABLE, 1, 1);
    check_read(&mut driver, 0, &disk);
    driver.client.tell_ring(SET_VRING_ENABLE, 0, 0);
    driver.stop_ring(0);
    // The kernel: everything, four queues, other ring sizes, memory as it was.
    let offered = driver.client.ask_u64(GET_FEATURES) & !LOG_ALL;
    driver.client.tell_u64(SET_FEATURES, offered);
    driver.features = offered;
    driver.rings.clear();
    for index in 0..4 {
        driver.add_ring(index, 256);
        check_read(&mut driver, index as usize, &disk);
    }
}

#[test]
fn ring_without_a_call_descriptor_is_served() {
    let (mut driver, disk, _served) = start(1);
    driver.client.tell_ring_file(SET_VRING_CALL, 0, None);
    driver.want_interrupt(0);
    check_read(&mut driver, 0, &disk);
}

#[test]
fn call_descriptor_may_be_a_pipe_and_may_be_full() {
    let (mut driver, disk, _served) = start(1);
    let (read_end, write_end) = Driver::pipe();
    let write_end = File::from(write_end);
    driver
        .client
        .tell_ring_file(SET_VRING_CALL, 0, Some(&write_end));
    driver.want_interrupt(0);
    check_read(&mut driver, 0, &disk);
    assert!(readable(&read_end, Duration::from_secs(5)));
    let mut bytes = [0; 16];
    assert_eq!(rustix::io::read(&read_end, &mut bytes).unwrap() % 8, 0);
    // Nobody reads any more: the pipe fills, the ring goes on.
    for _ in 0..10_000 {
        driver.want_interrupt(0);
        driver.read(0, 500, 512);
    }
    // A counter at its very end.
    let call = eventfd();
    rustix::io::write(&call, &(u64::MAX - 1).to_le_bytes()).unwrap();
    driver.client.tell_ring_file(SET_VRING_CALL, 0, Some(&call));
    driver.want_interrupt(0);
    check_read(&mut driver, 0, &disk);
    check_read(&mut driver, 0, &disk);
}

#[test]
fn strange_kick_descriptors_hurt_only_their_own_ring() {
    let (mut driver, disk, _served) = start(2);
    let (pipe_read, pipe_write) = Driver::pipe();
    drop(pipe_write);
    let (_, write_only) = Driver::pipe();
    let regular = tempfile::tempfile().unwrap();
    let memory = File::from(rustix::fs::memfd_create("kick", MemfdFlags::CLOEXEC).unwrap());
    let (socket, _peer) = std::os::unix::net::UnixStream::pair().unwrap();
    let socket = File::from(std::os::fd::OwnedFd::from(socket));
    for kick in [
        File::from(pipe_read),
        File::from(write_only),
        regular,
        memory,
        socket,
    ] {
        driver.client.tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
        check_read(&mut driver, 1, &disk);
    }
    // An honest descriptor mends it.
    driver
        .client
        .tell_ring(SET_VRING_BASE, 0, u32::from(driver.rings[0].next_avail));
    let kick = driver.rings[0].kick.try_clone().unwrap();
    driver.client.tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
    check_read(&mut driver, 0, &disk);
}

#[test]
fn broken_ring_says_so_hurts_only_itself_and_is_mended_by_a_reset() {
    type Damage = (&'static str, fn(&mut Driver));
    let damages: [Damage; 3] = [
        ("available index too far ahead", |driver| {
            driver.set_avail_index(0, 129)
        }),
        ("available index behind", |driver| {
            let behind = driver.rings[0].next_avail.wrapping_sub(1);
            driver.set_avail_index(0, behind);
        }),
        ("head outside the ring", |driver| driver.offer(0, 128)),
    ];
    for (name, damage) in damages {
        let (mut driver, disk, _served) = start(2);
        damage(&mut driver);
        driver.kick(0);
        let error = driver.rings[0].error.try_clone().unwrap();
        assert!(
            readable(&error, Duration::from_secs(5)),
            "{name}: the error descriptor"
        );
        check_read(&mut driver, 1, &disk);
        driver.kick(0);
        // The driver resets the device and starts over.
        driver.stop_ring(0);
        driver.rings[0] = driver.new_ring(0, 128);
        driver.start_ring(0);
        check_read(&mut driver, 0, &disk);
    }
}

#[test]
fn ring_outside_memory_is_refused_or_broken_and_the_session_goes_on() {
    let (mut driver, disk, _served) = start(1);
    driver.client.acknowledge = true;
    // The descriptor table begins in memory and ends behind it.
    let last = driver.guest.user(END - 16);
    let mut payload = pair(1, 0);
    for address in [
        last,
        driver.guest.user(0x1000),
        driver.guest.user(0x2000),
        0,
    ] {
        payload.extend(address.to_le_bytes());
    }
    driver.client.tell_ring(SET_VRING_NUM, 1, 128);
    driver.client.tell(SET_VRING_ADDR, &payload, &[]);
    let (kick, error) = (eventfd(), eventfd());
    driver.client.tell_ring_file(SET_VRING_ERR, 1, Some(&error));
    driver.client.tell_ring_file(SET_VRING_KICK, 1, Some(&kick));
    driver.client.tell_ring(SET_VRING_ENABLE, 1, 1);
    assert!(readable(&error, Duration::from_secs(5)));
    check_read(&mut driver, 0, &disk);
}

#[test]
fn memory_comes_and_goes_under_a_running_ring() {
    let (device, disk) = device();
    let (stream, _served) = serve(&device);
    let mut driver = Driver::negotiate(stream, u64::MAX, u64::MAX);
    driver.add_ring(0, 128);
    assert!(driver.client.ask_u64(GET_MAX_MEM_SLOTS) >= 32);
    let extra = 0x9000_0000_u64;
    let file = File::from(rustix::fs::memfd_create("extra", MemfdFlags::CLOEXEC).unwrap());
    file.set_len(0x1000).unwrap();
    let region = [0, extra, 0x1000, 0x30_0000_0000, 0]
        .map(u64::to_le_bytes)
        .concat();
    let request = |driver: &mut Driver| {
        driver.header(BUFFERS, 0, 500);
        driver.chain(
            0,
            0,
            &[
                (BUFFERS, 16, 0),
                (extra, 512, WRITE),
                (BUFFERS + 0x100, 1, WRITE),
            ],
        );
        driver.run(0, 0);
        driver.bytes(BUFFERS + 0x100, 1)[0]
    };
    for _ in 0..20 {
        assert_eq!(request(&mut driver), IOERR, "not there");
        driver.client.tell(ADD_MEM_REG, &region, &[&file]);
        assert_eq!(request(&mut driver), OK);
        let mut bytes = [0; 512];
        rustix::io::pread(&file, &mut bytes, 0).unwrap();
        assert!(bytes == disk[500 * 512..501 * 512]);
        driver.client.tell(REM_MEM_REG, &region, &[]);
    }
    // The whole table anew, as QEMU does at reboot.
    driver.hand_over_memory(false);
    check_read(&mut driver, 0, &disk);
}

#[test]
fn memory_of_a_running_ring_may_go_and_come_back() {
    let (mut driver, disk, _served) = start(2);
    let rings = &driver.guest.pieces[0];
    let region = [vec![0; 8], rings.region()].concat();
    let file = rings.file.try_clone().unwrap();
    for _ in 0..10 {
        driver.client.tell(REM_MEM_REG, &region, &[]);
        driver.kick(0);
        driver.client.tell(ADD_MEM_REG, &region, &[&file]);
        check_read(&mut driver, 0, &disk);
        check_read(&mut driver, 1, &disk);
    }
    assert!(
        !readable(&driver.rings[0].error, Duration::ZERO),
        "nothing was wrong with the ring"
    );
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(0xfff).unwrap();
    for region in [
        [0, 0x9000_0000, 0x1000, 0x30_0000_0000, 0],
        [0, u64::MAX, 2, 0, 0],
        [0, 0x9000_0000, 0x1000, u64::MAX, 0],
        [0, 0x9000_0000, u64::MAX, 0, 0],
        [0, 0x9000_0000, 0, 0, 0],
        [0, 0, 0x1000, 0x30_0000_0000, 0],
    ] {
        let (mut driver, _disk, served) = start(1);
        driver.client.acknowledge = false;
        driver.client.tell(
            ADD_MEM_REG,
            &region.map(u64::to_le_bytes).concat(),
            &[&file],
        );
        assert!(driver.client.is_closed(), "{region:x?}");
        assert_eq!(served.end(), End::Refused);
    }
}

#[test]
fn device_reset_forgets_the_rings_and_keeps_the_session() {
    let (mut driver, disk, _served) = start(2);
    check_read(&mut driver, 1, &disk);
    driver.client.tell(RESET_DEVICE, &[], &[]);
    offer_read(&mut driver);
    driver.kick(0);
    assert_eq!(
        driver.wait_for(0, Duration::from_millis(30)),
        None,
        "rings are disabled"
    );
    assert_eq!(driver.stop_ring(0), 0, "positions are forgotten");
    for at in 0..2 {
        driver.rings[at] = driver.new_ring(u32::try_from(at).unwrap(), 64);
        driver.start_ring(at);
        check_read(&mut driver, at, &disk);
    }
}

#[test]
fn ring_messages_with_impossible_numbers_are_refused() {
    for (message, index, number) in [
        (SET_VRING_NUM, 0, 0),
        (SET_VRING_NUM, 0, 3),
        (SET_VRING_NUM, 0, 2048),
        (SET_VRING_NUM, 0, 65_536),
        (SET_VRING_NUM, 256, 128),
        (SET_VRING_BASE, 0, 65_536),
        (SET_VRING_BASE, u32::MAX, 0),
        (SET_VRING_ENABLE, 256, 1),
        (SET_VRING_ENABLE, 0, 2),
    ] {
        let (mut driver, _disk, served) = start(1);
        driver.client.acknowledge = false;
        driver.client.tell_ring(message, index, number);
        assert!(driver.client.is_closed(), "{message} {index} {number}");
        assert_eq!(served.end(), End::Refused);
    }
}

#[test]
fn refused_message_is_acknowledged_as_refused_and_changes_nothing() {
    const NEED_REPLY: u32 = 1 | 8;
    let (mut driver, disk, served) = start(1);
    assert!(driver.client.acknowledge);
    let foreign = File::from(rustix::fs::memfd_create("x", MemfdFlags::CLOEXEC).unwrap());
    let region = [0, 0x1000, 0x1000, 0x1000, 0]
        .map(u64::to_le_bytes)
        .concat();
    let outside = [pair(0, 0), [0xf000; 4].map(u64::to_le_bytes).concat()].concat();
    let inflight = [4096_u64, 0, 1 | 128 << 16].map(u64::to_le_bytes).concat();
    for (request, payload, file) in [
        (SET_VRING_NUM, pair(0, 3), None),
        (SET_VRING_NUM, pair(999, 128), None),
        (SET_VRING_BASE, pair(0, 1 << 16), None),
        (SET_VRING_ADDR, outside, None),
        (SET_VRING_ENABLE, pair(300, 1), None),
        (SET_CONFIG, [pair(0, 8), vec![0; 12]].concat(), None),
        (ADD_MEM_REG, region.clone(), Some(&foreign)),
        (REM_MEM_REG, region, None),
        (SET_INFLIGHT_FD, inflight, Some(&foreign)),
    ] {
        let files: Vec<&File> = file.into_iter().collect();
        driver.client.send(request, NEED_REPLY, &payload, &files);
        let status = driver.client.reply(request).expect("an answer");
        assert_ne!(status, 0_u64.to_le_bytes(), "message {request}");
        check_read(&mut driver, 0, &disk);
    }
    // Who does not ask for an answer would go on without knowing, so there is nothing to go on with.
    driver.client.send(SET_VRING_NUM, 1, &pair(0, 3), &[]);
    assert!(driver.client.is_closed());
    assert_eq!(served.end(), End::Refused);
}

/// The message crate acknowledges nothing before GET_FEATURES, whatever was negotiated.
#[test]
fn refusal_that_nobody_would_hear_of_ends_the_session() {
    let (device, _disk) = device();
    let (stream, served) = serve(&device);
    let mut client = Client::new(stream);
    client.tell_u64(SET_PROTOCOL_FEATURES, REPLY_ACK);
    client.send(SET_VRING_NUM, 1 | 8, &pair(0, 3), &[]);
    assert!(client.is_closed());
    assert_eq!(served.end(), End::Refused);
}

#[test]
fn unknown_and_unoffered_messages_end_the_connection_and_nothing_else() {
    let (device, disk) = device();
    for (message, payload) in [
        (99, vec![]),
        (GET_INFLIGHT_FD, vec![0; 24]),
        (0, vec![]),
        (u32::MAX, vec![0; 8]),
    ] {
        let (stream, served) = serve(&device);
        let mut driver = Driver::start(stream, 1);
        driver.client.send(message, 1, &payload, &[]);
        assert!(driver.client.is_closed(), "{message}");
        assert_eq!(served.end(), End::Refused);
        let (stream, _served) = serve(&device);
        check_read(&mut Driver::start(stream, 1), 0, &disk);
    }
}

#[test]
fn message_with_more_descriptors_than_any_may_have_ends_the_connection_at_once() {
    let file = tempfile::tempfile().unwrap();
    for count in [33, 40, 64] {
        let (mut driver, _disk, served) = start(1);
        let start = std::time::Instant::now();
        driver
            .client
            .send(SET_VRING_KICK, 1, &0_u64.to_le_bytes(), &vec![&file; count]);
        assert!(driver.client.is_closed(), "{count}");
        assert_eq!(served.end(), End::Refused);
        assert!(start.elapsed() < Duration::from_secs(3), "{count}");
    }
}

#[test]
fn memory_table_with_room_to_spare_is_taken_as_it_says() {
    let (mut driver, disk, _served) = start(1);
    driver.client.acknowledge = true;
    for spare in [1, 2, 29] {
        driver.hand_over_table(spare);
        check_read(&mut driver, 0, &disk);
    }
    // A region that is not there is refused in this form too.
    driver.client.acknowledge = false;
    driver.guest.pieces[0].len += 0x1000;
    driver.hand_over_table(1);
    assert!(driver.client.is_closed());
}

#[test]
fn message_in_pieces_is_waited_for() {
    let (mut driver, disk, _served) = start(1);
    let message = [
        &[SET_VRING_ENABLE, 1, 8].map(u32::to_le_bytes).concat()[..],
        &pair(0, 1),
    ]
    .concat();
    for cut in [12, 13, 19] {
        driver.client.raw(&message[..cut]);
        std::thread::sleep(Duration::from_millis(10));
        driver.client.raw(&message[cut..]);
        check_read(&mut driver, 0, &disk);
    }
}

#[test]
fn shutdown_ends_a_session_in_any_state() {
    for queues in [0, 1, 4] {
        let (driver, _disk, served) = start(queues);
        served.shutdown.trigger();
        assert_eq!(served.end(), End::Shutdown);
        drop(driver);
    }
    let (mut driver, _disk, served) = start(1);
    driver.client.raw(&[1, 2, 3]);
    served.shutdown.trigger();
    assert_eq!(served.end(), End::Shutdown);
}

#[test]
fn nothing_of_a_session_is_left_behind() {
    let (device, disk) = device();
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let mut before = 0;
    for round in 0..30 {
        let (stream, served) = serve(&device);
        let mut driver = Driver::start(stream, 4);
        check_read(&mut driver, 3, &disk);
        let kick = driver.rings[3].kick.try_clone().unwrap();
        let guest = driver.guest.memory.clone();
        drop(driver);
        assert_eq!(served.end(), End::Disconnected);
        // A kick from beyond: nobody is there to answer.
        let used = GuestAddress(3 * 0x8000 + 0x5002);
        let index: u16 = guest.read_obj(used).unwrap();
        rustix::io::write(&kick, &1_u64.to_le_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(guest.read_obj::<u16>(used).unwrap(), index);
        if round == 0 {
            before = threads();
        }
    }
    assert!(
        threads() < before + 20,
        "queue threads must end with their session"
    );
}

#[test]
fn protocol_features_may_be_any_subset() {
    for protocol_features in [0, REPLY_ACK, MEM_SLOTS, REPLY_ACK | MEM_SLOTS, 1 << 9] {
        let (device, disk) = device();
        let (stream, _served) = serve(&device);
        let mut driver = Driver::negotiate(stream, u64::MAX, protocol_features);
        driver.add_ring(0, 128);
        check_read(&mut driver, 0, &disk);
    }
}
