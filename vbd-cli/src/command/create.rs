//! `vbd create`: a disk as a base layer.

use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use builder::{Content, Empty, FileSystem, FileSystemOptions, Scratch};
use clap::{Args, ValueEnum};

use crate::args::parse_uuid;
use crate::disks::{
    LayerArgs, LayerReport, SourceArgs, directory, parse_granularity, remark_on_size,
};
use crate::ui::{Stop, Ui};

/// Make a base layer of a disk image, of a directory, or of nothing.
///
/// What is zero takes no room in the layer. Holes of a sparse image are not even read.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd create base.lsmt --from disk.img
  vbd create base.zfile --from disk.qcow2 --algorithm lz4
  vbd create base.lsmt --from rootfs/ --fs ext4 --size 4G
  zstdcat disk.img.zst | vbd create base.lsmt --from -
  vbd create empty.lsmt --size 10G

Formats: raw images, block devices and directories are read here, qcow2, too. For VMDK and VHDX, qemu-img writes a raw
copy beside the output first. A raw image that begins like another format is not taken without --format: what a guest
wrote to its disk must not decide how it is read. Images that refer to other files need --allow-backing.

Directories: the file system is made by mkfs.ext4 or mkfs.erofs, for which nobody has to be root; owners are those of the
files. The same directory gives the same bytes. SOURCE_DATE_EPOCH sets the time at which it was made.")]
pub struct Create {
    /// The layer.
    out: PathBuf,

    /// A disk image, a block device, a directory, or - for a raw image on standard input; without, the disk is empty.
    #[arg(long, value_name = "IMAGE|DIRECTORY")]
    from: Option<PathBuf>,

    #[command(flatten)]
    source: SourceArgs,

    /// File system for a directory.
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = FileSystemArg::Ext4)]
    fs: FileSystemArg,

    /// UUID of the file system for a directory.
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    fs_uuid: Option<lsmt::Uuid>,

    /// Zeroes are looked for in units of this size, a power of two.
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = parse_granularity)]
    granularity: u32,

    #[command(flatten)]
    layer: LayerArgs,
}

/// A file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FileSystemArg {
    /// Can be written to in a guest; needs mkfs.ext4.
    Ext4,
    /// Read-only, small; needs mkfs.erofs.
    Erofs,
}

/// UUID of file systems that nobody has named.
const FILE_SYSTEM_UUID: &str = "76626400-0000-4000-8000-000000000000";
/// When file systems were made about which SOURCE_DATE_EPOCH says nothing. Time 0 means "unknown" to mkfs.
const MADE_AT: u64 = 1;

impl Create {
    pub(crate) fn run(&self, ui: &Ui) -> Result<(), Stop> {
        match (&self.from, self.source.size) {
            (None, None) => Err(Stop::usage(anyhow!(
                "nothing to make a layer of: give --from, or --size for an empty disk"
            ))),
            (None, Some(size)) if size == 0 || !size.is_multiple_of(lsmt::SECTOR_LEN_BYTES) => {
                let error = anyhow!("--size {size} is not a multiple of 512 above 0");
                Err(Stop::usage(error))
            }
            _ => Ok(self.make(ui)?),
        }
    }

    fn make(&self, ui: &Ui) -> anyhow::Result<()> {
        let inputs: Vec<PathBuf> = self.from.iter().cloned().collect();
        let output = self.layer.output(&self.out, &inputs)?;
        let content = self.content()?;
        let options = self.layer.options(content.len_bytes())?;
        remark_on_size(ui, content.len_bytes());
        let progress = ui.progress();
        let written = builder::create(&*content, self.granularity, output, &options, &progress)?;
        drop(progress);
        ui.show(&LayerReport::new(&self.out, &options, &written))
    }

    fn content(&self) -> anyhow::Result<Box<dyn Content>> {
        let Some(from) = &self.from else {
            let size = self.source.size.unwrap_or_default();
            return Ok(Box::new(Empty::new(size)));
        };
        match from.is_dir() {
            true => self.file_system(from),
            false => {
                let options = self.source.options(&self.out);
                Ok(builder::open_content(from, &options)?)
            }
        }
    }

    fn file_system(&self, from: &Path) -> anyhow::Result<Box<dyn Content>> {
        let beside = directory(&self.out);
        let is_inside = |(out, dir): (PathBuf, PathBuf)| out.starts_with(dir);
        if beside
            .canonicalize()
            .and_then(|out| Ok((out, from.canonicalize()?)))
            .is_ok_and(is_inside)
        {
            bail!(
                "{} lies in {}, which it is made from; write somewhere else",
                self.out.display(),
                from.display()
            );
        }
        let uuid = self.fs_uuid.map(|uuid| uuid.to_string());
        let options = FileSystemOptions {
            kind: match self.fs {
                FileSystemArg::Ext4 => FileSystem::Ext4,
                FileSystemArg::Erofs => FileSystem::Erofs,
            },
            size_bytes: self.source.size,
            uuid: uuid.unwrap_or_else(|| FILE_SYSTEM_UUID.to_owned()),
            made_at: made_at()?,
        };
        let scratch = Scratch::new(&beside)?;
        let content = builder::make_file_system(from, &options, &scratch)?;
        Ok(Box::new(content))
    }
}

fn made_at() -> anyhow::Result<u64> {
    match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => {
            let seconds: u64 = text
                .parse()
                .with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not seconds"))?;
            Ok(seconds.max(MADE_AT))
        }
        Err(_) => Ok(MADE_AT),
    }
}
