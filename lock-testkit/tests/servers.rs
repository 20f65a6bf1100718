//! Servers that stand together do what their kind promises, so that tests may rely on it.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::time::Duration;

use lock_testkit::server::{
    Program, RedisCluster, RedisOptions, RedisReplicas, RedisSentinel, RedisServer, Reply,
};

fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within ten seconds: {what}");
}

fn text(server: &RedisServer, key: &str) -> Option<String> {
    match server.cli(&["GET", key]) {
        Reply::Nil => None,
        reply => Some(reply.text()),
    }
}

/// `server` gets to know that `key` holds this.
fn has(server: &RedisServer, key: &str, expected: &str) {
    eventually("replication", || {
        text(server, key).as_deref() == Some(expected)
    });
}

fn replicas_follow_until_they_are_cut_off(options: &RedisOptions) {
    let pair = RedisReplicas::with(options, 2);
    pair.primary.cli(&["SET", "k", "1"]);
    for replica in &pair.replicas {
        has(replica, "k", "1");
    }

    pair.pause_replication();
    pair.primary.cli(&["SET", "k", "2"]);
    assert!(
        pair.replicas
            .iter()
            .all(|replica| text(replica, "k").as_deref() == Some("1"))
    );
    pair.resume_replication();
    for replica in &pair.replicas {
        has(replica, "k", "2");
    }

    pair.pause_replication();
    pair.primary.cli(&["SET", "k", "3"]);
    let promoted = pair.promote(0);
    assert_eq!(text(promoted, "k").as_deref(), Some("2"));
    assert_eq!(
        promoted.cli(&["SET", "k", "4"]),
        Reply::Status("OK".to_owned())
    );
    assert!(matches!(
        pair.replicas[1].cli(&["SET", "k", "5"]),
        Reply::Error(_)
    ));
}

#[test]
fn replicas_of_redis_follow_until_they_are_cut_off() {
    replicas_follow_until_they_are_cut_off(&RedisOptions::new());
}

#[test]
fn replicas_of_valkey_follow_until_they_are_cut_off() {
    if Program::Valkey.is_here() {
        replicas_follow_until_they_are_cut_off(&RedisOptions::new().with_program(Program::Valkey));
    }
}

#[test]
fn sentinels_replace_a_primary_that_is_killed() {
    let mut sentinel = RedisSentinel::start();
    let before = sentinel.primary_index();
    sentinel.primary().cli(&["SET", "k", "1"]);
    has(&sentinel.servers[1 - before], "k", "1");
    sentinel.pause_replication();
    sentinel.primary().cli(&["SET", "k", "2"]);
    assert_eq!(sentinel.kill_primary(), before);
    let now = sentinel.wait_for_failover(before);
    assert_eq!(text(now, "k").as_deref(), Some("1"));
}

#[test]
fn a_cluster_moves_slots_and_replaces_masters() {
    let mut cluster = RedisCluster::start_with_replicas();
    assert_eq!(cluster.urls().len(), 6);
    let slot = cluster.slot_of("a");
    let (from, to) = (cluster.master_of(slot), (cluster.master_of(slot) + 1) % 3);
    assert_eq!(cluster.server_of("a").port(), cluster.nodes[from].port());
    for key in ["{a}1", "{a}2"] {
        cluster.nodes[from].cli(&["SET", key, "v"]);
    }
    let error = |node: usize, command: &[&str]| match cluster.nodes[node].cli(command) {
        Reply::Error(text) => text.split(' ').next().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(error(to, &["GET", "{a}1"]), "MOVED");
    cluster.begin_move(slot, to);
    assert_eq!(cluster.move_keys(slot, to, 1), 1);
    assert_eq!(error(from, &["MGET", "{a}1", "{a}2"]), "TRYAGAIN");
    assert_eq!(error(from, &["GET", "{a}3"]), "ASK");
    assert_eq!(cluster.move_keys(slot, to, 10), 1);
    cluster.end_move(slot, to);
    assert_eq!(cluster.master_of(slot), to);
    assert_eq!(
        cluster.nodes[to]
            .cli(&["MGET", "{a}1", "{a}2"])
            .array()
            .len(),
        2
    );

    cluster.nodes[to].cli(&["SET", "a", "1"]);
    // A replica tells others' keys apart from none only if it is asked for reading.
    eventually("the replica has it", || {
        cluster.nodes[to + 3].cli(&["DBSIZE"]).integer() == 3
    });
    cluster.pause_replication(to);
    cluster.nodes[to].cli(&["SET", "a", "2"]);
    cluster.nodes[to].stop();
    let now = cluster.wait_for_failover(slot, to);
    assert_eq!(text(now, "a").as_deref(), Some("1"));
    assert_eq!(now.cli(&["SET", "a", "3"]), Reply::Status("OK".to_owned()));
}

#[test]
fn a_cluster_of_valkey_forms_too() {
    if Program::Valkey.is_here() {
        let options = RedisOptions::new().with_program(Program::Valkey);
        let cluster = RedisCluster::with(&options, 3, 0);
        let owners: Vec<_> = [0, 8000, 16383].map(|slot| cluster.master_of(slot)).into();
        assert_eq!(owners, [0, 1, 2]);
    }
}

#[cfg(feature = "tls")]
#[test]
fn a_server_over_tls_speaks_nothing_else_and_the_oracle_reaches_it() {
    use std::io::{Read, Write};

    use lock_testkit::server::Authority;

    let authority = Authority::new();
    assert!(
        authority
            .certificate()
            .starts_with("-----BEGIN CERTIFICATE")
    );
    for identity in [
        authority.localhost(),
        authority.elsewhere(),
        authority.expired(),
    ] {
        let mut server = RedisOptions::new()
            .with_tls(identity)
            .with_password("pw")
            .start();
        assert_eq!(server.cli(&["PING"]).text(), "PONG");
        assert_eq!(
            server.url(),
            format!("rediss://:pw@localhost:{}", server.port())
        );
        let mut plain = std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap();
        plain.write_all(b"PING\r\n").unwrap();
        let mut answer = Vec::new();
        let _ = plain.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"+PONG") && !answer.starts_with(b"-NOAUTH"));
        server.restart();
        assert_eq!(server.cli(&["PING"]).text(), "PONG");
    }
}
