//! What a check stands on: a session in this process, a driver, and ways to see whether a ring runs.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use blob::test_util::{Stall, StallingBlob};
use blob::{MemoryBlob, ReadAt};
use vhost_backend::device::Device;
use vhost_backend::limits::DeviceLimits;
use vhost_backend::session::End;
use vm_memory::{Bytes, GuestAddress};

use crate::support::client::{Client, GET_FEATURES, REM_MEM_REG, SET_PROTOCOL_FEATURES};
use crate::support::driver::{Driver, MEM_SLOTS, OK, REPLY_ACK, Resume, WRITE, eventfd, readable};
use crate::support::guest::BUFFERS;
use crate::support::image::{SECTORS, device, device_with, layers};
use crate::support::{Served, serve};

pub(crate) const HEADER: u64 = BUFFERS;
pub(crate) const STATUS: u64 = BUFFERS + 0x100;
pub(crate) const TABLE: u64 = BUFFERS + 0x800;
pub(crate) const DATA: u64 = BUFFERS + 0x1000;

/// Where parts of a ring lie behind its base.
pub(crate) const AVAIL: u64 = 0x4000;
pub(crate) const USED: u64 = 0x5000;
const USED_INDEX: u64 = USED + 2;

/// A message that wants to be acknowledged.
pub(crate) const NEED_REPLY: u32 = 1 | 8;

/// How long something that must not happen is given to happen.
pub(crate) const QUIET: Duration = Duration::from_millis(2);
/// How long something that must happen is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// The disk that all checks read, made once.
pub(crate) fn shared() -> &'static (Arc<Device>, Vec<u8>) {
    static SHARED: OnceLock<(Arc<Device>, Vec<u8>)> = OnceLock::new();
    SHARED.get_or_init(device)
}

/// The same disk with another number of queues.
pub(crate) fn device_with_queues(num_queues: u16) -> Arc<Device> {
    let image = Arc::clone(shared().0.image());
    let limits = DeviceLimits {
        num_queues,
        ..Default::default()
    };
    Arc::new(Device::new(image, None, limits))
}

/// The same disk, which stops answering while the stall is closed.
pub(crate) fn stalling() -> (Arc<Device>, Arc<Stall>) {
    let stall = Arc::new(Stall::default());
    let blobs = layers().0.into_iter().enumerate().map(|(ordinal, bytes)| {
        let blob = StallingBlob::new(MemoryBlob::new(bytes), Arc::clone(&stall));
        let name = PathBuf::from(format!("memory-{ordinal}"));
        (name, Box::new(blob) as Box<dyn ReadAt>)
    });
    (device_with(blobs.collect()), stall)
}

/// A session and its driver.
pub(crate) struct Bench {
    pub(crate) driver: Driver,
    pub(crate) disk: &'static [u8],
    served: Served,
}

/// Everything negotiated, and `queues` rings of 128 entries running.
pub(crate) fn start(queues: u32) -> Bench {
    start_on(&shared().0, queues)
}

pub(crate) fn start_on(device: &Arc<Device>, queues: u32) -> Bench {
    let mut bench = negotiate_on(device, u64::MAX, u64::MAX);
    (0..queues).for_each(|index| bench.driver.add_ring(index, 128));
    bench
}

/// Features within these masks negotiated, memory handed over, no ring yet.
pub(crate) fn negotiate(features: u64, protocol_features: u64) -> Bench {
    negotiate_on(&shared().0, features, protocol_features)
}

pub(crate) fn negotiate_on(device: &Arc<Device>, features: u64, protocol_features: u64) -> Bench {
    let (stream, served) = serve(device);
    Bench {
        driver: Driver::negotiate(stream, features, protocol_features),
        disk: &shared().1,
        served,
    }
}

/// Everything negotiated but the features, which the driver means to choose.
pub(crate) fn without_features() -> Bench {
    let mut bench = start(0);
    let offered = bench.driver.features;
    // A new session is the only one in which nothing was chosen, so the memory moves to one.
    let (stream, served) = serve(&shared().0);
    let mut client = Client::new(stream);
    assert_ne!(client.ask_u64(GET_FEATURES), 0);
    client.tell_u64(SET_PROTOCOL_FEATURES, REPLY_ACK | MEM_SLOTS);
    client.acknowledge = true;
    bench.driver.client = client;
    bench.served = served;
    bench.driver.features = offered;
    bench.driver.hand_over_memory(false);
    bench
}

/// A session in which nothing has been said.
pub(crate) fn connect() -> (Client, Served) {
    let (stream, served) = serve(&shared().0);
    (Client::new(stream), served)
}

impl Bench {
    pub(crate) fn sectors(&self, first: u64, len: u32) -> &'static [u8] {
        let start = usize::try_from(first).unwrap() * 512;
        &self.disk[start..start + len as usize]
    }

    /// A read through ring number `at` that must be right.
    pub(crate) fn check_read(&mut self, at: usize) {
        let data = self.driver.read(at, 500, 4096);
        assert!(data == self.sectors(500, 4096), "wrong bytes on ring {at}");
    }

    /// A read of one sector in descriptors 3 n…3 n + 2 of ring `at`, with buffers of its own, not yet available.
    pub(crate) fn place_read(&self, at: usize, slot: u16, sector: u64) {
        let area = area(at, slot);
        self.driver.header(area, 0, sector);
        self.driver.fill(area + 0x20, 1, 0xEE);
        self.driver.fill(area + 0x200, 512, 0xEE);
        let pieces = [
            (area, 16, 0),
            (area + 0x200, 512, WRITE),
            (area + 0x20, 1, WRITE),
        ];
        self.driver.chain(at, 3 * slot, &pieces);
    }

    /// The same, made available without a kick.
    pub(crate) fn offer_read(&mut self, at: usize, slot: u16, sector: u64) {
        self.place_read(at, slot, sector);
        self.driver.offer(at, 3 * slot);
    }

    /// The next completion of ring `at` must be the read in `slot`, and right.
    pub(crate) fn expect_read(&mut self, at: usize, slot: u16, sector: u64) {
        let done = self.driver.wait(at);
        assert_eq!((done.head, done.used_len), (u32::from(3 * slot), 513));
        self.check_area(at, slot, sector);
    }

    pub(crate) fn check_area(&self, at: usize, slot: u16, sector: u64) {
        let area = area(at, slot);
        assert_eq!(self.driver.bytes(area + 0x20, 1), [OK]);
        let data = self.driver.bytes(area + 0x200, 512);
        assert!(data == self.sectors(sector, 512), "ring {at}, slot {slot}");
    }

    /// A read that is offered and kicked for is answered.
    pub(crate) fn demand_runs(&mut self, at: usize) {
        self.offer_read(at, 0, 500);
        self.driver.kick(at);
        self.expect_read(at, 0, 500);
    }

    /// Kicks ring `at`, on which something is available, and nothing happens: nobody takes the kick, nothing is
    /// written, nobody is told.
    pub(crate) fn demand_silence(&mut self, at: usize) {
        self.demand_silence_for(at, QUIET);
    }

    pub(crate) fn demand_silence_for(&mut self, at: usize, quiet: Duration) {
        // What was said before the ring stopped was said then.
        self.take_interrupts(at);
        let used = self.driver.used_index(at);
        self.driver.kick(at);
        let ring = &self.driver.rings[at];
        assert!(!readable(&ring.call, quiet), "ring {at} interrupts");
        assert!(readable(&ring.kick, Duration::ZERO), "somebody was kicked");
        assert_eq!(self.driver.used_index(at), used, "ring {at} gives back");
    }

    /// Takes the interrupts there are on ring `at`.
    pub(crate) fn take_interrupts(&self, at: usize) -> u64 {
        count(&self.driver.rings[at].call)
    }

    /// Waits for the interrupt that says that ring `at` has started.
    pub(crate) fn wait_for_start(&self, at: usize) {
        let call = &self.driver.rings[at].call;
        assert!(readable(call, PATIENCE), "ring {at} has started");
        assert_eq!(count(call), 1);
    }

    /// Stops ring `at`; a new kick descriptor and the position make it ready to be started again.
    pub(crate) fn stop(&mut self, at: usize) -> u16 {
        let position = self.driver.stop_ring(at);
        self.driver.rings[at].kick = eventfd();
        position
    }

    /// Starts ring `at` again where the backend said that it stood.
    pub(crate) fn start_at(&mut self, at: usize, position: u16) {
        let offered = std::mem::replace(&mut self.driver.rings[at].next_avail, position);
        self.driver.start_ring(at);
        self.driver.rings[at].next_avail = offered;
    }

    /// Goes on over a new session, after the end of the old one.
    pub(crate) fn reconnect(&mut self, resume: Resume) {
        self.reconnect_to(&shared().0, resume);
    }

    pub(crate) fn reconnect_to(&mut self, device: &Arc<Device>, resume: Resume) {
        let (stream, served) = serve(device);
        // This closes the old connection.
        self.driver.reconnect(stream, resume);
        self.served = served;
    }

    /// Ends the session from this side.
    pub(crate) fn hang_up(self) -> End {
        drop(self.driver);
        self.served.end()
    }

    /// Waits for the end of a session whose connection has been closed; the guest stays.
    pub(crate) fn wait_for_end(self) -> Self {
        assert_eq!(self.served.end(), End::Disconnected);
        let (stream, served) = serve(&shared().0);
        drop(stream);
        Self { served, ..self }
    }

    /// The session must have been ended by the backend.
    pub(crate) fn demand_refused(mut self) {
        assert!(self.driver.client.is_closed());
        assert_eq!(self.served.end(), End::Refused);
    }

    pub(crate) fn shut_down(self) -> End {
        self.served.shutdown.trigger();
        self.served.end()
    }

    /// Sends a message that wants an acknowledgement; whether it was taken.
    pub(crate) fn asks(&mut self, request: u32, payload: &[u8], files: &[&File]) -> bool {
        let client = &mut self.driver.client;
        client.send(request, NEED_REPLY, payload, files);
        let status = client.reply(request).expect("an acknowledgement");
        assert_eq!(status.len(), 8);
        status == [0; 8]
    }

    pub(crate) fn put_u16(&self, address: u64, value: u16) {
        let memory = &self.driver.guest.memory;
        memory.write_obj(value, GuestAddress(address)).unwrap();
    }

    pub(crate) fn get_u16(&self, address: u64) -> u16 {
        let memory = &self.driver.guest.memory;
        memory.read_obj(GuestAddress(address)).unwrap()
    }
}

/// Guest memory for the request in `slot` of ring `at`: header, status at 0x20, data at 0x200.
pub(crate) fn area(at: usize, slot: u16) -> u64 {
    BUFFERS + 0x10_0000 + 0x1_0000 * at as u64 + 0x400 * u64::from(slot)
}

/// Makes ring `at`, not started yet, one that has come as far as `index`.
pub(crate) fn put_indices(bench: &mut Bench, at: usize, index: u16) {
    let used = bench.driver.rings[at].base + USED_INDEX;
    bench.put_u16(used, index);
    bench.driver.set_avail_index(at, index);
    let ring = &mut bench.driver.rings[at];
    (ring.next_avail, ring.next_used) = (index, index);
}

/// Takes a piece of memory away.
pub(crate) fn remove_piece(driver: &mut Driver, piece: usize) {
    let region = [vec![0; 8], driver.guest.pieces[piece].region()].concat();
    driver.client.tell(REM_MEM_REG, &region, &[]);
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Takes what an event counter holds; 0 without waiting.
pub(crate) fn count(counter: &File) -> u64 {
    if !readable(counter, Duration::ZERO) {
        return 0;
    }
    let mut bytes = [0; 8];
    assert_eq!(rustix::io::read(counter, &mut bytes).unwrap(), 8);
    u64::from_le_bytes(bytes)
}

/// A pipe: reading end, writing end.
pub(crate) fn pipe() -> (File, File) {
    let (out, into) = rustix::pipe::pipe().unwrap();
    (out.into(), into.into())
}

/// Whether nobody holds the other end of this reading end any more, waited for.
pub(crate) fn is_abandoned(reading_end: &File) -> bool {
    readable(reading_end, PATIENCE) && rustix::io::read(reading_end, &mut [0; 1]) == Ok(0)
}

pub(crate) fn memfd(len_bytes: u64) -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let file = File::from(rustix::fs::memfd_create("check", flags).unwrap());
    file.set_len(len_bytes).unwrap();
    file
}

/// Sectors that lie at borders of layers and of the disk, and some in between.
pub(crate) const PLACES: [u64; 8] = [0, 1, 6, 500, 512, 609, 2000, SECTORS - 8];

/// Reproducible choices.
pub(crate) struct Dice(std::vec::IntoIter<u8>);

impl Dice {
    /// `VBD_SEED` repeats a run.
    pub(crate) fn new(what: &str) -> Self {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let fresh = usize::try_from(now.subsec_nanos()).unwrap();
        let seed = crate::registry::number_or("VBD_SEED", fresh);
        println!("{what}: VBD_SEED={seed}");
        Self(blob::test_util::noise(1 << 20, seed as u64).into_iter())
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        let mut word = [0; 8];
        word.fill_with(|| self.0.next().expect("enough random bytes"));
        u64::from_le_bytes(word) % end
    }
}
