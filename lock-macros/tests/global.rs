//! `#[locked]` without `locks`. One test, because locks are installed once in a process.
#![allow(clippy::unwrap_used, reason = "a test")]

use fencelock::{LockError, Locks, MemoryBackend, locked};

#[locked("order:{id}", guard)]
async fn pay(id: u64) -> Result<String, LockError> {
    Ok(guard.key().as_str().to_owned())
}

#[tokio::test]
async fn the_locks_of_the_process_are_used_and_missed_clearly() {
    let missing = pay(7).await.unwrap_err();
    assert!(matches!(missing, LockError::Invalid { .. }), "{missing:?}");
    assert!(
        missing.to_string().contains("Locks::install_global"),
        "{missing}"
    );

    let locks = Locks::new(MemoryBackend::new()).with_prefix("shop:");
    locks.install_global().unwrap();
    assert_eq!(pay(7).await.unwrap(), "shop:order:7");
}
