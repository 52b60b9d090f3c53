//! `vbd compress`: a layer becomes a ZFile.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::args::{CodecArg, ForceArgs, ZFileArgs};
use crate::repack::{Input, Job, STREAM};
use crate::ui::{Stop, Ui};

/// Store a layer compressed: in a ZFile, which is read without unpacking it.
///
/// A layer that is packed already, in a ZFile or a tar file, is packed anew without being unpacked to disk. Every
/// checksum it has is verified on the way. The output does not depend on the number of threads.
///
/// All readers have LZ4 and blocks of 4K. Larger blocks and zstd make smaller files and cost more to read at random.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd compress app.lsmt app.zfile
  vbd compress --algorithm zstd --level 19 --block-size 16K app.zfile small.zfile
  vbd compress --tar app.lsmt app.tar
  vbd decompress app.tar - | vbd compress - - > app.zfile

A stream is written in the form that is read by its trailer, a file in the form that is also read by its header, which
the kernel reader needs.")]
pub struct Compress {
    /// The layer; `-` is standard input, for a layer as it is.
    #[arg(value_name = "IN")]
    input: PathBuf,

    /// The file to make; `-` is standard output.
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// How to compress.
    #[arg(long, value_enum, default_value_t = CodecArg::Lz4, value_name = "ALGORITHM")]
    algorithm: CodecArg,

    #[command(flatten)]
    zfile: ZFileArgs,

    /// Compress the bytes of the input as they are, be they a layer or not.
    #[arg(long)]
    any: bool,

    #[command(flatten)]
    force: ForceArgs,
}

impl Compress {
    pub(crate) fn run(self, ui: &Ui) -> Result<(), Stop> {
        let packing = self
            .zfile
            .packing(self.algorithm.into())
            .map_err(Stop::usage)?;
        let input = match self.any && self.input != Path::new(STREAM) {
            true => Input::raw(&self.input, ui),
            false => Input::layer(&self.input, self.any, ui),
        }?;
        let job = Job {
            verb: "compressing",
            output: &self.output,
            packing: &packing,
            replace: self.force.force,
            ui,
        };
        Ok(job.run(&input)?)
    }
}
