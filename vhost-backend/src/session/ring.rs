//! One ring as the front-end describes it, and whether it runs.
//!
//! A ring runs when the front-end has given it addresses and a kick descriptor and has enabled it. Whatever a
//! message changes about a running ring is applied with its worker stopped, so a worker never sees half of it.

use std::fs::File;
use std::sync::Arc;

use rustix::fs::OFlags;
use vhost_user_backend::VringT;
use virtio_queue::QueueT;

use crate::device::{EVENT_IDX, IN_ORDER, INDIRECT_DESC};
use crate::limits::MAX_RING_SIZE;
use crate::queue::{
    Order, QueueSetup, SplitRing, StartError, UsedLog, Vring, Worker, used_len_bytes,
};
use crate::rate_limit::RateLimit;
use crate::session::Surroundings;
use crate::session::memory::MemoryTable;
use crate::stats::QueueStats;

/// Where the parts of a ring lie: as a front-end states it, in its own address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RingAddresses {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// What the dirty log calls the first byte of the used ring, if it is to be logged there.
    pub(crate) used_log: Option<u64>,
}

impl RingAddresses {
    /// The same in the guest's address space, if the guest has memory there.
    fn translate(&self, memory: &MemoryTable) -> Option<Self> {
        Some(Self {
            descriptors: memory.guest_address(self.descriptors)?,
            available: memory.guest_address(self.available)?,
            used: memory.guest_address(self.used)?,
            used_log: self.used_log,
        })
    }
}

/// A ring and what the front-end has said about it.
#[derive(Debug)]
pub(crate) struct Ring {
    index: u16,
    size: u16,
    addresses: Option<RingAddresses>,
    next_avail: u16,
    kick: Option<Arc<File>>,
    call: Option<Arc<File>>,
    error: Option<Arc<File>>,
    enabled: bool,
    broken: bool,
    worker: Option<Worker>,
    stats: Arc<QueueStats>,
    log: Arc<RateLimit>,
}

/// Why a ring that is complete is not started.
#[derive(Debug, thiserror::Error)]
enum NotStarted {
    #[error("its ring is misplaced, or there is no descriptor left")]
    Build,
    #[error("its used ring is beyond the end of the dirty log")]
    BeyondLog,
    #[error(transparent)]
    Worker(#[from] StartError),
}

impl Ring {
    pub(crate) fn new(index: u16) -> Self {
        Self {
            index,
            size: MAX_RING_SIZE,
            addresses: None,
            next_avail: 0,
            kick: None,
            call: None,
            error: None,
            enabled: false,
            broken: false,
            worker: None,
            stats: Arc::new(QueueStats::default()),
            log: Arc::default(),
        }
    }

    pub(crate) fn stats(&self) -> &Arc<QueueStats> {
        &self.stats
    }

    /// The size of the ring in entries: a power of two up to the largest that is accepted.
    pub(crate) fn set_size(&mut self, size: u32) -> bool {
        match u16::try_from(size) {
            Ok(size) if size.is_power_of_two() && size <= MAX_RING_SIZE => self.size = size,
            _ => return false,
        }
        true
    }

    pub(crate) fn set_addresses(&mut self, addresses: RingAddresses) {
        self.addresses = Some(addresses);
    }

    /// A new position means that the driver has set the ring up anew.
    pub(crate) fn set_next_avail(&mut self, next_avail: u16) {
        self.next_avail = next_avail;
        self.broken = false;
    }

    pub(crate) fn set_enabled(&mut self, enabled: bool) {
        self.enabled = enabled;
    }

    pub(crate) fn set_kick(&mut self, file: Option<File>) {
        self.kick = file.map(non_blocking);
        self.broken = false;
    }

    pub(crate) fn set_call(&mut self, file: Option<File>) {
        self.call = file.map(non_blocking);
    }

    pub(crate) fn set_error(&mut self, file: Option<File>) {
        self.error = file.map(non_blocking);
    }

    /// Forgets what the driver set up. The call and error descriptors belong to the front-end and stay: QEMU
    /// hands them over once and not again after a reset. The ring has been stopped.
    pub(crate) fn reset(&mut self) {
        let call = self.call.take();
        let error = self.error.take();
        let (stats, log) = (Arc::clone(&self.stats), Arc::clone(&self.log));
        *self = Self {
            call,
            error,
            stats,
            log,
            ..Self::new(self.index)
        };
    }

    /// Forgets that the ring did not work: what it lies in has changed.
    pub(crate) fn mend(&mut self) {
        self.broken = false;
    }

    /// Asks the ring to stop, without waiting. To be followed by [`Ring::stop`].
    pub(crate) fn request_stop(&self) {
        if let Some(worker) = &self.worker {
            worker.request_stop();
        }
    }

    /// Stops the ring if it runs. Afterwards nothing of it touches the guest.
    pub(crate) fn stop(&mut self) {
        if let Some(worker) = self.worker.take() {
            let stopped = worker.finish();
            tracing::debug!("queue {} stopped at {}", self.index, stopped.next_avail);
            self.next_avail = stopped.next_avail;
            self.broken = stopped.broken;
        }
    }

    /// Whether something of it may touch the guest.
    pub(crate) fn is_running(&self) -> bool {
        self.worker.is_some()
    }

    /// Ends the ring's run as GET_VRING_BASE asks: it starts again only with a new kick descriptor. The ring has
    /// been stopped.
    pub(crate) fn wait_for_next_kick(&mut self) -> u16 {
        self.kick = None;
        self.next_avail
    }

    /// Starts the ring if it is complete, enabled, whole and not running.
    pub(crate) fn start_if_ready(&mut self, surroundings: &Surroundings) {
        let (Some(addresses), Some(kick), true, false, None) = (
            self.addresses,
            &self.kick,
            self.enabled,
            self.broken,
            &self.worker,
        ) else {
            return;
        };
        if surroundings.waits_for_log() {
            if let Some(suppressed) = self.log.admit() {
                let index = self.index;
                tracing::warn!(
                    suppressed,
                    "queue {index} waits for the dirty log (SET_LOG_BASE)"
                );
            }
            return;
        }
        let Some(places) = addresses.translate(&surroundings.memory) else {
            // A front-end that rearranges memory takes regions away before it adds the new ones.
            tracing::debug!("queue {} waits for the memory its ring lies in", self.index);
            return;
        };
        match self.start(places, kick, surroundings) {
            Ok(worker) => {
                tracing::debug!("queue {} starts at {}", self.index, self.next_avail);
                self.worker = Some(worker);
            }
            Err(error) => self.fail(&crate::request::chain_text(&error)),
        }
    }

    fn start(
        &self,
        at: RingAddresses,
        kick: &Arc<File>,
        surroundings: &Surroundings,
    ) -> Result<Worker, NotStarted> {
        let used_log = match surroundings.log_in_use() {
            Some(log) => {
                let addresses: Vec<u64> = [at.used].into_iter().chain(at.used_log).collect();
                let len_bytes = used_len_bytes(self.size);
                if !addresses.iter().all(|start| log.covers(*start, len_bytes)) {
                    return Err(NotStarted::BeyondLog);
                }
                let log = Arc::clone(log);
                Some(UsedLog { log, addresses })
            }
            None => None,
        };
        let inflight = surroundings
            .inflight
            .as_ref()
            .and_then(|region| region.queue(self.index, self.size));
        let order = match &inflight {
            Some(_) if surroundings.features & IN_ORDER == 0 => Order::AsDone,
            _ => Order::AsTaken,
        };
        let ring = SplitRing::new(
            self.build(at, kick, surroundings)
                .ok_or(NotStarted::Build)?,
            Arc::clone(surroundings.memory.memory()),
            Arc::clone(&surroundings.alarm),
            inflight,
            used_log,
            order,
        );
        let setup = QueueSetup {
            index: self.index,
            ring,
            device: Arc::clone(&surroundings.device),
            indirect: surroundings.features & INDIRECT_DESC != 0,
            stats: Arc::clone(&self.stats),
            log: Arc::clone(&self.log),
            error_notifier: self.error.clone(),
        };
        Ok(Worker::start(setup)?)
    }

    /// The ring as its worker will own it. `None` when an address is not aligned, or the descriptors cannot be
    /// duplicated.
    fn build(
        &self,
        at: RingAddresses,
        kick: &Arc<File>,
        surroundings: &Surroundings,
    ) -> Option<Vring> {
        let memory = Arc::clone(surroundings.memory.memory());
        let vring: Vring = Vring::new(memory, MAX_RING_SIZE).ok()?;
        vring.set_queue_size(self.size);
        vring
            .set_queue_info(at.descriptors, at.available, at.used)
            .ok()?;
        vring.set_queue_next_avail(self.next_avail);
        vring.set_queue_event_idx(surroundings.features & EVENT_IDX != 0);
        vring.set_queue_ready(true);
        vring.set_kick(Some(kick.try_clone().ok()?));
        let call = self
            .call
            .as_ref()
            .map(|call| call.try_clone())
            .transpose()
            .ok()?;
        vring.set_call(call);
        let size_taken = vring.get_ref().get_queue().size() == self.size;
        size_taken.then_some(vring)
    }

    /// The ring stays where it is until the front-end sets it up anew, and is told so.
    fn fail(&mut self, why: &str) {
        self.broken = true;
        if let Some(suppressed) = self.log.admit() {
            tracing::error!(suppressed, "queue {} not started: {why}", self.index);
        }
        if let Some(error) = &self.error {
            let _told = rustix::io::write(error, &1_u64.to_le_bytes());
        }
    }
}

/// A descriptor from outside must never make a thread wait: an empty kick and a full call are answered at once.
pub(crate) fn non_blocking(file: File) -> Arc<File> {
    let flags = rustix::fs::fcntl_getfl(&file).unwrap_or(OFlags::empty());
    let _set = rustix::fs::fcntl_setfl(&file, flags | OFlags::NONBLOCK);
    Arc::new(file)
}
