//! The report as bars.

use std::fmt::Write;

use crate::report::{Report, Row};

const WIDTH: f64 = 900.0;
const LABEL_WIDTH: f64 = 190.0;
const VALUE_WIDTH: f64 = 130.0;
const BAR_HEIGHT: f64 = 16.0;
const LINE_HEIGHT: f64 = 20.0;
const HEADING_HEIGHT: f64 = 34.0;
const MARGIN: f64 = 16.0;

/// One chart for each workload, the bars of which can be compared with each other.
pub(crate) fn chart(report: &Report) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    for (name, value) in &report.machine {
        text(&mut body, (MARGIN, y), "small", &format!("{name}: {value}"));
        y += LINE_HEIGHT * 0.75;
    }
    let same = |a: &Row, b: &Row| a.group == b.group && a.case.name == b.case.name;
    for rows in report.rows.chunk_by(same) {
        y += HEADING_HEIGHT;
        if let Some(row) = rows.first() {
            let heading = format!("{}: {}", row.group.name(), row.case.name);
            text(
                &mut body,
                (MARGIN, y - LINE_HEIGHT / 2.0),
                "heading",
                &heading,
            );
        }
        let highest = rows.iter().map(|row| row.range().1);
        let largest = highest.fold(f64::MIN_POSITIVE, f64::max);
        for row in rows {
            bar(&mut body, y, row, largest);
            y += LINE_HEIGHT;
        }
    }
    let height = y + MARGIN;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <style>.small {{ fill: #666; font-size: 10px }} .heading {{ font-weight: bold }} \
         .vbd {{ fill: #2b6cb0 }} .base {{ fill: #90cdf4 }} .peer {{ fill: #a0aec0 }} \
         .range {{ stroke: #1a202c }}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n"
    )
}

fn middle(row: &Row) -> f64 {
    row.median(|sample| row.rate(sample))
}

/// A bar to the median, with a line from the lowest to the highest round.
fn bar(body: &mut String, y: f64, row: &Row, largest: f64) {
    let room = WIDTH - 2.0 * MARGIN - LABEL_WIDTH - VALUE_WIDTH;
    let left = MARGIN + LABEL_WIDTH;
    let at = |rate: f64| room * (rate / largest).min(1.0);
    let class = match row.subject.split(' ').next() {
        Some("vbd") => "vbd",
        Some("base") => "base",
        _ => "peer",
    };
    let middle = middle(row);
    let width = at(middle);
    text(body, (MARGIN, y + BAR_HEIGHT - 4.0), "label", &row.subject);
    let _ok = writeln!(
        body,
        "<rect class=\"{class}\" x=\"{left}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR_HEIGHT}\"/>"
    );
    let (lowest, highest) = row.range();
    let (from, to, line) = (left + at(lowest), left + at(highest), y + BAR_HEIGHT / 2.0);
    let _ok = writeln!(
        body,
        "<line class=\"range\" x1=\"{from:.1}\" y1=\"{line:.1}\" x2=\"{to:.1}\" y2=\"{line:.1}\"/>"
    );
    let value = if row.case.counts_bytes() {
        format!("{:.2} GB/s", middle / 1e9)
    } else {
        format!("{:.1} kIOPS", middle / 1e3)
    };
    let place = (left + width.max(at(highest)) + 6.0, y + BAR_HEIGHT - 4.0);
    text(body, place, "value", &value);
}

fn text(body: &mut String, (x, y): (f64, f64), class: &str, content: &str) {
    let content = content
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let _ok = writeln!(
        body,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>"
    );
}
