//! One connection of a front-end: its messages, its memory table, its rings.
//!
//! Everything a front-end sets up lives in its [`Session`] and goes with it: when the connection ends, all
//! queues are stopped, guest memory is unmapped and every descriptor is closed before the next front-end is
//! served.
//!
//! Messages are read by the `vhost` crate. The handler and daemon of `vhost-user-backend` are not used; the
//! reasons, with the promises they would break, are in ARCHITECTURE.md.

mod device_state;
mod handler;
mod memory;
mod messages;
mod peek;
mod ring;
mod roomy_table;

pub use memory::MemoryError;
pub use messages::{End, serve};

use std::io;
use std::sync::Arc;

use vhost::vhost_user::Backend;
use vhost::vhost_user::message::VhostUserProtocolFeatures;

use crate::device::{Device, LOG_ALL, PROTOCOL_FEATURES};
use crate::guest::{DirtyLog, InflightRegion};
use crate::rate_limit::RateLimit;
use crate::stats::{Counter, QueueStats};
use crate::system::Alarm;
use device_state::StateTransfer;
use memory::{MappingOptions, MemoryError as Refused, MemoryTable};
use ring::Ring;

/// The state of one connection.
pub struct Session {
    surroundings: Surroundings,
    rings: Vec<Ring>,
    state_transfer: StateTransfer,
    /// Bounds what front-ends can have written to the log.
    log: Arc<RateLimit>,
    /// Kept because closing it would tell the front-end that we are gone; nothing is sent on it.
    backend_channel: Option<Backend>,
    /// Whether the message at hand was understood and refused.
    refused: bool,
    /// Whether GET_FEATURES was ever said. The message crate acknowledges nothing before that.
    features_asked: bool,
}

/// What all rings of a session have in common.
pub(crate) struct Surroundings {
    pub(crate) device: Arc<Device>,
    pub(crate) features: u64,
    pub(crate) protocol_features: u64,
    pub(crate) memory: MemoryTable,
    /// Raised when memory of the front-end is gone.
    pub(crate) alarm: Arc<Alarm>,
    pub(crate) dirty_log: Option<Arc<DirtyLog>>,
    pub(crate) inflight: Option<Arc<InflightRegion>>,
}

impl Surroundings {
    fn acked(&self, feature: VhostUserProtocolFeatures) -> bool {
        self.protocol_features & feature.bits() != 0
    }

    /// The log, while written pages are to be marked.
    pub(crate) fn log_in_use(&self) -> Option<&Arc<DirtyLog>> {
        let logging = self.features & LOG_ALL != 0;
        self.dirty_log.as_ref().filter(|_| logging)
    }

    /// Whether pages are to be marked and there is nothing yet to mark them in. A front-end that cannot hand over a
    /// log does not wait for marks.
    pub(crate) fn waits_for_log(&self) -> bool {
        self.features & LOG_ALL != 0
            && self.dirty_log.is_none()
            && self.acked(VhostUserProtocolFeatures::LOG_SHMFD)
    }

    fn mapping_options(&self) -> MappingOptions {
        MappingOptions {
            alarm: Arc::clone(&self.alarm),
            log: self.log_in_use().cloned(),
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("features", &self.surroundings.features)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session in which nothing has been said yet.
    ///
    /// # Errors
    ///
    /// When the system has no descriptor left.
    pub fn new(device: Arc<Device>, log: Arc<RateLimit>) -> io::Result<Self> {
        let rings = (0..device.limits().num_queues).map(Ring::new).collect();
        Ok(Self {
            surroundings: Surroundings {
                device,
                features: 0,
                protocol_features: 0,
                memory: MemoryTable::default(),
                alarm: Arc::new(Alarm::new()?),
                dirty_log: None,
                inflight: None,
            },
            rings,
            state_transfer: StateTransfer::default(),
            log,
            backend_channel: None,
            refused: false,
            features_asked: false,
        })
    }

    /// Whether messages that ask for it are acknowledged.
    fn acknowledges(&self) -> bool {
        self.features_asked
            && self
                .surroundings
                .acked(VhostUserProtocolFeatures::REPLY_ACK)
    }

    /// Changes one ring with its worker stopped, and starts it again if it can run.
    fn change_ring<T>(&mut self, index: usize, change: impl FnOnce(&mut Ring) -> T) -> Option<T> {
        let ring = self.rings.get_mut(index)?;
        ring.stop();
        let result = change(ring);
        ring.start_if_ready(&self.surroundings);
        Some(result)
    }

    /// Changes what all rings have in common with all of them stopped: no worker holds anything old when this
    /// returns.
    fn change_surroundings(&mut self, change: impl FnOnce(&mut Surroundings)) {
        self.stop_rings();
        change(&mut self.surroundings);
        self.restart_rings();
    }

    /// Replaces the memory table.
    fn change_memory(&mut self, memory: MemoryTable) {
        self.stop_rings();
        self.surroundings.memory = memory;
        self.rings.iter_mut().for_each(Ring::mend);
        self.restart_rings();
    }

    /// Takes over the features the driver chose.
    fn change_features(&mut self, features: u64) -> Result<(), Refused> {
        let memory = self.memory_logged_as(features, self.surroundings.dirty_log.clone())?;
        self.stop_rings();
        self.surroundings.memory = memory;
        self.surroundings.features = features;
        if features & PROTOCOL_FEATURES == 0 {
            // Without protocol features there is no message to enable a ring; all are enabled by this one.
            self.rings
                .iter_mut()
                .for_each(|ring| ring.set_enabled(true));
        }
        self.restart_rings();
        Ok(())
    }

    /// Takes over a log, which replaces the one before it.
    fn change_dirty_log(&mut self, log: DirtyLog) -> Result<(), Refused> {
        let log = Some(Arc::new(log));
        let memory = self.memory_logged_as(self.surroundings.features, log.clone())?;
        self.change_surroundings(|surroundings| {
            surroundings.memory = memory;
            surroundings.dirty_log = log;
        });
        Ok(())
    }

    /// The memory table as it has to be mapped with these features and this log.
    fn memory_logged_as(
        &self,
        features: u64,
        log: Option<Arc<DirtyLog>>,
    ) -> Result<MemoryTable, Refused> {
        let was_logged = self.surroundings.log_in_use().is_some();
        let log = log.filter(|_| features & LOG_ALL != 0);
        if !was_logged && log.is_none() {
            return Ok(self.surroundings.memory.clone());
        }
        let alarm = Arc::clone(&self.surroundings.alarm);
        self.surroundings
            .memory
            .mapped_anew(&MappingOptions { alarm, log })
    }

    /// Stops all rings. They drain at the same time, so all of them take no longer than one.
    fn stop_rings(&mut self) {
        self.rings.iter().for_each(Ring::request_stop);
        self.rings.iter_mut().for_each(Ring::stop);
    }

    fn restart_rings(&mut self) {
        for ring in &mut self.rings {
            ring.start_if_ready(&self.surroundings);
        }
    }

    /// Stops every queue and says what was done.
    fn end(&mut self) {
        self.stop_rings();
        let total = |count: fn(&QueueStats) -> &Counter| -> u64 {
            self.rings
                .iter()
                .map(|ring| count(ring.stats()).get())
                .sum()
        };
        let requests = total(|stats| &stats.requests);
        if requests == 0 {
            return;
        }
        if let Some(suppressed) = self.log.admit() {
            tracing::info!(
                requests,
                delivered_bytes = total(|stats| &stats.delivered_bytes),
                disk_errors = total(|stats| &stats.disk_errors),
                refused = total(|stats| &stats.refused),
                malformed = total(|stats| &stats.malformed),
                suppressed,
                "front-end served"
            );
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
    }
}
