//! Locks on a Redis server: calls to scripts, and their answers back. No retry, no waiting, no policy.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use lock_core::{
    AcquireRequest, Attempt, BackendError, BackendErrorKind, Busy, Capabilities, FencingRange,
    FencingToken, Grant, Holder, LockBackend, LockKey, MAX_TOKENS, Owner, Ownership, Renew,
    RenewRequest, Wakeups,
};
use redis::Value;
use redis::aio::{ConnectionLike, ConnectionManager};

use crate::connection::{Link, Own, Target};
use crate::wakeups::{Hub, RedisWakeups};
use crate::{error, keys, scripts};

/// How long making a connection may take, unless the builder says otherwise.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an answer may take, unless the builder says otherwise: just below the longest time that lock-core
/// gives an operation by default (2 s).
pub const DEFAULT_RESPONSE_TIMEOUT: Duration = Duration::from_millis(1900);

/// How long a fencing counter outlives its last use at least; ten times the ttl if that is longer.
const COUNTER_KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// Locks on one Redis server. Clones share the connection.
///
/// `C` is the connection where it was [made elsewhere](Self::from_connection); else leave it out.
#[derive(Clone)]
pub struct RedisBackend<C = ConnectionManager> {
    link: Link<C>,
    hub: Option<Arc<Hub>>,
    resends: bool,
    /// Whether the server let us run every command that the scripts need: asked with the first attempt.
    checked: Arc<AtomicBool>,
}

impl RedisBackend {
    /// Connects to the server that `url` names: `redis://[user:password@]host[:port][/database]`, or
    /// `redis+unix:///path`; `rediss://` with a TLS feature of [`redis`].
    ///
    /// # Errors
    ///
    /// [`Invalid`](BackendErrorKind::Invalid) for a URL that is none, [`Transient`](BackendErrorKind::Transient) if
    /// there is no connection within [`DEFAULT_CONNECT_TIMEOUT`], and
    /// [`Permanent`](BackendErrorKind::Permanent) if the server refuses the credentials. None of them has the URL in
    /// its text.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(url: impl AsRef<str>) -> Result<Self, BackendError> {
        Self::builder(url).connect().await
    }

    /// As [`connect`](Self::connect), with settings.
    pub fn builder(url: impl AsRef<str>) -> RedisBackendBuilder {
        RedisBackendBuilder {
            url: url.as_ref().to_owned(),
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            response_timeout: DEFAULT_RESPONSE_TIMEOUT,
        }
    }

    /// Uses a client with settings that a URL cannot express, such as TLS certificates. Connects at the first call.
    #[must_use]
    pub fn from_client(client: redis::Client) -> Self {
        Self::own(Target::of_client(
            client,
            DEFAULT_CONNECT_TIMEOUT,
            DEFAULT_RESPONSE_TIMEOUT,
        ))
    }

    /// Uses a connection manager that the application has already.
    ///
    /// Waiters are not woken (they look from time to time), and a connection that falls silent is not replaced:
    /// both need a connection of our own. Prefer [`connect`](Self::connect).
    #[must_use]
    pub fn from_manager(manager: ConnectionManager) -> Self {
        // A manager never sends a request twice.
        Self::over(Link::Given(manager), false)
    }

    fn own(target: Target) -> Self {
        let target = Arc::new(target);
        let hub = Hub::new(Arc::clone(&target));
        Self {
            hub: Some(hub),
            ..Self::over(Link::Own(Own::new(target)), false)
        }
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> RedisBackend<C> {
    /// Uses any connection to a single server. As with [`from_manager`](RedisBackend::from_manager) waiters are not
    /// woken, and repairing the connection is up to who made it.
    #[must_use]
    pub fn from_connection(connection: C) -> Self {
        Self::over(Link::Given(connection), true)
    }

    fn over(link: Link<C>, resends: bool) -> Self {
        Self {
            link,
            hub: None,
            resends,
            checked: Arc::default(),
        }
    }
}

/// Where to connect, and with which timeouts. Made by [`RedisBackend::builder`].
#[derive(Clone)]
#[must_use = "call connect"]
pub struct RedisBackendBuilder {
    url: String,
    connect_timeout: Duration,
    response_timeout: Duration,
}

impl RedisBackendBuilder {
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
    /// As [`RedisBackend::connect`].
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves nothing behind.
    pub async fn connect(self) -> Result<RedisBackend, BackendError> {
        let target = Target::of_url(&self.url, self.connect_timeout, self.response_timeout)?;
        let backend = RedisBackend::own(target);
        if let Link::Own(own) = &backend.link {
            own.connect().await?;
        }
        Ok(backend)
    }
}

/// The URL may have a password in it and is not printed.
impl fmt::Debug for RedisBackendBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackendBuilder")
            .field("connect_timeout", &self.connect_timeout)
            .field("response_timeout", &self.response_timeout)
            .finish_non_exhaustive()
    }
}

impl<C> fmt::Debug for RedisBackend<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.link {
            Link::Own(own) => write!(f, "RedisBackend({})", own.target),
            Link::Given(_) => f.write_str("RedisBackend(a given connection)"),
        }
    }
}

#[async_trait]
impl<C: ConnectionLike + Clone + Send + Sync + 'static> LockBackend for RedisBackend<C> {
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
            .with_resends(self.resends)
    }

    fn wakeups(&self) -> Option<Arc<dyn Wakeups>> {
        self.hub
            .as_ref()
            .map(|hub| Arc::new(RedisWakeups(Arc::clone(hub))) as Arc<dyn Wakeups>)
    }
}

impl<C: ConnectionLike + Clone + Send + Sync + 'static> RedisBackend<C> {
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
            Ok(Value::Array(replies)) if replies.len() == chunk.len() => replies
                .iter()
                .map(|reply| Answer::of(reply, "")?.ownership())
                .collect(),
            Ok(_) => chunk.iter().map(|_| Err(error::senseless())).collect(),
            Err(error) => chunk.iter().map(|_| Err(error.clone())).collect(),
        }
    }
}

/// A script's answer, as `lua/prelude.lua` lists them; the unfortunate ones are errors.
enum Answer {
    Granted(FencingRange),
    Busy(Holder),
    Owner(Ownership),
}

impl Answer {
    fn of(reply: &Value, fence: &str) -> Result<Self, BackendError> {
        let Value::Array(parts) = reply else {
            return Err(error::senseless());
        };
        let text = |index: usize| match parts.get(index) {
            Some(Value::BulkString(bytes)) => String::from_utf8_lossy(bytes),
            Some(Value::SimpleString(text)) => text.as_str().into(),
            _ => "".into(),
        };
        let number = |index: usize| match parts.get(index) {
            Some(Value::Int(number)) => u64::try_from(*number).ok(),
            _ => None,
        };
        match &*text(0) {
            "granted" => {
                let (Some(first), Some(last)) = (number(1), number(2)) else {
                    return Err(error::senseless());
                };
                Ok(Self::Granted(FencingRange::new(
                    FencingToken::new(first),
                    FencingToken::new(last),
                )))
            }
            "busy" => {
                let last = number(3).filter(|last| *last > 0);
                Ok(Self::Busy(
                    Holder::new()
                        .with_label(Owner::label_in(&text(1)).map(str::to_owned))
                        .with_remaining(number(2).map(Duration::from_millis))
                        .with_fencing(last.map(FencingToken::new)),
                ))
            }
            "held" => Ok(Self::Owner(Ownership::Held)),
            "absent" => Ok(Self::Owner(Ownership::Absent)),
            "taken" => Ok(Self::Owner(Ownership::Taken)),
            "conflict" => Err(BackendError::new(
                BackendErrorKind::Conflict,
                format!("a {}", text(1)),
            )),
            "counter" => Err(BackendError::permanent(format!(
                "the fencing counter {fence:?} holds {}; remove it",
                text(1)
            ))),
            "unnumbered" => Err(BackendError::unknown(format!(
                "granted before, but the fencing counter {fence:?} is gone"
            ))),
            "failed" => Err(error::refused_in_script(&text(1), &text(2))),
            "left" => Err(BackendError::unknown(format!(
                "the lock may stand without an owner until its ttl ends: {}",
                error::refused_in_script(&text(1), &text(2))
            ))),
            _ => Err(error::senseless()),
        }
    }

    fn ownership(self) -> Result<Ownership, BackendError> {
        match self {
            Self::Owner(ownership) => Ok(ownership),
            Self::Granted(_) | Self::Busy(_) => Err(error::senseless()),
        }
    }
}

/// A ttl in whole milliseconds, rounded up and at least one.
fn milliseconds(ttl: Duration) -> String {
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

    #[test]
    fn an_odd_answer_is_of_unknown_outcome() {
        let word = |word: &str| Value::BulkString(word.as_bytes().to_vec());
        for odd in [
            Value::Nil,
            Value::Okay,
            Value::Int(1),
            Value::Array(vec![]),
            Value::Array(vec![word("granted")]),
            Value::Array(vec![word("granted"), Value::Int(-1), Value::Int(2)]),
            Value::Array(vec![word("what")]),
            Value::Array(vec![Value::BulkString(vec![0xff; 1 << 20])]),
        ] {
            let Err(error) = Answer::of(&odd, "") else {
                panic!("{odd:?} is accepted")
            };
            assert!(error.may_have_been_applied());
        }
    }
}
