//! Connections that fall silent, are refused, or deliver byte by byte.

use futures_util::future::join_all;
use lock_core::{BackendErrorKind, Moment};
use lock_testkit::proxy::{Action, Gate};
use tokio::runtime::Handle;
use tokio::time::sleep;

use super::*;

#[tokio::test]
async fn a_connection_that_falls_silent_is_replaced() {
    let (server, proxy, _) = set_up().await;
    // Which gives a connection up after a second, too.
    let locks = Locks::new(Backend::connect(proxy.url()).await.unwrap());
    let lock = locks.lock("k").with_options(impatient());
    let before = proxy.connections();
    let _ = proxy
        .on(Match::acquire().key("k"))
        .action(Action::blackhole());
    assert!(is_unknown(&lock.try_acquire().await.unwrap_err()));
    let guard = soon("a grant", lock.acquire()).await.unwrap();
    let_go(&server, guard).await;
    assert!(proxy.connections() > before);

    // All connections at once, and nobody to answer new ones for a while.
    proxy.blackhole();
    proxy.ignore_new().await;
    assert!(lock.try_acquire().await.unwrap_err().is_retryable());
    let waiting = Handle::current().spawn(async move { lock.acquire().await });
    sleep(SECOND).await;
    assert!(!waiting.is_finished());
    proxy.serve_new().await;
    let guard = soon("a grant when it is over", waiting)
        .await
        .unwrap()
        .unwrap();
    let_go(&server, guard).await;
}

#[tokio::test]
async fn refused_connections_change_nothing_and_are_tried_again() {
    let (_server, proxy, locks) = set_up().await;
    let lock = locks.lock("k").with_options(lasting());
    proxy.refuse_new().await;
    proxy.reset_all();
    eventually("the end of the connection is noticed", async || {
        let Err(error) = lock.try_acquire().await else {
            return false;
        };
        assert!(!error.is_busy() && error.is_retryable(), "{error}");
        matches!(error, LockError::Backend { .. })
    })
    .await;
    let start = Moment::now();
    let error = Backend::connect(proxy.url()).await.unwrap_err();
    assert_eq!(error.kind(), BackendErrorKind::Transient, "{error}");
    // It takes a second at the most to connect, and as much to give up; a loaded machine takes more.
    let took = start.elapsed();
    assert!(took < 5 * SECOND, "a refusal took {took:?}");
    let waiting = Handle::current().spawn(async move { lock.acquire().await });
    sleep(500 * MS).await;
    assert!(!waiting.is_finished());
    proxy.serve_new().await;
    let guard = soon("a grant", waiting).await.unwrap().unwrap();
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test]
async fn everything_works_byte_by_byte() {
    let (server, proxy, _) = set_up().await;
    proxy.slice(1);
    for protocol in ["resp2", "resp3"] {
        let url = format!("{}?protocol={protocol}", proxy.url());
        let backend = backend(&url).await;
        // The second asks the server although the first holds the lock.
        let [first, lock] = [backend.clone(), backend].map(|backend| {
            let lock = Locks::new(backend).lock("k");
            lock.with_options(lasting())
        });
        let guard = first.try_acquire().await.unwrap();
        assert!(lock.try_acquire().await.unwrap_err().is_busy());
        guard.extend(SECOND).await.unwrap();
        guard.renew_for(50 * SECOND).await.unwrap();
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
async fn replies_that_come_all_at_once_find_their_callers() {
    let (_server, proxy, locks) = set_up().await;
    let gate = Gate::new();
    let acquires = proxy
        .on(Match::acquire())
        .action(Action::hold_replies(&gate));
    let taken: Vec<_> = (0..50)
        .map(|n| locks.lock(format!("k{n}")).with_ttl(LASTING))
        .collect();
    let opens = async {
        acquires.reach(50).await;
        gate.open();
    };
    let (guards, ()) = tokio::join!(join_all(taken.iter().map(|lock| lock.try_acquire())), opens);
    let guards: Vec<_> = guards.into_iter().map(Result::unwrap).collect();
    let gate = Gate::new();
    let releases = proxy
        .on(Match::release())
        .action(Action::hold_replies(&gate));
    let opens = async {
        releases.reach(50).await;
        gate.open();
    };
    let releases = join_all(guards.into_iter().map(LockGuard::release));
    let (released, ()) = tokio::join!(releases, opens);
    for answer in released {
        assert_eq!(answer.unwrap(), Released::Released);
    }
}

/// Between the digest that the server does not know and the source that it is sent instead.
#[tokio::test]
async fn a_script_cache_that_is_lost_between_two_commands_is_not_noticed() {
    let (server, proxy, locks) = set_up().await;
    let lock = locks.lock("k").with_options(lasting());
    let flush = || assert_eq!(server.cli(&["SCRIPT", "FLUSH"]).text(), "OK");
    let mut guard = None;
    for call in 0..4 {
        flush();
        let gate = Gate::new();
        let sources = proxy
            .on(Match::command(["EVAL"]))
            .action(Action::hold_request(&gate));
        let calls = async {
            match (call, &guard) {
                (0, None) => guard = Some(lock.try_acquire().await.unwrap()),
                (1, Some(guard)) => guard.extend(SECOND).await.unwrap(),
                (2, Some(_)) => assert!(lock.status().await.unwrap().is_some()),
                _ => {
                    let released = guard.take().unwrap().release().await;
                    assert_eq!(released.unwrap(), Released::Released);
                }
            }
        };
        let flushes = async {
            sources.reach(1).await;
            flush();
            gate.open();
        };
        tokio::join!(calls, flushes);
        proxy.clear();
    }
}
