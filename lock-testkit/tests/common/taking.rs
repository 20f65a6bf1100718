//! How a test takes a lock that is free: by a grant, or, in core_passed.rs, from hand to hand.

use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use lock_core::{DistributedLock, LockGuard, PassingOn};
use lock_testkit::Scripted;

/// Takes a lock that is free.
pub(crate) async fn take(backend: &Scripted, lock: &DistributedLock) -> LockGuard {
    if !module_path!().starts_with("core_passed") {
        return lock.try_acquire().await.unwrap();
    }
    backend.pass_straight(true);
    let lock = lock
        .clone()
        .with_passing_on(PassingOn::at_most(9).within(Duration::from_secs(3600)));
    let first = lock.acquire().await.unwrap();
    // Two in line, so that the next grant reserves tokens.
    let (mut second, mut third) = (Box::pin(lock.acquire()), Box::pin(lock.acquire()));
    for waiting in [&mut second, &mut third] {
        let polled = poll_fn(|context| Poll::Ready(waiting.as_mut().poll(context))).await;
        assert!(polled.is_pending());
    }
    first.release().await.unwrap();
    let second = second.await.unwrap();
    let owner = || {
        let entries = backend.entries();
        entries
            .get(lock.key().as_str())
            .map(|entry| entry.owner.clone())
    };
    let before = owner();
    second.release().await.unwrap();
    let guard = third.await.unwrap();
    assert_eq!(owner(), before, "one lease");
    backend.pass_straight(false);
    guard
}
