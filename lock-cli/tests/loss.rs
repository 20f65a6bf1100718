//! `fencelock run` when the lock is lost, or the tool, its enforcer, the command or the store is killed.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]

mod common;

use std::fs;

use common::{SECOND, Stage, Tool, eventually, is_alive, now};
use rustix::process::{Pid, Signal, kill_process};

/// A command that ends at nothing but SIGKILL, with a child that does as well, and says when it was alive last.
const STUBBORN: &str = "trap '' TERM INT; echo $$ > pid; sleep 1000 & echo $! > child; \
    while :; do date +%s%3N > beat.new; mv beat.new beat; sleep 0.02 || :; done";

/// A command that ends when it is asked to, and writes that down.
const POLITE: &str =
    "trap 'echo asked > asked; exit 0' TERM; echo $$ > pid; while :; do sleep 0.02; done";

const TTL: u128 = 9_000;

/// The command is gone, its child as well, and it was not alive any more at `deadline`, in milliseconds since 1970.
fn assert_over_before(stage: &Stage, deadline: u128) {
    for name in ["pid", "child"] {
        let pid = stage.pid(name);
        eventually(&format!("{name} is gone"), || !is_alive(pid));
    }
    let last: u128 = stage.read("beat").parse().unwrap();
    assert!(
        last < deadline,
        "alive {} ms after the deadline",
        last - deadline
    );
}

#[test]
fn a_store_that_hangs_ends_the_command_before_the_deadline() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 9s", STUBBORN));
    stage.read("beat");
    stage.server.pause();
    // What was sent before this is what counts for the deadline.
    let deadline = now() + TTL;
    assert_eq!(tool.code(), 79);
    assert_over_before(&stage, deadline);
    stage.server.resume();
}

#[test]
fn a_store_that_is_killed_ends_the_command() {
    let mut stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 3s", POLITE));
    stage.read("pid");
    stage.server.stop();
    assert_eq!(tool.code(), 79);
    assert_eq!(stage.read("asked"), "asked");
}

#[test]
fn a_lock_that_somebody_removed_ends_the_command_at_the_next_renewal() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 3s", POLITE));
    stage.read("pid");
    stage.server.cli(&["SET", "k", "somebody's", "PX", "60000"]);
    let output = tool.output();
    assert_eq!(output.status.code(), Some(79), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("lost the lock"));
    assert_eq!(stage.read("asked"), "asked");
    assert_eq!(stage.server.cli(&["GET", "k"]).text(), "somebody's");
}

#[test]
fn a_limit_of_the_hold_ends_the_command() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 3s --hold-at-most 4s", POLITE));
    assert_eq!(tool.code(), 79);
    assert_eq!(stage.read("asked"), "asked");
    assert!(!stage.is_held());
}

#[test]
fn a_tool_that_is_killed_takes_its_command_along_before_the_deadline() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 9s", STUBBORN));
    stage.read("beat");
    tool.signal(Signal::KILL);
    assert_over_before(&stage, now() + TTL);
    drop(tool);
    eventually("the lock ends with its ttl", || !stage.is_held());
}

#[test]
fn a_tool_that_is_stopped_loses_its_command_before_the_deadline_and_says_so_later() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 9s", STUBBORN));
    stage.read("beat");
    tool.signal(Signal::STOP);
    let deadline = now() + TTL;
    assert_over_before(&stage, deadline);
    eventually("the lock has ended", || !stage.is_held());
    tool.signal(Signal::CONT);
    assert_eq!(tool.code(), 79);
}

#[test]
fn a_command_that_is_killed_ends_the_tool_and_frees_the_lock() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 9s", STUBBORN));
    stage.read("beat");
    kill_process(stage.pid("pid"), Signal::KILL).unwrap();
    assert_eq!(tool.code(), 128 + 9);
    assert!(!is_alive(stage.pid("child")));
    assert!(!stage.is_held());
}

#[test]
fn an_enforcer_that_is_killed_is_replaced() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 3s", STUBBORN));
    stage.read("beat");
    let enforcer = |tool: &Tool| {
        let children = format!("/proc/{0}/task/{0}/children", tool.pid().as_raw_nonzero());
        let children = fs::read_to_string(children).unwrap_or_default();
        let command = stage.pid("pid").as_raw_nonzero().get();
        let mut others = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        others.find(|pid| *pid != command).and_then(Pid::from_raw)
    };
    let first = enforcer(&tool).unwrap();
    kill_process(first, Signal::KILL).unwrap();
    eventually("there is another", || {
        enforcer(&tool).is_some_and(|pid| pid != first)
    });
    std::thread::sleep(SECOND / 2);
    tool.signal(Signal::KILL);
    assert_over_before(&stage, now() + 3_000);
}
