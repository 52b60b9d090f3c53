//! One queue: makes requests, waits for answers, makes the next.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vm_memory::{MmapRegion, VolatileMemory};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use super::memory::{Layout, Memory, STATUS_OFFSET_BYTES};
use super::offsets::{Limit, Offsets, Workload};
use super::outcome::Outcome;
use super::ring::{DESCRIPTOR_BYTES, INDIRECT, NEXT, Position, Ring, WRITE, descriptor};

/// Who is silent for longer has lost a request or a notification.
const SILENCE_LIMIT_MS: i32 = 30_000;
/// How often one looks at the used ring between two looks at the clock.
const LOOKS: u32 = 1 << 20;
/// What is not there unless the backend has written it.
const POISON: u8 = 0xa5;
/// A request that reads, as virtio-blk numbers it.
const READ: u32 = 0;

/// How a driver waits for answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Sleeps until it is notified, as a guest does.
    Event,
    /// Looks at the ring all the time and asks for no notification, as a guest that polls does.
    Spin,
}

/// A queue between runs.
pub(super) struct Queue {
    pub(super) layout: Layout,
    pub(super) kick: EventFd,
    pub(super) call: EventFd,
    called: Epoll,
    indirect: bool,
    event_index: bool,
    position: Position,
    /// Slots without a request; the last one used is the first to be used again, as in Linux.
    free: Vec<usize>,
}

/// What one run asks of one queue.
pub(super) struct Plan<'a> {
    pub(super) workload: &'a Workload,
    pub(super) offsets: Offsets,
    pub(super) limit: Limit,
    pub(super) reference: Option<&'a File>,
}

/// A run in progress.
struct Run<'a> {
    queue: &'a mut Queue,
    plan: Plan<'a>,
    ring: Ring<'a>,
    memory: &'a MmapRegion,
    /// Offset and start of what is in each slot.
    flights: Vec<Option<(u64, Instant)>>,
    in_flight: usize,
    outcome: Outcome,
}

impl Queue {
    pub(super) fn new(layout: Layout, indirect: bool, event_index: bool) -> Result<Self> {
        let call = EventFd::new(0)?;
        let called = Epoll::new()?;
        // By edges, so that a notification costs one system call and is not read: what counts is in the ring.
        let event = EpollEvent::new(EventSet::IN | EventSet::EDGE_TRIGGERED, 0);
        called.ctl(ControlOperation::Add, call.as_raw_fd(), event)?;
        Ok(Self {
            layout,
            kick: EventFd::new(0)?,
            call,
            called,
            indirect,
            event_index,
            position: Position::default(),
            free: (0..layout.room.slots).rev().collect(),
        })
    }

    /// Runs the plan to its end. After an error the queue is of no more use.
    pub(super) fn run(&mut self, memory: &MmapRegion, plan: Plan<'_>) -> Result<Outcome> {
        let room = &self.layout.room;
        ensure!(
            plan.workload.depth <= room.slots
                && plan.workload.block_bytes <= room.slot_bytes
                && plan.workload.segments() <= room.segments,
            "the disk was attached with less room than {:?}",
            plan.workload
        );
        let ring = Ring::new(
            memory,
            self.layout.ring_parts(),
            room.entries,
            self.event_index,
        )?;
        Run {
            flights: vec![None; room.slots],
            queue: self,
            plan,
            ring,
            memory,
            in_flight: 0,
            outcome: Outcome::default(),
        }
        .complete()
    }

    /// How many descriptors of the ring a request takes.
    pub(super) fn descriptors_each(indirect: bool, segments: usize) -> usize {
        if indirect { 1 } else { segments + 2 }
    }
}

impl Run<'_> {
    fn complete(mut self) -> Result<Outcome> {
        let start = Instant::now();
        let deadline = self.plan.limit.deadline;
        let mut now = start;
        let spins = self.spins();
        self.ring.want_silence(&mut self.queue.position, spins);
        loop {
            if deadline.is_none_or(|deadline| now < deadline) {
                self.fill(now)?;
            }
            if self.in_flight == 0 {
                break;
            }
            self.wait()?;
            now = Instant::now();
            self.reap(now)?;
        }
        self.outcome.span = Some((start, Instant::now()));
        Ok(self.outcome)
    }

    fn spins(&self) -> bool {
        self.plan.workload.mode == Mode::Spin
    }

    fn fill(&mut self, now: Instant) -> Result<()> {
        while self.in_flight < self.plan.workload.depth {
            let Some(offset) = self.plan.offsets.next() else {
                break;
            };
            let slot = self.queue.free.pop().context("no slot is free")?;
            self.submit(slot, offset)?;
            self.flights[slot] = Some((offset, now));
            self.in_flight += 1;
        }
        if self.ring.kick_wanted(&mut self.queue.position) {
            self.queue.kick.write(1)?;
            self.outcome.kicks += 1;
        }
        Ok(())
    }

    fn submit(&mut self, slot: usize, offset: u64) -> Result<()> {
        let layout = self.queue.layout;
        let header = layout.header_of(slot);
        let status = header + STATUS_OFFSET_BYTES;
        let place = self.memory.get_array_ref::<u64>(header, 2)?;
        place.store(0, u64::from(READ).to_le());
        place.store(1, (offset / 512).to_le());
        self.memory.get_ref::<u8>(status)?.store(POISON);
        if self.plan.reference.is_some() {
            let bytes = self.plan.workload.block_bytes;
            let poison = vec![POISON; bytes];
            self.memory
                .get_slice(layout.data_of(slot), bytes)?
                .copy_from(&poison);
        }
        let head = if self.queue.indirect {
            let entries = self.plan.workload.segments() + 2;
            let table = layout.table_of(slot);
            self.chain(slot, table, 0)?;
            let head = u16::try_from(slot)?;
            let len_bytes = u32::try_from(entries * DESCRIPTOR_BYTES)?;
            let only = descriptor(Memory::guest_address(table), len_bytes, INDIRECT, 0);
            self.ring.descriptors.store(2 * slot, only[0]);
            self.ring.descriptors.store(2 * slot + 1, only[1]);
            head
        } else {
            let first = slot * (layout.room.segments + 2);
            self.chain(slot, layout.descriptors, first)?;
            u16::try_from(first)?
        };
        self.ring.offer(&mut self.queue.position, head);
        Ok(())
    }

    /// Writes header, data and status as descriptors `first…` of the table.
    fn chain(&self, slot: usize, table: usize, first: usize) -> Result<()> {
        let layout = &self.queue.layout;
        let workload = self.plan.workload;
        let segments = workload.segments();
        let place = self
            .memory
            .get_array_ref::<u64>(table + first * DESCRIPTOR_BYTES, 2 * (segments + 2))?;
        let write = |at: usize, offset: usize, len_bytes: usize, flags: u16| -> Result<()> {
            let next = match flags & NEXT {
                0 => 0,
                _ => u16::try_from(first + at + 1)?,
            };
            let address = Memory::guest_address(offset);
            let words = descriptor(address, u32::try_from(len_bytes)?, flags, next);
            place.store(2 * at, words[0]);
            place.store(2 * at + 1, words[1]);
            Ok(())
        };
        let header = layout.header_of(slot);
        write(0, header, 16, NEXT)?;
        let data = layout.data_of(slot);
        for segment in 0..segments {
            let done = segment * workload.segment_bytes;
            let len_bytes = (workload.block_bytes - done).min(workload.segment_bytes);
            write(segment + 1, data + done, len_bytes, WRITE | NEXT)?;
        }
        write(segments + 1, header + STATUS_OFFSET_BYTES, 1, WRITE)
    }

    /// Returns when there is an answer.
    fn wait(&mut self) -> Result<()> {
        if self.spins() {
            self.ring.want_silence(&mut self.queue.position, true);
            return self.spin();
        }
        if !self.ring.is_empty(&self.queue.position) {
            return Ok(());
        }
        while self.ring.want_notification(&mut self.queue.position) {
            self.sleep()?;
        }
        self.ring.want_silence(&mut self.queue.position, false);
        Ok(())
    }

    fn spin(&self) -> Result<()> {
        let start = Instant::now();
        loop {
            for _look in 0..LOOKS {
                if !self.ring.is_empty(&self.queue.position) {
                    return Ok(());
                }
                std::hint::spin_loop();
            }
            ensure!(
                start.elapsed() < Duration::from_millis(SILENCE_LIMIT_MS.unsigned_abs().into()),
                "no answer to {} requests",
                self.in_flight
            );
        }
    }

    fn sleep(&mut self) -> Result<()> {
        let mut events = [EpollEvent::default()];
        let ready = loop {
            match self.queue.called.wait(SILENCE_LIMIT_MS, &mut events) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        ensure!(ready > 0, "no notification for {} requests", self.in_flight);
        self.outcome.interrupts += 1;
        Ok(())
    }

    fn reap(&mut self, now: Instant) -> Result<()> {
        let each = Queue::descriptors_each(self.queue.indirect, self.queue.layout.room.segments);
        while let Some(head) = self.ring.take(&mut self.queue.position) {
            let slot = usize::try_from(head)? / each;
            let flight = self.flights.get_mut(slot).and_then(Option::take);
            let (offset, submitted) = flight.with_context(|| format!("{head} not in flight"))?;
            let status = self.queue.layout.header_of(slot) + STATUS_OFFSET_BYTES;
            let status = self.memory.get_ref::<u8>(status)?.load();
            ensure!(status == 0, "status {status} of the read at {offset}");
            if let Some(reference) = self.plan.reference {
                self.verify(slot, offset, reference)?;
            }
            self.outcome.latency.record(now - submitted);
            self.outcome.requests += 1;
            self.outcome.bytes += self.plan.workload.block_bytes as u64;
            self.queue.free.push(slot);
            self.in_flight -= 1;
        }
        Ok(())
    }

    fn verify(&self, slot: usize, offset: u64, reference: &File) -> Result<()> {
        let bytes = self.plan.workload.block_bytes;
        let (mut found, mut expected) = (vec![0; bytes], vec![0; bytes]);
        self.memory
            .get_slice(self.queue.layout.data_of(slot), bytes)?
            .copy_to(&mut found);
        reference.read_exact_at(&mut expected, offset)?;
        if let Some(at) = found.iter().zip(&expected).position(|(a, b)| a != b) {
            bail!(
                "wrong data at {}: {:#x} instead of {:#x}",
                offset + at as u64,
                found[at],
                expected[at]
            );
        }
        Ok(())
    }
}
