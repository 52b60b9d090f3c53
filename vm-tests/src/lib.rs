//! Real guests and real front-ends against `vbd-vhost`.
//!
//! A test builds a disk image ([`stack`]), starts the backend that serves it ([`daemon`]), starts a guest
//! on the backend's socket ([`qemu`], [`uml`], [`cloud_hypervisor`], [`firecracker`]) and judges what the
//! guest printed on its serial line ([`linux`], [`vgx`]). Nothing is judged by an exit code: a guest that
//! dies early also exits, so every test waits for a success line, with a deadline.
//!
//! Two kinds of guest are used. Linux shows what a user sees: size, serial number, refusals, files. The
//! bare-metal guest `vgx` shows what Linux never asks: every descriptor framing, every refused request.
//!
//! Without a guest, [`virtio_driver`] is a front-end in the test's own process that asks everything, and [`load`] one
//! to measure with; the program `bench` is made of it.
//!
//! A program or file that is missing makes a test skip, and it says so on stderr past the capture of the
//! test runner ([`requirement`]). With `VM_TESTS_NO_SKIP=1` a skip is a failure.
//!
//! With `VM_TESTS_BACKEND=qsd` the same tests run against `qemu-storage-daemon` serving the flat image:
//! the control experiment that tells a defect of the backend from one of the harness.

#![forbid(unsafe_code)]

pub mod artifacts;
pub mod cloud_hypervisor;
pub mod daemon;
pub mod firecracker;
pub mod initrd;
pub mod layers;
pub mod linux;
pub mod load;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod requirement;
pub mod stack;
pub mod uml;
pub mod vgx;
pub mod virtio_driver;
