//! Kicks at the wrong time and in any number, and descriptors of every kind in the place of an eventfd.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::{EventfdFlags, epoll, eventfd as make_eventfd};
use rustix::fs::{CWD, Mode, OFlags, inotify};

use crate::attack::{Attack, DATA, HEADER_PIECE, STATUS_PIECE, Seen, VICTIM};
use crate::family::Family;
use crate::messages::{Reaction, memory_file, tell};
use crate::support::client::{SET_VRING_CALL, SET_VRING_ENABLE, SET_VRING_ERR, SET_VRING_KICK};
use crate::support::driver::{Driver, WRITE, eventfd};

const READ: [(u64, u32, u16); 3] = [HEADER_PIECE, (DATA, 512, WRITE), STATUS_PIECE];

/// A descriptor, and what must stay open for it to be what it is.
type Made = (File, Option<OwnedFd>);

fn alone(fd: impl Into<OwnedFd>) -> Made {
    (File::from(fd.into()), None)
}

fn path(path: &str, flags: OFlags) -> Made {
    let fd = rustix::fs::openat(CWD, path, flags | OFlags::CLOEXEC, Mode::empty());
    alone(fd.unwrap())
}

fn eventfd_with(value: u32, flags: EventfdFlags) -> Made {
    alone(make_eventfd(value, flags | EventfdFlags::CLOEXEC).unwrap())
}

type Kind = (&'static str, fn() -> Made);

const KINDS: [Kind; 23] = [
    ("an eventfd that is set", || {
        eventfd_with(1, EventfdFlags::empty())
    }),
    ("an eventfd with the largest 32-bit count", || {
        eventfd_with(u32::MAX, EventfdFlags::empty())
    }),
    ("a semaphore eventfd", || {
        eventfd_with(1000, EventfdFlags::SEMAPHORE)
    }),
    ("an eventfd that is full", || {
        let (file, _) = eventfd_with(0, EventfdFlags::NONBLOCK);
        rustix::io::write(&file, &(u64::MAX - 1).to_le_bytes()).unwrap();
        (file, None)
    }),
    ("the reading end of a pipe", || {
        let (out, into) = Driver::pipe();
        (out.into(), Some(into))
    }),
    ("the writing end of a pipe", || {
        let (out, into) = Driver::pipe();
        (into.into(), Some(out))
    }),
    ("a pipe whose writer has gone", || alone(Driver::pipe().0)),
    ("a pipe whose reader has gone", || alone(Driver::pipe().1)),
    ("a pipe with three bytes in it", || {
        let (out, into) = Driver::pipe();
        rustix::io::write(&into, &[1; 3]).unwrap();
        (out.into(), Some(into))
    }),
    ("a socket", || {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (File::from(OwnedFd::from(ours)), Some(theirs.into()))
    }),
    ("a socket whose other end has gone", || {
        alone(UnixStream::pair().unwrap().0)
    }),
    ("a listening socket", || {
        let dir = tempfile::tempdir().unwrap();
        alone(UnixListener::bind(dir.path().join("s")).unwrap())
    }),
    ("a regular file", || alone(tempfile::tempfile().unwrap())),
    ("a memfd", || alone(memory_file(4096))),
    ("a directory", || path("/", OFlags::RDONLY)),
    ("a file opened with O_PATH", || {
        path("/dev/null", OFlags::PATH)
    }),
    ("/dev/null", || path("/dev/null", OFlags::RDWR)),
    ("/dev/zero", || path("/dev/zero", OFlags::RDWR)),
    ("/dev/full", || path("/dev/full", OFlags::RDWR)),
    ("an epoll", || {
        alone(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap())
    }),
    ("an inotify", || {
        alone(inotify::init(inotify::CreateFlags::CLOEXEC).unwrap())
    }),
    ("a process", || {
        let own = rustix::process::getpid();
        alone(rustix::process::pidfd_open(own, rustix::process::PidfdFlags::empty()).unwrap())
    }),
    ("/proc/self/mem, read-only", || {
        path("/proc/self/mem", OFlags::RDONLY)
    }),
];

/// A request waits while the kick descriptor is replaced: it is served when the ring starts, if it can start.
fn kick(attack: &mut Attack<'_>, make: fn() -> Made) -> String {
    attack.driver.client.tell_ring(SET_VRING_ENABLE, 0, 0);
    attack.prepare(0, 3, &READ);
    attack.driver.chain(VICTIM, 0, &READ);
    attack.driver.offer(VICTIM, 0);
    let (file, _other_end) = make();
    let payload = 0_u64.to_le_bytes();
    let client = &mut attack.driver.client;
    let reaction = tell(client, SET_VRING_KICK, &payload, &[&file]);
    if reaction != Reaction::Accepted {
        return reaction.text().to_owned();
    }
    client.tell_ring(SET_VRING_ENABLE, 0, 1);
    let outcome = match attack.watch(VICTIM) {
        Seen::Done(done) => {
            assert_eq!(done.used_len, 513);
            assert!(attack.driver.bytes(DATA, 512) == attack.sectors(3, 512));
            "what is offered is served"
        }
        Seen::Broken => "the ring is not started, error descriptor told",
    };
    attack.mend(VICTIM);
    outcome.to_owned()
}

/// Interrupts go to the descriptor; requests are served whatever becomes of them.
fn call(attack: &mut Attack<'_>, make: fn() -> Made) -> String {
    let (file, _other_end) = make();
    let client = &mut attack.driver.client;
    let reaction = tell(client, SET_VRING_CALL, &0_u64.to_le_bytes(), &[&file]);
    if reaction == Reaction::Ended {
        return reaction.text().to_owned();
    }
    for _ in 0..300 {
        attack.goes_on();
    }
    format!("{}; requests are served", reaction.text())
}

/// The ring is broken and nobody can be told.
fn error(attack: &mut Attack<'_>, make: fn() -> Made) -> String {
    let (file, _other_end) = make();
    let client = &mut attack.driver.client;
    let reaction = tell(client, SET_VRING_ERR, &0_u64.to_le_bytes(), &[&file]);
    if reaction == Reaction::Ended {
        return reaction.text().to_owned();
    }
    let position = attack.driver.rings[VICTIM].next_avail;
    attack
        .driver
        .set_avail_index(VICTIM, position.wrapping_add(1000));
    attack.driver.kick(VICTIM);
    attack.demand_neighbour();
    attack.mend(VICTIM);
    format!("{}; the ring can be mended", reaction.text())
}

#[test]
fn kicks() {
    let mut family = Family::start("V-13", "Kicks, and descriptors of every kind");
    for (name, make) in KINDS {
        family.guest(format!("kick descriptor: {name}"), |attack| {
            kick(attack, make)
        });
    }
    for (name, make) in KINDS {
        family.guest(format!("call descriptor: {name}"), |attack| {
            call(attack, make)
        });
    }
    for (name, make) in KINDS {
        family.guest(format!("error descriptor: {name}"), |attack| {
            error(attack, make)
        });
    }
    storms(&mut family);
    family.finish();
}

fn storms(family: &mut Family) {
    family.guest("100,000 kicks of a ring with nothing in it", |attack| {
        for _ in 0..100_000 {
            attack.driver.kick(VICTIM);
        }
        attack.goes_on();
        "the ring goes on".to_owned()
    });
    family.guest("100,000 kicks of a disabled ring", |attack| {
        attack.driver.client.tell_ring(SET_VRING_ENABLE, 0, 0);
        for _ in 0..100_000 {
            attack.driver.kick(VICTIM);
        }
        attack.demand_neighbour();
        attack.driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
        attack.goes_on();
        "silent, then the ring goes on".to_owned()
    });
    family.guest("a kick descriptor 500 times anew", |attack| {
        for _ in 0..500 {
            let kick = eventfd();
            attack
                .driver
                .client
                .tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
            attack.driver.rings[VICTIM].kick = kick;
        }
        attack.goes_on();
        "the ring goes on".to_owned()
    });
    family.guest("no kick descriptor, then one", |attack| {
        attack.driver.client.tell_ring_file(SET_VRING_KICK, 0, None);
        attack.demand_neighbour();
        attack.mend(VICTIM);
        "the ring waits, then goes on".to_owned()
    });
    family.front_end("a kick before anything is set up", |house| {
        let mut driver = Driver::negotiate(house.connect(), u64::MAX, u64::MAX);
        let kick = eventfd();
        driver.client.tell_ring_file(SET_VRING_KICK, 0, Some(&kick));
        driver.client.tell_ring(SET_VRING_ENABLE, 0, 1);
        for _ in 0..1000 {
            rustix::io::write(&kick, &1_u64.to_le_bytes()).unwrap();
        }
        driver.add_ring(0, 128);
        crate::attack::honest_read(&mut driver, 0, &house.disk);
        "nothing, then the ring works".to_owned()
    });
}
