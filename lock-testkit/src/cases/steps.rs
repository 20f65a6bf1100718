//! The steps that cases are made of. Not a case.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendErrorKind, Busy, DistributedLock, Grant, LockBackend,
    LockGuard, LockKey, Locks, LossReason, MAX_TTL, Moment, Owner, Ownership, Renew, RenewRequest,
    RenewalPolicy, RetryPolicy,
};
use tokio::time::{sleep, timeout};

use crate::faulty::Faulty;
use crate::fixture::{Fixture, patience};
use crate::gap::Gap;
use crate::sweep::cancel_sweep;

/// A ttl that does not end during a case.
pub(crate) const HOLD: Duration = Duration::from_secs(30);

/// A ttl that a case can wait for.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

/// An op timeout that a case can wait for, and that a loaded server keeps, and one that is far away.
pub(crate) const OP: Duration = Duration::from_secs(1);

/// How long to wait for what is certain to come.
pub(crate) const BOUND: Duration = Duration::from_secs(10);

/// The ttl of a guard that is renewed.
pub(crate) const LEASE: Duration = Duration::from_secs(10);

/// The ttl of a guard whose end a case waits for.
pub(crate) const BRIEF: Duration = Duration::from_secs(1);

/// The ttl of a guard that is renewed, and whose end a case can wait for: a request may take a fifth of it.
pub(crate) const TERM: Duration = Duration::from_secs(3);

/// By how much a wait may seem to be short: of two clocks, of which one stands still meanwhile, the further one counts.
pub(crate) const EARLY: Duration = Duration::from_millis(50);

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) const MILLISECOND: Duration = Duration::from_millis(1);

/// How many requests of one client are under way at once: a store that does one after the other has to bear them.
pub(crate) const AT_ONCE: usize = 16;

/// A key that no other case uses, ending in `name`.
pub(crate) fn key<F: Fixture>(fixture: &F, name: &str) -> LockKey {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let process = std::process::id();
    let owner = owner();
    let random = &owner.expose()[..8];
    let name = format!("case-{process}-{random}-{number}:{name}");
    LockKey::with_prefix(fixture.prefix(), name).expect("a valid key")
}

/// What fits a test that all wait for, or, where the environment variable `FENCELOCK_LONG` is set, what the catalogue of
/// scenarios says.
pub(crate) fn scaled<T>(usual: T, long: T) -> T {
    if std::env::var_os("FENCELOCK_LONG").is_some() {
        long
    } else {
        usual
    }
}

/// Whether a case that began then has had the time for many rounds. Those that a store far away did not manage by then are left
/// out: they are the same again.
pub(crate) fn is_enough(start: Moment) -> bool {
    start.elapsed() > patience() / 3
}

/// Does `each` with all of `items`, [`AT_ONCE`] at a time: one after the other takes long where a request does. In one task, which
/// is then the one that panics.
pub(crate) async fn with_all<T, Fut: Future>(
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(T) -> Fut,
) -> Vec<Fut::Output> {
    let (mut items, mut done) = (items.into_iter(), Vec::new());
    loop {
        let some = items.by_ref().take(AT_ONCE);
        let mut some: Vec<_> = some.map(|item| Box::pin(each(item))).collect();
        if some.is_empty() {
            return done;
        }
        poll_fn(|context| {
            some.retain_mut(|one| match one.as_mut().poll(context) {
                Poll::Ready(output) => {
                    done.push(output);
                    false
                }
                Poll::Pending => true,
            });
            if some.is_empty() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

/// The same, and what the catalogue says also where time costs nothing.
pub(crate) fn sized<F: Fixture, T>(usual: T, long: T) -> T {
    if F::PAUSED { long } else { scaled(usual, long) }
}

fn as_is<F: Fixture>(fixture: &F, locks: Locks) -> Locks {
    locks
        .with_prefix(fixture.prefix())
        .with_passing_on(F::PASSING_ON)
}

/// What an application uses: locks at a client of their own, of which `lock(key.name())` is the lock of a [`key`].
pub(crate) async fn locks<F: Fixture>(fixture: &F) -> Locks {
    as_is(fixture, Locks::new(fixture.client().await))
}

/// The same at a client whose calls are recorded, and meet what the case says on their way.
pub(crate) async fn watched_locks<F: Fixture>(fixture: &F) -> (Faulty<F::Backend>, Locks) {
    let client = Faulty::around(fixture.client().await);
    let locks = as_is(fixture, Locks::new(client.clone()));
    (client, locks)
}

/// The same, and each call is on its way there for 2 ms and back for as long: it can be dropped halfway, at any store.
pub(crate) async fn distant_locks<F: Fixture>(fixture: &F) -> (Faulty<F::Backend>, Locks) {
    let (client, locks) = watched_locks(fixture).await;
    (client.with_latency(2 * MILLISECOND), locks)
}

/// How to wait among many for what is held for milliseconds, also where nobody wakes.
pub(crate) fn eager() -> RetryPolicy {
    RetryPolicy::backoff(2 * MILLISECOND, 20 * MILLISECOND).give_up_after(6 * BOUND)
}

/// Other locks at the same client, which ask the store although a guard of the first believes that it holds.
pub(crate) fn beside<F: Fixture>(fixture: &F, client: &Faulty<F::Backend>) -> Locks {
    as_is(fixture, Locks::new(client.clone()))
}

/// The lock of `key`, taken for [`LEASE`] and renewed every 100 ms: a hundredth of what a loaded machine may miss.
pub(crate) fn renewed(locks: &Locks, key: &LockKey) -> DistributedLock {
    let renewal = RenewalPolicy::per_ttl(100);
    locks.lock(key.name()).with_ttl(LEASE).with_renewal(renewal)
}

/// The lock of `key`, taken for [`HOLD`] and not renewed.
pub(crate) fn unrenewed(locks: &Locks, key: &LockKey) -> DistributedLock {
    let renewal = RenewalPolicy::never();
    locks.lock(key.name()).with_ttl(HOLD).with_renewal(renewal)
}

/// The lock of `key`, taken for [`BRIEF`] and not renewed. Its guards may be granted late: a loaded machine takes its time.
pub(crate) fn brief(locks: &Locks, key: &LockKey) -> DistributedLock {
    unrenewed(locks, key)
        .with_ttl(BRIEF)
        .with_op_timeout(BRIEF * 4 / 5)
        .with_min_validity(MILLISECOND)
}

/// A lock that must be granted, at once or after a failure that a loaded machine may bring about.
pub(crate) async fn hold(lock: &DistributedLock) -> LockGuard {
    let guard = lock.acquire().await;
    guard.unwrap_or_else(|error| panic!("{} should be granted: {error}", lock.key()))
}

/// The entry of `guard`'s lock must not end before the guard does, nor have ended.
pub(crate) async fn assert_outlives<F: Fixture>(backend: &impl LockBackend, guard: &LockGuard) {
    let (asked, believed) = (Moment::now(), guard.remaining());
    let found = backend.inspect(guard.key()).await;
    let found = found.expect("an inspection is answered");
    let left = found.and_then(|holder| holder.remaining);
    assert!(
        left.unwrap_or_default() + asked.elapsed() + F::RESOLUTION >= believed,
        "the entry of {} lasts {left:?}, and its guard believes in {believed:?}",
        guard.key()
    );
}

/// How `guard` was lost, which it must hear of.
pub(crate) async fn loss(guard: &LockGuard) -> LossReason {
    let loss = timeout(BOUND, guard.lost()).await;
    loss.unwrap_or_else(|_| panic!("{guard:?} is not lost within {BOUND:?}"))
}

pub(crate) fn owner() -> Owner {
    Owner::fresh(None).expect("the system has randomness")
}

pub(crate) fn labelled(label: &str) -> Owner {
    Owner::fresh(Some(label)).expect("a valid label")
}

/// An attempt, which is answered. One that failed in passing was not applied, and is made again: where a grant counts only when
/// others have it too, they are waited for no longer than for a part of the ttl, in which a loaded machine may not come to them.
pub(crate) async fn attempt(
    backend: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
    ttl: Duration,
) -> Attempt {
    let (start, request) = (Moment::now(), AcquireRequest::new(key, owner, ttl));
    loop {
        match backend.try_acquire(request).await {
            Ok(attempt) => return attempt,
            Err(error) => {
                let has_passed = error.kind() == BackendErrorKind::Transient;
                let again = has_passed && start.elapsed() < BOUND;
                assert!(again, "an attempt is answered: {error:?}");
            }
        }
        sleep(MILLISECOND).await;
    }
}

/// An attempt that must be granted.
pub(crate) async fn take<F: Fixture>(
    backend: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
    ttl: Duration,
) -> Grant {
    match attempt(backend, key, owner, ttl).await {
        Attempt::Granted(grant) => {
            assert_ends::<F>(backend, key, ttl).await;
            grant
        }
        Attempt::Busy(busy) => panic!("{key} should be free and is busy: {busy:?}"),
    }
}

/// Whatever a store grants or prolongs has an end, no later than the store rounds to what was asked for: after each of these
/// steps, in every case.
async fn assert_ends<F: Fixture>(backend: &impl LockBackend, key: &LockKey, ttl: Duration) {
    let holder = backend.inspect(key).await;
    let Some(holder) = holder.expect("an inspection is answered") else {
        // It has ended.
        return;
    };
    let left = holder.remaining;
    let left = left.unwrap_or_else(|| panic!("the entry of {key} has no end"));
    assert!(
        left <= ttl + F::RESOLUTION,
        "the entry of {key} lasts {left:?}, asked was {ttl:?}"
    );
}

/// An attempt that must be refused.
pub(crate) async fn refused(backend: &impl LockBackend, key: &LockKey, owner: &Owner) -> Busy {
    match attempt(backend, key, owner, HOLD).await {
        Attempt::Busy(busy) => busy,
        Attempt::Granted(grant) => panic!("{key} is held and was granted again: {grant:?}"),
    }
}

/// One renewal, in a batch of its own.
pub(crate) async fn renew<F: Fixture>(
    backend: &impl LockBackend,
    key: &LockKey,
    owner: &Owner,
    ttl: Duration,
    how: Renew,
) -> Ownership {
    let mut answers = backend
        .renew(&[RenewRequest::new(key, owner, ttl, how)])
        .await;
    assert_eq!(answers.len(), 1, "one renewal, one answer");
    let answer = answers.remove(0).expect("a renewal is answered");
    if answer == Ownership::Held {
        // Left is what there was, if that was longer.
        let most = if how == Renew::Exactly { ttl } else { MAX_TTL };
        assert_ends::<F>(backend, key, most).await;
    }
    answer
}

pub(crate) async fn release(backend: &impl LockBackend, key: &LockKey, owner: &Owner) -> Ownership {
    backend
        .release(key, owner)
        .await
        .expect("a release is answered")
}

pub(crate) async fn is_free(backend: &impl LockBackend, key: &LockKey) -> bool {
    backend
        .inspect(key)
        .await
        .expect("an inspection is answered")
        .is_none()
}

/// What is left of the entry of `key`, which must be there and have an end.
pub(crate) async fn remaining(backend: &impl LockBackend, key: &LockKey) -> Duration {
    let holder = backend
        .inspect(key)
        .await
        .expect("an inspection is answered");
    let holder = holder.unwrap_or_else(|| panic!("{key} should be held and is free"));
    holder
        .remaining
        .unwrap_or_else(|| panic!("the entry of {key} has no end"))
}

/// The entry of `key` must last at least `ttl` from `asked`, the moment before it was asked for, and no longer than
/// `ttl` from now, as far as the store's resolution goes.
pub(crate) async fn assert_lasts<F: Fixture>(
    backend: &impl LockBackend,
    key: &LockKey,
    ttl: Duration,
    asked: Moment,
) {
    let left = remaining(backend, key).await;
    let least = ttl.saturating_sub(asked.elapsed() + F::RESOLUTION);
    assert!(
        left >= least,
        "the entry of {key} lasts {left:?} and should last {least:?}"
    );
    assert!(
        left <= ttl + F::RESOLUTION,
        "the entry of {key} lasts {left:?}, asked was {ttl:?}"
    );
}

/// [`cancel_sweep`], in real time again and again until a whole run has waited: a server may answer before anybody can wait for
/// it, though not for ever. Where there are connections to cut, a future must have been dropped in a wait.
pub(crate) async fn sweep<F: Fixture, Fut: Future>(
    mut make: impl FnMut(usize) -> Fut,
    mut check: impl AsyncFnMut(usize),
) {
    let may_never_wait = F::PAUSED || F::GAPS.contains(&Gap::CutConnections);
    let (start, mut rounds, mut most) = (Moment::now(), 0, 0);
    while most < 3 {
        most = cancel_sweep(&mut make, &mut check).await.max(most);
        rounds += 1;
        let is_over = if may_never_wait {
            F::PAUSED || rounds == 50
        } else {
            start.elapsed() > BOUND
        };
        if is_over {
            break;
        }
    }
    assert!(may_never_wait || most > 1, "nothing was dropped in a wait");
}

/// Does what [`Fixture`] has a hook for, on `key` if it is about one. Whether the fixture can.
pub(crate) async fn hook<F: Fixture>(fixture: &F, hook: Gap, key: &LockKey) -> bool {
    match hook {
        Gap::Evict => fixture.evict(key).await,
        Gap::Expire => fixture.expire(key).await,
        Gap::Obstruct => fixture.obstruct(key).await,
        Gap::Restart => fixture.restart().await,
        Gap::Stop => fixture.stop().await,
        Gap::Stall => fixture.stall(true).await,
        Gap::CutConnections => fixture.cut_connections().await,
        Gap::ForceRelease => fixture.operator().await.is_some(),
        Gap::Processes => fixture.address().is_some(),
        Gap::Signals => fixture.address().is_some() && cfg!(unix),
        Gap::Fencing
        | Gap::Wakeups
        | Gap::Order
        | Gap::HandOver
        | Gap::AnyTtl
        | Gap::SurvivesRestart
        | Gap::SendsOnce => panic!("{hook:?} is no hook"),
    }
}

/// Deletes the entry of `key`, which the fixture must be able to.
pub(crate) async fn evict<F: Fixture>(fixture: &F, key: &LockKey) {
    assert!(fixture.evict(key).await, "{}", Gap::Evict.advice());
}

/// Ends the entry of `key` early, which the fixture must be able to.
pub(crate) async fn expire<F: Fixture>(fixture: &F, key: &LockKey) {
    assert!(fixture.expire(key).await, "{}", Gap::Expire.advice());
}

/// Stops the store, which the fixture must be able to.
pub(crate) async fn stop<F: Fixture>(fixture: &F) {
    assert!(fixture.stop().await, "{}", Gap::Stop.advice());
}

/// Stalls the store or lets it go on, which the fixture must be able to.
pub(crate) async fn stall<F: Fixture>(fixture: &F, stalled: bool) {
    assert!(fixture.stall(stalled).await, "{}", Gap::Stall.advice());
}

/// Restarts the store, which the fixture must be able to.
pub(crate) async fn restart<F: Fixture>(fixture: &F) {
    assert!(fixture.restart().await, "{}", Gap::Restart.advice());
}

/// Cuts all connections, which the fixture must be able to.
pub(crate) async fn cut_connections<F: Fixture>(fixture: &F) {
    let can = fixture.cut_connections().await;
    assert!(can, "{}", Gap::CutConnections.advice());
}

/// Puts something that is no lock at `key`, which the fixture must be able to.
pub(crate) async fn obstruct<F: Fixture>(fixture: &F, key: &LockKey) {
    assert!(fixture.obstruct(key).await, "{}", Gap::Obstruct.advice());
}

/// Takes `key` for `owner` and lets the ttl end, by the fixture's hook or by waiting.
pub(crate) async fn take_and_let_end<F: Fixture>(
    fixture: &F,
    backend: &F::Backend,
    key: &LockKey,
    owner: &Owner,
) -> Grant {
    let grant = take::<F>(backend, key, owner, SHORT).await;
    if F::GAPS.contains(&Gap::Expire) {
        sleep(SHORT).await;
    } else {
        expire(fixture, key).await;
    }
    eventually("the entry ends", async || is_free(backend, key).await).await;
    grant
}

/// How long something takes; real time counts also where a fixture's is virtual, for a thread that is kept waits in no other.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch(Moment, std::time::Instant);

impl Stopwatch {
    #[allow(clippy::disallowed_methods, reason = "see there")]
    pub(crate) fn start() -> Self {
        Self(Moment::now(), std::time::Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed().max(self.1.elapsed())
    }
}

/// Waits until nobody holds `key`, which is certain to come.
pub(crate) async fn comes_free(backend: &impl LockBackend, key: &LockKey) {
    let free = async || is_free(backend, key).await;
    eventually(&format!("{key} is free again"), free).await;
}

/// Asks until the answer is yes.
pub(crate) async fn eventually(what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let start = Moment::now();
    while !ask().await {
        assert!(start.elapsed() < BOUND, "not within {BOUND:?}: {what}");
        sleep(5 * MILLISECOND).await;
    }
}
