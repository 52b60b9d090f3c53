//! A virtio-blk driver over a split ring, in which every descriptor is the test's own choice.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use virtio_queue::desc::split::Descriptor;
use vm_memory::{Bytes, GuestAddress};

use super::client::{
    ADD_MEM_REG, Client, GET_FEATURES, GET_PROTOCOL_FEATURES, SET_FEATURES, SET_MEM_TABLE,
    SET_OWNER, SET_PROTOCOL_FEATURES, SET_VRING_ADDR, SET_VRING_BASE, SET_VRING_CALL,
    SET_VRING_ENABLE, SET_VRING_ERR, SET_VRING_KICK, SET_VRING_NUM,
};
use super::guest::{BUFFERS, END, Guest, RINGS};

pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;
pub(crate) const INDIRECT: u16 = 4;

pub(crate) const VERSION_1: u64 = 1 << 32;
/// Requests come back in the order they were made.
pub(crate) const IN_ORDER: u64 = 1 << 35;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const INDIRECT_DESC: u64 = 1 << 28;
pub(crate) const PROTOCOL_FEATURES: u64 = 1 << 30;
/// For the length of a migration only, and together with a log.
pub(crate) const LOG_ALL: u64 = 1 << 26;
pub(crate) const RO: u64 = 1 << 5;

pub(crate) const MQ: u64 = 1;
pub(crate) const REPLY_ACK: u64 = 1 << 3;
pub(crate) const BACKEND_REQ: u64 = 1 << 5;
pub(crate) const CONFIG: u64 = 1 << 9;
pub(crate) const MEM_SLOTS: u64 = 1 << 15;

/// One bit for each page of guest memory.
pub(crate) const LOG_LEN_BYTES: u64 = END.div_ceil(8 * 4096);

const RING_STRIDE: u64 = 0x8000;
const AVAIL: u64 = 0x4000;
const USED: u64 = 0x5000;

pub(crate) const OK: u8 = 0;
pub(crate) const IOERR: u8 = 1;
pub(crate) const UNSUPP: u8 = 2;

/// What a completed request left behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    pub(crate) head: u32,
    pub(crate) used_len: u32,
}

pub(crate) struct Ring {
    pub(crate) index: u32,
    pub(crate) size: u16,
    pub(crate) base: u64,
    pub(crate) next_avail: u16,
    pub(crate) next_used: u16,
    pub(crate) kick: File,
    pub(crate) call: File,
    pub(crate) error: File,
    pub(crate) event_idx: bool,
}

/// Where a front-end has a new backend go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// QEMU.
    AtUsedIndex,
    /// cloud-hypervisor.
    AtAvailableIndex,
}

pub(crate) struct Driver {
    pub(crate) client: Client,
    pub(crate) guest: Guest,
    pub(crate) rings: Vec<Ring>,
    pub(crate) features: u64,
    /// A map of requests in flight and its length, handed to every backend.
    pub(crate) inflight: Option<(File, u64)>,
}

pub(crate) fn eventfd() -> File {
    File::from(rustix::event::eventfd(0, EventfdFlags::CLOEXEC).unwrap())
}

/// Whether `fd` has something to read within `timeout`.
pub(crate) fn readable(fd: &impl AsFd, timeout: Duration) -> bool {
    let timeout = Timespec::try_from(timeout).unwrap();
    rustix::event::poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap() > 0
}

impl Driver {
    /// A driver that accepts everything offered, with `queues` rings of 128 entries running.
    pub(crate) fn start(stream: UnixStream, queues: u32) -> Self {
        let mut driver = Self::negotiate(stream, u64::MAX, u64::MAX);
        for index in 0..queues {
            driver.add_ring(index, 128);
        }
        driver
    }

    /// Negotiates the offered features within these masks, but for the dirty log, and hands over the memory.
    pub(crate) fn negotiate(stream: UnixStream, features: u64, protocol_features: u64) -> Self {
        let mut driver = Self {
            client: Client::new(stream),
            guest: Guest::new(),
            rings: Vec::new(),
            features: features & !LOG_ALL,
            inflight: None,
        };
        driver.greet(protocol_features);
        driver
    }

    /// Goes on over a new connection: the same guest, the same memory, the same rings.
    pub(crate) fn reconnect(&mut self, stream: UnixStream, positions: Resume) {
        self.client = Client::new(stream);
        self.greet(u64::MAX);
        if let Some((file, len_bytes)) = &self.inflight {
            let queues = u16::try_from(self.rings.len()).unwrap();
            self.client.set_inflight(file, *len_bytes, queues, 128);
        }
        // A backend that is to die at its first request may do so before it acknowledges the ring.
        self.client.acknowledge = false;
        for at in 0..self.rings.len() {
            let next_avail = self.rings[at].next_avail;
            if positions == Resume::AtUsedIndex {
                self.rings[at].next_avail = self.used_index(at);
            }
            self.start_ring(at);
            self.rings[at].next_avail = next_avail;
        }
    }

    fn greet(&mut self, protocol_features: u64) {
        let client = &mut self.client;
        self.features &= client.ask_u64(GET_FEATURES);
        client.tell(SET_OWNER, &[], &[]);
        let protocol = client.ask_u64(GET_PROTOCOL_FEATURES) & protocol_features;
        client.tell_u64(SET_PROTOCOL_FEATURES, protocol);
        client.acknowledge = protocol & REPLY_ACK != 0;
        client.tell_u64(SET_FEATURES, self.features);
        self.hand_over_memory(protocol & MEM_SLOTS != 0);
    }

    pub(crate) fn hand_over_memory(&mut self, by_region: bool) {
        if !by_region {
            return self.hand_over_table(0);
        }
        // From the top, because nothing says that regions come in order.
        for piece in self.guest.pieces.iter().rev() {
            let payload = [vec![0; 8], piece.region()].concat();
            self.client.tell(ADD_MEM_REG, &payload, &[&piece.file]);
        }
    }

    /// The whole table in one message, with room for `spare` more regions.
    pub(crate) fn hand_over_table(&mut self, spare: usize) {
        let pieces: Vec<_> = self.guest.pieces.iter().rev().collect();
        let count = u32::try_from(pieces.len()).unwrap();
        let mut payload = [count, 0].map(u32::to_le_bytes).concat();
        pieces
            .iter()
            .for_each(|piece| payload.extend(piece.region()));
        payload.resize(payload.len() + 32 * spare, 0xEE);
        let files: Vec<&File> = pieces.iter().map(|piece| &piece.file).collect();
        self.client.tell(SET_MEM_TABLE, &payload, &files);
    }

    /// Sets up ring `index` in fresh memory and starts it.
    pub(crate) fn add_ring(&mut self, index: u32, size: u16) {
        let ring = self.new_ring(index, size);
        self.rings.push(ring);
        self.start_ring(self.rings.len() - 1);
    }

    pub(crate) fn new_ring(&self, index: u32, size: u16) -> Ring {
        let base = RINGS + RING_STRIDE * u64::from(index);
        self.guest
            .memory
            .write_slice(&vec![0; 0x8000], GuestAddress(base))
            .unwrap();
        Ring {
            index,
            size,
            base,
            next_avail: 0,
            next_used: 0,
            kick: eventfd(),
            call: eventfd(),
            error: eventfd(),
            event_idx: self.features & EVENT_IDX != 0,
        }
    }

    /// Tells the backend everything about ring number `at` and enables it.
    pub(crate) fn start_ring(&mut self, at: usize) {
        let ring = &self.rings[at];
        let index = ring.index;
        let byte = u8::try_from(index).unwrap();
        self.client
            .tell_ring(SET_VRING_NUM, index, u32::from(ring.size));
        self.client
            .tell_ring(SET_VRING_BASE, index, u32::from(ring.next_avail));
        self.tell_addresses(at);
        let ring = &self.rings[at];
        self.client
            .tell_ring_file(SET_VRING_ERR, byte, Some(&ring.error));
        self.client
            .tell_ring_file(SET_VRING_CALL, byte, Some(&ring.call));
        self.client
            .tell_ring_file(SET_VRING_KICK, byte, Some(&ring.kick));
        if self.features & PROTOCOL_FEATURES != 0 {
            self.client.tell_ring(SET_VRING_ENABLE, index, 1);
        }
    }

    pub(crate) fn tell_addresses(&mut self, at: usize) {
        let ring = &self.rings[at];
        let mut payload = [ring.index, 0].map(u32::to_le_bytes).concat();
        for address in [ring.base, ring.base + USED, ring.base + AVAIL, 0] {
            let user = if address == 0 && ring.base != 0 {
                0
            } else {
                self.guest.user(address)
            };
            payload.extend(user.to_le_bytes());
        }
        self.client.tell(SET_VRING_ADDR, &payload, &[]);
    }

    pub(crate) fn descriptor(&self, at: usize, index: u16, descriptor: (u64, u32, u16, u16)) {
        self.table_entry(self.rings[at].base, index, descriptor);
    }

    pub(crate) fn table_entry(
        &self,
        table: u64,
        index: u16,
        (address, len, flags, next): (u64, u32, u16, u16),
    ) {
        let descriptor = Descriptor::new(address, len, flags, next);
        self.guest
            .memory
            .write_obj(descriptor, GuestAddress(table + 16 * u64::from(index)))
            .unwrap();
    }

    /// Puts a chain of `(address, len, flags)` at descriptors `first…`; NEXT is added where needed.
    pub(crate) fn chain(&self, at: usize, first: u16, pieces: &[(u64, u32, u16)]) {
        self.chain_in(self.rings[at].base, first, pieces);
    }

    pub(crate) fn chain_in(&self, table: u64, first: u16, pieces: &[(u64, u32, u16)]) {
        for (number, (address, len, flags)) in (0_u16..).zip(pieces) {
            let index = first + number;
            let last = usize::from(number) + 1 == pieces.len();
            let (flags, next) = if last {
                (*flags, 0)
            } else {
                (flags | NEXT, index + 1)
            };
            self.table_entry(table, index, (*address, *len, flags, next));
        }
    }

    /// Makes descriptor `head` available without kicking.
    pub(crate) fn offer(&mut self, at: usize, head: u16) {
        self.offer_together(at, &[head]);
    }

    /// Makes several available at the same moment.
    pub(crate) fn offer_together(&mut self, at: usize, heads: &[u16]) {
        let ring = &mut self.rings[at];
        for head in heads {
            let entry = ring.base + AVAIL + 4 + 2 * u64::from(ring.next_avail % ring.size);
            self.guest
                .memory
                .write_obj(*head, GuestAddress(entry))
                .unwrap();
            ring.next_avail = ring.next_avail.wrapping_add(1);
        }
        let index = GuestAddress(ring.base + AVAIL + 2);
        self.guest
            .memory
            .store(ring.next_avail, index, Ordering::Release)
            .unwrap();
    }

    pub(crate) fn set_avail_index(&mut self, at: usize, value: u16) {
        let index = GuestAddress(self.rings[at].base + AVAIL + 2);
        self.guest
            .memory
            .store(value, index, Ordering::Release)
            .unwrap();
    }

    pub(crate) fn used_index(&self, at: usize) -> u16 {
        self.guest
            .memory
            .load(
                GuestAddress(self.rings[at].base + USED + 2),
                Ordering::Acquire,
            )
            .unwrap()
    }

    pub(crate) fn kick(&self, at: usize) {
        rustix::io::write(&self.rings[at].kick, &1_u64.to_le_bytes()).unwrap();
    }

    /// Kicks if the device asked for it, as a driver does.
    pub(crate) fn kick_if_wanted(&self, at: usize, old: u16) {
        fence(Ordering::SeqCst);
        let ring = &self.rings[at];
        let wanted = if ring.event_idx {
            let event = ring.base + USED + 4 + 8 * u64::from(ring.size);
            let event: u16 = self
                .guest
                .memory
                .load(GuestAddress(event), Ordering::Acquire)
                .unwrap();
            ring.next_avail.wrapping_sub(event).wrapping_sub(1) < ring.next_avail.wrapping_sub(old)
        } else {
            let flags: u16 = self
                .guest
                .memory
                .load(GuestAddress(ring.base + USED), Ordering::Acquire)
                .unwrap();
            flags & 1 == 0
        };
        if wanted {
            self.kick(at);
        }
    }

    /// Asks to be interrupted after the next completion, if events go by index.
    pub(crate) fn want_interrupt(&self, at: usize) {
        let ring = &self.rings[at];
        let event = GuestAddress(ring.base + AVAIL + 4 + 2 * u64::from(ring.size));
        self.guest
            .memory
            .store(ring.next_used, event, Ordering::Release)
            .unwrap();
    }

    /// The next completion, waited for by looking.
    pub(crate) fn wait(&mut self, at: usize) -> Done {
        self.wait_for(at, Duration::from_secs(20))
            .expect("a completion within 20 s")
    }

    pub(crate) fn wait_for(&mut self, at: usize, timeout: Duration) -> Option<Done> {
        let deadline = Instant::now() + timeout;
        while self.used_index(at) == self.rings[at].next_used {
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_micros(20));
        }
        let ring = &mut self.rings[at];
        let entry = ring.base + USED + 4 + 8 * u64::from(ring.next_used % ring.size);
        ring.next_used = ring.next_used.wrapping_add(1);
        let head = self.guest.memory.read_obj(GuestAddress(entry)).unwrap();
        let used_len = self.guest.memory.read_obj(GuestAddress(entry + 4)).unwrap();
        Some(Done { head, used_len })
    }

    /// Writes a request header at `address`.
    pub(crate) fn header(&self, address: u64, kind: u32, sector: u64) {
        let bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.guest
            .memory
            .write_slice(&bytes, GuestAddress(address))
            .unwrap();
    }

    pub(crate) fn bytes(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.guest
            .memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    pub(crate) fn fill(&self, address: u64, len: usize, byte: u8) {
        self.guest
            .memory
            .write_slice(&vec![byte; len], GuestAddress(address))
            .unwrap();
    }

    /// All of guest memory.
    pub(crate) fn snapshot(&self) -> Vec<Vec<u8>> {
        let pieces = self.guest.pieces.iter();
        pieces
            .map(|piece| self.bytes(piece.guest, usize::try_from(piece.len).unwrap()))
            .collect()
    }

    /// One request in the plain form: header, data, status in three descriptors. Returns status, used length and
    /// the data area, which was filled with 0xEE before.
    pub(crate) fn request(
        &mut self,
        at: usize,
        kind: u32,
        sector: u64,
        data_len: u32,
        data_flags: u16,
    ) -> (u8, u32, Vec<u8>) {
        let (header, status, data) = (BUFFERS, BUFFERS + 0x100, BUFFERS + 0x1000);
        self.header(header, kind, sector);
        self.fill(status, 1, 0xEE);
        self.fill(data, data_len as usize, 0xEE);
        let mut pieces = vec![(header, 16, 0)];
        if data_len > 0 {
            pieces.push((data, data_len, data_flags));
        }
        pieces.push((status, 1, WRITE));
        self.chain(at, 0, &pieces);
        let done = self.run(at, 0);
        assert_eq!(done.head, 0);
        (
            self.bytes(status, 1)[0],
            done.used_len,
            self.bytes(data, data_len as usize),
        )
    }

    /// Offers `head`, kicks, and waits for its completion.
    pub(crate) fn run(&mut self, at: usize, head: u16) -> Done {
        let old = self.rings[at].next_avail;
        self.offer(at, head);
        self.kick_if_wanted(at, old);
        self.wait(at)
    }

    /// Reads sectors and demands success.
    pub(crate) fn read(&mut self, at: usize, sector: u64, len: u32) -> Vec<u8> {
        let (status, used_len, data) = self.request(at, 0, sector, len, WRITE);
        assert_eq!(
            (status, used_len),
            (OK, len + 1),
            "read of {len} bytes at sector {sector}"
        );
        data
    }

    /// Stops ring number `at` and returns where it stood.
    pub(crate) fn stop_ring(&mut self, at: usize) -> u16 {
        let index = self.rings[at].index;
        self.client.vring_base(index)
    }

    /// A dirty log for all of guest memory, not yet handed over.
    pub(crate) fn log_file() -> File {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file = File::from(rustix::fs::memfd_create("log", flags).unwrap());
        file.set_len(LOG_LEN_BYTES).unwrap();
        file
    }

    pub(crate) fn pipe() -> (OwnedFd, OwnedFd) {
        rustix::pipe::pipe().unwrap()
    }
}
