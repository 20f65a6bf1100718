//! The proxy does to a real server's clients what it says, and nothing else.
#![cfg(unix)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::time::Duration;

use lock_core::Moment;
use lock_testkit::LeakCheck;
use lock_testkit::proxy::{Action, Gate, Match, Proxy};
use lock_testkit::server::RedisServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(100);

/// A client that sends text and reads text.
struct Client(TcpStream);

impl Client {
    async fn connect(proxy: &Proxy) -> Self {
        Self(TcpStream::connect(proxy.address()).await.unwrap())
    }

    async fn send(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads until `text` has come, and nothing else.
    async fn sees(&mut self, text: &str) {
        let mut seen = vec![0; text.len()];
        let read = timeout(LONG, self.0.read_exact(&mut seen)).await;
        assert!(matches!(read, Ok(Ok(_))), "{read:?} instead of {text:?}");
        assert_eq!(String::from_utf8_lossy(&seen), text);
    }

    async fn sees_nothing(&mut self) {
        let read = timeout(SHORT, self.0.read_u8()).await;
        assert!(read.is_err(), "{read:?}");
    }

    async fn sees_the_end(&mut self) {
        let read = timeout(LONG, self.0.read_u8()).await;
        assert!(matches!(read, Ok(Err(_))), "{read:?}");
    }
}

async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Moment::now();
    while !done() {
        assert!(start.elapsed() < LONG, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn start() -> (RedisServer, Proxy, Client) {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let client = Client::connect(&proxy).await;
    (server, proxy, client)
}

fn incr(key: &str) -> Match {
    Match::command(["incr"]).key(key)
}

fn number(server: &RedisServer, key: &str) -> String {
    match server.cli(&["GET", key]) {
        lock_testkit::server::Reply::Nil => "nothing".to_owned(),
        reply => reply.text(),
    }
}

#[tokio::test]
async fn what_is_not_matched_passes_and_is_counted() {
    let (server, proxy, mut client) = start().await;
    let all = proxy.on(Match::any()).count();
    let ours = proxy.on(incr("n")).count();
    client.send("*2\r\n$4\r\nINCR\r\n$1\r\nn\r\n").await;
    client
        .send("INCR other\r\nPING\r\nset n 7\r\nGET n\r\n")
        .await;
    client.sees(":1\r\n:1\r\n+PONG\r\n+OK\r\n$1\r\n7\r\n").await;
    ours.reach(1).await;
    assert_eq!((all.count(), ours.count()), (5, 1));
    assert_eq!((proxy.connections(), proxy.open_connections()), (1, 1));
    drop(client);
    eventually("the end of the connection", || {
        proxy.open_connections() == 0
    })
    .await;
    assert_eq!(number(&server, "n"), "7");
}

#[tokio::test]
async fn scripts_are_matched_by_their_keys_and_kind() {
    let (_server, proxy, mut client) = start().await;
    let acquires = proxy.on(Match::acquire().key("k")).count();
    let renewals = proxy.on(Match::renew().key("k2")).count();
    let releases = proxy.on(Match::release().key("k")).count();
    let looks = proxy.on(Match::inspect().key("k")).count();
    client
        .send("EVAL s 2 k k:fence owner 10 1 from 9 1\r\n")
        .await;
    client
        .send("EVALSHA s 2 other other:fence owner 10 1\r\n")
        .await;
    client.send("EVALSHA s 2 k1 k2 o 10 1 o 10 1\r\n").await;
    client.send("evalsha s 1 k owner k:wake PUBLISH\r\n").await;
    client.send("EVALSHA s 2 k k:fence\r\n").await;
    client
        .send("EVALSHA s 99 k\r\nEVALSHA s x k\r\nPING\r\n")
        .await;
    eventually("all have come", || looks.count() == 1).await;
    assert_eq!(acquires.count(), 1);
    assert_eq!((renewals.count(), releases.count()), (1, 1));
}

#[tokio::test]
async fn stalled_replies_are_those_from_the_one_that_was_meant() {
    let (server, proxy, mut client) = start().await;
    let _ = proxy.on(incr("n")).nth(2).action(Action::stall_replies());
    client.send("INCR n\r\nINCR n\r\nINCR n\r\nPING\r\n").await;
    client.sees(":1\r\n").await;
    client.sees_nothing().await;
    eventually("the server got them", || number(&server, "n") == "3").await;
    let mut other = Client::connect(&proxy).await;
    other.send("INCR n\r\n").await;
    other.sees(":4\r\n").await;
    drop(client);
    eventually("one connection is left", || proxy.open_connections() == 1).await;
}

#[tokio::test]
async fn a_cut_is_before_or_after_the_server_got_the_request() {
    let (server, proxy, mut client) = start().await;
    let _ = proxy
        .on(incr("after"))
        .action(Action::cut_after_forwarding());
    let _ = proxy
        .on(incr("before"))
        .action(Action::cut_before_forwarding());
    client.send("PING\r\nINCR after\r\n").await;
    client.sees("+PONG\r\n").await;
    client.sees_the_end().await;
    assert_eq!(number(&server, "after"), "1");

    let mut client = Client::connect(&proxy).await;
    client.send("PING\r\nINCR before\r\nINCR later\r\n").await;
    client.sees("+PONG\r\n").await;
    client.sees_the_end().await;
    eventually("the end of the connections", || {
        proxy.open_connections() == 0
    })
    .await;
    assert_eq!(number(&server, "before"), "nothing");
    assert_eq!(number(&server, "later"), "nothing");
}

#[tokio::test]
async fn a_held_request_waits_with_those_behind_it_until_the_gate_opens() {
    let (server, proxy, mut client) = start().await;
    let gate = Gate::new();
    let held = proxy.on(incr("n")).action(Action::hold_request(&gate));
    client.send("PING\r\nINCR n\r\nINCR m\r\n").await;
    client.sees("+PONG\r\n").await;
    held.reach(1).await;
    client.sees_nothing().await;
    assert_eq!(number(&server, "m"), "nothing");
    gate.open();
    client.sees(":1\r\n:1\r\n").await;
}

#[tokio::test]
async fn a_zombie_reaches_the_server_after_its_client_has_gone() {
    let (server, proxy, mut client) = start().await;
    let (cut, left) = (Gate::new(), Gate::new());
    let _ = proxy
        .on(incr("cut"))
        .action(Action::hold_request_and_cut(&cut));
    let held = proxy.on(incr("left")).action(Action::hold_request(&left));
    client.send("PING\r\nINCR cut\r\n").await;
    client.sees("+PONG\r\n").await;
    client.sees_the_end().await;
    let mut client = Client::connect(&proxy).await;
    client.send("INCR left\r\n").await;
    held.reach(1).await;
    drop(client);
    tokio::time::sleep(SHORT).await;
    assert_eq!(number(&server, "cut"), "nothing");
    assert_eq!(number(&server, "left"), "nothing");
    cut.open();
    left.open();
    eventually("they arrive", || {
        number(&server, "cut") == "1" && number(&server, "left") == "1"
    })
    .await;
    eventually("the end of the connections", || {
        proxy.open_connections() == 0
    })
    .await;
}

#[tokio::test]
async fn held_replies_come_together_when_the_gate_opens() {
    let (server, proxy, mut client) = start().await;
    let gate = Gate::new();
    let _ = proxy.on(incr("n")).action(Action::hold_replies(&gate));
    client.send("PING\r\nINCR n\r\nINCR n\r\n").await;
    client.sees("+PONG\r\n").await;
    client.sees_nothing().await;
    eventually("the server got them", || number(&server, "n") == "2").await;
    gate.open();
    client.sees(":1\r\n:2\r\n").await;
}

#[tokio::test]
async fn an_injected_reply_stands_where_the_servers_would() {
    let (server, proxy, mut client) = start().await;
    let _ = proxy
        .on(incr("n"))
        .nth(1)
        .action(Action::inject("-BUSY later\r\n"));
    let _ = proxy
        .on(incr("n"))
        .nth(2)
        .action(Action::replace_reply("_\r\n"));
    let _ = proxy
        .on(incr("n"))
        .nth(3)
        .action(Action::replace_reply("*2\r\n:1").and_stall());
    client
        .send("PING\r\nINCR n\r\nPING\r\nINCR n\r\nINCR n\r\nPING\r\n")
        .await;
    client
        .sees("+PONG\r\n-BUSY later\r\n+PONG\r\n_\r\n*2\r\n:1")
        .await;
    client.sees_nothing().await;
    eventually("the server got two", || number(&server, "n") == "2").await;
    let _ = proxy
        .on(incr("m"))
        .action(Action::inject("$9\r\n").and_cut());
    let mut client = Client::connect(&proxy).await;
    client.send("INCR m\r\n").await;
    client.sees("$9\r\n").await;
    client.sees_the_end().await;
    assert_eq!(number(&server, "m"), "nothing");
}

#[tokio::test]
async fn a_black_hole_is_open_and_silent_in_both_directions() {
    let (server, proxy, mut client) = start().await;
    let falls = proxy.on(incr("n")).action(Action::blackhole());
    client.send("PING\r\nINCR n\r\nINCR m\r\n").await;
    client.sees("+PONG\r\n").await;
    falls.reach(1).await;
    client.sees_nothing().await;
    assert_eq!(number(&server, "n"), "nothing");

    let mut client = Client::connect(&proxy).await;
    client.send("PING\r\n").await;
    client.sees("+PONG\r\n").await;
    proxy.blackhole();
    tokio::time::sleep(SHORT).await;
    client.send("INCR m\r\n").await;
    client.sees_nothing().await;
    assert_eq!(number(&server, "m"), "nothing");
    // New ones are served until they are to be ignored too.
    let mut new = Client::connect(&proxy).await;
    new.send("PING\r\n").await;
    new.sees("+PONG\r\n").await;
    proxy.ignore_new().await;
    tokio::time::sleep(SHORT).await;
    let mut ignored = Client::connect(&proxy).await;
    ignored.send("PING\r\n").await;
    ignored.sees_nothing().await;
    proxy.reset_all();
    for mut client in [client, new, ignored] {
        let error = timeout(LONG, client.0.read_u8())
            .await
            .unwrap()
            .unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    eventually("no connection is left", || proxy.open_connections() == 0).await;
}

#[tokio::test]
async fn refused_connections_are_refused_as_by_a_closed_port() {
    let (_server, proxy, mut client) = start().await;
    client.send("PING\r\n").await;
    client.sees("+PONG\r\n").await;
    proxy.refuse_new().await;
    let error = TcpStream::connect(proxy.address()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    client.send("PING\r\n").await;
    client.sees("+PONG\r\n").await;
    proxy.serve_new().await;
    let mut client = Client::connect(&proxy).await;
    client.send("PING\r\n").await;
    client.sees("+PONG\r\n").await;
}

#[tokio::test]
async fn latency_delays_and_does_not_queue() {
    let (_server, proxy, mut client) = start().await;
    let latency = Duration::from_millis(50);
    proxy.set_latency(latency);
    let start = Moment::now();
    for _ in 0..40 {
        client.send("PING\r\n").await;
        tokio::task::yield_now().await;
    }
    client.sees(&"+PONG\r\n".repeat(40)).await;
    let took = start.elapsed();
    assert!(2 * latency <= took && took < 20 * latency, "{took:?}");
    proxy.set_latency(Duration::ZERO);
    client.send("PING\r\n").await;
    client.sees("+PONG\r\n").await;
}

#[tokio::test]
async fn slices_arrive_whole() {
    let (server, proxy, mut client) = start().await;
    proxy.slice(1);
    let text = "x".repeat(3000);
    client
        .send(&format!(
            "*3\r\n$3\r\nSET\r\n$1\r\nt\r\n$3000\r\n{text}\r\nGET t\r\n"
        ))
        .await;
    client.sees(&format!("+OK\r\n$3000\r\n{text}\r\n")).await;
    assert_eq!(number(&server, "t"), text);
}

#[tokio::test]
async fn lost_messages_lose_no_confirmation() {
    let (server, proxy, _) = start().await;
    for (hello, kind) in [("", '*'), ("HELLO 3\r\n", '>')] {
        proxy.lose_messages(true);
        let mut client = Client::connect(&proxy).await;
        client.send(hello).await;
        if !hello.is_empty() {
            let mut greeting = vec![0; 4096];
            assert!(client.0.read(&mut greeting).await.unwrap() > 0);
        }
        client.send("SUBSCRIBE a b\r\n").await;
        client
            .sees(&format!("{kind}3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"))
            .await;
        client
            .sees(&format!("{kind}3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n"))
            .await;
        assert_eq!(server.cli(&["PUBLISH", "a", "lost"]).integer(), 1);
        client.sees_nothing().await;
        proxy.lose_messages(false);
        server.cli(&["PUBLISH", "b", "m"]);
        client
            .sees(&format!(
                "{kind}3\r\n$7\r\nmessage\r\n$1\r\nb\r\n$1\r\nm\r\n"
            ))
            .await;
        // Replies are still counted right.
        let _ = proxy
            .on(Match::command(["PING"]))
            .nth(2)
            .action(Action::cut_after_forwarding());
        client.send("UNSUBSCRIBE b\r\nPING\r\nPING\r\n").await;
        client
            .sees(&format!(
                "{kind}3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:1\r\n"
            ))
            .await;
        let pong = if kind == '>' {
            "+PONG\r\n"
        } else {
            "*2\r\n$4\r\npong\r\n$0\r\n\r\n"
        };
        client.sees(pong).await;
        client.sees_the_end().await;
        proxy.clear();
    }
}

#[tokio::test]
async fn a_dropped_proxy_leaves_no_task_and_no_connection() {
    let server = RedisServer::start();
    let leaks = LeakCheck::start();
    let gate = Gate::new();
    let proxy = Proxy::start(server.port()).await;
    let held = proxy.on(incr("held")).action(Action::hold_request(&gate));
    let stalled = proxy.on(incr("stalled")).action(Action::stall_replies());
    let mut clients = Vec::new();
    for text in ["PING\r\n", "INCR held\r\n", "INCR stalled\r\n"] {
        let mut client = Client::connect(&proxy).await;
        client.send(text).await;
        clients.push(client);
    }
    held.reach(1).await;
    stalled.reach(1).await;
    clients[0].sees("+PONG\r\n").await;
    assert!(leaks.extra() > 0);
    drop(proxy);
    leaks.assert_none(LONG).await;
    for mut client in clients {
        client.sees_the_end().await;
    }
    eventually("the server's connections", || {
        server.cli(&["CLIENT", "LIST"]).text().lines().count() == 1
    })
    .await;
    gate.open();
    assert_eq!(number(&server, "held"), "nothing");
}
