//! One task of a worker: takes locks, works under them, writes with their fencing tokens, records what it believed.
#![allow(
    clippy::panic,
    reason = "a task that finds what must not be ends its process with it"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use fencelock::{DistributedLock, FencingToken, LockError, LockGuard, Locks, RenewalPolicy};
use lock_testkit::nemesis::Writer;
use lock_testkit::{Attempted, Held, History};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::plan::{Change, Ending, LONGEST_ENTRY, Plan, Way};
use super::worker::Broken;

/// One task of a worker.
pub(super) struct Task {
    pub(super) locks: Locks,
    pub(super) history: History,
    pub(super) outcomes: Arc<Mutex<BTreeMap<String, u64>>>,
    pub(super) who: String,
    pub(super) rng: Rng,
    pub(super) writer: Writer,
    pub(super) broken: Option<Broken>,
}

impl Task {
    pub(super) async fn run(mut self, over: watch::Receiver<bool>) {
        while !*over.borrow() {
            let plan = Plan::draw(&mut self.rng);
            if self.broken == Some(Broken::Lock) {
                self.without_lock(&plan).await;
            } else {
                self.with_lock(&plan).await;
            }
            sleep(plan.rest).await;
        }
    }

    /// Nothing excludes anybody.
    async fn without_lock(&self, plan: &Plan) {
        let hold = self.history.attempt(plan.key, &self.who);
        let hold = hold.granted_for(LONGEST_ENTRY, None);
        sleep(plan.pace.saturating_mul(plan.steps)).await;
        hold.released();
    }

    async fn with_lock(&mut self, plan: &Plan) {
        let renewal = if self.broken == Some(Broken::Clock) {
            RenewalPolicy::never()
        } else {
            plan.renewal
        };
        let lock = self
            .locks
            .lock(plan.key)
            .with_ttl(plan.ttl)
            .with_renewal(renewal);
        let result = match plan.ending {
            Ending::With => self.hold_within(plan, &lock).await,
            _ => self.hold(plan, &lock).await,
        };
        match result {
            Ok(()) => self.count("work done"),
            Err(error) => self.count_error(&error),
        }
    }

    async fn hold_within(&mut self, plan: &Plan, lock: &DistributedLock) -> Result<(), LockError> {
        let attempt = self.history.attempt(plan.key, &self.who);
        let wait = match plan.way {
            Way::Try => Duration::ZERO,
            Way::Wait(time) | Way::Drop(time) => time,
        };
        let body = async |guard: &LockGuard| {
            let hold = self.believe(attempt, guard);
            self.use_lock(plan, guard, &hold).await?;
            hold.released();
            Ok(())
        };
        let with = lock.clone().with_wait(wait);
        with.with(body).await
    }

    async fn hold(&mut self, plan: &Plan, lock: &DistributedLock) -> Result<(), LockError> {
        let attempt = self.history.attempt(plan.key, &self.who);
        let guard = match plan.way {
            Way::Try => lock.try_acquire().await?,
            Way::Wait(wait) => lock.clone().with_wait(wait).acquire().await?,
            Way::Drop(patience) => match timeout(patience, lock.acquire()).await {
                Ok(result) => result?,
                Err(_) => {
                    self.count("acquire dropped");
                    return Ok(());
                }
            },
        };
        let hold = self.believe(attempt, &guard);
        if let Err(error) = self.use_lock(plan, &guard, &hold).await {
            drop(hold);
            if plan.late {
                self.write(plan, &guard).await;
            }
            return Err(error);
        }
        hold.released();
        match plan.ending {
            Ending::Release | Ending::With => guard.release().await.map(drop),
            Ending::Drop => {
                drop(guard);
                Ok(())
            }
            Ending::LeaveToExpire => {
                guard.leave_to_expire();
                Ok(())
            }
            Ending::HandOver => self.hand_over(plan, guard).await,
        }
    }

    /// Gives the lock to another, which happens to be this task.
    async fn hand_over(&mut self, plan: &Plan, guard: LockGuard) -> Result<(), LockError> {
        let ticket = guard.into_ticket().await.map_err(|(_, error)| error)?;
        let attempt = self.history.attempt(plan.key, &self.who);
        let locks = self.locks.clone().with_ttl(plan.ttl);
        let guard = locks.resume(&ticket).await?;
        let hold = self.believe(attempt, &guard);
        self.write(plan, &guard).await;
        hold.renewed(&guard);
        hold.released();
        self.count("handed over");
        guard.release().await.map(drop)
    }

    fn believe(&self, attempt: Attempted, guard: &LockGuard) -> Belief {
        self.count("granted");
        Belief(Some(match self.broken {
            // As if there were no deadline.
            Some(Broken::Clock) => {
                attempt.granted_for(Duration::from_secs(3600), self.token(guard))
            }
            Some(Broken::Token) => {
                let hold = attempt.granted_for(guard.remaining(), self.token(guard));
                hold.renewed(guard);
                hold
            }
            _ => attempt.granted(guard),
        }))
    }

    /// The token to write with.
    fn token(&self, guard: &LockGuard) -> Option<FencingToken> {
        let token = guard.fencing_token()?;
        if self.broken != Some(Broken::Token) {
            return Some(token);
        }
        // Back by up to a second, and as coarse as 8 ms: the same for the same token.
        let back = token.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        Some(FencingToken::new(
            token.get().saturating_sub(back) >> 13 << 13,
        ))
    }

    async fn use_lock(
        &mut self,
        plan: &Plan,
        guard: &LockGuard,
        hold: &Belief,
    ) -> Result<(), LockError> {
        let broken = self.broken == Some(Broken::Clock);
        self.write(plan, guard).await;
        if broken && plan.careless {
            sleep(plan.ttl).await;
        }
        for step in 0..plan.steps {
            if plan.careless || broken {
                sleep(plan.pace).await;
            } else {
                guard.run(sleep(plan.pace)).await?;
            }
            if !broken {
                hold.renewed(guard);
            }
            if let Some((at, change)) = plan.change
                && at == step
                && !broken
            {
                self.change(change, guard, hold).await?;
            }
            self.write(plan, guard).await;
        }
        Ok(())
    }

    async fn change(
        &self,
        change: Change,
        guard: &LockGuard,
        hold: &Belief,
    ) -> Result<(), LockError> {
        let changed = match change {
            Change::Extend(time) => guard.extend(time).await,
            Change::Shorten(ttl) => {
                hold.shortening(ttl);
                guard.renew_for(ttl).await
            }
        };
        match changed {
            Ok(()) => hold.renewed(guard),
            Err(error @ LockError::Lost { .. }) => return Err(error),
            Err(error) => self.count_error(&error),
        }
        Ok(())
    }

    /// Without a look at the guard: the register looks at the token.
    async fn write(&mut self, plan: &Plan, guard: &LockGuard) {
        let token = self.token(guard);
        let token = token.unwrap_or_else(|| panic!("a grant of {} without a token", plan.key));
        let written = self.writer.write(plan.key, &self.who, token).await;
        match written {
            Ok(true) => {}
            Ok(false) => self.count("write refused"),
            Err(error) => panic!("the register: {error}"),
        }
    }

    /// Whatever a fault may cause is counted; all else ends the worker.
    fn count_error(&self, error: &LockError) {
        self.count(match error {
            LockError::Busy { .. } => "busy",
            LockError::TimedOut { .. } => "busy until the wait was over",
            LockError::Backend {
                transient: true, ..
            } => "store failed",
            LockError::Unknown { .. } => "outcome unknown",
            LockError::Late { .. } => "granted too late",
            LockError::Lost { reason, .. } => return self.count(&format!("lost: {reason}")),
            other => panic!("no fault causes this: {other}"),
        });
    }

    fn count(&self, outcome: &str) {
        let mut outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let count = outcomes.entry(outcome.to_owned()).or_default();
        *count = count.saturating_add(1);
    }
}

/// A hold in the history that ends when it is dropped, which is how a task in `with` learns of a loss: before the lock is
/// let go. If the process is killed it does not end, but with its validity.
struct Belief(Option<Held>);

impl Belief {
    fn renewed(&self, guard: &LockGuard) {
        if let Some(hold) = &self.0 {
            hold.renewed(guard);
        }
    }

    fn shortening(&self, ttl: Duration) {
        if let Some(hold) = &self.0 {
            hold.shortening(ttl);
        }
    }

    fn released(mut self) {
        if let Some(hold) = self.0.take() {
            hold.released();
        }
    }
}

impl Drop for Belief {
    fn drop(&mut self) {
        if let Some(hold) = self.0.take() {
            hold.lost();
        }
    }
}
