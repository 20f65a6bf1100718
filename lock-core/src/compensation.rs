//! Giving back what nobody may believe in: an attempt of unknown outcome, a dropped guard, a release that failed.
//! Not the release that a caller waits for.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::{Deadline, Moment};
use crate::error::BackendError;
use crate::key::LockKey;
use crate::lease::{Lease, Released};
use crate::line::Spot;
use crate::observe;
use crate::owner::Owner;
use crate::releases::Releases;
use crate::renewer::Renewer;
use crate::store::{Call, Store};
use crate::timer;

/// With more calls under way than this, an entry that could not be released twice is left to its ttl.
const MAX_CALLS: usize = 1024;

/// The duty to release an owner's entry, should there be one. Dropped unsettled, it is done in the background, on
/// the runtime that was captured when the entry was asked for.
pub(crate) struct Compensation<'a> {
    store: &'a Arc<Store>,
    renewer: &'a Renewer,
    key: &'a LockKey,
    owner: &'a Owner,
    op_timeout: Duration,
    gone: Deadline,
    may_come_late: bool,
    spot: Option<(Spot, Arc<Lease>)>,
    settled: bool,
}

/// What is to be done in the background.
struct Duty {
    store: Arc<Store>,
    key: LockKey,
    owner: Owner,
    op_timeout: Duration,
    /// By then the entry is gone by itself.
    gone: Deadline,
    /// Whether the entry may be made after it was released, because its request is still under way.
    may_come_late: bool,
    /// The first spot in line, which goes on when the first release was answered or has timed out; until then its line
    /// knows the lease.
    spot: Option<(Spot, Arc<Lease>)>,
    releases: Arc<Releases>,
}

impl<'a> Compensation<'a> {
    /// For an attempt that is about to be sent.
    pub(crate) fn of_attempt(
        store: &'a Arc<Store>,
        renewer: &'a Renewer,
        key: &'a LockKey,
        owner: &'a Owner,
        op_timeout: Duration,
        latest: Deadline,
    ) -> Self {
        let mut compensation = Self::of_entry(store, renewer, key, owner, op_timeout, latest);
        compensation.may_come_late = true;
        compensation
    }

    /// For an entry that was granted, and may last until `latest`.
    pub(crate) fn of_entry(
        store: &'a Arc<Store>,
        renewer: &'a Renewer,
        key: &'a LockKey,
        owner: &'a Owner,
        op_timeout: Duration,
        latest: Deadline,
    ) -> Self {
        Self {
            store,
            renewer,
            key,
            owner,
            op_timeout,
            gone: latest,
            may_come_late: false,
            spot: None,
            settled: false,
        }
    }

    /// Gives the first spot in line on when the entry of `lease` was released.
    pub(crate) fn with_spot(mut self, spot: Option<Spot>, lease: &Arc<Lease>) -> Self {
        self.spot = spot.map(|spot| (spot, Arc::clone(lease)));
        self
    }

    /// The attempt was granted after all, so that nothing more comes late.
    pub(crate) fn granted(mut self) -> Self {
        self.may_come_late = false;
        self
    }

    /// There is nothing to give back.
    pub(crate) fn settle(mut self) {
        self.settled = true;
    }

    /// Starts giving back. What it returns resolves (with an error, which means nothing) when the first release was
    /// answered or has timed out.
    pub(crate) fn start(mut self) -> oneshot::Receiver<()> {
        let (first_done, first) = oneshot::channel();
        self.spawn(Some(first_done));
        first
    }

    fn spawn(&mut self, first_done: Option<oneshot::Sender<()>>) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let duty = Duty {
            store: Arc::clone(self.store),
            key: self.key.clone(),
            owner: self.owner.clone(),
            op_timeout: self.op_timeout,
            gone: self.gone,
            may_come_late: self.may_come_late,
            spot: self.spot.take(),
            releases: Arc::clone(self.renewer.releases()),
        };
        let call = self.store.kept_call();
        self.renewer.runtime().spawn(duty.run(call, first_done));
    }
}

impl Drop for Compensation<'_> {
    fn drop(&mut self) {
        self.spawn(None);
    }
}

impl Duty {
    async fn run(mut self, _call: Call, first_done: Option<oneshot::Sender<()>>) {
        let answered = self.release().await;
        drop(first_done);
        drop(self.spot.take());
        if answered && !self.may_come_late {
            return;
        }
        let mut pause = self.op_timeout;
        loop {
            timer::sleep(pause).await;
            let answered = self.release().await;
            let left = self.left();
            if answered || left.is_zero() {
                return;
            }
            if self.store.calls() > MAX_CALLS {
                observe::left_to_expire(&self.key);
                return;
            }
            pause = pause.saturating_mul(2).min(left);
        }
    }

    /// How long there may be an entry yet: a request that was not answered may have been applied an op timeout later.
    fn left(&self) -> Duration {
        let now = Moment::now();
        let late = self.gone.past(&now);
        let after = self.op_timeout.saturating_sub(late);
        self.gone.left(&now).saturating_add(after)
    }

    /// Whether the store answered, or need not be asked any more.
    async fn release(&self) -> bool {
        let turn = self.releases.turn().await;
        if turn.came_late && self.left().is_zero() {
            return true;
        }
        let release = self.store.backend.release(&self.key, &self.owner);
        let answer = turn.run(self.op_timeout, release).await;
        let answer = answer.unwrap_or_else(|| {
            let limit = self.op_timeout;
            Err(BackendError::unknown(format!(
                "no answer to release within {limit:?}"
            )))
        });
        let answer = Released::from_answer(&self.store, &self.key, answer);
        if !self.may_come_late {
            observe::released(&self.key, &answer);
        }
        answer.is_ok()
    }
}
