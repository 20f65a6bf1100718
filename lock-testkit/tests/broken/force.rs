//! What a wrong backend takes from a holder, and tells of it.

use async_trait::async_trait;
use lock_core::{
    BackendError, BackendErrorKind, FencingToken, ForceRelease, Forced, Holder, LockBackend,
    LockKey,
};

use super::{Broken, Flaw};

#[async_trait]
impl ForceRelease for Broken {
    async fn force_release(&self, key: &LockKey) -> Result<Option<Forced>, BackendError> {
        let key = match self.spell(key).await {
            Err(error)
                if self.flaw == Flaw::ForceTakesWhatIsNoLock
                    && error.kind() == BackendErrorKind::Conflict =>
            {
                self.store.obstructed.lock().unwrap().remove(key.as_str());
                return Ok(Some(Forced::new(Holder::new(), None)));
            }
            key => key?,
        };
        let owner = self.entry(&key).map(|entry| entry.owner);
        let held = self.honest.inspect(&key).await?;
        let forced = match self.flaw {
            Flaw::ForceKeepsTheEntry => held
                .clone()
                .map(|holder| Forced::new(holder, token(u64::MAX))),
            Flaw::ForceReservesNoToken => {
                self.honest.evict(key.as_str());
                held.clone().map(|holder| {
                    let last = holder.fencing.map_or(0, FencingToken::get);
                    Forced::new(holder, token(last + 1))
                })
            }
            Flaw::ForceWakesNobody => {
                self.honest.lose_wakeups(true);
                self.honest.inner().force_release(&key).await?
            }
            Flaw::ForceTakesAllAlike => {
                for other in self.honest.entries().into_keys() {
                    if other.starts_with(key.as_str()) && other != key.as_str() {
                        self.honest.evict(&other);
                    }
                }
                self.honest.inner().force_release(&key).await?
            }
            _ => self.honest.inner().force_release(&key).await?,
        };
        let Some(mut forced) = forced else {
            let made_up = self.flaw == Flaw::ForceFindsSomebody;
            return Ok(made_up.then(|| Forced::new(Holder::new(), token(1))));
        };
        match self.flaw {
            Flaw::ForceHidesTheHolder => forced.holder = Holder::new(),
            Flaw::ForceTellsTheOwner => {
                let text = owner.map(|owner| owner.expose().to_owned());
                forced.holder.label = text;
            }
            Flaw::ForceGivesTheHoldersToken => {
                forced.fencing = held.and_then(|holder| holder.fencing);
            }
            Flaw::ForceGivesNoToken => forced.fencing = None,
            _ => {}
        }
        Ok(Some(forced))
    }
}

#[allow(clippy::unnecessary_wraps, reason = "that is how it is told")]
fn token(number: u64) -> Option<FencingToken> {
    Some(FencingToken::new(number))
}
