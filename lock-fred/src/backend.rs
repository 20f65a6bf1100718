//! Locks on a Redis server: calls to scripts, and their answers back. No retry, no waiting, no policy.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use fred::clients::{Client, Pool};
use futures_util::future::join_all;
use lock_core::{
    AcquireRequest, Attempt, BackendError, Busy, Capabilities, Grant, Holder, LockBackend, LockKey,
    MAX_TOKENS, Owner, Ownership, Renew, RenewRequest, Wakeups,
};

use crate::answer::{Answer, Reply};
use crate::client::{Given, Target};
use crate::connection::{Link, Own};
use crate::wakeups::{Hub, HubWakeups};
use crate::{error, keys, scripts};

/// How long making a connection may take, unless the builder says otherwise.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an answer may take, unless the builder says otherwise: just below the longest time that lock-core
/// gives an operation by default (2 s).
pub const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_millis(1900);

/// How long a fencing counter outlives its last use at least; ten times the ttl if that is longer.
pub(crate) const COUNTER_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Locks on one Redis server. Clones share the connection.
#[derive(Clone)]
pub struct FredBackend {
    pub(crate) link: Link,
    hub: Option<Arc<Hub>>,
    /// Whether the server let us run every command that the scripts need: asked with the first attempt.
    checked: Arc<AtomicBool>,
}

impl FredBackend {
    /// Connects to the server that `url` names: `redis://[user:password@]host[:port][/database]`, or
    /// `redis+unix:///path`.
    ///
    /// # Errors
    ///
    /// [`Invalid`] for a URL that is none, [`Transient`] if there is no connection within
    /// [`DEFAULT_CONNECT_TIMEOUT`], and [`Permanent`] if the server refuses the credentials. None of them has the URL in
    /// its text.
    ///
    /// [`Invalid`]: lock_core::BackendErrorKind::Invalid
    /// [`Transient`]: lock_core::BackendErrorKind::Transient
    /// [`Permanent`]: lock_core::BackendErrorKind::Permanent
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder(url).connect().await
    }

    /// As [`connect`](Self::connect), with settings.
    pub fn builder(url: impl AsRef<str>) -> FredBackendBuilder {
        FredBackendBuilder {
            url: url.as_ref().to_owned(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            response_timeout: DEFAULT_RESPONSE_TIMEOUT,
        }
    }

    /// Uses a client that the application has initialised. Waiters are woken over a connection of our own with the same
    /// settings.
    ///
    /// No request is written twice, whatever the client's own settings say. A client that leaves two calls in a row
    /// without an answer is made to connect again, if it has a reconnect policy: give it one, since without it a lost
    /// connection is the client's end. Other commands that are under way then are treated as that client is told to.
    #[must_use]
    pub fn from_client(client: Client) -> Self {
        Self::given(std::slice::from_ref(&client))
    }

    /// As [`from_client`](Self::from_client), with the clients of a pool in turn.
    #[must_use]
    pub fn from_pool(pool: &Pool) -> Self {
        Self::given(pool.clients())
    }

    fn given(clients: &[Client]) -> Self {
        let target = clients.first().map(|client| {
            Target::of_client(client, DEFAULT_CONNECT_TIMEOUT, DEFAULT_RESPONSE_TIMEOUT)
        });
        Self {
            link: Link::Given(Given::new(clients, DEFAULT_RESPONSE_TIMEOUT)),
            hub: target.map(|target| Hub::new(Arc::new(target))),
            checked: Arc::default(),
        }
    }

    fn own(target: Target) -> Self {
        let target = Arc::new(target);
        let hub = Hub::new(Arc::clone(&target));
        Self {
            link: Link::Own(Own::new(target)),
            hub: Some(hub),
            checked: Arc::default(),
        }
    }
}

/// Where to connect, and with which timeouts. Made by [`FredBackend::builder`].
#[derive(Clone)]
#[must_use = "call connect"]
pub struct FredBackendBuilder {
    url: String,
    connect_timeout: Duration,
    response_timeout: Duration,
}

impl FredBackendBuilder {
    /// How long making a connection may take; default [`DEFAULT_CONNECT_TIMEOUT`].
    pub const fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an answer may take; default [`DEFAULT_RESPONSE_TIMEOUT`]. Keep it below the timeout of an operation.
    pub const fn with_response_timeout(mut self, timeout: Duration) -> Self {
        self.response_timeout = timeout;
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// As [`FredBackend::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(self) -> Result<FredBackend, BackendError> {
        let target = Target::of_url(&self.url, self.connect_timeout, self.response_timeout)?;
        let backend = FredBackend::own(target);
        if let Link::Own(own) = &backend.link {
            own.connect().await?;
        }
        Ok(backend)
    }
}

/// The URL may have a password in it and is not printed.
impl fmt::Debug for FredBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FredBackendBuilder")
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for FredBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.link {
            Link::Own(own) => write!(f, "FredBackend({})", own.target),
            Link::Given(_) => f.write_str("FredBackend(a given connection)"),
        }
    }
}

#[async_trait]
impl LockBackend for FredBackend {
    async fn try_acquire<'a>(&self, request: AcquireRequest<'a>) -> Result<Attempt, BackendError> {
        let key = request.key;
        let fence = keys::fence(key)?;
        let ttl = milliseconds(request.ttl);
        let tokens = request.tokens.clamp(1, MAX_TOKENS).to_string();
        let from = request.from.map_or("", Owner::expose);
        let keep = milliseconds(COUNTER_KEPT.max(request.ttl.saturating_mul(10)));
        let check = if self.checked.load(Ordering::Relaxed) {
            ""
        } else {
            "1"
        };
        let reply = self
            .link
            .run(
                &scripts::ACQUIRE,
                &[key.as_str(), &fence],
                &[request.owner.expose(), &ttl, &tokens, from, &keep, check],
            )
            .await?;
        match Answer::of(&reply, &fence)? {
            Answer::Granted(fencing) => {
                if request.from.is_none() {
                    self.checked.store(true, Ordering::Relaxed);
                }
                Ok(Attempt::Granted(Grant::new(Some(fencing))))
            }
            Answer::Busy(holder) => Ok(Attempt::Busy(Busy::new(holder))),
            // Nothing to take over.
            Answer::Owner(Ownership::Absent) => Ok(Attempt::Busy(Busy::new(Holder::new()))),
            Answer::Owner(_) => Err(error::senseless()),
        }
    }

    async fn renew<'a>(
        &self,
        renewals: &'a [RenewRequest<'a>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let chunks = renewals
            .chunks(scripts::RENEWALS_AT_ONCE)
            .map(|chunk| self.renew_chunk(chunk));
        join_all(chunks).await.into_iter().flatten().collect()
    }

    async fn release(&self, key: &LockKey, owner: &Owner) -> Result<Ownership, BackendError> {
        let wake = keys::wake(key)?;
        let args = [owner.expose(), &wake, scripts::PUBLISH];
        let reply = self
            .link
            .run(&scripts::RELEASE, &[key.as_str()], &args)
            .await?;
        Answer::of(&reply, "")?.ownership()
    }

    async fn inspect(&self, key: &LockKey) -> Result<Option<Holder>, BackendError> {
        let fence = keys::fence(key)?;
        let reply = self
            .link
            .run(&scripts::INSPECT, &[key.as_str(), &fence], &[])
            .await?;
        match Answer::of(&reply, &fence)? {
            Answer::Busy(holder) => Ok(Some(holder)),
            Answer::Owner(Ownership::Absent) => Ok(None),
            _ => Err(error::senseless()),
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::new()
            .with_fencing(true)
            .with_wakeups(self.hub.is_some())
            .with_hand_over(true)
            .with_any_ttl(true)
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        self.hub
            .as_ref()
            .map(|hub| Arc::new(HubWakeups(Arc::clone(hub))) as Arc<dyn Wakeups>)
    }
}

impl FredBackend {
    async fn renew_chunk(
        &self,
        chunk: &[RenewRequest<'_>],
    ) -> Vec<Result<Ownership, BackendError>> {
        let keys: Vec<_> = chunk.iter().map(|renewal| renewal.key.as_str()).collect();
        let ttls: Vec<_> = chunk
            .iter()
            .map(|renewal| milliseconds(renewal.ttl))
            .collect();
        let args: Vec<_> = chunk
            .iter()
            .zip(&ttls)
            .flat_map(|(renewal, ttl)| {
                let exactly = if renewal.how == Renew::Exactly {
                    "1"
                } else {
                    ""
                };
                [renewal.owner.expose(), ttl.as_str(), exactly]
            })
            .collect();
        match self.link.run(&scripts::RENEW, &keys, &args).await {
            Ok(Reply::List(replies)) if replies.len() == chunk.len() => replies
                .iter()
                .map(|reply| Answer::of(reply, "")?.ownership())
                .collect(),
            Ok(_) => chunk.iter().map(|_| Err(error::senseless())).collect(),
            Err(error) => chunk.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

/// A ttl in whole milliseconds, rounded up and at least one.
pub(crate) fn milliseconds(ttl: Duration) -> String {
    let milliseconds = ttl.as_nanos().div_ceil(1_000_000).max(1);
    i64::try_from(milliseconds).unwrap_or(i64::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_rounded_up_to_whole_milliseconds() {
        for (nanoseconds, text) in [(0, "1"), (1, "1"), (10_500_000, "11"), (11_000_000, "11")] {
            assert_eq!(milliseconds(Duration::from_nanos(nanoseconds)), text);
        }
        assert_eq!(milliseconds(Duration::MAX), i64::MAX.to_string());
    }
}
