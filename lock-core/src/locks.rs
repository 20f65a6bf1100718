//! Where locks come from: a backend, a prefix for keys, and defaults. Not a lock.

use std::ops::AsyncFnOnce;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::acquire::Acquirer;
use crate::backend::LockBackend;
use crate::clock::Moment;
use crate::error::LockError;
use crate::guard::LockGuard;
use crate::lock::DistributedLock;
use crate::name::LockName;
use crate::policy::{GuardPolicy, LockOptions, PassingOn, RenewalPolicy, RetryPolicy};
use crate::store::Store;
use crate::ticket::Ticket;
use crate::timer;

/// How long [`Locks::shutdown`] takes at the most.
pub(crate) const SHUTDOWN_LIMIT: Duration = Duration::from_secs(5);

/// The setters of [`LockOptions`] on what has `map_options`.
macro_rules! option_setters {
    () => {
        /// How long a grant lasts: 10 ms to 24 h. Default 30 s.
        #[must_use]
        pub fn with_ttl(self, ttl: Duration) -> Self {
            self.map_options(|options| options.with_ttl(ttl))
        }

        /// When to try again and when to give up. Default: backoff from 10 ms to 1 s, for 30 s.
        #[must_use]
        pub fn with_retry(self, retry: RetryPolicy) -> Self {
            self.map_options(|options| options.with_retry(retry))
        }

        /// How long `acquire` waits at most: short for [`RetryPolicy::give_up_after`] on the present policy.
        #[must_use]
        pub fn with_wait(self, wait: Duration) -> Self {
            self.map_options(|options| options.with_wait(wait))
        }

        /// Whether, how often and until when the lock is renewed. Default: three times per ttl.
        #[must_use]
        pub fn with_renewal(self, renewal: RenewalPolicy) -> Self {
            self.map_options(|options| options.with_renewal(renewal))
        }

        /// What dropping the guard does. Default: release.
        #[must_use]
        pub fn with_guard(self, guard: GuardPolicy) -> Self {
            self.map_options(|options| options.with_guard(guard))
        }

        /// Whether and how often the lock goes straight to the next in line of this process when it is released. Default:
        /// at most 64 times, within 5 ms.
        #[must_use]
        pub fn with_passing_on(self, passing: PassingOn) -> Self {
            self.map_options(|options| options.with_passing_on(passing))
        }

        /// A label that others see while this holds the lock: see [`LockOptions::with_label`]. Default: none.
        #[must_use]
        pub fn with_label(self, label: impl Into<String>) -> Self {
            self.map_options(|options| options.with_label(label))
        }

        /// How long one request to the store may take: see [`LockOptions::with_op_timeout`]. Default: a fifth of the
        /// ttl, 2 s at most.
        #[must_use]
        pub fn with_op_timeout(self, timeout: Duration) -> Self {
            self.map_options(|options| options.with_op_timeout(timeout))
        }

        /// The least validity of a guard when it is handed out: see [`LockOptions::with_min_validity`]. Default: half
        /// the ttl.
        #[must_use]
        pub fn with_min_validity(self, validity: Duration) -> Self {
            self.map_options(|options| options.with_min_validity(validity))
        }

        /// All options at once.
        #[must_use]
        pub fn with_options(self, options: LockOptions) -> Self {
            self.map_options(|_| options)
        }
    };
}
pub(crate) use option_setters;

/// Locks on one backend. Cheap to clone; clones share everything but prefix and defaults, the line of those who wait for
/// a lock above all. Two that were made from one backend are two to each other, as two processes are: make one, and
/// clone it.
///
/// ```
/// use std::time::Duration;
/// use lock_core::{LockBackend, LockError, Locks};
///
/// # async fn doc(backend: impl LockBackend) -> Result<(), LockError> {
/// let locks = Locks::new(backend).with_prefix("shop:").with_label("web-1");
/// let guard = locks.lock("order:7").with_ttl(Duration::from_secs(10)).acquire().await?;
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Locks {
    store: Arc<Store>,
    prefix: Arc<str>,
    options: LockOptions,
}

impl Locks {
    /// Locks on `backend`, without a prefix and with the default options.
    #[must_use]
    pub fn new(backend: impl LockBackend) -> Self {
        Self::from_arc(Arc::new(backend))
    }

    /// The same for a backend that is chosen while the program runs.
    #[must_use]
    pub fn from_arc(backend: Arc<dyn LockBackend>) -> Self {
        Self {
            store: Store::new(backend),
            prefix: "".into(),
            options: LockOptions::default(),
        }
    }

    /// Puts `prefix` in front of every name. Everybody who uses a lock must use the same prefix for it. Two prefixes
    /// keep their locks apart only if neither begins with the other, so end it with a separator that names do not
    /// begin with.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl AsRef<str>) -> Self {
        self.prefix = prefix.as_ref().into();
        self
    }

    option_setters!();

    fn map_options(mut self, change: impl FnOnce(LockOptions) -> LockOptions) -> Self {
        self.options = change(self.options);
        self
    }

    /// The lock called `name`: text, or a tuple of parts such as `("order", 7)` ([`LockName`]). Nothing is sent, and
    /// nothing is checked until the lock is used.
    #[must_use]
    pub fn lock(&self, name: impl LockName) -> DistributedLock {
        DistributedLock::new(&self.store, &self.prefix, &name, self.options.clone())
    }

    /// Takes the lock called `name`, runs `body` with its guard, and releases it: see [`DistributedLock::with`].
    ///
    /// # Errors
    ///
    /// See [`DistributedLock::with`].
    ///
    /// # Cancel safety
    ///
    /// See [`DistributedLock::with`].
    ///
    /// ```
    /// use lock_core::{LockError, Locks};
    ///
    /// # async fn doc(locks: Locks) -> Result<(), LockError> {
    /// let sum = locks.with("sum", async |guard| {
    ///     println!("fencing token {:?}", guard.fencing_token());
    ///     Ok::<_, LockError>(1 + 1)
    /// }).await?;
    /// assert_eq!(sum, 2);
    /// # Ok(()) }
    /// ```
    pub async fn with<T, E, F>(&self, name: impl LockName, body: F) -> Result<T, E>
    where
        E: From<LockError>,
        F: AsyncFnOnce(&LockGuard) -> Result<T, E>,
    {
        let lock = self.lock(name);
        lock.with(body).await
    }

    /// Takes over the lock behind `ticket`, under a fresh owner and with a larger fencing token, with the options of
    /// these locks; the prefix is the ticket's. Takes two op timeouts at the most.
    ///
    /// # Errors
    ///
    /// [`LockError::Lost`] if the lock ended before, or the ticket was used; otherwise as
    /// [`DistributedLock::try_acquire`]. After [`LockError::Backend`] it may be tried again; after
    /// [`LockError::Unknown`] the lock may have been taken over, and is then given back.
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, the lock is either still the ticket's or given back.
    pub async fn resume(&self, ticket: &Ticket) -> Result<LockGuard, LockError> {
        let key = ticket.key();
        if !self.store.capabilities.hand_over {
            let what = "handing a lock over".to_owned();
            return Err(LockError::Unsupported {
                key: key.clone(),
                what,
            });
        }
        Acquirer::new(&self.store, key, &self.options)?
            .resume(ticket.owner())
            .await
    }

    /// Ends all use of the backend by these locks and their clones: refuses what is new and who waits with
    /// [`LockError::Closed`], tells every holder that it lost its lock, releases the locks, and waits for what is
    /// under way; 5 s at the most. Whether all of it was answered by then.
    ///
    /// # Cancel safety
    ///
    /// Dropped unfinished, the releases that were begun go on in the background. It may be called again.
    pub async fn shutdown(&self) -> bool {
        self.store.close();
        let start = Moment::now();
        loop {
            let mut found = false;
            for lease in self.store.leases() {
                found |= lease.shut_down();
            }
            let left = SHUTDOWN_LIMIT.saturating_sub(start.elapsed());
            let is_over = found && left.is_zero();
            if is_over || !self.idle_within(left).await {
                return false;
            }
            // What was on its way into the list at the first look is in it by now, or released itself.
            if !found {
                return true;
            }
        }
    }
    /// Waits for what is under way at the store; whether all of it was answered by then.
    pub(crate) async fn idle_within(&self, limit: Duration) -> bool {
        let idle = pin!(self.store.idle());
        timer::timeout(limit, idle).await.is_some()
    }
}
