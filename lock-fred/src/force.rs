//! Taking a lock from its holder, for operators. Not what a lock or a guard can reach.

use async_trait::async_trait;
use lock_core::{BackendError, BackendErrorKind, ForceRelease, Forced, LockKey, Ownership};

use crate::answer::Answer;
use crate::backend::{COUNTER_KEPT, FredBackend, milliseconds};
use crate::{error, scripts};

#[async_trait]
impl ForceRelease for FredBackend {
    async fn force_release(&self, key: &LockKey) -> Result<Option<Forced>, BackendError> {
        if self.native.is_some() {
            return Err(BackendError::new(
                BackendErrorKind::Unsupported,
                "taking a lock from its holder without scripts",
            ));
        }
        let (fence, (wake, publish)) = (self.fence(key)?, self.wake(key)?);
        let keep = milliseconds(COUNTER_KEPT);
        let args = [wake.as_str(), publish, &keep];
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
