//! The commands, a room each.

mod commit;
mod completions;
mod compress;
mod config;
mod create;
mod decompress;
mod diff;
mod export;
mod info;
mod manual;
mod merge;
mod oci;
mod verify;

use clap::Subcommand;

use crate::ui::{Stop, Ui};

/// What `vbd` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at layers, and at the disk they make.
    Info(info::Info),
    /// Check layers to their last byte.
    Verify(verify::Verify),
    /// Make a base layer of a disk.
    Create(create::Create),
    /// Make the layer that turns a stack into a new disk.
    Diff(diff::Diff),
    /// Make a layer of what a live system has written.
    Commit(commit::Commit),
    /// Make one layer of many.
    Merge(merge::Merge),
    /// Write the disk that layers make to a flat file.
    Export(export::Export),
    /// Store a layer compressed.
    Compress(compress::Compress),
    /// Store a layer as it is.
    Decompress(decompress::Decompress),
    /// Convert and inspect OCI image layouts.
    Oci(oci::Oci),
    /// Write and check image configurations.
    Config(config::Config),
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
            Self::Info(command) => command.run(ui),
            Self::Verify(command) => command.run(ui),
            Self::Create(command) => command.run(ui),
            Self::Diff(command) => Ok(command.run(ui)?),
            Self::Commit(command) => Ok(command.run(ui)?),
            Self::Merge(command) => command.run(ui),
            Self::Export(command) => command.run(ui),
            Self::Compress(command) => command.run(ui),
            Self::Decompress(command) => command.run(ui),
            Self::Oci(command) => command.run(ui),
            Self::Config(command) => command.run(ui),
            Self::Completions(command) => Ok(command.run(ui)?),
            Self::Manual(command) => Ok(command.run(ui)?),
        }
    }
}
