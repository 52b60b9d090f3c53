//! An attached disk: the negotiation, and the threads of a run.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VringConfigData};

use super::memory::{Layout, Memory, Room};
use super::offsets::{Limit, Offsets, Workload};
use super::outcome::Outcome;
use super::queue::{Plan, Queue};

const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const PROTOCOL_FEATURES: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;
/// What Linux's block driver takes where it is offered: everything a read-only disk may have, and more.
const BLOCK_FEATURES: u64 = 0x7e76;

/// QEMU's ring size, and the least one here.
const ENTRIES: usize = 128;
/// The configuration up to WRITE_ZEROES, the length that cloud-hypervisor asks for and its backend answers.
const CONFIGURATION_BYTES: usize = 60;

/// How to attach a disk.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Queues to start.
    pub queues: usize,
    /// Most requests in flight on each queue.
    pub depth: usize,
    /// Longest request.
    pub block_bytes: usize,
    /// Most pieces of a buffer, see [`Workload::segment_bytes`].
    pub segments: usize,
    /// Take EVENT_IDX where it is offered.
    pub event_index: bool,
    /// Take INDIRECT_DESC where it is offered.
    pub indirect: bool,
    /// Take INFLIGHT_SHMFD where it is offered, as QEMU does.
    pub inflight: bool,
}

impl Default for Options {
    /// One queue with 128 requests of at most 64 KiB; everything taken.
    fn default() -> Self {
        Self {
            queues: 1,
            depth: 128,
            block_bytes: 64 << 10,
            segments: 1,
            event_index: true,
            indirect: true,
            inflight: true,
        }
    }
}

impl Options {
    /// With room for this workload.
    #[must_use]
    pub fn for_workload(workload: &Workload, queues: usize) -> Self {
        Self {
            queues,
            depth: workload.depth,
            block_bytes: workload.block_bytes,
            segments: workload.segments(),
            ..Self::default()
        }
    }
}

/// An attached disk. Dropping it hangs up.
pub struct Disk {
    queues: Vec<Queue>,
    capacity_bytes: u64,
    features: u64,
    /// Held for the backend, which marks requests in it.
    _inflight: Option<File>,
    frontend: Frontend,
    /// The backend writes to it until the connection ends; goes last.
    memory: Memory,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Disk")
            .field("queues", &self.queues.len())
            .field("capacity_bytes", &self.capacity_bytes)
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl Disk {
    /// Connects, negotiates, hands over memory and starts the queues.
    ///
    /// # Errors
    ///
    /// If the backend refuses something, or has fewer queues.
    pub fn attach(socket: &Path, options: &Options) -> Result<Self> {
        let mut frontend = Frontend::connect(socket, options.queues as u64)?;
        let (features, protocol) = negotiate(&mut frontend, options)?;
        let indirect = features & INDIRECT_DESC != 0;
        let each = Queue::descriptors_each(indirect, options.segments);
        let entries = (options.depth * each).max(ENTRIES).next_power_of_two();
        let room = Room {
            slots: options.depth,
            slot_bytes: options.block_bytes,
            segments: options.segments,
            entries: u16::try_from(entries)?,
        };
        let mut queues = Vec::new();
        let mut end = 0;
        for _queue in 0..options.queues {
            let layout = Layout::new(end, room);
            end = layout.end;
            let event_index = features & EVENT_IDX != 0;
            queues.push(Queue::new(layout, indirect, event_index)?);
        }
        let memory = Memory::new(end)?;
        frontend
            .set_mem_table(&[memory.description()?])
            .context("handing over memory")?;
        let inflight = if protocol.contains(VhostUserProtocolFeatures::INFLIGHT_SHMFD) {
            Some(inflight_map(&mut frontend, options, room.entries)?)
        } else {
            None
        };
        for (index, queue) in queues.iter().enumerate() {
            start(&mut frontend, index, queue, &memory)
                .with_context(|| format!("queue {index}"))?;
        }
        let capacity_bytes = capacity_bytes(&mut frontend)?;
        Ok(Self {
            queues,
            capacity_bytes,
            features: features & !PROTOCOL_FEATURES,
            _inflight: inflight,
            frontend,
            memory,
        })
    }

    /// Size of the disk.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// The virtio features in use.
    #[must_use]
    pub fn features(&self) -> u64 {
        self.features
    }

    /// Reads as the workload says on every queue until the limit; with a reference, compares every byte with what the
    /// file has in the same place.
    ///
    /// # Errors
    ///
    /// If a request fails, an answer is missing or not what the reference says. The disk is of no more use then.
    pub fn run(
        &mut self,
        workload: &Workload,
        limit: Limit,
        reference: Option<&File>,
    ) -> Result<Outcome> {
        let count = self.queues.len();
        let capacity_bytes = self.capacity_bytes;
        let region = &self.memory.region;
        let plan = |index| -> Result<Plan<'_>> {
            Ok(Plan {
                workload,
                offsets: Offsets::new(workload, capacity_bytes, (index, count), limit.requests)?,
                limit,
                reference,
            })
        };
        if let [queue] = &mut self.queues[..] {
            return queue.run(region, plan(0)?);
        }
        let mut plans = Vec::new();
        for index in 0..count {
            plans.push(plan(index)?);
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = self
                .queues
                .iter_mut()
                .zip(plans)
                .map(|(queue, plan)| scope.spawn(|| queue.run(region, plan)))
                .collect();
            let mut sum = Outcome::default();
            for thread in threads {
                let outcome = thread
                    .join()
                    .map_err(|_panic| anyhow::anyhow!("a queue's thread panicked"))?;
                sum.add(&outcome?);
            }
            Ok(sum)
        })
    }

    /// Stops the queues and hangs up, as a front-end that ends in order.
    ///
    /// # Errors
    ///
    /// If the backend does not stop them.
    pub fn detach(mut self) -> Result<()> {
        for index in 0..self.queues.len() {
            self.frontend.set_vring_enable(index, false)?;
            self.frontend.get_vring_base(index)?;
        }
        Ok(())
    }
}

fn negotiate(
    frontend: &mut Frontend,
    options: &Options,
) -> Result<(u64, VhostUserProtocolFeatures)> {
    frontend.set_owner()?;
    let offered = frontend.get_features()?;
    ensure!(
        offered & VERSION_1 != 0,
        "the backend is older than virtio 1"
    );
    ensure!(
        offered & PROTOCOL_FEATURES != 0,
        "the backend does not tell its capacity"
    );
    let mut wanted = VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIG;
    wanted.set(VhostUserProtocolFeatures::INFLIGHT_SHMFD, options.inflight);
    let protocol = frontend.get_protocol_features()? & wanted;
    frontend.set_protocol_features(protocol)?;
    if protocol.contains(VhostUserProtocolFeatures::REPLY_ACK) {
        frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    }
    if protocol.contains(VhostUserProtocolFeatures::MQ) {
        let most = frontend.get_queue_num()?;
        ensure!(options.queues as u64 <= most, "it has only {most} queues");
    }
    let mut accepted = BLOCK_FEATURES | PROTOCOL_FEATURES | VERSION_1;
    if options.event_index {
        accepted |= EVENT_IDX;
    }
    if options.indirect {
        accepted |= INDIRECT_DESC;
    }
    let features = offered & accepted;
    frontend.set_features(features)?;
    Ok((features, protocol))
}

fn capacity_bytes(frontend: &mut Frontend) -> Result<u64> {
    let (_, content) = frontend.get_config(
        0,
        u32::try_from(CONFIGURATION_BYTES)?,
        VhostUserConfigFlags::empty(),
        &[0; CONFIGURATION_BYTES],
    )?;
    let sectors = content.first_chunk().context("a short configuration")?;
    u64::from_le_bytes(*sectors)
        .checked_mul(512)
        .context("a capacity that is no disk's")
}

/// Asks for a map of requests in flight and gives it back, as QEMU does at its first start.
fn inflight_map(frontend: &mut Frontend, options: &Options, entries: u16) -> Result<File> {
    let wanted = VhostUserInflight {
        num_queues: u16::try_from(options.queues)?,
        queue_size: entries,
        ..VhostUserInflight::default()
    };
    let (map, file) = frontend.get_inflight_fd(&wanted)?;
    frontend.set_inflight_fd(&map, file.as_raw_fd())?;
    Ok(file)
}

fn start(frontend: &mut Frontend, index: usize, queue: &Queue, memory: &Memory) -> Result<()> {
    let layout = &queue.layout;
    let entries = layout.room.entries;
    let address = |offset| memory.front_end_address(offset);
    frontend.set_vring_num(index, entries)?;
    frontend.set_vring_base(index, 0)?;
    let places = VringConfigData {
        queue_max_size: entries,
        queue_size: entries,
        flags: 0,
        desc_table_addr: address(layout.descriptors),
        used_ring_addr: address(layout.used),
        avail_ring_addr: address(layout.avail),
        log_addr: None,
    };
    frontend.set_vring_addr(index, &places)?;
    frontend.set_vring_call(index, &queue.call)?;
    frontend.set_vring_kick(index, &queue.kick)?;
    frontend.set_vring_enable(index, true)?;
    Ok(())
}
