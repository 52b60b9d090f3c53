//! Firecracker as the front-end of the bare-metal guest. Needs KVM.

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
pub fn bare_metal(socket: &Path, options: &str, scratch: &Path) -> Result<Process> {
    let mut command = Command::new(program("firecracker")?);
    kvm()?;
    let kernel = artifacts::bare_metal_guest()?;
    let (kernel, socket) = (kernel.display(), socket.display());
    let config = format!(
        r#"{{"boot-source": {{"kernel_image_path": "{kernel}", "boot_args": "vgx={options}"}},
            "drives": [{{"drive_id": "disk", "is_root_device": false, "socket": "{socket}"}}],
            "machine-config": {{"vcpu_count": 1, "mem_size_mib": 256}}}}"#
    );
    let file = scratch.join("firecracker.json");
    std::fs::write(&file, config)?;
    command.args(["--no-api", "--config-file"]).arg(file);
    Process::spawn("firecracker", &mut command)
}
