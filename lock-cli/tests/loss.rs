//! `fencelock run` when the lock is lost, or the tool, its enforcer, the command or the store is killed.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]

mod common;

use std::fs;
use std::io::{IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::process::Stdio;

use common::{SECOND, Stage, Tool, code, eventually, is_alive, now};
use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Signal, kill_process};

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
    let output = Tool::start(stage.run("--ttl 6s --hold-at-most 7s", POLITE)).output();
    assert_eq!(output.status.code(), Some(79));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--hold-at-most"), "{said}");
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
    let tool = Tool::start(stage.run("--ttl 9s", STUBBORN));
    stage.read("beat");
    let enforcer = |tool: &Tool| tool.enforcer(stage.pid("pid"));
    let first = enforcer(&tool).unwrap();
    kill_process(first, Signal::KILL).unwrap();
    eventually("there is another", || {
        enforcer(&tool).is_some_and(|pid| pid != first)
    });
    std::thread::sleep(SECOND / 2);
    tool.signal(Signal::KILL);
    assert_over_before(&stage, now() + TTL);
}

#[test]
#[cfg(target_os = "linux")]
fn an_enforcer_that_cannot_be_replaced_is_no_reason_to_let_the_command_be() {
    use rustix::process::{Resource, Rlimit, prlimit};
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 30s", STUBBORN));
    stage.read("beat");
    // It cannot open anything from now on, so it can start nothing.
    let (current, maximum) = (Some(1), Some(1));
    prlimit(
        Some(tool.pid()),
        Resource::Nofile,
        Rlimit { current, maximum },
    )
    .unwrap();
    kill_process(tool.enforcer(stage.pid("pid")).unwrap(), Signal::KILL).unwrap();
    assert_eq!(tool.code(), 71);
    for name in ["pid", "child"] {
        assert!(!is_alive(stage.pid(name)), "{name}");
    }
    assert!(!stage.is_held());
}

#[test]
fn an_enforcer_that_is_killed_while_it_ends_the_command_is_replaced() {
    let stage = Stage::new();
    let script = "sh -c 'trap : TERM; echo $$ > child; while :; do sleep 0.02; done' & \
        echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done; exit 3";
    let tool = Tool::start(stage.run("--ttl 9s", script));
    let (command, child) = (stage.pid("pid"), stage.pid("child"));
    let enforcer = tool.enforcer(command).unwrap();
    fs::write(stage.path("go"), "").unwrap();
    eventually("the command has ended", || !is_alive(command));
    // Unless it is done by then, which it is not within a grace of 3 s.
    let _ = kill_process(enforcer, Signal::KILL);
    eventually("the lock is released", || !stage.is_held());
    assert!(!is_alive(child), "it runs without the lock");
    assert_eq!(tool.code(), 3);
}

#[test]
fn an_enforcer_that_is_stopped_goes_on_when_it_is_needed() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 3s", STUBBORN));
    stage.read("beat");
    kill_process(tool.enforcer(stage.pid("pid")).unwrap(), Signal::STOP).unwrap();
    stage.server.cli(&["SET", "k", "somebody's", "PX", "60000"]);
    assert_eq!(tool.code(), 79);
    for name in ["pid", "child"] {
        assert!(!is_alive(stage.pid(name)), "{name}");
    }
}

#[test]
fn an_enforcer_does_not_stay_for_the_dead_that_nobody_buries() {
    let stage = Stage::new();
    let mut command = std::process::Command::new("sleep");
    let mut command = command.arg("1000").process_group(0).spawn().unwrap();
    let mut enforcer = stage.tool(["enforce", "--grace", "100", "--margin", "50"]);
    let mut enforcer = enforcer.stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = enforcer.stdin.take().unwrap();
    writeln!(lines, "group {}", command.id()).unwrap();
    drop(lines);
    // The command is dead by then, but it is ours to reap and still in its group.
    enforcer.wait().unwrap();
    assert_eq!(command.wait().unwrap().signal(), Some(15));
}

#[test]
fn who_does_not_listen_to_the_tool_gets_its_exit_code_all_the_same() {
    let stage = Stage::new();
    for (script, options, wanted) in [
        ("true", "--try --label \u{7f}", 64),
        (POLITE, "--ttl 3s", 79),
    ] {
        let mut tool = stage.run(options, script).spawn().unwrap();
        drop(tool.stderr.take());
        if wanted == 79 {
            stage.read("pid");
            stage.server.cli(&["DEL", "k"]);
        }
        assert_eq!(tool.wait().unwrap().code(), Some(wanted));
    }
}

/// What a starter does that is told to go until `end`, with the text "input" for the command's standard input; or is told nothing.
fn started(stage: &Stage, end: Option<u64>) -> (Option<i32>, String) {
    let (ours, its) = UnixStream::pair().unwrap();
    let mut starter = stage.tool(["start", "--", "cat"]);
    starter.stdin(OwnedFd::from(its));
    let tool = Tool::start(starter);
    if let Some(end) = end {
        fs::write(stage.path("input"), "input").unwrap();
        let input = fs::File::open(stage.path("input")).unwrap();
        let inputs = [input.as_fd()];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
        let mut with = SendAncillaryBuffer::new(&mut space);
        with.push(SendAncillaryMessage::ScmRights(&inputs));
        let word = end.to_ne_bytes();
        sendmsg(&ours, &[IoSlice::new(&word)], &mut with, SendFlags::empty()).unwrap();
    }
    drop(ours);
    let output = tool.output();
    (
        output.status.code(),
        String::from_utf8(output.stdout).unwrap(),
    )
}

#[test]
fn a_command_is_not_run_if_nobody_is_left_to_end_it_or_its_lock_is_over() {
    let stage = Stage::new();
    assert_eq!(started(&stage, None), (Some(71), String::new()));
    // As by a tool that was stopped for long between taking the lock and this.
    assert_eq!(started(&stage, Some(0)), (Some(79), String::new()));
    assert_eq!(started(&stage, Some(u64::MAX)), (Some(0), "input".into()));
    // Nor by hand.
    let by_hand = stage.tool(["start", "--", "touch", "ran"]);
    assert_eq!(code(by_hand), 71);
    assert!(!stage.path("ran").exists());
}

/// The command lines of all processes that have `mark` in theirs.
#[cfg(target_os = "linux")]
fn processes(mark: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let commands = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    let commands = commands.map(|command| String::from_utf8_lossy(&command).replace('\0', " "));
    commands.filter(|command| command.contains(mark)).collect()
}

#[test]
#[cfg(target_os = "linux")]
fn a_tool_that_is_killed_at_any_moment_of_its_start_leaves_no_command_behind() {
    let stage = Stage::new();
    let mark = format!("100{}", stage.server.port());
    for step in 0..100 {
        let tool =
            Tool::start(stage.tool(["run", "--key", "k", "--wait", "60s", "--", "sleep", &mark]));
        std::thread::sleep(SECOND / 2000 * (step % 50));
        tool.signal(Signal::KILL);
        drop(tool);
        stage.server.cli(&["DEL", "k"]);
    }
    eventually("nothing is left", || processes(&mark).is_empty());
}

#[test]
#[cfg(target_os = "linux")]
fn a_command_is_asked_to_end_even_if_tool_and_enforcer_are_killed_at_one_blow() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 9s", POLITE));
    let enforcer = tool.enforcer(stage.pid("pid")).unwrap();
    // So that it does nothing in between.
    kill_process(enforcer, Signal::STOP).unwrap();
    tool.signal(Signal::KILL);
    kill_process(enforcer, Signal::KILL).unwrap();
    assert_eq!(stage.read("asked"), "asked");
}

/// Not a test: becomes the tool, with the orphans of its command for its children, as a container's first process has them.
#[test]
#[cfg(target_os = "linux")]
fn first_process() {
    if let Ok(arguments) = std::env::var("FENCELOCK_TEST_FIRST") {
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)).unwrap();
        let mut tool = std::process::Command::new(env!("CARGO_BIN_EXE_fencelock"));
        panic!("{}", tool.args(arguments.split('|')).exec());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_tool_that_is_a_containers_first_process_sees_its_command_end() {
    let stage = Stage::new();
    let script = "(trap '' TERM; echo $$ > sub; sleep 1000; sleep 1000) & sleep 1000 & exit 3";
    let mut tool = stage.tool([]);
    let arguments = format!("run|--key|k|--ttl|6s|--|sh|-c|{script}");
    let mut first = std::process::Command::new(std::env::current_exe().unwrap());
    first
        .args(["--exact", "first_process", "--nocapture"])
        .env("FENCELOCK_TEST_FIRST", arguments);
    let environment = tool
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()));
    first
        .envs(environment.collect::<Vec<_>>())
        .current_dir(tool.get_current_dir().unwrap());
    tool = first;
    assert_eq!(Tool::start(tool).code(), 3);
    assert!(!stage.is_held());
}
