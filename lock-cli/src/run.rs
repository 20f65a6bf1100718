//! The life of `fencelock run`: take the lock, run the command while it is held, end it in time, give the lock back. Not how
//! a process is ended: that is the enforcer's.

use std::fs;
use std::future::poll_fn;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::task::Poll;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fencelock::{DistributedLock, LockError, LockGuard, Moment, RenewalPolicy};
use rustix::process::Signal;
use tokio::select;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::sleep;

use crate::args::Run;
use crate::command::{Plan, Running};
use crate::complain;
use crate::enforcer;
use crate::exit;
use crate::failure::Failure;
use crate::store::Store;

/// How often the enforcer hears of the deadline: this often per ttl, within these bounds.
const LOOKS_PER_TTL: u32 = 20;
const LOOK: (Duration, Duration) = (Duration::from_millis(25), Duration::from_secs(1));

/// How long before the deadline the command is killed: a quarter of the grace, within these bounds.
const MARGIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Takes the lock and runs the command. The exit code.
pub(crate) async fn run(run: Run) -> Result<u8, Failure> {
    let mut signals = Signals::new()?;
    let grace = run.grace();
    let least = MARGIN.0.saturating_mul(2);
    if grace < least || grace > part(run.ttl, 2) {
        return Err(Failure::usage(format!(
            "a grace of {grace:?} does not go with a ttl of {:?}: give {least:?} to half the ttl",
            run.ttl
        )));
    }
    if let Some(limit) = run.hold_at_most.filter(|limit| *limit <= grace) {
        return Err(Failure::usage(format!(
            "the command is asked to end {grace:?} before its lock does, so a hold of at most {limit:?} leaves it no time: \
             give more than the grace"
        )));
    }
    let store = select! {
        signal = signals.next() => return Ok(exit::of_signal(signal.as_raw())),
        store = Store::connect(&run.lock) => store?,
    };
    let lock = lock(&store, &run);
    let acquired = select! {
        signal = signals.next() => Err(signal),
        acquired = acquire(&lock, run.one_attempt) => Ok(acquired),
    };
    let result = match acquired {
        // What the attempt may have taken is given back by the shutdown below.
        Err(signal) => Ok(exit::of_signal(signal.as_raw())),
        Ok(Err(error)) => {
            let mut failure = Failure::from(error);
            if failure.code == exit::BUSY {
                failure.code = run.busy_code;
            }
            Err(failure)
        }
        Ok(Ok(guard)) => hold(&run, guard, &mut signals).await,
    };
    store.locks.shutdown().await;
    result
}

fn lock(store: &Store, run: &Run) -> DistributedLock {
    let mut lock = store.locks.lock(&run.lock.key).with_ttl(run.ttl);
    if let Some(limit) = run.hold_at_most {
        lock = lock.with_renewal(RenewalPolicy::default().hold_at_most(limit));
    }
    if let Some(label) = &run.label {
        lock = lock.with_label(label);
    }
    lock.with_wait(run.wait)
}

async fn acquire(lock: &DistributedLock, one_attempt: bool) -> Result<LockGuard, LockError> {
    if one_attempt {
        lock.try_acquire().await
    } else {
        lock.acquire().await
    }
}

/// How the command ended, or why it is to be ended.
enum Outcome {
    Ended(ExitStatus),
    Lost(String),
}

async fn hold(run: &Run, guard: LockGuard, signals: &mut Signals) -> Result<u8, Failure> {
    let (start, grace) = (Moment::now(), run.grace());
    let plan = Plan {
        command: &run.command,
        environment: environment(&guard),
        grace,
        margin: part(grace, 4).clamp(MARGIN.0, MARGIN.1),
    };
    let mut running = Running::start(plan, deadline(&guard)).await?;
    let look = part(run.ttl, LOOKS_PER_TTL).clamp(LOOK.0, LOOK.1);
    let outcome = loop {
        running.until(deadline(&guard)).await?;
        let left = guard.remaining().saturating_sub(grace);
        if left.is_zero() {
            break Outcome::Lost(why_lost(run, &guard, &start));
        }
        select! {
            biased;
            status = running.exited() => break Outcome::Ended(status?),
            reason = guard.lost() => break Outcome::Lost(reason.to_string()),
            signal = signals.next() => running.signal(signal),
            () = sleep(left.min(look)) => {}
        }
    };
    running.end().await;
    // Renewed until nothing of the command is left.
    let in_time = loop {
        select! {
            gone = running.gone() => match gone? {
                Some(in_time) => break in_time,
                None => {
                    running.until(deadline(&guard)).await?;
                    running.end().await;
                }
            },
            signal = signals.next() => running.signal(signal),
            () = sleep(look) => running.still_until(deadline(&guard)).await,
        }
    };
    match outcome {
        Outcome::Ended(status) if in_time && guard.is_held() => {
            let code = code_of(status);
            give_back(run, guard, code).await;
            return Ok(code);
        }
        // Said only now: it waits for who reads it, and nothing else goes on meanwhile.
        Outcome::Lost(why) => complain(&format_args!("lost the lock: {why}; ended the command")),
        Outcome::Ended(_) => {
            let why = why_lost(run, &guard, &start);
            complain(&format_args!(
                "lost the lock: {why}; the command was ended, or was over too late to know"
            ));
        }
    }
    // It may still be ours at the store.
    let _ = guard.release().await;
    Ok(exit::LOST)
}

/// Why a command is ended that has run since `start`.
fn why_lost(run: &Run, guard: &LockGuard, start: &Moment) -> String {
    // The lock itself knows of its limit only a grace later; the enforcer, which does not know it, may be a look ahead.
    let early = run.grace().saturating_add(LOOK.1);
    let over = |limit| start.elapsed().saturating_add(early) >= limit;
    match guard.check() {
        _ if run.hold_at_most.is_some_and(over) => {
            "it was held for as long as --hold-at-most allows".into()
        }
        Err(error) => error.to_string(),
        Ok(()) => "it could not be renewed in time".into(),
    }
}

async fn give_back(run: &Run, guard: LockGuard, code: u8) {
    if run.leave_to_expire && code == 0 {
        guard.leave_to_expire();
    } else if let Err(error) = guard.release().await {
        complain(&format_args!(
            "the command has ended, but its lock was not released: {error}"
        ));
    }
}

fn part(whole: Duration, of: u32) -> Duration {
    whole.checked_div(of).unwrap_or_default()
}

/// The guard's deadline on the enforcer's clock, which is read first: never too late.
fn deadline(guard: &LockGuard) -> u64 {
    let now = enforcer::now();
    let remaining = u64::try_from(guard.remaining().as_nanos()).unwrap_or(u64::MAX);
    now.saturating_add(remaining)
}

fn environment(guard: &LockGuard) -> Vec<(&'static str, String)> {
    #[allow(
        clippy::disallowed_methods,
        reason = "told to people and programs, and decides nothing here"
    )]
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let deadline = now.saturating_add(guard.remaining()).as_millis();
    let mut environment = vec![
        ("FENCELOCK_KEY", guard.key().as_str().to_owned()),
        ("FENCELOCK_DEADLINE", deadline.to_string()),
    ];
    if let Some(token) = guard.fencing_token() {
        environment.push(("FENCELOCK_TOKEN", token.to_string()));
    }
    environment
}

fn code_of(status: ExitStatus) -> u8 {
    let signal = || exit::of_signal(status.signal().unwrap_or_default());
    status
        .code()
        .map_or_else(signal, |code| u8::try_from(code).unwrap_or(u8::MAX))
}

/// The signals that are passed on to the command: none that was ignored when we were started, as by `nohup`. That stays
/// ignored, by us and by the command.
struct Signals(Vec<(Signal, unix::Signal)>);

impl Signals {
    fn new() -> Result<Self, Failure> {
        let ignored = ignored();
        let listen = |signal: Signal| {
            let stream = unix::signal(SignalKind::from_raw(signal.as_raw()));
            Ok((
                signal,
                stream.map_err(|error| Failure::system("listen for signals", &error))?,
            ))
        };
        [
            Signal::INT,
            Signal::TERM,
            Signal::HUP,
            Signal::QUIT,
            Signal::USR1,
            Signal::USR2,
        ]
        .into_iter()
        .filter(|signal| !is_in(ignored, *signal))
        .map(listen)
        .collect::<Result<_, _>>()
        .map(Self)
    }

    /// The next signal. Cancel safe.
    async fn next(&mut self) -> Signal {
        poll_fn(|context| {
            for (signal, stream) in &mut self.0 {
                if stream.poll_recv(context).is_ready() {
                    return Poll::Ready(*signal);
                }
            }
            Poll::Pending
        })
        .await
    }
}

/// The signals that this process ignores, a bit each. Known on Linux; elsewhere none.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mut masks = status
        .lines()
        .filter_map(|line| line.strip_prefix("SigIgn:"));
    let mask = masks
        .next()
        .map(|mask| u64::from_str_radix(mask.trim(), 16));
    mask.and_then(Result::ok).unwrap_or_default()
}

fn is_in(mask: u64, signal: Signal) -> bool {
    let bit = u32::try_from(signal.as_raw().saturating_sub(1)).unwrap_or(u32::MAX);
    mask.checked_shr(bit).is_some_and(|mask| mask & 1 == 1)
}
