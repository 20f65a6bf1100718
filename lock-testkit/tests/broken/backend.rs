//! A wrong backend as the trait wants it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Busy, Capabilities, Holder,
    LockBackend, LockKey, Owner, Ownership, Renew, RenewRequest, Wakeups,
};
use tokio::runtime::Handle;
use tokio::task::{self, yield_now};
use tokio::time::sleep;

use super::{Broken, Flaw};

/// How many ttls are for ever.
pub(super) const ENDLESS: u32 = 1000;

#[async_trait]
impl LockBackend for Broken {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        if self.flaw == Flaw::CallsAStallBusy && *self.store.is_stalled.borrow() {
            return Ok(Attempt::Busy(Busy::default()));
        }
        let cuts = self.store.cuts.load(Ordering::SeqCst);
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
        let answer = self.acquire(request).await;
        match self.flaw {
            Flaw::SendsAgainWhenCut if self.is_cut_off(cuts).await => {
                let (honest, owner) = (self.honest.clone(), request.owner.clone());
                let (key, ttl) = (key.clone(), request.ttl);
                Handle::current().spawn(async move {
                    sleep(Duration::from_millis(10)).await;
                    let again = AcquireRequest::new(&key, &owner, ttl);
                    honest.try_acquire(again).await
                });
                Err(BackendError::unknown("connection reset"))
            }
            Flaw::CallsALostGrantARefusal if self.is_cut_off(cuts).await => {
                Err(BackendError::transient("connection reset"))
            }
            Flaw::CallsACutBusy if self.is_cut_off(cuts).await => {
                Ok(Attempt::Busy(Busy::default()))
            }
            _ => answer,
        }
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let mut answers = Vec::new();
        for (place, renewal) in renewals.iter().enumerate() {
            answers.push(match self.flaw {
                Flaw::RenewsTheFirstOfABatch if place >= 16 => Ok(Ownership::Held),
                _ => self.renew_one(renewal).await,
            });
        }
        let error = answers
            .iter()
            .find_map(|answer| answer.as_ref().err().cloned());
        match (self.flaw, error) {
            (Flaw::AnswersInAnyOrder, _) => answers.reverse(),
            (Flaw::AnswersByKey, _) => {
                for place in 0..answers.len() {
                    let of_its_key = |other: &RenewRequest<'_>| other.key == renewals[place].key;
                    let last = renewals.iter().rposition(of_its_key).unwrap();
                    answers[place] = answers[last].clone();
                }
            }
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
        self.note_release(&key);
        if self.flaw == Flaw::RemembersTheEnded {
            let ended = self.ended(&key);
            if ended.is_some_and(|(last, _)| last != *owner) {
                return Ok(Ownership::Taken);
            }
        }
        let is_first = {
            let mut released = self.store.released.lock().unwrap();
            released.insert(owner.expose().to_owned())
        };
        let holder = self.entry(&key).map(|entry| entry.owner);
        let same_token = |one: &Owner| one.expose().get(..32) == owner.expose().get(..32);
        let taker = self.store.takers.lock().unwrap().get(key.as_str()).copied();
        match (self.flaw, &holder) {
            (Flaw::ReleasesAllOfItsOwner, Some(holder)) if holder == owner => {
                for (other, entry) in self.honest.entries() {
                    if entry.owner == *owner && other != key.as_str() {
                        self.honest.evict(&other);
                    }
                }
                self.honest.release(&key, owner).await
            }
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
            (Flaw::CallsALostReleaseARefusal, _) => {
                let cuts = self.store.cuts.load(Ordering::SeqCst);
                let answer = self.honest.release(&key, owner).await;
                if self.is_cut_off(cuts).await {
                    return Err(BackendError::transient("connection reset"));
                }
                answer
            }
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
            // It says that it will.
            (Flaw::NeverEnds, Some(holder)) => {
                holder.remaining = holder.remaining.map(|remaining| remaining / ENDLESS);
            }
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
            Flaw::HidesFencing => honest.with_fencing(false),
            _ => honest,
        }
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        (self.flaw != Flaw::DeclaresWakeUpsInVain)
            .then(|| Arc::new(self.clone()) as Arc<dyn Wakeups>)
    }
}

impl Broken {
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
            (Flaw::RenewsOnce, _) if is_mine => {
                let owner = renewal.owner.expose().to_owned();
                if !self.store.renewed.lock().unwrap().insert(owner) {
                    return Ok(Ownership::Held);
                }
            }
            (Flaw::RenewsUntilAClientEnds, _) if self.store.ended.load(Ordering::SeqCst) > 0 => {
                return Err(BackendError::transient("nobody drives renewals any more"));
            }
            (Flaw::RenewsInTwoSteps, _) if is_mine => {
                let (first, how) = (Duration::from_secs(1), Renew::Exactly);
                let first = RenewRequest::new(&key, renewal.owner, first, how);
                self.honest.renew(&[first]).await;
                sleep(Duration::from_millis(50)).await;
            }
            (Flaw::ReadsThenRenews, Some(entry)) if renewal.how == Renew::AtLeast => {
                yield_now().await;
                renewal.ttl = renewal.ttl.max(entry.remaining);
                renewal.how = Renew::Exactly;
            }
            (Flaw::RenewsWhatIsGone | Flaw::ForgetsAndRenews, None) => return Ok(Ownership::Held),
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
            (Flaw::RenewsAwayTheToken, _) if is_mine => {
                let newest = self.store.newest.load(Ordering::SeqCst);
                self.store.forgotten.store(newest, Ordering::SeqCst);
            }
            (Flaw::RoundsRenewalsDown, _) => {
                renewal.ttl = Duration::from_millis(renewal.ttl.as_millis().try_into().unwrap());
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
