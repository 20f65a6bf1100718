//! `fencelock status`, `watch` and `release`.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::io::{BufRead as _, BufReader};

use common::{Stage, Tool, code, eventually};
use rustix::process::Signal;

fn output(stage: &Stage, arguments: &[&str]) -> String {
    let output = Tool::start(stage.tool(arguments.iter().copied())).output();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

const HOLD: &str = "echo $FENCELOCK_TOKEN > token; echo $$ > pid; while :; do sleep 0.02; done";

#[test]
fn a_status_says_free_or_held_by_whom() {
    let stage = Stage::new();
    assert_eq!(output(&stage, &["status", "--key", "k"]), "free\n");
    let _tool = Tool::start(stage.run("--label web-1", HOLD));
    let token = stage.read("token");
    let text = output(&stage, &["status", "--key", "k"]);
    assert!(text.starts_with("held by \"web-1\", for "), "{text}");
    assert!(text.contains(&format!("fencing token {token}")), "{text}");
    stage.server.cli(&["SET", "other", "raw"]);
    let text = output(&stage, &["status", "--key", "other"]);
    assert!(
        text.contains("without an end") && !text.contains("raw"),
        "{text}"
    );
    stage.server.cli(&["HSET", "hash", "a", "b"]);
    assert_eq!(code(stage.tool(["status", "--key", "hash"])), 64);
}

#[test]
fn a_watch_says_each_change_and_no_renewal() {
    let stage = Stage::new();
    let mut child = stage.tool(["watch", "--key", "k"]).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || lines.next().unwrap().unwrap();
    assert!(next().ends_with("  free"));
    let tool = Tool::start(stage.run("--ttl 6s --label one", HOLD));
    stage.read("token");
    assert!(next().contains("  held by \"one\""));
    // Long enough for renewals.
    std::thread::sleep(3 * common::SECOND);
    tool.signal(Signal::TERM);
    tool.output();
    let line = next();
    assert!(line.ends_with("  free"), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_release_by_force_fences_the_old_holder_and_frees_the_lock() {
    let stage = Stage::new();
    assert_eq!(
        output(&stage, &["release", "--force", "--key", "k"]),
        "it was free\n"
    );
    let tool = Tool::start(stage.run("--ttl 3s --label stuck", HOLD));
    let token: u64 = stage.read("token").parse().unwrap();
    let text = output(&stage, &["release", "--force", "--key", "k"]);
    assert!(
        text.starts_with("released; it was held by \"stuck\""),
        "{text}"
    );
    let words = text.split_whitespace();
    let fence = words
        .filter_map(|word| word.parse::<u64>().ok())
        .next_back()
        .unwrap();
    assert!(fence > token, "{text}");
    assert_eq!(tool.code(), 79, "the old holder hears of it");
    eventually("it is free", || !stage.is_held());
}
