//! `vbd decompress`: a layer as it is.

use std::path::{Path, PathBuf};

use anyhow::anyhow;
use builder::Packing;
use clap::Args;

use crate::args::ForceArgs;
use crate::repack::{Input, Job, STREAM};
use crate::ui::{Stop, Ui};

/// Store a layer as it is: plain LSMT, out of a ZFile, a tar file, or both.
///
/// Every checksum is verified on the way, and every block must decode to its exact length. Zeroes become holes in the
/// output. A plain layer costs the least to read.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd decompress app.zfile app.lsmt
  vbd decompress --tar app.zfile app.tar
  vbd decompress app.tar - | sha256sum")]
pub struct Decompress {
    /// The layer.
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The file to make; `-` is standard output.
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// Store it as a tar file with one member, as registries keep it.
    #[arg(long)]
    tar: bool,

    /// Threads that decode; by default one for each processor.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,

    /// Take a ZFile with whatever is in it, be it a layer or not.
    #[arg(long)]
    any: bool,

    #[command(flatten)]
    force: ForceArgs,
}

impl Decompress {
    pub(crate) fn run(self, ui: &Ui) -> Result<(), Stop> {
        if self.input == Path::new(STREAM) {
            return Err(Stop::usage(anyhow!(
                "a packed layer cannot be read from a stream, for its end says what is in it; give it as a file"
            )));
        }
        let packing = Packing {
            zfile: None,
            tar: self.tar,
            threads: self.threads,
        };
        let input = Input::layer(&self.input, self.any, ui)?;
        let job = Job {
            verb: "decompressing",
            output: &self.output,
            packing: &packing,
            replace: self.force.force,
            ui,
        };
        Ok(job.run(&input)?)
    }
}
