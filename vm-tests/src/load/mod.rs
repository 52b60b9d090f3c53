//! A front-end that measures: a vhost-user-blk driver that behaves as Linux's does and costs as little as can be.
//!
//! It keeps a split ring with event indices in both directions, so it kicks only when the backend sleeps and is
//! notified only when it sleeps itself. A request is one ring entry with an indirect table: header, data, status. Its
//! memory is a memfd of its own, handed over by SET_MEM_TABLE; with INFLIGHT_SHMFD on offer it takes the map as QEMU
//! does. Each queue has a thread of its own.
//!
//! Unlike [`virtio_driver`](crate::virtio_driver), which asks what no guest asks and reads every byte, this one asks
//! one thing as often as it can, and looks at the data only when a [`Workload`] names a reference.
//!
//! ```no_run
//! use vm_tests::load::{Disk, Limit, Options, Pattern, Workload};
//! # fn main() -> anyhow::Result<()> {
//! let mut disk = Disk::attach("/tmp/vbd.sock".as_ref(), &Options::default())?;
//! let workload = Workload::new(Pattern::Random, 4096, 32);
//! let outcome = disk.run(&workload, Limit::seconds(2.0), None)?;
//! assert!(outcome.requests_per_second() > 0.0);
//! # Ok(())
//! # }
//! ```

mod disk;
mod histogram;
mod memory;
mod offsets;
mod outcome;
mod queue;
mod ring;

pub use disk::{Disk, Options};
pub use histogram::Histogram;
pub use offsets::{Limit, Pattern, Workload};
pub use outcome::Outcome;
pub use queue::Mode;
