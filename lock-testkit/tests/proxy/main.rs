//! The proxy does to a real server's clients what it says, and nothing else.
#![cfg(unix)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod connections;
mod faults;

use std::time::Duration;

use lock_core::Moment;
use lock_testkit::proxy::{Action, Match, Proxy};
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
        .send("EVAL s 2 k {k}:fencelock:fence owner 10 1 from 9 1\r\n")
        .await;
    client
        .send("EVALSHA s 2 other {other}:fencelock:fence owner 10 1\r\n")
        .await;
    client
        .send("EVALSHA s 2 k2 border:fence o 10 1 o 10 1\r\n")
        .await;
    client.send("evalsha s 1 k owner k:wake PUBLISH\r\n").await;
    client
        .send("EVALSHA s 2 k {k}:fencelock:fence k:wake PUBLISH 10\r\n")
        .await;
    client.send("EVALSHA s 2 k {k}:fencelock:fence\r\n").await;
    client
        .send("EVALSHA s 99 k\r\nEVALSHA s x k\r\nPING\r\n")
        .await;
    eventually("all have come", || looks.count() == 1).await;
    assert_eq!(acquires.count(), 1);
    assert_eq!((renewals.count(), releases.count()), (1, 1));
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
