//! The promises that lock-core's documentation numbers name the cases that show them, and what is no case the files that do.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::collections::HashSet;
use std::path::Path;

use lock_testkit::CASES;

/// A paragraph or a list item of the documentation of a trait.
struct Promise {
    place: String,
    text: String,
    is_numbered: bool,
}

/// All of them in lock-core's `file`, which has nothing but traits of backends and plain data.
fn promises_in(file: &str) -> Vec<Promise> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lock-core/src");
    let source = std::fs::read_to_string(path.join(file)).unwrap();
    let mut promises: Vec<Promise> = Vec::new();
    let mut is_new = true;
    for (line, text) in (1..).zip(source.lines()) {
        let Some(text) = text.trim_start().strip_prefix("///") else {
            is_new = true;
            continue;
        };
        let text = text.strip_prefix(' ').unwrap_or(text);
        let number = text
            .split_once(". ")
            .map(|(number, _)| number.parse::<u8>());
        let is_numbered = matches!(number, Some(Ok(_)));
        if is_new || is_numbered || text.is_empty() {
            promises.push(Promise {
                place: format!("lock-core/src/{file}:{line}"),
                text: String::new(),
                is_numbered,
            });
        }
        is_new = text.is_empty();
        let promise = promises.last_mut().unwrap();
        promise.text += text.trim_start();
        promise.text.push('\n');
    }
    promises
}

/// What looks like the name of a case: `module::a_sentence`.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let is_word = |part: &str| {
        let is_letter =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        !part.is_empty() && part.chars().all(is_letter)
    };
    text.split('`').skip(1).step_by(2).filter(move |code| {
        let parts = code.split_once("::");
        parts.is_some_and(|(promise, case)| is_word(promise) && is_word(case))
    })
}

#[test]
fn each_numbered_promise_names_cases_that_exist() {
    let cases: HashSet<_> = CASES.iter().map(ToString::to_string).collect();
    let promises: Vec<_> = ["backend.rs", "force.rs"]
        .into_iter()
        .flat_map(promises_in)
        .collect();
    let numbered = promises.iter().filter(|promise| promise.is_numbered);
    let silent: Vec<_> = numbered
        .clone()
        .filter(|promise| names(&promise.text).next().is_none())
        .map(|promise| &promise.place)
        .collect();
    assert!(silent.is_empty(), "no case is named at {silent:#?}");
    assert!(numbered.count() >= 20, "they were not found");
    for promise in &promises {
        for name in names(&promise.text) {
            assert!(
                cases.contains(name),
                "{}: there is no case {name}",
                promise.place
            );
        }
    }
}

/// The first and the last cell of each row of the table of what is no case.
fn no_cases() -> Vec<(&'static str, &'static str)> {
    let table = include_str!("../src/cases.rs");
    let rows = table.lines().filter_map(|line| line.strip_prefix("//! | "));
    let cells = |row: &'static str| {
        let mut cells = row.trim_end_matches(" |").split(" | ");
        (cells.next().unwrap(), cells.last().unwrap())
    };
    rows.skip(1).map(cells).collect()
}

#[test]
fn what_is_no_case_is_shown_by_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let rows = no_cases();
    assert!(rows.len() >= 8, "the table was not found: {rows:?}");
    for (row, shown) in rows {
        let mut source = None;
        let mut tests = 0;
        for code in shown.split('`').skip(1).step_by(2) {
            if code.contains('/') {
                let text = std::fs::read_to_string(root.join(code));
                source = Some(text.unwrap_or_else(|_| panic!("there is no {code}")));
            } else if code.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
                let test = format!("fn {code}()");
                let is_there = source.as_ref().is_some_and(|text| text.contains(&test));
                assert!(is_there, "{row}: there is no test {code}");
                tests += 1;
            }
        }
        assert!(tests > 0 || shown == "nowhere", "{row}: {shown}");
    }
}
