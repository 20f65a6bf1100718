//! The server launcher keeps its promises: what it starts it also ends.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use lock_testkit::server::{RedisOptions, RedisServer, Reply};

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
