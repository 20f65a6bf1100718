//! Replies that no script of ours gives, and what a server says instead of serving.

use futures_util::future::join_all;
use lock_core::{BackendErrorKind, LockBackend, Renew};
use lock_testkit::proxy::Action;
use lock_testkit::server::Reply;

use super::*;

/// Replies that no script of ours gives.
fn odd_replies() -> Vec<(&'static str, Action)> {
    let odd = |reply: &'static str| (reply, Action::inject(reply));
    let cut = |reply: &'static str| (reply, Action::inject(reply).and_cut());
    vec![
        odd("+OK\r\n"),
        odd(":1\r\n"),
        odd("_\r\n"),
        odd("*0\r\n"),
        odd("*1\r\n:1\r\n"),
        odd("*3\r\n$7\r\ngranted\r\n$1\r\n1\r\n$1\r\n1\r\n"),
        odd("*3\r\n+granted\r\n:-5\r\n:-5\r\n"),
        odd("*1\r\n$7\r\ngranted\r\n"),
        odd("%1\r\n+granted\r\n:1\r\n"),
        odd("~1\r\n+held\r\n"),
        odd("-ERR next year's error\r\n"),
        odd("!9\r\nERR what?\r\n"),
        odd("$7\r\ngranted\r\n"),
        odd("#t\r\n"),
        odd("what is this\r\n"),
        cut("*3\r\n$7\r\ngranted\r\n:1\r\n"),
        cut("$10485760\r\nabc"),
        cut("*2147483647\r\n"),
        cut("*3\r\n$7\r\ngra"),
        cut(">1\r\n+odd\r\n"),
    ]
}

/// Replies whose end never comes, or is not there for who knows no such nulls in RESP3.
fn endless_replies() -> Vec<(&'static str, Action)> {
    vec![
        (
            "$10485760\r\nabc",
            Action::inject("$10485760\r\nabc").and_stall(),
        ),
        ("$-1\r\n", Action::inject("$-1\r\n")),
        ("*-1\r\n", Action::inject("*-1\r\n")),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_replies_are_of_unknown_outcome_and_no_grants() {
    let server = RedisServer::start();
    teach(&server).await;
    let odd = odd_replies().into_iter().map(|odd| (odd, lasting()));
    let endless = endless_replies().into_iter().map(|odd| (odd, impatient()));
    // Each on connections of its own, because most of them cost one.
    let each = odd.chain(endless).enumerate();
    join_all(each.map(|(n, (odd, options))| is_of_unknown_outcome(&server, n, odd, options))).await;
}

async fn is_of_unknown_outcome(
    server: &RedisServer,
    number: usize,
    (reply, action): (&str, Action),
    options: LockOptions,
) {
    let proxy = Proxy::start(server.port()).await;
    let key = format!("k{number}");
    let lock = through(&proxy).await.lock(&key).with_options(options);
    let odd = |kind: Match| drop(proxy.on(kind).action(action.clone()));
    odd(Match::acquire().key(&key));
    let error = lock.try_acquire().await.unwrap_err();
    assert!(is_unknown(&error), "{reply:?}: {error}");
    proxy.clear();
    let guard = soon("a grant", lock.acquire()).await.unwrap();
    odd(Match::inspect().key(&key));
    let error = lock.status().await.unwrap_err();
    assert!(is_unknown(&error), "{reply:?}: {error}");
    odd(Match::renew().key(&key));
    let prolonged = guard.extend(SECOND).await;
    assert!(
        prolonged.is_ok() || is_unknown(&prolonged.unwrap_err()),
        "{reply:?}"
    );
    assert!(guard.is_held(), "{reply:?}: {:?}", guard.check());
    odd(release_of_holder(server, &key));
    let error = guard.release().await.unwrap_err();
    assert!(is_unknown(&error), "{reply:?}: {error}");
    // The release is done again in the background.
    given_back(server, &key).await;
}

#[tokio::test]
async fn what_a_server_says_instead_of_serving_is_classified_the_same_for_all_calls() {
    use BackendErrorKind::{Permanent, Transient, Unknown};
    let (server, proxy, locks) = set_up().await;
    let lock = locks.lock("k").with_options(lasting());
    let backend = connected(proxy.url()).await;
    let (other, mine) = (key("other"), owner());
    for (text, kind) in [
        ("LOADING Redis is loading the dataset in memory", Transient),
        ("BUSY Redis is busy running a script.", Transient),
        ("MASTERDOWN Link with MASTER is down", Transient),
        ("CLUSTERDOWN The cluster is down", Transient),
        (
            "TRYAGAIN Multiple keys request during rehashing of slot",
            Transient,
        ),
        (
            "READONLY You can't write against a read only replica.",
            Transient,
        ),
        (
            "MISCONF Redis is configured to save RDB snapshots",
            Transient,
        ),
        (
            "OOM command not allowed when used memory > 'maxmemory'.",
            Transient,
        ),
        ("NOREPLICAS Not enough good replicas to write.", Transient),
        ("NOAUTH Authentication required.", Permanent),
        ("WRONGPASS invalid username-password pair", Permanent),
        (
            "NOPERM this user has no permissions to run 'evalsha'",
            Permanent,
        ),
        (
            "CROSSSLOT Keys in request don't hash to the same slot",
            Permanent,
        ),
        // Of a node of a cluster that is taken for the only server.
        ("MOVED 7 127.0.0.1:1", Permanent),
        ("ASK 7 127.0.0.1:1", Permanent),
        ("ERR Error running script", Unknown),
        ("NEWCODE of next year", Unknown),
    ] {
        let says = |kind: Match| {
            let action = Action::inject(format!("-{text}\r\n"));
            drop(proxy.on(kind).action(action));
        };
        says(Match::acquire().key("k"));
        let error = lock.try_acquire().await.unwrap_err();
        assert_eq!(error.is_retryable(), kind != Permanent, "{text}: {error}");
        assert_eq!(is_unknown(&error), kind == Unknown, "{text}: {error}");
        assert!(!error.is_busy() && !exists(&server, "k"), "{text}");
        // Who waits tries again where that can help.
        says(Match::acquire().key("k"));
        match lock.acquire().await {
            Ok(guard) => {
                assert_ne!(kind, Permanent, "{text}");
                says(release_of_holder(&server, "k"));
                let error = guard.release().await.unwrap_err();
                assert_eq!(is_unknown(&error), kind == Unknown, "{text}: {error}");
            }
            Err(error) => assert_eq!(kind, Permanent, "{text}: {error}"),
        }
        says(Match::renew().key("other"));
        let error = renew(&backend, &other, &mine, SECOND, Renew::AtLeast)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
        says(Match::release().key("other"));
        let error = backend.release(&other, &mine).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
        says(Match::inspect().key("other"));
        let error = backend.inspect(&other).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{text}: {error}");
        proxy.clear();
        given_back(&server, "k").await;
    }
    assert_eq!(server.cli(&["EXISTS", "other"]), Reply::Integer(0));
}

#[tokio::test]
async fn a_connection_on_which_something_senseless_came_is_replaced() {
    let (_server, proxy, locks) = set_up().await;
    let lock = locks.lock("k").with_options(lasting());
    let senseless = [":1\r\n", "*1\r\n:1\r\n", "_\r\n", "+OK\r\n"];
    for reply in senseless {
        let before = proxy.connections();
        let _ = proxy
            .on(Match::inspect().key("k"))
            .action(Action::inject(reply));
        let error = lock.status().await.unwrap_err();
        assert!(is_unknown(&error), "{reply:?}: {error}");
        assert_eq!(lock.status().await.unwrap(), None);
        assert_eq!(proxy.connections(), before + 1, "{reply:?}");
        proxy.clear();
    }
    // An error is an answer like any other.
    let before = proxy.connections();
    let _ = proxy
        .on(Match::inspect().key("k"))
        .action(Action::inject("-ERR next year's error\r\n"));
    assert!(is_unknown(&lock.status().await.unwrap_err()));
    assert_eq!(lock.status().await.unwrap(), None);
    assert_eq!(proxy.connections(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn enormous_replies_are_no_answers_and_are_not_kept() {
    let (server, proxy, locks) = set_up().await;
    let lock = locks.lock("k").with_options(lasting());
    let is_no_answer = async |reply: String| {
        let start: String = reply.chars().take(20).collect();
        let _ = proxy
            .on(Match::acquire().key("k"))
            .action(Action::inject(reply));
        let error = lock.try_acquire().await.unwrap_err();
        assert!(is_unknown(&error), "{start:?}: {error}");
        assert!(format!("{error:?} {error}").len() < 2000, "{start:?}");
        proxy.clear();
    };
    let bulk = |mebibytes: usize| {
        let bytes = (mebibytes << 20).max(1025);
        format!("${bytes}\r\n{}\r\n", "x".repeat(bytes))
    };
    let busy = |label: String| format!("*4\r\n$4\r\nbusy\r\n{label}:1\r\n:1\r\n");
    let text = "x".repeat(10 << 20);
    is_no_answer(busy(bulk(0))).await;
    is_no_answer(busy(bulk(10))).await;
    is_no_answer(bulk(10)).await;
    is_no_answer(format!("*3\r\n$6\r\nfailed\r\n$3\r\nSET\r\n{}", bulk(10))).await;
    is_no_answer(format!("+{text}\r\n")).await;
    is_no_answer(format!("-ERR {text}\r\n")).await;
    is_no_answer(format!("*100000\r\n{}", ":1\r\n".repeat(100_000))).await;
    let before = resident();
    for _ in 0..24 {
        is_no_answer(busy(bulk(4))).await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{} of 96 MiB are kept", grown >> 20);
    given_back(&server, "k").await;
    works(&lock).await;
}
