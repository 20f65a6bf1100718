//! Giving the lock back: it is free then, what was found is told, and whoever comes late harms nobody. Contract G4, G5;
//! SCENARIOS C03, C04.

use lock_core::{BackendError, LockBackend, LockError, Moment, Ownership, Released};
use tokio::time::{sleep, timeout};

use super::{
    BOUND, BRIEF, HOLD, SECOND, assert_lasts, assert_outlives, brief, eventually, evict, expire,
    hold, is_free, key, locks, owner, release, take, unrenewed, watched_locks,
};
use crate::faulty::{Effect, Op};
use crate::fixture::Fixture;
use crate::gap::Gap;

/// A lock that was released is free for everybody, at once, and its guard says that it was held until then.
pub async fn a_release_frees_the_lock_and_says_so<F: Fixture>(fixture: F) {
    let (a, b, key) = (
        locks(&fixture).await,
        locks(&fixture).await,
        key(&fixture, "k"),
    );
    for locks in [&a, &b, &a] {
        let guard = locks.lock(key.name()).try_acquire().await;
        let guard = guard.expect("a lock that was released is free");
        assert_eq!(guard.release().await.ok(), Some(Released::Released));
    }
}

/// A guard whose entry was deleted says that it had expired, and one whose lock somebody else took since, that; who took it
/// keeps it.
pub async fn a_guard_that_lost_its_entry_says_so<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    for is_taken in [false, true] {
        let (key, next) = (key(&fixture, "k"), owner());
        let guard = hold(&unrenewed(&locks, &key)).await;
        evict(&fixture, &key).await;
        let asked = Moment::now();
        let expected = if is_taken {
            take::<F>(&oracle, &key, &next, HOLD).await;
            Released::TakenOver
        } else if oracle.capabilities().resends {
            // It may be the answer to a copy.
            Released::Released
        } else {
            Released::Expired
        };
        assert_eq!(guard.release().await.ok(), Some(expected));
        if is_taken {
            assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
            release(&oracle, &key, &next).await;
        }
        assert!(is_free(&oracle, &key).await);
    }
}

/// A guard that is released after its ttl is over leaves the next holder alone, also one that came through the same lock.
pub async fn a_stale_guard_leaves_the_next_holder_alone<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    for is_dropped in [false, true] {
        let key = key(&fixture, "k");
        let lock = brief(&locks, &key);
        let late = hold(&lock).await;
        if F::GAPS.contains(&Gap::Expire) {
            sleep(BRIEF).await;
        } else {
            expire(&fixture, &key).await;
        }
        let next = hold(&unrenewed(&locks, &key)).await;
        if is_dropped {
            drop(late);
            // The release of a dropped guard is sent in the background.
            sleep(BRIEF).await;
        } else {
            assert_eq!(late.release().await.ok(), Some(Released::TakenOver));
        }
        assert!(next.is_held());
        assert_outlives::<F>(&oracle, &next).await;
        assert_eq!(next.release().await.ok(), Some(Released::Released));
    }
}

/// A release whose answer was lost says that it does not know, and is sent again; the copy leaves who took the lock in
/// between alone.
pub async fn a_release_that_is_sent_again_leaves_the_next_holder_alone<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key, next) = (fixture.client().await, key(&fixture, "k"), owner());
    let guard = hold(&unrenewed(&locks, &key)).await;
    let lost = BackendError::unknown("the answer was lost");
    let releases = client.on(Op::Release);
    releases.next(Effect::LoseReply(lost)).next(Effect::Ask);
    let error = guard.release().await.expect_err("nobody knows");
    assert!(matches!(error, LockError::Unknown { .. }), "{error}");
    let asked = Moment::now();
    take::<F>(&oracle, &key, &next, HOLD).await;
    let copy = timeout(BOUND, client.next_call()).await;
    copy.expect("it is sent again").apply().await;
    assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
    assert_eq!(release(&oracle, &key, &next).await, Ownership::Held);
    assert!(is_free(&oracle, &key).await);
}

/// A grant that comes when too little of its ttl is left is not handed out, and is given back.
pub async fn a_grant_that_comes_too_late_is_given_back<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (oracle, key) = (fixture.client().await, key(&fixture, "k"));
    let lock = unrenewed(&locks, &key).with_min_validity(HOLD - HOLD / 50);
    client.on(Op::Acquire).next(Effect::DelayAfter(SECOND));
    let error = lock.try_acquire().await.expect_err("it came too late");
    assert!(matches!(error, LockError::Late { .. }), "{error}");
    assert!(error.is_retryable());
    eventually("it is given back", async || is_free(&oracle, &key).await).await;
}
