//! Futures that are dropped: whatever the moment, nothing stays behind.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test"
)]

mod common_acquire;

use std::time::Duration;

use common_acquire::*;
use lock_core::{
    Busy, GuardPolicy, Holder, LockError, LockGuard, LockOptions, Locks, LossReason, MAX_TTL,
    Place, RetryPolicy,
};
use lock_testkit::{Effect, LeakCheck, Op, Scripted, cancel_sweep};
use tokio::time::{sleep, timeout};

const LATENCY: Duration = Duration::from_millis(5);

/// The stores that a sweep runs on: with and without wake-ups and latency.
fn stores() -> [Scripted; 3] {
    [
        Scripted::honest().with_latency(LATENCY),
        Scripted::honest().with_latency(LATENCY).with_wakeups(false),
        Scripted::honest(),
    ]
}

// Taking.

#[tokio::test(start_paused = true)]
async fn a_cancelled_acquire_of_a_free_lock_leaves_nothing_behind() {
    for policy in [GuardPolicy::Release, GuardPolicy::LeaveToExpire] {
        for backend in stores() {
            let leaks = LeakCheck::start();
            let lock = lock(&backend).with_guard(policy);
            let sweep = async |waiting: bool| {
                cancel_sweep(
                    |_| {
                        let lock = lock.clone();
                        async move {
                            let guard = match waiting {
                                true => lock.acquire().await,
                                false => lock.try_acquire().await,
                            };
                            guard.unwrap().release().await.unwrap();
                        }
                    },
                    async |_| assert_quiet(&backend, &leaks, CLEAN).await,
                )
                .await
            };
            let (acquire, try_acquire) = (sweep(true).await, sweep(false).await);
            assert_eq!(acquire, try_acquire, "free, they are the same");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_acquire_was_granted_and_is_released_whatever_the_policy() {
    for policy in [GuardPolicy::Release, GuardPolicy::LeaveToExpire] {
        let backend = Scripted::honest().with_latency(LATENCY);
        let lock = lock(&backend).with_guard(policy);
        let leaks = LeakCheck::start();
        // Applied after 5 ms, answered after 10.
        for cut in 0..12 {
            let granted = timeout(cut * MS, lock.acquire()).await;
            match granted {
                Ok(guard) => _ = guard.unwrap().release().await.unwrap(),
                Err(_) => assert_quiet(&backend, &leaks, CLEAN).await,
            }
        }
        assert!(is_free(&backend));
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_acquire_of_a_held_lock_leaves_nothing_behind() {
    for backend in stores() {
        let leaks = LeakCheck::start();
        let lock = lock(&backend).with_retry(RetryPolicy::backoff(10 * MS, 100 * MS));
        let cuts = cancel_sweep(
            |_| {
                // An orphan's end: after that the acquire completes.
                backend.steal("k", 300 * MS);
                async { lock.acquire().await.unwrap().release().await }
            },
            async |_| {
                backend.evict("k");
                assert_quiet(&backend, &leaks, CLEAN).await;
            },
        )
        .await;
        assert!(cuts >= 3, "{cuts}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_acquire_of_a_held_lock_leaves_the_holder_alone() {
    for backend in stores() {
        let leaks = LeakCheck::start();
        let thief = backend.steal("k", MAX_TTL);
        let lock = lock(&backend).with_wait(500 * MS);
        let cuts = cancel_sweep(
            |_| lock.acquire(),
            async |_| {
                leaks.assert_none(CLEAN).await;
                assert_eq!(backend.subscriptions(), 0);
                assert_eq!(backend.entries()["k"].owner, thief);
            },
        )
        .await;
        assert!(cuts >= 3, "{cuts}");
        assert!(backend.calls_of(Op::Release).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_acquire_leaves_nothing_behind_when_replies_are_lost_or_late() {
    let effects = [
        Effect::LoseReply(cut()),
        Effect::HangAfter,
        Effect::HangBefore,
        Effect::DelayAfter(20 * SECOND),
        Effect::DelayBeforeDetached(3 * SECOND),
        Effect::FailBefore(refused()),
    ];
    for effect in effects {
        for wakeups in [true, false] {
            let backend = Scripted::honest()
                .with_latency(LATENCY)
                .with_wakeups(wakeups);
            let leaks = LeakCheck::start();
            let lock = lock(&backend).with_retry(RetryPolicy::every(10 * MS));
            let cuts = cancel_sweep(
                |_| {
                    backend
                        .on(Op::Acquire)
                        .clear()
                        .next(effect.clone())
                        .next(effect.clone());
                    async { lock.acquire().await.unwrap().release().await }
                },
                async |_| {
                    backend.on(Op::Acquire).clear();
                    // A zombie may land up to 3 s after its request was given up, and is seen by the second release.
                    sleep(OP + OP + SLACK).await;
                    assert_quiet(&backend, &leaks, CLEAN).await;
                },
            )
            .await;
            assert!(cuts >= 7, "{effect:?}: {cuts}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_waiter_leaves_the_line_wherever_it_is_cut() {
    let backend = Scripted::honest();
    backend.on(Op::Acquire).always(Effect::Ask);
    let answering = {
        let backend = backend.clone();
        async move {
            loop {
                let call = backend.next_call().await;
                sleep(LATENCY).await;
                let holder = Holder::new().with_remaining(Some(100 * MS));
                call.reply_busy(Busy::new(holder).with_place(Place::new("7")));
            }
        }
    };
    let answering = spawn(answering);
    let leaks = LeakCheck::start();
    let lock = lock(&backend).with_wait(300 * MS);
    let mut attempts = 0;
    let mut leaves = 0;
    let cuts = cancel_sweep(
        |_| lock.acquire(),
        async |cut| {
            leaks.assert_none(CLEAN).await;
            assert_eq!(backend.subscriptions(), 0);
            let new_attempts = backend.calls_of(Op::Acquire).len() - attempts;
            let new_leaves = backend.calls_of(Op::Leave).len() - leaves;
            assert_eq!(new_leaves, usize::from(new_attempts > 0), "cut {cut}");
            attempts += new_attempts;
            leaves += new_leaves;
        },
    )
    .await;
    assert!(cuts >= 9, "{cuts}");
    answering.abort();
}

#[tokio::test(start_paused = true)]
async fn a_thousand_timeouts_over_a_slow_link_leave_nothing_behind() {
    let backend = Scripted::honest().with_latency(LATENCY);
    let leaks = LeakCheck::start();
    let lock = lock(&backend);
    for _ in 0..1000 {
        assert!(timeout(MS, lock.acquire()).await.is_err());
    }
    lock.acquire().await.unwrap().release().await.unwrap();
    assert_quiet(&backend, &leaks, CLEAN).await;
}

// Holding.

async fn held(backend: &Scripted) -> LockGuard {
    lock(backend).acquire().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_release_is_finished_in_the_background() {
    for policy in [GuardPolicy::Release, GuardPolicy::LeaveToExpire] {
        let backend = Scripted::honest().with_latency(LATENCY);
        let leaks = LeakCheck::start();
        for cut in 0..4 {
            let guard = lock(&backend).with_guard(policy).acquire().await.unwrap();
            // Begun, and dropped with its first, second .. wait.
            let released = timeout(4 * cut * MS, guard.release()).await;
            assert_eq!(released.is_ok(), cut == 3);
            assert_quiet(&backend, &leaks, CLEAN).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_is_cut_at_every_point() {
    let effects = [
        Effect::DelayBoth(LATENCY),
        Effect::LoseReply(cut()),
        Effect::HangAfter,
        Effect::HangBefore,
        Effect::FailBefore(refused()),
        Effect::DelayAfter(20 * SECOND),
    ];
    for effect in effects {
        let backend = Scripted::honest().with_latency(LATENCY);
        let leaks = LeakCheck::start();
        let sweep = cancel_sweep(
            |_| {
                backend.on(Op::Release).clear().next(effect.clone());
                async { held(&backend).await.release().await }
            },
            async |_| {
                assert_quiet(&backend, &leaks, CLEAN).await;
            },
        );
        let cuts = sweep.await;
        assert!(cuts >= 5, "{effect:?}: {cuts}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_is_cut_at_every_point() {
    for backend in stores() {
        let leaks = LeakCheck::start();
        let lock = lock(&backend);
        let cuts = cancel_sweep(
            |_| {
                backend.steal("k", 20 * MS);
                lock.with(async |guard| {
                    sleep(3 * MS).await;
                    assert!(guard.is_held());
                    sleep(TTL).await;
                    Ok::<_, LockError>(())
                })
            },
            async |_| {
                backend.evict("k");
                assert_quiet(&backend, &leaks, CLEAN).await;
            },
        )
        .await;
        assert!(cuts >= 9, "{cuts}");
    }
}

#[tokio::test(start_paused = true)]
async fn with_leaves_nothing_behind_however_the_body_ends() {
    let backend = Scripted::honest().with_latency(LATENCY);
    let locks = locks(&backend);
    let leaks = LeakCheck::start();
    let value = locks.with("k", async |_| Ok::<_, LockError>(7)).await;
    assert_eq!(value.unwrap(), 7);
    assert_quiet(&backend, &leaks, CLEAN).await;

    #[derive(Debug)]
    enum Failure {
        Own,
        Lock(LockError),
    }
    impl From<LockError> for Failure {
        fn from(error: LockError) -> Self {
            Self::Lock(error)
        }
    }
    // The body's error is not masked by that of the release.
    backend.on(Op::Release).next(Effect::FailBefore(refused()));
    let own = locks.with("k", async |_| Err::<(), _>(Failure::Own)).await;
    assert!(matches!(own, Err(Failure::Own)), "{own:?}");
    assert_quiet(&backend, &leaks, CLEAN).await;

    // Nor does a release that fails spoil the value.
    backend.on(Op::Release).next(Effect::LoseReply(cut()));
    let value = locks.with("k", async |_| Ok::<_, Failure>(7)).await;
    assert!(matches!(value, Ok(7)));
    assert_quiet(&backend, &leaks, CLEAN).await;

    let panicking = spawn({
        let locks = locks.clone();
        async move {
            let body = async |_: &LockGuard| -> Result<(), LockError> { panic!("on purpose") };
            locks.with("k", body).await
        }
    });
    assert!(panicking.await.unwrap_err().is_panic());
    assert_quiet(&backend, &leaks, CLEAN).await;

    // Lost in the midst: told at once, and the release of what is gone delays nothing.
    let lost = locks.with("k", async |guard| {
        backend.steal("k", HOUR);
        assert_eq!(guard.lost().await, LossReason::Taken);
        std::future::pending::<Result<(), Failure>>().await
    });
    let (lost, took) = timed(lost).await;
    assert!(
        matches!(
            lost,
            Err(Failure::Lock(LockError::Lost {
                reason: LossReason::Taken,
                ..
            }))
        ),
        "{lost:?}"
    );
    assert!(took < TTL / 3 + SLACK, "{took:?}");
    assert!(backend.evict("k"), "the thief's entry is left alone");
    assert_quiet(&backend, &leaks, CLEAN).await;

    // Lost unnoticed: the result says so even if the body returned Ok.
    let lost = locks
        .with("k", async |_| {
            backend.evict("k");
            Ok::<_, LockError>(())
        })
        .await;
    assert!(matches!(lost, Err(LockError::Lost { .. })), "{lost:?}");
    assert_quiet(&backend, &leaks, CLEAN).await;
}

#[tokio::test(start_paused = true)]
async fn an_extend_is_cut_at_every_point_and_the_guard_stays_right() {
    for effect in [
        Effect::DelayBoth(LATENCY),
        Effect::LoseReply(cut()),
        Effect::HangAfter,
        Effect::FailBefore(refused()),
    ] {
        let backend = Scripted::honest().with_latency(LATENCY);
        let leaks = LeakCheck::start();
        let cuts = cancel_sweep(
            |_| {
                backend.on(Op::Renew).clear().next(effect.clone());
                async {
                    let guard = held(&backend).await;
                    // Some cuts fall into these, and the guard is dropped with them.
                    let _ = guard.extend(TTL).await;
                    let _ = timeout(2 * LATENCY, guard.extend(TTL)).await;
                    let entry = &backend.entries()["k"];
                    assert!(guard.remaining() <= entry.remaining);
                    assert!(guard.is_held());
                    guard.release().await
                }
            },
            async |_| {
                backend.on(Op::Renew).clear();
                assert_quiet(&backend, &leaks, CLEAN).await;
            },
        )
        .await;
        assert!(cuts >= 9, "{effect:?}: {cuts}");
    }
}

#[tokio::test(start_paused = true)]
async fn into_ticket_is_cut_at_every_point() {
    let backend = Scripted::honest().with_latency(LATENCY);
    let leaks = LeakCheck::start();
    let mut tickets = 0;
    backend.on(Op::Renew).always(Effect::Ask);
    let options = LockOptions::default().with_ttl(3 * SECOND);
    let cuts = cancel_sweep(
        |_| async {
            let guard = lock(&backend).with_options(options.clone()).acquire().await;
            let guard = guard.unwrap();
            // A renewal to wait for.
            let renewal = backend.next_call().await;
            spawn(async move {
                sleep(100 * MS).await;
                renewal.reply_honestly().await;
            });
            guard.into_ticket().await.unwrap()
        },
        async |_| {
            // A ticket that nobody resumed is left to its ttl.
            sleep(OP).await;
            tickets += usize::from(!is_free(&backend));
            while backend.try_next_call().is_some() {}
            assert_quiet(&backend, &leaks, CLEAN).await;
        },
    )
    .await;
    assert!(cuts >= 7, "{cuts}");
    assert!(tickets >= 1);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_resume_leaves_the_lock_with_the_ticket_or_gives_it_back() {
    for effect in [
        Effect::DelayBoth(LATENCY),
        Effect::LoseReply(cut()),
        Effect::HangAfter,
        Effect::HangBefore,
        Effect::DelayBeforeDetached(3 * SECOND),
    ] {
        let backend = Scripted::honest().with_latency(LATENCY);
        let locks = locks(&backend);
        let leaks = LeakCheck::start();
        let waits = 2;
        for cut in 0..=waits {
            let ticket = held(&backend).await.into_ticket().await.unwrap();
            backend.on(Op::Acquire).next(effect.clone());
            let resumed = timeout(6 * cut * MS, locks.resume(&ticket)).await;
            drop(resumed);
            sleep(3 * OP).await;
            if let Some(entry) = backend.entries().get("k") {
                let mine = ticket.expose();
                assert!(mine.contains(entry.owner.expose()), "an orphan: {effect:?}");
                drop(locks.resume(&ticket).await.unwrap());
            }
            assert_quiet(&backend, &leaks, CLEAN).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn status_is_cut_at_every_point() {
    let backend = Scripted::honest().with_latency(LATENCY);
    let leaks = LeakCheck::start();
    let lock = lock(&backend);
    let cuts = cancel_sweep(
        |_| lock.status(),
        async |_| assert_quiet(&backend, &leaks, CLEAN).await,
    )
    .await;
    assert_eq!(cuts, 5);
}

#[tokio::test(start_paused = true)]
async fn shutdown_is_cut_at_every_point() {
    let backend = Scripted::honest().with_latency(LATENCY);
    let leaks = LeakCheck::start();
    let cuts = cancel_sweep(
        |_| async {
            let locks = locks(&backend);
            let guard = locks.lock("k").acquire().await.unwrap();
            let waiting = locks.lock("k");
            let waiter = spawn(async move { waiting.acquire().await });
            sleep(SECOND).await;
            // Dropped in any case, the shutdown goes on: so the waiter ends.
            let _ = timeout(MS, locks.shutdown()).await;
            assert!(locks.shutdown().await);
            assert!(!guard.is_held());
            let error = waiter.await.unwrap().unwrap_err();
            assert!(matches!(error, LockError::Closed { .. }), "{error:?}");
        },
        async |cut| {
            // A waiter whose locks were not shut down yet takes the lock when the guard goes, and drops it.
            sleep(SECOND).await;
            let elapsed = format!("cut {cut}");
            assert!(backend.subscriptions() == 0, "{elapsed}");
            assert_quiet(&backend, &leaks, CLEAN).await;
        },
    )
    .await;
    assert!(cuts >= 9, "{cuts}");
}

// A thousand times.

#[tokio::test(start_paused = true)]
async fn a_thousand_cycles_of_each_leave_nothing_behind() {
    let backend = Scripted::honest();
    let locks = locks(&backend);
    let leaks = LeakCheck::start();
    for _ in 0..1000 {
        let lock = locks.lock("k").with_ttl(SECOND);
        let guard = lock.acquire().await.unwrap();
        assert!(lock.try_acquire().await.unwrap_err().is_busy());
        assert!(timeout(MS, lock.acquire()).await.is_err());
        assert!(lock.status().await.unwrap().is_some());
        guard.extend(SECOND).await.unwrap();
        let ticket = guard.into_ticket().await.unwrap();
        drop(locks.resume(&ticket).await.unwrap());
        locks
            .with("k", async |_| Ok::<_, LockError>(()))
            .await
            .unwrap();
        backend.on(Op::Acquire).next(Effect::LoseReply(cut()));
        drop(lock.try_acquire().await.unwrap_err());
        drop(lock.acquire());
    }
    assert_quiet(&backend, &leaks, CLEAN).await;
    for _ in 0..100 {
        let locks = Locks::new(backend.clone());
        let guard = locks.lock("k").acquire().await.unwrap();
        assert!(locks.shutdown().await);
        drop(guard);
    }
    assert_quiet(&backend, &leaks, CLEAN).await;
}
