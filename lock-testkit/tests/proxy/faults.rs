//! What happens to one request and its reply.

use lock_testkit::proxy::{Action, Gate};

use super::*;

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

/// Whatever the order in which the proxy notices things: the server's reply to the next request may be there already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn injected_replies_keep_their_places_among_pipelined_ones() {
    let (server, proxy, mut client) = start().await;
    let _ = proxy
        .on(incr("strange"))
        .always()
        .action(Action::inject("+strange\r\n"));
    let (rounds, pairs) = (100, 50);
    let text = "INCR strange\r\nINCR n\r\nINCR strange\r\nINCR strange\r\nINCR n\r\n".repeat(pairs);
    for round in 0..rounds {
        client.send(&text).await;
        for pair in 0..pairs {
            let n = 2 * (round * pairs + pair);
            client
                .sees(&format!(
                    "+strange\r\n:{}\r\n+strange\r\n+strange\r\n:{}\r\n",
                    n + 1,
                    n + 2
                ))
                .await;
        }
    }
    assert_eq!(number(&server, "strange"), "nothing");
}
