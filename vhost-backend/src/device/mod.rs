//! What the guest sees: features, configuration space, identity.

mod config_space;
mod features;
mod fetch_budget;
mod identity;
mod stuck_reads;

pub use config_space::{CONFIG_SPACE_LEN_BYTES, ConfigSpace};
pub use features::{
    EVENT_IDX, IN_ORDER, INDIRECT_DESC, LOG_ALL, OFFERED_FEATURES, PROTOCOL_FEATURES,
    offered_protocol_features,
};
pub use fetch_budget::FetchBudget;
pub use identity::{SERIAL_LEN_BYTES, Serial, SerialError};
pub use stuck_reads::StuckReads;

use std::sync::Arc;

use image::{Image, Source};

use crate::engine::ReadPool;
use crate::limits::DeviceLimits;

/// One read-only block device: an open image and how it presents itself. Immutable but for counts, shared by
/// all threads.
#[derive(Debug)]
pub struct Device {
    image: Arc<Image>,
    serial: Serial,
    config_space: ConfigSpace,
    limits: DeviceLimits,
    stuck_reads: StuckReads,
    read_pool: Arc<ReadPool>,
    fetch_budget: FetchBudget,
}

impl Device {
    /// Presents `image`; without a `serial`, one is derived from the content of the stack.
    #[must_use]
    pub fn new(image: Arc<Image>, serial: Option<Serial>, limits: DeviceLimits) -> Self {
        let serial = serial.unwrap_or_else(|| Serial::derived(image.disk().fingerprint()));
        let blocks = image
            .disk()
            .layers()
            .iter()
            .map(|layer| match layer.source() {
                Source::Plain(_) => 0,
                Source::Compressed(zfile) => zfile.info().block_size_bytes,
            });
        let config_space =
            ConfigSpace::new(image.len_bytes(), &limits, blocks.max().unwrap_or_default());
        Self {
            image,
            serial,
            config_space,
            limits,
            stuck_reads: StuckReads::default(),
            read_pool: Arc::default(),
            fetch_budget: FetchBudget::default(),
        }
    }

    /// The image behind the device.
    #[must_use]
    pub fn image(&self) -> &Arc<Image> {
        &self.image
    }

    /// What GET_ID answers.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The virtio configuration space.
    #[must_use]
    pub fn config_space(&self) -> &ConfigSpace {
        &self.config_space
    }

    /// Reads that somebody gave up waiting for.
    #[must_use]
    pub fn stuck_reads(&self) -> &StuckReads {
        &self.stuck_reads
    }

    /// The threads that wait for the disk.
    #[must_use]
    pub fn read_pool(&self) -> &Arc<ReadPool> {
        &self.read_pool
    }

    /// How much all queues may ask of the disk at a time.
    #[must_use]
    pub fn fetch_budget(&self) -> &FetchBudget {
        &self.fetch_budget
    }

    /// How many queues are offered and how requests are limited.
    #[must_use]
    pub fn limits(&self) -> &DeviceLimits {
        &self.limits
    }
}
