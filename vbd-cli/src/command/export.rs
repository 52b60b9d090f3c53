//! `vbd export`: a stack as a flat disk.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use builder::{Content, Output, Stack};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::args::{ForceArgs, open_stack, parse_size, stack_paths};
use crate::disks::split_output;
use crate::size::Size;
use crate::ui::{Stop, Ui};

/// Write the disk that layers make to one flat file, or to standard output.
///
/// Every byte is read from its layer, and checked against its checksum where the layer has them.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd export base.lsmt app.zfile --to raw disk.img
  vbd export --config config.v1.json --to qcow2 disk.qcow2
  vbd export base.lsmt app.zfile --to raw - | ssh host 'dd of=/dev/vdb bs=1M'
  vbd export base.lsmt --range 1M+512 --to raw - | hexdump -C")]
pub struct Export {
    /// Layers, from the lowest to the highest, and last the file to write; - is standard output.
    #[arg(value_name = "LAYER...> <OUT", required = true, num_args = 1..)]
    paths: Vec<PathBuf>,

    /// Take the layers from an image configuration (config.v1.json); then only the file to write is given.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Format of the file.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = ExportFormat::Raw)]
    to: ExportFormat,

    /// Zeroes are holes in the file. This is the default.
    #[arg(long, overrides_with = "no_sparse")]
    sparse: bool,

    /// Take room for zeroes, too.
    #[arg(long)]
    no_sparse: bool,

    /// Only these bytes of the disk: from A up to B, which is left out (A-B), or LEN from A on (A+LEN).
    #[arg(long, value_name = "A-B|A+LEN", value_parser = parse_range)]
    range: Option<Range<u64>>,

    #[command(flatten)]
    force: ForceArgs,
}

/// A format to export to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum ExportFormat {
    /// The bytes of the disk as they are.
    Raw,
    /// QEMU's format, version 3, not compressed.
    Qcow2,
}

/// A disk that was written.
#[derive(Debug, Serialize)]
struct Report {
    output: PathBuf,
    format: ExportFormat,
    /// Bytes of the disk.
    exported_bytes: u64,
    /// Room that the file takes.
    allocated_bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { output, .. } = self;
        let exported = Size(self.exported_bytes);
        let allocated = Size(self.allocated_bytes);
        write!(
            f,
            "{}: {exported} exported, {allocated} on disk",
            output.display()
        )
    }
}

impl Export {
    pub(crate) fn run(&self, ui: &Ui) -> Result<(), Stop> {
        let config = self.config.as_deref();
        let (layers, out) = split_output(&self.paths, config)?;
        let is_stream = out == Path::new("-");
        if self.to == ExportFormat::Qcow2 && self.range.is_some() {
            return Err(Stop::usage(anyhow!(
                "--range goes with --to raw: a qcow2 image is a whole disk"
            )));
        }
        if self.to == ExportFormat::Qcow2 && is_stream {
            return Err(Stop::usage(anyhow!(
                "a qcow2 image is not written from front to back: export it to a file"
            )));
        }
        let layers = stack_paths(layers, config)?;
        match is_stream {
            true => self.stream(ui, &layers)?,
            false => self.file(ui, &layers, out)?,
        }
        Ok(())
    }

    fn file(&self, ui: &Ui, layers: &[PathBuf], out: &Path) -> anyhow::Result<()> {
        let output = Output::create(out, self.force.force, layers)?;
        let disk = Stack::new(open_stack(layers)?);
        let range = self.range.clone().unwrap_or(0..disk.len_bytes());
        let exported_bytes = range.end - range.start;
        let progress = ui.progress();
        match self.to {
            ExportFormat::Raw => {
                builder::export_raw(&disk, range, output, !self.no_sparse, &progress)?;
            }
            ExportFormat::Qcow2 => builder::export_qcow2(&disk, output, &progress)?,
        }
        drop(progress);
        ui.show(&Report {
            output: out.to_owned(),
            format: self.to,
            exported_bytes,
            allocated_bytes: allocated(out)?,
        })
    }

    fn stream(&self, ui: &Ui, layers: &[PathBuf]) -> anyhow::Result<()> {
        let disk = Stack::new(open_stack(layers)?);
        let range = self.range.clone().unwrap_or(0..disk.len_bytes());
        let progress = ui.progress();
        let mut out = io::stdout().lock();
        builder::export_stream(&disk, range, &mut out, &progress)?;
        Ok(())
    }
}

fn allocated(path: &Path) -> anyhow::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let file = path
        .metadata()
        .with_context(|| format!("cannot look at {}", path.display()))?;
    // Always in units of 512 bytes.
    Ok(file.blocks() * 512)
}

fn parse_range(text: &str) -> Result<Range<u64>, String> {
    let none = || format!("{text:?} is no range; expected A-B or A+LEN, each with K, M, G or T");
    let range = match (text.split_once('-'), text.split_once('+')) {
        (Some((start, end)), None) => parse_size(start)?..parse_size(end)?,
        (None, Some((start, len))) => {
            let start = parse_size(start)?;
            let end = start.checked_add(parse_size(len)?);
            start..end.ok_or_else(none)?
        }
        _ => return Err(none()),
    };
    match range.start <= range.end {
        true => Ok(range),
        false => Err(format!("the range {text} ends before it starts")),
    }
}
