//! Releases whose request or reply is lost, late or arrives after all.

use futures_util::future::join_all;
use lock_core::{LockBackend, Ownership};
use lock_testkit::proxy::{Action, Gate};
use tokio::time::sleep;

use super::*;

#[tokio::test]
async fn a_release_whose_reply_is_lost_is_unknown_and_leaves_the_next_holder_alone() {
    let (server, proxy, client) = set_up().await;
    let lock = client.lock("k").with_options(lasting());
    let other = locks(&server).await.lock("k").with_options(lasting());
    for _ in 0..3 {
        let releases = proxy
            .on(Match::release().key("k"))
            .action(Action::cut_after_forwarding());
        let guard = lock.try_acquire().await.unwrap();
        let error = guard.release().await.unwrap_err();
        assert!(is_unknown(&error), "{error}");
        let next = other.try_acquire().await.unwrap();
        let value = server.cli(&["GET", "k"]);
        // It is released once more in the background, which is the other's lock by now.
        releases.reach(2).await;
        sleep(100 * MS).await;
        assert_eq!(server.cli(&["GET", "k"]), value);
        is_honest(&server, &next);
        assert!(next.is_held());
        assert_eq!(next.release().await.unwrap(), Released::Released);
        proxy.clear();
    }
}

#[tokio::test]
async fn a_second_release_after_a_lost_reply_finds_nothing() {
    let (_server, proxy, _) = set_up().await;
    let backend = connected(proxy.url()).await;
    let (key, mine) = (key("k"), owner());
    take(&backend, &key, &mine).await;
    let _ = proxy
        .on(Match::release().key("k"))
        .action(Action::cut_after_forwarding());
    let lost = backend.release(&key, &mine).await.unwrap_err();
    assert!(lost.may_have_been_applied(), "{lost}");
    let again = backend.release(&key, &mine).await.unwrap();
    assert_eq!(again, Ownership::Absent);
}

#[tokio::test]
async fn a_release_that_never_reached_the_server_is_done_in_the_background() {
    let cases = [Action::cut_before_forwarding(), Action::blackhole()];
    join_all(cases.map(async |action| {
        let (server, proxy, locks) = set_up().await;
        let lock = locks.lock("k").with_options(impatient());
        let guard = soon("a grant", lock.acquire()).await.unwrap();
        let _ = proxy.on(Match::release().key("k")).action(action);
        let error = guard.release().await.unwrap_err();
        assert!(is_unknown(&error), "{error}");
        given_back(&server, "k").await;
        // A dropped guard's release likewise.
        let guard = soon("a grant", lock.acquire()).await.unwrap();
        let _ = proxy
            .on(Match::release().key("k"))
            .action(Action::cut_before_forwarding());
        drop(guard);
        given_back(&server, "k").await;
    }))
    .await;
}

#[tokio::test]
async fn a_release_that_comes_late_leaves_the_next_holder_alone() {
    let (server, proxy, locks) = set_up().await;
    let gate = Gate::new();
    let _ = proxy
        .on(Match::release().key("k"))
        .action(Action::hold_request_and_cut(&gate));
    let lock = locks.lock("k").with_options(lasting());
    let guard = lock.try_acquire().await.unwrap();
    let error = guard.release().await.unwrap_err();
    assert!(is_unknown(&error), "{error}");
    given_back(&server, "k").await;
    let next = lock.try_acquire().await.unwrap();
    let (value, scripts) = (server.cli(&["GET", "k"]), calls(&server, "evalsha"));
    gate.open();
    eventually("the zombie arrives", async || {
        calls(&server, "evalsha") > scripts
    })
    .await;
    assert_eq!(server.cli(&["GET", "k"]), value);
    assert_eq!(next.release().await.unwrap(), Released::Released);
}
