//! The command line of `vbd`, room by room: [`Cli`] is what is typed, `command` has a room for each subcommand,
//! `args` what several of them take, `ui` how they speak.
#![forbid(unsafe_code)]

mod args;
mod command;
mod disks;
mod repack;
mod signals;
mod size;
mod ui;

use std::process::ExitCode;

use clap::Parser;

pub use command::Command;
pub use signals::end_on_signals;
pub use ui::{Stop, Ui};

/// Look at, check, make and convert overlaybd layers.
///
/// One tool for the whole life of an image: no root, no mounts, no kernel modules, no configuration file. Layers are
/// given from the lowest to the highest, as files or block devices: LSMT, plain or in a ZFile, with or without a tar
/// header.
#[derive(Debug, Parser)]
#[command(name = "vbd", version, max_term_width = 100, after_long_help = AFTER_HELP)]
pub struct Cli {
    /// Print results as one JSON object, and errors too.
    #[arg(long, global = true)]
    pub json: bool,

    /// No progress, no remarks.
    #[arg(long, short, global = true)]
    pub quiet: bool,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Examples:
  vbd info --map base.lsmt app.zfile top.tar
  vbd create base.lsmt --from disk.qcow2
  vbd diff --base base.lsmt --from changed.img app.lsmt
  vbd export base.lsmt app.lsmt --to raw disk.img

Exit status:
  0    done
  1    not done, or `verify` has found damage; the message says what and where
  2    wrong command line, or `verify` could not read
  130  interrupted; no output is left behind";

impl Cli {
    /// Does what was asked for.
    #[must_use]
    pub fn run(self) -> ExitCode {
        let ui = Ui::new(self.json, self.quiet);
        match self.command.run(&ui) {
            Ok(()) => ExitCode::SUCCESS,
            Err(stop) => ui.explain(&stop),
        }
    }
}
