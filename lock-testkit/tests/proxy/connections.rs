//! What happens to whole connections, and how they end.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use lock_testkit::LeakCheck;
use lock_testkit::proxy::{Action, Gate};

use super::*;

#[tokio::test]
async fn who_sends_no_more_still_gets_what_was_asked_for() {
    let (server, proxy, mut client) = start().await;
    proxy.set_latency(Duration::from_millis(20));
    client.send("PING\r\nINCR n\r\n").await;
    client.0.shutdown().await.unwrap();
    client.sees("+PONG\r\n:1\r\n").await;
    client.sees_the_end().await;
    eventually("the end of the connection", || {
        proxy.open_connections() == 0
    })
    .await;
    // While its replies are stalled or held nobody waits for it.
    proxy.set_latency(Duration::ZERO);
    let _ = proxy.on(incr("a")).action(Action::stall_replies());
    let _ = proxy
        .on(incr("b"))
        .action(Action::hold_replies(&Gate::new()));
    for key in ["a", "b"] {
        let mut client = Client::connect(&proxy).await;
        client.send(&format!("INCR {key}\r\n")).await;
        eventually("it is applied", || number(&server, key) == "1").await;
        client.0.shutdown().await.unwrap();
        client.sees_the_end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_behind_a_held_request_stays_with_its_sender() {
    let (server, proxy, mut client) = start().await;
    let gate = Gate::new();
    let _ = proxy.on(incr("n")).action(Action::hold_request(&gate));
    let value = "x".repeat(1 << 20);
    let text = format!(
        "*3\r\n$6\r\nAPPEND\r\n$1\r\nt\r\n${}\r\n{value}\r\n",
        value.len()
    );
    client.send("INCR n\r\n").await;
    let mut sent = 0;
    while sent < 64
        && timeout(20 * SHORT, client.0.write_all(text.as_bytes()))
            .await
            .is_ok()
    {
        sent += 1;
    }
    assert!(0 < sent && sent < 64, "{sent} MiB are in the proxy");
    gate.open();
    client.sees(":1\r\n").await;
    eventually("what was sent has arrived", || {
        server.cli(&["STRLEN", "t"]).integer() >= sent << 20
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_that_is_too_long_ends_the_connection() {
    let (_server, proxy, mut client) = start().await;
    client.send("*2\r\n$3\r\nGET\r\n$999999999\r\n").await;
    let piece = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < 100 && client.0.write_all(&piece).await.is_ok() {
        sent += 1;
    }
    assert!((64..100).contains(&sent), "{sent} MiB");
    eventually("the end of the connection", || {
        proxy.open_connections() == 0
    })
    .await;
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

/// Processes that are being started have copies of all that is open here.
#[tokio::test]
async fn a_port_is_refused_at_once_and_stays_the_proxys_while_processes_are_started() {
    let (_server, proxy, client) = start().await;
    drop(client);
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let processes = std::thread::spawn(move || {
        while !told.load(Ordering::SeqCst) {
            assert!(Command::new("true").status().unwrap().success());
        }
    });
    for _ in 0..200 {
        proxy.refuse_new().await;
        let error = TcpStream::connect(proxy.address()).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        proxy.serve_new().await;
        let mut client = Client::connect(&proxy).await;
        client.send("PING\r\n").await;
        client.sees("+PONG\r\n").await;
    }
    over.store(true, Ordering::SeqCst);
    processes.join().unwrap();
}

#[tokio::test]
async fn latency_delays_and_does_not_queue() {
    let (_server, proxy, mut client) = start().await;
    let latency = Duration::from_millis(50);
    proxy.set_latency(latency);
    let start = Moment::now();
    for _ in 0..200 {
        client.send("PING\r\n").await;
        tokio::task::yield_now().await;
    }
    client.sees(&"+PONG\r\n".repeat(200)).await;
    let took = start.elapsed();
    assert!(2 * latency <= took && took < 100 * latency, "{took:?}");
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
