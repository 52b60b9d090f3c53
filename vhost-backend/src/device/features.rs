//! The feature bits on offer. Only what works is offered; every subset of it works.

use vhost::vhost_user::message::VhostUserProtocolFeatures;
use virtio_bindings::bindings::virtio_ring::{
    VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC,
};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_TOPOLOGY,
};
use virtio_bindings::virtio_config::{VIRTIO_F_IN_ORDER, VIRTIO_F_VERSION_1};

/// The bit that says vhost-user protocol features can be negotiated.
pub const PROTOCOL_FEATURES: u64 = 1 << 30;
/// Notifications by index.
pub const EVENT_IDX: u64 = 1 << VIRTIO_RING_F_EVENT_IDX;
/// Descriptor tables outside the ring.
pub const INDIRECT_DESC: u64 = 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// Every page written is marked in a log while this is taken (VHOST_F_LOG_ALL). Taken by front-ends for the time of a
/// live migration; guests never see it.
pub const LOG_ALL: u64 = 1 << 26;

/// Requests are given back in the order they were made available. That is how they are served in any case; taking the
/// feature tells cloud-hypervisor that it can reconnect without losing any.
/// Requests come back in the order they were made.
pub const IN_ORDER: u64 = 1 << VIRTIO_F_IN_ORDER;

/// Virtio features on offer.
///
/// FLUSH, DISCARD, WRITE_ZEROES and CONFIG_WCE have no meaning on a read-only disk and are left out.
/// ACCESS_PLATFORM would need an IOTLB.
pub const OFFERED_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1
    | IN_ORDER
    | EVENT_IDX
    | INDIRECT_DESC
    | PROTOCOL_FEATURES
    | LOG_ALL
    | 1 << VIRTIO_BLK_F_RO
    | 1 << VIRTIO_BLK_F_SEG_MAX
    | 1 << VIRTIO_BLK_F_BLK_SIZE
    | 1 << VIRTIO_BLK_F_TOPOLOGY
    | 1 << VIRTIO_BLK_F_MQ;

/// vhost-user protocol features on offer.
///
/// BACKEND_REQ is there because User-mode Linux refuses a backend without it; nothing is ever sent on that
/// channel. STATUS is left out because it would add nothing the ring messages do not say.
#[must_use]
pub fn offered_protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::BACKEND_REQ
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
        | VhostUserProtocolFeatures::RESET_DEVICE
        | VhostUserProtocolFeatures::LOG_SHMFD
        | VhostUserProtocolFeatures::INFLIGHT_SHMFD
        | VhostUserProtocolFeatures::DEVICE_STATE
}
