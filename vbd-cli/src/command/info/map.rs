//! The disk as a strip of characters.

use std::fmt::{Formatter, Result};
use std::io::{self, IsTerminal};

use builder::{Cell, DiskMap, Origin, Share, Survey};
use clap::ColorChoice;
use image::Shown;
use terminal_size::Width;

use super::palette::Palette;
use crate::size::{Percent, Size};

/// Most lines of cells.
const ROWS: usize = 16;
/// Columns where nobody tells how many there are.
const DEFAULT_WIDTH: usize = 80;
/// What a line takes beside its cells: the place where it begins.
const LABEL_WIDTH: usize = 10;
/// Cells of a line come in multiples of this, so that lines begin at round numbers.
const COLUMN_STEP: usize = 16;
/// More columns than any terminal has.
const MAX_COLUMNS: usize = 1024;

const HOLE: char = '.';
const ZEROED: char = '-';

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    colours: bool,
    columns: usize,
}

impl Style {
    /// As wide as the terminal, coloured if that is wanted.
    pub(super) fn for_output(choice: ColorChoice) -> Self {
        let stdout = io::stdout();
        let colours = match choice {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => {
                let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                stdout.is_terminal() && !unwanted
            }
        };
        let width = terminal_size::terminal_size_of(&stdout)
            .map_or(DEFAULT_WIDTH, |(Width(width), _)| usize::from(width));
        let columns = width.saturating_sub(LABEL_WIDTH + 1) / COLUMN_STEP * COLUMN_STEP;
        Self {
            colours,
            columns: columns.clamp(COLUMN_STEP, MAX_COLUMNS),
        }
    }

    /// Cells that fit.
    pub(super) fn max_cells(&self) -> u64 {
        (self.columns * ROWS) as u64
    }
}

/// The strip and what its characters mean.
pub(super) fn draw(f: &mut Formatter<'_>, map: &DiskMap, survey: &Survey, style: &Style) -> Result {
    let palette = Palette::new(survey.layers.len());
    for (row, cells) in (0_u64..).zip(map.cells.chunks(style.columns)) {
        let start = row * style.columns as u64 * map.cell_len_bytes();
        write!(f, "{:>LABEL_WIDTH$} ", Size(start))?;
        self::row(f, cells, palette, style)?;
        writeln!(f)?;
    }
    writeln!(f)?;
    legend(f, survey, palette, style)?;
    writeln!(
        f,
        "a cell is {} and shows the layer that has most data in it",
        Size(map.cell_len_bytes())
    )
}

fn row(f: &mut Formatter<'_>, cells: &[Cell], palette: Palette, style: &Style) -> Result {
    let mut rest = cells;
    while let Some(first) = rest.first() {
        // One change of colour for a run of cells.
        let same = rest.iter().take_while(|cell| cell.origin == first.origin);
        let (run, after) = rest.split_at(same.count());
        let symbol = match first.origin {
            Origin::Hole => HOLE,
            Origin::Zeroed => ZEROED,
            Origin::Data(layer) => palette.symbol(usize::from(layer)),
        };
        let text: String = std::iter::repeat_n(symbol, run.len()).collect();
        match first.origin {
            Origin::Data(layer) => coloured(f, &text, usize::from(layer), palette, style)?,
            Origin::Hole | Origin::Zeroed if style.colours => {
                write!(f, "\x1b[38;5;244m{text}\x1b[0m")?;
            }
            Origin::Hole | Origin::Zeroed => f.write_str(&text)?,
        }
        rest = after;
    }
    Ok(())
}

/// Black or white on the colour of the layer, whichever can be read.
fn coloured(
    f: &mut Formatter<'_>,
    text: &str,
    layer: usize,
    palette: Palette,
    style: &Style,
) -> Result {
    if !style.colours {
        return f.write_str(text);
    }
    let (red, green, blue) = palette.colour(layer);
    let light = u32::from(red) * 299 + u32::from(green) * 587 + u32::from(blue) * 114;
    let ink = if light > 128_000 { 16 } else { 231 };
    write!(
        f,
        "\x1b[38;5;{ink};48;5;{}m{text}\x1b[0m",
        palette.ansi(layer)
    )
}

fn legend(f: &mut Formatter<'_>, survey: &Survey, palette: Palette, style: &Style) -> Result {
    let Some(disk) = &survey.disk else {
        return Ok(());
    };
    let numbers = |f: &mut Formatter<'_>, bytes: u64| {
        let percent = Percent {
            part: bytes,
            whole: disk.len_bytes,
        };
        write!(f, " {:>10} {percent:>8}  ", Size(bytes))
    };
    for group in survey.layers.chunks(palette.layers_per_symbol()) {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            continue;
        };
        let symbol = palette.symbol(first.ordinal).to_string();
        coloured(f, &symbol, first.ordinal, palette, style)?;
        let shares = group.iter().filter_map(|layer| layer.share.as_ref());
        numbers(f, shares.map(data_bytes).sum())?;
        match first.ordinal == last.ordinal {
            true => writeln!(f, "layer {}: {}", first.ordinal, Shown(&first.path))?,
            false => writeln!(f, "layers {} to {}", first.ordinal, last.ordinal)?,
        }
    }
    for (symbol, bytes, what) in [
        (ZEROED, disk.zeroed_bytes, "zeroed"),
        (HOLE, disk.hole_bytes, "holes"),
    ] {
        write!(f, "{symbol}")?;
        numbers(f, bytes)?;
        writeln!(f, "{what}")?;
    }
    Ok(())
}

fn data_bytes(share: &Share) -> u64 {
    share.data_bytes
}
