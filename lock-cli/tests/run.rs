//! `fencelock run` while all goes well, or nothing goes at all: codes, environment, signals.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use common::{SECOND, Stage, Tool, code, eventually, is_alive, now};
use rustix::process::{Signal, kill_process, kill_process_group};

#[test]
fn the_commands_exit_code_is_passed_on_and_the_lock_is_released() {
    let stage = Stage::new();
    for wanted in [0, 1, 42, 255] {
        assert_eq!(code(stage.run("--try", &format!("exit {wanted}"))), wanted);
        assert!(!stage.is_held());
    }
}

#[test]
fn a_command_that_a_signal_ended_is_reported_as_shells_do() {
    let stage = Stage::new();
    assert_eq!(code(stage.run("--try", "kill -TERM $$")), 128 + 15);
    assert_eq!(code(stage.run("--try", "kill -KILL $$")), 128 + 9);
    assert!(!stage.is_held());
}

#[test]
fn the_environment_has_key_token_and_deadline() {
    let stage = Stage::new();
    let script = "echo $FENCELOCK_KEY $FENCELOCK_TOKEN $FENCELOCK_DEADLINE > seen";
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let before = now();
        let key = [
            "run", "--key", "nightly", "--prefix", "jobs:", "--ttl", "20s",
        ];
        assert_eq!(
            code(stage.tool(key.into_iter().chain(["--", "sh", "-c", script]))),
            0
        );
        let seen = stage.read("seen");
        let seen: Vec<_> = seen.split(' ').collect();
        assert_eq!(seen[0], "jobs:nightly");
        tokens.push(seen[1].parse::<u64>().unwrap());
        let deadline: u128 = seen[2].parse().unwrap();
        assert!(
            deadline > before && deadline <= now() + 20_000,
            "{deadline} at {before}"
        );
    }
    assert!(tokens[0] < tokens[1], "{tokens:?}");
}

#[test]
fn a_busy_lock_is_a_code_of_its_own_and_runs_nothing() {
    let stage = Stage::new();
    stage.server.cli(&["SET", "k", "somebody's", "PX", "60000"]);
    for (options, wanted) in [
        ("--try", 75),
        ("--wait 100ms", 75),
        ("--try --busy-code 3", 3),
    ] {
        let output = Tool::start(stage.run(options, "touch ran")).output();
        assert_eq!(output.status.code(), Some(wanted), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.starts_with("fencelock: ") && !said.contains("somebody's"),
            "{said}"
        );
    }
    assert!(!stage.path("ran").exists());
}

#[test]
fn who_waits_gets_the_lock_when_it_is_free() {
    let stage = Stage::new();
    stage.server.cli(&["SET", "k", "somebody's", "PX", "60000"]);
    let waiting = Tool::start(stage.run("--wait 60s", "exit 5"));
    std::thread::sleep(SECOND / 2);
    stage.server.cli(&["DEL", "k"]);
    assert_eq!(waiting.code(), 5);
}

#[test]
fn commands_under_one_key_run_one_after_the_other() {
    let stage = Stage::new();
    let script = "mkdir only && sleep 0.05 && rmdir only && echo done >> log";
    let tools: Vec<_> = (0..8)
        .map(|_| Tool::start(stage.run("--wait 60s", script)))
        .collect();
    for tool in tools {
        assert_eq!(tool.code(), 0);
    }
    assert_eq!(stage.read("log").lines().count(), 8);
}

#[test]
fn a_command_that_runs_longer_than_the_ttl_keeps_the_lock() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--ttl 6s", "echo $$ > pid; sleep 10; exit 6"));
    let pid = stage.pid("pid");
    while is_alive(pid) {
        let left = stage.server.cli(&["PTTL", "k"]).integer();
        assert!(
            left > 0 || !is_alive(pid),
            "the lock was not renewed: {left}"
        );
        std::thread::sleep(SECOND / 20);
    }
    assert_eq!(tool.code(), 6);
    assert!(!stage.is_held());
}

#[test]
fn a_lock_that_is_left_to_expire_outlives_a_command_that_succeeds() {
    let stage = Stage::new();
    assert_eq!(code(stage.run("--leave-to-expire", "exit 1")), 1);
    assert!(!stage.is_held(), "a command that failed may run again");
    assert_eq!(code(stage.run("--leave-to-expire", "exit 0")), 0);
    assert!(stage.is_held());
    assert_eq!(code(stage.run("--try --leave-to-expire", "exit 0")), 75);
}

#[test]
fn what_the_command_leaves_running_is_ended_before_the_lock_is_released() {
    let stage = Stage::new();
    let script = "(trap '' TERM; echo $$ > sub; sleep 100; sleep 100) & sleep 100 & echo $! > pid; \
        while ! [ -s sub ]; do sleep 0.01; done; exit 3";
    assert_eq!(code(stage.run("--try --ttl 6s", script)), 3);
    assert!(!is_alive(stage.pid("pid")));
    assert!(!stage.is_held());
}

#[test]
fn signals_are_passed_on_to_the_command() {
    let stage = Stage::new();
    for (signal, name) in [
        (Signal::TERM, "TERM"),
        (Signal::INT, "INT"),
        (Signal::USR1, "USR1"),
    ] {
        let script = format!("trap 'exit 7' {name}; echo $$ > pid; while :; do sleep 0.05; done");
        let tool = Tool::start(stage.run("--try", &script));
        stage.read("pid");
        tool.signal(signal);
        assert_eq!(tool.code(), 7, "{name}");
        assert!(!stage.is_held());
        fs::remove_file(stage.path("pid")).unwrap();
    }
}

#[test]
fn a_command_that_is_stopped_ends_when_it_is_told_to() {
    let stage = Stage::new();
    let tool = Tool::start(stage.run("--try", "echo $$ > pid; while :; do sleep 0.05; done"));
    kill_process_group(stage.pid("pid"), Signal::STOP).unwrap();
    tool.signal(Signal::TERM);
    assert_eq!(tool.code(), 128 + 15);
    assert!(!stage.is_held());
}

/// As `nohup` does it.
#[test]
#[cfg(target_os = "linux")]
fn a_signal_that_was_ignored_stays_ignored() {
    let stage = Stage::new();
    let script = "trap '' HUP; exec \"$0\" run --key k --try -- sh -c \
        'echo $$ > pid; while ! [ -e go ]; do sleep 0.02; done; exit 5'";
    let mut shell = stage.tool([]);
    let name = shell.get_program().to_owned();
    shell = {
        let mut sh = std::process::Command::new("sh");
        sh.args(["-c", script]).arg(name);
        sh.env("LOCK_URL", stage.server.url())
            .current_dir(shell.get_current_dir().unwrap());
        sh
    };
    let tool = Tool::start(shell);
    let command = stage.pid("pid");
    tool.signal(Signal::HUP);
    kill_process(command, Signal::HUP).unwrap();
    std::thread::sleep(SECOND / 5);
    assert!(is_alive(command));
    fs::write(stage.path("go"), "").unwrap();
    assert_eq!(tool.code(), 5);
}

#[test]
fn the_standard_input_is_the_commands() {
    let stage = Stage::new();
    fs::write(stage.path("input"), "one\ntwo\n").unwrap();
    let mut piped = stage.run("--try", "read first; echo $first; cat");
    piped.stdin(fs::File::open(stage.path("input")).unwrap());
    let output = Tool::start(piped).output();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "one\ntwo\n");
    // And nothing of ours is open there.
    let output = Tool::start(stage.run("--try", "ls /dev/fd/ | wc -l")).output();
    let ours = std::process::Command::new("sh")
        .args(["-c", "ls /dev/fd/ | wc -l"])
        .stdin(std::process::Stdio::null())
        .output();
    assert_eq!(output.stdout, ours.unwrap().stdout);
}

#[test]
fn a_signal_while_waiting_ends_the_wait_and_leaves_nothing() {
    let stage = Stage::new();
    stage.server.cli(&["SET", "k", "somebody's"]);
    let tool = Tool::start(stage.run("--wait 100s", "touch ran"));
    eventually("it waits", || {
        stage
            .server
            .cli(&["PUBSUB", "NUMSUB", "{k}:fencelock:wake"])
            .array()[1]
            .integer()
            == 1
    });
    tool.signal(Signal::INT);
    assert_eq!(tool.code(), 128 + 2);
    assert!(!stage.path("ran").exists());
    assert_eq!(stage.server.cli(&["GET", "k"]).text(), "somebody's");
}

#[test]
fn a_command_that_is_not_there_or_no_program_has_the_codes_of_shells() {
    let stage = Stage::new();
    let run = |program: &str| code(stage.tool(["run", "--key", "k", "--try", "--", program]));
    assert_eq!(run("./not-there"), 127);
    fs::write(stage.path("text"), "text").unwrap();
    fs::set_permissions(stage.path("text"), fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(run("./text"), 126);
    assert!(!stage.is_held(), "the lock is given back");
}

#[test]
fn a_store_that_is_down_is_a_code_of_its_own_and_runs_nothing() {
    let mut stage = Stage::new();
    let url = stage.server.url();
    stage.server.stop();
    let output = Tool::start(stage.run("--wait 1s", "touch ran")).output();
    assert_eq!(output.status.code(), Some(69), "{output:?}");
    assert!(!stage.path("ran").exists());
    let mut encrypted = stage.run("--try", "touch ran");
    encrypted.env("LOCK_URL", url.replace("redis://", "rediss://"));
    assert_eq!(code(encrypted), 69, "TLS is known");
    for other in [
        "valkey://h:1",
        "valkeys://127.0.0.1:1",
        "valkey+unix:///nowhere",
        "unix:///nowhere",
    ] {
        let mut command = stage.run("--try", "touch ran");
        command.env("LOCK_URL", other.replace("//h", "//127.0.0.1"));
        assert_eq!(code(command), 69, "{other}");
    }
    let mut refused = stage.run("--try", "touch ran");
    refused.env("LOCK_URL", url.replace("redis://", "redis://user:secret@"));
    let said = String::from_utf8(Tool::start(refused).output().stderr).unwrap();
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn arguments_that_make_no_sense_are_a_code_of_their_own() {
    let stage = Stage::new();
    for wrong in [
        &["run", "--key", "k", "--ttl", "1", "--", "true"][..],
        &["run", "--key", "", "--try", "--", "true"],
        &["run", "--key", "k", "--grace", "29s", "--", "true"],
        &["run", "--key", "k", "--label", "a\nb", "--", "true"],
        &["run", "--key", "k", "--hold-at-most", "10s", "--", "true"],
        &["run", "--key", "k"],
        &["run", "--", "true"],
        &["release", "--key", "k"],
        &["what"],
        &[],
    ] {
        assert_eq!(code(stage.tool(wrong.iter().copied())), 64, "{wrong:?}");
    }
    let mut odd = stage.run("--try", "true");
    odd.env("LOCK_URL", "what://host");
    assert_eq!(code(odd), 64);
    let mut without = stage.run("--try", "true");
    without.env_remove("LOCK_URL");
    let output = Tool::start(without).output();
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("LOCK_URL") && said.contains("--url"),
        "{said}"
    );
    let calls = stage.server.cli(&["INFO", "commandstats"]).text();
    assert!(!calls.contains("cmdstat_eval"), "nothing was sent: {calls}");
}

#[test]
fn the_help_teaches() {
    let stage = Stage::new();
    let help = Tool::start(stage.tool(["run", "--help"])).output();
    assert_eq!(help.status.code(), Some(0));
    let text = String::from_utf8(help.stdout).unwrap();
    for word in [
        "FENCELOCK_TOKEN",
        "FENCELOCK_DEADLINE",
        "SIGKILL",
        "setsid",
        "nohup",
        " 75 ",
        " 79 ",
        " 69 ",
        "--try",
        "LOCK_URL",
    ] {
        assert!(text.contains(word), "{word} is missing in:\n{text}");
    }
}
