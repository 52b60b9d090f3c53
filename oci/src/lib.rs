//! OCI image layouts on disk.
#![forbid(unsafe_code)]
