//! The commands, a room each.

mod completions;
mod oci;

use clap::Subcommand;

use crate::ui::{Stop, Ui};

/// What `vbd` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Convert and inspect OCI image layouts.
    Oci(oci::Oci),
    /// Print shell completions.
    Completions(completions::Completions),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    ///
    /// When it cannot be done.
    pub fn run(self, ui: &Ui) -> Result<(), Stop> {
        match self {
            Self::Oci(command) => command.run(ui),
            Self::Completions(command) => Ok(command.run(ui)?),
        }
    }
}
