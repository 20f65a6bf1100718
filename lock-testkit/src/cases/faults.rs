//! Calls that fail, hang, lose their reply, come late or come twice: what may have been done is called unknown and cleaned up, and
//! nobody holds what is somebody else's. Contract G6, G10, G11; SCENARIOS R03 to R06, F03 to F06.

use lock_core::{BackendError, LockError, LockKey, Locks, LossReason, Moment, Ownership, Released};
use tokio::runtime::Handle;
use tokio::time::timeout;

use super::cut_off::{Cuts, connected, cut_off};
use super::{
    BOUND, EARLY, HOLD, LEASE, OP, Stopwatch, TERM, assert_lasts, assert_outlives, brief,
    comes_free, cut_connections, eventually, hold, is_free, key, locks, owner, refused, release,
    renewed, stall, take, unrenewed, watched_locks,
};
use crate::faulty::{Effect, Faulty, Op};
use crate::fixture::Fixture;

fn cut() -> BackendError {
    BackendError::unknown("part of the case")
}

fn refusal() -> BackendError {
    BackendError::transient("part of the case")
}

/// An attempt that is applied while nobody hears of it is an unknown outcome, not a refusal and not a failure, and is given
/// back; a wait goes on after it, and is over in time where nothing is answered at all.
pub async fn a_grant_that_nobody_heard_of_is_given_back<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (watched_locks(&fixture).await, fixture.client().await);
    let is_unknown = |error: LockError| {
        assert!(matches!(error, LockError::Unknown { .. }), "{error}");
        assert!(error.is_retryable() && !error.is_busy(), "{error}");
    };
    for effect in [Effect::LoseReply(cut()), Effect::HangAfter] {
        let key = key(&fixture, "k");
        let lock = locks.lock(key.name()).with_ttl(HOLD).with_op_timeout(OP);
        client.on(Op::Acquire).next(effect);
        is_unknown(lock.try_acquire().await.expect_err("nobody heard of it"));
        comes_free(&oracle, &key).await;
        client.on(Op::Acquire).next(Effect::LoseReply(cut()));
        let guard = hold(&unrenewed(&locks, &key)).await;
        refused(&oracle, &key, &owner()).await;
        guard.release().await.expect("a release is answered");
        comes_free(&oracle, &key).await;
    }
    let key = key(&fixture, "k");
    let lock = locks.lock(key.name()).with_ttl(HOLD).with_op_timeout(OP);
    client.on(Op::Acquire).always(Effect::HangAfter);
    let start = Stopwatch::start();
    let error = lock.with_wait(OP).acquire().await;
    is_unknown(error.expect_err("nothing is answered"));
    is_in_time(start);
    comes_free(&oracle, &key).await;
    take::<F>(&oracle, &key, &owner(), HOLD).await;
}

/// A wait is over in time also at a store that stands still, and the lock is not busy for that.
pub async fn a_wait_ends_in_time_at_a_store_that_stands_still<F: Fixture>(fixture: F) {
    let (locks, key) = (locks(&fixture).await, key(&fixture, "k"));
    let lock = locks.lock(key.name()).with_ttl(HOLD).with_op_timeout(OP);
    stall(&fixture, true).await;
    let start = Stopwatch::start();
    let error = lock.clone().with_wait(OP).acquire().await;
    is_in_time(start);
    let error = error.expect_err("nothing is answered");
    assert!(!error.is_busy() && error.is_retryable(), "{error}");
    stall(&fixture, false).await;
    assert!(hold(&lock).await.is_held());
}

/// A wait of [`OP`] that began then, with as long for the last attempt and for giving it back.
fn is_in_time(start: Stopwatch) {
    let (took, most) = (start.elapsed(), 3 * OP + BOUND / 2);
    assert!(took >= OP - EARLY, "a wait of {OP:?} was over in {took:?}");
    assert!(took < most, "a wait of {OP:?} took {took:?}");
}

/// An attempt that is given up, cleaned up after, and applied only then is released once more.
pub async fn an_attempt_that_arrives_after_it_was_given_up_does_not_stay<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (watched_locks(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    let lock = locks.lock(key.name()).with_ttl(HOLD).with_op_timeout(OP);
    client.on(Op::Acquire).next(Effect::Ask);
    // The second release waits until the attempt has arrived.
    let releases = client.on(Op::Release);
    releases.next(Effect::Honest).next(Effect::Ask);
    let error = lock.try_acquire().await.expect_err("it is not answered");
    assert!(matches!(error, LockError::Unknown { .. }), "{error}");
    let released = async || !client.calls_of(Op::Release).is_empty();
    eventually("the attempt is released", released).await;
    client.next_call().await.apply().await;
    let again = timeout(BOUND, client.next_call()).await;
    again.expect("it is released again").reply_honestly().await;
    comes_free(&oracle, &key).await;
    take::<F>(&oracle, &key, &owner(), HOLD).await;
}

/// No lock is busy because its connection was cut while it was tried, and what was cut off is given back.
pub async fn an_attempt_that_was_cut_off_is_never_busy<F: Fixture>(fixture: F) {
    let (client, locks) = watched_locks(&fixture).await;
    let (mut cuts, mut unknown) = (Cuts::of::<F>(client.inner()), 0);
    while let Some(pause) = cuts.next(unknown) {
        connected(&fixture, client.inner()).await;
        client.forget_calls();
        let locks = locks.clone();
        let life = move |key: LockKey| {
            let lock = locks.lock(key.name());
            async move { lock.try_acquire().await.err().map(|error| (key, error)) }
        };
        let failed = cut_off(&fixture, pause, cut_connections(&fixture), life).await;
        let oracle = fixture.client().await;
        for (key, error) in failed {
            assert!(!error.is_busy(), "nobody has it, and it is busy: {error}");
            unknown += usize::from(matches!(error, LockError::Unknown { .. }));
            comes_free(&oracle, &key).await;
        }
    }
}

/// A request that arrives twice is one grant to one owner, which is not busy to itself and is released once.
pub async fn requests_that_arrive_twice_are_done_once<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (resending(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    let lock = locks.lock(key.name()).with_ttl(HOLD);
    for op in [Op::Acquire, Op::Renew, Op::Release] {
        client.on(op).always(Effect::Resend);
    }
    let mut newest = None;
    for _ in 0..3 {
        let asked = Moment::now();
        let guard = lock.try_acquire().await;
        let guard = guard.expect("the second copy is the same owner's");
        refused(&oracle, &key, &owner()).await;
        assert_lasts::<F>(&oracle, &key, HOLD, asked).await;
        let token = guard.fencing_token();
        assert!(token.is_none() || newest < token, "{newest:?}, {token:?}");
        newest = token;
        let released = guard.release().await.expect("a release is answered");
        assert_eq!(released, Released::Released);
        assert!(is_free(&oracle, &key).await);
    }
    // Renewals for the ttl of the grant, which every store can do.
    let (asked, before) = (Moment::now(), client.calls_of(Op::Renew).len());
    let guard = hold(&renewed(&locks, &key)).await;
    let again = async || client.calls_of(Op::Renew).len() > before + 1;
    eventually("it is renewed twice", again).await;
    assert_lasts::<F>(&oracle, &key, LEASE, asked).await;
    let released = guard.release().await.expect("a release is answered");
    assert_eq!(released, Released::Released);
}

/// A renewal for longer than the grant that arrives twice makes the entry last as long as it says, and no longer.
pub async fn a_prolongation_that_arrives_twice_is_done_once<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (resending(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    client.on(Op::Renew).always(Effect::Resend);
    let guard = hold(&unrenewed(&locks, &key)).await;
    for ttl in [2 * HOLD, 3 * HOLD] {
        let asked = Moment::now();
        guard.renew_for(ttl).await.expect("it is held");
        assert_lasts::<F>(&oracle, &key, ttl, asked).await;
        assert_outlives::<F>(&oracle, &guard).await;
    }
    let released = guard.release().await.expect("a release is answered");
    assert_eq!(released, Released::Released);
    assert!(is_free(&oracle, &key).await);
}

/// A copy of an attempt or of a renewal that arrives late does not shorten what was prolonged since.
pub async fn a_late_copy_shortens_nothing<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (resending(&fixture).await, fixture.client().await);
    for op in [Op::Acquire, Op::Renew] {
        let key = key(&fixture, "k");
        let lock = locks.lock(key.name()).with_ttl(HOLD);
        client.on(op).next(Effect::Copy);
        let guard = lock.try_acquire().await.expect("it is free");
        guard.renew_for(2 * HOLD).await.expect("it is held");
        let asked = Moment::now();
        guard.renew_for(3 * HOLD).await.expect("it is held");
        client.next_call().await.apply().await;
        assert_lasts::<F>(&oracle, &key, 3 * HOLD, asked).await;
        let released = guard.release().await.expect("a release is answered");
        assert_eq!(released, Released::Released);
    }
}

/// A copy of any request that arrives when somebody else holds the lock does nothing.
pub async fn a_late_copy_leaves_the_next_holder_alone<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (resending(&fixture).await, fixture.client().await);
    let (key, next) = (key(&fixture, "k"), owner());
    let lock = renewed(&locks, &key).with_ttl(HOLD);
    for op in [Op::Acquire, Op::Renew, Op::Release] {
        client.on(op).next(Effect::Copy);
    }
    let guard = lock.try_acquire().await.expect("it is free");
    let again = async || !client.calls_of(Op::Renew).is_empty();
    eventually("it is renewed", again).await;
    guard.release().await.expect("a release is answered");
    let asked = Moment::now();
    // For less than a copy asks for.
    take::<F>(&oracle, &key, &next, LEASE).await;
    let mut copies = 0;
    while let Some(copy) = client.try_next_call() {
        copy.apply().await;
        assert_lasts::<F>(&oracle, &key, LEASE, asked).await;
        copies += 1;
    }
    assert_eq!(copies, 3, "of an attempt, a renewal and a release");
    assert_eq!(release(&oracle, &key, &next).await, Ownership::Held);
}

/// A copy of an attempt that arrives after its lock was released, and finds it free, takes it for nobody: for one ttl, and no
/// longer.
pub async fn a_late_copy_that_takes_the_lock_ends_with_its_ttl<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (resending(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    client.on(Op::Acquire).next(Effect::Copy);
    let guard = hold(&brief(&locks, &key)).await;
    let token = guard.fencing_token();
    guard.release().await.expect("a release is answered");
    client.next_call().await.apply().await;
    comes_free(&oracle, &key).await;
    let next = hold(&unrenewed(&locks, &key)).await;
    assert!(token.is_none() || next.fencing_token() > token);
}

/// A hand-over that nobody heard of is given back, and one that arrives twice is one hand-over.
pub async fn a_hand_over_is_done_once_and_given_back_if_nobody_heard_of_it<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (resending(&fixture).await, fixture.client().await);
    let key = key(&fixture, "k");
    for effect in [Effect::Resend, Effect::LoseReply(cut())] {
        let guard = hold(&unrenewed(&locks, &key)).await;
        let ticket = guard.into_ticket().await.expect("it is held");
        client.on(Op::Acquire).next(effect.clone());
        match (locks.resume(&ticket).await, effect) {
            (Ok(guard), Effect::Resend) => {
                refused(&oracle, &key, &owner()).await;
                let released = guard.release().await.expect("a release is answered");
                assert_eq!(released, Released::Released);
            }
            (Err(LockError::Unknown { .. }), Effect::LoseReply(_)) => {}
            (resumed, effect) => panic!("{effect:?} came to {resumed:?}"),
        }
        comes_free(&oracle, &key).await;
    }
}

/// One renewal that is refused, loses its reply or is never answered is made up for before the entry ends.
pub async fn a_renewal_that_fails_once_is_made_up_for<F: Fixture>(fixture: F) {
    tokio::join!(
        is_made_up_for(&fixture, Effect::FailBefore(refusal())),
        is_made_up_for(&fixture, Effect::LoseReply(cut())),
        is_made_up_for(&fixture, Effect::HangBefore),
        is_made_up_for(&fixture, Effect::HangAfter),
    );
}

async fn is_made_up_for<F: Fixture>(fixture: &F, effect: Effect) {
    let ((client, locks), oracle) = (watched_locks(fixture).await, fixture.client().await);
    let (key, ttl, start) = (key(fixture, "k"), 6 * OP, Moment::now());
    let lock = locks.lock(key.name()).with_ttl(ttl).with_op_timeout(OP);
    client.on(Op::Renew).next(effect.clone());
    let guard = hold(&lock).await;
    let renewed = async || {
        assert_outlives::<F>(&oracle, &guard).await;
        let again = client.calls_of(Op::Renew).len() > 1;
        // What was granted first has less.
        again && guard.remaining() + start.elapsed() > ttl + OP
    };
    eventually(&format!("renewed after {effect:?}"), renewed).await;
    drop(guard);
    comes_free(&oracle, &key).await;
}

/// A lock whose renewals all fail is lost, and said to be, before its entry can have ended; then somebody else gets it.
pub async fn a_lock_that_cannot_be_renewed_is_lost_before_its_entry_ends<F: Fixture>(fixture: F) {
    tokio::join!(
        is_lost_in_time(&fixture, Effect::FailBefore(refusal())),
        is_lost_in_time(&fixture, Effect::LoseReply(cut())),
        is_lost_in_time(&fixture, Effect::HangBefore),
    );
}

async fn is_lost_in_time<F: Fixture>(fixture: &F, effect: Effect) {
    let ((client, locks), oracle) = (watched_locks(fixture).await, fixture.client().await);
    let key = key(fixture, "k");
    let lock = locks.lock(key.name()).with_ttl(TERM);
    client.on(Op::Renew).always(effect);
    let guard = hold(&lock).await;
    let loss = guard.loss();
    let lost = Handle::current().spawn(async move { loss.lost().await });
    let told = async || {
        assert_outlives::<F>(&oracle, &guard).await;
        lost.is_finished()
    };
    eventually("the holder is told", told).await;
    assert!(!guard.is_held());
    let reason = lost.await.expect("no panic");
    assert_eq!(reason, LossReason::Unconfirmed);
    // A loaded machine may not have come to a second one.
    let tries = client.calls_of(Op::Renew).len();
    assert!(tries > 1 || !F::PAUSED, "{tries} renewals were tried");
    drop(guard);
    comes_free(&oracle, &key).await;
    take::<F>(&oracle, &key, &owner(), HOLD).await;
}

/// A release that is not answered, or fails, is of unknown outcome or a failure, and is tried again until it is done.
pub async fn a_release_that_failed_is_done_later<F: Fixture>(fixture: F) {
    let ((client, locks), oracle) = (watched_locks(&fixture).await, fixture.client().await);
    for effect in [Effect::FailBefore(refusal()), Effect::HangBefore] {
        let key = key(&fixture, "k");
        let lock = locks.lock(key.name()).with_ttl(HOLD).with_op_timeout(OP);
        let guard = hold(&lock).await;
        client.on(Op::Release).next(effect.clone());
        let error = guard.release().await.expect_err("it was not applied");
        let is_unknown = matches!(error, LockError::Unknown { .. });
        let is_failed = matches!(error, LockError::Backend { .. });
        assert!(is_unknown || is_failed, "{error}");
        assert_eq!(is_unknown, matches!(effect, Effect::HangBefore), "{error}");
        comes_free(&oracle, &key).await;
    }
}

/// Like [`watched_locks`], with a client that declares that it sends again by itself.
async fn resending<F: Fixture>(fixture: &F) -> (Faulty<F::Backend>, Locks) {
    let client = watched_locks(fixture).await.0.with_resends();
    let locks = Locks::new(client.clone()).with_prefix(fixture.prefix());
    (client, locks)
}
