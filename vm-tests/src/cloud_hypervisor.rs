//! cloud-hypervisor as the front-end of the bare-metal guest. Needs KVM.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::artifacts;
use crate::process::Process;
use crate::requirement::{kvm, program};

/// Starts the bare-metal guest with these options.
///
/// # Errors
///
/// [`Missing`](crate::requirement::Missing) if the program, KVM or a compiler is not there.
pub fn bare_metal(socket: &Path, options: &str) -> Result<Process> {
    let mut command = Command::new(program("cloud-hypervisor")?);
    kvm()?;
    command.arg("--kernel").arg(artifacts::bare_metal_guest()?);
    command.args(["--cmdline", &format!("vgx={options}")]);
    command.args(["--cpus", "boot=1", "--memory", "size=256M,shared=on"]);
    command.args(["--serial", "tty", "--console", "off", "--disk"]);
    command.arg(format!(
        "vhost_user=true,socket={},num_queues=1",
        socket.display()
    ));
    Process::spawn("cloud-hypervisor", &mut command)
}
