//! `vbd config`: image configurations, as containerd's overlaybd snapshotter keeps them.

use std::fmt;
use std::io::Write;
use std::iter;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use blob::{FileBlob, ReadAt};
use builder::{BlobDigest, HashError, Hashed, Output};
use clap::{Args, Subcommand};
use image::{ConfigLayer, Image, ImageConfig, Shown, StatedBlob};
use serde::Serialize;

use crate::args::ForceArgs;
use crate::size::{Count, Size};
use crate::ui::{Stop, Ui};

/// Write and check image configurations (config.v1.json).
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd config write --digest config.v1.json base.lsmt app.zfile
  vbd config check config.v1.json")]
pub struct Config {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Write a configuration for a stack of local layers.
    Write(WriteConfig),
    /// Open everything that a configuration names, and compare it with what the configuration states.
    Check(CheckConfig),
}

/// Write a configuration for a stack of local layers.
///
/// The layers must open and make a disk together. Paths are written as absolute ones, because that is what every reader
/// of such files understands.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd config write config.v1.json base.lsmt app.zfile top.tar
  vbd config write --digest config.v1.json base.lsmt app.zfile
  vbd config write --relative - base.lsmt | jq .")]
struct WriteConfig {
    /// Where to write it; - is standard output.
    #[arg(value_name = "OUT")]
    output: PathBuf,

    /// Layers, from the lowest to the highest.
    #[arg(value_name = "LAYER", required = true)]
    layers: Vec<PathBuf>,

    /// Write paths as they count from the directory of the configuration. Not every reader takes them.
    #[arg(long)]
    relative: bool,

    /// State the digest and the size of each blob, which takes reading all of them.
    #[arg(long)]
    digest: bool,

    #[command(flatten)]
    force: ForceArgs,
}

/// Open everything that a configuration names, and compare it with what the configuration states.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd config check config.v1.json
  vbd config check --digest config.v1.json

Exit status is 1 when a layer is missing, cannot be opened, or is not what the configuration states.")]
struct CheckConfig {
    /// The configuration.
    #[arg(value_name = "FILE")]
    config: PathBuf,

    /// Compare the digests, too, which takes reading all of the blobs.
    #[arg(long)]
    digest: bool,
}

impl Config {
    pub(crate) fn run(self, ui: &Ui) -> Result<(), Stop> {
        match self.command {
            ConfigCommand::Write(command) => Ok(command.run(ui)?),
            ConfigCommand::Check(command) => command.run(ui),
        }
    }
}

/// What has been written.
#[derive(Serialize)]
struct Written {
    #[serde(serialize_with = "lossy")]
    output: PathBuf,
    layers: usize,
    disk_len_bytes: u64,
}

impl WriteConfig {
    fn run(&self, ui: &Ui) -> anyhow::Result<()> {
        let image = Image::open(&self.layers)?;
        let is_stdout = self.output == Path::new("-");
        let base = match is_stdout {
            true => std::env::current_dir().context("cannot find the current directory")?,
            false => absolute(self.output.parent().unwrap_or(Path::new("")))?,
        };
        let hashed = match self.digest {
            true => builder::hash_files(&self.layers, &ui.progress()),
            false => Vec::new(),
        };
        let stated = hashed
            .into_iter()
            .map(Some)
            .chain(iter::repeat_with(|| None));
        let layers = self.layers.iter().zip(stated);
        let layers: Vec<_> = layers
            .map(|(path, hashed)| self.layer(path, &base, hashed))
            .collect::<Result<_, _>>()?;
        let text = image::config_text(&layers);
        if is_stdout {
            return std::io::stdout()
                .write_all(text.as_bytes())
                .context("cannot write to standard output");
        }
        let output = Output::create(&self.output, self.force.force, &self.layers)?;
        output
            .file()
            .write_all(text.as_bytes())
            .with_context(|| format!("cannot write {}", Shown(&self.output)))?;
        output.finish()?;
        ui.show(&Written {
            output: self.output.clone(),
            layers: layers.len(),
            disk_len_bytes: image.len_bytes(),
        })
    }

    fn layer(
        &self,
        path: &Path,
        base: &Path,
        hashed: Option<Result<Hashed, HashError>>,
    ) -> anyhow::Result<ConfigLayer> {
        let whole = absolute(path)?;
        let written = match self.relative {
            true => relative(&whole, base),
            false => whole,
        };
        let Some(file) = written.to_str() else {
            bail!(
                "{}: JSON has no way to say a path that is not UTF-8",
                Shown(path)
            );
        };
        let failed = || format!("cannot compute the digest of {}", Shown(path));
        let stated = match hashed.transpose().with_context(failed)? {
            Some(hashed) => StatedBlob {
                digest: Some(hashed.digest.to_string()),
                size_bytes: Some(hashed.len_bytes),
            },
            None => StatedBlob::default(),
        };
        Ok(ConfigLayer {
            file: file.to_owned(),
            stated,
        })
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {}, a disk of {}",
            Shown(&self.output),
            Count(self.layers as u64, "layer"),
            Size(self.disk_len_bytes)
        )
    }
}

/// The whole path, without symbolic links in its directories, so that `..` can be taken for what it says.
fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    let path = match path == Path::new("") {
        true => Path::new("."),
        false => path,
    };
    let failed = || format!("cannot find {}", Shown(path));
    // The name of the layer itself stays as it is: a link may be what is meant to be followed later.
    match (path.parent(), path.file_name()) {
        (Some(dir), Some(name)) => {
            let dir = if dir == Path::new("") {
                Path::new(".")
            } else {
                dir
            };
            Ok(dir.canonicalize().with_context(failed)?.join(name))
        }
        _ => path.canonicalize().with_context(failed),
    }
}

/// The way to `path` from the directory `base`; both are absolute.
fn relative(path: &Path, base: &Path) -> PathBuf {
    let shared = path
        .components()
        .zip(base.components())
        .take_while(|(a, b)| a == b)
        .count();
    let up = base.components().skip(shared).map(|_| Component::ParentDir);
    up.chain(path.components().skip(shared)).collect()
}

/// What a configuration comes to.
#[derive(Serialize)]
struct Checked {
    layers: Vec<CheckedLayer>,
    /// Keys without effect here, and what else is odd.
    notes: Vec<String>,
    disk_len_bytes: Option<u64>,
    /// Why the layers make no disk.
    error: Option<String>,
}

#[derive(Serialize)]
struct CheckedLayer {
    ordinal: usize,
    #[serde(serialize_with = "lossy")]
    path: PathBuf,
    size_bytes: Option<u64>,
    /// Computed, if that was asked for.
    digest: Option<String>,
    stated_size_bytes: Option<u64>,
    stated_digest: Option<String>,
    /// What is not as stated.
    faults: Vec<String>,
}

impl CheckConfig {
    fn run(&self, ui: &Ui) -> Result<(), Stop> {
        let config = ImageConfig::load(&self.config)
            .with_context(|| format!("image configuration {}", Shown(&self.config)))?;
        let hashed = match self.digest {
            true => builder::hash_files(&config.layers, &ui.progress()),
            false => Vec::new(),
        };
        let hashed = hashed
            .into_iter()
            .map(Some)
            .chain(iter::repeat_with(|| None));
        let layers = config.layers.iter().zip(&config.stated).zip(hashed);
        let layers: Vec<_> = layers
            .enumerate()
            .map(|(ordinal, ((path, stated), hashed))| checked(ordinal, path, stated, hashed))
            .collect();
        let mut notes = config.notes;
        let (disk_len_bytes, error) = match Image::open(&config.layers) {
            Ok(image) => {
                notes.extend(image.warnings());
                (Some(image.len_bytes()), None)
            }
            Err(error) => (None, Some(format!("{:#}", anyhow::Error::new(error)))),
        };
        let faults: usize = layers.iter().map(|layer| layer.faults.len()).sum();
        let is_good = faults == 0 && error.is_none();
        ui.show(&Checked {
            layers,
            notes,
            disk_len_bytes,
            error,
        })?;
        match is_good {
            true => Ok(()),
            false => Err(anyhow!("{} is not as it should be", Shown(&self.config)).into()),
        }
    }
}

fn checked(
    ordinal: usize,
    path: &Path,
    stated: &StatedBlob,
    hashed: Option<Result<Hashed, HashError>>,
) -> CheckedLayer {
    let mut faults = Vec::new();
    // Why it cannot be opened is said with the disk; without a length, there is nothing to compare.
    let size_bytes = FileBlob::open(path).ok().map(|blob| blob.len_bytes());
    if let (Some(found), Some(stated)) = (size_bytes, stated.size_bytes)
        && found != stated
    {
        faults.push(format!(
            "has {found} bytes, the configuration states {stated}"
        ));
    }
    let parsed = stated.digest.as_deref().map(str::parse::<BlobDigest>);
    if let Some(Err(error)) = &parsed {
        faults.push(format!("the stated digest is none: {error}"));
    }
    let digest = match hashed.transpose() {
        Ok(hashed) => hashed.map(|hashed| hashed.digest),
        Err(error) => {
            let error = anyhow::Error::new(error);
            faults.push(format!("cannot compute its digest: {error:#}"));
            None
        }
    };
    if let (Some(digest), Some(Ok(stated))) = (digest, parsed)
        && digest != stated
    {
        faults.push(format!(
            "has the digest {digest}, the configuration states {stated}"
        ));
    }
    CheckedLayer {
        ordinal,
        path: path.to_owned(),
        size_bytes,
        digest: digest.map(|digest| digest.to_string()),
        stated_size_bytes: stated.size_bytes,
        stated_digest: stated.digest.clone(),
        faults,
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for layer in &self.layers {
            write!(f, "layer {}: {}", layer.ordinal, Shown(&layer.path))?;
            match layer.size_bytes {
                Some(bytes) => write!(f, ", {}", Size(bytes))?,
                None => write!(f, ", cannot be opened")?,
            }
            let stated = match (&layer.stated_digest, layer.stated_size_bytes) {
                (None, None) => ", nothing stated about it",
                (Some(_), _) if layer.digest.is_some() => ", digest compared",
                (Some(_), _) => ", digest not compared (--digest does)",
                (None, Some(_)) => "",
            };
            writeln!(f, "{stated}")?;
            for fault in &layer.faults {
                writeln!(f, "  WRONG: {fault}")?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        match (self.disk_len_bytes, &self.error) {
            (Some(bytes), _) => writeln!(f, "a disk of {} ({bytes} bytes)", Size(bytes)),
            (None, Some(error)) => writeln!(f, "no disk: {error}"),
            (None, None) => Ok(()),
        }
    }
}

fn lossy<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_leads_up_and_down() {
        for (path, base, way) in [
            ("/a/b/c.lsmt", "/a/b", "c.lsmt"),
            ("/a/b/c.lsmt", "/a", "b/c.lsmt"),
            ("/a/b/c.lsmt", "/a/d/e", "../../b/c.lsmt"),
            ("/c.lsmt", "/", "c.lsmt"),
            ("/x/c.lsmt", "/a", "../x/c.lsmt"),
        ] {
            assert_eq!(relative(Path::new(path), Path::new(base)), Path::new(way));
        }
    }
}
