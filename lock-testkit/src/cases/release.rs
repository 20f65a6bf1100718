//! Giving the lock back says truthfully what was found. Contract G4, G5; SCENARIOS C03, C04, C06.

use lock_core::{LockBackend, Moment, Released};

use super::{HOLD, assert_lasts, evict, is_free, key, locks, owner, release, take};
use crate::fixture::Fixture;

/// A guard whose entry was deleted says that it had expired, and one whose lock somebody else took since, that; who took it
/// keeps it.
pub async fn a_guard_that_lost_its_entry_says_so<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    for is_taken in [false, true] {
        let (key, next) = (key(&fixture, "k"), owner());
        let lock = locks.lock(key.name()).with_ttl(HOLD);
        let guard = lock.try_acquire().await.expect("it is free");
        evict(&fixture, &key).await;
        let asked = Moment::now();
        let expected = if is_taken {
            take(&oracle, &key, &next, HOLD).await;
            Released::TakenOver
        } else if oracle.capabilities().resends {
            Released::Released
        } else {
            Released::Expired
        };
        let found = guard.release().await.expect("a release is answered");
        assert_eq!(found, expected);
        if is_taken {
            assert_lasts(&oracle, &key, HOLD, asked).await;
            release(&oracle, &key, &next).await;
        }
        assert!(is_free(&oracle, &key).await);
    }
}
