//! The locks of the whole process. One test, because they are installed once in a process.
#![allow(clippy::unwrap_used, reason = "a test")]

use lock_core::{LockError, LockGuard, Locks, with_lock};
use lock_testkit::Scripted;

fn assert_invalid(error: &LockError, advice: &str) {
    assert!(matches!(error, LockError::Invalid { .. }), "{error:?}");
    assert!(error.to_string().contains(advice), "{error}");
}

#[tokio::test(start_paused = true)]
async fn global_locks_are_installed_once_and_used_from_everywhere() {
    async fn key(guard: &LockGuard) -> Result<String, LockError> {
        Ok(guard.key().as_str().to_owned())
    }

    assert_invalid(&Locks::global().unwrap_err(), "install_global");
    assert_invalid(&with_lock("a", key).await.unwrap_err(), "install_global");

    let (backend, late) = (Scripted::honest(), Scripted::honest());
    let locks = Locks::new(backend.clone()).with_prefix("shop:");
    locks.install_global().unwrap();
    let again = Locks::new(late.clone()).install_global();
    assert_invalid(&again.unwrap_err(), "installed already");

    assert_eq!(with_lock(("a", 1), key).await.unwrap(), "shop:a:1");
    let error = with_lock("a", async |_| Err::<(), _>(std::io::Error::other("mine"))).await;
    assert_eq!(error.unwrap_err().to_string(), "mine");
    let guard = Locks::global().unwrap().lock("b").try_acquire().await;
    assert_eq!(backend.entries().len(), 1);
    drop(guard);
    assert!(late.calls().is_empty());
}
