//! `vbd diff`: the layer that makes a new disk of an old one.

use std::path::PathBuf;
use std::sync::Arc;

use builder::Stack;
use clap::Args;
use image::Image;

use crate::args::stack_paths;
use crate::disks::{LayerArgs, LayerReport, SourceArgs, parse_granularity, remark_on_size};
use crate::ui::Ui;

/// Make the layer that turns a stack into a new disk image.
///
/// The stack with the new layer on top reads exactly as the image. The layer holds what differs and no more, in units of
/// the granularity; what has become zero takes no room. The image may be longer or shorter than the stack.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd diff --base base.lsmt --from changed.img app.lsmt
  vbd diff --base base.lsmt,app.zfile --from changed.qcow2 update.zfile --algorithm lz4
  vbd diff --config config.v1.json --from changed.img update.lsmt --granularity 4K

A larger granularity makes fewer index records, and layers whose blocks suit the file system above.")]
pub struct Diff {
    /// Layers below, from the lowest to the highest, separated by commas.
    #[arg(
        long,
        value_name = "LAYER,...",
        value_delimiter = ',',
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    base: Vec<PathBuf>,

    /// Take the layers below from an image configuration (config.v1.json).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The new disk: an image, a block device, or - for a raw image on standard input.
    #[arg(long, value_name = "IMAGE")]
    from: PathBuf,

    /// The layer.
    out: PathBuf,

    #[command(flatten)]
    source: SourceArgs,

    /// The disks are compared in units of this size, a power of two.
    #[arg(long, value_name = "SIZE", default_value = "512", value_parser = parse_granularity)]
    granularity: u32,

    #[command(flatten)]
    layer: LayerArgs,
}

impl Diff {
    pub(crate) fn run(&self, ui: &Ui) -> anyhow::Result<()> {
        let base = stack_paths(&self.base, self.config.as_deref())?;
        let mut inputs = base.clone();
        inputs.push(self.from.clone());
        let output = self.layer.output(&self.out, &inputs)?;
        let new = builder::open_content(&self.from, &self.source.options(&self.out))?;
        let len_bytes = new.len_bytes();
        // What the layers below hold beyond the end that they state now is seen again below a longer layer.
        let image = Arc::new(Image::open_with_len(&base, len_bytes)?);
        let mut options = self.layer.options(len_bytes)?;
        if self.layer.names.parent.is_none()
            && let Some(top) = image.disk().layers().last()
        {
            options.header.parent_uuid = top.info().uuid;
        }
        remark_on_size(ui, len_bytes);
        let below = Stack::new(image);
        let progress = ui.progress();
        let sides: [&dyn builder::Content; 2] = [&below, &*new];
        let written = builder::diff(sides, self.granularity, output, &options, &progress)?;
        drop(progress);
        ui.show(&LayerReport::new(&self.out, &options, &written))
    }
}
