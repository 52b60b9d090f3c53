//! `vbd info`: what layers are, and what is seen of each in the disk they make.

mod map;
mod palette;
mod svg;
mod text;

use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use builder::{DiskMap, Output, Survey};
use clap::{Args, ColorChoice};
use serde::Serialize;

use crate::args::{ForceArgs, StackArgs};
use crate::ui::{Stop, Ui};

/// Look at layers, and at the disk they make.
///
/// Says how each blob is packed, what the layer says about itself, what its index holds, and how much of it the layers
/// above leave to be seen. Reads metadata and indexes, but no data: `vbd verify` does that.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  vbd info base.lsmt app.zfile top.tar
  vbd info --map --config config.v1.json
  vbd info --svg disk.svg base.lsmt app.zfile
  vbd --json info base.lsmt | jq '.layers[0].zfile.algorithm'

Exit status is 1 when a layer cannot be opened, or the layers make no disk. What can be shown is shown all the same.")]
pub struct Info {
    #[command(flatten)]
    stack: StackArgs,

    /// Draw the disk as a strip: which layer has which part.
    #[arg(long)]
    map: bool,

    /// When to colour the map: by default on a terminal, unless NO_COLOR is set.
    #[arg(long, value_name = "WHEN", default_value = "auto", requires = "map")]
    color: ColorChoice,

    /// Draw the disk into an SVG file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    #[command(flatten)]
    force: ForceArgs,
}

/// What is shown.
#[derive(Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    survey: &'a Survey,
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<DiskMap>,
    #[serde(skip)]
    style: map::Style,
}

impl Info {
    pub(crate) fn run(&self, ui: &Ui) -> Result<(), Stop> {
        let paths = self.stack.paths()?;
        let survey = Survey::of(&paths);
        let style = map::Style::for_output(self.color);
        let map = match (&survey.image, self.map) {
            (Some(image), true) => Some(
                DiskMap::new(image, style.max_cells()).context("cannot draw a map that large")?,
            ),
            _ => None,
        };
        ui.show(&Report {
            survey: &survey,
            map,
            style,
        })?;
        if !survey.is_sound() {
            return Err(not_sound(&survey).into());
        }
        if let Some(path) = &self.svg {
            self.draw(path, &survey, &paths)?;
        }
        Ok(())
    }

    fn draw(&self, path: &Path, survey: &Survey, paths: &[PathBuf]) -> anyhow::Result<()> {
        let mut inputs = paths.to_vec();
        inputs.extend(self.stack.config.clone());
        let output = Output::create(path, self.force.force, &inputs)?;
        let drawing = svg::draw(survey)?;
        output
            .file()
            .write_all(drawing.as_bytes())
            .with_context(|| format!("cannot write {}", image::Shown(path)))?;
        Ok(output.finish()?)
    }
}

/// The result has said why; this says that it is so.
fn not_sound(survey: &Survey) -> anyhow::Error {
    let bad = survey.layers.iter().filter(|layer| layer.error.is_some());
    match (bad.count(), &survey.stack_error) {
        (0, Some(error)) => anyhow!("the layers make no disk: {error}"),
        (0, None) => anyhow!("the layers make no disk"),
        (bad, _) => anyhow!("{bad} of {} layers cannot be opened", survey.layers.len()),
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::survey(f, self.survey)?;
        match &self.map {
            Some(map) => {
                writeln!(f)?;
                map::draw(f, map, self.survey, &self.style)
            }
            None => Ok(()),
        }
    }
}
