//! Locks for threads, in real time. Times are such that a busy machine keeps them.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::disallowed_methods,
    reason = "a test"
)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use lock_core::{
    BackendCall, BackendError, Capabilities, GuardPolicy, LockError, LockOptions, LossReason,
    MockLockBackend, Observed, PassingOn, Released, blocking,
};
use lock_memory::MemoryBackend;
use lock_memory::lock_core;
use lock_testkit::{Op, Scripted};

const SECOND: Duration = Duration::from_secs(1);

/// Before a test gives up.
const PATIENCE: Duration = Duration::from_secs(60);

fn memory() -> (MemoryBackend, blocking::Locks) {
    let backend = MemoryBackend::new();
    let locks = blocking::Locks::new(lock_core::Locks::new(backend.clone())).unwrap();
    (backend, locks)
}

/// As another process has them.
fn on(backend: &MemoryBackend) -> blocking::Locks {
    blocking::Locks::new(lock_core::Locks::new(backend.client())).unwrap()
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn is_free(locks: &blocking::Locks, name: &str) -> bool {
    locks.lock(name).status().unwrap().is_none()
}

#[test]
fn a_thread_takes_holds_and_gives_back() {
    let (backend, locks) = memory();
    let lock = locks.lock(("order", 7)).with_ttl(60 * SECOND);
    assert_eq!(lock.key().as_str(), "order:7");
    let guard = lock.acquire().unwrap();
    assert!(guard.is_held() && guard.check().is_ok());
    assert!(guard.remaining() > 50 * SECOND && guard.deadline() > Instant::now());
    assert_eq!(guard.lost_within(Duration::ZERO), None);
    guard.checkpoint();

    assert!(
        on(&backend)
            .lock("order:7")
            .try_acquire()
            .unwrap_err()
            .is_busy()
    );
    let holder = lock.status().unwrap().unwrap();
    assert_eq!(holder.fencing, guard.fencing_token());
    guard.extend(60 * SECOND).unwrap();
    assert!(guard.remaining() > 100 * SECOND);
    guard.renew_for(90 * SECOND).unwrap();
    assert!((80 * SECOND..90 * SECOND).contains(&guard.remaining()));
    assert!(guard.renew_for(Duration::ZERO).is_err());

    assert_eq!(guard.release().unwrap(), Released::Released);
    assert!(backend.is_empty());
    assert!(matches!(
        locks.lock("").acquire(),
        Err(LockError::Invalid { .. })
    ));
}

#[test]
fn threads_exclude_each_other_and_wait() {
    const THREADS: u32 = 4;
    const TURNS: u32 = 25;
    let (backend, _locks) = memory();
    let counter = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let locks = on(&backend);
                let lock = locks.lock("counter").with_wait(PATIENCE);
                for _ in 0..TURNS {
                    lock.with(|_| {
                        let before = counter.load(Ordering::SeqCst);
                        thread::yield_now();
                        counter.store(before + 1, Ordering::SeqCst);
                        Ok::<_, LockError>(())
                    })
                    .unwrap();
                }
            });
        }
    });
    assert_eq!(counter.into_inner(), THREADS * TURNS);
    assert!(backend.is_empty());
}

#[test]
fn a_lock_is_renewed_while_its_thread_is_busy() {
    let (backend, locks) = memory();
    let guard = locks.lock("a").with_ttl(3 * SECOND).acquire().unwrap();
    thread::sleep(7 * SECOND);
    assert!(guard.is_held());
    assert!(on(&backend).lock("a").try_acquire().unwrap_err().is_busy());
}

#[test]
fn a_lost_lock_is_told() {
    let (backend, locks) = memory();
    let lock = locks.lock("a").with_ttl(3 * SECOND);
    let guard = lock.acquire().unwrap();
    let loss = guard.loss();
    backend.steal("a", "thief", PATIENCE).unwrap();
    assert_eq!(guard.lost_within(PATIENCE), Some(LossReason::Taken));
    assert!(!guard.is_held() && !loss.is_held());
    assert!(matches!(guard.check(), Err(LockError::Lost { .. })));
    assert!(matches!(guard.extend(SECOND), Err(LockError::Lost { .. })));
    drop(guard);
    assert_eq!(backend.len(), 1, "the thief's is left alone");
    assert!(backend.evict("a"));

    // Also what the body is not told, because it does not ask.
    let late = lock.with(|_| {
        backend.steal("a", "thief", PATIENCE).unwrap();
        Ok::<_, LockError>("done")
    });
    assert!(matches!(late, Err(LockError::Lost { .. })), "{late:?}");
}

#[test]
fn with_gives_back_whatever_the_body_comes_to() {
    let (backend, locks) = memory();
    let key = locks
        .with("a", |guard| Ok::<_, LockError>(guard.key().clone()))
        .unwrap();
    assert_eq!(key.as_str(), "a");
    assert!(backend.is_empty());

    let own = locks.with("a", |_| Err::<(), _>(std::io::Error::other("mine")));
    assert_eq!(own.unwrap_err().to_string(), "mine");
    assert!(backend.is_empty());

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        locks.with("a", |_| -> Result<(), LockError> { panic!("as asked") })
    }));
    assert!(panicked.is_err());
    wait_until("released", || backend.is_empty());

    let expires = LockOptions::default().with_guard(GuardPolicy::LeaveToExpire);
    locks
        .lock("a")
        .with_options(expires)
        .with(|_| Ok::<_, LockError>(()))
        .unwrap();
    assert!(!is_free(&locks, "a"));
}

#[test]
fn a_dropped_guard_releases_and_outlives_its_locks() {
    let (backend, locks) = memory();
    let guard = locks.lock("a").acquire().unwrap();
    drop(guard);
    wait_until("released", || is_free(&locks, "a"));

    let guard = locks.lock("a").with_ttl(3 * SECOND).acquire().unwrap();
    drop(locks);
    // Its thread lives on, and renews it.
    thread::sleep(4 * SECOND);
    assert!(guard.is_held() && backend.len() == 1);
    // The last of them waits for the release, so that a program may end now.
    drop(guard);
    assert!(backend.is_empty());
}

#[test]
fn a_guard_may_be_left_to_expire_and_handed_over() {
    let (backend, locks) = memory();
    locks.lock("a").acquire().unwrap().leave_to_expire();
    assert_eq!(backend.len(), 1);

    let other = on(&backend);
    let guard = locks.lock("b").acquire().unwrap();
    let token = guard.fencing_token();
    let ticket = guard.into_ticket().unwrap();
    let resumed = other.resume(&ticket).unwrap();
    assert!(resumed.is_held() && resumed.fencing_token() > token);
    assert!(matches!(locks.resume(&ticket), Err(LockError::Lost { .. })));

    let guard = locks.lock("c").with_ttl(SECOND).acquire().unwrap();
    backend.steal("c", "thief", PATIENCE).unwrap();
    assert!(guard.lost_within(PATIENCE).is_some());
    let (guard, error) = guard.into_ticket().unwrap_err();
    assert!(matches!(error, LockError::Lost { .. }) && !guard.is_held());
}

#[test]
fn every_call_ends_although_the_store_does_not_answer() {
    let (backend, locks) = memory();
    let guard = locks.lock("a").acquire().unwrap();
    backend.partition();
    let start = Instant::now();
    assert!(matches!(
        locks.lock("b").try_acquire(),
        Err(LockError::Unknown { .. })
    ));
    assert!(matches!(guard.release(), Err(LockError::Unknown { .. })));
    assert!(start.elapsed() < PATIENCE / 2);
    // Waits for the two cleanups under way, 5 s at the most.
    let start = Instant::now();
    drop(locks);
    assert!(start.elapsed() < PATIENCE / 2);
}

#[test]
fn after_a_shutdown_everything_is_refused() {
    let (backend, locks) = memory();
    let guard = locks.lock("a").acquire().unwrap();
    assert!(locks.shutdown());
    assert_eq!(guard.lost_within(PATIENCE), Some(LossReason::ShutDown));
    assert!(matches!(
        locks.lock("a").acquire(),
        Err(LockError::Closed { .. })
    ));
    assert!(backend.is_empty());
}

#[test]
fn it_works_in_spawn_blocking() {
    for runtime in [
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap(),
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_time()
            .build()
            .unwrap(),
    ] {
        let backend = MemoryBackend::new();
        let shared = lock_core::Locks::new(backend.clone());
        let locks = blocking::Locks::new(shared.clone()).unwrap();
        let taken = runtime.block_on(async {
            let computing = tokio::task::spawn_blocking(move || {
                locks.with("a", |guard| {
                    thread::sleep(SECOND / 10);
                    guard.check().map(|()| 7)
                })
            });
            computing.await.unwrap()
        });
        assert_eq!(taken.unwrap(), 7);
        // The async locks and the blocking ones are the same.
        assert!(runtime.block_on(shared.lock("a").try_acquire()).is_ok());
    }
}

/// Async code and threads on the same locks, each renewed by a runtime of its own.
#[test]
fn a_lock_that_a_thread_gave_back_is_renewed_by_who_took_it() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let shared = lock_core::Locks::new(MemoryBackend::new()).with_ttl(3 * SECOND);
    let locks = blocking::Locks::new(shared.clone()).unwrap();
    let guard = locks.lock("a").acquire().unwrap();
    let waiting = runtime.spawn(async move { shared.lock("a").acquire().await });
    thread::sleep(SECOND / 5);
    guard.release().unwrap();
    let taken = runtime.block_on(waiting).unwrap().unwrap();
    drop(locks);
    thread::sleep(7 * SECOND);
    assert!(taken.is_held());
}

/// The lock goes round between threads and tasks, and the store is asked for the first grant only and for the one that found
/// somebody in line.
#[test]
fn a_lock_is_passed_on_between_threads_and_tasks() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .unwrap();
    let backend = Scripted::honest();
    let endless = PassingOn::at_most(1000).within(PATIENCE);
    let shared = lock_core::Locks::new(backend.clone())
        .with_passing_on(endless)
        .with_wait(PATIENCE);
    let locks = blocking::Locks::new(shared.clone()).unwrap();
    let first = locks.lock("a").acquire().unwrap();
    let tokens = Arc::new(Mutex::new(vec![first.fencing_token().unwrap()]));
    let inside = Arc::new(AtomicU32::new(0));
    let (mut threads, mut tasks) = (Vec::new(), Vec::new());
    for n in 0..10 {
        let (tokens, inside) = (Arc::clone(&tokens), Arc::clone(&inside));
        let enter = move |token| {
            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
            tokens.lock().unwrap().push(token);
            inside.fetch_sub(1, Ordering::SeqCst);
        };
        if n % 2 == 0 {
            let lock = locks.lock("a");
            threads.push(thread::spawn(move || {
                let guard = lock.acquire().unwrap();
                enter(guard.fencing_token().unwrap());
                match n % 4 {
                    0 => drop(guard),
                    _ => assert_eq!(guard.release().unwrap(), Released::Released),
                }
            }));
        } else {
            let lock = shared.lock("a");
            tasks.push(runtime.spawn(async move {
                let guard = lock.acquire().await.unwrap();
                enter(guard.fencing_token().unwrap());
                match n % 4 {
                    1 => drop(guard),
                    _ => drop(guard.release().await.unwrap()),
                }
            }));
        }
        // They come one after the other.
        thread::sleep(Duration::from_millis(20));
    }
    first.release().unwrap();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    for task in tasks {
        runtime.block_on(task).unwrap();
    }
    wait_until("free", || is_free(&locks, "a"));
    // Or, on a machine so busy that somebody came late, a few more.
    assert!(backend.calls_of(Op::Acquire).len() < 6);
    assert!(backend.calls_of(Op::Release).len() < 6);
    let tokens = tokens.lock().unwrap();
    assert_eq!(tokens.len(), 11);
    assert!(tokens.is_sorted_by(|one, next| one < next), "{tokens:?}");
}

#[test]
fn on_a_thread_of_async_code_it_blocks_and_does_not_panic() {
    #[allow(clippy::unused_async, reason = "so that async code runs it")]
    async fn use_it() {
        let (backend, locks) = memory();
        let guard = locks.lock("a").acquire().unwrap();
        assert!(locks.lock("a").try_acquire().is_err());
        drop(locks);
        assert!(guard.is_held());
        drop(guard);
        assert!(backend.is_empty());
    }
    let single = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    single.block_on(use_it());
    single.block_on(async { tokio::task::LocalSet::new().run_until(use_it()).await });
    let multi = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    multi.block_on(use_it());
    multi.block_on(async { tokio::spawn(use_it()).await.unwrap() });
}

/// Locks whose store's calls, on the locks' own thread, take what is in the slot and do `what` with it, once.
fn observed<T: Send + 'static, U: Send + 'static>(
    what: impl Fn(T) -> U + Send + Sync + 'static,
) -> (blocking::Locks, Arc<Mutex<Option<T>>>, mpsc::Receiver<U>) {
    let slot = Arc::new(Mutex::new(None));
    let (told, heard) = mpsc::channel();
    let observed = Observed::new(MemoryBackend::new(), {
        let slot = Arc::clone(&slot);
        move |_: &BackendCall<'_>| {
            let taken = slot.lock().unwrap().take();
            if let Some(taken) = taken {
                let _ = told.send(what(taken));
            }
        }
    });
    let locks = blocking::Locks::new(lock_core::Locks::new(observed)).unwrap();
    (locks, slot, heard)
}

#[test]
fn on_its_own_thread_it_is_refused_instead_of_waiting_for_itself() {
    let take = |locks: blocking::Locks| locks.lock("b").try_acquire().map(drop);
    let (locks, slot, heard) = observed(take);
    *slot.lock().unwrap() = Some(locks.clone());
    let guard = locks.lock("a").acquire().unwrap();
    let refused = heard.recv_timeout(PATIENCE).unwrap();
    assert!(
        matches!(refused, Err(LockError::Invalid { .. })),
        "{refused:?}"
    );
    guard.release().unwrap();
}

#[test]
fn the_last_of_them_may_be_dropped_on_its_own_thread() {
    let (locks, slot, heard) = observed(|last: (blocking::Locks, blocking::LockGuard)| drop(last));
    let guard = locks.lock("a").with_ttl(SECOND).acquire().unwrap();
    // The next renewal drops them.
    *slot.lock().unwrap() = Some((locks, guard));
    heard.recv_timeout(PATIENCE).unwrap();
}

#[test]
fn locks_are_made_on_their_own_thread() {
    let locks = blocking::Locks::connect(async {
        // A client's own task, which renews nothing if nobody runs it.
        let (ready, connected) = tokio::sync::oneshot::channel();
        tokio::spawn(async move { ready.send(MemoryBackend::new()) });
        let backend = connected
            .await
            .map_err(|_| BackendError::transient("gone"))?;
        assert_eq!(thread::current().name(), Some("fencelock"));
        Ok(lock_core::Locks::new(backend).with_prefix("shop:"))
    });
    let guard = locks.unwrap().lock("a").acquire().unwrap();
    assert_eq!(guard.key().as_str(), "shop:a");

    let refused = blocking::Locks::connect(async { Err(BackendError::permanent("no such user")) });
    assert_eq!(refused.unwrap_err().to_string(), "no such user");
}

#[test]
fn a_backend_that_panics_does_so_in_its_caller_and_nowhere_else() {
    let mut backend = MockLockBackend::new();
    backend.expect_capabilities().returning(Capabilities::new);
    backend.expect_wakeups().returning(|| None);
    backend
        .expect_try_acquire()
        .once()
        .returning(|_| panic!("as asked"));
    backend
        .expect_release()
        .returning(|_, _| Ok(lock_core::Ownership::Absent));
    backend.expect_inspect().returning(|_| Ok(None));
    let locks = blocking::Locks::new(lock_core::Locks::new(backend)).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| locks.lock("a").try_acquire()));
    assert_eq!(
        *panicked.unwrap_err().downcast::<&str>().unwrap(),
        "as asked"
    );
    assert_eq!(locks.lock("a").status().unwrap(), None);
}
