//! Replies and requests that are lost, late or garbled between `Locks` and a real server, and what is known afterwards.
#![cfg(unix)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod common;

use std::time::Duration;

use common::{
    MS, SECOND, busy, entries, eventually, exists, key, locks, owner, pttl, renew, soon, take,
    token,
};
use futures_util::future::join_all;
use lock_core::{
    BackendErrorKind, LockBackend, LockError, LockGuard, LockOptions, Locks, LossReason, Moment,
    Released, Renew,
};
use lock_redis::RedisBackend;
use lock_testkit::LeakCheck;
use lock_testkit::proxy::{Action, Gate, Match, Proxy};
use lock_testkit::server::{RedisServer, Reply};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

/// How late something may be on a busy machine.
const SLACK: Duration = SECOND;

/// A server that knows the scripts, so that each call is one request; and locks on it through a proxy.
async fn set_up() -> (RedisServer, Proxy, Locks) {
    let server = RedisServer::start();
    let direct = locks(&server).await;
    let guard = direct.lock("warm").try_acquire().await.unwrap();
    guard.extend(SECOND).await.unwrap();
    direct.lock("warm").status().await.unwrap();
    guard.release().await.unwrap();
    let proxy = Proxy::start(server.port()).await;
    let locks = through(&proxy).await;
    (server, proxy, locks)
}

/// Locks on a client of their own that goes through `proxy`.
async fn through(proxy: &Proxy) -> Locks {
    Locks::new(RedisBackend::connect(proxy.url()).await.unwrap())
}

/// Within which time what is unknown has been given back.
fn clean(op_timeout: Duration) -> Duration {
    2 * op_timeout + 200 * MS + SLACK
}

async fn gone_within(server: &RedisServer, key: &str, within: Duration) {
    let start = Moment::now();
    while exists(server, key) {
        assert!(
            start.elapsed() < within,
            "{key} is still there after {within:?}"
        );
        sleep(5 * MS).await;
    }
}

fn is_unknown(error: &LockError) -> bool {
    matches!(error, LockError::Unknown { .. })
}

#[tokio::test]
async fn the_proxy_knows_our_scripts() {
    let (_server, proxy, locks) = set_up().await;
    let kinds = [
        Match::acquire(),
        Match::renew(),
        Match::release(),
        Match::inspect(),
    ];
    let counts = kinds.map(|kind| proxy.on(kind.key("k")).count());
    let lock = locks.lock("k");
    let guard = lock.try_acquire().await.unwrap();
    guard.extend(SECOND).await.unwrap();
    guard.renew_for(2 * SECOND).await.unwrap();
    lock.status().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert_eq!(counts.map(|count| count.count()), [1, 2, 1, 1]);
}

#[tokio::test]
async fn the_time_that_a_reply_took_is_not_believed_in() {
    let (server, proxy, locks) = set_up().await;
    let ttl = 3 * SECOND;
    let late = 300 * MS;
    let most = ttl - late - ttl / 100 - 2 * MS;
    let gate = Gate::new();
    let acquires = proxy
        .on(Match::acquire().key("k"))
        .action(Action::hold_replies(&gate));
    let lock = locks.lock("k").with_ttl(ttl);
    let opens = async {
        acquires.reach(1).await;
        sleep(late).await;
        gate.open();
    };
    let (guard, ()) = tokio::join!(lock.try_acquire(), opens);
    let guard = guard.unwrap();
    assert!(guard.remaining() <= most, "{:?}", guard.remaining());
    guard.release().await.unwrap();

    // After a wait it is the winning attempt that counts: neither the first one nor its reply.
    let other = common::locks(&server)
        .await
        .lock("k")
        .try_acquire()
        .await
        .unwrap();
    let waiting = Handle::current().spawn(async move { lock.acquire().await });
    sleep(4 * SECOND).await;
    let gate = Gate::new();
    let acquires = proxy
        .on(Match::acquire().key("k"))
        .action(Action::hold_replies(&gate));
    other.release().await.unwrap();
    acquires.reach(1).await;
    sleep(late).await;
    gate.open();
    let guard = soon("the waiter's turn", waiting).await.unwrap().unwrap();
    assert!(guard.remaining() <= most, "{:?}", guard.remaining());
    assert!(guard.remaining() > ttl / 2, "{:?}", guard.remaining());
}

#[tokio::test]
async fn a_release_whose_reply_is_lost_is_unknown_and_leaves_the_next_holder_alone() {
    let (server, proxy, locks) = set_up().await;
    let other = common::locks(&server).await.lock("k").with_ttl(30 * SECOND);
    for _ in 0..3 {
        let releases = proxy
            .on(Match::release().key("k"))
            .action(Action::cut_after_forwarding());
        let guard = locks
            .lock("k")
            .with_ttl(2 * SECOND)
            .try_acquire()
            .await
            .unwrap();
        let error = guard.release().await.unwrap_err();
        assert!(is_unknown(&error), "{error}");
        let next = other.try_acquire().await.unwrap();
        let value = server.cli(&["GET", "k"]);
        // It is released once more in the background, which is the other's lock by now.
        releases.reach(2).await;
        sleep(100 * MS).await;
        assert_eq!(server.cli(&["GET", "k"]), value);
        assert!(pttl(&server, "k") > 25_000);
        assert!(next.is_held());
        assert_eq!(next.release().await.unwrap(), Released::Released);
        proxy.clear();
    }
    // On the level of the backend a second release is no error either.
    let backend = RedisBackend::connect(proxy.url()).await.unwrap();
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    let _ = proxy
        .on(Match::release().key("k"))
        .action(Action::cut_after_forwarding());
    assert!(
        backend
            .release(&key, &mine)
            .await
            .unwrap_err()
            .may_have_been_applied()
    );
    assert_eq!(
        backend.release(&key, &mine).await.unwrap(),
        lock_core::Ownership::Absent
    );
}

#[tokio::test]
async fn a_release_that_comes_late_leaves_the_next_holder_alone() {
    let (server, proxy, locks) = set_up().await;
    let gate = Gate::new();
    let _ = proxy
        .on(Match::release().key("k"))
        .action(Action::hold_request_and_cut(&gate));
    let guard = locks
        .lock("k")
        .with_ttl(2 * SECOND)
        .try_acquire()
        .await
        .unwrap();
    let error = guard.release().await.unwrap_err();
    assert!(is_unknown(&error), "{error}");
    gone_within(&server, "k", clean(400 * MS)).await;
    let next = locks.lock("k").try_acquire().await.unwrap();
    let releases = common::calls(&server, "evalsha");
    gate.open();
    eventually("the zombie arrives", async || {
        common::calls(&server, "evalsha") > releases
    })
    .await;
    assert_eq!(next.release().await.unwrap(), Released::Released);
}

#[tokio::test]
async fn an_acquire_that_arrives_after_it_was_given_up_is_gone_by_the_second_release() {
    let (server, proxy, locks) = set_up().await;
    let (ttl, op_timeout) = (20 * SECOND, SECOND);
    let options = LockOptions::default()
        .with_ttl(ttl)
        .with_op_timeout(op_timeout);
    let gate = Gate::new();
    let _ = proxy
        .on(Match::acquire().key("k"))
        .action(Action::hold_request_and_cut(&gate));
    let releases = proxy.on(Match::release().key("k")).count();
    let error = locks
        .lock("k")
        .with_options(options)
        .try_acquire()
        .await
        .unwrap_err();
    assert!(is_unknown(&error), "{error}");
    let start = Moment::now();
    releases.reach(1).await;
    sleep(100 * MS).await;
    assert!(!exists(&server, "k"));
    gate.open();
    eventually("the zombie arrives", async || exists(&server, "k")).await;
    gone_within(&server, "k", clean(op_timeout) - start.elapsed()).await;
    assert_eq!(releases.count(), 2);
    let guard = locks.lock("k").try_acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test]
async fn an_acquire_whose_reply_is_lost_is_unknown_and_given_back() {
    let (server, proxy, locks) = set_up().await;
    let ttl = 10 * SECOND;
    let lock = locks.lock("k").with_ttl(ttl);
    for action in [Action::cut_after_forwarding(), Action::stall_replies()] {
        let _ = proxy.on(Match::acquire().key("k")).action(action.clone());
        let error = lock.try_acquire().await.unwrap_err();
        assert!(is_unknown(&error), "{error}");
        gone_within(&server, "k", clean(ttl / 5)).await;
        // One who waits and tries again gets it under another owner, long before the first entry would have ended.
        let acquires = proxy.on(Match::acquire().key("k")).action(action);
        let start = Moment::now();
        let guard = soon("a grant", lock.acquire()).await.unwrap();
        assert!(start.elapsed() < ttl - SECOND, "{:?}", start.elapsed());
        assert!(acquires.count() >= 2);
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        proxy.clear();
        proxy.reset_all();
        eventually("a connection that answers", async || {
            lock.status().await.is_ok()
        })
        .await;
    }
}

#[tokio::test]
async fn an_acquire_that_never_reached_the_server_is_unknown_and_may_be_tried_again() {
    let (server, proxy, locks) = set_up().await;
    let _ = proxy
        .on(Match::acquire().key("k"))
        .action(Action::cut_before_forwarding());
    let error = locks.lock("k").try_acquire().await.unwrap_err();
    assert!(is_unknown(&error) && error.is_retryable(), "{error}");
    assert!(!exists(&server, "k"));
    let guard = locks.lock("k").acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test]
async fn a_copy_of_an_acquire_is_the_same_grant() {
    let (_server, proxy, _) = set_up().await;
    let backend = RedisBackend::connect(proxy.url()).await.unwrap();
    let (key, mine) = (key("k"), owner());
    let _ = proxy
        .on(Match::acquire().key("k"))
        .action(Action::cut_after_forwarding());
    let lost = common::attempt(&backend, &key, &mine).await.unwrap_err();
    assert!(lost.may_have_been_applied(), "{lost}");
    let first = take(&backend, &key, &mine).await;
    let second = take(&backend, &key, &mine).await;
    assert_eq!(first, second);
    busy(common::attempt(&backend, &key, &owner()).await);
}

#[tokio::test]
async fn on_a_link_that_is_slow_for_the_ttl_grants_are_late_and_few() {
    let (server, proxy, locks) = set_up().await;
    let options = LockOptions::default()
        .with_ttl(SECOND)
        .with_op_timeout(900 * MS);
    let lock = locks.lock("k").with_options(options);
    let acquires = proxy.on(Match::acquire().key("k")).count();
    proxy.set_latency(300 * MS);
    let error = lock.try_acquire().await.unwrap_err();
    assert!(matches!(error, LockError::Late { .. }), "{error}");
    let start = Moment::now();
    let error = lock.with_wait(4 * SECOND).acquire().await.unwrap_err();
    assert!(
        matches!(error, LockError::Late { .. } | LockError::Unknown { .. }),
        "{error}"
    );
    // A round trip for each attempt and one for giving it back.
    let most = 2 + start.elapsed().as_millis() as u64 / 1100;
    assert!(
        2 <= acquires.count() && acquires.count() <= most,
        "{} of {most}",
        acquires.count()
    );
    gone_within(&server, "k", clean(900 * MS)).await;
    proxy.set_latency(Duration::ZERO);
    let guard = locks.lock("k").with_ttl(SECOND).acquire().await.unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

/// Holds `k` for `time`; it must be held all the while, and never be believed in for longer than the server keeps it.
async fn stays_held(server: &RedisServer, guard: &LockGuard, time: Duration) {
    let start = Moment::now();
    while start.elapsed() < time {
        let looked = Moment::now();
        let believed = guard.remaining();
        let left = Duration::from_millis(u64::try_from(pttl(server, "k")).unwrap());
        assert!(
            believed <= left + looked.elapsed() + MS,
            "{believed:?} of {left:?}"
        );
        assert!(guard.is_held(), "{:?}", guard.check());
        sleep(5 * MS).await;
    }
}

#[tokio::test]
async fn one_renewal_that_fails_loses_no_lock() {
    let cases = [
        Action::cut_before_forwarding(),
        Action::cut_after_forwarding(),
        Action::inject("-BUSY Redis is busy running a script.\r\n"),
        Action::inject("-ERR something\r\n"),
        Action::inject(":1\r\n"),
        Action::replace_reply("_\r\n"),
    ];
    join_all(cases.map(async |action| {
        let (server, proxy, locks) = set_up().await;
        let ttl = 2 * SECOND;
        let renewals = proxy.on(Match::renew().key("k")).action(action);
        let guard = locks.lock("k").with_ttl(ttl).try_acquire().await.unwrap();
        stays_held(&server, &guard, ttl * 3 / 2).await;
        assert!(renewals.count() >= 3, "{}", renewals.count());
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }))
    .await;
}

#[tokio::test]
async fn a_connection_that_falls_silent_under_a_holder_loses_no_lock() {
    let cases = [Action::stall_replies(), Action::blackhole()];
    join_all(cases.map(async |action| {
        let (server, proxy, locks) = set_up().await;
        let ttl = 5 * SECOND;
        let guard = locks.lock("k").with_ttl(ttl).try_acquire().await.unwrap();
        let renewals = proxy.on(Match::renew().key("k")).action(action);
        renewals.reach(1).await;
        stays_held(&server, &guard, ttl).await;
        assert_eq!(proxy.connections(), 2);
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }))
    .await;
}

#[tokio::test]
async fn renewals_that_are_never_answered_are_tried_again_until_the_deadline() {
    let cases = [
        Action::stall_replies(),
        Action::cut_after_forwarding(),
        Action::cut_before_forwarding(),
        Action::inject("-LOADING Redis is loading the dataset in memory\r\n"),
    ];
    join_all(cases.map(async |action| {
        let (_server, proxy, locks) = set_up().await;
        let renewals = proxy.on(Match::renew().key("k")).always().action(action);
        let guard = locks
            .lock("k")
            .with_ttl(2 * SECOND)
            .try_acquire()
            .await
            .unwrap();
        let (start, left) = (Moment::now(), guard.remaining());
        assert_eq!(
            soon("the loss", guard.lost()).await,
            LossReason::Unconfirmed
        );
        assert!(!guard.is_held());
        // A deadline that moves with renewals that nobody heard of would be at least a third of a ttl later.
        assert!(
            start.elapsed() < left + 500 * MS,
            "{:?} of {left:?}",
            start.elapsed()
        );
        assert!((2..200).contains(&renewals.count()), "{}", renewals.count());
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_acquires_cut_short_on_a_slow_link_leave_nothing() {
    let leaks = LeakCheck::start();
    let (server, proxy, locks) = set_up().await;
    proxy.set_latency(5 * MS);
    let lock = locks.lock("k").with_ttl(10 * SECOND);
    for _ in 0..1000 {
        if let Ok(taken) = timeout(MS, lock.acquire()).await {
            drop(taken.unwrap());
        }
    }
    let guard = soon("the last one", lock.acquire()).await.unwrap();
    assert!(exists(&server, "k"));
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    // A subscription of its own for who found the lock busy, which ends when it has been idle for a while.
    drop((lock, locks, proxy));
    leaks.assert_none(20 * SECOND).await;
    assert_eq!(entries(&server), Vec::<String>::new());
}

#[tokio::test]
async fn a_connection_that_falls_silent_is_replaced() {
    let (server, proxy, locks) = set_up().await;
    let lock = locks.lock("k").with_ttl(SECOND);
    let _ = proxy
        .on(Match::acquire().key("k"))
        .action(Action::blackhole());
    assert!(is_unknown(&lock.try_acquire().await.unwrap_err()));
    let guard = soon("a grant over a new connection", lock.acquire())
        .await
        .unwrap();
    assert_eq!(proxy.connections(), 2);
    assert_eq!(guard.release().await.unwrap(), Released::Released);

    // All connections at once, and nobody to answer new ones for a while.
    proxy.blackhole();
    proxy.ignore_new().await;
    assert!(lock.try_acquire().await.unwrap_err().is_retryable());
    let waiting = Handle::current().spawn(async move { lock.acquire().await });
    sleep(2 * SECOND).await;
    assert!(!waiting.is_finished());
    proxy.serve_new().await;
    let guard = soon("a grant when it is over", waiting)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    assert_eq!(entries(&server), Vec::<String>::new());
}

#[tokio::test]
async fn refused_connections_change_nothing_and_are_tried_again() {
    let (_server, proxy, locks) = set_up().await;
    let lock = locks.lock("k");
    proxy.refuse_new().await;
    proxy.reset_all();
    eventually("the end of the connection is noticed", async || {
        matches!(
            lock.try_acquire().await,
            Err(LockError::Backend {
                transient: true,
                ..
            })
        )
    })
    .await;
    let waiting = Handle::current().spawn(async move { lock.acquire().await });
    sleep(500 * MS).await;
    assert!(!waiting.is_finished());
    proxy.serve_new().await;
    let guard = soon("a grant", waiting).await.unwrap().unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test]
async fn waiters_whose_wakeups_are_lost_find_the_lock_by_looking() {
    let (server, proxy, locks) = set_up().await;
    let holder = common::locks(&server).await.lock("k");
    for lose in [false, true] {
        proxy.lose_messages(lose);
        let guard = holder.try_acquire().await.unwrap();
        let lock = locks.lock("k");
        let waiting = Handle::current().spawn(async move { lock.acquire().await });
        eventually("somebody has subscribed", async || {
            let subscribers = server.cli(&["PUBSUB", "CHANNELS", "*"]);
            !subscribers.array().is_empty()
        })
        .await;
        sleep(100 * MS).await;
        let start = Moment::now();
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        let next = soon("the waiter's turn", waiting).await.unwrap().unwrap();
        // A look each second, by default.
        assert!(
            start.elapsed() < SECOND + SLACK,
            "{lose}: {:?}",
            start.elapsed()
        );
        assert_eq!(next.release().await.unwrap(), Released::Released);
    }
}

#[tokio::test]
async fn a_subscription_that_is_not_answered_keeps_nobody_from_looking() {
    let cases = [
        Action::blackhole(),
        Action::cut_after_forwarding(),
        Action::inject("-NOPERM no channel for you\r\n"),
        Action::inject(":1\r\n"),
        Action::inject("$10000000\r\nabc").and_stall(),
    ];
    join_all(cases.map(async |action| {
        let (server, proxy, locks) = set_up().await;
        let subscribes = proxy
            .on(Match::command(["SUBSCRIBE"]))
            .always()
            .action(action);
        let guard = common::locks(&server)
            .await
            .lock("k")
            .try_acquire()
            .await
            .unwrap();
        let lock = locks.lock("k");
        let waiting = Handle::current().spawn(async move { lock.acquire().await });
        subscribes.reach(1).await;
        sleep(200 * MS).await;
        assert!(!waiting.is_finished());
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        let next = soon("the waiter's turn", waiting).await.unwrap().unwrap();
        assert_eq!(next.release().await.unwrap(), Released::Released);
    }))
    .await;
}

/// Replies that no script of ours gives.
fn odd_replies() -> Vec<(&'static str, Action)> {
    let odd = |reply: &'static str| (reply, Action::inject(reply));
    let cut = |reply: &'static str| (reply, Action::inject(reply).and_cut());
    vec![
        odd("+OK\r\n"),
        odd(":1\r\n"),
        odd("_\r\n"),
        odd("$-1\r\n"),
        odd("*-1\r\n"),
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
        (
            "a stalled bulk",
            Action::inject("$10485760\r\nabc").and_stall(),
        ),
        (
            "a push and a cut",
            Action::inject(">1\r\n+odd\r\n").and_cut(),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_replies_are_of_unknown_outcome_and_no_grants() {
    let (server, proxy, locks) = set_up().await;
    let lock = locks.lock("k").with_ttl(2 * SECOND);
    for (reply, action) in odd_replies() {
        let odd = |kind: Match| drop(proxy.on(kind.key("k")).action(action.clone()));
        odd(Match::acquire());
        let error = lock.try_acquire().await.unwrap_err();
        assert!(is_unknown(&error), "{reply:?}: {error}");
        proxy.clear();
        let guard = soon("a grant", lock.acquire()).await.unwrap();
        odd(Match::inspect());
        let error = lock.status().await.unwrap_err();
        assert!(is_unknown(&error), "{reply:?}: {error}");
        odd(Match::renew());
        let prolonged = guard.extend(SECOND).await;
        assert!(
            prolonged.is_ok() || is_unknown(&prolonged.unwrap_err()),
            "{reply:?}"
        );
        assert!(guard.is_held(), "{reply:?}: {:?}", guard.check());
        odd(Match::release());
        let error = guard.release().await.unwrap_err();
        assert!(is_unknown(&error), "{reply:?}: {error}");
        // The release is done again in the background.
        gone_within(&server, "k", clean(800 * MS)).await;
        proxy.clear();
    }
}

#[tokio::test]
async fn a_grant_that_was_garbled_is_given_back() {
    let (server, proxy, locks) = set_up().await;
    let lock = locks.lock("k").with_ttl(10 * SECOND);
    for reply in ["_\r\n", "*1\r\n$4\r\nheld\r\n", "-ERR what\r\n"] {
        let _ = proxy
            .on(Match::acquire().key("k"))
            .action(Action::replace_reply(reply));
        let error = lock.try_acquire().await.unwrap_err();
        assert!(is_unknown(&error), "{reply:?}: {error}");
        gone_within(&server, "k", clean(2 * SECOND)).await;
        proxy.clear();
    }
}

#[tokio::test]
async fn everything_works_byte_by_byte() {
    let (server, proxy, _) = set_up().await;
    proxy.slice(1);
    for protocol in ["resp2", "resp3"] {
        let url = format!("{}?protocol={protocol}", proxy.url());
        let locks = Locks::new(RedisBackend::connect(url).await.unwrap());
        let lock = locks.lock("k").with_ttl(10 * SECOND);
        let guard = lock.try_acquire().await.unwrap();
        assert!(lock.try_acquire().await.unwrap_err().is_busy());
        guard.extend(SECOND).await.unwrap();
        guard.renew_for(5 * SECOND).await.unwrap();
        assert!(lock.status().await.unwrap().is_some());
        let waiting = Handle::current().spawn(async move { lock.acquire().await });
        eventually("somebody has subscribed", async || {
            let channels = server.cli(&["PUBSUB", "CHANNELS", "*"]);
            !channels.array().is_empty()
        })
        .await;
        let before = token(&guard);
        assert_eq!(guard.release().await.unwrap(), Released::Released);
        let next = soon("the waiter's turn", waiting).await.unwrap().unwrap();
        assert!(token(&next) > before);
        assert_eq!(next.release().await.unwrap(), Released::Released);
    }
}

#[tokio::test]
async fn what_a_server_says_instead_of_serving_is_classified_the_same_for_all_calls() {
    use BackendErrorKind::{Permanent, Transient, Unknown};
    let (server, proxy, locks) = set_up().await;
    let lock = locks.lock("k");
    let backend = RedisBackend::connect(proxy.url()).await.unwrap();
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
        ("ERR Error running script", Unknown),
        ("NEWCODE of next year", Unknown),
    ] {
        let says = |kind: Match| {
            drop(
                proxy
                    .on(kind)
                    .action(Action::inject(format!("-{text}\r\n"))),
            )
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
                says(Match::release().key("k"));
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
        eventually("what failed is given back", async || !exists(&server, "k")).await;
    }
    assert_eq!(server.cli(&["EXISTS", "other"]), Reply::Integer(0));
}
