//! What the commands share that make layers of disks and disks of layers.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use builder::{Format, LayerOptions, Output, Packed, SourceOptions, Written};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::args::{ForceArgs, NameArgs, PackingArgs, parse_size};
use crate::size::Size;
use crate::ui::{Stop, Ui};

/// Sizes that a kernel reader can work with: up to here, in multiples of its unit.
const KERNEL_MAX_BYTES: u64 = 2 << 40;
const KERNEL_UNIT_BYTES: u64 = 4096;

/// How a layer is made.
#[derive(Clone, Debug, Args)]
pub(crate) struct LayerArgs {
    #[command(flatten)]
    packing: PackingArgs,

    #[command(flatten)]
    pub(crate) names: NameArgs,

    #[command(flatten)]
    force: ForceArgs,
}

impl LayerArgs {
    /// A layer of this size, named as asked for.
    pub(crate) fn options(&self, virtual_size_bytes: u64) -> anyhow::Result<LayerOptions> {
        let mut options = LayerOptions::new(self.packing.packing()?, virtual_size_bytes);
        let header = &mut options.header;
        header.uuid = self.names.uuid.unwrap_or(header.uuid);
        header.parent_uuid = self.names.parent.unwrap_or(header.parent_uuid);
        header.user_tag = self.names.tag.clone().into_bytes();
        Ok(options)
    }

    /// Starts the file that is to stand at `path`.
    pub(crate) fn output(&self, path: &Path, inputs: &[PathBuf]) -> anyhow::Result<Output> {
        Ok(Output::create(path, self.force.force, inputs)?)
    }
}

/// An image, and how it is taken.
#[derive(Clone, Debug, Args)]
pub(crate) struct SourceArgs {
    /// Format of the image. By default the end of its name says it (.qcow2, .vmdk, .vhdx); everything else is raw.
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Option<FormatArg>,

    /// Open files that the image refers to, too. They can be any files: only for images from somebody you trust.
    #[arg(long)]
    allow_backing: bool,

    /// Length of the disk: longer than the image, the rest is zeroes; shorter, the rest is left out.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) size: Option<u64>,
}

/// A format of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FormatArg {
    /// The bytes of the disk as they are.
    Raw,
    /// QEMU.
    Qcow2,
    /// VMware; needs qemu-img.
    Vmdk,
    /// Hyper-V; needs qemu-img.
    Vhdx,
}

impl SourceArgs {
    /// How an image is opened for an output at `out`.
    pub(crate) fn options(&self, out: &Path) -> SourceOptions {
        SourceOptions {
            format: self.format.map(|format| match format {
                FormatArg::Raw => Format::Raw,
                FormatArg::Qcow2 => Format::Qcow2,
                FormatArg::Vmdk => Format::Vmdk,
                FormatArg::Vhdx => Format::Vhdx,
            }),
            allow_backing: self.allow_backing,
            size_bytes: self.size,
            scratch_dir: directory(out),
        }
    }
}

/// The directory of a file.
pub(crate) fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if dir != Path::new("") => dir.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Unit of comparison, in bytes.
pub(crate) fn parse_granularity(text: &str) -> Result<u32, String> {
    let size = parse_size(text)?;
    u32::try_from(size)
        .ok()
        .filter(|size| {
            size.is_power_of_two() && (512..=builder::MAX_GRANULARITY_BYTES).contains(size)
        })
        .ok_or_else(|| format!("{text} is not a power of two from 512 to 1M"))
}

/// Layers and output of a command that takes them in one list, the output last. With a configuration, there is only the
/// output.
pub(crate) fn split_output<'a>(
    paths: &'a [PathBuf],
    config: Option<&Path>,
) -> Result<(&'a [PathBuf], &'a Path), Stop> {
    match (paths, config) {
        ([out], Some(_)) => Ok((&[], out)),
        (_, Some(_)) => Err(Stop::usage(anyhow!(
            "with --config, only the output is given besides"
        ))),
        ([layers @ .., out], None) if !layers.is_empty() => Ok((layers, out)),
        _ => Err(Stop::usage(anyhow!(
            "no layers given: expected LAYER... OUT, or --config FILE OUT"
        ))),
    }
}

/// Says what a kernel reader would not make of a disk of this length.
pub(crate) fn remark_on_size(ui: &Ui, virtual_size_bytes: u64) {
    if !virtual_size_bytes.is_multiple_of(KERNEL_UNIT_BYTES) {
        ui.remark(format_args!(
            "{virtual_size_bytes} bytes are not a multiple of 4096, as kernel readers need them"
        ));
    }
    if virtual_size_bytes > KERNEL_MAX_BYTES {
        ui.remark("the disk is longer than 2 TiB, where other readers end");
    }
}

/// A layer that was made.
#[derive(Debug, Serialize)]
pub(crate) struct LayerReport {
    output: PathBuf,
    /// Length of the disk.
    virtual_size_bytes: u64,
    /// What the layer decides by data.
    data_bytes: u64,
    /// What it decides to be zero.
    zeroed_bytes: u64,
    index_records: usize,
    /// Length of the layer before packing.
    layer_bytes: u64,
    /// Length of its file.
    stored_bytes: u64,
    uuid: String,
    parent_uuid: String,
}

impl LayerReport {
    pub(crate) fn new(output: &Path, options: &LayerOptions, written: &Written) -> Self {
        let Packed {
            content_len_bytes,
            stored_len_bytes,
            ..
        } = written.packed;
        Self {
            output: output.to_owned(),
            virtual_size_bytes: written.virtual_size_bytes,
            data_bytes: written.data_bytes,
            zeroed_bytes: written.zeroed_bytes,
            index_records: written.record_count,
            layer_bytes: content_len_bytes,
            stored_bytes: stored_len_bytes,
            uuid: options.header.uuid.to_string(),
            parent_uuid: options.header.parent_uuid.to_string(),
        }
    }
}

impl fmt::Display for LayerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index_records: records,
            ..
        } = self;
        write!(
            f,
            "{}: {} of a disk of {}",
            self.output.display(),
            Size(self.data_bytes),
            Size(self.virtual_size_bytes)
        )?;
        if self.zeroed_bytes > 0 {
            write!(f, ", {} zeroed", Size(self.zeroed_bytes))?;
        }
        let records = match records {
            1 => "1 record".to_owned(),
            records => format!("{records} records"),
        };
        write!(f, ", {records}; stored in {}", Size(self.stored_bytes))
    }
}
