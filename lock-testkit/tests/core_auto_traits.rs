//! What may be moved where: to another task, another thread, behind a `dyn`. Most of it is shown by compiling.
#![allow(clippy::unwrap_used, reason = "a test")]

mod common_acquire;

use std::error::Error;
use std::fmt::Debug;
use std::panic::UnwindSafe;
use std::sync::Arc;

use common_acquire::*;
use lock_core::{
    Attempt, BackendError, Busy, Capabilities, Delays, DistributedLock, Fence, FencingRange,
    FencingToken, Grant, GuardPolicy, Holder, Lock, LockBackend, LockError, LockGuard, LockKey,
    LockOptions, Locks, LossHandle, LossReason, Moment, Owner, Ownership, Place, Released,
    RenewalPolicy, RetryPolicy, StaleToken, Ticket, Wakeup, Wakeups,
};
use lock_testkit::Scripted;

const fn goes_anywhere<T: Send + Sync + Unpin + Debug + 'static>() {}
const fn is_shared<T: Send + Sync + Debug + ?Sized + 'static>() {}
const fn is_plain_data<T: Clone + PartialEq + UnwindSafe + Send + Sync + Unpin + Debug>() {}
const fn is_an_error<T: Error + Clone + Send + Sync + Unpin + 'static>() {}
fn is_sent<F: Future + Send>(future: F) -> F {
    future
}

#[test]
fn every_public_type_is_send_sync_static_and_unpin() {
    goes_anywhere::<Locks>();
    goes_anywhere::<DistributedLock>();
    goes_anywhere::<LockGuard>();
    goes_anywhere::<LossHandle>();
    goes_anywhere::<Ticket>();
    goes_anywhere::<Fence>();
    goes_anywhere::<Delays>();
    goes_anywhere::<Moment>();
    goes_anywhere::<Owner>();
    goes_anywhere::<Arc<dyn Lock>>();
    goes_anywhere::<Box<dyn Lock>>();
    goes_anywhere::<Arc<dyn LockBackend>>();
    is_shared::<dyn Lock>();
    is_shared::<dyn LockBackend>();
    is_shared::<dyn Wakeups>();
    const fn is_moved<T: Send + ?Sized>() {}
    is_moved::<dyn Wakeup>();

    is_plain_data::<LockOptions>();
    is_plain_data::<RetryPolicy>();
    is_plain_data::<RenewalPolicy>();
    is_plain_data::<GuardPolicy>();
    is_plain_data::<LockKey>();
    is_plain_data::<FencingToken>();
    is_plain_data::<FencingRange>();
    is_plain_data::<Attempt>();
    is_plain_data::<Busy>();
    is_plain_data::<Grant>();
    is_plain_data::<Holder>();
    is_plain_data::<Place>();
    is_plain_data::<Ownership>();
    is_plain_data::<Released>();
    is_plain_data::<LossReason>();
    is_plain_data::<Capabilities>();

    is_an_error::<LockError>();
    is_an_error::<BackendError>();
    is_an_error::<StaleToken>();
}

#[tokio::test(start_paused = true)]
async fn every_future_may_move_to_another_thread() {
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let lock = locks.lock("k");
    drop(is_sent(lock.try_acquire()));
    drop(is_sent(lock.status()));
    let guard = is_sent(lock.acquire()).await.unwrap();
    is_sent(guard.extend(SECOND)).await.unwrap();
    is_sent(guard.renew_for(TTL)).await.unwrap();
    drop(is_sent(guard.lost()));
    let loss = guard.loss();
    drop(is_sent(loss.lost()));
    is_sent(guard.run(async {})).await.unwrap();
    let ticket = is_sent(guard.into_ticket()).await.unwrap();
    let guard = is_sent(locks.resume(&ticket)).await.unwrap();
    is_sent(guard.release()).await.unwrap();
    assert!(is_sent(locks.shutdown()).await);
}

/// A body that borrows from its surroundings and holds the guard across awaits, in a spawned task.
#[tokio::test(start_paused = true)]
async fn with_is_spawned_like_any_other_future() {
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let task = spawn({
        let locks = locks.clone();
        async move {
            let mut rows = vec![1, 2];
            let sum = locks
                .with("k", async |guard: &LockGuard| {
                    rows.push(3);
                    tokio::time::sleep(MS).await;
                    assert!(guard.is_held());
                    guard.extend(SECOND).await?;
                    Ok::<_, LockError>(rows.iter().sum::<i32>())
                })
                .await?;
            rows.push(sum);
            Ok::<_, LockError>(rows)
        }
    });
    assert_eq!(task.await.unwrap().unwrap(), [1, 2, 3, 6]);
    let lock = locks.lock("k");
    let task = spawn(async move { lock.with(async |_| Ok::<_, LockError>(7)).await });
    assert_eq!(task.await.unwrap().unwrap(), 7);
}

#[tokio::test(start_paused = true)]
async fn a_lock_is_used_behind_a_dyn() {
    let backend: Arc<dyn LockBackend> = Arc::new(Scripted::honest());
    let locks = Locks::from_arc(backend);
    let lock: Arc<dyn Lock> = Arc::new(locks.lock("k"));
    let task = spawn({
        let lock = Arc::clone(&lock);
        async move {
            let guard = is_sent(lock.acquire()).await?;
            assert!(is_sent(lock.try_acquire()).await.unwrap_err().is_busy());
            assert!(is_sent(lock.status()).await?.is_some());
            Ok::<_, LockError>((guard, lock.key().clone()))
        }
    });
    let (guard, key) = task.await.unwrap().unwrap();
    assert_eq!((guard.key(), lock.key()), (&key, &key));
    guard.release().await.unwrap();
    assert!(lock.status().await.unwrap().is_none());
}

#[test]
fn a_lock_works_on_every_flavour_of_runtime() {
    use tokio::runtime::Builder;
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let runtime = builder.enable_time().build().unwrap();
        runtime.block_on(async {
            let backend = Scripted::honest();
            let guard = lock(&backend).acquire().await.unwrap();
            let task = spawn(async move { guard.release().await });
            task.await.unwrap().unwrap();
            assert!(is_free(&backend));
        });
    }
    // Futures of ours are small enough to be kept in arrays of thousands.
    let backend = Scripted::honest();
    let lock = lock(&backend);
    let bytes = size_of_val(&lock.acquire());
    assert!(bytes <= 4096, "{bytes}");
    assert!(size_of::<LockGuard>() <= 64);
}
