//! Whether the server may throw locks away to make room. It is asked when an application starts, and by no call about a lock.

use lock_core::BackendError;

use crate::answer::Reply;
use crate::backend::FredBackend;
use crate::{error, scripts};

impl FredBackend {
    /// Whether the server evicts locks when its memory is used up: it has a `maxmemory`, and a policy other than `noeviction`.
    /// (The `volatile-` policies evict what has a ttl, and every lock has one.) `None` where that cannot be known: the user has
    /// no right to `INFO`, the server is older than Redis 7, or [no scripts](crate::FredBackendBuilder::with_native_commands)
    /// are sent. What a user may not ask is not asked, and leaves nothing in the `ACL LOG`.
    ///
    /// For the start of an application that would rather not run than lose locks. It is one request; of a cluster, one node
    /// is asked.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
    /// let backend = lock_fred::FredBackend::connect("redis://127.0.0.1:6379").await?;
    /// if backend.may_evict().await? == Some(true) {
    ///     return Err("set maxmemory-policy noeviction".into());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As those of [`inspect`](lock_core::LockBackend::inspect).
    ///
    /// # Cancel safety
    ///
    /// Nothing is changed at the server.
    pub async fn may_evict(&self) -> Result<Option<bool>, BackendError> {
        let eviction = self.eviction().await?;
        Ok(match eviction {
            Eviction::Keeps => Some(false),
            Eviction::Evicts(_) => Some(true),
            Eviction::Untold => None,
        })
    }

    async fn eviction(&self) -> Result<Eviction, BackendError> {
        if self.native.is_some() {
            return Ok(Eviction::Untold);
        }
        match self.link.run(&scripts::EVICTION, &[], &[]).await? {
            Reply::List(parts) => Eviction::of(&parts),
            _ => Err(error::senseless()),
        }
    }

    /// Warns of a server that evicts locks, if anybody listens. One that does not tell is no reason not to work with it.
    #[cfg(feature = "tracing")]
    pub(crate) async fn warn_of_eviction(&self, patience: std::time::Duration) {
        if !tracing::enabled!(target: "fencelock", tracing::Level::WARN) {
            return;
        }
        if let Ok(Ok(Eviction::Evicts(policy))) =
            tokio::time::timeout(patience, self.eviction()).await
        {
            tracing::warn!(
                target: "fencelock",
                policy,
                server = ?self,
                "this server evicts locks when its memory is used up: set maxmemory-policy noeviction"
            );
        }
    }
}

/// What the server does to locks when its memory is used up.
enum Eviction {
    Keeps,
    /// By this policy.
    #[cfg_attr(not(feature = "tracing"), allow(dead_code, reason = "nobody is told"))]
    Evicts(String),
    Untold,
}

impl Eviction {
    fn of(answer: &[Reply]) -> Result<Self, BackendError> {
        let text = |index: usize| match answer.get(index) {
            Some(Reply::Text(bytes)) => String::from_utf8_lossy(bytes),
            _ => "".into(),
        };
        match &*text(0) {
            "keeps" => Ok(Self::Keeps),
            "evicts" => Ok(Self::Evicts(text(1).into_owned())),
            "untold" => Ok(Self::Untold),
            "failed" => Err(error::refused_in_script(&text(1), &text(2))),
            _ => Err(error::senseless()),
        }
    }
}
