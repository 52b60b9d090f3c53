//! `vbd merge`: many layers into one.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::args::stack_paths;
use crate::disks::{LayerArgs, LayerReport, remark_on_size, split_output};
use crate::ui::{Stop, Ui};

/// Make one layer of neighbouring layers of a stack.
///
/// The new layer reads as those did, alone or in their place in the stack. What was overwritten or discarded is left out.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd merge base.lsmt app.zfile top.zfile all.lsmt
  vbd merge --config config.v1.json all.zfile --algorithm lz4
  vbd merge base.lsmt a.lsmt b.lsmt c.lsmt ab.lsmt --from 1 --to 2    # for base, ab, c

Ranges that are zero are left out where the lowest layer is merged, for nothing lies below it; otherwise they are kept,
for they hide what lies below.")]
pub struct Merge {
    /// Layers of the stack, from the lowest to the highest, and last the layer to make.
    #[arg(value_name = "LAYER...> <OUT", required = true, num_args = 1..)]
    paths: Vec<PathBuf>,

    /// Take the layers from an image configuration (config.v1.json); then only the layer to make is given.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Lowest layer to merge, counted from 0.
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: usize,

    /// Highest layer to merge; by default the highest of all.
    #[arg(long, value_name = "N")]
    to: Option<usize>,

    #[command(flatten)]
    layer: LayerArgs,
}

impl Merge {
    pub(crate) fn run(&self, ui: &Ui) -> Result<(), Stop> {
        let config = self.config.as_deref();
        let (layers, out) = split_output(&self.paths, config)?;
        Ok(self.make(ui, &stack_paths(layers, config)?, out)?)
    }

    fn make(&self, ui: &Ui, layers: &[PathBuf], out: &Path) -> anyhow::Result<()> {
        let output = self.layer.output(out, layers)?;
        let to = self.to.unwrap_or(layers.len().saturating_sub(1));
        let merge = builder::Merge::open(layers, self.from..=to)?;
        let mut options = self.layer.options(merge.virtual_size_bytes)?;
        options.header.uuid = self.layer.names.uuid.unwrap_or(merge.uuid);
        options.header.parent_uuid = self.layer.names.parent.unwrap_or(merge.parent_uuid);
        remark_on_size(ui, merge.virtual_size_bytes);
        let progress = ui.progress();
        let written = merge.write(output, &options, &progress)?;
        drop(progress);
        ui.show(&LayerReport::new(out, &options, &written))
    }
}
