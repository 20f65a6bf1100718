//! Many locks at once, and many one after the other, in all ways: none is lost, and nothing is left of them. Contract G22;
//! SCENARIOS W02, W12.

use std::time::Duration;

use fastrand::Rng;
use lock_core::{
    BackendError, LockBackend as _, LockError, LockGuard, LockKey, Locks, Moment, Released,
    RenewalPolicy,
};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{
    BOUND, HOLD, LEASE, MILLISECOND, SECOND, assert_outlives, comes_free, cut_connections, eager,
    eventually, hold, is_free, key, locks, owner, release, scaled, take, unrenewed, watched_locks,
    with_all,
};
use crate::faulty::{Effect, Faulty, Op};
use crate::fixture::Fixture;
use crate::history::History;
use crate::leak::{LeakCheck, resident};
use crate::others;
use crate::seed::seed;

/// 256 locks of one client are held at once, and renewed: none is lost, and there is no task for each. With
/// `FENCELOCK_LONG` ten thousand, for three ttls.
pub async fn many_locks_are_held_at_once<F: Fixture>(fixture: F) {
    let (locks, oracle) = (locks(&fixture).await, fixture.client().await);
    let ttl = scaled(LEASE, 3 * LEASE);
    let renewal = RenewalPolicy::per_ttl(6);
    drop(hold(&unrenewed(&locks, &key(&fixture, "first"))).await);
    let leaks = LeakCheck::start();
    let names: Vec<_> = (0..scaled(256, 10_000))
        .map(|_| key(&fixture, "k"))
        .collect();
    let guards = with_all(&names, |key| {
        let lock = locks.lock(key.name()).with_ttl(ttl).with_renewal(renewal);
        async move { hold(&lock).await }
    })
    .await;
    // Real time is dear: there, that all are renewed once has to do.
    let long = if F::PAUSED {
        3 * ttl
    } else {
        scaled(ttl / 4, 3 * ttl)
    };
    let start = Moment::now();
    let mut most = 0;
    while start.elapsed() < long {
        for guard in &guards {
            assert!(guard.is_held(), "one of many is lost: {:?}", guard.check());
        }
        most = leaks.extra().max(most);
        sleep(100 * MILLISECOND).await;
    }
    assert!(most < 50, "{most} tasks for {} locks", guards.len());
    for guard in guards.iter().step_by(guards.len() / 40) {
        assert_outlives::<F>(&oracle, guard).await;
    }
    for released in with_all(guards, LockGuard::release).await {
        let released = released.expect("a release is answered");
        assert_eq!(released, Released::Released, "one of many was lost");
    }
    for key in names.iter().step_by(names.len() / 40) {
        assert!(is_free(&oracle, key).await, "{key} is still held");
    }
    leaks.assert_none(BOUND).await;
}

/// Locks that are taken in all ways, at three clients whose calls fail, come late and are not answered: no two hold one at the
/// same time, and afterwards nothing is left: no entry, no subscription, no task, and no memory that grows on and on (on
/// Linux; as a test, in a process of its own). For two seconds; with `FENCELOCK_LONG` for ten minutes. What is tried is another
/// thing each time, as a seed says, which is printed. With `FENCELOCK_SEED` it is that one: each task does the same in each
/// of its rounds, and what comes of it depends on time besides.
pub async fn after_a_long_time_nothing_is_left<F: Fixture>(fixture: F) {
    soak(fixture, async |_| {}).await;
}

/// The same while connections are cut all the time.
pub async fn after_a_long_time_of_cut_connections_nothing_is_left<F: Fixture>(fixture: F) {
    soak(fixture, async |fixture| cut_connections(fixture).await).await;
}

async fn soak<F: Fixture>(fixture: F, disturb: impl AsyncFn(&F)) {
    /// Of so many parts of the time, more than half must be without growth.
    const LAPS: usize = 5;
    const GROWTH: usize = 4 << 20;
    if others::ran_alone().await {
        return;
    }
    let keys: [LockKey; 3] = ["a", "b", "c"].map(|name| key(&fixture, name));
    let long = if F::PAUSED {
        3 * SECOND
    } else {
        scaled(400 * MILLISECOND, 120 * SECOND)
    };
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(watched_locks(&fixture).await);
    }
    // What clients start with their first calls and their first wait stays.
    let first = hold(&unrenewed(&clients[0].1, &keys[0])).await;
    for (_, locks) in &clients[1..] {
        let wait = locks.lock(keys[0].name()).with_wait(50 * MILLISECOND);
        wait.acquire().await.expect_err("it is held");
    }
    drop(first);
    // There already, so that what belongs to it is not counted as left.
    let oracle = fixture.client().await;
    comes_free(&oracle, &keys[0]).await;
    let owner = owner();
    take::<F>(&oracle, &keys[0], &owner, HOLD).await;
    release(&oracle, &keys[0], &owner).await;
    let leaks = LeakCheck::start();
    let mut rng = Rng::with_seed(seed());
    let (mut grown, mut holds) = (Vec::new(), 0);
    for _ in 0..LAPS {
        let before = resident();
        let history = if F::PAUSED {
            History::in_paused_time()
        } else {
            History::new()
        };
        let mut workers = JoinSet::new();
        for worker in 0..12 {
            let (client, locks) = &clients[worker % 3];
            let worker = Worker {
                keys: keys.clone(),
                client: client.clone(),
                locks: locks.clone(),
                history: history.clone(),
                who: worker.to_string(),
                rng: rng.fork(),
            };
            workers.spawn(worker.work(long));
        }
        let start = Moment::now();
        while start.elapsed() < long {
            sleep(100 * MILLISECOND).await;
            disturb(&fixture).await;
        }
        let ended = timeout(6 * BOUND, workers.join_all()).await;
        assert!(ended.is_ok(), "not all workers end");
        history.assert_sound();
        holds += history.holds().len();
        for (client, _) in &clients {
            client.forget_calls();
        }
        drop(history);
        grown.push(resident().saturating_sub(before));
    }
    assert!(holds >= 10, "{holds} holds");
    let connected = async || oracle.inspect(&keys[0]).await.is_ok();
    eventually("who looks is connected again", connected).await;
    for key in &keys {
        comes_free(&oracle, key).await;
        take::<F>(&oracle, key, &owner, HOLD).await;
    }
    let mut clients = clients.iter().map(|(client, _)| client);
    let gone = async || clients.all(|client| client.subscriptions() == 0);
    eventually("the subscriptions are gone", gone).await;
    leaks.assert_none(2 * BOUND).await;
    grown.sort_unstable();
    let usual = grown[LAPS / 2];
    assert!(usual < GROWTH, "memory grows and grows: {grown:?}");
}

/// One of the tasks of a soak.
struct Worker<B> {
    keys: [LockKey; 3],
    client: Faulty<B>,
    locks: Locks,
    history: History,
    who: String,
    rng: Rng,
}

impl<B> Worker<B> {
    /// Takes one lock after the other, holds it for a moment and lets it go, each in one way or another.
    async fn work(mut self, long: Duration) {
        let start = Moment::now();
        while start.elapsed() < long {
            // However many choices there were in the rounds before.
            let rng = &mut self.rng.fork();
            self.strike(rng);
            let key = rng.choice(&self.keys).expect("there are keys");
            let lock = self.locks.lock(key.name()).with_retry(eager());
            let lock = lock
                .with_ttl(2 * SECOND)
                .with_wait(MILLISECOND * rng.u32(..500));
            let patience = match rng.u8(..4) {
                0 => MILLISECOND * rng.u32(..30),
                _ => 6 * BOUND,
            };
            let attempt = self.history.attempt(key.as_str(), &self.who);
            let guard = match timeout(patience, lock.acquire()).await {
                Ok(Ok(guard)) => guard,
                Ok(Err(error)) => {
                    assert!(error.is_retryable(), "{error}");
                    continue;
                }
                Err(_) => continue,
            };
            let hold = attempt.granted(&guard);
            sleep(match rng.u8(..40) {
                // Until it is renewed.
                0 => SECOND,
                _ => MILLISECOND * rng.u32(..10),
            })
            .await;
            hold.renewed(&guard);
            if guard.is_held() {
                hold.released();
            } else {
                hold.lost();
            }
            match rng.u8(..20) {
                0 => guard.leave_to_expire(),
                1..8 => drop(guard),
                _ => match guard.release().await {
                    Ok(_) | Err(LockError::Lost { .. }) => {}
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                },
            }
        }
    }

    /// Something happens to whichever call comes next.
    fn strike(&self, rng: &mut Rng) {
        let effect = match rng.u8(..40) {
            0 => Effect::FailBefore(BackendError::transient("part of the case")),
            1 => Effect::LoseReply(BackendError::unknown("part of the case")),
            2 => Effect::HangBefore,
            3 => Effect::HangAfter,
            4..8 => Effect::DelayBoth(MILLISECOND * rng.u32(..20)),
            _ => return,
        };
        let ops = [Op::Acquire, Op::Renew, Op::Release, Op::Subscribe];
        let op = rng.choice(ops).expect("there are calls");
        self.client.on(op).next(effect);
    }
}
