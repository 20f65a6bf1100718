//! A backend that does what the test says. Not a mock: behind the script stands an honest store.

use std::collections::BTreeMap;
use std::time::Duration;

use lock_core::{Capabilities, LockBackend, Owner};

use crate::faulty::{Effect, Faulty, Op};
use crate::honest::{Entry, HonestStore};

/// A backend in which each call is answered, failed, delayed or left hanging by the test: [`Faulty`] around an
/// [`HonestStore`].
///
/// There are two ways to use it, and scripts to mix them ([`on`](Faulty::on)):
///
/// - [`Scripted::honest`] answers from an honest store, except where an [`Effect`] says otherwise;
/// - [`Scripted::new`] shows every call to the test as a [`Call`](crate::Call) and waits for its answer.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{AcquireRequest, Attempt, BackendError, LockBackend, LockKey, Owner};
/// use lock_testkit::{Effect, Op, Scripted};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let backend = Scripted::honest();
/// let (key, owner) = (LockKey::new("order:7")?, Owner::fresh(None)?);
/// let request = AcquireRequest::new(&key, &owner, Duration::from_secs(30));
///
/// backend.on(Op::Acquire).next(Effect::LoseReply(BackendError::unknown("cut")));
/// assert!(backend.try_acquire(request).await.is_err());
/// assert_eq!(backend.entries()["order:7"].owner, owner, "it was applied");
///
/// backend.on(Op::Acquire).always(Effect::Ask);
/// let (answer, ()) = tokio::join!(backend.try_acquire(request), async {
///     let call = backend.next_call().await;
///     assert_eq!(call.owner(), &owner);
///     call.reply_granted(7..=9);
/// });
/// assert!(matches!(answer?, Attempt::Granted(_)));
/// # Ok(())
/// # }
/// ```
pub type Scripted = Faulty<HonestStore>;

impl Scripted {
    /// A backend whose every call waits for the test: see [`next_call`](Self::next_call).
    #[must_use]
    #[allow(
        clippy::new_without_default,
        reason = "which of the two would be the default?"
    )]
    pub fn new() -> Self {
        let backend = Self::honest();
        for op in Op::ALL {
            backend.on(op).always(Effect::Ask);
        }
        backend
    }

    /// A backend that answers every call at once from an honest store, which can all but survive a restart; a line of waiters it
    /// keeps if that is [declared](Self::with_capabilities).
    #[must_use]
    pub fn honest() -> Self {
        Self::around(HonestStore::new())
    }

    /// Declares other capabilities. Without fencing, grants carry no tokens; without hand-over, a request for
    /// one is an error; without wake-ups, nobody can subscribe.
    #[must_use]
    pub fn with_capabilities(self, capabilities: Capabilities) -> Self {
        self.inner().set_capabilities(capabilities);
        self
    }

    /// Switches wake-ups on (the default) or off.
    #[must_use]
    pub fn with_wakeups(self, wakeups: bool) -> Self {
        let capabilities = self.capabilities().with_wakeups(wakeups);
        self.with_capabilities(capabilities)
    }

    /// The oracle: what the honest store holds, by whole key.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, Entry> {
        self.inner().with_model(|model| model.entries())
    }

    /// The oracle deletes the entry of `key` and wakes nobody. Whether there was one.
    pub fn evict(&self, key: &str) -> bool {
        self.inner().with_model(|model| model.evict(key))
    }

    /// The oracle ends the entry of `key` as if its ttl were over. Whether there was one.
    pub fn expire(&self, key: &str) -> bool {
        self.evict(key)
    }

    /// The oracle makes a new owner hold `key` for `ttl`, whoever held it before.
    pub fn steal(&self, key: &str, ttl: Duration) -> Owner {
        self.inner().with_model(|model| model.steal(key, ttl))
    }
}
