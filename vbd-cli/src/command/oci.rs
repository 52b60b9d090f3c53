//! `vbd oci`: images of containers.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use oci::{ConvertOptions, Converted, Selection, WantedPlatform};
use serde::Serialize;

use crate::args::{AlgorithmArg, ForceArgs, PackingArgs, ZFileArgs, parse_size};
use crate::size::Size;
use crate::ui::{Stop, Ui};

/// Exit status when a layout is damaged.
const DAMAGED: u8 = 1;

/// Convert and inspect OCI image layouts.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  skopeo copy docker://debian:12 oci:debian:12
  vbd oci inspect debian
  vbd oci convert debian debian-obd
  skopeo copy oci:debian-obd:12 docker://registry.example/debian:12-obd")]
pub struct Oci {
    #[command(subcommand)]
    command: OciCommand,
}

#[derive(Debug, Subcommand)]
enum OciCommand {
    /// Turn an image into one whose layers are layers of a disk.
    Convert(Convert),
    /// Print what is in a layout, and check all digests.
    Inspect(Inspect),
}

impl Oci {
    pub(crate) fn run(&self, ui: &Ui) -> Result<(), Stop> {
        match &self.command {
            OciCommand::Convert(command) => Ok(command.run(ui)?),
            OciCommand::Inspect(command) => command.run(ui),
        }
    }
}

/// Which image of a layout.
#[derive(Debug, Args)]
struct SelectionArgs {
    /// The image with this name; needed where a layout holds several.
    #[arg(long = "ref", value_name = "NAME")]
    reference: Option<String>,

    /// The image for this platform, as linux/amd64 or linux/arm/v7.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<WantedPlatform>,
}

impl SelectionArgs {
    fn selection(&self) -> Selection {
        Selection {
            reference: self.reference.clone(),
            platform: self.platform.clone(),
        }
    }
}

/// Turn an image into one whose layers are layers of a disk.
///
/// Each layer becomes the difference that it makes to an ext4 file system, above one more layer with the file system as
/// it is when it is empty. The output is an OCI image layout as containerd's overlaybd snapshotter takes it, with layers
/// in tar files. Needs no root, no mounts and no other programs; the output directory also holds the unpacked files for a while.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd oci convert debian debian-obd
  vbd oci convert multi out --ref v2 --platform linux/arm64 --size 20G --algorithm zstd")]
struct Convert {
    /// Directory of the layout with the image.
    #[arg(value_name = "LAYOUT")]
    layout: PathBuf,

    /// Directory of the layout to be made.
    #[arg(value_name = "OUT-LAYOUT")]
    output: PathBuf,

    #[command(flatten)]
    selection: SelectionArgs,

    /// Length of the disk, 2M to 2T. Space that no file takes costs nothing.
    #[arg(long, value_name = "SIZE", default_value = "64G", value_parser = parse_size)]
    size: u64,

    /// How to compress.
    #[arg(long, value_enum, default_value_t = AlgorithmArg::Lz4, value_name = "ALGORITHM")]
    algorithm: AlgorithmArg,

    #[command(flatten)]
    zfile: ZFileArgs,

    #[command(flatten)]
    force: ForceArgs,
}

impl Convert {
    fn run(&self, ui: &Ui) -> anyhow::Result<()> {
        let packing = PackingArgs {
            algorithm: self.algorithm,
            zfile: self.zfile.clone(),
        };
        let options = ConvertOptions {
            selection: self.selection.selection(),
            size_bytes: self.size,
            packing: packing.packing()?,
            replace: self.force.force,
        };
        let progress = ui.progress();
        let converted = oci::convert(&self.layout, &self.output, &options, &progress)?;
        drop(progress);
        for remark in &converted.remarks {
            ui.remark(remark);
        }
        ui.show(&Shown {
            output: self.output.clone(),
            converted,
        })
    }
}

#[derive(Debug, Serialize)]
struct Shown {
    output: PathBuf,
    #[serde(flatten)]
    converted: Converted,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let converted = &self.converted;
        for (ordinal, layer) in converted.layers.iter().enumerate() {
            let from = match &layer.source {
                None => "empty file system".to_owned(),
                Some(_) => format!(
                    "{} members in {}, which change {} of the disk",
                    layer.members,
                    Size(layer.source_len_bytes),
                    Size(layer.changed_len_bytes)
                ),
            };
            writeln!(
                f,
                "layer {ordinal:<4} {}  {}\n           from {from}",
                layer.digest,
                Size(layer.len_bytes)
            )?;
        }
        writeln!(f, "manifest   {}", converted.manifest)?;
        write!(f, "written to {}", self.output.display())
    }
}

/// Print what is in a layout, and check all digests.
///
/// Looks at all images, unless one is chosen. Exit status 1 if a digest or a size is wrong or a blob is missing.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  vbd oci inspect debian-obd --json | jq '.images[].layers[].content'")]
struct Inspect {
    /// Directory of the layout.
    #[arg(value_name = "LAYOUT")]
    layout: PathBuf,

    #[command(flatten)]
    selection: SelectionArgs,
}

impl Inspect {
    fn run(&self, ui: &Ui) -> Result<(), Stop> {
        let progress = ui.progress();
        let inspection = oci::inspect(&self.layout, &self.selection.selection(), &progress)
            .map_err(anyhow::Error::new)?;
        drop(progress);
        ui.show(&inspection)?;
        match inspection.problems.is_empty() {
            true => Ok(()),
            false => Err(Stop {
                status: DAMAGED,
                error: None,
            }),
        }
    }
}
