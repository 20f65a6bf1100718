//! Whose turn it is to be renewed: one list and at most one task per backend and runtime. Not what a renewal means for
//! a lease: that is the lease's.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::backend::Renew;
use crate::clock::Moment;
use crate::lease::{Lease, Operation, Turn};
use crate::observe::contained;
use crate::store::Call;
use crate::timer;

/// The most renewals in one call to the backend.
const BATCH: usize = 256;

/// The farthest that renewals are brought forward to go together with one that is due.
const WINDOW: Duration = Duration::from_millis(20);

/// While leases come and go, the task looks at the list this often, and it is over this long after the last came. Whoever takes
/// and releases locks all the time neither starts a task for each nor wakes it.
const PACE: Duration = Duration::from_millis(100);

/// The leases of one runtime in the order in which their turns come. Its task runs while there are any, and a little longer
/// ([`PACE`]); a lease that is released before its turn costs a link and an unlink.
pub(crate) struct Renewer {
    runtime: Handle,
    list: Mutex<List>,
    sooner: Notify,
}

#[derive(Default)]
struct List {
    /// With each, how many microseconds sooner it may have its turn.
    turns: BTreeMap<Link, (Arc<Lease>, u32)>,
    links: u64,
    /// Whether a lease was linked since the task last looked.
    linked: bool,
    running: bool,
    /// When the task looks at the list next, if it sleeps.
    next_look: Option<Instant>,
}

/// A lease's place in the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Link {
    due: Instant,
    number: u64,
}

impl Renewer {
    pub(crate) fn new(runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            list: Mutex::default(),
            sooner: Notify::new(),
        })
    }

    /// The runtime that was current when its leases were taken.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leases(&self) -> Vec<Arc<Lease>> {
        self.list()
            .turns
            .values()
            .map(|(lease, _)| Arc::clone(lease))
            .collect()
    }

    /// Links `lease` to have its turn `after` from `now`, or up to `slack` sooner.
    pub(crate) fn link(
        self: &Arc<Self>,
        lease: &Arc<Lease>,
        now: Moment,
        after: Duration,
        slack: Duration,
    ) -> Link {
        let due = now.instant_after(after).unwrap_or_else(|| now.instant());
        let mut list = self.list();
        list.links = list.links.wrapping_add(1);
        list.linked = true;
        let link = Link {
            due,
            number: list.links,
        };
        // No more is ever used.
        let slack = u32::try_from(slack.min(WINDOW).as_micros()).unwrap_or_default();
        list.turns.insert(link, (Arc::clone(lease), slack));
        if !list.running {
            list.running = true;
            let running = Running {
                renewer: Arc::clone(self),
                over: false,
            };
            drop(list);
            self.runtime.spawn(running.run());
        } else if list.next_look.is_some_and(|look| due < look) {
            drop(list);
            self.sooner.notify_one();
        }
        link
    }

    pub(crate) fn unlink(&self, link: Link) {
        let removed = self.list().turns.remove(&link);
        // A lease may be dropped by this: not while the list is locked.
        drop(removed);
    }

    /// Takes out the leases whose turn has come; none if the first turn is later. Says when to look next, or that the
    /// list is empty and the task is over.
    fn take_due(&self) -> Due {
        let now = Moment::now().instant();
        let mut list = self.list();
        let mut leases = Vec::new();
        if list
            .turns
            .keys()
            .next()
            .is_some_and(|first| first.due <= now)
        {
            let horizon = now.checked_add(WINDOW).unwrap_or(now);
            let links: Vec<Link> = list
                .turns
                .iter()
                .take_while(|(link, _)| link.due <= horizon)
                .filter(|(link, (_, slack))| {
                    link.due
                        .checked_sub(Duration::from_micros((*slack).into()))
                        .is_none_or(|early| early <= now)
                })
                .map(|(link, _)| *link)
                .collect();
            leases.extend(
                links
                    .iter()
                    .filter_map(|link| Some((*link, list.turns.remove(link)?.0))),
            );
        }
        list.next_look = list.turns.keys().next().map(|first| first.due);
        if std::mem::take(&mut list.linked) {
            let soon = now.checked_add(PACE).unwrap_or(now);
            list.next_look = Some(list.next_look.map_or(soon, |look| look.min(soon)));
        } else if leases.is_empty() && list.turns.is_empty() {
            list.running = false;
        }
        // Taken while the list is locked: a shutdown finds each lease in the list, or this call under way.
        let call = leases.first().map(|(_, lease)| Call::at(Arc::clone(lease)));
        Due {
            leases,
            next_look: list.next_look,
            _call: call,
        }
    }
}

/// Leases that were taken out of the list because their turn has come.
struct Due {
    leases: Vec<(Link, Arc<Lease>)>,
    next_look: Option<Instant>,
    _call: Option<Call<Arc<Lease>>>,
}

/// The mark that the task runs. It travels in the task's future, so that a task which is dropped, even before it was
/// polled, clears it.
struct Running {
    renewer: Arc<Renewer>,
    over: bool,
}

impl Running {
    async fn run(mut self) {
        let renewer = Arc::clone(&self.renewer);
        loop {
            let due = renewer.take_due();
            let (nothing_due, next_look) = (due.leases.is_empty(), due.next_look);
            renewer.give_turns(due);
            match next_look {
                None if nothing_due => {
                    self.over = true;
                    return;
                }
                None => {}
                Some(look) => {
                    let pause = look.saturating_duration_since(Moment::now().instant());
                    timer::timeout(pause, pin!(renewer.sooner.notified())).await;
                }
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A task that is over cleared the mark under the list's lock; by now it may be that of its successor.
        if !self.over {
            self.renewer.list().running = false;
        }
    }
}

impl Renewer {
    /// Starts the renewals of `due`, those with one time limit together.
    fn give_turns(&self, due: Due) {
        let mut batches: HashMap<Duration, Vec<Renewal>> = HashMap::new();
        for (link, lease) in due.leases {
            match lease.turn(link) {
                Turn::Renew {
                    operation,
                    ttl,
                    limit,
                    alone,
                } => {
                    // Its deadline is watched while its renewal is under way.
                    lease.link(Duration::MAX, Duration::ZERO);
                    let renewal = Renewal {
                        operation: Some(operation),
                        ttl,
                        asked: Moment::now(),
                    };
                    if alone {
                        self.runtime.spawn(renew(vec![renewal], limit));
                    } else {
                        batches.entry(limit).or_default().push(renewal);
                    }
                }
                Turn::Wait(pause) => lease.link(pause, Duration::ZERO),
                Turn::Over => {}
            }
        }
        for (limit, mut renewals) in batches {
            while !renewals.is_empty() {
                let rest = renewals.split_off(renewals.len().min(BATCH));
                self.runtime.spawn(renew(renewals, limit));
                renewals = rest;
            }
        }
    }
}

/// One renewal under way. Dropped without an answer (a backend that panicked, a runtime that ended), it is unknown.
struct Renewal {
    operation: Option<Operation>,
    ttl: Duration,
    asked: Moment,
}

async fn renew(mut renewals: Vec<Renewal>, limit: Duration) {
    let Some(store) = renewals
        .first()
        .and_then(|renewal| renewal.operation.as_ref())
        .map(|operation| Arc::clone(operation.lease().store()))
    else {
        return;
    };
    let _call = store.call();
    // Released or lost since: never renewed after that.
    renewals.retain(|renewal| {
        renewal
            .operation
            .as_ref()
            .is_some_and(|operation| operation.lease().check().is_ok())
    });
    let answers = {
        let asked = Moment::now();
        for renewal in &mut renewals {
            renewal.asked = asked;
            if let Some(operation) = &renewal.operation {
                operation.lease().asks(asked, renewal.ttl);
            }
        }
        let requests: Vec<_> = renewals
            .iter()
            .filter_map(|renewal| {
                Some(
                    renewal
                        .operation
                        .as_ref()?
                        .request(renewal.ttl, Renew::AtLeast),
                )
            })
            .collect();
        timer::timeout(limit, store.backend.renew(&requests)).await
    };
    let mut answers = answers.unwrap_or_default().into_iter();
    for mut renewal in renewals {
        let (asked, ttl, answer) = (renewal.asked, renewal.ttl, answers.next());
        if let Some(operation) = renewal.operation.take() {
            // It may wake somebody, whose panic must not cost the others their answers.
            contained(|| operation.renewed(asked, ttl, answer));
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        if let Some(operation) = self.operation.take() {
            contained(|| operation.dropped(self.asked, self.ttl));
        }
    }
}
