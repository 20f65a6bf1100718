//! How a wrong backend grants and refuses.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lock_core::{
    AcquireRequest, Attempt, BackendError, Busy, FencingRange, FencingToken, Grant, LockBackend,
    Moment, Owner, Renew, RenewRequest,
};
use tokio::runtime::Handle;
use tokio::task::{self, yield_now};
use tokio::time::sleep;

use super::backend::ENDLESS;
use super::{Broken, Flaw};

impl Broken {
    pub(super) async fn acquire(
        &self,
        mut request: AcquireRequest<'_>,
    ) -> Result<Attempt, BackendError> {
        let key = request.key;
        request.owner = self.identify(request.owner);
        let cut = request.owner.expose().chars().take(64).collect::<String>();
        let cut = Owner::from_exposed(cut);
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
                // What is not this one's turn is somebody's.
                self.honest.wake(key.as_str());
            }
            Flaw::WaitsForTheHolder if !is_mine => {
                while self.entry(key).is_some() {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Flaw::TriesForAWhile if !is_mine => {
                for _ in 0..4 {
                    if self.entry(key).is_some() {
                        sleep(Duration::from_millis(25)).await;
                    }
                }
            }
            Flaw::HandsOverFromAnybody if is_hand_over && !is_mine => {
                request.from = holder.as_ref()
            }
            Flaw::HandsOverWhatHasEnded if is_hand_over => {
                let ended = self.ended(key);
                if ended.is_some_and(|(owner, _)| Some(&owner) == request.from) {
                    request.from = None;
                }
            }
            Flaw::RepeatsOutliveTheEntry => match self.ended(key) {
                Some((owner, grant)) if owner == *request.owner => {
                    return Ok(Attempt::Granted(grant));
                }
                _ => {}
            },
            Flaw::CutsLongLabels => request.owner = &cut,
            Flaw::CallsContentionBusy => {
                let others = self.store.attempts.fetch_add(1, Ordering::SeqCst);
                yield_now().await;
                self.store.attempts.fetch_sub(1, Ordering::SeqCst);
                if others > 0 {
                    return Ok(Attempt::Busy(Busy::default()));
                }
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
            Flaw::BlocksTheThread if holder.is_some() && !is_mine => self.block(),
            Flaw::AnswersFromACache if !is_mine && !is_hand_over => {
                let told = self.told.lock().unwrap();
                if let Some(busy) = told.get(key.as_str()) {
                    return Ok(Attempt::Busy(busy.clone()));
                }
            }
            Flaw::FavoursWhoHadItLast if holder.is_none() && self.is_for_another(key) => {
                return Ok(Attempt::Busy(Busy::default()));
            }
            Flaw::ForgetsOneOfMany => {
                let entries = self.honest.entries();
                if entries.len() >= 230 {
                    let first = entries.into_keys().next().unwrap();
                    self.honest.evict(&first);
                }
            }
            Flaw::WaitsForEachOfTheDead => self.hear_of_all_but_the_first(key),
            // For ever: what the flaws before had would be there again for this one.
            Flaw::KeepsAllItWasAsked => drop(Vec::leak(vec![1_u8; 64 << 10])),
            _ => {}
        }
        let ttl = request.ttl;
        request.ttl = self.ttl(&request);
        self.replicate(key).await?;
        let answer = self.honest.try_acquire(request).await?;
        *self.answered.lock().unwrap() = Some(Moment::now());
        match answer {
            Attempt::Granted(grant) => {
                if self.flaw == Flaw::SetsThenExpires {
                    yield_now().await;
                    let renewal = RenewRequest::new(key, request.owner, ttl, Renew::Exactly);
                    self.honest.renew(&[renewal]).await;
                }
                let mut takers = self.store.takers.lock().unwrap();
                takers.insert(key.as_str().to_owned(), task::try_id());
                self.store.refused.lock().unwrap().remove(key.as_str());
                let mut granted = self.store.granted.lock().unwrap();
                granted.insert(key.as_str().to_owned(), (request.owner.clone(), grant));
                self.life
                    .taken
                    .lock()
                    .unwrap()
                    .push(key.as_str().to_owned());
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
                    Flaw::AnswersFromACache => {
                        let mut told = self.told.lock().unwrap();
                        told.insert(key.as_str().to_owned(), busy.clone());
                    }
                    Flaw::BusyIsAnError => return Err(BackendError::transient("it is locked")),
                    Flaw::HidesTheLabel => busy.holder.label = None,
                    Flaw::TellsTheWholeTtl => busy.holder.remaining = Some(ttl),
                    Flaw::TellsTheOwnerAsTheLabel => {
                        busy.holder.label = holder.map(|owner| owner.expose().to_owned());
                    }
                    _ => {}
                }
                Ok(Attempt::Busy(busy))
            }
        }
    }

    /// How long the entry is made to last.
    fn ttl(&self, request: &AcquireRequest<'_>) -> Duration {
        let ttl = request.ttl;
        match self.flaw {
            Flaw::NeverEnds | Flaw::SetsThenExpires => ttl * ENDLESS,
            Flaw::RoundsTheTtlDown => Duration::from_millis(ttl.as_millis().try_into().unwrap()),
            Flaw::EndsEarly => ttl * 4 / 5,
            Flaw::CountsWholeSeconds => Duration::from_secs(ttl.as_secs() + 1),
            Flaw::CapsTheTtlAtAnHour => ttl.min(Duration::from_secs(3600)),
            Flaw::CountsFromTheFirstAttempt => {
                let refused = self.store.refused.lock().unwrap();
                let first = refused.get(request.key.as_str());
                ttl.saturating_sub(first.map(Moment::elapsed).unwrap_or_default())
            }
            Flaw::CountsFromItsLastAnswer => {
                let answered = self.answered.lock().unwrap();
                ttl.saturating_sub(answered.map(|then| then.elapsed()).unwrap_or_default())
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
            Flaw::ForgetsTokensOnRestart
            | Flaw::RenewsAwayTheToken
            | Flaw::ForgetsTokensWhenAClientComes => {
                self.store.newest.store(last, Ordering::SeqCst);
                let forgotten = self.store.forgotten.load(Ordering::SeqCst);
                (first - forgotten, last - forgotten)
            }
            Flaw::CountsTimeOnly => {
                let begun = self.store.begun.get_or_init(Moment::now).elapsed();
                let now = 1 + u64::try_from(begun.as_micros()).unwrap();
                (now, now + last - first)
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
}
