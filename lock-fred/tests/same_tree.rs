//! lock-redis and lock-fred are the same but for the client: what one learns, the other must learn too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// What is about the client, or about the two crates.
const MAY_DIFFER: [&str; 5] = [
    "src/backend.rs",
    "src/client/",
    "src/lib.rs",
    "tests/common/client.rs",
    "tests/given.rs",
];
const ONLY_HERE: [&str; 2] = ["tests/both_clients.rs", "tests/same_tree.rs"];
/// Programs of others, which the tests of both run from there.
const ONLY_THERE: &str = "tests/interop/";

fn root(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .join(name)
}

fn files(crate_name: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec!["src".to_owned(), "tests".to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root(crate_name).join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().into_string().unwrap());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else {
                found.insert(path);
            }
        }
    }
    found
}

/// Without the names that each crate must have of its own.
fn text(crate_name: &str, file: &str) -> String {
    let text = fs::read_to_string(root(crate_name).join(file)).unwrap();
    let text = text.replace("lock_redis", "this_crate");
    let text = text.replace("lock_fred", "this_crate");
    let text = text.replace("RedisBackend", "Backend");
    text.replace("FredBackend", "Backend")
}

fn of_both() -> BTreeSet<String> {
    let mut files = files("lock-redis");
    files.retain(|file| !file.starts_with(ONLY_THERE));
    files
}

#[test]
fn the_two_crates_have_the_same_files() {
    let mut here = files("lock-fred");
    for file in ONLY_HERE {
        assert!(here.remove(file), "{file} is gone");
    }
    assert_eq!(here, of_both());
}

#[test]
fn what_is_not_about_the_client_is_the_same_in_both() {
    let mut same = 0;
    for file in of_both() {
        if MAY_DIFFER.iter().any(|start| file.starts_with(start)) {
            continue;
        }
        assert!(
            text("lock-redis", &file) == text("lock-fred", &file),
            "lock-redis/{file} and lock-fred/{file} are not the same: copy the newer one"
        );
        same += 1;
    }
    assert!(same > 20, "only {same} files were compared");
}

#[test]
fn calls_are_translated_to_the_same_commands_in_both() {
    // Everything behind the constructors that take what the application made.
    let translation = |crate_name: &str| {
        let text = text(crate_name, "src/backend.rs");
        let start = text.find("    pub(crate) fn own(").unwrap();
        text.split_at(start).1.to_owned()
    };
    let (there, here) = (translation("lock-redis"), translation("lock-fred"));
    assert!(there.len() > 1000);
    assert!(
        there == here,
        "backend.rs is not the same behind the constructors: copy the newer one"
    );
}
