//! Attempts whose request or reply is lost, late or arrives after all.

use futures_util::future::join_all;
use lock_core::Moment;
use lock_testkit::LeakCheck;
use lock_testkit::proxy::{Action, Gate};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use super::*;

#[tokio::test]
async fn the_time_that_a_reply_took_is_not_believed_in() {
    let (server, proxy, client) = set_up().await;
    let (ttl, late) = (20 * SECOND, 300 * MS);
    let most = ttl - late - ttl / 100 - 2 * MS;
    // Who looks only when it is woken: the reply that comes late is that of the attempt which wins.
    let options = lasting().with_ttl(ttl).with_recheck(LASTING);
    let lock = client.lock("k").with_options(options);
    let late_reply = || {
        let gate = Gate::new();
        let acquires = proxy
            .on(Match::acquire().key("k"))
            .action(Action::hold_replies(&gate));
        async move {
            acquires.reach(1).await;
            sleep(late).await;
            gate.open();
        }
    };
    let (guard, ()) = tokio::join!(lock.try_acquire(), late_reply());
    let guard = guard.unwrap();
    assert!(guard.remaining() <= most, "{:?}", guard.remaining());
    guard.release().await.unwrap();

    // After a wait it is the winning attempt that counts: neither the first one nor its reply.
    let other = locks(&server).await.lock("k").try_acquire().await.unwrap();
    let waiting = Handle::current().spawn(async move { lock.acquire().await });
    let waited = 3 * SECOND;
    sleep(waited).await;
    let reply = late_reply();
    other.release().await.unwrap();
    reply.await;
    let guard = soon("the waiter's turn", waiting).await.unwrap().unwrap();
    assert!(guard.remaining() <= most, "{:?}", guard.remaining());
    assert!(
        guard.remaining() > most - waited,
        "{:?} since the wait began",
        guard.remaining()
    );
}

#[tokio::test]
async fn an_acquire_whose_reply_is_lost_is_unknown_and_given_back() {
    let cases = [
        (Action::cut_after_forwarding(), lasting()),
        (Action::stall_replies(), impatient()),
    ];
    join_all(cases.map(async |(action, options)| {
        let (server, proxy, locks) = set_up().await;
        let lock = locks.lock("k").with_options(options);
        let acquires = proxy.on(Match::acquire().key("k")).action(action.clone());
        let error = lock.try_acquire().await.unwrap_err();
        assert!(is_unknown(&error), "{error}");
        given_back(&server, "k").await;
        // One who waits and tries again gets it under another owner, long before the first entry would have ended.
        let again = proxy.on(Match::acquire().key("k")).action(action);
        let guard = soon("a grant", lock.acquire()).await.unwrap();
        let_go(&server, guard).await;
        assert_eq!(acquires.count(), again.count() + 1);
        assert!(again.count() >= 2, "{}", again.count());
    }))
    .await;
}

#[tokio::test]
async fn an_acquire_that_never_reached_the_server_is_unknown_and_may_be_tried_again() {
    let (server, proxy, locks) = set_up().await;
    let _ = proxy
        .on(Match::acquire().key("k"))
        .action(Action::cut_before_forwarding());
    let lock = locks.lock("k").with_options(lasting());
    let error = lock.try_acquire().await.unwrap_err();
    assert!(is_unknown(&error) && error.is_retryable(), "{error}");
    assert!(!exists(&server, "k"));
    works(&lock).await;
}

#[tokio::test]
async fn a_copy_of_an_acquire_is_the_same_grant() {
    let (_server, proxy, _) = set_up().await;
    let backend = connected(proxy.url()).await;
    let (key, mine) = (key("k"), owner());
    let _ = proxy
        .on(Match::acquire().key("k"))
        .action(Action::cut_after_forwarding());
    let lost = attempt(&backend, &key, &mine).await.unwrap_err();
    assert!(lost.may_have_been_applied(), "{lost}");
    let first = take(&backend, &key, &mine).await;
    let second = take(&backend, &key, &mine).await;
    assert_eq!(first, second);
    busy(attempt(&backend, &key, &owner()).await);
}

#[tokio::test]
async fn an_acquire_that_arrives_after_it_was_given_up_is_gone_by_the_second_release() {
    let (server, proxy, locks) = set_up().await;
    let gate = Gate::new();
    let _ = proxy
        .on(Match::acquire().key("k"))
        .action(Action::hold_request_and_cut(&gate));
    let releases = proxy.on(Match::release().key("k")).count();
    // The second release comes three seconds after the first.
    let lock = locks
        .lock("k")
        .with_options(lasting().with_op_timeout(3 * SECOND));
    let error = lock.try_acquire().await.unwrap_err();
    assert!(is_unknown(&error), "{error}");
    releases.reach(1).await;
    assert!(!exists(&server, "k"));
    gate.open();
    eventually("the zombie arrives", async || exists(&server, "k")).await;
    given_back(&server, "k").await;
    assert_eq!(releases.count(), 2);
    works(&lock).await;
}

#[tokio::test]
async fn an_acquire_that_arrives_after_all_was_done_is_an_orphan_until_its_ttl_ends() {
    let (server, proxy, locks) = set_up().await;
    let (gate, ttl) = (Gate::new(), 3 * SECOND);
    let _ = proxy
        .on(Match::acquire().key("k"))
        .action(Action::hold_request_and_cut(&gate));
    let scripts = calls(&server, "evalsha");
    let options = lasting().with_ttl(ttl).with_op_timeout(SECOND);
    let lock = locks.lock("k").with_options(options);
    assert!(is_unknown(&lock.try_acquire().await.unwrap_err()));
    eventually("it was released twice", async || {
        calls(&server, "evalsha") >= scripts + 2
    })
    .await;
    gate.open();
    eventually("the zombie arrives", async || exists(&server, "k")).await;
    let left = pttl(&server, "k");
    assert!(0 < left && left <= 3_000, "{left}");
    // One orphan at the most, and nobody renews it.
    works(&lock).await;
    assert_eq!(entries(&server), Vec::<String>::new());
}

#[tokio::test]
async fn a_grant_that_was_garbled_is_given_back() {
    let (server, proxy, locks) = set_up().await;
    let lock = locks.lock("k").with_options(lasting());
    for reply in ["_\r\n", "*1\r\n$4\r\nheld\r\n", "-ERR what\r\n"] {
        let _ = proxy
            .on(Match::acquire().key("k"))
            .action(Action::replace_reply(reply));
        let error = lock.try_acquire().await.unwrap_err();
        assert!(is_unknown(&error), "{reply:?}: {error}");
        given_back(&server, "k").await;
        proxy.clear();
    }
}

#[tokio::test]
async fn on_a_link_that_is_slow_for_the_ttl_grants_are_late_and_few() {
    let (server, proxy, locks) = set_up().await;
    let (ttl, latency) = (3 * SECOND, 800 * MS);
    let options = LockOptions::default()
        .with_ttl(ttl)
        .with_op_timeout(ttl - 100 * MS);
    let lock = locks.lock("k").with_options(options);
    proxy.set_latency(latency);
    eventually("a late grant", async || {
        let error = lock.try_acquire().await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        matches!(error, LockError::Late { .. })
    })
    .await;
    given_back(&server, "k").await;
    let acquires = proxy.on(Match::acquire().key("k")).count();
    let start = Moment::now();
    let waiter = lock.clone().with_wait(4 * SECOND);
    let error = waiter.acquire().await.unwrap_err();
    assert!(
        matches!(error, LockError::Late { .. } | LockError::Unknown { .. }),
        "{error}"
    );
    // A round trip for each attempt and one for giving it back.
    let most = 1 + start.elapsed().as_millis() / (4 * latency).as_millis();
    let made = u128::from(acquires.count());
    assert!(1 <= made && made <= most, "{made} of {most}");
    proxy.set_latency(Duration::ZERO);
    given_back(&server, "k").await;
    works(&locks.lock("k").with_options(lasting())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_acquires_cut_short_on_a_slow_link_leave_nothing() {
    let leaks = LeakCheck::start();
    let (server, proxy, locks) = set_up().await;
    proxy.set_latency(5 * MS);
    let lock = locks
        .lock("k")
        .with_options(lasting().with_ttl(24 * SECOND));
    for _ in 0..1000 {
        if let Ok(taken) = timeout(MS, lock.acquire()).await {
            drop(taken.unwrap());
        }
    }
    let guard = soon("the last one", lock.acquire()).await.unwrap();
    assert!(exists(&server, "k"));
    assert_eq!(guard.release().await.unwrap(), Released::Released);
    given_back(&server, "k").await;
    drop((lock, locks, proxy));
    // The task that would have renewed the lock looks once more when that was due.
    leaks.assert_none(10 * SECOND).await;
    assert_eq!(entries(&server), Vec::<String>::new());
}
