//! The wake-ups of a backend that does one thing wrong.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_trait::async_trait;
use lock_core::{BackendError, LockBackend, LockKey, Place, Wakeup, Wakeups};
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
        let dropped = self.store.dropped.load(Ordering::SeqCst);
        let mut subscribed = self.store.subscribed.lock().unwrap();
        let is_first = subscribed.insert(key.as_str().to_owned());
        Ok(Box::new(BrokenWakeup {
            of: self.clone(),
            key: key.clone(),
            honest,
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

#[derive(Debug)]
struct BrokenWakeup {
    of: Broken,
    key: LockKey,
    honest: Box<dyn Wakeup>,
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
        if self.of.flaw == Flaw::LeavingTakesTheLockAlong && !self.was_woken {
            self.of.honest.evict(self.key.as_str());
        }
    }
}
