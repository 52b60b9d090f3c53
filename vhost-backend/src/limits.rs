//! Every number a front-end or guest could drive too far, by name and with its reason.

use std::time::Duration;

use crate::engine::Waiter;

/// Most queues of one device. SET_VRING_KICK has 8 bits for the index, so no front-end can use more.
pub const MAX_QUEUES: u16 = 256;

/// Queues offered when nobody says otherwise. QEMU asks for one per vCPU and refuses a backend with fewer;
/// a queue that is never started costs nothing.
pub const DEFAULT_QUEUES: u16 = MAX_QUEUES;

/// Largest ring that is accepted, in entries: the largest any known front-end uses (QEMU's virtio-mmio).
pub const MAX_RING_SIZE: u16 = 1024;

/// Ring size that `seg_max` is derived from when nobody says otherwise: the default of QEMU and
/// cloud-hypervisor. Larger rings are used as they come; a driver that believed in a larger `seg_max` than its
/// ring has room for would build chains that do not fit.
pub const DEFAULT_RING_SIZE: u16 = 128;

/// Most descriptors of one request, direct and indirect together. A driver may fill the largest ring.
pub const MAX_CHAIN_DESCRIPTORS: usize = MAX_RING_SIZE as usize;

/// How much of one request is read at a time, in bytes; larger requests are answered in pieces of this size.
pub const MAX_PIECE_LEN_BYTES: usize = image::MAX_PLAN_LEN_BYTES;

/// Most requests of a queue that are answered before the driver is told. It goes on with those while the next ones are
/// served; one at a time costs it and us an interrupt each.
pub const MAX_BATCH: usize = 32;

/// Most requests of a queue that are understood before the first of them is performed: so many that what planning looks at
/// comes from memory for several at once, and so few that the first does not wait.
pub const MAX_GATHERED: usize = 8;

/// How many answered requests are shown at a time to a driver that looks without being told: often enough that it need not
/// wait, and so seldom that the bytes of the ring do not travel between processors for each.
pub const SHOWN_TOGETHER: usize = 4;

/// Bytes read from the disk after which what is answered is shown, however few requests that were.
pub const SHOWN_LEN_BYTES: u64 = 64 << 10;

/// Most requests of a queue that are looked at before what they miss is asked of the disk.
pub const MAX_UNASKED: usize = 16;

/// How long a batch goes on, however few requests it answers; those that were taken together, [`MAX_GATHERED`] at most, are
/// still answered then. Next to so much copying and decoding, an interrupt costs little.
pub const MAX_BATCH_TIME: Duration = Duration::from_micros(150);

/// Most reads that came from the disk and are decoded before the driver is told and new ones are asked for; half of those
/// that wait for it, if that is less: the disk should not run dry while one processor decodes.
pub const FETCHED_BATCH: usize = 16;

/// The same in bytes.
pub const FETCHED_BATCH_LEN_BYTES: u64 = 4 << 20;

/// How much of the disk a queue decodes before its guest asks for it, in bytes: what a guest that reads one piece after
/// another asks for at a time, and what is lost when it stops.
pub const MAX_DECODED_AHEAD_LEN_BYTES: u64 = 1 << 20;

/// Most bytes that the reads of one queue which wait for the disk may ask for together, beyond the first.
pub const MAX_QUEUE_FETCH_LEN_BYTES: usize = 8 << 20;

/// Most bytes that all reads of a device which wait for the disk may ask for together, beyond the first of each queue.
pub const MAX_DEVICE_FETCH_LEN_BYTES: usize = 64 << 20;

/// Most reads of a queue that wait for the disk at a time.
pub const MAX_FETCHES: usize = 128;

/// How many reads of a queue may be put off, for there are too many at the disk, before no further request is taken.
pub const MAX_QUEUED_FETCHES: usize = 256;

/// Most threads of a device that wait for the disk.
pub const MAX_READ_THREADS: usize = 64;

/// How many microseconds a queue looks at its ring before it sleeps, unless told otherwise: what a guest that is woken for
/// an answer needs until its next request, and little more than falling asleep and being woken cost in processor time. So
/// looking in vain costs about as much again, and only until that is learnt.
pub const DEFAULT_POLL_US: u32 = 30;

/// Longest time in microseconds that a queue may look at its ring before it sleeps: more than any wake-up takes, and
/// little enough that a queue which is to stop does so at once.
pub const MAX_POLL_US: u64 = 10_000;

/// Bytes of decoded blocks that are kept when nobody says otherwise: room for some hundred blocks of the largest size,
/// more than all queues of a guest read through at a time.
pub const DEFAULT_CACHE_LEN_BYTES: u64 = 16 << 20;

/// Most bytes of decoded blocks that may be kept.
pub const MAX_CACHE_LEN_BYTES: u64 = 1 << 40;

/// Most memory regions of a guest. QEMU's hot-plug stops at 256 slots.
pub const MAX_MEMORY_REGIONS: usize = 256;

/// How long a queue that is to stop may finish the request at hand. A read that takes longer is left to itself and
/// its request put back. Front-ends wait for GET_VRING_BASE with their guest stopped, and service managers kill what
/// does not end within a second or two; a disk that is merely busy answers sooner.
pub const STOP_DEADLINE: Duration = Duration::from_millis(500);

/// How many queues may have left reads behind that the disk does not answer, over all front-ends this process has had,
/// before no queue is started any more. Each of them holds the buffers of those reads.
pub const MAX_STUCK_READS: usize = 16;

/// Most log lines a second about what the driver does with one queue, and as many about what front-ends do.
pub const MAX_LOG_LINES_PER_SECOND: u32 = 10;

/// What the operator chose within these limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceLimits {
    /// Queues offered.
    pub num_queues: u16,
    /// Ring size in entries that `seg_max` is derived from.
    pub queue_size: u16,
    /// How long a queue looks at its ring before it sleeps.
    pub poll: Duration,
    /// Who waits for the disk.
    pub waiter: Waiter,
}

impl Default for DeviceLimits {
    fn default() -> Self {
        Self {
            num_queues: DEFAULT_QUEUES,
            queue_size: DEFAULT_RING_SIZE,
            poll: Duration::ZERO,
            waiter: Waiter::default(),
        }
    }
}
