//! One connection of a front-end: its messages, its memory table, its rings.
//!
//! Everything a front-end sets up lives in its [`Session`] and goes with it: when the connection ends, all
//! queues are stopped, guest memory is unmapped and every descriptor is closed before the next front-end is
//! served.
//!
//! Messages are read by the `vhost` crate. The handler and daemon of `vhost-user-backend` are not used; the
//! reasons, with the promises they would break, are in ARCHITECTURE.md.

mod handler;
mod memory;
mod messages;
mod peek;
mod ring;
mod roomy_table;

pub use memory::MemoryError;
pub use messages::{End, serve};

use std::sync::Arc;

use vhost::vhost_user::Backend;
use vhost::vhost_user::message::VhostUserProtocolFeatures;

use crate::device::{Device, PROTOCOL_FEATURES};
use crate::rate_limit::RateLimit;
use crate::stats::{Counter, QueueStats};
use memory::MemoryTable;
use ring::{Ring, Surroundings};

/// The state of one connection.
pub struct Session {
    device: Arc<Device>,
    features: u64,
    protocol_features: u64,
    memory: MemoryTable,
    rings: Vec<Ring>,
    /// Bounds what front-ends can have written to the log.
    log: Arc<RateLimit>,
    /// Kept because closing it would tell the front-end that we are gone; nothing is sent on it.
    backend_channel: Option<Backend>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("features", &self.features)
            .finish_non_exhaustive()
    }
}

impl Session {
    /// A session in which nothing has been said yet.
    #[must_use]
    pub fn new(device: Arc<Device>, log: Arc<RateLimit>) -> Self {
        let rings = (0..device.limits().num_queues).map(Ring::new).collect();
        Self {
            device,
            features: 0,
            protocol_features: 0,
            memory: MemoryTable::default(),
            rings,
            log,
            backend_channel: None,
        }
    }

    fn acked(&self, feature: VhostUserProtocolFeatures) -> bool {
        self.protocol_features & feature.bits() != 0
    }

    /// Changes one ring with its worker stopped, and starts it again if it can run.
    fn change_ring<T>(&mut self, index: usize, change: impl FnOnce(&mut Ring) -> T) -> Option<T> {
        let surroundings = Surroundings {
            device: &self.device,
            memory: &self.memory,
            features: self.features,
        };
        let ring = self.rings.get_mut(index)?;
        ring.stop();
        let result = change(ring);
        ring.start_if_ready(&surroundings);
        Some(result)
    }

    /// Replaces the memory table with all rings stopped: no worker holds the old mappings when this returns.
    fn change_memory(&mut self, memory: MemoryTable) {
        self.rings.iter_mut().for_each(Ring::stop);
        self.memory = memory;
        self.rings.iter_mut().for_each(Ring::mend);
        self.restart_rings();
    }

    /// Takes over the features the driver chose. A worker that runs with others is started anew.
    fn change_features(&mut self, features: u64) {
        self.rings.iter_mut().for_each(Ring::stop);
        self.features = features;
        if features & PROTOCOL_FEATURES == 0 {
            // Without protocol features there is no message to enable a ring; all are enabled by this one.
            self.rings
                .iter_mut()
                .for_each(|ring| ring.set_enabled(true));
        }
        self.restart_rings();
    }

    fn restart_rings(&mut self) {
        let surroundings = Surroundings {
            device: &self.device,
            memory: &self.memory,
            features: self.features,
        };
        self.rings
            .iter_mut()
            .for_each(|ring| ring.start_if_ready(&surroundings));
    }

    /// Stops every queue and says what was done.
    fn end(&mut self) {
        self.rings.iter_mut().for_each(Ring::stop);
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
