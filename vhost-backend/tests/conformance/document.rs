//! The specification and the tests it names: neither may speak of what the other does not have.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::registry::LINES;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A numbered promise.
#[derive(Debug)]
struct Promise {
    number: String,
    statement: String,
    proofs: Vec<String>,
}

/// Every row of a table whose first cell is a number such as 3.10.
fn promises(text: &str) -> Vec<Promise> {
    let rows = text.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.split(" | ").collect();
        let [number, statement, proofs] = cells.try_into().ok()?;
        number
            .starts_with(|first: char| first.is_ascii_digit())
            .then(|| Promise {
                number: number.to_owned(),
                statement: statement.to_owned(),
                proofs: proofs
                    .trim_end_matches(" |")
                    .split(", ")
                    .map(str::to_owned)
                    .collect(),
            })
    });
    rows.collect()
}

/// The checks that `C-02.03` or `C-02.03 to C-02.07` names.
fn named_checks(proof: &str) -> Vec<String> {
    let Some((first, last)) = proof.split_once(" to ") else {
        return vec![proof.to_owned()];
    };
    let (line, from) = first.split_once('.').expect("line and number");
    let (last_line, to) = last.split_once('.').expect("line and number");
    let (from, to): (u32, u32) = (from.parse().unwrap(), to.parse().unwrap());
    assert!(line == last_line && from < to, "{proof} is no range");
    (from..=to)
        .map(|number| format!("{line}.{number:02}"))
        .collect()
}

/// Whether `name` is a test in `source`: a function with that attribute, whatever stands between.
fn is_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let defines = |line: &&str| {
        let after = line
            .strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name));
        after.is_some_and(|rest| rest.starts_with('('))
    };
    let places = lines.iter().enumerate().filter(|(_, line)| defines(line));
    places.map(|(at, _)| at).any(|at| {
        let above = lines[..at].iter().rev();
        let mut attributes = above.take_while(|line| !line.is_empty() && !line.starts_with('}'));
        attributes.any(|line| *line == "#[test]")
    })
}

fn document() -> String {
    fs::read_to_string(root().join("docs/specification.md")).unwrap()
}

#[test]
fn promises_are_numbered_and_each_has_a_proof() {
    let text = document();
    let promises = promises(&text);
    assert!(promises.len() > 100, "{} promises", promises.len());
    let mut next = BTreeMap::new();
    for Promise {
        number,
        statement,
        proofs,
    } in &promises
    {
        let (chapter, place) = number.split_once('.').expect("chapter and place");
        assert!(
            text.contains(&format!("\n## {chapter}. ")),
            "{number}: no such chapter"
        );
        let expected = next.entry(chapter).or_insert(1);
        assert_eq!(place.parse(), Ok(*expected), "{number} is out of turn");
        *expected += 1;
        assert!(statement.ends_with('.'), "{number} is no sentence");
        assert!(
            proofs.iter().all(|proof| !proof.is_empty()),
            "{number} is not proved"
        );
    }
    println!("{} promises", promises.len());
}

#[test]
fn every_check_is_named_and_every_name_exists() {
    let promises = promises(&document());
    let proofs = promises.iter().flat_map(|promise| &promise.proofs);
    let checks = proofs.filter(|proof| proof.starts_with("C-"));
    let named: BTreeSet<String> = checks.flat_map(|proof| named_checks(proof)).collect();
    let checks = LINES.iter().flat_map(|line| line.checks);
    let existing: BTreeSet<String> = checks.map(|check| check.id.to_owned()).collect();
    let unknown: Vec<_> = named.difference(&existing).collect();
    let unnamed: Vec<_> = existing.difference(&named).collect();
    assert!(unknown.is_empty(), "the document names {unknown:?}");
    assert!(unnamed.is_empty(), "the document does not name {unnamed:?}");
}

#[test]
fn every_test_that_is_named_exists() {
    let mut missing = Vec::new();
    let mut count = 0;
    for promise in promises(&document()) {
        for proof in promise
            .proofs
            .iter()
            .filter(|proof| !proof.starts_with("C-"))
        {
            let name = proof
                .strip_prefix('`')
                .and_then(|rest| rest.strip_suffix('`'));
            let named = name.and_then(|name| name.split_once("::"));
            let (path, test) = named.unwrap_or_else(|| panic!("{}: {proof}", promise.number));
            let places = [
                root().join(path),
                root().join("vhost-backend/tests").join(path),
            ];
            let source = places
                .iter()
                .find_map(|place| fs::read_to_string(place).ok());
            if !source.is_some_and(|source| is_test(&source, test)) {
                missing.push(format!("{}: {proof}", promise.number));
            }
            count += 1;
        }
    }
    assert!(missing.is_empty(), "no such test:\n{}", missing.join("\n"));
    assert!(count > 50, "{count} tests named");
}

#[test]
fn checks_are_numbered_in_turn_and_named_apart() {
    let mut names = BTreeSet::new();
    let mut count = 0;
    for line in LINES {
        for (check, number) in line.checks.iter().zip(1..) {
            assert_eq!(check.id, format!("{}.{number:02}", line.id));
            assert!(
                names.insert((line.id, check.name)),
                "{}: {}",
                line.id,
                check.name
            );
            count += 1;
        }
    }
    assert!(count >= 150, "{count} checks");
    println!("{count} checks in {} lines", LINES.len());
}

#[test]
fn a_function_is_a_test_only_with_the_attribute() {
    let source =
        "#[test]\n#[expect(x)]\nfn one() {\n}\n\nfn two() {\n}\n    #[test]\n    fn three_x() {";
    assert!(is_test(source, "one"));
    assert!(!is_test(source, "two") && !is_test(source, "three"));
    assert!(is_test(source, "three_x"));
}
