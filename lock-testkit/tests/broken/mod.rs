//! Backends that are wrong in one respect each, around the honest store.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Busy, Capabilities, FencingRange,
    FencingToken, Grant, Holder, LockBackend, LockKey, Owner, Ownership, Place, Renew,
    RenewRequest, Wakeup, Wakeups,
};
use lock_testkit::{Entry, Fixture, Gap, Scripted};
use tokio::task::yield_now;
use tokio::time::timeout;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Flaw {
    Nothing,
    // exclusion
    GrantsWhatIsHeld,
    ProlongsWhenBusy,
    ChecksThenSets,
    // expiry
    NeverEnds,
    RoundsTheTtlDown,
    HasNoEnd,
    // ownership
    KeepsTheEntryOnRelease,
    DeletesWithoutComparing,
    ComparesTheTokenOnly,
    SaysHeldTwice,
    // renewal
    RenewsNothing,
    RenewsForStrangers,
    Resurrects,
    AtLeastShortens,
    ExactlyIsAtLeast,
    RenewsForNoMoreThanThirtySeconds,
    AnswersInAnyOrder,
    OneErrorFailsAll,
    // fencing
    GivesOneTokenForEver,
    CountsInTheEntry,
    ClaimsTooManyTokens,
    CountsNanoseconds,
    // waiting
    WakesNobody,
    IsDeafBeforeTheWait,
    LosesTheWakeUpOfADroppedWait,
    UnsubscribesAll,
    ListensForTrimmedNames,
    // names
    RefusesControlCharacters,
    IgnoresCase,
    CutsAtNul,
    TrimsNames,
    LocksNamesWithoutPrefix,
    CutsLongKeys,
    // hand-over
    HandsOverFromAnybody,
    HandsOverWhatIsFree,
    RefusesARepeatedHandOver,
    // lifecycle
    RepeatsShorten,
    RepeatsAreBusy,
    RepeatsGetNewTokens,
    HidesTheLabel,
    InspectionDeletes,
    DeclaresWakeUpsInVain,
    PrintsOwners,
    StaysLockedWhenDropped,
    CallsAConflictBusy,
    ClaimsOrder,
    HidesFencing,
}

thread_local! {
    /// The flaw of the backends that this thread starts.
    pub(crate) static FLAW: Cell<Flaw> = const { Cell::new(Flaw::Nothing) };
}

/// The fixture: a store whose clients all have this thread's [`FLAW`].
pub(crate) struct Zoo(Broken);

impl Fixture for Zoo {
    type Backend = Broken;
    const PAUSED: bool = true;
    const GAPS: &[Gap] = &[
        Gap::Order,
        Gap::SurvivesRestart,
        Gap::Expire,
        Gap::Restart,
        Gap::Stop,
        Gap::Stall,
        Gap::CutConnections,
    ];

    async fn start() -> Self {
        Self(Broken {
            flaw: FLAW.get(),
            honest: Scripted::honest(),
            obstructed: Arc::default(),
            stuck: Arc::default(),
            dropped: Arc::default(),
        })
    }

    async fn client(&self) -> Broken {
        self.0.clone()
    }

    async fn evict(&self, key: &LockKey) -> bool {
        self.0.honest.evict(key.as_str());
        true
    }

    async fn obstruct(&self, key: &LockKey) -> bool {
        self.0
            .obstructed
            .lock()
            .unwrap()
            .insert(key.as_str().to_owned());
        true
    }
}

#[derive(Clone)]
pub(crate) struct Broken {
    flaw: Flaw,
    honest: Scripted,
    /// Keys with something that is no lock.
    obstructed: Arc<Mutex<HashSet<String>>>,
    /// A lock around the connection that a dropped call does not give back.
    stuck: Arc<AtomicBool>,
    /// How many subscriptions were dropped.
    dropped: Arc<AtomicUsize>,
}

impl Broken {
    fn spell(&self, key: &LockKey) -> Result<LockKey, BackendError> {
        let text = key.as_str();
        if self.obstructed.lock().unwrap().contains(text) {
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
            Flaw::CutsLongKeys => text.chars().take(500).collect(),
            _ => text.to_owned(),
        };
        Ok(LockKey::new(text).unwrap())
    }

    fn entry(&self, key: &LockKey) -> Option<Entry> {
        self.honest.entries().remove(key.as_str())
    }

    async fn acquire(&self, mut request: AcquireRequest<'_>) -> Result<Attempt, BackendError> {
        let key = request.key;
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
            Flaw::NeverEnds => request.ttl *= 1000,
            Flaw::RoundsTheTtlDown => {
                request.ttl = Duration::from_millis(request.ttl.as_millis().try_into().unwrap());
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
            _ => {}
        }
        let answer = self.honest.try_acquire(request).await?;
        if let (Flaw::ProlongsWhenBusy, Attempt::Busy(_), Some(owner)) =
            (self.flaw, &answer, &holder)
        {
            let renewal = RenewRequest::new(key, owner, request.ttl, Renew::AtLeast);
            self.honest.renew(&[renewal]).await;
        }
        Ok(match answer {
            Attempt::Granted(grant) => Attempt::Granted(self.tokens(grant)),
            Attempt::Busy(mut busy) => {
                if self.flaw == Flaw::HidesTheLabel {
                    busy.holder.label = None;
                }
                Attempt::Busy(busy)
            }
        })
    }

    fn tokens(&self, grant: Grant) -> Grant {
        let Some(range) = grant.fencing else {
            return grant;
        };
        let (first, last) = (range.first().get(), range.last().get());
        let (first, last) = match self.flaw {
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
        let key = self.spell(renewal.key)?;
        let mut renewal = *renewal;
        renewal.key = &key;
        let entry = self.entry(&key);
        match (self.flaw, &entry) {
            (Flaw::RenewsNothing, Some(entry)) if entry.owner == *renewal.owner => {
                return Ok(Ownership::Held);
            }
            (Flaw::RenewsForStrangers, Some(entry)) => renewal.owner = &entry.owner,
            (Flaw::Resurrects, None) => {
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
        let key = match self.spell(request.key) {
            Err(_) if self.flaw == Flaw::CallsAConflictBusy => {
                return Ok(Attempt::Busy(Busy::default()));
            }
            key => key?,
        };
        if self.flaw == Flaw::StaysLockedWhenDropped {
            if self.stuck.swap(true, Ordering::SeqCst) {
                return Err(BackendError::transient("the connection is in use"));
            }
            yield_now().await;
            self.stuck.store(false, Ordering::SeqCst);
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
        let key = self.spell(key)?;
        let holder = self.entry(&key).map(|entry| entry.owner);
        let same_token = |one: &Owner| one.expose().get(..32) == owner.expose().get(..32);
        match (self.flaw, &holder) {
            (Flaw::KeepsTheEntryOnRelease, Some(holder)) if holder == owner => Ok(Ownership::Held),
            (Flaw::DeletesWithoutComparing, Some(holder)) => {
                self.honest.release(&key, holder).await
            }
            (Flaw::ComparesTheTokenOnly, Some(holder)) if same_token(holder) => {
                self.honest.release(&key, holder).await
            }
            (Flaw::SaysHeldTwice, None) => Ok(Ownership::Held),
            (Flaw::WakesNobody, _) => {
                self.honest.lose_wakeups(true);
                self.honest.release(&key, owner).await
            }
            _ => self.honest.release(&key, owner).await,
        }
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        let key = self.spell(key)?;
        let mut found = self.honest.inspect(&key).await?;
        match (self.flaw, &mut found) {
            (Flaw::HasNoEnd, Some(holder)) => holder.remaining = None,
            (Flaw::InspectionDeletes, Some(_)) => {
                self.honest.evict(key.as_str());
            }
            _ => {}
        }
        Ok(found)
    }

    fn capabilities(&self) -> Capabilities {
        let honest = self.honest.capabilities();
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

#[async_trait]
impl Wakeups for Broken {
    async fn subscribe(
        &self,
        key: &LockKey,
        place: Option<&Place>,
    ) -> Result<Box<dyn Wakeup>, BackendError> {
        let mut key = self.spell(key)?;
        if self.flaw == Flaw::ListensForTrimmedNames {
            key = LockKey::new(key.as_str().trim()).unwrap();
        }
        let wakeups = self.honest.wakeups().unwrap();
        let honest = wakeups.subscribe(&key, place).await?;
        let dropped = self.dropped.load(Ordering::SeqCst);
        Ok(Box::new(BrokenWakeup {
            of: self.clone(),
            honest,
            dropped,
        }))
    }

    async fn leave(&self, _key: &LockKey, _place: &Place) -> Result<(), BackendError> {
        Ok(())
    }
}

#[derive(Debug)]
struct BrokenWakeup {
    of: Broken,
    honest: Box<dyn Wakeup>,
    dropped: usize,
}

#[async_trait]
impl Wakeup for BrokenWakeup {
    async fn notified(&mut self) {
        match self.of.flaw {
            Flaw::IsDeafBeforeTheWait => {
                while timeout(Duration::ZERO, self.honest.notified())
                    .await
                    .is_ok()
                {}
                self.honest.notified().await;
            }
            Flaw::LosesTheWakeUpOfADroppedWait => {
                self.honest.notified().await;
                yield_now().await;
            }
            Flaw::UnsubscribesAll if self.of.dropped.load(Ordering::SeqCst) > self.dropped => {
                std::future::pending().await
            }
            _ => self.honest.notified().await,
        }
    }
}

impl Drop for BrokenWakeup {
    fn drop(&mut self) {
        self.of.dropped.fetch_add(1, Ordering::SeqCst);
    }
}
