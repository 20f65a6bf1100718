//! `fred+redis://`: the same locks through the other client.
#![cfg(all(unix, feature = "fred", feature = "redis"))]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::process::Command;

use common::{Stage, Tool, code, eventually};

const HOLD: &str = "echo $FENCELOCK_TOKEN > token; while :; do sleep 0.02; done";

/// The URLs of the server for each client.
fn urls(stage: &Stage) -> [String; 2] {
    let url = stage.server.url();
    [format!("fred+{url}"), url]
}

fn with(mut command: Command, url: &str) -> Command {
    command.env("LOCK_URL", url);
    command
}

fn output(command: Command) -> String {
    let output = Tool::start(command).output();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_lock_of_one_client_is_busy_seen_and_taken_by_the_other() {
    let stage = Stage::new();
    let [fred, redis] = urls(&stage).map(|url| url.replace("redis://", "valkey://"));
    let mut last = 0;
    for (ours, theirs) in [(&fred, &redis), (&redis, &fred)] {
        let _ = std::fs::remove_file(stage.path("token"));
        let tool = Tool::start(with(stage.run("--ttl 3s --label holder", HOLD), ours));
        let token: u64 = stage.read("token").parse().unwrap();
        assert!(token > last, "{token} after {last}");
        assert_eq!(code(with(stage.run("--try", "touch ran"), theirs)), 75);
        assert!(!stage.path("ran").exists());
        let text = output(with(stage.tool(["status", "--key", "k"]), theirs));
        assert!(text.starts_with("held by \"holder\", for "), "{text}");
        let release = stage.tool(["release", "--force", "--key", "k"]);
        let text = output(with(release, theirs));
        assert!(
            text.starts_with("released; it was held by \"holder\""),
            "{text}"
        );
        assert_eq!(tool.code(), 79);
        assert_eq!(
            output(with(stage.tool(["status", "--key", "k"]), ours)),
            "free\n"
        );
        last = token;
    }
}

#[test]
fn who_waits_with_one_client_is_served_after_the_other() {
    let stage = Stage::new();
    let [fred, redis] = urls(&stage);
    for (ours, theirs) in [(&fred, &redis), (&redis, &fred)] {
        let holder = Tool::start(with(stage.run("", "touch held; sleep 1"), ours));
        eventually("it is held", || stage.path("held").exists());
        std::fs::remove_file(stage.path("held")).unwrap();
        let waiting = with(stage.run("--wait 60s", "exit 5"), theirs);
        assert_eq!(code(waiting), 5);
        assert_eq!(holder.code(), 0);
        assert!(!stage.is_held());
    }
}

#[test]
fn a_store_that_goes_down_ends_the_command_and_says_no_password() {
    let mut stage = Stage::new();
    let [fred, _] = urls(&stage);
    let tool = Tool::start(with(stage.run("--ttl 2s", HOLD), &fred));
    stage.read("token");
    stage.server.stop();
    assert_eq!(tool.code(), 79);
    let fred = fred.replace("://", "://user:secret@");
    let output = Tool::start(with(stage.run("--wait 1s", "true"), &fred)).output();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!said.contains("secret"), "{said}");
    for odd in ["fred+what://h", "redis+fred://h", "fred+://h"] {
        assert_eq!(code(with(stage.run("--try", "true"), odd)), 64, "{odd}");
    }
}
