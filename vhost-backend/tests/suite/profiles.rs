//! Promise: every front-end's own way to set up the device works: its subset of features, its order of messages,
//! its questions about the configuration space. The profiles are what the programs were seen to send.

use std::fs::File;

use crate::support::client::{
    Client, GET_FEATURES, GET_MAX_MEM_SLOTS, GET_PROTOCOL_FEATURES, GET_QUEUE_NUM,
    SET_BACKEND_REQ_FD, SET_FEATURES, SET_OWNER, SET_PROTOCOL_FEATURES, SET_VRING_BASE,
    SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM,
};
use crate::support::driver::{
    BACKEND_REQ, CONFIG, Driver, EVENT_IDX, LOG_ALL, MEM_SLOTS, MQ, PROTOCOL_FEATURES, REPLY_ACK,
    RO, VERSION_1,
};
use crate::support::guest::Guest;
use crate::support::image::{SECTORS, device};
use crate::support::serve;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Num,
    Base,
    Addr,
    Call,
    CallPipe,
    Kick,
    Err,
    Enable,
}
use Step::{Addr, Base, Call, CallPipe, Enable, Err, Kick, Num};

struct Profile {
    name: &'static str,
    owner_first: bool,
    features: u64,
    protocol_features: u64,
    /// Offset, size and flags of each GET_CONFIG.
    config: &'static [(u32, u32, u32)],
    asks_queue_num: bool,
    /// Regions that a memory table has room for beyond what it holds.
    spare_regions: usize,
    ring_size: u16,
    queues: u32,
    steps: &'static [Step],
}

const EVERYTHING: u64 = u64::MAX;

const PROFILES: [Profile; 8] = [
    Profile {
        name: "QEMU 7.2, Linux over PCI",
        owner_first: false,
        features: EVERYTHING,
        protocol_features: EVERYTHING,
        config: &[(0, 57, 0)],
        asks_queue_num: true,
        spare_regions: 0,
        ring_size: 128,
        queues: 2,
        steps: &[Err, Call, Num, Base, Addr, Kick, Enable],
    },
    Profile {
        name: "QEMU 10, Linux over virtio-mmio",
        owner_first: false,
        features: EVERYTHING,
        protocol_features: EVERYTHING,
        config: &[(0, 57, 0)],
        asks_queue_num: true,
        spare_regions: 0,
        ring_size: 1024,
        queues: 1,
        steps: &[Err, Call, Num, Base, Addr, Kick, Enable],
    },
    Profile {
        name: "SeaBIOS in QEMU",
        owner_first: false,
        features: VERSION_1 | PROTOCOL_FEATURES | 1 << 2 | 1 << 6,
        protocol_features: EVERYTHING,
        config: &[(0, 57, 0)],
        asks_queue_num: true,
        spare_regions: 0,
        ring_size: 128,
        queues: 1,
        steps: &[Err, Call, Num, Base, Addr, Kick, Enable],
    },
    Profile {
        name: "cloud-hypervisor, guest without MSI-X",
        owner_first: true,
        features: EVERYTHING,
        protocol_features: MQ | REPLY_ACK | CONFIG | MEM_SLOTS,
        config: &[(0, 60, 1)],
        asks_queue_num: true,
        spare_regions: 0,
        ring_size: 128,
        queues: 4,
        steps: &[Num, Addr, Base, Kick, Enable],
    },
    Profile {
        name: "Firecracker",
        owner_first: true,
        features: VERSION_1 | EVENT_IDX | RO | PROTOCOL_FEATURES,
        protocol_features: CONFIG,
        config: &[(0, 60, 1)],
        asks_queue_num: false,
        spare_regions: 0,
        ring_size: 256,
        queues: 1,
        steps: &[Num, Addr, Base, Call, Kick, Enable],
    },
    Profile {
        name: "User-mode Linux",
        owner_first: true,
        features: EVERYTHING,
        protocol_features: REPLY_ACK | BACKEND_REQ | CONFIG,
        config: &[
            (0, 8, 0),
            (0, 12, 0),
            (0, 16, 0),
            (0, 24, 0),
            (0, 25, 0),
            (0, 26, 0),
            (0, 28, 0),
            (0, 32, 0),
            (0, 33, 0),
            (0, 36, 0),
            (0, 40, 0),
            (0, 44, 0),
            (0, 48, 0),
            (0, 52, 0),
        ],
        asks_queue_num: false,
        spare_regions: 1,
        ring_size: 256,
        queues: 1,
        steps: &[CallPipe, Num, Base, Addr, Kick, Enable],
    },
    Profile {
        name: "the virtio-driver crate",
        owner_first: true,
        features: EVERYTHING,
        protocol_features: MQ | REPLY_ACK | CONFIG | MEM_SLOTS,
        config: &[(0, 60, 0)],
        asks_queue_num: true,
        spare_regions: 0,
        ring_size: 256,
        queues: 2,
        steps: &[Num, Base, Addr, Kick, Call, Enable],
    },
    Profile {
        name: "crosvm",
        owner_first: true,
        features: EVERYTHING,
        protocol_features: MQ | CONFIG | BACKEND_REQ,
        config: &[(0, 60, 1)],
        asks_queue_num: true,
        spare_regions: 0,
        ring_size: 256,
        queues: 2,
        steps: &[Num, Addr, Base, Call, Kick, Enable],
    },
];

fn greet(client: &mut Client, profile: &Profile) -> (u64, u64) {
    if profile.owner_first {
        client.tell(SET_OWNER, &[], &[]);
    }
    let offered = client.ask_u64(GET_FEATURES);
    assert_ne!(offered & PROTOCOL_FEATURES, 0);
    let protocol = client.ask_u64(GET_PROTOCOL_FEATURES) & profile.protocol_features;
    client.tell_u64(SET_PROTOCOL_FEATURES, protocol);
    client.acknowledge = protocol & REPLY_ACK != 0;
    if !profile.owner_first {
        client.tell(SET_OWNER, &[], &[]);
    }
    // No guest ever sees the log.
    (offered & profile.features & !LOG_ALL, protocol)
}

fn run(profile: &Profile) {
    let (device, disk) = device();
    let (stream, _served) = serve(&device);
    let mut client = Client::new(stream);
    let (features, protocol) = greet(&mut client, profile);
    if profile.asks_queue_num {
        assert!(client.ask_u64(GET_QUEUE_NUM) >= u64::from(profile.queues));
    }
    if protocol & MEM_SLOTS != 0 {
        assert!(client.ask_u64(GET_MAX_MEM_SLOTS) >= 3);
    }
    let (backend_channel, ours) = std::os::unix::net::UnixStream::pair().unwrap();
    if protocol & BACKEND_REQ != 0 {
        let file = File::from(std::os::fd::OwnedFd::from(ours));
        client.tell(SET_BACKEND_REQ_FD, &[], &[&file]);
    }
    for (offset, size, flags) in profile.config {
        let config = client.config(*offset, *size, *flags).unwrap();
        assert_eq!(config.len(), *size as usize);
        assert_eq!(config[..8], SECTORS.to_le_bytes());
    }
    client.tell_u64(SET_FEATURES, features);
    let mut driver = Driver {
        client,
        guest: Guest::new(),
        rings: Vec::new(),
        features,
        inflight: None,
    };
    match protocol & MEM_SLOTS {
        0 => driver.hand_over_table(profile.spare_regions),
        _ => driver.hand_over_memory(true),
    }
    let mut pipes = Vec::new();
    for index in 0..profile.queues {
        let ring = driver.new_ring(index, profile.ring_size);
        driver.rings.push(ring);
        for step in profile.steps {
            pipes.extend(take(&mut driver, index, *step));
        }
        let at = index as usize;
        for sector in [0, 500, SECTORS - 8] {
            let data = driver.read(at, sector, 4096);
            let start = usize::try_from(sector).unwrap() * 512;
            assert!(
                data == disk[start..start + 4096],
                "{}: sector {sector}",
                profile.name
            );
        }
    }
    drop(backend_channel);
}

/// One message about ring `index`. A pipe's other end must stay open, so it is handed back.
fn take(driver: &mut Driver, index: u32, step: Step) -> Option<std::os::fd::OwnedFd> {
    let at = index as usize;
    let byte = u8::try_from(index).unwrap();
    let file = |file: &File| file.try_clone().unwrap();
    match step {
        Num => driver
            .client
            .tell_ring(SET_VRING_NUM, index, u32::from(driver.rings[at].size)),
        Base => driver.client.tell_ring(SET_VRING_BASE, index, 0),
        Addr => driver.tell_addresses(at),
        Enable => driver.client.tell_ring(SET_VRING_ENABLE, index, 1),
        Call => {
            driver
                .client
                .tell_ring_file(SET_VRING_CALL, byte, Some(&file(&driver.rings[at].call)))
        }
        Kick => {
            driver
                .client
                .tell_ring_file(SET_VRING_KICK, byte, Some(&file(&driver.rings[at].kick)))
        }
        Err => {
            driver
                .client
                .tell_ring_file(SET_VRING_ERR, byte, Some(&file(&driver.rings[at].error)))
        }
        CallPipe => {
            let (read_end, write_end) = Driver::pipe();
            driver
                .client
                .tell_ring_file(SET_VRING_CALL, byte, Some(&File::from(write_end)));
            return Some(read_end);
        }
    }
    None
}

#[test]
fn every_front_end_gets_its_disk() {
    for profile in &PROFILES {
        println!("{}", profile.name);
        run(profile);
    }
}

#[test]
fn backend_says_what_front_ends_refuse_to_live_without() {
    let (device, _disk) = device();
    let (stream, _served) = serve(&device);
    let mut client = Client::new(stream);
    let needed = MQ | REPLY_ACK | BACKEND_REQ | CONFIG | MEM_SLOTS;
    assert_ne!(client.ask_u64(GET_FEATURES) & VERSION_1, 0);
    assert_eq!(client.ask_u64(GET_PROTOCOL_FEATURES) & needed, needed);
}
