//! What several commands take.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, bail};
use builder::Packing;
use clap::{Args, ValueEnum};
use image::{Image, ImageConfig};

/// A stack of layers: given one by one, or by a configuration.
#[derive(Clone, Debug, Args)]
pub(crate) struct StackArgs {
    /// Layers, from the lowest to the highest.
    #[arg(
        value_name = "LAYER",
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    pub(crate) layers: Vec<PathBuf>,

    /// Take the layers from an image configuration (config.v1.json) as containerd's overlaybd snapshotter writes it.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl StackArgs {
    /// The paths of the layers, lowest first.
    ///
    /// # Errors
    ///
    /// When the configuration cannot be used.
    pub(crate) fn paths(&self) -> anyhow::Result<Vec<PathBuf>> {
        stack_paths(&self.layers, self.config.as_deref())
    }
}

/// The layers of a command: those given, or those of a configuration.
///
/// # Errors
///
/// When the configuration cannot be used.
pub(crate) fn stack_paths(
    layers: &[PathBuf],
    config: Option<&std::path::Path>,
) -> anyhow::Result<Vec<PathBuf>> {
    match config {
        None => Ok(layers.to_owned()),
        Some(path) => Ok(ImageConfig::load(path)
            .with_context(|| format!("image configuration {}", path.display()))?
            .layers),
    }
}

/// The disk that layers make.
///
/// # Errors
///
/// When a layer cannot be used; the error names it.
pub(crate) fn open_stack(paths: &[PathBuf]) -> anyhow::Result<Arc<Image>> {
    Ok(Arc::new(Image::open(paths)?))
}

/// How a layer is stored.
#[derive(Clone, Debug, Args)]
pub(crate) struct PackingArgs {
    /// How to compress.
    #[arg(long, value_enum, default_value_t = AlgorithmArg::None, value_name = "ALGORITHM")]
    pub(crate) algorithm: AlgorithmArg,

    #[command(flatten)]
    pub(crate) zfile: ZFileArgs,
}

/// How a ZFile is written.
#[derive(Clone, Debug, Args)]
pub(crate) struct ZFileArgs {
    /// How hard to compress: LZ4 1 to 12, zstd 1 to 22, by default 3. LZ4 has a fast level 1; 2 to 6 look at more and
    /// more places, from 7 on every block is made as short as they allow.
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub(crate) level: Option<i32>,

    /// Bytes that are compressed together: 4K, 8K, 16K, 32K or 64K. The kernel reader knows only 4K.
    #[arg(long, value_name = "SIZE", default_value = "4K", value_parser = parse_block_size)]
    pub(crate) block_size: u32,

    /// No checksum behind each block: damage shows only where it does not decode.
    #[arg(long)]
    pub(crate) no_verify: bool,

    /// Store it as a tar file with one member, as registries keep it.
    #[arg(long)]
    pub(crate) tar: bool,

    /// Threads that compress; by default one for each processor.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub(crate) threads: usize,
}

/// A choice of compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AlgorithmArg {
    /// Store the layer as it is.
    None,
    /// LZ4: every reader has it.
    Lz4,
    /// zstd: smaller, slower to read; the kernel reader lacks it.
    Zstd,
}

impl PackingArgs {
    /// The packing asked for.
    ///
    /// # Errors
    ///
    /// When options contradict each other.
    pub(crate) fn packing(&self) -> anyhow::Result<Packing> {
        let algorithm = match self.algorithm {
            AlgorithmArg::None => {
                if self.zfile.level.is_some() || self.zfile.no_verify {
                    bail!(
                        "--level and --no-verify are about compression: choose one with --algorithm"
                    );
                }
                return Ok(Packing {
                    zfile: None,
                    tar: self.zfile.tar,
                    threads: self.zfile.threads,
                });
            }
            AlgorithmArg::Lz4 => zfile::Algorithm::Lz4,
            AlgorithmArg::Zstd => zfile::Algorithm::Zstd,
        };
        self.zfile.packing(algorithm)
    }
}

impl ZFileArgs {
    /// The packing asked for.
    ///
    /// # Errors
    ///
    /// When there is no such level.
    pub(crate) fn packing(&self, algorithm: zfile::Algorithm) -> anyhow::Result<Packing> {
        let options = zfile::WriterOptions {
            algorithm,
            level: self.level,
            block_size_bytes: self.block_size,
            verify: !self.no_verify,
            ..zfile::WriterOptions::default()
        };
        zfile::BlockEncoder::new(&options)?;
        Ok(Packing {
            zfile: Some(options),
            tar: self.tar,
            threads: self.threads,
        })
    }
}

/// A choice of compression, where it has to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum CodecArg {
    /// LZ4: every reader has it.
    Lz4,
    /// zstd: smaller, slower to read; the kernel reader lacks it.
    Zstd,
}

impl From<CodecArg> for zfile::Algorithm {
    fn from(codec: CodecArg) -> Self {
        match codec {
            CodecArg::Lz4 => Self::Lz4,
            CodecArg::Zstd => Self::Zstd,
        }
    }
}

/// What a layer says about itself.
#[derive(Clone, Debug, Args)]
pub(crate) struct NameArgs {
    /// Name of the layer: a UUID, by default the nil one.
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    pub(crate) uuid: Option<lsmt::Uuid>,

    /// Name of the layer below; by default what that layer says.
    #[arg(long, value_name = "UUID", value_parser = parse_uuid)]
    pub(crate) parent: Option<lsmt::Uuid>,

    /// Free text in the layer, at most 255 bytes.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub(crate) tag: String,
}

/// Whether a file may be replaced.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct ForceArgs {
    /// Replace the output if it exists. It is replaced when the new one is complete.
    #[arg(long, short)]
    pub(crate) force: bool,
}

/// A UUID as 36 characters, kept in upper case as the reference writes it.
pub(crate) fn parse_uuid(text: &str) -> Result<lsmt::Uuid, String> {
    let is_dash = |at: usize| matches!(at, 8 | 13 | 18 | 23);
    let fits = |(at, byte): (usize, u8)| match is_dash(at) {
        true => byte == b'-',
        false => byte.is_ascii_hexdigit(),
    };
    let upper = text.to_ascii_uppercase();
    match <[u8; 36]>::try_from(upper.as_bytes()) {
        Ok(bytes) if bytes.into_iter().enumerate().all(fits) => Ok(lsmt::Uuid::from_text(bytes)),
        _ => Err("expected 8-4-4-4-12 hexadecimal digits".to_owned()),
    }
}

/// A length of the content of blocks, in bytes.
fn parse_block_size(text: &str) -> Result<u32, String> {
    match parse_size(text)?.try_into() {
        Ok(size @ (4096 | 8192 | 16_384 | 32_768 | 65_536)) => Ok(size),
        _ => Err("expected 4K, 8K, 16K, 32K or 64K".to_owned()),
    }
}

/// A number of bytes, with K, M, G or T for powers of 1024.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, shift) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 10),
        Some((at, 'm' | 'M')) => (&text[..at], 20),
        Some((at, 'g' | 'G')) => (&text[..at], 30),
        Some((at, 't' | 'T')) => (&text[..at], 40),
        _ => (text, 0),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| {
            format!("{text:?} is no size; expected bytes, or a number with K, M, G or T")
        })
}
