//! The disk as a drawing that needs nothing else: no scripts, no fonts, no other files.

use std::fmt::{self, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use builder::{Cell, DiskMap, DiskSurvey, Origin, Survey, SurveyedLayer};

use super::palette::Palette;
use crate::size::{Count, Percent, Size};

const COLUMNS: usize = 128;
const ROWS: usize = 32;

// Places and lengths in pixels.
const WIDTH: usize = 960;
const MARGIN: usize = 28;
const STRIP_LEFT: usize = 100;
const STRIP_TOP: usize = 96;
/// Half pixels, so that the strip fills its width.
const CELL_WIDTH_HALVES: usize = 13;
const CELL_HEIGHT: usize = 12;
const ROW_STEP: usize = 14;
const LEGEND_STEP: usize = 24;
const BAR_LEFT: usize = 640;
const BAR_WIDTH: usize = 140;
/// Characters of a path that fit before the bars.
const NAME_LEN: usize = 62;

const STYLE: &str = "\
text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;font-size:13px;fill:#24292f}\
.title{font-size:22px;font-weight:600}\
.quiet{fill:#656d76}\
.place{font-size:11px;fill:#656d76;text-anchor:end}\
.number{text-anchor:end;font-variant-numeric:tabular-nums}\
.paper{fill:#fff}.hole{fill:#eaeef2}.rail{fill:#eaeef2}.ink{stroke:#8c959f}\
@media(prefers-color-scheme:dark){\
text{fill:#e6edf3}.quiet,.place{fill:#8d96a0}\
.paper{fill:#0d1117}.hole{fill:#21262d}.rail{fill:#21262d}.ink{stroke:#6e7681}}";

/// The whole file.
///
/// # Errors
///
/// When there is no disk to draw.
pub(super) fn draw(survey: &Survey) -> anyhow::Result<String> {
    let (Some(image), Some(disk)) = (&survey.image, &survey.disk) else {
        return Err(anyhow!("there is no disk to draw"));
    };
    let map = DiskMap::new(image, (COLUMNS * ROWS) as u64)?;
    let mut svg = String::new();
    drawing(&mut svg, &map, survey, disk).context("cannot draw")?;
    Ok(svg)
}

fn drawing(svg: &mut String, map: &DiskMap, survey: &Survey, disk: &DiskSurvey) -> fmt::Result {
    let palette = Palette::new(survey.layers.len());
    let rows = map.cells.len().div_ceil(COLUMNS);
    let legend_top = STRIP_TOP + rows * ROW_STEP + 36;
    // One line for each layer, one each for zeroes and holes, one for what a cell is.
    let height = legend_top + (survey.layers.len() + 3) * LEGEND_STEP + MARGIN;
    writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">"
    )?;
    let title = title(disk, survey.layers.len());
    writeln!(svg, "<title>{title}</title>")?;
    writeln!(svg, "<style>{STYLE}</style>")?;
    writeln!(
        svg,
        "<defs><pattern id=\"zeroed\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\">\
         <rect class=\"hole\" width=\"4\" height=\"4\"/>\
         <path class=\"ink\" d=\"M-1,1l2,-2M0,4l4,-4M3,5l2,-2\" stroke-width=\"1\"/></pattern></defs>"
    )?;
    writeln!(
        svg,
        "<rect class=\"paper\" width=\"100%\" height=\"100%\"/>"
    )?;
    text(svg, (MARGIN, 44), "title", &title)?;
    text(svg, (MARGIN, 68), "quiet", &summary(disk))?;
    for (row, cells) in map.cells.chunks(COLUMNS).enumerate() {
        self::row(svg, row, cells, map, palette)?;
    }
    legend(svg, legend_top, survey, disk, palette)?;
    let note = format!(
        "A cell is {} and shows the layer that has most data in it, the paler the less.",
        Size(map.cell_len_bytes())
    );
    text(svg, (MARGIN, height - MARGIN), "quiet", &note)?;
    writeln!(svg, "</svg>")
}

fn title(disk: &DiskSurvey, layers: usize) -> String {
    let layers = Count(layers as u64, "layer");
    format!("Disk of {} in {layers}", Size(disk.len_bytes))
}

fn summary(disk: &DiskSurvey) -> String {
    format!(
        "{} of data, {} zeroed, {} of holes, in {}",
        Size(disk.data_bytes),
        Size(disk.zeroed_bytes),
        Size(disk.hole_bytes),
        Count(disk.segment_count as u64, "segment")
    )
}

fn row(
    svg: &mut String,
    row: usize,
    cells: &[Cell],
    map: &DiskMap,
    palette: Palette,
) -> fmt::Result {
    let top = STRIP_TOP + row * ROW_STEP;
    let start = row * COLUMNS;
    let place = Size(start as u64 * map.cell_len_bytes()).to_string();
    text(
        svg,
        (STRIP_LEFT - 10, top + CELL_HEIGHT - 2),
        "place",
        &place,
    )?;
    let looks = |position: usize, cell: &Cell| (cell.origin, strength(cell, map, start + position));
    let cells: Vec<_> = cells
        .iter()
        .enumerate()
        .map(|(i, cell)| looks(i, cell))
        .collect();
    let mut column = 0;
    for run in cells.chunk_by(|a, b| a == b) {
        let Some((origin, strength)) = run.first() else {
            continue;
        };
        let fill = match origin {
            Origin::Hole => "class=\"hole\"".to_owned(),
            Origin::Zeroed => "fill=\"url(#zeroed)\"".to_owned(),
            Origin::Data(layer) => {
                let (red, green, blue) = palette.colour(usize::from(*layer));
                format!("fill=\"#{red:02x}{green:02x}{blue:02x}\" fill-opacity=\"{strength}\"")
            }
        };
        let place = Size((start + column) as u64 * map.cell_len_bytes());
        let what = match origin {
            Origin::Hole => "holes".to_owned(),
            Origin::Zeroed => "zeroed".to_owned(),
            Origin::Data(layer) => format!("layer {layer}"),
        };
        writeln!(
            svg,
            "<rect x=\"{}\" y=\"{top}\" width=\"{}\" height=\"{CELL_HEIGHT}\" {fill}>\
             <title>{what} at {place}</title></rect>",
            Halves(2 * STRIP_LEFT + column * CELL_WIDTH_HALVES),
            Halves(run.len() * CELL_WIDTH_HALVES)
        )?;
        column += run.len();
    }
    Ok(())
}

/// How strong the colour of a cell is: in four steps, by how much of it is data.
fn strength(cell: &Cell, map: &DiskMap, position: usize) -> &'static str {
    let sectors = map.sectors_of(position).max(1);
    match u128::from(cell.data_sectors) * 4 / u128::from(sectors) {
        0 => "0.45",
        1 => "0.6",
        2 => "0.8",
        _ => "1",
    }
}

fn legend(
    svg: &mut String,
    top: usize,
    survey: &Survey,
    disk: &DiskSurvey,
    palette: Palette,
) -> fmt::Result {
    let mut y = top;
    for layer in &survey.layers {
        let (red, green, blue) = palette.colour(layer.ordinal);
        let fill = format!("fill=\"#{red:02x}{green:02x}{blue:02x}\"");
        let bytes = layer.share.as_ref().map_or(0, |share| share.data_bytes);
        entry(svg, y, &fill, &name(layer), (bytes, disk.len_bytes))?;
        y += LEGEND_STEP;
    }
    let zeroed = (disk.zeroed_bytes, disk.len_bytes);
    entry(svg, y, "fill=\"url(#zeroed)\"", "zeroed by a layer", zeroed)?;
    let holes = (disk.hole_bytes, disk.len_bytes);
    entry(
        svg,
        y + LEGEND_STEP,
        "class=\"hole\"",
        "holes: no layer speaks of them",
        holes,
    )
}

fn entry(
    svg: &mut String,
    y: usize,
    fill: &str,
    what: &str,
    (bytes, whole): (u64, u64),
) -> fmt::Result {
    let swatch = y - 11;
    writeln!(
        svg,
        "<rect x=\"{MARGIN}\" y=\"{swatch}\" width=\"14\" height=\"14\" rx=\"3\" {fill}/>"
    )?;
    text(svg, (MARGIN + 24, y), "", what)?;
    let bar = bar_width(bytes, whole);
    writeln!(
        svg,
        "<rect class=\"rail\" x=\"{BAR_LEFT}\" y=\"{}\" width=\"{BAR_WIDTH}\" height=\"6\" rx=\"3\"/>\
         <rect x=\"{BAR_LEFT}\" y=\"{}\" width=\"{bar}\" height=\"6\" rx=\"3\" {fill}/>",
        y - 7,
        y - 7
    )?;
    text(svg, (864, y), "number", &Size(bytes).to_string())?;
    let percent = Percent { part: bytes, whole };
    text(svg, (WIDTH - MARGIN, y), "number", &percent.to_string())
}

/// Something can be seen of whatever is there.
fn bar_width(bytes: u64, whole: u64) -> u128 {
    let width = u128::from(bytes) * BAR_WIDTH as u128 / u128::from(whole.max(1));
    width.max(u128::from(bytes > 0) * 2)
}

/// The ordinal and the end of the path, which tells more than its beginning.
fn name(layer: &SurveyedLayer) -> String {
    let path = shown(&layer.path);
    let skipped = path.chars().count().saturating_sub(NAME_LEN);
    match skipped {
        0 => format!("layer {}: {path}", layer.ordinal),
        _ => {
            let end: String = path.chars().skip(skipped + 1).collect();
            format!("layer {}: …{end}", layer.ordinal)
        }
    }
}

fn shown(path: &Path) -> String {
    image::Shown(path).to_string()
}

fn text(svg: &mut String, (x, y): (usize, usize), class: &str, text: &str) -> fmt::Result {
    let class = match class {
        "" => String::new(),
        class => format!(" class=\"{class}\""),
    };
    writeln!(
        svg,
        "<text x=\"{x}\" y=\"{y}\"{class}>{}</text>",
        Escaped(text)
    )
}

/// A text between tags. What XML has no way to say becomes a replacement character.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\t'
                | ' '..='\u{7e}'
                | '\u{a0}'..='\u{d7ff}'
                | '\u{e000}'..='\u{fffd}'
                | '\u{10000}'.. => f.write_char(character)?,
                _ => f.write_char('\u{fffd}')?,
            }
        }
        Ok(())
    }
}

/// Half pixels as pixels.
struct Halves(usize);

impl fmt::Display for Halves {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 2 {
            0 => write!(f, "{}", self.0 / 2),
            _ => write!(f, "{}.5", self.0 / 2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_cannot_leave_their_place() {
        let hostile = "</text><script>&\"'\u{0}\u{1b}\u{ffff}\u{202e}ü";
        let escaped = Escaped(hostile).to_string();
        assert!(!escaped.contains(['<', '>', '"', '\'', '\u{0}', '\u{1b}', '\u{ffff}']));
        assert!(escaped.ends_with('ü'), "{escaped}");
    }

    #[test]
    fn bars_show_whatever_is_there() {
        assert_eq!(bar_width(0, 0), 0);
        assert_eq!(bar_width(1, 64 << 40), 2);
        assert_eq!(bar_width(64 << 40, 64 << 40), BAR_WIDTH as u128);
    }
}
