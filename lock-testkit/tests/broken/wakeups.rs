//! The wake-ups of a backend that does one thing wrong.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{BackendError, LockBackend, LockKey, Moment, Place, Wakeup, Wakeups};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::{Broken, Flaw};

#[async_trait]
impl Wakeups for Broken {
    async fn subscribe(
        &self,
        key: &LockKey,
        place: Option<&Place>,
    ) -> Result<Box<dyn Wakeup>, BackendError> {
        let mut key = self.spell(key).await?;
        if self.flaw == Flaw::ListensForTrimmedNames {
            key = LockKey::new(key.as_str().trim()).unwrap();
        }
        if self.flaw == Flaw::NeverConfirmsASubscription {
            std::future::pending::<()>().await;
        }
        let wakeups = self.honest.wakeups().unwrap();
        let keeps_no_line = [Flaw::ServesWhoComesFirst, Flaw::FavoursWhoHadItLast];
        let place = place.filter(|_| !keeps_no_line.contains(&self.flaw));
        let honest = wakeups.subscribe(&key, place).await?;
        let in_line = place.map(|place| (place.clone(), None));
        self.store.line.lock().unwrap().extend(in_line);
        let dropped = self.store.dropped.load(Ordering::SeqCst);
        let mut subscribed = self.store.subscribed.lock().unwrap();
        let is_first = subscribed.insert(key.as_str().to_owned());
        Ok(Box::new(BrokenWakeup {
            of: self.clone(),
            key: key.clone(),
            honest,
            place: place.cloned(),
            dropped,
            is_first,
            was_woken: false,
            cuts: self.store.cuts.load(Ordering::SeqCst),
        }))
    }

    async fn leave(&self, key: &LockKey, place: &Place) -> Result<(), BackendError> {
        let key = self.spell(key).await?;
        self.honest.wakeups().unwrap().leave(&key, place).await
    }
}

impl Broken {
    /// Who is not the first in line is not looked at: that it died counts from when it is.
    pub(super) fn hear_of_all_but_the_first(&self, key: &LockKey) {
        let mut line = self.store.line.lock().unwrap();
        let since = |(_, since): &mut (_, Option<Moment>)| *since.get_or_insert_with(Moment::now);
        let since = line.first_mut().map(since);
        if since.is_some_and(|since| since.elapsed() > Duration::from_secs(36)) {
            line.remove(0);
        }
        for (place, _) in line.iter().skip(1) {
            let honest = self.honest.inner();
            honest.with_model(|model| model.join(key.as_str(), place));
        }
    }
}

#[derive(Debug)]
struct BrokenWakeup {
    of: Broken,
    key: LockKey,
    honest: Box<dyn Wakeup>,
    place: Option<Place>,
    dropped: usize,
    is_first: bool,
    was_woken: bool,
    cuts: usize,
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
            Flaw::LosesSubscriptionsWhenCut
                if self.of.store.cuts.load(Ordering::SeqCst) > self.cuts =>
            {
                std::future::pending().await
            }
            Flaw::UnsubscribesAll
                if self.of.store.dropped.load(Ordering::SeqCst) > self.dropped =>
            {
                std::future::pending().await
            }
            Flaw::WakesTheFirstOfAllOnly if !self.is_first => std::future::pending().await,
            Flaw::WakesOnce if self.was_woken => std::future::pending().await,
            Flaw::WakesForNoReason => {}
            _ => self.honest.notified().await,
        }
        self.was_woken = true;
        self.of.told.lock().unwrap().remove(self.key.as_str());
    }
}

impl Drop for BrokenWakeup {
    fn drop(&mut self) {
        self.of.store.dropped.fetch_add(1, Ordering::SeqCst);
        let mut line = self.of.store.line.lock().unwrap();
        line.retain(|(place, _)| Some(place) != self.place.as_ref());
        if self.of.flaw == Flaw::LeavingTakesTheLockAlong && !self.was_woken {
            self.of.honest.evict(self.key.as_str());
        }
    }
}
