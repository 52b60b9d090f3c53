//! Promise: whatever a front-end sends, in whatever state, with whatever descriptors, the daemon lives, gives
//! everything back, and serves the next front-end right.
//!
//! `VBD_SEED` repeats a run, which prints its own; `VBD_SESSIONS` asks for more sessions.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use blob::test_util::noise;

use crate::daemon::{Place, wait_until};
use crate::kill::fresh_seed;
use crate::support::client::{Client, SET_MEM_TABLE, SET_PROTOCOL_FEATURES};
use crate::support::driver::{Driver, PROTOCOL_FEATURES, VERSION_1, eventfd};

/// Sessions of a normal run.
const SESSIONS: usize = 300;
const MESSAGES: u64 = 25;

struct Dice {
    bytes: std::vec::IntoIter<u8>,
}

impl Dice {
    fn number(&mut self) -> u64 {
        let mut word = [0; 8];
        word.fill_with(|| {
            self.bytes
                .next()
                .expect("enough random bytes for a session")
        });
        u64::from_le_bytes(word)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }

    /// A number that might mean something, or come close to it.
    fn value(&mut self) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => 1,
            2 => self.below(300),
            3 => 1 << self.below(64),
            4 => 0x10_0000_0000 + self.below(0x20_0000),
            5 => u64::MAX - self.below(0x2000),
            6 => 0x1000 * self.below(64),
            _ => self.number(),
        }
    }

    fn file(&mut self) -> File {
        match self.below(6) {
            0 | 1 => eventfd(),
            2 => File::from(Driver::pipe().0),
            3 => File::from(OwnedFd::from(UnixStream::pair().unwrap().0)),
            4 => File::open("/dev/zero").unwrap(),
            _ => {
                let file =
                    rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
                let file = File::from(file);
                file.set_len(0x1000 * self.below(64)).unwrap();
                file
            }
        }
    }

    fn message(&mut self, client: &mut Client) {
        let request = u32::try_from(self.below(46)).unwrap();
        let words = match self.below(4) {
            0 => self.below(12),
            1 => 0,
            _ => 1 + self.below(2),
        };
        let mut payload: Vec<u8> = (0..words)
            .flat_map(|_| self.value().to_le_bytes())
            .collect();
        if request == SET_MEM_TABLE && self.below(2) == 0 {
            payload = [1 + self.below(3)]
                .into_iter()
                .flat_map(u64::to_le_bytes)
                .collect();
            payload.extend((0..12).flat_map(|_| self.value().to_le_bytes()));
        }
        if self.below(10) == 0 {
            payload.truncate(usize::try_from(self.below(payload.len() as u64 + 1)).unwrap());
        }
        let files: Vec<File> = (0..self.below(4)).map(|_| self.file()).collect();
        let flags = if self.below(10) == 0 {
            u32::try_from(self.below(32)).unwrap()
        } else {
            1
        };
        client.send(request, flags, &payload, &files.iter().collect::<Vec<_>>());
    }
}

fn session(stream: UnixStream, dice: &mut Dice) {
    let mut client = match dice.below(3) {
        // Nothing negotiated.
        0 => Client::new(stream),
        // Everything, with running rings. The guest's memory must outlive what happens next.
        1 => {
            let mut driver = Driver::start(stream, 2);
            (0..MESSAGES).for_each(|_| dice.message(&mut driver.client));
            return;
        }
        _ => {
            let mut client = Client::new(stream);
            client.tell_u64(SET_PROTOCOL_FEATURES, 0xa228 | 1);
            client.tell_u64(
                crate::support::client::SET_FEATURES,
                VERSION_1 | PROTOCOL_FEATURES,
            );
            client
        }
    };
    for _ in 0..dice.below(MESSAGES) {
        dice.message(&mut client);
    }
    if dice.below(4) == 0 {
        let bytes = dice.number().to_le_bytes();
        client.raw(&bytes);
    }
}

#[test]
fn no_message_ends_the_daemon_or_stays_with_it() {
    let sessions = std::env::var("VBD_SESSIONS")
        .ok()
        .map_or(SESSIONS, |count| count.parse().unwrap());
    let seed = std::env::var("VBD_SEED")
        .ok()
        .map_or_else(fresh_seed, |seed| seed.parse().unwrap());
    println!("VBD_SEED={seed}");
    let place = Place::new();
    let daemon = place.daemon(&["--log-level", "error"]);
    drop(Driver::start(daemon.connect(), 1));
    let mut usage = (0, 0);
    for round in 0..sessions {
        let mut dice = Dice {
            bytes: noise(1 << 16, seed + round as u64).into_iter(),
        };
        session(daemon.connect(), &mut dice);
        if round % 10 == 0 {
            let mut driver = Driver::start(daemon.connect(), 1);
            assert!(
                driver.read(0, 500, 4096) == place.disk[500 * 512..508 * 512],
                "after session {round}"
            );
        }
        if round == 20 {
            wait_until("sessions to end", || daemon.threads() <= 2);
            usage = (daemon.open_files(), daemon.threads());
        }
    }
    wait_until("descriptors and threads to be given back", || {
        (daemon.open_files(), daemon.threads()) <= usage
    });
}
