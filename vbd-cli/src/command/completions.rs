//! `vbd completions`: what shells want to know about the command line.

use std::io::Write;

use anyhow::Context;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::Cli;
use crate::ui::Ui;

/// Print what a shell needs to complete commands and options.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  vbd completions bash > ~/.local/share/bash-completion/completions/vbd")]
pub struct Completions {
    /// The shell.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self, _ui: &Ui) -> anyhow::Result<()> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "vbd", &mut script);
        std::io::stdout()
            .write_all(&script)
            .context("cannot write to standard output")
    }
}
