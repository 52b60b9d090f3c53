//! The commands, a room each.

mod completions;
mod manual;

use clap::Subcommand;

use crate::ui::{Stop, Ui};

/// What `vbd` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print shell completions.
    Completions(completions::Completions),
    /// Write manual pages.
    Manual(manual::Manual),
}

impl Command {
    /// Does it.
    ///
    /// # Errors
    ///
    /// When it cannot be done.
    pub fn run(self, ui: &Ui) -> Result<(), Stop> {
        match self {
            Self::Completions(command) => Ok(command.run(ui)?),
            Self::Manual(command) => Ok(command.run(ui)?),
        }
    }
}
