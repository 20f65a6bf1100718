//! Taking a lock from its holder, for operators. Not what a lock or a guard can reach.

use async_trait::async_trait;
use lock_core::{BackendError, ForceRelease, Forced, LockKey, Ownership};

use crate::answer::Answer;
use crate::backend::{COUNTER_KEPT, FredBackend, milliseconds};
use crate::{error, keys, scripts};

#[async_trait]
impl ForceRelease for FredBackend {
    async fn force_release(&self, key: &LockKey) -> Result<Option<Forced>, BackendError> {
        let (fence, wake) = (keys::fence(key)?, keys::wake(key)?);
        let keep = milliseconds(COUNTER_KEPT);
        let args = [wake.as_str(), scripts::PUBLISH, &keep];
        let reply = self
            .link
            .run(&scripts::FORCE, &[key.as_str(), &fence], &args)
            .await?;
        match Answer::of(&reply, &fence)? {
            Answer::Busy(mut holder) => {
                let fencing = holder.fencing.take();
                Ok(Some(Forced::new(holder, fencing)))
            }
            Answer::Owner(Ownership::Absent) => Ok(None),
            _ => Err(error::senseless()),
        }
    }
}
