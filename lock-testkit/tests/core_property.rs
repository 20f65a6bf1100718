//! Random traces of operations, faults and pauses, with many guards for each lease or one, of callers who all want it alike or
//! each in another way: whatever happens, no two guards are valid at once, no guard believes in its lock for longer than the
//! store does, fencing tokens grow, and nothing stays behind. On many threads and runtimes that end: `crowd.rs`.
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test"
)]

#[path = "core_property/crowd.rs"]
mod crowd;

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use lock_core::{
    BackendError, DistributedLock, FencingToken, GuardPolicy, LockError, LockGuard, LockOptions,
    Locks, LossHandle, Moment, PassingOn, RenewalPolicy, suspend,
};
use lock_testkit::{Effect, LeakCheck, Op, Scripted};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep, timeout};

const MS: Duration = Duration::from_millis(1);
const TTL: Duration = Duration::from_millis(100);
const OP: Duration = Duration::from_millis(20);
/// No attempt is cut off later.
const LONGEST: Duration = Duration::from_millis(1000);
/// No extension adds more.
const MOST_ADDED: Duration = Duration::from_millis(400);
const ACTORS: usize = 6;

/// What one caller wants otherwise than another.
const KINDS: [fn(DistributedLock) -> DistributedLock; 8] = [
    |lock| lock,
    |lock| lock.with_ttl(millis(70)),
    |lock| lock.with_label("another"),
    |lock| lock.with_renewal(RenewalPolicy::never()),
    |lock| lock.with_renewal(RenewalPolicy::default().hold_at_most(millis(40))),
    |lock| lock.with_guard(GuardPolicy::LeaveToExpire),
    |lock| lock.with_passing_on(PassingOn::never()),
    |lock| lock.with_passing_on(PassingOn::at_most(2)),
];

#[derive(Debug, Clone)]
enum Step {
    TryAcquire(usize),
    /// Waits for so long; cut off after the second number.
    Acquire(usize, u64, u64),
    /// The same for a caller of that kind, in the first process or the second.
    AcquireAs(usize, usize, bool, u64, u64),
    /// A caller of that kind begins to wait for so long, is polled once, and then only by `Poll`.
    Begin(usize, bool, u64),
    /// Polls one of those that were begun.
    Poll(usize, usize),
    /// Drops one of those that were begun.
    Abandon(usize),
    /// The second process shuts down, and there is another.
    Shutdown,
    Release(usize),
    /// Whoever holds it lets go, and waits for that or not.
    Next(bool),
    Drop(usize),
    Leave(usize),
    /// Runs beside what follows; cut off after the last number.
    Extend(usize, u64, u64),
    RenewFor(usize, u64, u64),
    /// Whoever holds it shortens it, and the store hears of that so much later.
    Shorten(u64, u64),
    /// Whoever holds it extends it.
    Prolong(u64),
    /// Hands the lock to another actor, or to nobody.
    HandOver(usize, Option<usize>),
    Sleep(u64),
    /// The system is suspended: time passes, and that of timers does not.
    Stall(u64),
    Evict,
    Steal(u64),
    Wake,
    Fault(Op, Fault),
    Faults(Op, Fault),
    NoFaults,
}

#[derive(Debug, Clone)]
enum Fault {
    Fail,
    LoseReply,
    HangBefore,
    HangAfter,
    DelayBefore(u64),
    Zombie(u64),
    DelayAfter(u64),
}

impl Fault {
    fn effect(&self) -> Effect {
        match self {
            Self::Fail => Effect::FailBefore(BackendError::transient("refused")),
            Self::LoseReply => Effect::LoseReply(BackendError::unknown("cut")),
            Self::HangBefore => Effect::HangBefore,
            Self::HangAfter => Effect::HangAfter,
            Self::DelayBefore(ms) => Effect::DelayBefore(millis(*ms)),
            Self::Zombie(ms) => Effect::DelayBeforeDetached(millis(*ms)),
            Self::DelayAfter(ms) => Effect::DelayAfter(millis(*ms)),
        }
    }
}

fn fault() -> impl Strategy<Value = Fault> + Clone {
    prop_oneof![
        Just(Fault::Fail),
        Just(Fault::LoseReply),
        Just(Fault::HangBefore),
        Just(Fault::HangAfter),
        (1_u64..60).prop_map(Fault::DelayBefore),
        (1_u64..150).prop_map(Fault::Zombie),
        (1_u64..60).prop_map(Fault::DelayAfter),
    ]
}

fn op() -> impl Strategy<Value = Op> + Clone {
    prop_oneof![
        4 => Just(Op::Acquire),
        4 => Just(Op::Renew),
        2 => Just(Op::Release),
        1 => Just(Op::Subscribe),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let (actor, fault, op) = (0..ACTORS, fault(), op());
    prop_oneof![
        4 => actor.clone().prop_map(Step::TryAcquire),
        6 => (actor.clone(), 0_u64..300, 0_u64..400).prop_map(|(a, w, c)| Step::Acquire(a, w, c)),
        3 => actor.clone().prop_map(Step::Release),
        2 => actor.clone().prop_map(Step::Drop),
        1 => actor.clone().prop_map(Step::Leave),
        3 => (actor.clone(), 1_u64..400, 0_u64..60).prop_map(|(a, ms, c)| Step::Extend(a, ms, c)),
        3 => (actor.clone(), 10_u64..300, 0_u64..60).prop_map(|(a, ms, c)| Step::RenewFor(a, ms, c)),
        2 => (actor.clone(), proptest::option::of(actor)).prop_map(|(a, b)| Step::HandOver(a, b)),
        8 => (1_u64..150).prop_map(Step::Sleep),
        1 => Just(Step::Evict),
        1 => (10_u64..100).prop_map(Step::Steal),
        1 => Just(Step::Wake),
        4 => (op.clone(), fault.clone()).prop_map(|(op, fault)| Step::Fault(op, fault)),
        1 => (op, fault).prop_map(|(op, fault)| Step::Faults(op, fault)),
        2 => Just(Step::NoFaults),
    ]
}

/// A step on a machine that is suspended now and then: the two clocks of a lease go by turns.
fn stalling_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (1_u64..120).prop_map(Step::Stall),
        4 => step(),
        4 => crowded_step(),
    ]
}

/// A step in a crowd: somebody always waits, and whoever has the lock does not keep it for long.
fn crowded_step() -> impl Strategy<Value = Step> {
    let actor = 0..ACTORS;
    prop_oneof![
        12 => (actor.clone(), 100_u64..300, 0_u64..400).prop_map(|(a, w, c)| Step::Acquire(a, w, c)),
        10 => any::<bool>().prop_map(Step::Next),
        8 => (1_u64..30).prop_map(Step::Sleep),
        2 => (actor, 1_u64..60, 0_u64..60).prop_map(|(a, ms, c)| Step::Extend(a, ms, c)),
        1 => (10_u64..60, 20_u64..150).prop_map(|(ms, late)| Step::Shorten(ms, late)),
        2 => (1_u64..100).prop_map(Step::Prolong),
        2 => (op(), fault()).prop_map(|(op, fault)| Step::Fault(op, fault)),
        4 => step(),
    ]
}

/// A step in a crowd of which each wants something else, some stop half way, and one process comes and goes.
fn mixed_step() -> impl Strategy<Value = Step> {
    let (actor, kind, any_of) = (0..ACTORS, 0..KINDS.len(), 0..4_usize);

    prop_oneof![
        12 => (actor.clone(), kind.clone(), any::<bool>(), 50_u64..300, 0_u64..400)
            .prop_map(|(a, k, p, w, c)| Step::AcquireAs(a, k, p, w, c)),
        3 => (kind, any::<bool>(), 50_u64..900).prop_map(|(k, p, w)| Step::Begin(k, p, w)),
        4 => (any_of.clone(), actor).prop_map(|(one, a)| Step::Poll(one, a)),
        1 => any_of.prop_map(Step::Abandon),
        1 => Just(Step::Shutdown),
        8 => any::<bool>().prop_map(Step::Next),
        8 => (1_u64..60).prop_map(Step::Sleep),
        // Longer than a turn is on offer.
        1 => (250_u64..400).prop_map(Step::Sleep),
        1 => (10_u64..60, 20_u64..150).prop_map(|(ms, late)| Step::Shorten(ms, late)),
        2 => (1_u64..100).prop_map(Step::Prolong),
        3 => (op(), fault()).prop_map(|(op, fault)| Step::Fault(op, fault)),
        3 => step(),
    ]
}

type Begun = Pin<Box<dyn Future<Output = Result<LockGuard, LockError>>>>;

/// A guard and what was seen of it.
struct Seen {
    /// Shared with the operations under way.
    guard: Arc<LockGuard>,
    /// It was seen to be lost: it stays lost.
    lost: bool,
    /// Of that generation of the second process; none of the first.
    process: Option<usize>,
    /// The store was made to forget it then: it may believe in itself for so long yet.
    disowned: Option<(Moment, Duration)>,
}

/// How often the store was made to forget an entry, and when last. In virtual time the moment alone does not say what came first.
#[derive(Default)]
struct Forgot {
    times: usize,
    last: Option<Moment>,
}

struct World {
    /// By how much the two clocks of a lease may differ.
    stalled: Mutex<Duration>,
    backend: Scripted,
    options: LockOptions,
    locks: Locks,
    /// The second process, and how many there were before it.
    second: Mutex<(Locks, usize)>,
    /// Waiters that are polled only now and then, if ever, and how often the store had forgotten entries when they began.
    begun: Mutex<Vec<(Option<usize>, usize, Begun)>>,
    passing: PassingOn,
    guards: [Arc<Mutex<Option<Seen>>>; ACTORS],
    newest: Arc<Mutex<FencingToken>>,
    forgot: Arc<Mutex<Forgot>>,
    /// What is left of the guards that were let go.
    gone: Mutex<Vec<LossHandle>>,
}

impl World {
    fn new(renewal: RenewalPolicy, wakeups: bool, passing: PassingOn) -> Self {
        let backend = Scripted::honest().with_wakeups(wakeups);
        let options = LockOptions::default()
            .with_ttl(TTL)
            .with_op_timeout(OP)
            .with_renewal(renewal)
            .with_passing_on(passing);
        let process = || Locks::new(backend.clone()).with_options(options.clone());
        let (locks, second) = (process(), Mutex::new((process(), 0)));
        let newest = Arc::new(Mutex::new(FencingToken::new(0)));
        Self {
            stalled: Mutex::default(),
            backend,
            options,
            locks,
            second,
            begun: Mutex::default(),
            passing,
            guards: Default::default(),
            newest,
            forgot: Arc::default(),
            gone: Mutex::default(),
        }
    }

    fn keep(
        slot: &Mutex<Option<Seen>>,
        newest: &Mutex<FencingToken>,
        process: Option<usize>,
        guard: LockGuard,
    ) {
        let token = guard.fencing_token().expect("the store fences");
        let mut newest = newest.lock().unwrap();
        assert!(token > *newest, "token {token} after {newest}");
        *newest = token;
        let guard = Arc::new(guard);
        *slot.lock().unwrap() = Some(Seen {
            guard,
            lost: false,
            process,
            disowned: None,
        });
    }

    /// Keeps a guard that came of what began when the store had forgotten entries so often, if there is room and nobody can doubt that it is whole.
    fn keep_whole(
        slot: &Mutex<Option<Seen>>,
        newest: &Mutex<FencingToken>,
        forgot: &Mutex<Forgot>,
        longest: Duration,
        (process, before): (Option<usize>, usize),
        guard: LockGuard,
    ) {
        let forgot = forgot.lock().unwrap();
        // Granted and then forgotten, or the other way round; or granted to another, forgotten, and then passed
        // on: nobody can say, and it is let go.
        let whole = forgot.times == before && forgot.last.is_none_or(|at| at.elapsed() >= longest);
        if whole && slot.lock().unwrap().is_none() {
            Self::keep(slot, newest, process, guard);
        }
    }

    /// What a caller of that kind asks, and in which process.
    fn lock_of(&self, kind: usize, second: bool) -> (Option<usize>, DistributedLock) {
        let (process, lock) = if second {
            let second = self.second.lock().unwrap();
            (Some(second.1), second.0.lock("k"))
        } else {
            (None, self.locks.lock("k"))
        };
        (process, KINDS[kind](lock))
    }

    /// How long a lease may be passed on that the store forgot.
    fn longest(&self) -> Duration {
        match self.passing == PassingOn::never() {
            true => Duration::ZERO,
            false => LONGEST,
        }
    }

    fn poll(&self, one: usize, actor: usize) {
        let mut begun = self.begun.lock().unwrap();
        if begun.is_empty() {
            return;
        }
        let index = one % begun.len();
        let polled = begun[index]
            .2
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        let Poll::Ready(answer) = polled else { return };
        let (process, before, _) = begun.swap_remove(index);
        drop(begun);
        if let Ok(guard) = answer {
            let slot = &self.guards[actor];
            let (newest, forgot) = (&self.newest, &self.forgot);
            Self::keep_whole(
                slot,
                newest,
                forgot,
                self.longest(),
                (process, before),
                guard,
            );
        }
    }

    fn process(&self) -> Locks {
        Locks::new(self.backend.clone()).with_options(self.options.clone())
    }

    async fn shut_down(&self) {
        let (old, generation) = {
            let mut second = self.second.lock().unwrap();
            let next = self.process();
            let old = std::mem::replace(&mut second.0, next);
            second.1 += 1;
            (old, second.1 - 1)
        };
        let start = Instant::now();
        let _ = old.shutdown().await;
        let took = start.elapsed();
        assert!(took <= 5 * LONGEST + OP, "a shutdown took {took:?}");
        for slot in &self.guards {
            if let Some(seen) = &*slot.lock().unwrap() {
                let is_gone = seen.process == Some(generation);
                assert!(!is_gone || !seen.guard.is_held(), "held after a shutdown");
            }
        }
    }

    fn holder(&self) -> Option<usize> {
        self.guards.iter().position(|slot| {
            let slot = slot.lock().unwrap();
            slot.as_ref().is_some_and(|seen| seen.guard.is_held())
        })
    }

    /// The actor's guard, if no operation on it is under way.
    fn take(&self, actor: usize) -> Option<Seen> {
        let seen = self.guards[actor]
            .lock()
            .unwrap()
            .take_if(|seen| Arc::strong_count(&seen.guard) == 1)?;
        self.gone.lock().unwrap().push(seen.guard.loss());
        Some(seen)
    }

    fn take_guard(&self, actor: usize) -> Option<LockGuard> {
        Arc::into_inner(self.take(actor)?.guard)
    }

    /// Starts an operation on the actor's guard, to be cut off after `cut`.
    fn spawn_operation(
        &self,
        actor: usize,
        cut: u64,
        operation: impl AsyncFnOnce(&LockGuard) + 'static,
    ) {
        let Some(guard) = self.guards[actor]
            .lock()
            .unwrap()
            .as_ref()
            .map(|seen| Arc::clone(&seen.guard))
        else {
            return;
        };
        let local = async move {
            let _ = timeout(millis(cut), operation(&guard)).await;
        };
        tokio::task::spawn_local(local);
    }

    /// Starts to take the lock in a task of its own, to be cut off after `cut`.
    fn spawn_acquire(
        &self,
        actor: usize,
        (process, lock): (Option<usize>, DistributedLock),
        wait: Option<Duration>,
        cut: Duration,
    ) {
        let slot = Arc::clone(&self.guards[actor]);
        let newest = Arc::clone(&self.newest);
        let forgot = Arc::clone(&self.forgot);
        let (longest, before) = (self.longest(), self.times_forgotten());
        Handle::current().spawn(async move {
            let acquire = async {
                match wait {
                    None => lock.try_acquire().await,
                    Some(wait) => lock.with_wait(wait).acquire().await,
                }
            };
            if let Ok(Ok(guard)) = timeout(cut, acquire).await {
                let began = (process, before);
                Self::keep_whole(&slot, &newest, &forgot, longest, began, guard);
            }
        });
    }

    fn times_forgotten(&self) -> usize {
        self.forgot.lock().unwrap().times
    }

    fn disown(&self) {
        {
            let mut forgot = self.forgot.lock().unwrap();
            forgot.times += 1;
            forgot.last = Some(Moment::now());
        }
        for slot in &self.guards {
            if let Some(seen) = &mut *slot.lock().unwrap() {
                // What was extended before may be answered after.
                let longest = seen.guard.remaining() + MOST_ADDED;
                seen.disowned = Some((Moment::now(), longest));
            }
        }
    }

    async fn run(&self, step: Step) {
        match step {
            Step::TryAcquire(actor) => {
                self.spawn_acquire(actor, self.lock_of(0, false), None, LONGEST);
            }
            Step::Acquire(actor, wait, cut) => {
                let lock = self.lock_of(0, false);
                self.spawn_acquire(actor, lock, Some(millis(wait)), millis(cut));
            }
            Step::AcquireAs(actor, kind, second, wait, cut) => {
                let lock = self.lock_of(kind, second);
                self.spawn_acquire(actor, lock, Some(millis(wait)), millis(cut));
            }
            Step::Begin(kind, second, wait) => {
                let (process, lock) = self.lock_of(kind, second);
                let begun: Begun =
                    Box::pin(async move { lock.with_wait(millis(wait)).acquire().await });
                let index = {
                    let mut all = self.begun.lock().unwrap();
                    all.push((process, self.times_forgotten(), begun));
                    all.len() - 1
                };
                self.poll(index, 0);
            }
            Step::Poll(one, actor) => self.poll(one, actor),
            Step::Abandon(one) => {
                let gone = {
                    let mut begun = self.begun.lock().unwrap();
                    let index = one.checked_rem(begun.len());
                    index.map(|index| begun.swap_remove(index))
                };
                drop(gone);
            }
            Step::Shutdown => self.shut_down().await,
            Step::Release(actor) => {
                if let Some(guard) = self.take_guard(actor) {
                    let start = Instant::now();
                    let _ = guard.release().await;
                    let took = start.elapsed();
                    assert!(took <= OP + 2 * MS, "a release took {took:?}");
                }
            }
            Step::Next(waits) => {
                let Some(holder) = self.holder() else { return };
                let step = if waits {
                    Step::Release(holder)
                } else {
                    Step::Drop(holder)
                };
                Box::pin(self.run(step)).await;
            }
            Step::Drop(actor) => drop(self.take(actor)),
            Step::Leave(actor) => {
                if let Some(guard) = self.take_guard(actor) {
                    guard.leave_to_expire();
                }
            }
            Step::Extend(actor, ms, cut) => self.spawn_operation(actor, cut, async move |guard| {
                if guard.remaining() + millis(ms) < LONGEST {
                    let _ = guard.extend(millis(ms)).await;
                }
            }),
            Step::RenewFor(actor, ms, cut) => {
                self.spawn_operation(actor, cut, async move |guard| {
                    let _ = guard.renew_for(millis(ms)).await;
                })
            }
            Step::Shorten(ms, late) => {
                let Some(holder) = self.holder() else { return };
                self.backend
                    .on(Op::Renew)
                    .next(Fault::Zombie(late).effect());
                Box::pin(self.run(Step::RenewFor(holder, ms, late.min(30)))).await;
            }
            Step::Prolong(ms) => {
                if let Some(holder) = self.holder() {
                    Box::pin(self.run(Step::Extend(holder, ms, 60))).await;
                }
            }
            Step::HandOver(from, to) => self.hand_over(from, to).await,
            Step::Sleep(ms) => {
                let mut left = ms;
                while left > 0 {
                    let nap = left.min(7);
                    sleep(millis(nap)).await;
                    left -= nap;
                    self.check();
                }
            }
            Step::Stall(ms) => {
                suspend(millis(ms));
                *self.stalled.lock().unwrap() += millis(ms);
            }
            Step::Evict => {
                self.disown();
                self.backend.evict("k");
            }
            Step::Steal(ms) => {
                self.disown();
                self.backend.steal("k", millis(ms));
            }
            Step::Wake => self.backend.wake("k"),
            Step::Fault(op, fault) => {
                self.backend.on(op).next(fault.effect());
            }
            Step::Faults(op, fault) => {
                self.backend.on(op).always(fault.effect());
            }
            Step::NoFaults => self.clear_faults(),
        }
    }

    async fn hand_over(&self, from: usize, to: Option<usize>) {
        let Some(seen) = self.take(from) else { return };
        let (lost, process, disowned) = (seen.lost, seen.process, seen.disowned);
        let Some(guard) = Arc::into_inner(seen.guard) else {
            return;
        };
        match guard.into_ticket().await {
            Err((guard, _)) => {
                self.gone.lock().unwrap().pop();
                let seen = Seen {
                    guard: Arc::new(guard),
                    lost,
                    process,
                    disowned,
                };
                *self.guards[from].lock().unwrap() = Some(seen);
            }
            Ok(ticket) => {
                let Some(to) = to else { return };
                if self.guards[to].lock().unwrap().is_some() {
                    return;
                }
                if let Ok(guard) = self.locks.resume(&ticket).await {
                    Self::keep(&self.guards[to], &self.newest, None, guard);
                    assert!(
                        self.locks.resume(&ticket).await.is_err(),
                        "a ticket worked twice"
                    );
                }
            }
        }
    }

    fn clear_faults(&self) {
        for op in Op::ALL {
            self.backend.on(op).clear();
        }
    }

    /// What must hold at every moment.
    fn check(&self) {
        let mut valid = 0;
        for slot in &self.guards {
            let mut slot = slot.lock().unwrap();
            let Some(seen) = &mut *slot else { continue };
            // The store first: time passes between two looks, and leaves less.
            let entries = self.backend.entries();
            let (held, remaining) = (seen.guard.is_held(), seen.guard.remaining());
            assert!(!(seen.lost && held), "a lost lock came back");
            seen.lost = !held;
            if !held {
                continue;
            }
            match seen.disowned {
                Some((since, longest)) => {
                    // Its deadlines on the two clocks differ by no more.
                    let longest = longest + *self.stalled.lock().unwrap();
                    assert!(since.elapsed() <= longest, "disowned, and never noticed");
                }
                None => {
                    valid += 1;
                    let entry = entries.get("k").expect("a valid guard without an entry");
                    assert!(
                        remaining <= entry.remaining,
                        "{:?} > {entry:?} {:#?}",
                        seen.guard,
                        self.backend
                            .calls()
                            .iter()
                            .rev()
                            .take(6)
                            .collect::<Vec<_>>()
                    );
                }
            }
        }
        assert!(valid <= 1, "{valid} valid guards");
        let gone = self.gone.lock().unwrap();
        assert!(
            !gone.iter().any(LossHandle::is_held),
            "a guard that was let go came back"
        );
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn run(steps: Vec<Step>, renewal: RenewalPolicy, wakeups: bool, passing: bool) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let leaks = LeakCheck::start();
        let passing = match passing {
            true => PassingOn::at_most(1000).within(LONGEST),
            false => PassingOn::never(),
        };
        let world = World::new(renewal, wakeups, passing);
        for step in steps {
            world.run(step).await;
            world.check();
        }
        // Every task of a trace ends, and with the guards and the faults gone, so does every entry.
        world.clear_faults();
        sleep(2 * LONGEST).await;
        world
            .guards
            .iter()
            .for_each(|slot| drop(slot.lock().unwrap().take()));
        sleep(LONGEST).await;
        // Also if somebody who waits is not polled any more.
        assert_eq!(world.backend.entries(), Default::default(), "a key is kept");
        drop(std::mem::take(&mut *world.begun.lock().unwrap()));
        leaks.assert_none(2 * LONGEST).await;
        assert_eq!(
            world.backend.entries(),
            Default::default(),
            "a key was left behind"
        );
        assert_eq!(world.backend.subscriptions(), 0);
    });
}

#[test]
fn no_guard_believes_in_more_than_the_store_though_real_time_passes_after_virtual_time() {
    // It was extended, then renewed again and again without an answer: the store counts from a later moment than the guard.
    run(
        vec![
            Step::Acquire(0, 0, 100),
            Step::Sleep(1),
            Step::Extend(0, 400, 60),
            Step::Sleep(1),
            Step::Faults(Op::Renew, Fault::LoseReply),
            Step::Sleep(415),
            Step::Stall(60),
            Step::Stall(60),
            Step::TryAcquire(1),
            Step::Sleep(1),
        ],
        RenewalPolicy::default(),
        true,
        false,
    );
}

#[test]
fn no_trace_breaks_a_lock_on_a_machine_that_stalls() {
    let traces = || {
        let config = config(60);
        let mut runner = TestRunner::new(config);
        let steps = prop::collection::vec(stalling_step(), 1..48);
        let traces = (steps, any::<bool>(), any::<bool>());
        let result = runner.run(&traces, |(steps, wakeups, passing)| {
            run(steps, RenewalPolicy::default(), wakeups, passing);
            Ok(())
        });
        result.unwrap();
    };
    // They sleep most of the time.
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(traces);
        }
    });
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        max_shrink_iters: 3_000,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(3_000))]

    #[test]
    fn no_trace_breaks_a_renewed_lock(
        steps in prop::collection::vec(step(), 1..32),
        wakeups: bool,
        passing: bool,
    ) {
        run(steps, RenewalPolicy::default(), wakeups, passing);
    }

    #[test]
    fn no_trace_breaks_a_lock_that_is_not_renewed(
        steps in prop::collection::vec(step(), 1..32),
        wakeups: bool,
        passing: bool,
    ) {
        run(steps, RenewalPolicy::never().hold_at_most(millis(250)), wakeups, passing);
    }

    #[test]
    fn no_trace_breaks_a_lock_that_each_wants_in_another_way(
        steps in prop::collection::vec(mixed_step(), 16..64),
        wakeups: bool,
        passing: bool,
    ) {
        run(steps, RenewalPolicy::default(), wakeups, passing);
    }

    #[test]
    fn no_trace_breaks_a_lock_that_is_passed_on(
        steps in prop::collection::vec(crowded_step(), 16..64),
        wakeups: bool,
        renewed: bool,
    ) {
        let renewal = if renewed { RenewalPolicy::default() } else { RenewalPolicy::never() };
        run(steps, renewal, wakeups, true);
    }
}
