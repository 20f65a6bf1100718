//! A crowd on many threads, in real time: each wants the lock in another way, some stop half way, replies are lost, and
//! runtimes end with all that is on them.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use lock_core::{
    BackendError, DistributedLock, LockError, LockGuard, LockOptions, Locks, PassingOn,
};
use lock_testkit::{Effect, Op, Scripted};
use tokio::runtime::{Builder, Runtime};
use tokio::time::{sleep, timeout};

use super::{KINDS, millis};

const TTL: Duration = Duration::from_millis(150);
const RUNTIMES: usize = 4;
const TASKS: usize = 16;
const DURATION: Duration = Duration::from_secs(4);

/// Longer than anything that was begun can have an effect.
const LONG: Duration = Duration::from_secs(20);

/// Each of them stands still now and then, because whoever has its turn does nothing.
const KEYS: usize = 8;

/// Somebody who wants a key.
type Begun = Pin<Box<dyn Future<Output = Result<LockGuard, LockError>> + Send>>;

struct Crowd {
    backend: Scripted,
    processes: [Locks; 2],
    keys: [Seen; KEYS],
    /// Whoever was begun, and is polled by whoever comes by, or by nobody.
    begun: Mutex<Vec<Begun>>,
    /// Guards that are dropped outside of any runtime.
    strays: Mutex<Vec<Arc<LockGuard>>>,
    granted: Mutex<usize>,
}

/// What was seen of one key.
#[derive(Default)]
struct Seen {
    /// Everybody's guard, with its token.
    guards: Mutex<Vec<(u64, Weak<LockGuard>)>>,
    newest: Mutex<u64>,
}

fn locked<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Crowd {
    fn new(passing: PassingOn) -> Self {
        let backend = Scripted::honest();
        let options = LockOptions::default()
            .with_ttl(TTL)
            .with_passing_on(passing)
            .with_wait(millis(400));
        let process = || Locks::new(backend.clone()).with_options(options.clone());
        Self {
            processes: [process(), process()],
            backend,
            keys: Default::default(),
            begun: Mutex::default(),
            strays: Mutex::default(),
            granted: Mutex::default(),
        }
    }

    fn lock(&self, rng: &mut Rng) -> DistributedLock {
        // Most in the first, so that there is a line.
        let process = &self.processes[usize::from(rng.u8(..6) == 0)];
        let kind = if rng.bool() {
            0
        } else {
            rng.usize(..KINDS.len())
        };
        KINDS[kind](process.lock(name(rng.usize(..KEYS))))
    }

    /// A guard was granted, or passed on, to whoever calls this.
    fn greet(&self, guard: LockGuard) -> Arc<LockGuard> {
        let guard = Arc::new(guard);
        let token = guard.fencing_token().expect("the store fences").get();
        let key = guard.key().as_str();
        let seen = &self.keys[key[1..].parse::<usize>().unwrap()];
        {
            let mut newest = locked(&seen.newest);
            // It may have been over before it was looked at, and another been faster.
            assert!(
                token > *newest || !guard.is_held(),
                "{token} after {newest}"
            );
            *newest = token.max(*newest);
        }
        let others = {
            let mut guards = locked(&seen.guards);
            guards.retain(|(_, one)| one.strong_count() > 0);
            let others = guards.clone();
            guards.push((token, Arc::downgrade(&guard)));
            others
        };
        for (other, held) in others {
            let Some(held) = held.upgrade() else { continue };
            // What is valid now was valid a moment ago, when the other was.
            let both = held.is_held() && guard.is_held();
            assert!(!both, "{other} and {token} are both held");
        }
        let entries = self.backend.entries();
        let known = entries.contains_key(key) || !guard.is_held();
        assert!(known, "{token} is held without an entry");
        *locked(&self.granted) += 1;
        guard
    }

    async fn misuse(&self, guard: LockGuard, rng: &mut Rng) {
        let guard = self.greet(guard);
        match rng.u8(..16) {
            0..11 => {}
            11 | 12 => tokio::task::yield_now().await,
            13 => sleep(Duration::from_micros(rng.u64(..4000))).await,
            14 => sleep(millis(rng.u64(..20))).await,
            _ => {
                let extend = guard.extend(millis(rng.u64(1..60)));
                drop(timeout(Duration::from_micros(rng.u64(..3000)), extend).await);
            }
        }
        let Some(guard) = Arc::into_inner(guard) else {
            // Somebody looks at it just now.
            return;
        };
        match rng.u8(..=255) {
            0..128 => drop(guard.release().await),
            128..200 => drop(guard),
            200..220 => drop(guard.release()),
            220..246 => drop(timeout(Duration::ZERO, guard.release()).await),
            246..250 => guard.leave_to_expire(),
            250 => std::mem::forget(guard),
            _ => locked(&self.strays).push(Arc::new(guard)),
        }
    }

    async fn live(self: Arc<Self>, mut rng: Rng) {
        loop {
            let lock = self.lock(&mut rng);
            let mut acquiring: Begun = Box::pin(async move { lock.acquire().await });
            match rng.u8(..64) {
                0 => {
                    let polled = acquiring
                        .as_mut()
                        .poll(&mut Context::from_waker(Waker::noop()));
                    match polled {
                        Poll::Ready(Ok(guard)) => self.misuse(guard, &mut rng).await,
                        Poll::Ready(Err(_)) => {}
                        Poll::Pending => locked(&self.begun).push(acquiring),
                    }
                }
                1..4 => {
                    let one = {
                        let mut begun = locked(&self.begun);
                        let index = rng.usize(..).checked_rem(begun.len());
                        index.map(|index| begun.swap_remove(index))
                    };
                    if let Some(one) = one {
                        let limit = millis(rng.u64(..20));
                        if let Ok(Ok(guard)) = timeout(limit, one).await {
                            self.misuse(guard, &mut rng).await;
                        }
                    }
                }
                4..12 => {
                    let limit = Duration::from_micros(rng.u64(..3000));
                    if let Ok(Ok(guard)) = timeout(limit, acquiring).await {
                        self.misuse(guard, &mut rng).await;
                    }
                }
                _ => {
                    if let Ok(guard) = acquiring.await {
                        self.misuse(guard, &mut rng).await;
                    }
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn disturb(&self, rng: &mut Rng) {
        let op = [Op::Acquire, Op::Renew, Op::Release, Op::Subscribe][rng.usize(..4)];
        let effect = match rng.u8(..4) {
            0 => Effect::FailBefore(BackendError::transient("refused")),
            1 => Effect::LoseReply(BackendError::unknown("cut")),
            2 => Effect::HangBefore,
            // None that takes time: the test store's timers end with the runtime on which a call began.
            _ => Effect::HangAfter,
        };
        self.backend.on(op).next(effect);
    }
}

fn name(key: usize) -> String {
    format!("k{key}")
}

fn runtime(rng: &mut Rng) -> Runtime {
    let mut builder = if rng.bool() {
        Builder::new_current_thread()
    } else {
        Builder::new_multi_thread()
    };
    builder.worker_threads(2).enable_time().build().unwrap()
}

/// A runtime after the other, each with tasks that want the lock, until `end`.
fn runtimes(crowd: &Arc<Crowd>, end: Instant, mut rng: Rng) {
    while Instant::now() < end {
        let runtime = runtime(&mut rng);
        let tasks: Vec<_> = (0..TASKS)
            .map(|_| runtime.spawn(Arc::clone(crowd).live(rng.fork())))
            .collect();
        let life = millis(rng.u64(20..300));
        runtime.block_on(async { sleep(life).await });
        for task in tasks {
            if task.is_finished() {
                runtime.block_on(task).expect("no task fails");
            }
        }
        drop(std::mem::take(&mut *locked(&crowd.strays)));
        match rng.u8(..4) {
            // Nobody drives it for a while.
            0 => thread::sleep(millis(rng.u64(..300))),
            1 => return runtime.shutdown_background(),
            _ => {}
        }
        drop(runtime);
    }
}

fn run(passing: PassingOn) {
    let seed = fastrand::u64(..);
    println!("{passing:?}, seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let crowd = Arc::new(Crowd::new(passing));
    let end = Instant::now() + DURATION;
    thread::scope(|scope| {
        for _ in 0..RUNTIMES {
            let mut rng = rng.fork();
            let crowd = &crowd;
            scope.spawn(move || {
                while Instant::now() < end {
                    runtimes(crowd, end, rng.fork());
                }
            });
        }
        while Instant::now() < end {
            crowd.disturb(&mut rng);
            thread::sleep(millis(rng.u64(10..60)));
        }
    });
    for op in Op::ALL {
        crowd.backend.on(op).clear();
    }
    drop(std::mem::take(&mut *locked(&crowd.strays)));
    // Those who were begun are there yet, and nobody polls them. Everything ends, and nobody is in the way.
    let last = Builder::new_current_thread().enable_time().build().unwrap();
    last.block_on(async {
        for process in &crowd.processes {
            for key in 0..KEYS {
                let lock = process.lock(name(key)).with_wait(LONG);
                let guard = lock.acquire().await.expect("nobody has it for ever");
                crowd.greet(guard);
            }
        }
        drop(std::mem::take(&mut *locked(&crowd.begun)));
        let free = async {
            while !crowd.backend.entries().is_empty() || crowd.backend.subscriptions() > 0 {
                sleep(millis(1)).await;
            }
        };
        timeout(LONG, free)
            .await
            .expect("nothing is left at the store");
    });
    let granted = *locked(&crowd.granted);
    assert!(granted > 200, "it went round {granted} times");
}

#[test]
fn no_crowd_on_runtimes_that_end_breaks_a_lock() {
    let endless = PassingOn::at_most(1000).within(LONG);
    // They wait most of the time.
    thread::scope(|scope| {
        for passing in [PassingOn::default(), endless, PassingOn::never()] {
            scope.spawn(move || run(passing));
        }
    });
}
