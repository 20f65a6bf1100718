//! Without randomness there is no owner: every way to a lock says so, and the store hears nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::mock::NoStore;
use crate::owner::HAS_NO_RANDOMNESS;
use crate::{BackendCall, LockError, LockGuard, Locks, Moment, Observed, RetryPolicy};

const SECOND: Duration = Duration::from_secs(1);

/// Locks, and how many calls their store has had.
fn locks() -> (Locks, Arc<AtomicUsize>) {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let store = Observed::new(NoStore, move |_: &BackendCall<'_>| {
        counted.fetch_add(1, Ordering::SeqCst);
    });
    let patient = RetryPolicy::every(SECOND);
    (Locks::new(store).with_retry(patient), calls)
}

fn assert_is_entropy(way: &str, result: Result<LockGuard, LockError>) {
    let error = result.unwrap_err();
    match &error {
        LockError::Entropy { source } => assert!(source.is::<getrandom::Error>(), "{way}"),
        _ => panic!("{way}: {error:?}"),
    }
    assert!(!error.is_retryable() && !error.is_busy(), "{way}");
}

#[tokio::test(start_paused = true)]
async fn without_randomness_nothing_is_sent_and_the_error_says_so() {
    let (locks, calls) = locks();
    let lock = locks.lock("k");
    let start = Moment::now();

    HAS_NO_RANDOMNESS.set(true);
    assert_is_entropy("try_acquire", lock.try_acquire().await);
    assert_is_entropy("acquire", lock.acquire().await);
    let body = async |_: &LockGuard| unreachable!("the body runs under the lock");
    let with: Result<(), LockError> = locks.with("k", body).await;
    assert!(matches!(with, Err(LockError::Entropy { .. })), "{with:?}");
    assert_eq!(calls.load(Ordering::SeqCst), 0);
    assert!(start.elapsed() < SECOND, "it is not tried again");

    HAS_NO_RANDOMNESS.set(false);
    let guard = lock.try_acquire().await.unwrap();
    assert_eq!(calls.load(Ordering::SeqCst), 1, "nobody is left in line");
    guard.release().await.unwrap();
}

/// The head of the line fails, and the next one gets its turn.
#[tokio::test(start_paused = true)]
async fn who_fails_for_want_of_randomness_leaves_the_line() {
    let (locks, calls) = locks();
    let lock = locks.lock("k");
    let held = lock.try_acquire().await.unwrap();
    let (first, second, ()) = tokio::join!(biased; lock.acquire(), lock.acquire(), async {
        assert_eq!(calls.load(Ordering::SeqCst), 1, "they stand in line");
        HAS_NO_RANDOMNESS.set(true);
        held.release().await.unwrap();
    });
    assert_is_entropy("the first", first);
    assert_is_entropy("the second", second);
    assert_eq!(calls.load(Ordering::SeqCst), 2, "taken and released");

    HAS_NO_RANDOMNESS.set(false);
    lock.try_acquire().await.unwrap().release().await.unwrap();
}
