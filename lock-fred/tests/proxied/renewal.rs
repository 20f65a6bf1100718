//! Renewals whose request or reply is lost, late or refused: a lock is lost at its deadline, not before and not after.

use futures_util::future::join_all;
use lock_core::{LossReason, Moment, RenewalPolicy};
use lock_testkit::cancel_sweep;
use lock_testkit::proxy::{Action, Gate};
use tokio::join;
use tokio::time::{sleep, sleep_until};

use super::*;

/// Watches the lock until `done`: it is held all the while, and nobody believes in too much.
async fn stays_held(server: &RedisServer, guard: &LockGuard, what: &str, done: impl Fn() -> bool) {
    eventually(what, async || {
        is_honest(server, guard);
        assert!(guard.is_held(), "{:?}", guard.check());
        done()
    })
    .await;
}

/// Renewed after a second or two, and not lost before many have failed.
fn often_renewed(locks: &Locks) -> DistributedLock {
    let options = lasting().with_ttl(30 * SECOND);
    let options = options.with_renewal(RenewalPolicy::per_ttl(15));
    locks.lock("k").with_options(options)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
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
        let renewals = proxy.on(Match::renew().key("k")).action(action);
        let guard = often_renewed(&locks).try_acquire().await.unwrap();
        // The first one fails, the second makes good for it, the third is as usual.
        stays_held(&server, &guard, "three renewals", || renewals.count() >= 3).await;
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_falls_silent_under_a_holder_loses_no_lock() {
    let cases = [Action::stall_replies(), Action::blackhole()];
    join_all(cases.map(async |action| {
        let (server, proxy, _) = set_up().await;
        let backend = Backend::builder(proxy.url()).with_response_timeout(500 * MS);
        let locks = Locks::new(backend.connect().await.unwrap());
        let before = proxy.connections();
        let guard = often_renewed(&locks).try_acquire().await.unwrap();
        let deadline = guard.deadline();
        let _ = proxy.on(Match::renew().key("k")).action(action);
        // Two without an answer, then one over another connection.
        stays_held(&server, &guard, "another connection", || {
            proxy.connections() > before
        })
        .await;
        stays_held(&server, &guard, "a renewal", || {
            guard.deadline() > deadline + 500 * MS
        })
        .await;
        assert_eq!(guard.release().await.unwrap(), Released::Released);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewals_that_are_never_answered_are_tried_again_until_the_deadline() {
    let cases = [
        Action::stall_replies(),
        Action::blackhole(),
        Action::cut_after_forwarding(),
        Action::cut_before_forwarding(),
        Action::inject("-LOADING Redis is loading the dataset in memory\r\n"),
        Action::inject("-NOPERM this user has no permissions to run the 'evalsha' command\r\n"),
    ];
    join_all(cases.map(async |action| {
        let (server, proxy, locks) = set_up().await;
        let renewals = proxy.on(Match::renew().key("k")).always().action(action);
        let ttl = 4 * SECOND;
        let guard = locks.lock("k").with_ttl(ttl).try_acquire().await.unwrap();
        let (start, left, deadline) = (Moment::now(), guard.remaining(), guard.deadline());
        let lost = async { (guard.lost().await, Moment::now()) };
        // Comes as late as the machine makes things come.
        let over = async {
            sleep_until(deadline.into()).await;
            Moment::now()
        };
        let ((reason, signalled), over) = soon("the loss", async { join!(lost, over) }).await;
        let took = start.elapsed();
        assert_eq!(reason, LossReason::Unconfirmed);
        assert!(!guard.is_held());
        assert!(took + 2 * MS >= left, "lost after {took:?} of {left:?}");
        // A deadline that moves with renewals that nobody heard of would never come.
        let late = over.until(&signalled);
        assert!(late < 500 * MS, "signalled {late:?} after the deadline");
        assert!((2..400).contains(&renewals.count()), "{}", renewals.count());
        // Nothing is renewed after that, but for one that may have been on its way.
        let sent = renewals.count();
        sleep(ttl / 3).await;
        assert!(renewals.count() <= sent + 1, "renewed after the loss");
        is_honest(&server, &guard);
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_waits_for_the_renewal_before_it_and_both_count() {
    let (server, proxy, locks) = set_up().await;
    let gate = Gate::new();
    let renewals = proxy
        .on(Match::renew().key("k"))
        .action(Action::hold_replies(&gate));
    let guard = often_renewed(&locks).try_acquire().await.unwrap();
    renewals.reach(1).await;
    let opens = async {
        sleep(300 * MS).await;
        assert_eq!(renewals.count(), 1, "the extension did not wait");
        gate.open();
    };
    let (extended, ()) = tokio::join!(guard.extend(LASTING), opens);
    extended.unwrap();
    is_honest(&server, &guard);
    assert!(guard.remaining() > LASTING, "{:?}", guard.remaining());
    assert!(renewals.count() >= 2, "{}", renewals.count());
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}

#[tokio::test]
async fn an_extension_that_is_dropped_at_any_await_leaves_a_safe_deadline() {
    let (server, proxy, locks) = set_up().await;
    proxy.set_latency(5 * MS);
    let lock = locks.lock("k").with_options(lasting());
    let guard = lock.try_acquire().await.unwrap();
    for shortens in [false, true] {
        let prolong = |_| async {
            if shortens {
                guard.renew_for(30 * SECOND).await
            } else {
                guard.extend(MS).await
            }
        };
        let cuts = cancel_sweep(prolong, async |_| {
            // Some of it may be under way yet.
            for _ in 0..5 {
                is_honest(&server, &guard);
                assert!(guard.is_held(), "{:?}", guard.check());
                sleep(5 * MS).await;
            }
        })
        .await;
        assert!(cuts >= 3, "{cuts}");
    }
    assert_eq!(guard.release().await.unwrap(), Released::Released);
}
