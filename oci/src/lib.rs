//! OCI image layouts on disk.
#![forbid(unsafe_code)]

mod ext4;

pub use ext4::Ext4Error;
