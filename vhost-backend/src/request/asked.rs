//! Requests that were taken from the ring and understood, and that nothing has been done about yet.
//!
//! A few are understood before the first of them is performed: what planning looks at then comes from memory for all of
//! them together, instead of for one after another.

use vm_memory::GuestAddress;

use crate::guest::GuestMemory;
use crate::queue::{Chain, Table, Ticket};
use crate::request::{Parsed, Plan, Verdict, parse, plan};

/// What the driver asks for with one request.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) ticket: Ticket,
    /// Its buffers; without the status, what is writable is room for data.
    pub(crate) chain: Chain,
    pub(crate) status_address: Option<GuestAddress>,
    /// What is to be done, or why nothing is; boxed, for it is large and rare.
    pub(crate) plan: Result<Plan, Box<Verdict>>,
}

impl Asked {
    /// A place for a request.
    fn nothing() -> Self {
        Self {
            ticket: Ticket::default(),
            chain: Chain::default(),
            status_address: None,
            plan: Ok(Plan::Nothing),
        }
    }

    /// The first byte of the disk that it reads.
    fn disk_offset(&self) -> Option<u64> {
        match &self.plan {
            Ok(Plan::Read(span)) => Some(span.range().start),
            _ => None,
        }
    }

    /// How many bytes it reads.
    fn len_bytes(&self) -> u64 {
        match &self.plan {
            Ok(Plan::Read(span)) => span.range().end - span.range().start,
            _ => 0,
        }
    }
}

/// A queue's way from heads of chains to requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a> {
    /// The memory all of it lies in.
    pub(crate) memory: &'a GuestMemory,
    /// The table of the ring.
    pub(crate) table: Table,
    /// Whether the driver may use indirect tables.
    pub(crate) indirect: bool,
    /// Length of the disk.
    pub(crate) disk_len_bytes: u64,
}

impl Reading<'_> {
    fn read(&self, ticket: Ticket, head: u16, asked: &mut Asked) {
        asked.ticket = ticket;
        let chain = &mut asked.chain;
        if let Err(error) = chain.collect(self.memory, self.table, head, self.indirect) {
            asked.status_address = None;
            asked.plan = Err(Box::new(Verdict::BadChain(error)));
            return;
        }
        let Parsed {
            status_address,
            request,
        } = parse(self.memory, chain);
        asked.status_address = status_address;
        let room_bytes = chain.data_len_bytes();
        let verdict = match request {
            Ok(request) => match plan(request, room_bytes, self.disk_len_bytes) {
                Ok(plan) => {
                    asked.plan = Ok(plan);
                    return;
                }
                Err(error) => Verdict::Failed(error),
            },
            Err(error) => Verdict::BadRequest(error),
        };
        asked.plan = Err(Box::new(verdict));
    }
}

/// Requests in the order in which they were taken. Their places are used again.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    places: Vec<Asked>,
    len: usize,
    len_bytes: u64,
}

impl Gathered {
    /// Adds the request that begins at `head`.
    pub(crate) fn push(&mut self, reading: Reading<'_>, ticket: Ticket, head: u16) {
        if self.places.len() == self.len {
            self.places.push(Asked::nothing());
        }
        if let Some(place) = self.places.get_mut(self.len) {
            reading.read(ticket, head, place);
            self.len += 1;
            self.len_bytes += place.len_bytes();
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// How many bytes they read together.
    pub(crate) fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    /// Where on the disk they begin to read.
    pub(crate) fn disk_offsets(&self) -> impl Iterator<Item = u64> {
        self.places
            .iter()
            .take(self.len)
            .filter_map(Asked::disk_offset)
    }

    /// All of them. None is left.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = &mut Asked> {
        self.len_bytes = 0;
        self.places.iter_mut().take(std::mem::take(&mut self.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::ChainError;
    use vm_memory::Bytes;

    /// A driver that has put requests to read so many bytes into its table, three descriptors each.
    fn memory(reads: &[(u64, u32)]) -> GuestMemory {
        let memory = crate::guest::test_memory(&[(0, 1 << 20)]);
        for (number, (sector, len_bytes)) in (0..).zip(reads) {
            let header = 0x1000 + 0x100 * number;
            let put = |index: u64, address: u64, len: u32, flags: u16| {
                let next = u16::try_from(3 * number + index + 1).unwrap();
                let at = GuestAddress(16 * (3 * number + index));
                memory.write_obj(address, at).unwrap();
                memory.write_obj(len, GuestAddress(at.0 + 8)).unwrap();
                memory.write_obj(flags, GuestAddress(at.0 + 12)).unwrap();
                memory.write_obj(next, GuestAddress(at.0 + 14)).unwrap();
            };
            put(0, header, 16, 1);
            put(1, 0x8_0000, *len_bytes, 3);
            put(2, header + 16, 1, 2);
            memory.write_obj(*sector, GuestAddress(header + 8)).unwrap();
        }
        memory
    }

    fn reading(memory: &GuestMemory) -> Reading<'_> {
        Reading {
            memory,
            table: Table {
                address: GuestAddress(0),
                len: 60,
            },
            indirect: false,
            disk_len_bytes: 1 << 20,
        }
    }

    #[test]
    fn requests_come_back_in_order_and_leave_nothing_behind() {
        let memory = memory(&[(8, 512), (4096, 512), (2, 1024)]);
        let mut gathered = Gathered::default();
        for round in 0..3_u64 {
            for (number, head) in [(0, 0), (1, 3), (2, 60), (3, 6)] {
                gathered.push(reading(&memory), 10 * round + number, head);
            }
            assert_eq!((gathered.len(), gathered.len_bytes()), (4, 1536));
            assert_eq!(gathered.disk_offsets().collect::<Vec<_>>(), [4096, 1024]);
            let asked: Vec<_> = gathered.take().collect();
            let tickets: Vec<_> = asked.iter().map(|one| one.ticket - 10 * round).collect();
            assert_eq!(tickets, [0, 1, 2, 3]);
            let status: Vec<_> = asked.iter().map(|one| one.status_address).collect();
            let at = |address| Some(GuestAddress(address));
            assert_eq!(status, [at(0x1010), at(0x1110), None, at(0x1210)]);
            assert!(matches!(asked[0].plan, Ok(Plan::Read(_))));
            let Err(beyond) = &asked[1].plan else {
                panic!("{:?}", asked[1]);
            };
            assert!(matches!(**beyond, Verdict::Failed(_)));
            let Err(no_chain) = &asked[2].plan else {
                panic!("{:?}", asked[2]);
            };
            let Verdict::BadChain(ChainError::OutsideTable { index: 60, .. }) = **no_chain else {
                panic!("{no_chain:?}");
            };
            assert_eq!((gathered.len(), gathered.len_bytes()), (0, 0));
            assert_eq!(gathered.disk_offsets().count() + gathered.take().count(), 0);
        }
        assert_eq!(gathered.places.len(), 4, "places are used again");
    }
}
