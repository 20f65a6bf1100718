//! The server launcher keeps its promises: what it starts it also ends.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use lock_testkit::server::{Program, RedisOptions, RedisServer, Reply};

fn directory(server: &RedisServer) -> PathBuf {
    server.cli(&["CONFIG", "GET", "dir"]).array()[1]
        .text()
        .into()
}

fn lives(pid: u32) -> bool {
    Command::new("kill")
        .args(["-0", &pid.to_string()])
        .status()
        .unwrap()
        .success()
}

#[test]
fn a_server_answers_and_leaves_nothing_behind() {
    let mut server = RedisServer::start();
    assert_eq!(server.cli(&["PING"]).text(), "PONG");
    assert_eq!(
        server.cli(&["SET", "k", "v"]),
        Reply::Status("OK".to_owned())
    );
    assert_eq!(server.cli(&["GET", "nothing"]), Reply::Nil);
    assert!(matches!(server.cli(&["NOT-A-COMMAND"]), Reply::Error(_)));
    let (port, pid, directory) = (server.port(), server.pid(), directory(&server));
    server.restart_empty();
    assert_eq!(server.port(), port);
    assert_ne!(server.pid(), pid);
    assert_eq!(server.cli(&["GET", "k"]), Reply::Nil);
    server.pause();
    server.resume();
    assert_eq!(server.cli(&["PING"]).text(), "PONG");
    let pid = server.pid();
    drop(server);
    assert!(!lives(pid) && !directory.exists());
}

#[test]
fn a_paused_server_and_that_of_a_panicking_test_are_ended_too() {
    let seen = Mutex::new(None);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let server = RedisServer::start();
        *seen.lock().unwrap() = Some((server.pid(), directory(&server)));
        server.pause();
        std::panic::panic_any("a test fails");
    }));
    assert!(outcome.is_err());
    let (pid, directory) = seen.into_inner().unwrap().unwrap();
    assert!(!lives(pid) && !directory.exists());
}

#[test]
fn many_servers_stand_side_by_side() {
    let servers: Vec<_> = (0..8)
        .map(|n| {
            let server = RedisOptions::new()
                .with_password("pw")
                .with_unix_socket()
                .start();
            server.cli(&["SET", "number", &n.to_string()]);
            server
        })
        .collect();
    for (n, server) in servers.iter().enumerate() {
        assert_eq!(server.cli(&["GET", "number"]).text(), n.to_string());
        assert!(server.unix_socket().exists());
        assert_eq!(
            server.url(),
            format!("redis://:pw@127.0.0.1:{}", server.port())
        );
    }
}

/// Set for the process that is to be killed.
const VICTIM: &str = "FENCELOCK_TEST_VICTIM";

/// Not a test by itself: what [`servers_end_with_a_test_process_that_is_killed`] starts and kills.
#[test]
fn a_victim_starts_servers_and_waits() {
    if std::env::var_os(VICTIM).is_none() {
        return;
    }
    let (running, paused) = (RedisServer::start(), RedisServer::start());
    for server in [&running, &paused] {
        println!("\nserver {} {}", server.pid(), directory(server).display());
    }
    paused.pause();
    println!("\nready");
    std::thread::sleep(Duration::from_secs(60));
}

#[test]
fn servers_end_with_a_test_process_that_is_killed() {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args([
            "a_victim_starts_servers_and_waits",
            "--exact",
            "--nocapture",
        ])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut servers = Vec::new();
    for line in BufReader::new(victim.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some(server) = line.strip_prefix("server ") {
            let (pid, directory) = server.split_once(' ').unwrap();
            servers.push((pid.parse().unwrap(), Path::new(directory).to_owned()));
        }
        if line == "ready" {
            break;
        }
    }
    assert_eq!(servers.len(), 2);
    assert!(
        servers
            .iter()
            .all(|(pid, directory)| lives(*pid) && directory.exists())
    );
    victim.kill().unwrap();
    victim.wait().unwrap();
    let gone = || {
        servers
            .iter()
            .all(|(pid, directory)| !lives(*pid) && !directory.exists())
    };
    for _ in 0..1000 {
        if gone() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("still there after ten seconds: {servers:?}");
}

#[test]
fn a_user_may_do_what_its_rules_say() {
    let server = RedisServer::start();
    server.add_user("locks", "pw", "~lock:* +set");
    let may = |command: &[&str]| {
        let dry = [&["ACL", "DRYRUN", "locks"], command].concat();
        server.cli(&dry) == Reply::Status("OK".to_owned())
    };
    assert!(may(&["SET", "lock:a", "v"]));
    assert!(!may(&["SET", "a", "v"]) && !may(&["GET", "lock:a"]));
    let port = server.port();
    assert_eq!(
        server.url_for("locks", "pw"),
        format!("redis://locks:pw@127.0.0.1:{port}")
    );
}

#[test]
fn valkey_is_served_by_the_same_launcher() {
    if !Program::Valkey.is_here() {
        return;
    }
    let server = RedisOptions::new().with_program(Program::Valkey).start();
    assert!(
        server
            .cli(&["INFO", "server"])
            .text()
            .contains("valkey_version:9.")
    );
    server.cli(&["SET", "k", "mine"]);
    assert_eq!(server.cli(&["DELIFEQ", "k", "other"]).integer(), 0);
    assert_eq!(server.cli(&["DELIFEQ", "k", "mine"]).integer(), 1);
}
