//! `vbd commit`: what a live system has written, as a layer.

use std::path::{Path, PathBuf};

use builder::{Commit as Layer, CommitForm};
use clap::Args;

use crate::args::parse_size;
use crate::disks::{LayerArgs, LayerReport, remark_on_size};
use crate::ui::Ui;

/// Make a layer of what a live system has written.
///
/// Takes the directory of a layer, the data and index files of a read-write layer (writable_data, writable_index), a
/// data file with holes, or a layer that is sealed already. What was overwritten is left out. The system that writes must
/// have stopped.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd commit /var/lib/overlaybd/snapshots/42/block app.lsmt
  vbd commit writable_data writable_index app.zfile --algorithm lz4
  vbd commit overlaybd.sealed app.lsmt

A data file with holes keeps no trace of discards: what was discarded in such a layer shows the layers below again, as it
does in the live system after it has opened the layer anew.")]
pub struct Commit {
    /// What to commit, and last the layer to make.
    #[arg(value_name = "DIR|FILE|DATA INDEX> <OUT", required = true, num_args = 2..=3)]
    paths: Vec<PathBuf>,

    /// Length of the disk, where the layer should state another than it does.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    size: Option<u64>,

    #[command(flatten)]
    layer: LayerArgs,
}

impl Commit {
    pub(crate) fn run(&self, ui: &Ui) -> anyhow::Result<()> {
        let (layer, out) = self.open()?;
        let size = self.size.unwrap_or(layer.virtual_size_bytes);
        let mut options = self.layer.options(size)?;
        let header = &mut options.header;
        header.uuid = self.layer.names.uuid.unwrap_or(layer.uuid);
        header.parent_uuid = self.layer.names.parent.unwrap_or(layer.parent_uuid);
        if header.user_tag.is_empty() {
            header.user_tag = layer.user_tag.clone();
        }
        if layer.form() == CommitForm::Sparse {
            ui.remark(
                "the data file has holes for an index: what was discarded in this layer shows the layers below again",
            );
        }
        match size {
            0 => ui.remark("the layer states no size; --size states one"),
            size => remark_on_size(ui, size),
        }
        let output = self.layer.output(out, &layer.paths)?;
        let progress = ui.progress();
        let written = layer.write(output, &options, &progress)?;
        drop(progress);
        ui.show(&LayerReport::new(out, &options, &written))
    }

    fn open(&self) -> anyhow::Result<(Layer, &Path)> {
        Ok(match &*self.paths {
            [data, index, out] => (Layer::open_pair(data, index)?, out),
            [layer, out] if layer.is_dir() => (Layer::open_dir(layer)?, out),
            [layer, out] => (Layer::open_file(layer)?, out),
            _ => anyhow::bail!("expected what to commit, and the layer to make"),
        })
    }
}
