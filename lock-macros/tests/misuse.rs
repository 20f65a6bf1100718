//! Every misuse is told where it stands. After a change: `TRYBUILD=overwrite cargo test -p lock-macros --test misuse`, then
//! read what changed.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::env;
use std::process::Command;

/// Whose words are in `names.stderr` and `types.stderr`. Other compilers say the same in other words.
const COMPILER: &str = "rustc 1.95.";

#[test]
fn a_misuse_is_told_where_it_stands() {
    let cases = trybuild::TestCases::new();
    for ours in ["functions", "key", "options"] {
        cases.compile_fail(format!("tests/misuse/{ours}.rs"));
    }
    let compiler = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let version = Command::new(compiler).arg("--version").output().unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    if version.starts_with(COMPILER) || env::var_os("CI").is_some() {
        for the_compilers in ["names", "types"] {
            cases.compile_fail(format!("tests/misuse/{the_compilers}.rs"));
        }
    } else {
        eprintln!("SKIPPED: misuses in the words of {COMPILER}: this is {version}");
    }
}
