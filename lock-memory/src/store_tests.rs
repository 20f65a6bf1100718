//! What the store keeps, in virtual time. What every backend keeps is tested by lock-testkit.

use tokio::time::sleep;

use super::*;
use crate::MemoryBackend;
use lock_core::{LockBackend, Wakeups};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn key(name: &str) -> LockKey {
    LockKey::new(name).unwrap()
}

fn owner() -> Owner {
    Owner::fresh(None).unwrap()
}

fn acquire(store: &Store, key: &LockKey, owner: &Owner, ttl: Duration) -> Attempt {
    store
        .try_acquire(&AcquireRequest::new(key, owner, ttl))
        .unwrap()
}

fn is_granted(attempt: &Attempt) -> bool {
    matches!(attempt, Attempt::Granted(_))
}

#[tokio::test(start_paused = true)]
async fn an_entry_lasts_its_ttl_to_the_end_and_no_longer() {
    let (store, key, a, b) = (Store::default(), key("k"), owner(), owner());
    assert!(is_granted(&acquire(&store, &key, &a, SECOND)));
    sleep(SECOND - MILLISECOND).await;
    assert!(!is_granted(&acquire(&store, &key, &b, SECOND)));
    sleep(MILLISECOND).await;
    assert_eq!((store.inspect(&key), store.len()), (None, 0));
    assert_eq!(store.release(&key, &a), Ownership::Absent);
    assert!(is_granted(&acquire(&store, &key, &b, SECOND)));
}

#[tokio::test(start_paused = true)]
async fn entries_that_nobody_touches_again_do_not_pile_up() {
    let store = Store::default();
    let held = |store: &Store| -> usize {
        store
            .shards
            .0
            .iter()
            .map(|shard| lock(shard).entries.len())
            .sum()
    };
    for round in 0..20 {
        for n in 0..1000 {
            acquire(&store, &key(&format!("{round}:{n}")), &owner(), SECOND);
        }
        sleep(2 * SECOND).await;
    }
    assert_eq!(store.len(), 0);
    // The last round's thousand, and at most as many again that the sweeps had not seen.
    assert!(
        held(&store) <= 2000 + SHARDS * SWEEP_FROM,
        "{} entries",
        held(&store)
    );
}

#[tokio::test(start_paused = true)]
async fn a_sweep_spares_what_is_held() {
    let store = Store::default();
    for n in 0..5000 {
        acquire(&store, &key(&n.to_string()), &owner(), 3600 * SECOND);
    }
    assert_eq!(store.len(), 5000);
}

#[test]
fn fencing_tokens_end_in_an_error_and_no_entry() {
    let (store, key) = (Store::default(), key("k"));
    store.newest.store(TOKENS_END - 3, Ordering::Relaxed);
    let (a, b) = (owner(), owner());
    let request = AcquireRequest::new(&key, &a, SECOND);
    let error = store.try_acquire(&request.with_tokens(3)).unwrap_err();
    assert_eq!(error.kind(), lock_core::BackendErrorKind::Permanent);
    assert_eq!(store.inspect(&key), None, "a lock that nobody owns");
    let Attempt::Granted(grant) = acquire(&store, &key, &b, SECOND) else {
        panic!("busy")
    };
    assert_eq!(grant.fencing.unwrap().last().get(), TOKENS_END - 2);
    store.newest.store(u64::MAX, Ordering::Relaxed);
    assert!(store.reserve(64).is_err(), "no overflow");
}

#[test]
fn a_poisoned_mutex_stays_usable() {
    let (store, key) = (Store::default(), key("k"));
    let poison = || {
        let _guard = store.shard(&key);
        panic!("on purpose");
    };
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(poison)).unwrap_err();
    assert!(is_granted(&acquire(&store, &key, &owner(), SECOND)));
}

#[tokio::test]
async fn a_dropped_subscription_leaves_no_residue() {
    let (backend, key) = (MemoryBackend::new(), key("k"));
    let watched = || backend.store.shard(&key).watched.len();
    let mut first = backend.subscribe(&key, None).await.unwrap();
    let second = backend.subscribe(&key, None).await.unwrap();
    drop(second);
    assert_eq!(watched(), 1);
    backend.steal("k", "other", SECOND).unwrap();
    assert!(backend.evict("k"));
    first.notified().await;
    drop(first);
    assert_eq!(watched(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_end_by_ttl_wakes_nobody() {
    let (backend, key) = (MemoryBackend::new(), key("k"));
    let mut wakeup = backend.subscribe(&key, None).await.unwrap();
    acquire(&backend.store, &key, &owner(), SECOND);
    assert!(backend.expire("k"));
    assert!(!backend.expire("k"), "it is gone already");
    assert!(
        tokio::time::timeout(SECOND, wakeup.notified())
            .await
            .is_err()
    );
}

#[test]
fn a_clone_is_another_client_of_the_same_store() {
    let backend = MemoryBackend::new();
    backend.steal("k", "x", SECOND).unwrap();
    assert_eq!(Clone::clone(&backend).len(), 1);
    assert!(MemoryBackend::new().is_empty());
    assert!(backend.wakeups().is_some() && backend.capabilities().wakeups);
}

#[tokio::test]
async fn debug_shows_no_owner() {
    let (backend, key, holder) = (MemoryBackend::new(), key("k"), owner());
    acquire(&backend.store, &key, &holder, SECOND);
    assert!(!format!("{backend:?} {:?}", backend.inspect(&key).await).contains(holder.expose()));
}
