//! The report as text.

use std::fmt::Write;

use crate::report::{Fact, Report, Row};

/// The whole report.
pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    for (name, value) in &report.machine {
        line(&mut out, &format!("{name:<22} {value}"));
    }
    let mut heading = String::new();
    for row in &report.rows {
        let current = format!("{}: {}", row.group.name(), row.case.name);
        if current != heading {
            line(&mut out, "");
            line(&mut out, &columns(&current, report));
            heading = current;
        }
        line(&mut out, &row_text(row, report));
    }
    let mut group = "";
    for fact in &report.facts {
        if fact.group.name() != group {
            group = fact.group.name();
            line(&mut out, "");
            line(&mut out, &format!("{group}:"));
        }
        line(&mut out, &fact_text(fact));
    }
    if !report.notes.is_empty() {
        line(&mut out, "");
    }
    for note in &report.notes {
        line(&mut out, &format!("note: {note}"));
    }
    out
}

fn fact_text(fact: &Fact) -> String {
    let value = number(fact.value);
    let mut text = format!("  {:<18} {:<54} {value:>9}", fact.subject, fact.what);
    if !fact.unit.is_empty() {
        text.push(' ');
        text.push_str(fact.unit);
    }
    if let Some((lowest, highest)) = fact.range() {
        let range = format!(" ({}-{})", number(lowest), number(highest));
        text.push_str(&range);
    }
    if let Some((ratio, name)) = &fact.ratio {
        let ratio = format!(", {ratio:.2} of {name}");
        text.push_str(&ratio);
    }
    text
}

fn line(out: &mut String, text: &str) {
    // Writing to a String does not fail.
    let _ok = writeln!(out, "{}", text.trim_end());
}

fn columns(heading: &str, report: &Report) -> String {
    let baseline = if has_baseline(report) { "  /base" } else { "" };
    format!(
        "{heading:<44} {:>17} {:>6}{baseline} {:>7} {:>7} {:>7} {:>7} {:>5} {:>5} {:>5} {:>5} {:>5} {:>7}",
        "(lowest-highest)",
        "/ref",
        "p50 us",
        "p99 us",
        "p99.9",
        "CPU us",
        "calls",
        "sleep",
        "preem",
        "kicks",
        "irqs",
        "mem MiB",
    )
}

fn row_text(row: &Row, report: &Report) -> String {
    let rate = |value: f64| {
        if row.case.counts_bytes() {
            format!("{:.2}", value / 1e9)
        } else {
            format!("{:.1}", value / 1e3)
        }
    };
    let unit = if row.case.counts_bytes() {
        "GB/s"
    } else {
        "kIOPS"
    };
    let (lowest, highest) = row.range();
    let range = format!("({}-{})", rate(lowest), rate(highest));
    let optional = |value: Option<f64>, width: usize| match value {
        Some(value) => format!("{value:>width$.2}"),
        None => format!("{:>width$}", "-"),
    };
    let baseline = if has_baseline(report) {
        format!(" {}", optional(row.baseline_ratio, 6))
    } else {
        String::new()
    };
    let middle = row.median(|sample| row.rate(sample));
    format!(
        "  {:<26} {:>9} {unit:<5} {range:>17} {}{baseline} {:>7} {:>7} {:>7} {:>7.2} {} {:>5.2} {:>5.2} {:>5.2} {:>5.2} {:>7.1}",
        row.subject,
        rate(middle),
        optional(row.ratio, 6),
        number(row.median(|sample| sample.p50_us)),
        number(row.median(|sample| sample.p99_us)),
        number(row.median(|sample| sample.p999_us)),
        row.median(|sample| sample.cpu_us),
        optional(row.syscalls, 5),
        row.median(|sample| sample.voluntary),
        row.median(|sample| sample.involuntary),
        row.median(|sample| sample.kicks),
        row.median(|sample| sample.interrupts),
        row.median(|sample| sample.rss_bytes) / f64::from(1 << 20),
    )
}

fn has_baseline(report: &Report) -> bool {
    report.rows.iter().any(|row| row.baseline_ratio.is_some())
}

/// Three digits that count, or as many as there are before the point.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}
