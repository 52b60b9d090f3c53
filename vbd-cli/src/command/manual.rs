//! `vbd manual`: manual pages.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, CommandFactory};

use crate::Cli;
use crate::ui::Ui;

/// Write the manual pages of `vbd` and its commands into a directory.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  vbd manual /usr/local/share/man/man1")]
pub struct Manual {
    /// The directory.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl Manual {
    pub(crate) fn run(&self, ui: &Ui) -> anyhow::Result<()> {
        let root = Cli::command().disable_help_subcommand(true);
        clap_mangen::generate_to(root, &self.dir)
            .with_context(|| format!("cannot write to {}", self.dir.display()))?;
        ui.remark(format_args!("manual pages are in {}", self.dir.display()));
        Ok(())
    }
}
