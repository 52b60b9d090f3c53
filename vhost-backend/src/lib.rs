//! A vhost-user-blk backend: a stack of layers as a read-only disk in a virtual machine.
//!
//! ```text
//! server ── session ── queue ── request ── image
//! socket    messages   ring     parse      resolve, fetch, decode
//!           memory     thread   outcome
//! ```
//!
//! One connection is one [`session`]; it owns the memory table and the rings. A started ring is one thread of
//! [`queue`]; it takes descriptors, has [`request`] parse and perform them, and gives them back. [`device`] is
//! what the guest sees, [`server`] the life of the daemon, [`config`] the command line.
//!
//! Nothing here knows a disk format, and nothing below knows virtio.

pub mod args;
pub mod config;
pub mod device;
pub mod engine;
pub mod guest;
pub mod killpoint;
pub mod limits;
pub mod queue;
pub mod rate_limit;
pub mod request;
pub mod server;
pub mod session;
pub mod stats;
pub mod system;
mod usual_time;
