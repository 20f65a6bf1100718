//! What the tests of taking, releasing and handing over share.
#![allow(dead_code, unreachable_pub, reason = "each test file uses some of it")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test"
)]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, Capabilities, DistributedLock, Holder, LockBackend,
    LockError, LockGuard, LockKey, LockOptions, Locks, Moment, Owner, Ownership, Place,
    RenewRequest, RetryPolicy, Wakeup, Wakeups,
};
use lock_testkit::{LeakCheck, Op, Record, Scripted};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;

#[path = "../common/taking.rs"]
mod taking;

#[allow(unused_imports, reason = "some test files use it")]
pub(crate) use taking::take;

pub const MS: Duration = Duration::from_millis(1);
pub const SECOND: Duration = Duration::from_secs(1);
pub const HOUR: Duration = Duration::from_secs(3600);

/// The default ttl.
pub const TTL: Duration = Duration::from_secs(30);

/// The default op timeout of the default ttl.
pub const OP: Duration = Duration::from_secs(2);

/// Real time counts in a paused test too, and the machine may be busy.
pub const SLACK: Duration = Duration::from_millis(250);

/// How long a cleanup may take.
pub const CLEAN: Duration = Duration::from_millis(4200);

pub fn locks(backend: &Scripted) -> Locks {
    Locks::new(backend.clone())
}

/// The lock that the tests are about.
pub fn lock(backend: &Scripted) -> DistributedLock {
    locks(backend).lock("k")
}

/// Of unknown outcome.
pub fn cut() -> BackendError {
    BackendError::unknown("cut")
}

/// Known not to be applied, and worth another try.
pub fn refused() -> BackendError {
    BackendError::transient("refused")
}

pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    Handle::current().spawn(future)
}

pub fn is_free(backend: &Scripted) -> bool {
    backend.entries().is_empty()
}

/// When the calls of `op` were made, counted from `start`.
pub fn times(backend: &Scripted, op: Op) -> Vec<Duration> {
    let start = backend.calls().first().expect("a call").at;
    let records = backend.calls_of(op);
    records.iter().map(|record| record.at - start).collect()
}

/// Whether `actual` is `expected`, or up to the slack more. A little less will do as well: elapsed time is the larger
/// of virtual and real time, so that a wait of which some was real and the rest virtual measures less than it was.
pub fn is_about(actual: Duration, expected: Duration) -> bool {
    (expected.saturating_sub(50 * MS)..expected + SLACK).contains(&actual)
}

pub async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    let start = Moment::now();
    let output = future.await;
    (output, start.elapsed())
}

/// Nothing was left behind: no entry, no subscription, no task.
pub async fn assert_quiet(backend: &Scripted, leaks: &LeakCheck, within: Duration) {
    let start = Moment::now();
    while !is_free(backend) || backend.subscriptions() > 0 {
        let elapsed = start.elapsed();
        let (entries, subscriptions) = (backend.entries(), backend.subscriptions());
        assert!(
            elapsed < within,
            "after {elapsed:?}: {entries:?}, {subscriptions} subscriptions"
        );
        tokio::time::sleep(MS).await;
    }
    // The renewer's one task looks at its empty list once more before it ends.
    leaks.assert_none(TTL).await;
    assert!(is_free(backend), "it came back");
}

/// An attempt every `delay`, for ever.
pub fn every(delay: Duration) -> RetryPolicy {
    RetryPolicy::every(delay).wait_forever()
}

pub fn owners(records: &[Record]) -> Vec<Owner> {
    records
        .iter()
        .map(|record| record.owner.clone().expect("an owner"))
        .collect()
}

/// How long a turn is on offer: see `line.rs`.
pub const CLAIM: Duration = Duration::from_millis(250);

pub type Acquiring = Pin<Box<dyn Future<Output = Result<LockGuard, LockError>> + Send>>;

pub fn acquiring(lock: &DistributedLock) -> Acquiring {
    let lock = lock.clone();
    Box::pin(async move { lock.acquire().await })
}

pub fn waiter(lock: &DistributedLock) -> JoinHandle<Result<LockGuard, LockError>> {
    spawn(acquiring(lock))
}

/// Waiters that came in this order.
pub async fn waiters(
    lock: &DistributedLock,
    count: usize,
) -> Vec<JoinHandle<Result<LockGuard, LockError>>> {
    let mut waiters = Vec::new();
    for _ in 0..count {
        waiters.push(waiter(lock));
        yield_now().await;
    }
    waiters
}

pub async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    match timeout(10 * MS, future).await {
        Ok(output) => output,
        Err(_) => panic!("not soon: {what}"),
    }
}

pub async fn poll_once(future: &mut Acquiring) {
    let polled = poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await;
    assert!(polled.is_pending());
}

/// Nothing but a wake-up or a turn ends the wait.
pub fn patient(lock: DistributedLock) -> DistributedLock {
    let options = LockOptions::default().with_recheck(HOUR);
    lock.with_options(options.with_wait(24 * HOUR))
}

pub fn count(backend: &Scripted, op: Op) -> usize {
    backend.calls_of(op).len()
}

pub fn single() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// A scripted backend that misbehaves in ways that no script has.
#[derive(Debug, Clone)]
pub struct Odd {
    pub inner: Scripted,
    /// The next attempt is applied, and panics instead of answering.
    pub panics_once: Arc<AtomicBool>,
    /// Every subscription wakes its waiter all the time.
    pub restless: bool,
    /// Every busy answer gives a new place in line.
    pub shuffles: bool,
    /// Wake-ups come later than whoever made them can ask again.
    pub wakes_late: bool,
}

impl Odd {
    pub fn new(inner: &Scripted) -> Self {
        Self {
            inner: inner.clone(),
            panics_once: Arc::default(),
            restless: false,
            shuffles: false,
            wakes_late: false,
        }
    }
}

#[async_trait]
impl LockBackend for Odd {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        let answer = self.inner.try_acquire(request).await;
        assert!(
            !self.panics_once.swap(false, Ordering::SeqCst),
            "scripted panic after it was applied"
        );
        match answer {
            Ok(Attempt::Busy(busy)) if self.shuffles => {
                let place = Place::new(self.inner.calls().len().to_string());
                Ok(Attempt::Busy(busy.with_place(place)))
            }
            other => other,
        }
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        self.inner.renew(renewals).await
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        self.inner.release(key, owner).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        self.inner.inspect(key).await
    }

    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        Some(Arc::new(self.clone()))
    }
}

#[async_trait]
impl Wakeups for Odd {
    async fn subscribe(
        &self,
        key: &LockKey,
        place: Option<&Place>,
    ) -> Result<Box<dyn Wakeup>, BackendError> {
        let wakeups = self.inner.wakeups().expect("it has wake-ups");
        let wakeup = wakeups.subscribe(key, place).await?;
        Ok(match (self.restless, self.wakes_late) {
            (true, _) => Box::new(Restless),
            (false, true) => Box::new(Late(wakeup)),
            (false, false) => wakeup,
        })
    }

    async fn leave(&self, key: &LockKey, place: &Place) -> Result<(), BackendError> {
        let wakeups = self.inner.wakeups().expect("it has wake-ups");
        wakeups.leave(key, place).await
    }
}

#[derive(Debug)]
struct Late(Box<dyn Wakeup>);

#[async_trait]
impl Wakeup for Late {
    async fn notified(&mut self) {
        self.0.notified().await;
        for _ in 0..20 {
            yield_now().await;
        }
    }
}

#[derive(Debug)]
struct Restless;

#[async_trait]
impl Wakeup for Restless {
    async fn notified(&mut self) {}
}
