//! `docs/hostile.md`: what every case came to.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs::{self, File};

use rustix::fs::FlockOperation;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/hostile.md");
const MIN_CASES: usize = 400;

/// One case and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) outcome: String,
}

/// Compares a family's rows with the document, or puts them there if asked to.
pub(crate) fn settle(id: &str, title: &str, rows: &[Row]) {
    let section = section(id, title, rows);
    if !writing() {
        let document = fs::read_to_string(PATH).unwrap_or_default();
        let known = sections(&document).remove(id).unwrap_or_default();
        assert_same(&known, &section);
        return;
    }
    // Families run at the same time, perhaps in processes of their own.
    let lock = File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).unwrap();
    let mut sections = sections(&fs::read_to_string(PATH).unwrap_or_default());
    sections.insert(id.to_owned(), section);
    fs::write(PATH, document(&sections)).unwrap();
}

fn writing() -> bool {
    std::env::var_os("VBD_WRITE_HOSTILE_TABLE").is_some()
}

fn assert_same(known: &str, observed: &str) {
    let stale: Vec<_> = observed
        .lines()
        .filter(|line| !known.lines().any(|other| other == *line))
        .collect();
    assert!(
        known == observed,
        "docs/hostile.md is out of date (VBD_WRITE_HOSTILE_TABLE=1 writes it); observed:\n{}",
        stale.join("\n")
    );
}

fn section(id: &str, title: &str, rows: &[Row]) -> String {
    let mut text = format!("## {id} {title}\n\n| id | case | outcome |\n|---|---|---|\n");
    for (number, row) in (1..).zip(rows) {
        writeln!(
            text,
            "| {id}.{number:02} | {} | {} |",
            row.case, row.outcome
        )
        .unwrap();
    }
    text
}

/// The sections of a document by family.
fn sections(document: &str) -> BTreeMap<String, String> {
    let parts = document.split("\n## ").skip(1);
    parts
        .map(|part| {
            let id = part.split(' ').next().unwrap().to_owned();
            (id, format!("## {}\n", part.trim_end()))
        })
        .collect()
}

fn count(sections: &BTreeMap<String, String>) -> usize {
    let rows = |text: &String| text.lines().filter(|line| line.starts_with("| V-")).count();
    sections.values().map(rows).sum()
}

fn document(sections: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "\
# Hostile guests and front-ends

Written by `vhost-backend/tests/hostile`; do not edit. `VBD_WRITE_HOSTILE_TABLE=1 cargo test -p vhost-backend --test
hostile` writes it anew, and a run without fails when a case comes to something else.

{} cases against the daemon's own process. After each of them the daemon lives, another queue of the same session
reads right (unless the connection was ended), and the next front-end on the same socket reads right. After each family, descriptors and
threads are as many as before, resident memory has not grown, the processor is idle, and the log is within 10 lines a
second for each source. \"Right data\" is compared byte by byte; in cases with a single request, memory outside the
buffers it offered is compared with what it was before.
",
        count(sections)
    );
    for section in sections.values() {
        write!(text, "\n{section}").unwrap();
    }
    text
}

#[test]
fn document_holds_as_many_cases_as_it_says() {
    if writing() {
        return;
    }
    let text = fs::read_to_string(PATH).unwrap();
    let sections = sections(&text);
    assert!(count(&sections) >= MIN_CASES, "{}", count(&sections));
    assert!(text == document(&sections), "docs/hostile.md was edited");
}
