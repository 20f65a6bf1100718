//! Whose turn it is to be renewed: one list and at most one task per backend and runtime. Not what a renewal means for
//! a lease: that is the lease's.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

use crate::backend::Renew;
use crate::clock::{Moment, Reading};
use crate::lease::{Lease, Turn};
use crate::observe::contained;
use crate::releases::Releases;
use crate::store::Call;
use crate::timer;

/// The most renewals in one call to the backend, which may send no more in one command.
const BATCH: usize = 200;

/// The farthest that renewals are brought forward to go together with one that is due.
const WINDOW: Duration = Duration::from_millis(20);

/// While leases come and go, the task looks at the list this often, and it is over this long after the last came. Whoever takes
/// and releases locks all the time neither starts a task for each nor wakes it.
const PACE: Duration = Duration::from_millis(100);

/// The leases of one runtime in the order in which their turns come. Its task runs while there are any, and a little longer
/// ([`PACE`]); a lease that is released before its turn costs a link and an unlink.
pub(crate) struct Renewer {
    runtime: Handle,
    /// The turns of those who give back in the background on that runtime.
    releases: Arc<Releases>,
    list: Mutex<List>,
    sooner: Notify,
}

struct List {
    turns: BTreeMap<Link, Arc<Lease>>,
    /// Those whose renewal is under way, together, until it is over; due when the first of them ends.
    under_way: BTreeMap<Link, Arc<[Arc<Lease>]>>,
    /// The number of the next link.
    next: NonZeroU32,
    /// Whether a lease was linked since the task last looked.
    linked: bool,
    running: bool,
    /// When the task looks at the list next, if it sleeps.
    next_look: Option<Reading>,
}

/// A place in the list. Its number is used again after some four thousand million others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Link {
    due: Reading,
    number: NonZeroU32,
    /// How many microseconds sooner it may be.
    slack: u32,
}

impl Link {
    fn may_be_now(&self, now: Reading) -> bool {
        self.due.before(Duration::from_micros(self.slack.into())) <= now
    }
}

impl List {
    /// A place in the list, `after` from `now`, or up to `slack` sooner.
    fn place(&mut self, now: Moment, after: Duration, slack: Duration) -> Link {
        let number = self.next;
        self.next = number.checked_add(1).unwrap_or(NonZeroU32::MIN);
        Link {
            due: now.reading().after(after),
            number,
            // No more is ever used.
            slack: u32::try_from(slack.min(WINDOW).as_micros()).unwrap_or_default(),
        }
    }

    fn first_due(&self) -> Option<Reading> {
        let turn = self.turns.keys().next();
        let under_way = self.under_way.keys().next();
        let first = turn.into_iter().chain(under_way).min();
        first.map(|link| link.due)
    }
}

impl Renewer {
    pub(crate) fn new(runtime: Handle) -> Arc<Self> {
        Arc::new(Self {
            runtime,
            releases: Arc::new(Releases::new()),
            list: Mutex::new(List {
                turns: BTreeMap::new(),
                under_way: BTreeMap::new(),
                next: NonZeroU32::MIN,
                linked: false,
                running: false,
                next_look: None,
            }),
            sooner: Notify::new(),
        })
    }

    /// The runtime that was current when its leases were taken.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn releases(&self) -> &Arc<Releases> {
        &self.releases
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn leases(&self) -> Vec<Arc<Lease>> {
        let list = self.list();
        let under_way = list.under_way.values().flat_map(|leases| leases.iter());
        list.turns.values().chain(under_way).cloned().collect()
    }

    /// Links `lease` to have its turn `after` from `now`, or up to `slack` sooner.
    pub(crate) fn link(
        self: &Arc<Self>,
        lease: &Arc<Lease>,
        now: Moment,
        after: Duration,
        slack: Duration,
    ) -> Link {
        let mut list = self.list();
        let link = list.place(now, after, slack);
        list.turns.insert(link, Arc::clone(lease));
        self.linked(list, link);
        link
    }

    /// Has the task look at the list in time.
    fn linked(self: &Arc<Self>, mut list: MutexGuard<'_, List>, link: Link) {
        list.linked = true;
        if !list.running {
            list.running = true;
            let running = Running {
                renewer: Arc::clone(self),
                over: false,
            };
            drop(list);
            self.runtime.spawn(running.run());
        } else if list.next_look.is_some_and(|look| link.due < look) {
            drop(list);
            self.sooner.notify_one();
        }
    }

    pub(crate) fn unlink(&self, link: Link) {
        let removed = self.list().turns.remove(&link);
        // A lease may be dropped by this: not while the list is locked.
        drop(removed);
    }

    /// Takes out the leases whose turn has come; none if the first turn is later. Says when to look next, or that the
    /// list is empty and the task is over.
    fn take_due(&self) -> Due {
        let moment = Moment::now();
        let now = moment.reading();
        let mut list = self.list();
        let mut leases = Vec::new();
        while let Some(first) = list.turns.first_entry() {
            // What is not due yet only fills up a batch of what is.
            let fills_up = !leases.is_empty() && leases.len() < BATCH;
            if first.key().due > now && !(fills_up && first.key().may_be_now(now)) {
                break;
            }
            leases.push(first.remove_entry());
        }
        let mut overdue = Vec::new();
        while let Some(first) = list.under_way.first_entry()
            && first.key().due <= now
        {
            overdue.push(first.remove());
        }
        list.next_look = list.first_due();
        let is_nothing_due = leases.is_empty() && overdue.is_empty();
        if std::mem::take(&mut list.linked) {
            let soon = now.after(PACE);
            list.next_look = Some(list.next_look.map_or(soon, |look| look.min(soon)));
        } else if is_nothing_due && list.next_look.is_none() {
            list.running = false;
        }
        // Taken while the list is locked: a shutdown finds each lease in the list, or this call under way.
        let first = leases.first().map(|(_, lease)| lease);
        let first = first.or_else(|| overdue.first()?.first());
        let call = first.map(|lease| Call::at(Arc::clone(lease)));
        Due {
            leases,
            overdue,
            now: moment,
            next_look: list.next_look,
            call,
        }
    }
}

/// What was taken out of the list because its time has come.
struct Due {
    leases: Vec<(Link, Arc<Lease>)>,
    /// Renewals that are under way for too long.
    overdue: Vec<Arc<[Arc<Lease>]>>,
    now: Moment,
    next_look: Option<Reading>,
    /// None if there is nothing.
    call: Option<Call<Arc<Lease>>>,
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
            let (nothing_due, next_look) = (due.call.is_none(), due.next_look);
            renewer.give_turns(due);
            match next_look {
                None if nothing_due => {
                    self.over = true;
                    return;
                }
                None => {}
                Some(look) => {
                    let pause = Moment::now().reading().until(look);
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
    fn give_turns(self: &Arc<Self>, due: Due) {
        for lease in due.overdue.iter().flat_map(|leases| leases.iter()) {
            lease.watch();
        }
        let mut batches: BTreeMap<Duration, Vec<Renewal>> = BTreeMap::new();
        for (link, lease) in due.leases {
            match lease.turn(link, due.now) {
                Turn::Renew {
                    ttl,
                    limit,
                    ends,
                    alone,
                } => {
                    let renewal = Renewal {
                        lease: Some(lease),
                        ttl,
                        ends,
                        since: due.now,
                    };
                    if alone {
                        self.start(vec![renewal], due.now, limit);
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
                self.start(renewals, due.now, limit);
                renewals = rest;
            }
        }
    }

    /// Starts renewals that go together, at least one.
    fn start(self: &Arc<Self>, renewals: Vec<Renewal>, now: Moment, limit: Duration) {
        let leases = renewals.iter().filter_map(|renewal| renewal.lease.clone());
        let leases: Arc<[_]> = leases.collect();
        let ends = renewals.iter().map(|renewal| renewal.ends).min();
        let under_way = {
            let mut list = self.list();
            let link = list.place(now, ends.unwrap_or_default(), Duration::ZERO);
            list.under_way.insert(link, Arc::clone(&leases));
            self.linked(list, link);
            UnderWay {
                renewer: Arc::clone(self),
                link,
            }
        };
        // A shutdown may not have seen them in the list.
        for lease in leases.iter() {
            lease.end_if_closed();
        }
        self.runtime.spawn(renew(
            Batch {
                renewals,
                _under_way: under_way,
            },
            limit,
        ));
    }
}

/// Renewals that go together.
struct Batch {
    // Dropped first: each lease is in the list by itself again, or not to be renewed any more.
    renewals: Vec<Renewal>,
    _under_way: UnderWay,
}

/// The mark in the list that renewals are under way.
struct UnderWay {
    renewer: Arc<Renewer>,
    link: Link,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let removed = self.renewer.list().under_way.remove(&self.link);
        // As in `unlink`.
        drop(removed);
    }
}

/// One renewal under way. Dropped without an answer (a backend that panicked, a runtime that ended), it is unknown.
struct Renewal {
    lease: Option<Arc<Lease>>,
    ttl: Duration,
    /// How long its lease lasts if it is not renewed.
    ends: Duration,
    since: Moment,
}

impl Renewal {
    /// What to send, unless its lease was released or lost since: it is never renewed after that.
    fn is_wanted(&mut self, asked: Moment) -> bool {
        let is_wanted = |lease: &mut Arc<Lease>| lease.may_ask(asked, self.ttl);
        if self.lease.as_mut().is_some_and(is_wanted) {
            return true;
        }
        self.lease = None;
        false
    }
}

async fn renew(mut batch: Batch, limit: Duration) {
    let renewals = &mut batch.renewals;
    let first = renewals.first().and_then(|renewal| renewal.lease.as_ref());
    let Some(store) = first.map(|lease| Arc::clone(lease.store())) else {
        return;
    };
    let _call = store.call();
    let asked = Moment::now();
    renewals.retain_mut(|renewal| renewal.is_wanted(asked));
    if renewals.is_empty() {
        return;
    }
    let answers = {
        let requests: Vec<_> = renewals
            .iter()
            .filter_map(|renewal| {
                let lease = renewal.lease.as_ref()?;
                let request = lease.renewal(renewal.ttl, Renew::AtLeast);
                Some(request.with_patience(Some(limit)))
            })
            .collect();
        timer::timeout_from(Some(asked), limit, store.backend.renew(&requests)).await
    };
    let mut answers = answers.unwrap_or_default().into_iter();
    for renewal in renewals {
        let answer = answers.next();
        if let Some(lease) = renewal.lease.take() {
            // It may wake somebody, whose panic must not cost the others their answers.
            contained(|| lease.renewed(asked, renewal.ttl, answer));
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            contained(|| lease.renewal_dropped(self.since));
        }
    }
}
