//! A client of the honest store that does one thing wrong.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Busy, Capabilities, FencingRange,
    FencingToken, Grant, Holder, LockBackend, LockKey, Moment, Owner, Ownership, Renew,
    RenewRequest, Wakeups,
};
use lock_testkit::{Entry, Scripted};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{self, yield_now};
use tokio::time::sleep;

use super::Flaw;

/// A client. Clones are one client.
#[derive(Clone)]
pub(crate) struct Broken {
    pub(super) flaw: Flaw,
    pub(super) honest: Scripted,
    pub(super) store: Arc<Store>,
    /// Who this client is, where that stands in for the owner.
    me: Owner,
    /// How often connections had been cut when this client connected.
    pub(super) cuts: usize,
}

/// What all clients of a store share beside its entries.
#[derive(Default)]
pub(super) struct Store {
    /// Keys with something that is no lock.
    pub(super) obstructed: Mutex<HashSet<String>>,
    /// Whether connections are refused.
    pub(super) is_stopped: AtomicBool,
    pub(super) is_stalled: watch::Sender<bool>,
    /// How often all connections were cut.
    pub(super) cuts: AtomicUsize,
    /// The greatest fencing token there was, and what was it when the store forgot that.
    pub(super) newest: AtomicU64,
    pub(super) forgotten: AtomicU64,
    /// How many subscriptions were dropped.
    pub(super) dropped: AtomicUsize,
    /// A lock around the connection that a dropped call does not give back.
    stuck: AtomicBool,
    /// The task that took each key.
    takers: Mutex<HashMap<String, Option<task::Id>>>,
    /// When the first attempt for each key was refused.
    refused: Mutex<HashMap<String, Moment>>,
    /// The owners whose releases were sent.
    released: Mutex<HashSet<String>>,
    /// Who held each key before the last step.
    replica: Mutex<HashMap<String, Option<Holder>>>,
    /// Keys that somebody has subscribed to before.
    pub(super) subscribed: Mutex<HashSet<String>>,
}

impl Broken {
    pub(super) fn new(flaw: Flaw) -> Self {
        Self {
            flaw,
            honest: Scripted::honest(),
            store: Arc::default(),
            me: Owner::fresh(None).unwrap(),
            cuts: 0,
        }
    }

    pub(super) fn client(&self) -> Self {
        Self {
            me: Owner::fresh(None).unwrap(),
            cuts: self.store.cuts.load(Ordering::SeqCst),
            ..self.clone()
        }
    }

    /// What the store calls `key`, once it answers; or why it does not.
    pub(super) async fn spell(&self, key: &LockKey) -> Result<LockKey, BackendError> {
        let mut stalled = self.store.is_stalled.subscribe();
        stalled.wait_for(|is_stalled| !is_stalled).await.unwrap();
        if self.flaw == Flaw::NeverReconnects && self.cuts != self.store.cuts.load(Ordering::SeqCst)
        {
            return Err(BackendError::transient("broken pipe"));
        }
        if self.store.is_stopped.load(Ordering::SeqCst) {
            return Err(BackendError::transient("connection refused"));
        }
        let text = key.as_str();
        if self.store.obstructed.lock().unwrap().contains(text) {
            return Err(BackendError::new(BackendErrorKind::Conflict, "a list"));
        }
        let text = match self.flaw {
            Flaw::RefusesControlCharacters if text.chars().any(char::is_control) => {
                return Err(BackendError::permanent("control character"));
            }
            Flaw::IgnoresCase => text.to_lowercase(),
            Flaw::CutsAtNul => text.split('\0').next().unwrap_or_default().to_owned(),
            Flaw::TrimsNames => text.trim().to_owned(),
            Flaw::LocksNamesWithoutPrefix => key.name().to_owned(),
            Flaw::NormalizesNames => text.replace("e\u{301}", "\u{e9}"),
            Flaw::CutsLongKeys => text.chars().take(500).collect(),
            _ => text.to_owned(),
        };
        Ok(LockKey::new(text).unwrap())
    }

    /// Whose entry it is that `owner` asks about.
    fn identify<'a>(&'a self, owner: &'a Owner) -> &'a Owner {
        match self.flaw {
            Flaw::OneOwnerPerClient => &self.me,
            _ => owner,
        }
    }

    fn entry(&self, key: &LockKey) -> Option<Entry> {
        self.honest.entries().remove(key.as_str())
    }

    async fn acquire(&self, mut request: AcquireRequest<'_>) -> Result<Attempt, BackendError> {
        let key = request.key;
        request.owner = self.identify(request.owner);
        let entry = self.entry(key);
        let is_mine = entry
            .as_ref()
            .is_some_and(|entry| entry.owner == *request.owner);
        let holder = entry.map(|entry| entry.owner);
        let is_hand_over = request.from.is_some();
        match self.flaw {
            Flaw::GrantsWhatIsHeld if !is_mine && !is_hand_over => {
                self.honest.evict(key.as_str());
            }
            Flaw::ChecksThenSets if holder.is_none() => {
                yield_now().await;
                self.honest.evict(key.as_str());
            }
            Flaw::WaitsForTheHolder if !is_mine => {
                while self.entry(key).is_some() {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Flaw::HandsOverFromAnybody if is_hand_over && !is_mine => {
                request.from = holder.as_ref()
            }
            Flaw::HandsOverWhatIsFree if holder.is_none() => request.from = None,
            Flaw::RefusesARepeatedHandOver if is_mine && is_hand_over => {
                return Ok(Attempt::Busy(Busy::default()));
            }
            Flaw::RepeatsShorten if is_mine => {
                let renewal = RenewRequest::new(key, request.owner, request.ttl, Renew::Exactly);
                self.honest.renew(&[renewal]).await;
            }
            Flaw::RepeatsAreBusy if is_mine && !is_hand_over => {
                return Ok(Attempt::Busy(Busy::default()));
            }
            Flaw::RepeatsGetNewTokens if is_mine => {
                self.honest.evict(key.as_str());
            }
            Flaw::LeavesATask => {
                Handle::current().spawn(std::future::pending::<()>());
            }
            Flaw::NeedsManyThreads => task::block_in_place(|| ()),
            _ => {}
        }
        let ttl = request.ttl;
        request.ttl = self.ttl(&request);
        self.replicate(key).await?;
        match self.honest.try_acquire(request).await? {
            Attempt::Granted(grant) => {
                if self.flaw == Flaw::SetsThenExpires {
                    yield_now().await;
                    let renewal = RenewRequest::new(key, request.owner, ttl, Renew::Exactly);
                    self.honest.renew(&[renewal]).await;
                }
                let mut takers = self.store.takers.lock().unwrap();
                takers.insert(key.as_str().to_owned(), task::try_id());
                self.store.refused.lock().unwrap().remove(key.as_str());
                Ok(Attempt::Granted(self.tokens(grant)))
            }
            Attempt::Busy(mut busy) => {
                if let (Flaw::ProlongsWhenBusy, Some(owner)) = (self.flaw, &holder) {
                    let renewal = RenewRequest::new(key, owner, ttl, Renew::AtLeast);
                    self.honest.renew(&[renewal]).await;
                }
                let mut refused = self.store.refused.lock().unwrap();
                let first = refused.entry(key.as_str().to_owned());
                first.or_insert_with(Moment::now);
                match self.flaw {
                    Flaw::BusyIsAnError => return Err(BackendError::transient("it is locked")),
                    Flaw::HidesTheLabel => busy.holder.label = None,
                    Flaw::TellsTheOwnerAsTheLabel => {
                        busy.holder.label = holder.map(|owner| owner.expose().to_owned());
                    }
                    _ => {}
                }
                Ok(Attempt::Busy(busy))
            }
        }
    }

    /// The replica learns what the store has before the step that comes.
    async fn replicate(&self, key: &LockKey) -> Result<(), BackendError> {
        let found = self.honest.inspect(key).await?;
        let mut replica = self.store.replica.lock().unwrap();
        replica.insert(key.as_str().to_owned(), found);
        Ok(())
    }

    /// How long the entry is made to last.
    fn ttl(&self, request: &AcquireRequest<'_>) -> Duration {
        let ttl = request.ttl;
        match self.flaw {
            Flaw::NeverEnds | Flaw::SetsThenExpires => ttl * 1000,
            Flaw::RoundsTheTtlDown => Duration::from_millis(ttl.as_millis().try_into().unwrap()),
            Flaw::EndsEarly => ttl * 4 / 5,
            Flaw::CapsTheTtlAtAnHour => ttl.min(Duration::from_secs(3600)),
            Flaw::CountsFromTheFirstAttempt => {
                let refused = self.store.refused.lock().unwrap();
                let first = refused.get(request.key.as_str());
                ttl.saturating_sub(first.map(Moment::elapsed).unwrap_or_default())
            }
            _ => ttl,
        }
    }

    fn tokens(&self, grant: Grant) -> Grant {
        let Some(range) = grant.fencing else {
            return grant;
        };
        let (first, last) = (range.first().get(), range.last().get());
        let (first, last) = match self.flaw {
            Flaw::ForgetsTokensOnRestart => {
                self.store.newest.store(last, Ordering::SeqCst);
                let forgotten = self.store.forgotten.load(Ordering::SeqCst);
                (first - forgotten, last - forgotten)
            }
            Flaw::GivesOneTokenForEver => (1, 1),
            // Every entry of these cases is a new one.
            Flaw::CountsInTheEntry => (1, 1 + last - first),
            Flaw::ClaimsTooManyTokens => (first, last + 1),
            Flaw::CountsNanoseconds => (first + (1 << 60), last + (1 << 60)),
            _ => (first, last),
        };
        let range = FencingRange::new(FencingToken::new(first), FencingToken::new(last));
        Grant::new(Some(range))
    }

    async fn renew_one(&self, renewal: &RenewRequest<'_>) -> Result<Ownership, BackendError> {
        let key = match self.spell(renewal.key).await {
            Err(_) if self.flaw == Flaw::CallsARefusalAbsent => return Ok(Ownership::Absent),
            key => key?,
        };
        let mut renewal = *renewal;
        (renewal.key, renewal.owner) = (&key, self.identify(renewal.owner));
        let entry = self.entry(&key);
        let is_mine = entry
            .as_ref()
            .is_some_and(|entry| entry.owner == *renewal.owner);
        match (self.flaw, &entry) {
            (Flaw::RenewsNothing, _) if is_mine => return Ok(Ownership::Held),
            (Flaw::RenewsWhatIsGone, None) => return Ok(Ownership::Held),
            (Flaw::RenewsForStrangers, Some(entry)) => renewal.owner = &entry.owner,
            (Flaw::RenewalsAddUp, Some(entry)) => renewal.ttl += entry.remaining,
            (Flaw::Resurrects, None) => {
                let request = AcquireRequest::new(&key, renewal.owner, renewal.ttl);
                self.honest.try_acquire(request).await?;
            }
            (Flaw::RenewsByReleasingAndTakingAgain, _) if is_mine => {
                self.honest.release(&key, renewal.owner).await?;
                yield_now().await;
                let request = AcquireRequest::new(&key, renewal.owner, renewal.ttl);
                self.honest.try_acquire(request).await?;
            }
            (Flaw::AtLeastShortens, _) => renewal.how = Renew::Exactly,
            (Flaw::ExactlyIsAtLeast, _) => renewal.how = Renew::AtLeast,
            (Flaw::RenewsForNoMoreThanThirtySeconds, _) => {
                renewal.ttl = renewal.ttl.min(Duration::from_secs(30));
            }
            _ => {}
        }
        self.honest.renew(&[renewal]).await.remove(0)
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.flaw == Flaw::PrintsOwners {
            for (key, entry) in self.honest.entries() {
                write!(f, "{key} = {:?}", entry.owner.expose())?;
            }
        }
        f.write_str("Broken")
    }
}

#[async_trait]
impl LockBackend for Broken {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        if self.flaw == Flaw::CallsAStallBusy && *self.store.is_stalled.borrow() {
            return Ok(Attempt::Busy(Busy::default()));
        }
        let key = match (self.spell(request.key).await, self.flaw) {
            (Err(error), Flaw::CallsAConflictBusy | Flaw::CallsARefusalBusy)
                if (self.flaw == Flaw::CallsAConflictBusy)
                    == (error.kind() == BackendErrorKind::Conflict) =>
            {
                return Ok(Attempt::Busy(Busy::default()));
            }
            (key, _) => key?,
        };
        if self.flaw == Flaw::StaysLockedWhenDropped {
            if self.store.stuck.swap(true, Ordering::SeqCst) {
                return Err(BackendError::transient("the connection is in use"));
            }
            yield_now().await;
            self.store.stuck.store(false, Ordering::SeqCst);
        }
        let mut request = request;
        request.key = &key;
        self.acquire(request).await
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let mut answers = Vec::new();
        for renewal in renewals {
            answers.push(self.renew_one(renewal).await);
        }
        let error = answers
            .iter()
            .find_map(|answer| answer.as_ref().err().cloned());
        match (self.flaw, error) {
            (Flaw::AnswersInAnyOrder, _) => answers.reverse(),
            (Flaw::OneErrorFailsAll, Some(error)) => answers.fill(Err(error)),
            _ => {}
        }
        answers
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        let key = match self.spell(key).await {
            Err(_) if self.flaw == Flaw::CallsARefusalAbsent => return Ok(Ownership::Absent),
            key => key?,
        };
        let owner = self.identify(owner);
        self.replicate(&key).await?;
        let is_first = {
            let mut released = self.store.released.lock().unwrap();
            released.insert(owner.expose().to_owned())
        };
        let holder = self.entry(&key).map(|entry| entry.owner);
        let same_token = |one: &Owner| one.expose().get(..32) == owner.expose().get(..32);
        let taker = self.store.takers.lock().unwrap().get(key.as_str()).copied();
        match (self.flaw, &holder) {
            (Flaw::KeepsTheEntryOnRelease, Some(holder)) if holder == owner => Ok(Ownership::Held),
            (Flaw::DeletesWithoutComparing, Some(holder)) => {
                self.honest.release(&key, holder).await
            }
            (Flaw::ComparesTheTokenOnly, Some(holder)) if same_token(holder) => {
                self.honest.release(&key, holder).await
            }
            (Flaw::SaysHeldTwice, None) => Ok(Ownership::Held),
            (Flaw::SaysAbsentButDeletes, _) => {
                self.honest.release(&key, owner).await?;
                Ok(Ownership::Absent)
            }
            (Flaw::OwnedByTheTask, Some(_)) if taker != Some(task::try_id()) => {
                Ok(Ownership::Taken)
            }
            (Flaw::ReleasesOnlyOnce, _) if !is_first => Ok(Ownership::Absent),
            (Flaw::WakesNobody, _) => {
                self.honest.lose_wakeups(true);
                self.honest.release(&key, owner).await
            }
            _ => self.honest.release(&key, owner).await,
        }
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        let key = self.spell(key).await?;
        let mut found = self.honest.inspect(&key).await?;
        if self.flaw == Flaw::InspectsAReplica {
            let replica = self.store.replica.lock().unwrap();
            found = replica.get(key.as_str()).cloned().flatten();
        }
        match (self.flaw, &mut found) {
            (Flaw::HasNoEnd, Some(holder)) => holder.remaining = None,
            (Flaw::TellsTheOwnerAsTheLabel, Some(holder)) => {
                holder.label = self
                    .entry(&key)
                    .map(|entry| entry.owner.expose().to_owned());
            }
            (Flaw::InspectionDeletes, Some(_)) => {
                self.honest.evict(key.as_str());
            }
            _ => {}
        }
        Ok(found)
    }

    fn capabilities(&self) -> Capabilities {
        let honest = self.honest.capabilities().with_survives_restart(true);
        match self.flaw {
            Flaw::ClaimsOrder => honest.with_order(true),
            Flaw::HidesFencing => honest.with_fencing(false),
            _ => honest,
        }
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        (self.flaw != Flaw::DeclaresWakeUpsInVain)
            .then(|| Arc::new(self.clone()) as Arc<dyn Wakeups>)
    }
}
