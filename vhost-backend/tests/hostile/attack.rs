//! A hostile guest: one request at a time with a look at all memory around it, or whatever it likes.

use std::ops::Range;
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::house::{House, PATIENCE};
use crate::support::driver::{Done, Driver, INDIRECT, OK, WRITE, eventfd, readable};
use crate::support::guest::{BORDER, BUFFERS, END, RINGS};

/// The ring that is attacked.
pub(crate) const VICTIM: usize = 0;
/// A second ring for attacks that need two.
pub(crate) const SECOND: usize = 1;
/// The ring that must not notice.
pub(crate) const NEIGHBOUR: usize = 2;

pub(crate) const HEADER: u64 = BUFFERS;
pub(crate) const STATUS: u64 = BUFFERS + 0x100;
pub(crate) const TABLE: u64 = BUFFERS + 0x800;
pub(crate) const DATA: u64 = BUFFERS + 0x1000;
/// No memory from here to [`BUFFERS`].
pub(crate) const HOLE: u64 = RINGS + 0x20_0000;

/// Where honest requests have their buffers, away from everything else.
const HONEST: u64 = BUFFERS + 0x40_0000;
const HONEST_SECTOR: u64 = 505;
const HONEST_LEN: u32 = 4096;

pub(crate) const AVAIL: u64 = 0x4000;
pub(crate) const USED: u64 = 0x5000;
/// What buffers and status hold before a request.
pub(crate) const UNTOUCHED: u8 = 0xEE;

/// Address, length, flags.
pub(crate) type Piece = (u64, u32, u16);
/// The usual end of a request.
pub(crate) const STATUS_PIECE: Piece = (STATUS, 1, WRITE);
/// The usual beginning of a request.
pub(crate) const HEADER_PIECE: Piece = (HEADER, 16, 0);

/// What became of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Done(Done),
    Broken,
}

/// A request's end, with everything it wrote.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) seen: Seen,
    /// The status, if it was written: the last writable byte.
    pub(crate) status: Option<u8>,
    /// The data buffers, one behind the other; empty if one of them is no memory.
    pub(crate) data: Vec<u8>,
}

pub(crate) struct Attack<'a> {
    pub(crate) driver: Driver,
    pub(crate) disk: &'a [u8],
}

/// Reads sectors on ring `at` and demands the right bytes.
pub(crate) fn honest_read(driver: &mut Driver, at: usize, disk: &[u8]) {
    let status = HONEST + 0x100;
    let data = HONEST + 0x1000;
    let table = HONEST + 0x200;
    driver.header(HONEST, 0, HONEST_SECTOR);
    driver.fill(status, 1, UNTOUCHED);
    driver.fill(data, HONEST_LEN as usize, UNTOUCHED);
    let pieces = [
        (HONEST, 16, 0),
        (data, HONEST_LEN, WRITE),
        (status, 1, WRITE),
    ];
    if driver.rings[at].size < 3 {
        driver.chain_in(table, 0, &pieces);
        driver.chain(at, 0, &[(table, 48, INDIRECT)]);
    } else {
        driver.chain(at, 0, &pieces);
    }
    driver.offer(at, 0);
    driver.kick(at);
    let done = driver.wait(at);
    assert_eq!(
        (done.head, done.used_len, driver.bytes(status, 1)[0]),
        (0, HONEST_LEN + 1, OK),
        "honest read on ring {at}"
    );
    let expected = sectors(disk, HONEST_SECTOR, HONEST_LEN as usize);
    assert!(
        driver.bytes(data, HONEST_LEN as usize) == expected,
        "honest read on ring {at}: wrong bytes"
    );
}

pub(crate) fn sectors(disk: &[u8], first: u64, len: usize) -> &[u8] {
    let start = usize::try_from(first).unwrap() * 512;
    &disk[start..start + len]
}

impl<'a> Attack<'a> {
    /// A session with these features and three rings; the first has `size` entries.
    pub(crate) fn new(house: &'a House, features: u64, size: u16) -> Self {
        let mut driver = Driver::negotiate(house.connect(), features, u64::MAX);
        for (index, size) in [size, 128, 128].into_iter().enumerate() {
            driver.add_ring(u32::try_from(index).unwrap(), size);
        }
        Self {
            driver,
            disk: &house.disk,
        }
    }

    pub(crate) fn honest(&mut self, at: usize) {
        honest_read(&mut self.driver, at, self.disk);
    }

    pub(crate) fn demand_neighbour(&mut self) {
        self.honest(NEIGHBOUR);
    }

    pub(crate) fn sectors(&self, first: u64, len: usize) -> &'a [u8] {
        sectors(self.disk, first, len)
    }

    pub(crate) fn has_memory(&self, address: u64, len: u64) -> bool {
        let end = address.checked_add(len);
        end.is_some() && {
            let size = usize::try_from(len).unwrap();
            self.driver
                .guest
                .memory
                .check_range(GuestAddress(address), size)
        }
    }

    /// Fills the writable pieces and puts the header bytes into the readable ones.
    pub(crate) fn prepare(&self, kind: u32, sector: u64, pieces: &[Piece]) {
        for (address, len, _) in pieces.iter().filter(|piece| piece.2 & WRITE != 0) {
            if self.has_memory(*address, u64::from(*len)) {
                self.driver.fill(*address, *len as usize, UNTOUCHED);
            }
        }
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let mut rest = &header[..];
        for (address, len, _) in pieces.iter().filter(|piece| piece.2 & WRITE == 0) {
            let (now, later) = rest.split_at(rest.len().min(*len as usize));
            rest = later;
            if self.has_memory(*address, now.len() as u64) {
                self.driver
                    .guest
                    .memory
                    .write_slice(now, GuestAddress(*address))
                    .unwrap();
            }
        }
    }

    /// One request in direct descriptors from 0 on.
    pub(crate) fn run(&mut self, kind: u32, sector: u64, pieces: &[Piece]) -> Report {
        self.prepare(kind, sector, pieces);
        self.driver.chain(VICTIM, 0, pieces);
        self.go(0, pieces)
    }

    /// One request in an indirect table at `table`, behind the first `direct` pieces.
    pub(crate) fn run_indirect(
        &mut self,
        (kind, sector): (u32, u64),
        table: u64,
        direct: usize,
        pieces: &[Piece],
    ) -> Report {
        self.prepare(kind, sector, pieces);
        let (before, inside) = pieces.split_at(direct);
        self.driver.chain_in(table, 0, inside);
        let len = u32::try_from(16 * inside.len()).unwrap();
        let chain = [before, &[(table, len, INDIRECT)]].concat();
        self.driver.chain(VICTIM, 0, &chain);
        self.go(0, pieces)
    }

    /// Offers `head` on the victim, waits for its end, and demands that nothing but `pieces` was written to.
    pub(crate) fn go(&mut self, head: u16, pieces: &[Piece]) -> Report {
        let windows = self.windows();
        let before: Vec<_> = windows.iter().map(|window| self.copy(window)).collect();
        self.driver.offer(VICTIM, head);
        self.driver.kick(VICTIM);
        let seen = self.watch(VICTIM);
        for (window, before) in windows.iter().zip(before) {
            self.demand_untouched(window, &before, pieces);
        }
        self.report(seen, pieces)
    }

    pub(crate) fn report(&self, seen: Seen, pieces: &[Piece]) -> Report {
        let writable = || pieces.iter().filter(|piece| piece.2 & WRITE != 0);
        // The status is the last writable byte, wherever the others are.
        let last = writable().rfind(|piece| piece.1 > 0);
        let status = last
            .and_then(|(address, len, _)| address.checked_add(u64::from(*len) - 1))
            .filter(|address| self.has_memory(*address, 1))
            .map(|address| self.driver.bytes(address, 1)[0])
            .filter(|status| *status != UNTOUCHED);
        let mut data = Vec::new();
        if writable().all(|piece| self.has_memory(piece.0, u64::from(piece.1))) {
            writable().for_each(|piece| data.extend(self.driver.bytes(piece.0, piece.1 as usize)));
            data.pop();
        }
        Report { seen, status, data }
    }

    /// Waits until the ring gives something back or its error descriptor is signalled.
    pub(crate) fn watch(&mut self, at: usize) -> Seen {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(done) = self.driver.wait_for(at, Duration::ZERO) {
                return Seen::Done(done);
            }
            if readable(&self.driver.rings[at].error, Duration::from_micros(50)) {
                // What was given back before it broke.
                return match self.driver.wait_for(at, Duration::ZERO) {
                    Some(done) => Seen::Done(done),
                    None => Seen::Broken,
                };
            }
            assert!(Instant::now() < deadline, "neither an answer nor an error");
        }
    }

    /// The memory that is compared before and after: everything small attacks could reach.
    fn windows(&self) -> Vec<Range<u64>> {
        vec![
            RINGS..RINGS + 0x1_8000,
            HOLE - 0x1000..HOLE,
            BUFFERS..BUFFERS + 0x1_0000,
            BORDER - 0x2000..BORDER + 0x2000,
            END - 0x2000..END,
        ]
    }

    fn copy(&self, window: &Range<u64>) -> Vec<u8> {
        let len = usize::try_from(window.end - window.start).unwrap();
        self.driver.bytes(window.start, len)
    }

    fn demand_untouched(&self, window: &Range<u64>, before: &[u8], pieces: &[Piece]) {
        let after = self.copy(window);
        if after == before {
            return;
        }
        // The device's own writes; a worker that has just started makes them on any ring.
        let rings = self.driver.rings.iter();
        let mut used: Vec<_> = rings
            .map(|ring| ring.base + USED..ring.base + USED + 6 + 8 * u64::from(ring.size))
            .collect();
        // What the driver wrote to offer the request.
        let ring = &self.driver.rings[VICTIM];
        let slot = ring.next_avail.wrapping_sub(1) % ring.size;
        let entry = ring.base + AVAIL + 4 + 2 * u64::from(slot);
        used.push(entry..entry + 2);
        used.push(ring.base + AVAIL + 2..ring.base + AVAIL + 4);
        let written = (window.start..).zip(before.iter().zip(&after));
        for (address, _) in written.filter(|(_, (before, after))| before != after) {
            let offered = pieces.iter().any(|(start, len, flags)| {
                flags & WRITE != 0 && address.wrapping_sub(*start) < u64::from(*len)
            });
            assert!(
                offered || used.iter().any(|used| used.contains(&address)),
                "wrote to {address:#x}, which was not offered"
            );
        }
    }

    /// Offers one head `count` times with a single move of the available index.
    pub(crate) fn offer_at_once(&mut self, at: usize, head: u16, count: u16) {
        let ring = &mut self.driver.rings[at];
        let old = ring.next_avail;
        ring.next_avail = old.wrapping_add(count);
        let (base, size, new) = (ring.base, ring.size, ring.next_avail);
        for number in 0..count.min(size) {
            let slot = old.wrapping_add(number) % size;
            let entry = GuestAddress(base + AVAIL + 4 + 2 * u64::from(slot));
            self.driver.guest.memory.write_obj(head, entry).unwrap();
        }
        self.driver.set_avail_index(at, new);
    }

    /// Waits for `count` answers, each with this used length.
    pub(crate) fn answers(&mut self, at: usize, count: u16, used_len: u32) {
        for _ in 0..count {
            assert_eq!(self.driver.wait(at).used_len, used_len);
        }
    }

    /// Moves ring `at` to `base`, where nothing was before.
    pub(crate) fn move_ring(&mut self, at: usize, base: u64) {
        self.driver.stop_ring(at);
        let (index, size) = (self.driver.rings[at].index, self.driver.rings[at].size);
        let mut ring = self.driver.new_ring(index, size);
        ring.base = base;
        self.driver.fill(base, 0x8000, 0);
        self.driver.rings[at] = ring;
        self.driver.start_ring(at);
    }

    /// The same ring answers right.
    pub(crate) fn goes_on(&mut self) {
        self.honest(VICTIM);
    }

    /// Sets ring `at` up anew, as after a reset, and demands that it works.
    pub(crate) fn mend(&mut self, at: usize) {
        self.driver.stop_ring(at);
        let (index, size) = (self.driver.rings[at].index, self.driver.rings[at].size);
        self.driver.rings[at] = self.driver.new_ring(index, size);
        self.driver.rings[at].kick = eventfd();
        self.driver.start_ring(at);
        self.honest(at);
    }

    /// What came of a request that need not succeed. The ring goes on, or it is broken and can be mended.
    pub(crate) fn outcome(&mut self, report: &Report) -> String {
        let text = report.text();
        match report.seen {
            Seen::Broken => self.mend(VICTIM),
            Seen::Done(_) => self.goes_on(),
        }
        text
    }

    /// A request of any kind that must be refused, whatever way.
    pub(crate) fn refused(&mut self, report: &Report) -> String {
        assert_ne!(report.status, Some(OK), "must be refused");
        self.outcome(report)
    }

    /// A read that must succeed with the right data.
    pub(crate) fn right(&mut self, report: &Report, sector: u64) -> String {
        assert_eq!(report.status, Some(OK), "{:?}", report.seen);
        assert!(
            report.data == self.sectors(sector, report.data.len()),
            "wrong data"
        );
        let used_len = u32::try_from(report.data.len() + 1).unwrap();
        assert_eq!(report.seen, Seen::Done(Done { head: 0, used_len }));
        self.goes_on();
        format!("right data, used length {used_len}")
    }
}

impl Report {
    pub(crate) fn text(&self) -> String {
        match (&self.seen, self.status) {
            (Seen::Broken, _) => "ring broken, error descriptor told".to_owned(),
            (Seen::Done(done), None) => format!("no status, used length {}", done.used_len),
            (Seen::Done(done), Some(status)) => {
                format!("status {status}, used length {}", done.used_len)
            }
        }
    }
}
