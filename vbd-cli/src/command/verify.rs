//! `vbd verify`: is everything there, and as it was written?

use std::fmt;

use anyhow::anyhow;
use builder::{BlobDigest, Fault, Reach, Verdict, Verification, VerifiedLayer, VerifyOptions};
use clap::Args;
use image::Shown;
use serde::Serialize;

use crate::args::StackArgs;
use crate::size::{Count, Size};
use crate::ui::{Stop, Ui};

/// Exit status when nobody knows.
const CANNOT_READ: u8 = 2;
/// Faults of a layer that people are shown; JSON has more.
const SHOWN_FAULTS: usize = 20;
/// Ranges of sectors that people are shown for a fault.
const SHOWN_RANGES: usize = 8;

/// Check layers to their last byte.
///
/// Checks every header, trailer, jump table and index, the checksum of every block and that it decodes to its exact
/// length, and that every byte of a layer that is stored as it is can be read. Goes on behind damage to find all of it,
/// and says which sectors of the disk it touches, and which of those no higher layer hides.
///
/// A layer without checksums can only be proven by its digest.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd verify base.lsmt app.zfile top.tar
  vbd verify --config config.v1.json
  vbd verify app.tar --digest sha256:5b4423dc553321464e6703c0597251195133a46bc244157fa7f241db607a3050

Exit status:
  0  all good
  1  something is damaged
  2  something could not be read, and nothing that could be is damaged")]
pub struct Verify {
    #[command(flatten)]
    stack: StackArgs,

    /// The digest that a layer's blob should have, once for each layer, lowest first.
    #[arg(long = "digest", value_name = "sha256:HEX")]
    digests: Vec<BlobDigest>,

    /// Threads that check; by default one for each processor.
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    threads: usize,
}

/// What is shown.
#[derive(Serialize)]
#[serde(transparent)]
struct Report(Verification);

impl Verify {
    pub(crate) fn run(self, ui: &Ui) -> Result<(), Stop> {
        // Without a list of layers, nothing has been found out about them.
        let paths = self.stack.paths().map_err(|error| Stop {
            status: CANNOT_READ,
            error: Some(error),
        })?;
        if !self.digests.is_empty() && self.digests.len() != paths.len() {
            return Err(Stop::usage(anyhow!(
                "{} for {}: give one --digest for each layer, lowest first",
                Count(self.digests.len() as u64, "digest"),
                Count(paths.len() as u64, "layer")
            )));
        }
        let options = VerifyOptions {
            threads: self.threads,
            digests: self.digests,
        };
        let verification = builder::verify(&paths, &options, &ui.progress());
        let status = match verification.verdict {
            Verdict::Good => 0,
            Verdict::Damaged => 1,
            Verdict::Unreadable => CANNOT_READ,
        };
        ui.show(&Report(verification))?;
        match status {
            0 => Ok(()),
            status => Err(Stop {
                status,
                error: None,
            }),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for verified in &self.0.layers {
            layer(f, verified)?;
        }
        match (&self.0.stack_error, self.0.layers.len()) {
            (None, _) => Ok(()),
            (Some(error), 1) => writeln!(f, "alone it makes no disk: {error}"),
            (Some(error), _) => writeln!(f, "the layers make no disk: {error}"),
        }
    }
}

fn layer(f: &mut fmt::Formatter<'_>, layer: &VerifiedLayer) -> fmt::Result {
    let verdict = match (layer.verdict, layer.is_guarded || layer.digest.is_some()) {
        (Verdict::Good, true) => "good",
        (Verdict::Good, false) => "readable, but nothing guards its data",
        (Verdict::Unreadable, _) => "UNREADABLE",
        (Verdict::Damaged, _) => "DAMAGED",
    };
    writeln!(
        f,
        "layer {} ({}): {verdict}, {} checked",
        layer.ordinal,
        Shown(&layer.path),
        Size(layer.checked_bytes)
    )?;
    for fault in layer.faults.iter().take(SHOWN_FAULTS) {
        self::fault(f, fault)?;
    }
    if layer.faults.len() > SHOWN_FAULTS {
        writeln!(
            f,
            "  and more: {} blocks and pages in all; --json lists the first {}",
            layer.fault_count,
            builder::MAX_FAULTS
        )?;
    }
    for remark in &layer.remarks {
        writeln!(f, "  remark: {remark}")?;
    }
    Ok(())
}

fn fault(f: &mut fmt::Formatter<'_>, fault: &Fault) -> fmt::Result {
    f.write_str("  ")?;
    if let Some(blocks) = &fault.blocks {
        match blocks.end - blocks.start {
            1 => write!(f, "block {}, ", blocks.start)?,
            _ => write!(f, "blocks {} to {}, ", blocks.start, blocks.end - 1)?,
        }
    }
    if let Some(stored) = &fault.stored {
        write!(f, "file bytes {}..{}: ", stored.start, stored.end)?;
    }
    writeln!(f, "{}", fault.cause)?;
    match (&fault.reach, &fault.seen) {
        (Some(reach), _) if reach.is_empty() => {
            writeln!(f, "    no sector of the disk lies there")
        }
        (Some(reach), None) => writeln!(f, "    disk sectors {}", Ranges(reach)),
        (Some(_), Some(seen)) if !seen.is_empty() => {
            writeln!(f, "    disk sectors {}", Ranges(seen))
        }
        (Some(reach), Some(_)) => writeln!(
            f,
            "    disk sectors {}, all hidden by higher layers",
            Ranges(reach)
        ),
        (None, _) if fault.content.is_some() => {
            writeln!(f, "    which sectors lie there is lost with the index")
        }
        (None, _) => Ok(()),
    }
}

/// Sectors, in short.
struct Ranges<'a>(&'a Reach);

impl fmt::Display for Ranges<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reach = self.0;
        for (position, range) in reach.ranges.iter().take(SHOWN_RANGES).enumerate() {
            let comma = if position == 0 { "" } else { ", " };
            write!(f, "{comma}{}..{}", range.start, range.end)?;
        }
        if reach.range_count > SHOWN_RANGES {
            write!(f, " and {} more", reach.range_count - SHOWN_RANGES)?;
        }
        let partial = if reach.is_partial { "at least " } else { "" };
        write!(f, " ({partial}{})", Count(reach.sectors, "sector"))
    }
}
