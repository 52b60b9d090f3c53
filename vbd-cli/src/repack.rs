//! From one packing to another: what `compress` and `decompress` have in common.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use blob::ReadAt;
use builder::{
    CopyError, Expect, Output, Packed, Packer, Packing, Progress, copy_layer, copy_stream,
};
use image::{Shown, Source};
use serde::Serialize;

use crate::size::{Percent, Size};
use crate::ui::Ui;

/// Says standard input or standard output.
pub(crate) const STREAM: &str = "-";

/// Where bytes come from.
///
/// Standard input is taken as it comes: what is packed has its metadata at its end and is read by position.
pub(crate) enum Input {
    /// A file or block device, what is around it taken off.
    Blob {
        path: PathBuf,
        source: Arc<Source>,
        /// Length of the whole.
        len_bytes: u64,
    },
    /// Standard input.
    Stream(Expect),
}

/// How a ZFile is made.
#[derive(Clone, Copy)]
pub(crate) struct Form {
    algorithm: zfile::Algorithm,
    block_size_bytes: u32,
    verify: bool,
}

/// What has been done.
#[derive(Serialize)]
pub(crate) struct Report {
    input: String,
    output: String,
    /// Bytes that were read.
    input_bytes: u64,
    /// Bytes of the content, without any packing.
    content_bytes: u64,
    /// Bytes that were written.
    output_bytes: u64,
    /// Bytes of content for each byte that is stored in the compressed one of input and output.
    ratio: f64,
    /// The compression, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    zfile: Option<ZFileReport>,
    /// Whether the output is a tar file.
    tar: bool,
    #[serde(skip)]
    packed_bytes: u64,
}

#[derive(Serialize)]
struct ZFileReport {
    algorithm: &'static str,
    block_size_bytes: u32,
    blocks: u64,
    /// Whether each block has a checksum.
    verify: bool,
}

impl Input {
    /// The blob at `path`, or standard input. Unless it is to be `any`thing, it has to be a sound layer.
    pub(crate) fn layer(path: &Path, any: bool, ui: &Ui) -> anyhow::Result<Self> {
        if path == Path::new(STREAM) {
            return Ok(Self::Stream(match any {
                true => Expect::Anything,
                false => Expect::Layer,
            }));
        }
        let named = || Shown(path).to_string();
        let source = Source::open(path).with_context(named)?;
        if !any {
            let layer = source.layer().with_context(named)?;
            for warning in &layer.info().warnings {
                ui.remark(format_args!("{}: {warning}", Shown(path)));
            }
        }
        Self::blob(path, source, ui)
    }

    /// The file or block device at `path` as it is, whatever it is.
    pub(crate) fn raw(path: &Path, ui: &Ui) -> anyhow::Result<Self> {
        let file = blob::FileBlob::open(path).with_context(|| Shown(path).to_string())?;
        if file.len_bytes() == 0 {
            bail!("{} is empty", Shown(path));
        }
        let whole = blob::Window::whole(Box::new(file) as image::Bytes);
        Self::blob(path, Source::Plain(whole), ui)
    }

    fn blob(path: &Path, source: Source, ui: &Ui) -> anyhow::Result<Self> {
        if let Some(zfile) = source.zfile() {
            for warning in &zfile.info().warnings {
                ui.remark(format_args!("{}: {warning}", Shown(path)));
            }
            if !zfile.info().verify {
                ui.remark(format_args!(
                    "{} has no checksums: damage that decodes goes unnoticed",
                    Shown(path)
                ));
            }
        }
        // Opened once more only to ask for its length: what is read has its own.
        let len_bytes = blob::FileBlob::open(path)
            .with_context(|| Shown(path).to_string())?
            .len_bytes();
        Ok(Self::Blob {
            path: path.to_owned(),
            source: Arc::new(source),
            len_bytes,
        })
    }

    /// How the ZFile is made that this is in.
    pub(crate) fn form(&self) -> Option<Form> {
        match self {
            Self::Blob { source, .. } => source.zfile().map(|zfile| Form {
                algorithm: zfile.info().algorithm,
                block_size_bytes: zfile.info().block_size_bytes,
                verify: zfile.info().verify,
            }),
            Self::Stream(_) => None,
        }
    }

    /// For JSON: as it was typed.
    fn path(&self) -> &Path {
        match self {
            Self::Blob { path, .. } => path,
            Self::Stream(_) => Path::new(STREAM),
        }
    }

    /// Hands its content to `packer` and completes it.
    fn pack(&self, mut packer: Packer<'_>, job: &Job<'_>) -> anyhow::Result<Packed> {
        let Job { packing, ui, .. } = job;
        let progress = ui.progress();
        let copied = match self {
            Self::Blob { source, .. } => {
                progress.begin(job.verb, Some(source.len_bytes()));
                copy_layer(source, packing.threads, &progress, &mut packer)
            }
            Self::Stream(expect) => {
                progress.begin(job.verb, None);
                duplicate(io::stdin())
                    .map_err(|source| CopyError::Stream {
                        len_bytes: 0,
                        source,
                    })
                    .and_then(|mut input| copy_stream(&mut input, *expect, &progress, &mut packer))
            }
        };
        let output = || format!("cannot make {}", output_name(job.output));
        match copied {
            Ok(()) => packer.finish().with_context(output),
            Err(CopyError::Write(error)) => Err(error).with_context(output),
            Err(error) => Err(error).with_context(|| match self {
                Self::Blob { path, .. } => Shown(path).to_string(),
                Self::Stream(_) => "standard input".to_owned(),
            }),
        }
    }
}

/// What is to be done with an input.
pub(crate) struct Job<'a> {
    /// For people: what is going on.
    pub(crate) verb: &'static str,
    pub(crate) output: &'a Path,
    pub(crate) packing: &'a Packing,
    /// Whether a file that stands there goes.
    pub(crate) replace: bool,
    pub(crate) ui: &'a Ui,
}

impl Job<'_> {
    /// Stores `input` as the output says, and tells what came of it.
    pub(crate) fn run(&self, input: &Input) -> anyhow::Result<()> {
        if self.output == Path::new(STREAM) {
            let out = io::stdout();
            if out.is_terminal() {
                bail!("standard output is a terminal: send it somewhere else, or name a file");
            }
            let out = duplicate(out).context("cannot write to standard output")?;
            let packer = Packer::to_stream(out, self.packing)?;
            let packed = input.pack(packer, self)?;
            // Standard output has the bytes, so people are told where they are told everything else.
            self.ui.remark(self.report(input, packed));
            return Ok(());
        }
        let inputs = match input {
            Input::Blob { path, .. } => vec![path.clone()],
            Input::Stream(_) => Vec::new(),
        };
        let output = Output::create(self.output, self.replace, &inputs)?;
        let packer = Packer::new(output.file(), self.packing)
            .with_context(|| format!("cannot make {}", Shown(self.output)))?;
        let packed = input.pack(packer, self)?;
        output.finish()?;
        self.ui.show(&self.report(input, packed))
    }

    fn report(&self, input: &Input, packed: Packed) -> Report {
        let input_bytes = match input {
            Input::Blob { len_bytes, .. } => *len_bytes,
            Input::Stream(_) => packed.content_len_bytes,
        };
        let made = self.packing.zfile.as_ref().map(|options| Form {
            algorithm: options.algorithm,
            block_size_bytes: options.block_size_bytes,
            verify: options.verify,
        });
        let packed_bytes = match made {
            Some(_) => packed.stored_len_bytes,
            None => input_bytes,
        };
        Report {
            input: input.path().to_string_lossy().into_owned(),
            output: self.output.to_string_lossy().into_owned(),
            input_bytes,
            content_bytes: packed.content_len_bytes,
            output_bytes: packed.stored_len_bytes,
            ratio: ratio(packed.content_len_bytes, packed_bytes),
            zfile: made.or_else(|| input.form()).map(|form| ZFileReport {
                algorithm: match form.algorithm {
                    zfile::Algorithm::Lz4 => "lz4",
                    zfile::Algorithm::Zstd => "zstd",
                },
                block_size_bytes: form.block_size_bytes,
                blocks: packed
                    .content_len_bytes
                    .div_ceil(u64::from(form.block_size_bytes.max(1))),
                verify: form.verify,
            }),
            tar: self.packing.tar,
            packed_bytes,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = output_name(Path::new(&self.output));
        write!(f, "{made}: {}", Size(self.output_bytes))?;
        let Some(zfile) = &self.zfile else {
            return Ok(());
        };
        let stored = Percent {
            part: self.packed_bytes,
            whole: self.content_bytes,
        };
        let (blocks, block) = (zfile.blocks, Size(u64::from(zfile.block_size_bytes)));
        let name = zfile.algorithm;
        match self.packed_bytes == self.output_bytes {
            true => write!(
                f,
                " for {} ({stored}), {name}, {blocks} blocks of {block}",
                Size(self.content_bytes)
            ),
            false => write!(
                f,
                " from {} ({stored}), {name}, {blocks} blocks of {block}",
                Size(self.packed_bytes)
            ),
        }
    }
}

fn output_name(path: &Path) -> String {
    match path == Path::new(STREAM) {
        true => "standard output".to_owned(),
        false => Shown(path).to_string(),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a ratio for people needs no more digits than there are"
)]
fn ratio(content_bytes: u64, packed_bytes: u64) -> f64 {
    content_bytes as f64 / packed_bytes.max(1) as f64
}

/// Standard input or output without buffers in between.
fn duplicate(stream: impl AsFd) -> io::Result<File> {
    Ok(stream.as_fd().try_clone_to_owned()?.into())
}
